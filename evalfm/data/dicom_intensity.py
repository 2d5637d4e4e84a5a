"""From the stored values of a DICOM image to [0, 1], air dark: the steps of PS3.3 C.11 and C.7.6.3."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from evalfm.data.dicom_frames import items_of
from evalfm.data.dicom_luts import modality_lut, stored_range, voi_lut
from evalfm.errors import EvalfmError

PERCENTILES = (0.5, 99.5)
"""Range of an image that states no window, outside its padding."""

Values = NDArray[np.float64]
_ON_LINE = 1e-6
"""Largest distance of a value from a line that is taken for it, as a share of the range; 16 bits step by 1.5e-5."""
_BLOCK = 64
"""Rows of an image that are looked up at a time."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """The different numbers that an image may hold, so that a header's steps are done once for each.

    Attributes:
        each: [N] all numbers from the lowest to the highest stored, or the image itself where these are no fewer.
        place: [H, W] where each pixel's number stands in ``each``; None where ``each`` is the image.
    """

    each: NDArray[Any]
    place: NDArray[np.unsignedinteger[Any]] | None

    @classmethod
    def of(cls, stored: NDArray[Any]) -> Numbers:
        """The numbers of an image [H, W].

        >>> numbers = Numbers.of(np.array([[-1, 2, 2], [0, 0, 0]], np.int16))
        >>> numbers.each.tolist(), numbers.everywhere(numbers.each * 10).tolist()
        ([-1, 0, 1, 2], [[-10, 20, 20], [0, 0, 0]])
        """
        if stored.dtype.kind not in "ui" or stored.dtype.itemsize > 2 or not stored.size:
            return cls(stored, None)
        low, high = int(stored.min()), int(stored.max())
        if high - low >= stored.size:
            return cls(stored, None)
        unsigned = np.dtype(f"u{stored.dtype.itemsize}")
        place = stored.view(unsigned)
        if low:
            # The difference of two numbers is right in unsigned arithmetic, whatever their sign.
            place = place - np.int64(low).astype(unsigned)
        return cls(np.arange(low, high + 1).astype(stored.dtype), place)

    def everywhere(self, values: NDArray[Any], *, exact: bool = True) -> NDArray[Any]:
        """``values``, one per number of ``each``, at every pixel [H, W].

        Unless they are to be ``exact``, values on a straight line between two bounds, as a window's are, are computed
        rather than looked up, which is right to 1e-6 of their range and takes half of the time.
        """
        if self.place is None:
            return values
        line = None if exact else _line_through(values)
        if line is not None:
            result = self.place.astype(np.float32)
            result *= line.slope
            result += line.start
            return np.clip(result, line.low, line.high, out=result)
        result = np.empty(self.place.shape, dtype=values.dtype)
        # In blocks: each turns its places into indices of eight bytes, which then stay in the processor's cache.
        for first in range(0, len(result), _BLOCK):
            block = slice(first, first + _BLOCK)
            values.take(self.place[block], out=result[block], mode="wrap")
        return result

    def counts(self) -> NDArray[np.int64]:
        """How many pixels hold each number."""
        if self.place is None:
            return np.ones(self.each.shape, dtype=np.int64)
        return np.bincount(self.place.reshape(-1), minlength=len(self.each))


@dataclass(frozen=True)
class _Line:
    """start + slope × place, between low and high."""

    start: np.float32
    slope: np.float32
    low: np.float32
    high: np.float32


def _line_through(values: NDArray[np.float32]) -> _Line | None:
    """The line that a table follows between its ends' values; None where it follows none."""
    low, high = values.min(), values.max()
    inner = np.flatnonzero((values > low) & (values < high))
    if len(inner) < 2:
        return None
    first, last = int(inner[0]), int(inner[-1])
    slope = (float(values[last]) - float(values[first])) / (last - first)
    line = _Line(np.float32(float(values[first]) - slope * first), np.float32(slope), low, high)
    computed = np.arange(len(values), dtype=np.float32)
    computed *= line.slope
    computed += line.start
    computed = np.clip(computed, low, high, out=computed)
    computed -= values
    return line if np.abs(computed, out=computed).max() <= _ON_LINE * (high - low) else None


def modality_values(stored: NDArray[Any], dataset: Dataset) -> tuple[Values, str]:
    """Modality LUT, else slope and intercept, else the values as stored; and which it was (C.11.1)."""
    luts = items_of(dataset, "ModalityLUTSequence")
    if luts:
        return modality_lut(luts[0], dataset).through(stored), "modality LUT"
    slope, intercept = _rescale(dataset)
    if slope is None or intercept is None:
        return stored.astype(np.float64), "stored values"
    if slope == 0:
        raise EvalfmError("its rescale slope is 0, which makes all pixels one value")
    return stored.astype(np.float64) * slope + intercept, "rescaled"


