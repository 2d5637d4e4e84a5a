"""An encoder beside the plain model of its library with the same weights: what a card claims, on the user's machine.

Each family has one plain path: the library builds the model and reads the file by its own means, prepares the image by
its own processor where its settings lie beside the weights, and its own forward gives the embedding and the maps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pil
from torch import Tensor, nn
from torch.nn import functional

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.golden import golden_image
from evalfm.encoders.hub import fetch_beside
from evalfm.encoders.weights import COUNTERS, read_checkpoint
from evalfm.errors import EvalfmError

LEAST_COSINE = 0.9999
"""Below it two embeddings or maps are not the same."""
SENTENCES = ("a chest radiograph with a pneumothorax", "a chest radiograph with no pneumothorax")


@dataclass(frozen=True)
class Agreement:
    """One tensor by evalfm and by the library.

    Attributes:
        part: ``pixels``, ``embedding``, ``map 1`` …, or ``text``.
        cosine: of the two, the smallest over images or sentences.
        difference: the largest, as a share of the library's largest absolute value.
    """

    part: str
    cosine: float
    difference: float

    @property
    def same(self) -> bool:
        """Whether it is the same tensor but for rounding."""
        return self.cosine >= LEAST_COSINE


@dataclass(frozen=True)
class Beside:
    """What came of the comparison.

    Attributes:
        parts: each tensor that both gave.
        missing, unexpected: names of tensors by the library's own reading, less those that the card lists.
        built: from what the library built its model, in words.
        left_out: what was not compared, a sentence each.
    """

    parts: tuple[Agreement, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    built: str
    left_out: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether every part is the same, and no tensor is missing."""
        return all(each.same for each in self.parts) and not self.missing


@dataclass
class _Plain:
    """The library's own model and what it gives."""

    run: Callable[[Tensor], tuple[Tensor, list[Tensor]]]
    missing: Sequence[str]
    unexpected: Sequence[str]
    built: str
    prepare: Callable[[Pil.Image], Tensor] | None = None
    text: Callable[[Sequence[str]], Tensor] | None = None


def beside_library(encoder: Encoder) -> Beside:
    """``encoder`` on the test image beside its library's plain model, in float32 on the processor.

    Raises:
        EvalfmError: its weights are random, no library has its model, or the library cannot load it by itself.
    """
    card, origin = encoder.card, encoder.state.origin
    if card.weights.source == "none":
        raise EvalfmError(f"{card.name} has no trained weights: there is nothing to hold against a library.")
    if encoder.random_weights or origin is None:
        raise EvalfmError(f"{card.name} has no weights of a file; name them with --weights to compare with a library.")
    if card.family not in LIBRARIES:
        raise EvalfmError(f"{card.name} runs by evalfm's own code ({card.family}): no library can be held against it.")
    if encoder.precision != "float32" or encoder.preparer.facts != card.preprocessing:
        raise EvalfmError("The library is compared at the card's own input size, in float32; leave these out.")
    _bring(card, origin)
    plain = LIBRARIES[card.family](card, origin)
    prepared = encoder.prepare(golden_image())[0][None]
    with torch.no_grad():
        embedding, maps = plain.run(prepared)
        encoder.to("cpu")
        own = encoder.encode(prepared)
        parts = [_agreement("embedding", own.pooled, embedding)]
        for number, (mine, theirs) in enumerate(zip(own.maps, maps, strict=bool(maps)), 1):
            parts.append(_agreement(f"map {number}", mine, theirs))
        if plain.prepare is not None:
            parts.insert(0, _agreement("pixels", prepared, plain.prepare(_picture())[None]))
        if plain.text is not None and card.text_tower is not None:
            parts.append(_agreement("text", encoder.encode_text(list(SENTENCES)), plain.text(SENTENCES)))
    left_out = [] if plain.prepare else ["The settings of the library's processor lie not beside the weights."]
    left_out += [] if maps or not own.maps else ["The library's plain forward gives no maps of this model."]
    if card.text_tower is not None and plain.text is None:
        left_out.append("The text tower was not compared.")
    listed = card.weights.unexpected_keys
    return Beside(
        tuple(parts),
        tuple(name for name in plain.missing if not name.endswith(COUNTERS)),
        tuple(name for name in plain.unexpected if not any(Path(name).match(pattern) for pattern in listed)),
        plain.built,
        tuple(left_out),
    )


