"""Small ports: models that no library brings whole, put together from the parts that libraries have."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from evalfm.errors import UnknownNameError

if TYPE_CHECKING:
    from evalfm.encoders.card import EncoderCard
    from evalfm.encoders.encoder import Encoder, EncoderState
    from evalfm.encoders.families import Builder
    from evalfm.encoders.weights import Checkpoint

ARCHITECTURES = {
    "ark-swin": ("ark", "ArkEncoder"),
    "biovil-t-resnet50": ("biovilt", "BioVilTEncoder"),
    "medimageinsight-davit": ("medimageinsight", "MedImageInsightEncoder"),
}
"""Module and class of each port, by the card's ``architecture``; a module is imported when it is needed."""


def build(card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> Encoder:
    """The port that the card's ``architecture`` names, with the checkpoint's tensors or random ones.

    Raises:
        EvalfmError: there is no such port, or the checkpoint does not fit it.
    """
    if card.architecture not in ARCHITECTURES:
        raise UnknownNameError("port", card.architecture, ARCHITECTURES)
    module, name = ARCHITECTURES[card.architecture]
    kind = cast("Builder", getattr(import_module(f"{__name__}.{module}"), name))
    return kind(card, state, checkpoint)