def to_unit_interval(
    values: Values, dataset: Dataset, padding: NDArray[np.bool_], counts: Callable[[], NDArray[np.int64]] | None = None
) -> tuple[Values, str]:
    """VOI LUT, else the first window, else percentiles outside the padding, to [0, 1]; and which (C.11.2).

    ``counts`` says how many pixels have each of ``values``; by default each stands for one.
    """
    for item in items_of(dataset, "VOILUTSequence"):
        if item.get("LUTDescriptor") is not None and item.get("LUTData") is not None:
            lut = voi_lut(item, dataset, _rescaled_range(dataset))
            return np.clip(lut.through(values) / (2**lut.bits - 1), 0, 1), "VOI LUT"
    centre, width = _number(dataset.get("WindowCenter")), _number(dataset.get("WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    # A width below 1 has no meaning in LINEAR, and comes from headers whose window was never filled in.
    if centre is not None and width is not None and width >= (1 if function == "LINEAR" else 1e-12):
        return windowed(values, centre, width, function), f"window {function}"
    times = np.where(padding, 0, 1 if counts is None else counts())
    seen, times = values[times > 0], times[times > 0]
    if not seen.size:
        return np.zeros_like(values), "nothing but padding"
    low, high = _percentiles(seen, times)
    if high <= low:
        # Less than .5 % of the image differs from the rest, or nothing does.
        low, high = float(seen.min()), float(seen.max())
    if high <= low:
        return np.zeros_like(values), "one value only"
    return _line(values, low, high - low, 0.0), "percentiles .5–99.5"


def _percentiles(values: Values, times: NDArray[np.int64]) -> tuple[float, float]:
    """``PERCENTILES`` of ``values``, each of which counts so many ``times``."""
    if times.max() == 1:
        low, high = np.percentile(values, PERCENTILES)
        return float(low), float(high)
    order = np.argsort(values, kind="stable")
    ranked, last = values[order], np.cumsum(times[order])
    found = []
    for share in PERCENTILES:
        place = share / 100 * (int(last[-1]) - 1)
        below, above = ranked[np.searchsorted(last, [math.floor(place), math.ceil(place)], side="right")]
        # Between the two neighbours, as numpy.percentile has it.
        found.append(float(below + (above - below) * (place - math.floor(place))))
    return found[0], found[1]


def windowed(values: Values, centre: float, width: float, function: str) -> Values:
    """A window of PS3.3 C.11.2.1.2 and C.11.2.1.3 with an output of 0 to 1.

    Raises:
        EvalfmError: ``function`` is none of LINEAR, LINEAR_EXACT and SIGMOID.
    """
    if function == "SIGMOID":
        # The bound keeps exp from overflowing; beyond it the result is 0 or 1 in any case.
        exponent = values - centre
        exponent *= -4
        exponent /= width
        np.exp(np.clip(exponent, -700, 700, out=exponent), out=exponent)
        exponent += 1
        return np.reciprocal(exponent, out=exponent)
    if function == "LINEAR_EXACT":
        return _line(values, centre, width, 0.5)
    if function != "LINEAR":
        raise EvalfmError(f"its VOI LUT function {function!r} is none of LINEAR, LINEAR_EXACT and SIGMOID")
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return _line(values, centre - 0.5, width - 1, 0.5)


def _line(values: Values, zero: float, width: float, shift: float) -> Values:
    """(``values`` − ``zero``) / ``width`` + ``shift`` within 0 and 1; one array of a large image is large enough."""
    scaled = values - zero
    scaled /= width
    scaled += shift
    return np.clip(scaled, 0, 1, out=scaled)


def is_inverted(dataset: Dataset) -> bool:
    """Whether the smallest value is white; MONOCHROME1 and a presentation LUT of INVERSE say the same."""
    return bool(
        dataset.get("PhotometricInterpretation") == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    )


def padding_of(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Where the stored values are padding: the padding value, or all up to its range limit (C.7.5.1.1.2)."""
    kind = "" if stored.dtype.kind != "f" else "Float" if stored.dtype.itemsize == 4 else "DoubleFloat"
    value = _number(dataset.get(f"{kind}PixelPaddingValue"))
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = _number(dataset.get(f"{kind}PixelPaddingRangeLimit"))
    bounds = (value, value if limit is None else limit)
    low, high = sorted(bounds if kind else (_as_stored(each, dataset) for each in bounds))
    return np.asarray((stored >= low) & (stored <= high))


def _as_stored(value: float, dataset: Dataset) -> int:
    """A padding value written as unsigned although the pixels are signed, or the other way round."""
    span = 2 ** int(dataset.get("BitsAllocated", 16))
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    wrapped = int(value) % span
    return int(wrapped - span if signed and wrapped >= span // 2 else wrapped)


def _rescale(dataset: Dataset) -> tuple[float | None, float | None]:
    return _number(dataset.get("RescaleSlope")), _number(dataset.get("RescaleIntercept"))


def _rescaled_range(dataset: Dataset) -> tuple[float, float] | None:
    """The range that slope and intercept make of what the header allows to be stored; None where they are not used."""
    slope, intercept = _rescale(dataset)
    if slope is None or intercept is None or dataset.get("ModalityLUTSequence"):
        return None
    low, high = sorted(bound * slope + intercept for bound in stored_range(dataset))
    return low, high


def _number(value: Any) -> float | None:
    """The first of the numbers of an element; None where it is absent or empty."""
    if isinstance(value, list | tuple | MultiValue):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)
