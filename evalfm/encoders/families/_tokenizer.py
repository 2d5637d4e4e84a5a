"""A tokenizer from one tokenizer.json, which neither pads nor cuts, and open_clip's own spelled out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.hub import fetch_beside
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer


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


def spelled(tokenizer: SimpleTokenizer) -> str:
    """Words and merges of the tokenizer that comes with open_clip, as text."""
    merges = [list(pair) for pair in tokenizer.bpe_ranks]
    return json.dumps({"words": tokenizer.encoder, "merges": merges, "pattern": tokenizer.pat.pattern})
