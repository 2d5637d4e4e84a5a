"""Look-up tables of DICOM: modality (PS3.3 C.11.1), VOI (C.11.2) and palettes (C.7.6.3.1.5, C.7.9.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from evalfm.errors import EvalfmError

MOST_SEGMENTS = 2**17
_COLOURS = ("Red", "Green", "Blue")
_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Lut:
    """A table that holds on beyond both of its ends.

    Attributes:
        entries: [N] whole numbers.
        first: the value that the first entry stands for.
        bits: bits of an entry.
    """

    entries: NDArray[np.int64]
    first: int
    bits: int

    def through(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The entries that ``values`` stand for."""
        # Far beyond its ends a value cannot be counted in 64 bits, nor need it.
        near = np.clip(values, self.first, self.first + len(self.entries) - 1)
        return np.asarray(self.entries[np.rint(near).astype(np.int64) - self.first], dtype=np.float64)


def is_signed(dataset: Dataset) -> bool:
    """Whether stored values are signed, which the start of a table on them then is too."""
    return int(dataset.get("PixelRepresentation") or 0) == 1


def stored_range(dataset: Dataset) -> Range:
    """Lowest and highest value that the header allows to be stored, whatever is; of floats without bounds."""
    if dataset.get("BitsStored") is None:
        return -np.inf, np.inf
    span = 2 ** int(dataset.BitsStored)
    return (-span / 2, span / 2 - 1) if is_signed(dataset) else (0, span - 1)


def modality_lut(item: Dataset, dataset: Dataset) -> Lut:
    """The table on stored values; its start has their sign (C.11.1.1.1).

    Raises:
        EvalfmError: it holds fewer entries than it says, or entries of no or more than 16 bits.
    """
    return _lut(item, dataset, lambda first: is_signed(dataset))


def voi_lut(item: Dataset, dataset: Dataset, rescaled: Range | None) -> Lut:
    """The table on what the modality step gave; ``rescaled``: the range after slope and intercept, where there are any.

    Its start has the sign of the stored values where no modality step is; behind a modality LUT it is not negative; and
    behind slope and intercept it is signed where their range may be (C.11.2.1.1), unless that start lies outside of
    the range and the other one inside.

    Raises:
        EvalfmError: as for ``modality_lut``.
    """

    def signed(first: int) -> bool:
        if rescaled is None:
            return is_signed(dataset) and not dataset.get("ModalityLUTSequence")
        low, high = rescaled
        inside = [low <= start <= high for start in (first, first - 2**16)]
        return inside[1] if inside[0] != inside[1] else low < 0

    return _lut(item, dataset, signed)


def palette(dataset: Dataset) -> list[Lut]:
    """The tables of red, green and blue.

    Raises:
        EvalfmError: as for ``modality_lut``, or the palette is absent or not to be expanded.
    """
    luts = []
    for colour in _COLOURS:
        name = f"{colour}PaletteColorLookupTable"
        plain, segmented = f"{name}Data", f"Segmented{name}Data"
        if f"{name}Descriptor" not in dataset or (plain not in dataset and segmented not in dataset):
            raise EvalfmError("it has no palette for its colours")
        data = plain if plain in dataset else segmented
        luts.append(_lut(dataset, dataset, lambda first: is_signed(dataset), f"{name}Descriptor", data))
    return luts


