"""Masks as run lengths, in the three dialects of the public data sets, both ways."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evalfm.errors import EvalfmError, UnknownNameError

Mask = NDArray[np.bool_]
Size = tuple[int, int]
EMPTY = "-1"
"""What SIIM-ACR and CANDID-PTX write for a film without a lesion."""


def decode(dialect: str, text: str, size: Size) -> Mask:
    """The mask [H, W] that ``text`` stands for.

    Args:
        dialect: ``relative`` (SIIM-ACR, CANDID-PTX: pairs of gap and length, column-major, 0-based), ``absolute``
            (CheXmask: pairs of start and length, row-major, 1-based) or ``coco`` (compressed counts, column-major).
        text: the runs; empty or ``-1`` is an empty mask.
        size: (H, W) of the mask as it was written.

    Raises:
        EvalfmError: the runs are malformed or leave the image, as they do when height and width are swapped.
    """
    if dialect not in _DIALECTS:
        raise UnknownNameError("mask dialect", dialect, _DIALECTS)
    stripped = text.strip()
    if stripped in ("", EMPTY):
        return np.zeros(size, dtype=bool)
    return _DIALECTS[dialect][0](stripped, size)


def decode_union(dialect: str, texts: list[str], size: Size) -> Mask:
    """Everything that several rows of one image mark; see ``decode``."""
    union = np.zeros(size, dtype=bool)
    for text in texts:
        union |= decode(dialect, text, size)
    return union


def encode(dialect: str, mask: Mask) -> str:
    """``mask`` [H, W] as text, such that ``decode`` gives it back; an empty one is ``-1`` (``coco``: its counts)."""
    if dialect not in _DIALECTS:
        raise UnknownNameError("mask dialect", dialect, _DIALECTS)
    return _DIALECTS[dialect][1](mask)


def _numbers(text: str) -> NDArray[np.int64]:
    try:
        values = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise EvalfmError(f"A run-length mask holds {_start(text)!r}, which are not whole numbers; mend it.") from None
    if len(values) % 2:
        raise EvalfmError("A run-length mask has an odd number of values, so a run lacks its length; mend it.")
    return values


def _fill(starts: NDArray[np.int64], lengths: NDArray[np.int64], size: Size) -> Mask:
    """A flat mask with the given runs; refuses runs that leave it."""
    pixels = size[0] * size[1]
    ends = starts + lengths
    if (lengths < 0).any() or (starts < 0).any() or (ends > pixels).any():
        raise EvalfmError(
            f"A run-length mask leaves its image of {size[0]} × {size[1]} pixels; "
            "check that its size is (height, width) and that the dialect is right."
        )
    change = np.zeros(pixels + 1, dtype=np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, ends, -1)
    return np.asarray(np.cumsum(change[:-1]) > 0)


def _runs(flat: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and lengths of the runs of True in ``flat``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    return edges[0::2], edges[1::2] - edges[0::2]


def _decode_relative(text: str, size: Size) -> Mask:
    values = _numbers(text)
    gaps, lengths = values[0::2], values[1::2]
    if (gaps < 0).any():
        raise EvalfmError("A relative run-length mask has a negative gap; check that the dialect is right.")
    starts = np.cumsum(gaps) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return _fill(starts, lengths, size).reshape(size[1], size[0]).T


def _encode_relative(mask: Mask) -> str:
    starts, lengths = _runs(mask.T.reshape(-1))
    if not len(starts):
        return EMPTY
    gaps = starts - np.concatenate([[0], (starts + lengths)[:-1]])
    return " ".join(map(str, np.stack([gaps, lengths], axis=1).reshape(-1).tolist()))


def _decode_absolute(text: str, size: Size) -> Mask:
    values = _numbers(text)
    return _fill(values[0::2] - 1, values[1::2], size).reshape(size)


def _encode_absolute(mask: Mask) -> str:
    starts, lengths = _runs(mask.reshape(-1))
    if not len(starts):
        return EMPTY
    return " ".join(map(str, np.stack([starts + 1, lengths], axis=1).reshape(-1).tolist()))


def _decode_coco(text: str, size: Size) -> Mask:
    """Counts in base 32 with a continuation bit; from the third on, as differences to the last but one (pycocotools)."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        digit = ord(letter) - 48
        if not 0 <= digit < 64:
            raise EvalfmError(f"A COCO mask holds {_start(text)!r}, which are no compressed counts; check the dialect.")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    lengths = np.array(counts, dtype=np.int64)
    if shift or (lengths < 0).any() or int(lengths.sum()) != size[0] * size[1]:
        raise EvalfmError(
            f"A COCO mask does not fill its image of {size[0]} × {size[1]} pixels; check that its size is right."
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.asarray(flat.reshape(size[1], size[0]).T)


def _encode_coco(mask: Mask) -> str:
    starts, lengths = _runs(mask.T.reshape(-1))
    ends = starts + lengths
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    if len(starts) and ends[-1] == mask.size:
        counts.pop()
    letters: list[str] = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            letters.append(chr(48 + (digit | 32 if more else digit)))
            if not more:
                break
    return "".join(letters)


def _start(text: str) -> str:
    return text if len(text) <= 20 else text[:20] + "…"


_DIALECTS: dict[str, tuple[Callable[[str, Size], Mask], Callable[[Mask], str]]] = {
    "relative": (_decode_relative, _encode_relative),
    "absolute": (_decode_absolute, _encode_absolute),
    "coco": (_decode_coco, _encode_coco),
}
