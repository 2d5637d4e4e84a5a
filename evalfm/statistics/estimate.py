"""One number with its interval, its counts, and the reason where it is absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """An interval, the percentile interval of the resamples, and how it was made or why it is absent.

    Attributes:
        low, high: what is printed, or None.
        percentile: kept for the record, or None.
        method: how it was made; empty where there is none.
        reason: why it is absent.
        resampled: whether resamples made it.
    """

    low: float | None
    high: float | None
    percentile: tuple[float, float] | None
    method: str
    reason: str | None
    resampled: bool = True

    @classmethod
    def absent(cls, reason: str) -> Interval:
        """None, with the reason.

        >>> Interval.absent("one patient").low is None
        True
        """
        return cls(None, None, None, "", reason)


@dataclass(frozen=True)
class Estimate:
    """A point estimate on the data with a 95 % interval.

    Attributes:
        value: the estimate on the data, or None where it cannot be given.
        low, high: the printed interval (BCa where it can be had), or None.
        percentile: the percentile interval of the same resamples, kept for the record.
        method: how the interval was made, such as ``"BCa, 2000 patient-clustered resamples"``.
        n: how many units stand behind it.
        unit: ``"patients"`` or ``"images"``.
        reason: why the value or the interval is absent, else None.
        note: a caution to print beside it, such as ``"interval approximate"``.

    >>> Estimate(0.81, 0.76, 0.85, method="BCa, 2000 patient-clustered resamples", n=412).value
    0.81
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    percentile: tuple[float, float] | None = None
    method: str = ""
    n: int = 0
    unit: str = "patients"
    reason: str | None = None
    note: str | None = None

    @classmethod
    def absent(cls, reason: str, *, n: int = 0, unit: str = "patients") -> Estimate:
        """A number that cannot be given, with the reason.

        >>> Estimate.absent("no image is positive").reason
        'no image is positive'
        """
        return cls(None, reason=reason, n=n, unit=unit)

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json.

        >>> Estimate(0.8, 0.7, 0.9, n=50).to_json()["low"]
        0.7
        """
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Estimate:
        """Take back what ``to_json`` gave, also after JSON made a list of the percentile interval.

        >>> estimate = Estimate(0.8, 0.7, 0.9, percentile=(0.71, 0.89), n=50)
        >>> Estimate.from_json(estimate.to_json()) == estimate
        True
        """
        percentile = content.get("percentile")
        return cls(**{**content, "percentile": None if percentile is None else tuple(percentile)})
