"""The plain model of a card's library with the weights of a file: built, read and run by the library's own means."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image as Pil
from torch import Tensor, nn
from torch.nn import functional

from evalfm.cards import read_json
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.hub import fetch_beside
from evalfm.encoders.weights import read_checkpoint
from evalfm.errors import EvalfmError

Text = Callable[[Sequence[str]], Tensor]


@dataclass
class LibraryModel:
    """A library's own model and what it gives.

    Attributes:
        run: pooled embedding [B, D] and maps [B, C, h, w], from a prepared batch.
        missing, unexpected: names of tensors by the library's own reading.
        built: from what it was built, in words.
        prepare: the library's own preparation of these weights' images, where its settings are at hand.
        text: embeddings [N, D] of sentences, where it has the text tower too.
    """

    run: Callable[[Tensor], tuple[Tensor, list[Tensor]]]
    missing: Sequence[str]
    unexpected: Sequence[str]
    built: str
    prepare: Callable[[Pil.Image], Tensor] | None = None
    text: Text | None = None


def _grids(tokens: Sequence[Tensor], card: EncoderCard, batch: Tensor) -> list[Tensor]:
    rows, columns = (side // card.size_multiple for side in batch.shape[2:])
    return [each[:, card.prefix_tokens :].transpose(1, 2).reshape(len(each), -1, rows, columns) for each in tokens]


@contextmanager
def outputs_of(modules: Any, indices: Sequence[int]) -> Iterator[list[Tensor]]:
    """What those of ``modules`` at ``indices`` give in the forward pass inside the block.

    >>> twice = nn.Sequential(nn.Identity(), nn.ReLU())
    >>> with outputs_of(twice, [1]) as seen:
    ...     _ = twice(torch.tensor([-1.0, 2.0]))
    >>> seen[0].tolist()
    [0.0, 2.0]
    """
    outputs: list[Tensor] = []
    hooks = [modules[index].register_forward_hook(lambda _m, _i, output: outputs.append(output)) for index in indices]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _timm(card: EncoderCard, origin: Path) -> LibraryModel:
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

    config, data = _timm_settings(card), cast("Any", timm.data)
    transform = None
    if config is not None:
        transform = data.create_transform(**data.resolve_data_config(config.to_dict()), is_training=False)
    return LibraryModel(
        run, report.missing_keys, report.unexpected_keys, f"timm.create_model({card.architecture!r})", transform
    )


def _timm_settings(card: EncoderCard) -> Any:
    """timm's settings of these weights; None where they are others, prepared for as their authors do."""
    import timm

    facts = card.weights
    own = (facts.repository or "").removeprefix("timm/")
    config: Any = timm.get_pretrained_cfg(own if timm.is_model(own) else card.architecture)
    if config is None or timm.is_model(own) or facts.source == "package":
        return config
    places = {config.hf_hub_id, config.url} - {None, ""}
    return config if places & {facts.repository, facts.request} else None


def _torchvision(card: EncoderCard, origin: Path) -> LibraryModel:
    import torchvision

    model = torchvision.models.get_model(card.architecture, weights=None, **card.arguments).eval()
    report = model.load_state_dict(read_checkpoint(origin, card.weights).tensors, strict=False)

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        return model.features(batch).mean((2, 3)), []

    return LibraryModel(run, report.missing_keys, report.unexpected_keys, f"torchvision.models.{card.architecture}")


