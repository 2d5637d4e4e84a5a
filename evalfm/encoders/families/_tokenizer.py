"""A tokenizer from one tokenizer.json, which neither pads nor cuts."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.hub import fetch_beside
from evalfm.errors import EvalfmError


def tokenizer_of(card: EncoderCard, origin: Path | None) -> Tokenizer:
    """The tokenizer of the card's text tower, from beside the weights at ``origin`` or from the hub.

    Raises:
        EvalfmError: the file is in neither place, or is no tokenizer.
    """
    assert card.text_tower is not None
    path = fetch_beside(card, origin, card.text_tower.tokenizer[0])
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        # The library raises plain exceptions for whatever it cannot read.
        raise EvalfmError(f"{path} is no tokenizer ({error}); fetch it again.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
