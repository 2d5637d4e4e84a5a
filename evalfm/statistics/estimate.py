"""One number with its interval, its counts, and the reason where it is absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


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
        """A number that cannot be given, with the reason."""
        return cls(None, reason=reason, n=n, unit=unit)

    def with_note(self, note: str) -> Estimate:
        """The same estimate with a caution beside it."""
        return replace(self, note=note)

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Estimate:
        """Take back what ``to_json`` gave, also after JSON made a list of the percentile interval."""
        percentile = content.get("percentile")
        return cls(**{**content, "percentile": None if percentile is None else tuple(percentile)})