def _lut(
    item: Dataset,
    dataset: Dataset,
    signed: Callable[[int], bool],
    descriptor: str = "LUTDescriptor",
    data: str = "LUTData",
) -> Lut:
    implicit, little = dataset.original_encoding
    described = item[descriptor].value
    if isinstance(described, bytes):
        described = np.frombuffer(described, ">u2" if little is False else "<u2").tolist()
    count, first, bits = (int(value) for value in described)
    # 65536 entries do not fit into the descriptor and are written as 0.
    count = count % 2**16 or 2**16
    # A negative number was written as such, except where the file names no types and pydicom chose one.
    if first >= 0 or implicit:
        first %= 2**16
        # Makers write a negative start as unsigned all the same, whatever type they name.
        first = first - 2**16 if first >= 2**15 and signed(first) else first
    if not 1 <= bits <= 16:
        raise EvalfmError(f"its look-up table has entries of {bits} bits")
    element = item[data]
    if data.startswith("Segmented"):
        table, packed = _expanded(_numbers(element.value, bits, little is False), bits, count), bits <= 8
    else:
        table, packed = _entries(element.value, element.VR, count, bits, little is False)
    if len(table) < count:
        raise EvalfmError(f"its look-up table of {count} entries holds {len(table)}")
    # Entries that need more bits than the descriptor says are taken at their word; bytes hold 8.
    return Lut(table, first, max(min(bits, 8) if packed else bits, int(table.max()).bit_length()))


def _entries(value: Any, kind: str, count: int, bits: int, big: bool) -> tuple[NDArray[np.int64], bool]:
    """The entries, and whether each had a byte; 8 bits stand in a word of their own or two to a word, the low first."""
    if isinstance(value, bytes):
        if len(value) >= 2 * count:
            return np.frombuffer(value, ">u2" if big else "<u2", count).astype(np.int64), False
        swapped = big and kind != "OB"
        return _bytes(value, swapped)[:count].astype(np.int64), True
    words = np.atleast_1d(np.asarray(value, dtype=np.int64)) % 2**16
    if len(words) < count <= 2 * len(words) and bits <= 8 and words.max() > 255:
        return words.astype("<u2").view(np.uint8)[:count].astype(np.int64), True
    return words[:count], False


def _numbers(value: Any, bits: int, big: bool) -> list[int]:
    """The segments of a segmented palette as numbers of 8 or 16 bits."""
    if not isinstance(value, bytes):
        value, big = (np.atleast_1d(np.asarray(value, dtype=np.int64)) % 2**16).astype("<u2").tobytes(), False
    if bits <= 8:
        return list(map(int, _bytes(value, big)))
    return list(map(int, np.frombuffer(value[: len(value) // 2 * 2], ">u2" if big else "<u2")))


def _bytes(value: bytes, swapped: bool) -> NDArray[np.uint8]:
    if not swapped:
        return np.frombuffer(value, np.uint8)
    return np.frombuffer(value[: len(value) // 2 * 2], np.uint8).reshape(-1, 2)[:, ::-1].reshape(-1)


def _expanded(numbers: list[int], bits: int, count: int) -> NDArray[np.int64]:
    """The table that discrete, linear and indirect segments stand for, ``count`` entries at most (C.7.9.2)."""
    table: list[int] = []
    left = MOST_SEGMENTS

    def expand(place: int, segments: int, within: bool) -> None:
        nonlocal left
        while place + 1 < len(numbers) and segments and len(table) < count:
            kind, length = numbers[place : place + 2]
            place, segments, left = place + 2, segments - 1, left - 1
            if left < 0:
                raise EvalfmError("its palette never ends")
            if kind == _DISCRETE:
                table.extend(numbers[place : place + length])
                place += length
            elif kind == _LINEAR and table and place < len(numbers):
                steps = np.arange(1, length + 1) / max(length, 1)
                table.extend(np.rint(table[-1] + (numbers[place] - table[-1]) * steps).astype(int).tolist())
                place += 1
            elif kind == _INDIRECT and not within and place + (4 if bits <= 8 else 2) <= len(numbers):
                # The offset is in bytes, its lowest part first.
                parts, width = (4, 8) if bits <= 8 else (2, 16)
                offset = sum(part << width * order for order, part in enumerate(numbers[place : place + parts]))
                expand(offset * 8 // width, length, True)
                place += parts
            else:
                raise EvalfmError(f"its palette has a segment of kind {kind} that cannot be expanded")

    expand(0, len(numbers), False)
    return np.array(table[:count], dtype=np.int64)
