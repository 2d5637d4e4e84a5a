"""How a learnt context is put into words: the template, its phrase, the tokens that are learnt, for which classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from evalfm.encoders.text import Prompted, TextTower
from evalfm.tasks.prompts import SLOT, PromptRow


@dataclass(frozen=True)
class Wording:
    """What must be kept with a learnt context so that it can speak of other classes.

    Attributes:
        template: with ``{}`` where a class's name goes.
        names: of the rows that it was learnt on, in order.
    """

    template: str
    names: tuple[str, ...]

    @property
    def phrase(self) -> str:
        """The words before the class."""
        return self.template.partition(SLOT)[0].rstrip()

    @property
    def learnt(self) -> int:
        """How many tokens are learnt: the first ones of the phrase, one for each of its words (as in CoOp's code)."""
        return len(self.phrase.split())

    def prompted(self, tower: TextTower, names: Sequence[str]) -> Prompted:
        """The template for each of ``names``, read by ``tower``, the context open.

        Raises:
            EvalfmError: a sentence is longer than the tower reads.
        """
        return tower.prompted([self.template.replace(SLOT, name) for name in names], self.phrase, self.learnt)

    def as_tensor(self) -> Tensor:
        """As bytes, uint8 [L], for head.safetensors."""
        return torch.tensor(list(json.dumps(asdict(self), sort_keys=True).encode()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> Wording:
        """What ``as_tensor`` gave, back."""
        content = json.loads(bytes(tensor.tolist()))
        return cls(content["template"], tuple(content["names"]))


def names_of(rows: Sequence[PromptRow]) -> tuple[str, ...]:
    """What each row is called."""
    return tuple(row.name for row in rows)
