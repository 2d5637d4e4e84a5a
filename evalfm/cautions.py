"""Cautions that stand with a result: a code for programs, a sentence for readers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

Code = Literal[
    "synthetic",
    "random-weights",
    "patients-unknown",
    "contamination",
    "contamination-unknown",
    "imported",
    "threshold",
    "trained-from-random",
    "unconfirmed-card",
    "unpinned-weights",
    "other-weights",
    "renamed-weights",
    "input-changed",
    "adaptation",
    "memory",
    "cohort-not-applied",
    "outside-cohort",
    "association",
    "scarce-val",
    "single-class",
    "unseen-class",
    "base-to-novel",
    "fewer-sentences",
    "measured-on-masks",
    "grid-edge",
    "constant-features",
    "solver-stopped",
    "overlapping-episodes",
    "mean-of-folds",
    "features-differ",
    "feature-path",
    "not-compiled",
    "existing",
    "licence",
    "other",
]
BESIDE_FIGURES: frozenset[Code] = frozenset({"synthetic", "random-weights", "patients-unknown"})
"""Codes of cautions that belong beside every figure of a run."""
ON_TOP: frozenset[Code] = BESIDE_FIGURES | {"contamination"}
"""Codes of cautions that stand at the top of a page or section."""


@dataclass(frozen=True)
class Caution:
    """What a reader of a result must know.

    Attributes:
        code: what kind of caution it is; programs go by this alone.
        sentence: the same for a reader, with names and numbers.
        fold: number of the fold that it speaks of, from 0; None where it speaks of the whole result.

    >>> str(Caution("grid-edge", "The best C lies at the edge of the grid.", fold=1))
    'Fold 2: The best C lies at the edge of the grid.'
    """

    code: Code
    sentence: str
    fold: int | None = None

    def __str__(self) -> str:
        return self.sentence if self.fold is None else f"Fold {self.fold + 1}: {self.sentence}"


SYNTHETIC = Caution("synthetic", "Synthetic data: these figures say nothing about patients.")
RANDOM_WEIGHTS = Caution("random-weights", "Random weights: the encoder has learnt nothing.")


def sentences(cautions: Iterable[Caution], codes: Collection[Code] | None = None) -> list[str]:
    """The sentences of ``cautions``, each once, in their order; of some ``codes`` only where these are given.

    >>> sentences([SYNTHETIC, RANDOM_WEIGHTS, SYNTHETIC], {"synthetic"})
    ['Synthetic data: these figures say nothing about patients.']
    """
    return list(dict.fromkeys(str(each) for each in cautions if codes is None or each.code in codes))


def with_known_codes(content: Any) -> Any:
    """``content`` of a record; a code that a newer version has added becomes ``other``, and its sentence stays."""
    if not isinstance(content, dict) or not isinstance(content.get("cautions"), list):
        return content
    return {**content, "cautions": [_known(each) for each in content["cautions"]]}


def _known(each: Any) -> Any:
    new = isinstance(each, dict) and isinstance(each.get("code"), str) and each["code"] not in get_args(Code)
    return {**each, "code": "other"} if new else each
