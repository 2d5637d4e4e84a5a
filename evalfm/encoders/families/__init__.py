"""One module per library that encoders are built with; imported only when an encoder of it is loaded."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from evalfm.encoders.card import EncoderCard
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from evalfm.encoders.encoder import Encoder, EncoderState
    from evalfm.encoders.weights import Checkpoint

FAMILIES = {
    **{name: name for name in ("classical", "open_clip", "ports", "timm", "torchvision", "transformers")},
    "light": "classical",
}
"""The module of each family of cards."""


class Builder(Protocol):
    """Builds the encoder of a card; without a checkpoint its weights are drawn from torch's generator."""

    def __call__(self, card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> Encoder:
        """The encoder of ``card`` with the tensors of ``checkpoint``."""
        ...


def builder(family: str) -> Builder:
    """The ``build`` of a family's module.

    Raises:
        EvalfmError: the family has no builder, as ``own``.
    """
    if family not in FAMILIES:
        raise EvalfmError(f"Encoders of family {family!r} come from code: name it as file.py:build.")
    return cast(Builder, import_module(f"{__name__}.{FAMILIES[family]}").build)