def _transformers(card: EncoderCard, origin: Path) -> LibraryModel:
    import transformers

    from evalfm.encoders.families._transformers_loading import config_of, options_of, quiet

    kind, folder = getattr(transformers, card.architecture), origin.parent
    behind: dict[str, Tensor] = {}
    options = options_of(kind)
    with quiet():
        if (folder / "config.json").is_file() and not card.weights.strip_prefix:
            model, report = kind.from_pretrained(folder, output_loading_info=True, dtype="float32", **options)
            built = f"{card.architecture}.from_pretrained of the folder"
        else:
            tensors = read_checkpoint(origin, card.weights).tensors
            behind = {name: each for name, each in tensors.items() if name.startswith("image_projection.")}
            model, report = kind.from_pretrained(
                None,
                config=config_of(card),
                state_dict={name: each for name, each in tensors.items() if name not in behind},
                output_loading_info=True,
                dtype="float32",
                **options,
            )
            built = f"{card.architecture} of the card's settings: no config.json lies beside the weights"
    model.eval()
    vision = getattr(model, "vision_model", model)

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        native = getattr(vision.config, "image_size", None)
        sizes = {} if native in (None, batch.shape[-1]) else {"interpolate_pos_encoding": True}
        output = vision(pixel_values=batch, output_hidden_states=True, **sizes)
        pooled = _pooled(card, model, output, behind)
        if card.architecture in ("SwinModel", "Swinv2Model"):
            return pooled, []
        if output.hidden_states[-1].ndim == 4:
            # Stages; some give their stem before them.
            stages = output.hidden_states[-len(vision.config.depths) :]
            return pooled, [stages[index] for index in card.map_layers]
        norms = (getattr(vision, name, None) for name in ("layernorm", "post_layernorm", "norm"))
        norm = next((each for each in norms if each is not None), nn.Identity())
        chosen = [output.hidden_states[index + 1] for index in card.map_layers]
        return pooled, _grids([norm(each) if card.map_norm == "final" else each for each in chosen], card, batch)

    prepare = None
    if (folder / "preprocessor_config.json").is_file():
        reader: Any = transformers.AutoImageProcessor
        processor = reader.from_pretrained(folder)

        def prepare(picture: Pil.Image) -> Tensor:
            return torch.as_tensor(np.asarray(processor(images=picture)["pixel_values"][0]))

    text = None
    tokenizer = _tokenizer(card, folder) if hasattr(model, "get_text_features") else None
    if card.text_tower is not None and tokenizer is not None:
        length = card.text_tower.context_length

        def text(sentences: Sequence[str]) -> Tensor:
            tokens = tokenizer(list(sentences), padding="max_length", max_length=length, return_tensors="pt")
            names = {"input_ids", "attention_mask"} if card.architecture == "CLIPModel" else {"input_ids"}
            found = model.get_text_features(**{name: each for name, each in tokens.items() if name in names})
            return getattr(found, "pooler_output", found)

    return LibraryModel(run, report["missing_keys"], report["unexpected_keys"], built, prepare, text)


def _tokenizer(card: EncoderCard, folder: Path) -> Any:
    """transformers' own tokenizer of the folder, or None where there is none that it can read."""
    import transformers

    if (folder / "tokenizer.json").is_file():
        return transformers.AutoTokenizer.from_pretrained(folder)
    if not (folder / "spiece.model").is_file():
        return None
    try:
        # The package sentencepiece, which evalfm itself does without.
        return transformers.SiglipTokenizer(str(folder / "spiece.model"), **_padding(card))
    except ImportError:
        return None


def _padding(card: EncoderCard) -> dict[str, Any]:
    assert card.text_tower is not None
    return {"pad_token": "</s>"} if card.text_tower.arguments.get("pad_id") == 1 else {}


def _pooled(card: EncoderCard, model: Any, output: Any, behind: dict[str, Tensor]) -> Tensor:
    """The embedding that the card names, in the library's own words."""
    if card.pooling == "projection" and behind:
        weight, bias = (behind[f"image_projection.projection.{each}"] for each in ("weight", "bias"))
        return functional.normalize(functional.linear(output.last_hidden_state[:, 0], weight, bias), dim=-1)
    if card.pooling == "projection":
        return model.visual_projection(output.pooler_output)
    own_mean = card.pooling == "mean" and getattr(model.config, "use_mean_pooling", False)
    if card.pooling in ("map", "head") or own_mean or (card.pooling == "cls" and card.architecture.startswith("CLIP")):
        return output.pooler_output.flatten(1)
    if card.pooling in ("cls", "first"):
        return output.last_hidden_state[:, 0]
    if output.hidden_states[-1].ndim == 4:
        return output.hidden_states[-1].mean((2, 3))
    return output.last_hidden_state[:, card.prefix_tokens :].mean(1)


