"""What heads on pooled features share: standardisation, known labels, and checks with a remedy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalfm.errors import EvalfmError
from evalfm.heads.head import Context, Examples, Head

TIED_DECIMALS = 9
CONSTANT = 1e-6
"""A feature whose standard deviation is below this share of its mean is float32 noise, not signal."""


@dataclass(frozen=True)
class Standardisation:
    """Mean and scale of the train features, [D] float64; ``kept`` marks those that are not constant."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    kept: NDArray[np.bool_]

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Standardisation:
        """Population mean and standard deviation of ``features`` [N, D].

        >>> scaling = Standardisation.of(np.array([[1, 5], [3, 5]], dtype=np.float32))
        >>> scaling.mean.tolist(), scaling.scale.tolist(), scaling.kept.tolist()
        ([2.0, 5.0], [1.0, 1.0], [True, False])
        """
        mean = features.mean(axis=0, dtype=np.float64)
        scale = features.std(axis=0, dtype=np.float64)
        kept = scale > CONSTANT * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)
        return cls(mean, np.where(kept, scale, 1.0), kept)

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The kept features of [N, D], standardised, float64."""
        chosen = features[:, self.kept].astype(np.float64)
        chosen -= self.mean[self.kept]
        chosen /= self.scale[self.kept]
        return chosen


def check_kind(head: Head, context: Context) -> None:
    """Refuse a task that the head was not made for.

    Raises:
        EvalfmError: ``context.kind`` is not among the head's kinds.
    """
    if context.kind not in head.kinds:
        serves = ", ".join(sorted(head.kinds))
        raise EvalfmError(
            f"The head {head.name!r} serves {serves} tasks, not {context.kind}; take another from `evalfm ls heads`."
        )


def finite_pooled(examples: Examples, split: str) -> NDArray[np.float32]:
    """Pooled features [N, D] of ``split``, all finite.

    Raises:
        EvalfmError: a feature is not a finite number.
    """
    features = examples.pooled()
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise EvalfmError(
            f"{len(broken)} {split} images have features that are not finite "
            f"(first: row {int(examples.rows[broken[0]]) + 1}); take out these images, "
            "or compute the features with --precision float32."
        )
    return features


def known_rows(target: NDArray[np.float64], split: str, label: str) -> NDArray[np.intp]:
    """Positions whose target [N] is known.

    Raises:
        EvalfmError: none is.

    >>> known_rows(np.array([1.0, np.nan, 0.0]), "train", "edema").tolist()
    [0, 2]
    """
    rows = np.flatnonzero(np.isfinite(target))
    if len(rows) == 0:
        raise EvalfmError(f"No {split} image has a known {label!r}; label some, or choose another task.")
    return rows


def check_two_classes(target: NDArray[np.float64], split: str, label: str) -> None:
    """Refuse to learn or to choose where only one class is seen.

    Raises:
        EvalfmError: ``target`` [N] holds one value only.
    """
    if len(np.unique(target)) < 2:
        remedy = {
            "train": "enlarge train or draw more shots",
            "val": "enlarge val, for C and thresholds are chosen there",
        }[split]
        raise EvalfmError(f"In {split} {label!r} has one class only; {remedy}.")


def tied(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``values`` to 9 decimals, so that images with equal features have equal scores.

    Products and exponentials of one and the same row differ in their last bit with its place in the batch, by which
    lane of the processor it went through; a rank metric would read that as an order.

    >>> tied(np.array([0.1 + 0.2])).tolist()
    [0.3]
    """
    return np.asarray(np.round(values, TIED_DECIMALS), dtype=np.float64)