BESIDE = {
    "transformers": ("config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json"),
    "open_clip": ("open_clip_config.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt"),
}
"""Files of settings by which the library builds the model itself; fetched beside the weights where the hub has them."""


def _bring(card: EncoderCard, origin: Path) -> None:
    for name in BESIDE.get(card.family, ()):
        try:
            fetch_beside(card, origin, name)
        except EvalfmError:
            # Not in the repository, or no network: what cannot be compared is said.
            continue


def as_table(encoder: Encoder, found: Beside) -> str:
    """``found`` as Markdown, with what a reader elsewhere needs to know of the weights and the libraries."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "transformers", "torchvision"))
    lines = [
        f"| {encoder.card.name} | cosine | largest difference |",
        "|---|---|---|",
        *(f"| {each.part} | {each.cosine:.6f} | {each.difference:.1e} |" for each in found.parts),
        "",
        f"Library: {found.built}; {libraries}. Weights: SHA-256 {encoder.state.weights_file}.",
        f"Missing tensors: {', '.join(found.missing) or 'none'}; unexpected: {', '.join(found.unexpected) or 'none'}.",
        *found.left_out,
    ]
    return "\n".join(lines)


def _picture() -> Pil.Image:
    """The test image as a library takes it: 8 bits, three channels."""
    return Pil.fromarray(np.rint(golden_image().pixels[0] * 255).astype(np.uint8)).convert("RGB")


def _agreement(part: str, own: Tensor, library: Tensor) -> Agreement:
    mine, theirs = own.detach().float().cpu().flatten(1), library.detach().float().cpu().flatten(1)
    if mine.shape != theirs.shape:
        raise EvalfmError(f"{part}: evalfm gives {list(own.shape)} and the library {list(library.shape)}.")
    cosine = functional.cosine_similarity(mine.double(), theirs.double()).min()
    largest = theirs.abs().max().clamp_min(1e-12)
    return Agreement(part, float(cosine), float((mine - theirs).abs().max() / largest))


def _grids(tokens: Sequence[Tensor], prefix: int, grid: tuple[int, int]) -> list[Tensor]:
    return [each[:, prefix:].transpose(1, 2).reshape(len(each), -1, *grid) for each in tokens]


def _timm(card: EncoderCard, origin: Path) -> _Plain:
    import timm

    model: Any = timm.create_model(card.architecture, pretrained=False, num_classes=0, **card.arguments).eval()
    tensors = read_checkpoint(origin, card.weights).tensors
    if "_conv_stem.weight" in tensors:
        # Of the package EfficientNet-PyTorch, whose tensors stand in timm's order under other names.
        tensors = dict(zip(timm.create_model(card.architecture).state_dict(), tensors.values(), strict=True))
    else:
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        tensors = dict(tensors) if convert is None else dict(convert(dict(tensors), model))
    report = model.load_state_dict(tensors, strict=False)

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        final = model.forward_features(batch)
        pooled = model.forward_head(final, pre_logits=True)
        if card.pooling == "cls":
            pooled = final[:, 0]
        elif card.pooling == "mean":
            pooled = final[:, card.prefix_tokens :].mean(1) if final.ndim == 3 else final.mean((2, 3))
        indices = list(card.map_layers)
        return pooled, model.forward_intermediates(
            batch, indices=indices, norm=card.map_norm == "final", output_fmt="NCHW", intermediates_only=True
        )

    config: Any = timm.get_pretrained_cfg(card.architecture)
    data: Any = timm.data
    transform = None
    if config is not None:
        transform = data.create_transform(**data.resolve_data_config(config.to_dict()), is_training=False)
    return _Plain(
        run, report.missing_keys, report.unexpected_keys, f"timm.create_model({card.architecture!r})", transform
    )


def _torchvision(card: EncoderCard, origin: Path) -> _Plain:
    import torchvision

    model = torchvision.models.get_model(card.architecture, weights=None, **card.arguments).eval()
    report = model.load_state_dict(read_checkpoint(origin, card.weights).tensors, strict=False)

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        return model.features(batch).mean((2, 3)), []

    return _Plain(run, report.missing_keys, report.unexpected_keys, f"torchvision.models.{card.architecture}")


def _transformers(card: EncoderCard, origin: Path) -> _Plain:
    import transformers

    from evalfm.encoders.families._transformers_loading import config_of, options_of, quiet

    kind, folder = getattr(transformers, card.architecture), origin.parent
    with quiet():
        if (folder / "config.json").is_file() and not card.weights.strip_prefix:
            model, report = kind.from_pretrained(folder, output_loading_info=True, dtype="float32", **options_of(kind))
            built = f"{card.architecture}.from_pretrained of the folder"
        else:
            tensors = read_checkpoint(origin, card.weights).tensors
            model, report = kind.from_pretrained(
                None,
                config=config_of(card),
                state_dict=tensors,
                output_loading_info=True,
                dtype="float32",
                **options_of(kind),
            )
            built = f"{card.architecture} of the card's settings: no config.json lies beside the weights"
    model.eval()
    vision = getattr(model, "vision_model", model)

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        native = getattr(vision.config, "image_size", None)
        sizes = {} if native in (None, batch.shape[-1]) else {"interpolate_pos_encoding": True}
        output = vision(pixel_values=batch, output_hidden_states=True, **sizes)
        pooled = _pooled(card, model, vision, output)
        if card.architecture in ("SwinModel", "Swinv2Model"):
            return pooled, []
        if output.hidden_states[-1].ndim == 4:
            # Stages; some give their stem before them.
            stages = output.hidden_states[-len(vision.config.depths) :]
            return pooled, [stages[index] for index in card.map_layers]
        norms = (getattr(vision, name, None) for name in ("layernorm", "post_layernorm", "norm"))
        norm = next((each for each in norms if each is not None), nn.Identity())
        chosen = [output.hidden_states[index + 1] for index in card.map_layers]
        tokens = [norm(each) if card.map_norm == "final" else each for each in chosen]
        grid = (batch.shape[-2] // card.size_multiple, batch.shape[-1] // card.size_multiple)
        return pooled, _grids(tokens, card.prefix_tokens, grid)

    prepare = None
    if (folder / "preprocessor_config.json").is_file():
        reader: Any = transformers.AutoImageProcessor
        processor = reader.from_pretrained(folder)

        def prepare(picture: Pil.Image) -> Tensor:
            return torch.as_tensor(np.asarray(processor(images=picture)["pixel_values"][0]))

    text = None
    if card.text_tower is not None and (folder / "tokenizer.json").is_file() and hasattr(model, "get_text_features"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        length = card.text_tower.context_length

        def text(sentences: Sequence[str]) -> Tensor:
            tokens = tokenizer(list(sentences), padding="max_length", max_length=length, return_tensors="pt")
            names = {"input_ids", "attention_mask"} if card.architecture == "CLIPModel" else {"input_ids"}
            found = model.get_text_features(**{name: each for name, each in tokens.items() if name in names})
            return getattr(found, "pooler_output", found)

    return _Plain(run, report["missing_keys"], report["unexpected_keys"], built, prepare, text)


def _pooled(card: EncoderCard, model: Any, vision: Any, output: Any) -> Tensor:
    """The embedding that the card names, in the library's own words."""
    if card.pooling == "projection":
        pooled = output.pooler_output
        return model.visual_projection(pooled)
    own_mean = card.pooling == "mean" and getattr(vision.config, "use_mean_pooling", False)
    if card.pooling in ("map", "head") or own_mean or (card.pooling == "cls" and card.architecture.startswith("CLIP")):
        return output.pooler_output.flatten(1)
    if card.pooling in ("cls", "first"):
        return output.last_hidden_state[:, 0]
    if output.hidden_states[-1].ndim == 4:
        return output.hidden_states[-1].mean((2, 3))
    return output.last_hidden_state[:, card.prefix_tokens :].mean(1)


def _open_clip(card: EncoderCard, origin: Path) -> _Plain:
    import open_clip

    tower = card.text_tower
    folder = origin.parent
    if not (folder / "open_clip_config.json").is_file():
        raise EvalfmError(
            f"open_clip builds {card.name} by itself from an open_clip_config.json beside {origin.name}; fetch it too."
        )
    try:
        model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise EvalfmError(f"open_clip cannot build {card.name} by itself ({lines[0][:200]}).") from None
    model.eval()

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        return model.encode_image(batch), []

    def text(sentences: Sequence[str]) -> Tensor:
        length = None if tower is None else tower.context_length
        return model.encode_text(tokenizer(list(sentences), context_length=length))

    # It loads strictly: a tensor missing or left over has stopped it above.
    return _Plain(run, [], [], "open_clip.create_model_from_pretrained of the folder", transform, text)


LIBRARIES: dict[str, Callable[[EncoderCard, Path], _Plain]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "open_clip": _open_clip,
}
"""By family; others run by evalfm's own code."""
