"""A small text tower with word vectors and positions, and the sentences and images that go with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.text import TextTower
from evalfm.heads.head import Context, Examples, Text
from evalfm.tasks.prompts import PromptRow, PromptSet

from ...readers import reader_card
from ..conftest import ArraySource, examples_of

WIDTH, DIM, LENGTH, SCALE = 6, 5, 16, 10.0
SPECIAL = ("[pad]", "[begin]", "[end]", "[unknown]")
NOUNS = ("cat", "dog", "bird", "fish")
WORDS = (*SPECIAL, *NOUNS, "a", "photo", "of", "no", "it", "is", "furry", "barks", "sings", "small", "big")


def speller_card(**changes: Any) -> EncoderCard:
    """Of an encoder whose images and sentences meet in ``DIM`` dimensions."""
    facts = {"dim": DIM, "pooling": "shared", "context_length": LENGTH, "present": "{}", "absent": "no {}"}
    return reader_card(poolings={"shared": DIM}, text_tower=facts, **changes)


class Speller(TextTower):
    """tanh of the sum over tokens of tanh(word + position), projected; what fills up is left out."""

    logit_scale = SCALE
    filling_unseen = True

    def __init__(self, card: EncoderCard | None = None) -> None:
        super().__init__(card or speller_card())
        generator = torch.Generator().manual_seed(4)
        self.words = nn.Embedding.from_pretrained(torch.randn(len(WORDS), WIDTH, generator=generator))
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH, generator=generator), requires_grad=False)
        self.projection = nn.Parameter(torch.randn(WIDTH, DIM, generator=generator), requires_grad=False)
        self.read: list[str] = []

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        self.read += texts
        rows = [[1, *(self.number(word) for word in text.split()), 2] for text in texts]
        ids = torch.tensor([(row + [0] * LENGTH)[:LENGTH] for row in rows])
        return {"ids": ids}, [len(row) for row in rows]

    @staticmethod
    def number(word: str) -> int:
        return WORDS.index(word.strip(".")) if word.strip(".") in WORDS else 3

    def _words(self) -> nn.Module:
        return self.words

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        ids = tokens["ids"]
        hidden = torch.tanh(self.words(ids) + self.positions[: ids.shape[1]])
        return torch.tanh((hidden * (ids != 0)[..., None]).sum(1)) @ self.projection


def row(name: str, *sentences: str, present: bool = True) -> PromptRow:
    """A class with its sentences."""
    return PromptRow(name, present, name, ((name,),), sentences)


PETS = (
    row("cat", "it is furry.", "a small cat.", "cat."),
    row("dog", "it barks.", "a big dog.", "dog."),
    row("bird", "it sings.", "a small bird.", "bird."),
)


def text(rows: Sequence[PromptRow] = PETS, kind: str = "multiclass") -> Text:
    """The sentences with a fresh tower."""
    return Text(PromptSet(kind, ("{}",), tuple(rows), "test"), Speller())


def context(rows: Sequence[PromptRow] = PETS, kind: str = "multiclass", **changes: Any) -> Context:
    """What a head is given."""
    names = tuple(dict.fromkeys(each.name for each in rows if each.present))
    return Context(kind, names, text=text(rows, kind), **changes)


def images(count: int = 30, classes: int = 3, seed: int = 0, sharp: float = 1.0) -> Examples:
    """Features that lean towards one direction a class."""
    draw = np.random.default_rng(seed)
    target = np.arange(count) % classes
    directions = np.random.default_rng(99).normal(size=(classes, DIM))
    pooled = draw.normal(size=(count, DIM)) * 0.5 + sharp * directions[target]
    return examples_of(ArraySource(torch.from_numpy(pooled).float()), range(count), target)
