"""From the stored values of a DICOM film to [0, 1], air dark: the steps of PS3.3 C.11 and C.7.6.3."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from evalfm.errors import EvalfmError

PERCENTILES = (0.5, 99.5)
"""Range of a film that states no window, outside its padding."""

Values = NDArray[np.float64]


def modality_values(stored: NDArray[Any], dataset: Dataset) -> tuple[Values, str]:
    """Modality LUT, else slope and intercept, else the values as stored; and which it was (C.11.1)."""
    luts = dataset.get("ModalityLUTSequence")
    if luts:
        table, first, _ = _table(luts[0], signed=bool((stored < 0).any()))
        return _through(table, first, stored), "modality LUT"
    slope, intercept = _number(dataset.get("RescaleSlope")), _number(dataset.get("RescaleIntercept"))
    if slope is None or intercept is None:
        return stored.astype(np.float64), "stored values"
    if slope == 0:
        raise EvalfmError("its rescale slope is 0, which makes all pixels one value")
    return stored.astype(np.float64) * slope + intercept, "rescaled"


def to_unit_interval(values: Values, dataset: Dataset, padding: NDArray[np.bool_]) -> tuple[Values, str]:
    """VOI LUT, else the first window, else percentiles outside the padding, to [0, 1]; and which (C.11.2)."""
    for item in dataset.get("VOILUTSequence") or ():
        if item.get("LUTDescriptor") is not None and item.get("LUTData") is not None:
            table, first, bits = _table(item, signed=bool((values < 0).any()))
            return np.clip(_through(table, first, values) / (2**bits - 1), 0, 1), "VOI LUT"
    centre, width = _number(dataset.get("WindowCenter")), _number(dataset.get("WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    # A width below 1 has no meaning in LINEAR, and comes from headers whose window was never filled in.
    if centre is not None and width is not None and width >= (1 if function == "LINEAR" else 1e-12):
        return windowed(values, centre, width, function), f"window {function}"
    seen = values[~padding]
    if not seen.size:
        return np.zeros_like(values), "nothing but padding"
    low, high = np.percentile(seen, PERCENTILES)
    if high <= low:
        # Less than .5 % of the film differs from the rest, or nothing does.
        low, high = seen.min(), seen.max()
    if high <= low:
        return np.zeros_like(values), "one value only"
    return np.clip((values - low) / (high - low), 0, 1), "percentiles .5–99.5"


def windowed(values: Values, centre: float, width: float, function: str) -> Values:
    """A window of PS3.3 C.11.2.1.2 and C.11.2.1.3 with an output of 0 to 1.

    Raises:
        EvalfmError: ``function`` is none of LINEAR, LINEAR_EXACT and SIGMOID.
    """
    if function == "SIGMOID":
        # The bound keeps exp from overflowing; beyond it the result is 0 or 1 in any case.
        exponent = np.clip(-4 * (values - centre) / width, -700, 700)
        return np.asarray(1 / (1 + np.exp(exponent)))
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1))
    if function != "LINEAR":
        raise EvalfmError(f"its VOI LUT function {function!r} is none of LINEAR, LINEAR_EXACT and SIGMOID")
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.asarray(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1))


def is_inverted(dataset: Dataset) -> bool:
    """Whether the smallest value is white; MONOCHROME1 and a presentation LUT of INVERSE say the same."""
    return bool(
        dataset.get("PhotometricInterpretation") == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    )


def padding_of(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Where the stored values are padding: the padding value, or all up to its range limit (C.7.5.1.1.2)."""
    value = _number(dataset.get("PixelPaddingValue"))
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = _number(dataset.get("PixelPaddingRangeLimit"))
    low, high = sorted(_as_stored(each, dataset) for each in (value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def _as_stored(value: float, dataset: Dataset) -> int:
    """A padding value written as unsigned although the pixels are signed, or the other way round."""
    span = 2 ** int(dataset.get("BitsAllocated", 16))
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    wrapped = int(value) % span
    return int(wrapped - span if signed and wrapped >= span // 2 else wrapped)


def _table(item: Dataset, *, signed: bool) -> tuple[NDArray[np.int64], int, int]:
    """Entries of a look-up table, the value that the first entry stands for, and the bits of an entry."""
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    # 65536 entries do not fit into the descriptor and are written as 0; a negative start may come unsigned.
    entries = entries % 65536 or 65536
    first = first - 65536 if signed and first > 32767 else first
    data = item.LUTData
    if isinstance(data, bytes):
        # Entries of 8 bits may be packed two to a word.
        table = np.frombuffer(data, np.uint8 if len(data) < 2 * entries else "<u2")
    else:
        table = np.atleast_1d(np.asarray(data))
    table = table[:entries].astype(np.int64)
    if len(table) < entries or not 1 <= bits <= 16:
        raise EvalfmError(f"its look-up table of {entries} entries holds {len(table)}")
    # Entries that need more bits than the descriptor says are taken at their word.
    return table, first, max(bits, int(table.max()).bit_length())


def _through(table: NDArray[np.int64], first: int, values: NDArray[Any]) -> Values:
    """The table holds on beyond both of its ends."""
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return np.asarray(table[index], dtype=np.float64)


def _number(value: Any) -> float | None:
    """The first of the numbers of an element; None where it is absent or empty."""
    if isinstance(value, list | tuple | MultiValue):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)
