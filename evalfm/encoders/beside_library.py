"""An encoder beside the plain model of its library with the same weights: what a card claims, on the user's machine.

Each family has one plain path (:mod:`evalfm.encoders.library_models`): the library builds the model and reads the file
by its own means, prepares the image by its own processor, and its own forward gives the embedding and the maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pil
from torch import Tensor
from torch.nn import functional

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.golden import golden_image
from evalfm.encoders.hub import fetch_beside
from evalfm.encoders.library_models import LIBRARIES
from evalfm.encoders.library_ports import PORTS
from evalfm.encoders.weights import COUNTERS
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
    if encoder.precision != "float32" or encoder.preparer.facts != card.preprocessing:
        raise EvalfmError("The library is compared at the card's own input size, in float32; leave these out.")
    build = LIBRARIES.get(card.family) or PORTS.get(card.architecture)
    if build is None:
        raise EvalfmError(f"{card.name} runs by evalfm's own code ({card.family}): no library can be held against it.")
    _bring(card, origin)
    plain = build(card, origin)
    prepared = encoder.prepare(golden_image())[0][None]
    with torch.no_grad():
        embedding, maps = plain.run(prepared)
        encoder.to("cpu")
        own = encoder.encode(prepared)
        by_library = card.pooled_layer is None and card.pooling not in OF_EVALFM
        parts = [_agreement("embedding", own.pooled, embedding)] if by_library else []
        for number, (mine, theirs) in enumerate(zip(own.maps, maps, strict=bool(maps)), 1):
            parts.append(_agreement(f"map {number}", mine, theirs))
        if plain.prepare is not None:
            parts.insert(0, _agreement("pixels", prepared, plain.prepare(_picture())[None]))
        if plain.text is not None and card.text_tower is not None:
            parts.append(_agreement("text", encoder.encode_text(list(SENTENCES)), plain.text(SENTENCES)))
    left_out = [] if plain.prepare else ["No preparation of these weights by their library is at hand."]
    left_out += [] if by_library else [f"The library has no such pooling; hold {card.base_name} itself against it too."]
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


OF_EVALFM = ("cls-mean", "max")
"""Poolings that no library's plain forward gives."""

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
