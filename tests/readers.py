"""A made-up image-text encoder that sees how bright a radiograph is, and reads the words bright, dark and grey."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evalfm.encoders import find_card
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, RawFeatures
from evalfm.encoders.text import TextTower

WORDS = {"bright": (1.0, 0.0, 0.0), "dark": (0.0, 1.0, 0.0), "grey": (0.6, 0.6, 0.0)}
SCALE = 20.0


def reader_card(**changes: Any) -> EncoderCard:
    content = find_card("hog").model_dump(mode="json", by_alias=True)
    facts = {
        "name": "reader",
        "family": "own",
        "poolings": {"shared": 3, "mean": 3},
        "pooling": "shared",
        "map_layers": [],
        "map_channels": [],
        "map_strides": [],
        "text_tower": {"dim": 3, "pooling": "shared", "context_length": 8, "present": "{}", "absent": "no {}"},
    }
    return EncoderCard.model_validate({**content, **facts, **changes})


class Reader(TextTower):
    """The sum of the words it knows, twice as long where the sentence is loud; a word it does not know points away."""

    logit_scale = SCALE

    def __init__(self, card: EncoderCard) -> None:
        super().__init__(card)
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.asked: list[str] = []

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        self.asked += texts
        rows = [[WORDS.get(word.strip(".!"), (0.0, 0.0, 0.05)) for word in text.split()] for text in texts]
        loud = torch.tensor([2.0 if text.endswith("!") else 1.0 for text in texts])
        return {"sum": torch.stack([torch.tensor(row).sum(0) for row in rows]) * loud[:, None]}, list(map(len, rows))

    def _words(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        return tokens["sum"]

    def _vocabulary(self) -> str:
        return repr(WORDS)


class Seer(Encoder):
    """How much of a radiograph is bright, how much dark, and nothing."""

    def __init__(self, card: EncoderCard | None = None) -> None:
        super().__init__(card or reader_card())
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.forwards = 0

    def _forward(self, batch: Tensor) -> RawFeatures:
        self.forwards += len(batch)
        bright = (batch > 0.6).float().mean((1, 2, 3))
        seen = torch.stack([bright * 4, 1 - bright, torch.zeros_like(bright)], dim=1)
        return RawFeatures(pooled={"shared": seen, "mean": seen})

    def _text_tower(self) -> TextTower:
        return Reader(self.card)


def build() -> Encoder:
    """For ``tests/readers.py:build``: one that reads the longer sentences of the built-in prompt cards."""
    facts = {**reader_card().model_dump(mode="json")["text_tower"], "context_length": 40}
    return Seer(reader_card(text_tower=facts))
