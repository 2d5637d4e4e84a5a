"""The catalogue as a list: which encoders answer to a licence, a domain, a size, and what is said of each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from evalfm.encoders.card import AbsentCard, EncoderCard
from evalfm.encoders.registry import list_absent, list_cards
from evalfm.errors import EvalfmError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}


@dataclass(frozen=True)
class Wanted:
    """What an encoder must be; None and False ask for nothing.

    Attributes:
        paradigm, commercial: exactly this.
        domain, licence: a part of it, whatever the case.
        gated: True: only behind a licence to accept; False: only others.
        text: only with a text tower.
        least, most: parameters.
    """

    paradigm: str | None = None
    domain: str | None = None
    licence: str | None = None
    commercial: str | None = None
    gated: bool | None = None
    text: bool = False
    least: int | None = None
    most: int | None = None

    def answers(self, card: EncoderCard | AbsentCard) -> bool:
        """Whether ``card`` is what is wanted; a size that is not known answers to no bound."""
        size = card.parameters if isinstance(card, EncoderCard) else None
        tower = card.text_tower if isinstance(card, EncoderCard) else None
        return (
            self.paradigm in (None, card.paradigm)
            and self.commercial in (None, card.commercial_use)
            and self.gated in (None, card.gated)
            and (self.domain or "").lower() in card.domain.lower()
            and (self.licence or "").lower() in card.licence.lower()
            and (not self.text or tower is not None)
            and (self.least is None or (size is not None and size >= self.least))
            and (self.most is None or (size is not None and size <= self.most))
        )


def parameters_of(text: str) -> int:
    """A number of parameters such as ``90M`` or ``1.2B``.

    Raises:
        EvalfmError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMBG]?)\s*", text, re.IGNORECASE)
    if found is None:
        raise EvalfmError(f"{text!r} is no number of parameters; write it as 90M or 1.2B.")
    return round(float(found[1]) * UNITS[found[2].upper()])


def catalogue(wanted: Wanted | None = None) -> dict[str, EncoderCard | AbsentCard]:
    """Cards by name, those that are offered through precomputed embeddings only after the others.

    Raises:
        EvalfmError: none is what is wanted.
    """
    every: dict[str, EncoderCard | AbsentCard] = {**list_cards(), **list_absent()}
    kept = {name: card for name, card in every.items() if wanted is None or wanted.answers(card)}
    if not kept:
        domains = ", ".join(sorted({card.domain for card in every.values() if card.domain != "none"}))
        raise EvalfmError(f"No encoder is all of that; ask for less (domains: {domains}).")
    return kept


def weights_word(card: EncoderCard | AbsentCard) -> str:
    """In a word, where the weights come from."""
    if isinstance(card, AbsentCard):
        return "precomputed"
    return {"hub": "gated" if card.gated else "hub", "path": "file", "none": "none"}[card.weights.source]


def shown_size(parameters: int) -> str:
    """A number of parameters as a person says it."""
    return f"{parameters / 1e6:.1f}M" if parameters else "0"


def pretraining(sets: Iterable[object]) -> str:
    """Pre-training sets in a line."""
    return ", ".join(f"{getattr(each, 'name', '')} ({getattr(each, 'what', '')})" for each in sets) or "none"
