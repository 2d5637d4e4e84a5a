"""What heads on pooled features share: standardisation, known labels, and checks with a remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.errors import EvalfmError
from evalfm.heads.head import Context, Examples, Head

TIED_DECIMALS = 9
TIE = 1e-9
"""Val log-losses closer than this count as equal: the first candidate is taken."""
ROWS_AT_ONCE = 8192
"""That are held in double precision beside those of the result: a million rows are not held several times over."""
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
        scale = _deviation(features, mean)
        kept = scale > CONSTANT * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)
        return cls(mean, np.where(kept, scale, 1.0), kept)

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The kept features of [N, D], standardised, float64."""
        mean, scale = self.mean[self.kept], self.scale[self.kept]
        # Column by column, as numpy lays out chosen columns: products round by the layout.
        chosen = np.empty((len(features), len(mean)), order="F")
        for start in range(0, len(features), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            chosen[rows] = features[rows][:, self.kept]
            chosen[rows] -= mean
            chosen[rows] /= scale
        return chosen

    def raw(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights [..., kept] of standardised features as those [..., D] of features as they are."""
        raw = np.zeros((*weight.shape[:-1], len(self.mean)))
        raw[..., self.kept] = weight / self.scale[self.kept]
        return raw

    @property
    def cautions(self) -> list[Caution]:
        """That features were dropped, where some were."""
        dropped = int((~self.kept).sum())
        words = f"{dropped} of {len(self.kept)} features are constant on train and were dropped."
        return [Caution("constant-features", words)] if dropped else []


def _deviation(features: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Population standard deviation [D] in double precision; row by row as ``numpy.std`` has it, but some at a time."""
    summed = np.zeros((1, len(mean)))
    for start in range(0, len(features), ROWS_AT_ONCE):
        squared = (features[start : start + ROWS_AT_ONCE] - mean) ** 2
        summed = np.add.reduce(np.concatenate([summed, squared]), axis=0, keepdims=True)
    return np.asarray(np.sqrt(summed[0] / len(features)))


def at_edge(what: str, values: Sequence[float], best: int) -> list[Caution]:
    """That the best of the sorted ``values`` that were tried of ``what`` is the first or last, where it is.

    >>> str(at_edge("C", [0.1, 1, 10], 2)[0]), at_edge("C", [0.1, 1, 10], 1)
    ('The best C, 10, lies at the upper edge of the grid.', [])
    """
    if len(values) < 2 or best not in (0, len(values) - 1):
        return []
    end = "lower" if values[best] < values[-1 - best] else "upper"
    return [Caution("grid-edge", f"The best {what}, {values[best]:.3g}, lies at the {end} edge of the grid.")]


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
    # A sum in double precision is finite where all that float32 holds is.
    with np.errstate(invalid="ignore"):
        broken = np.flatnonzero(~np.isfinite(features.sum(axis=1, dtype=np.float64)))
    if len(broken):
        raise EvalfmError(
            f"{len(broken)} {split} images have features that are not finite "
            f"(first: row {int(examples.rows[broken[0]]) + 1}); take out these images, "
            "or compute the features with --precision float32."
        )
    return features


def at_rows(features: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """``features`` [N, D] at ``rows``, which are distinct and ascending; where they are all of them, no copy.

    >>> features = np.zeros((2, 1), dtype=np.float32)
    >>> at_rows(features, np.array([0, 1])) is features, at_rows(features, np.array([1])).shape
    (True, (1, 1))
    """
    return features if len(rows) == len(features) else features[rows]


def standardised(
    read: Callable[[], NDArray[np.float32]], rows: NDArray[np.intp]
) -> tuple[Standardisation, NDArray[np.float64]]:
    """The scaling of the features that ``read`` gives at ``rows``, and they by it; they themselves are not kept."""
    features = at_rows(read(), rows)
    scaling = Standardisation.of(features)
    return scaling, scaling.apply(features)


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


def learnable(target: NDArray[np.float64]) -> bool:
    """Whether the known ones of ``target`` [N] show both classes."""
    return len(np.unique(target[~np.isnan(target)])) > 1


def smoothed_share(target: NDArray[np.float64]) -> float:
    """Share of the positives among the known, one of each class added."""
    known = target[~np.isnan(target)]
    return float((known.sum() + 1) / (len(known) + 2))


def smallest_best(losses: NDArray[np.float64]) -> int:
    """Position of the lowest of ``losses``; among ties the first.

    >>> smallest_best(np.array([0.5, 0.4, 0.4]))
    1
    """
    return int(np.flatnonzero(losses <= losses.min() + TIE)[0])


@dataclass(frozen=True)
class OnVal:
    """What each candidate loses on each val image that it is chosen by.

    Attributes:
        rows: positions in val, [n].
        losses: [candidates, n].
    """

    rows: NDArray[np.intp]
    losses: NDArray[np.float64]

    def best(self, times: NDArray[np.intp]) -> int:
        """The candidate that val chooses with each of its rows counted ``times`` [N]; among ties the first.

        >>> OnVal(np.array([0, 2]), np.array([[0.2, 0.9], [0.5, 0.5]])).best(np.array([3, 1, 1]))
        0
        """
        mean = self.losses @ times[self.rows] / max(1, times[self.rows].sum())
        return int(np.flatnonzero(mean <= mean.min() * (1 + TIE))[0])


def as_columns(target: NDArray[np.float64]) -> NDArray[np.float64]:
    """``target`` as columns, [N, K]."""
    return target[:, None] if target.ndim == 1 else target
