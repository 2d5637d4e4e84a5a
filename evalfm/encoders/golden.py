"""Golden embeddings: what the true weights gave for a fixed image, to recognise a drifted library or a wrong card."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import yaml

from evalfm.cards import read_yaml, validate
from evalfm.data.atomic import write_atomically
from evalfm.data.images import Image
from evalfm.data.phantom import render
from evalfm.data.registered import cache_folder
from evalfm.encoders.card import EncoderCard, Golden
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError

KEPT = 16
"""Values of the embedding that are written down."""

TOLERANCE = 1e-3
"""Largest difference of a value, as a share of the embedding's length over the root of its dimension."""


@dataclass(frozen=True)
class Drift:
    """How far an embedding is from the golden one: ``difference`` in units of its typical value."""

    difference: float
    libraries: dict[str, str]

    @property
    def same(self) -> bool:
        """Whether it is the same embedding."""
        return self.difference <= TOLERANCE


def golden_image() -> Image:
    """The image that golden embeddings are made of: a phantom, so no patient's."""
    return Image(render(0, 0, 256).pixels[None], "unit-interval", 8, None, "phantom")


def pooled_of(encoder: Encoder) -> torch.Tensor:
    """The embedding [D] of the test image, in float32 on the CPU."""
    tensor, _ = encoder.prepare(golden_image())
    place = next((each.device for each in encoder.parameters()), torch.device("cpu"))
    return encoder.encode(tensor[None].to(place)).pooled[0].cpu()


def make_golden(encoder: Encoder) -> Golden:
    """The golden embedding of ``encoder`` as it is now.

    Raises:
        EvalfmError: its weights are random, or it runs with other settings than its card's.
    """
    if encoder.random_weights:
        raise EvalfmError(f"{encoder.card.name} has random weights; a golden embedding needs the true ones: --weights.")
    if encoder.preparer.facts != encoder.card.preprocessing or encoder.precision != "float32":
        raise EvalfmError("A golden embedding is made at the card's own input size and in float32; leave these out.")
    pooled = pooled_of(encoder)
    return Golden(
        weights=encoder.weights_digest,
        pooled=tuple(round(float(value), 6) for value in pooled[:KEPT]),
        norm=round(float(pooled.norm()), 6),
        libraries={name: version(name) for name in ("torch", "timm", "transformers", "torchvision")},
    )


def find_golden(card: EncoderCard) -> Golden | None:
    """The card's golden embedding, else the user's own, else None."""
    path = golden_file(card)
    if card.golden is not None or not path.is_file():
        return card.golden
    return validate(Golden, read_yaml(path), str(path))


def golden_file(card: EncoderCard) -> Path:
    """Where a user's own golden embedding of ``card`` lies."""
    return cache_folder() / "golden" / f"{card.name.replace('/', '--')}.yaml"


def write_golden(encoder: Encoder) -> Path:
    """Write the golden embedding of ``encoder`` where ``find_golden`` looks.

    Raises:
        EvalfmError: as :func:`make_golden`.
    """
    golden = make_golden(encoder)
    path = golden_file(encoder.card)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = golden.model_dump(mode="json")
    write_atomically(path, yaml.safe_dump(content, sort_keys=False).encode())
    return path


def compare(encoder: Encoder, golden: Golden) -> Drift | None:
    """How far ``encoder`` is from ``golden``; None where that was made with other weights."""
    if encoder.weights_digest != golden.weights:
        return None
    pooled = pooled_of(encoder)
    typical = max(golden.norm / len(pooled) ** 0.5, 1e-12)
    values = torch.tensor(golden.pooled) - pooled[: len(golden.pooled)]
    apart = max(float(values.abs().max()), abs(float(pooled.norm()) - golden.norm) / len(pooled) ** 0.5)
    return Drift(apart / typical, golden.libraries)