def _open_clip(card: EncoderCard, origin: Path) -> LibraryModel:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    written = origin.parent / "open_clip_config.json"
    config = read_json(written) if written.is_file() else {}
    with tempfile.TemporaryDirectory() as made:
        place = f"local-dir:{made}"
        reads = _open_clip_folder(card, origin, config, Path(made))
        # That no weights lie in the folder is meant.
        logging.disable(logging.WARNING)
        try:
            model: Any = open_clip.create_model(place, load_weights=False, pretrained_text=False)
            tokenizer: Any = open_clip.get_tokenizer(place) if reads else None
        except Exception as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise EvalfmError(f"open_clip cannot build {card.name} by itself ({lines[0][:200]}).") from None
        finally:
            logging.disable(logging.NOTSET)
    report = model.load_state_dict(read_checkpoint(origin, card.weights).tensors, strict=False)
    model.eval()
    trunk: Any = getattr(model.visual, "trunk", None)
    # None of a network of convolutions.
    blocks = getattr(trunk, "blocks", None) or getattr(getattr(model.visual, "transformer", None), "resblocks", None)

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        if blocks is None:
            return model.encode_image(batch), []
        with outputs_of(blocks, card.map_layers) as tokens:
            pooled = model.encode_image(batch)
        if card.pooling == "cls":
            pooled = trunk.forward_features(batch)[:, 0]
        return pooled, _grids([trunk.norm(each) if card.map_norm == "final" else each for each in tokens], card, batch)

    def text(sentences: Sequence[str]) -> Tensor:
        length = None if card.text_tower is None else card.text_tower.context_length
        return model.encode_text(tokenizer(list(sentences), context_length=length))

    place = written.name if config else f"the card's settings: there is no {written.name}"
    return LibraryModel(
        run,
        [name for name in report.missing_keys if "text_cfg" in card.arguments or name.startswith("visual.")],
        report.unexpected_keys,
        f"open_clip's model of {place}",
        image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False) if config else None,
        text if reads else None,
    )


def _open_clip_folder(card: EncoderCard, origin: Path, config: dict[str, Any], folder: Path) -> bool:
    """Write into ``folder`` from what open_clip builds the model, offline; whether it can read sentences too.

    Names of settings of older releases become today's, and the BERT that open_clip would look for on the hub the one
    that the card describes.
    """
    from transformers import BertConfig

    from evalfm.encoders.families.open_clip import RENAMED

    model = dict(config.get("model_cfg") or card.arguments)
    if "text_cfg" not in card.arguments:
        # The card is of the image tower alone.
        alone = {name: each for name, each in model.items() if name != "multimodal_cfg"} | {"text_cfg": {}}
        content = {**config, "model_cfg": alone}
        (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
        return False
    text = {RENAMED.get(name, name): each for name, each in model["text_cfg"].items() if name != "bert"}
    bert = card.arguments["text_cfg"].get("bert")
    files: tuple[str, ...] = ()
    if bert is not None:
        BertConfig(**bert).save_pretrained(folder)
        text |= {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
        assert card.text_tower is not None
        files = card.text_tower.tokenizer
    content = {**config, "model_cfg": {**model, "text_cfg": text}}
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    for name in (*files, *(["tokenizer_config.json"] if files else [])):
        try:
            shutil.copy(fetch_beside(card, origin, name), folder / name)
        except EvalfmError:
            if name in files:
                return False
    return True


LIBRARIES: dict[str, Callable[[EncoderCard, Path], LibraryModel]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "open_clip": _open_clip,
}
"""By family."""
