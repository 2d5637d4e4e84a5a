"""Options that decide how an encoder is loaded and what of it is taken; part of every ``ProbeConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from evalfm.cards import CardModel, Option
from evalfm.encoders.choice import layers_text
from evalfm.encoders.reference import EncoderRef
from evalfm.split_options import NOT_IN_KEY, Text

Resize = Literal["squash", "shortest-edge-crop", "letterbox"]
OF_ENCODER = Option("Encoder", in_key=False)
Layers = Annotated[str, BeforeValidator(layers_text)]
"""Layers as text: numbers with commas between, or ``last4``; a number or a list of numbers becomes it."""


class EncoderOptions(CardModel):
    """How an encoder is loaded, and what of it is taken."""

    weights: Annotated[Text, Field(description="hub, random, or the path of a checkpoint."), NOT_IN_KEY] = "hub"
    input_size: Annotated[
        int | None, Field(ge=8, description="Input size in pixels, in place of the card's."), OF_ENCODER
    ] = None
    resize: Annotated[Resize | None, Field(description="Resize policy, in place of the card's."), OF_ENCODER] = None
    pooling: Annotated[
        str | None,
        Field(
            description="What the embedding is: cls, mean, cls-mean or another that `evalfm show encoder` lists; "
            "attentive is --head attentive."
        ),
        OF_ENCODER,
    ] = None
    layers: Annotated[
        Layers | None,
        Field(
            description="Layers that maps are taken of, by the numbers that `evalfm show encoder` lists, such as 3,6,9 "
            "or last4; cls and mean are of the deepest."
        ),
        OF_ENCODER,
    ] = None


def in_name(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` with ``pooling`` and ``layers`` as part of its ``encoder``'s name, where everything finds them.

    Raises:
        EvalfmError: the encoder has no such pooling or layer, or is a table or code.

    >>> in_name({"encoder": "rad-dino", "pooling": "mean", "layers": [3, 9]})
    {'encoder': 'rad-dino@mean@layers-3-9', 'pooling': None, 'layers': None}
    """
    said = {name: content.get(name) for name in ("pooling", "layers")}
    if all(value is None for value in said.values()):
        return dict(content)
    ref = EncoderRef.parse(str(content.get("encoder"))).choosing(**said)
    return {**content, "encoder": ref.label, **dict.fromkeys(said)}
