"""Masks as run lengths, in the three dialects of the public data sets, both ways."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfm.errors import EvalfmError, UnknownNameError

Mask = NDArray[np.bool_]
Runs = NDArray[np.int64]
Size = tuple[int, int]

EMPTY = "-1"
"""What SIIM-ACR and CANDID-PTX write for an image without a lesion; read in every dialect."""
_MOST_LETTERS = 7
"""Letters of 5 bits that a count of 32 bits takes at most."""


def decode(dialect: str, text: str, size: Size) -> Mask:
    """The mask [H, W] that ``text`` stands for.

    Swapped height and width go unseen where the runs still fit, since only COCO's JSON holds the size.

    Args:
        dialect: ``relative`` (SIIM-ACR, CANDID-PTX: pairs of gap and length, column-major, 0-based),
            ``absolute`` (CheXmask: pairs of start and length, row-major, 1-based) or ``coco`` (pycocotools'
            compressed counts, column-major; alone or in JSON with their size).
        text: the runs; ``-1`` is an empty mask.
        size: (H, W) of the mask as it was written.

    Raises:
        EvalfmError: the runs are malformed, overlap, leave the image or belong to one of another size.

    >>> decode("relative", "1 2", (2, 3)).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    height, width = size
    stripped = text.strip()
    decoder = _dialect(dialect)[0]
    if height < 1 or width < 1:
        raise EvalfmError(f"A mask cannot have {height} × {width} pixels; check the size of its image.")
    if not stripped:
        raise EvalfmError("A run-length mask is blank; write -1 where nothing is marked, or leave the cell out.")
    if stripped == EMPTY:
        return np.zeros(size, dtype=bool)
    return decoder(stripped, size)


def decode_union(dialect: str, texts: Iterable[str], size: Size) -> Mask:
    """Everything that several rows of one image mark; see ``decode``.

    >>> decode_union("absolute", ["1 2", "6 1"], (2, 3)).astype(int).tolist()
    [[1, 1, 0], [0, 0, 1]]
    """
    union = np.zeros(size, dtype=bool)
    for text in texts:
        union |= decode(dialect, text, size)
    return union


def encode(dialect: str, mask: Mask) -> str:
    """``mask`` bool [H, W] as text that ``decode`` gives back; an empty one is ``-1``, in COCO its counts.

    Raises:
        ValueError: ``mask`` is not bool [H, W] with pixels.

    >>> encode("relative", np.array([[False, True], [True, False]]))
    '1 2'
    """
    encoder = _dialect(dialect)[1]
    if mask.ndim != 2 or mask.dtype != bool or not mask.size:
        raise ValueError(f"A mask is bool [H, W], not {mask.dtype} {list(mask.shape)}.")
    return encoder(mask)


def _dialect(name: str) -> tuple[Callable[[str, Size], Mask], Callable[[Mask], str]]:
    if name not in _DIALECTS:
        raise UnknownNameError("mask dialect", name, _DIALECTS)
    return _DIALECTS[name]


def _pairs(text: str, size: Size) -> tuple[Runs, Runs]:
    """First and second numbers of the pairs in ``text``, none larger than the image has pixels."""
    words = text.split()
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise EvalfmError(f"A run-length mask holds {_start(text)!r}, which are not all whole numbers; fix it.")
    if len(words) % 2:
        raise EvalfmError("A run-length mask has an odd number of values, so a run lacks its length; fix it.")
    if max(map(len, words)) > 15:
        raise _outside(size)
    values = np.array([int(word) for word in words], dtype=np.int64)
    # A sum of numbers of this size cannot overflow.
    if values.max() > size[0] * size[1]:
        raise _outside(size)
    return values[0::2], values[1::2]


def _outside(size: Size) -> EvalfmError:
    return EvalfmError(
        f"A run-length mask leaves its image of {size[0]} × {size[1]} pixels; "
        "check that its size is (height, width) and that the dialect is right."
    )


def _fill(starts: Runs, lengths: Runs, size: Size) -> Mask:
    """A flat mask with runs that follow one another; refuses runs that overlap or leave the image."""
    pixels = size[0] * size[1]
    ends = starts + lengths
    if starts[0] < 0 or ends.max() > pixels:
        raise _outside(size)
    if (lengths < 1).any() or (starts[1:] < ends[:-1]).any():
        raise EvalfmError("A run-length mask has runs that are empty, overlap or are out of order; check its dialect.")
    counts = np.diff(np.concatenate([[0], np.stack([starts, ends], axis=1).reshape(-1), [pixels]]))
    return _expand(counts)


def _expand(counts: Runs) -> Mask:
    """A flat mask whose runs of False and True, by turns, have the given lengths."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def _runs(flat: Mask) -> tuple[Runs, Runs]:
    """Starts and lengths of the runs of True in ``flat``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    return edges[0::2], edges[1::2] - edges[0::2]


def _joined(first: Runs, second: Runs) -> str:
    return " ".join(map(str, np.stack([first, second], axis=1).reshape(-1).tolist())) or EMPTY


def _decode_relative(text: str, size: Size) -> Mask:
    gaps, lengths = _pairs(text, size)
    starts = np.cumsum(gaps) + np.cumsum(lengths) - lengths
    return _fill(starts, lengths, size).reshape(size[1], size[0]).T


def _encode_relative(mask: Mask) -> str:
    starts, lengths = _runs(mask.T.reshape(-1))
    return _joined(np.diff(starts, prepend=0) - np.concatenate([[0], lengths])[: len(lengths)], lengths)


def _decode_absolute(text: str, size: Size) -> Mask:
    starts, lengths = _pairs(text, size)
    return _fill(starts - 1, lengths, size).reshape(size)


def _encode_absolute(mask: Mask) -> str:
    starts, lengths = _runs(mask.reshape(-1))
    return _joined(starts + 1, lengths)


def _decode_coco(text: str, size: Size) -> Mask:
    if text.startswith("{"):
        text = _counts_of_json(text, size)
    counts = _coco_counts(text)
    if (counts < 0).any() or int(counts.sum()) != size[0] * size[1]:
        raise EvalfmError(
            f"A COCO mask does not fill its image of {size[0]} × {size[1]} pixels; check size and dialect."
        )
    return _expand(counts).reshape(size[1], size[0]).T


def _counts_of_json(text: str, size: Size) -> str:
    """The compressed counts of ``{"size": [H, W], "counts": "…"}``."""
    try:
        content: Any = json.loads(text)
        stated, counts = content["size"], content["counts"]
    except (ValueError, KeyError, RecursionError):
        raise EvalfmError("A COCO mask is no JSON with size and counts; fix it.") from None
    if stated != list(size):
        raise EvalfmError(
            f"A COCO mask has size {stated}, its image {list(size)} (height, width); check that they match."
        )
    if not isinstance(counts, str) or not counts:
        raise EvalfmError("A COCO mask has counts that are not compressed to text; compress them with pycocotools.")
    return counts


def _coco_counts(text: str) -> Runs:
    """Counts in base 32 with a continuation bit; from the fourth on, as differences to the last but one.

    Source: rleFrString in pycocotools' maskApi.c.
    """
    digits = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8).astype(np.int64) - 48
    lasts = np.flatnonzero((digits & 32) == 0)
    letters = np.diff(lasts, prepend=-1)
    malformed = (digits < 0) | (digits > 63)
    if malformed.any() or not len(lasts) or lasts[-1] != len(digits) - 1 or letters.max() > _MOST_LETTERS:
        raise EvalfmError(f"A COCO mask holds {_start(text)!r}, which are no compressed counts; check the dialect.")
    firsts = lasts - letters + 1
    shifts = 5 * (np.arange(len(digits)) - np.repeat(firsts, letters))
    counts: Runs = np.add.reduceat((digits & 31) << shifts, firsts)
    counts -= np.where(digits[lasts] & 16, np.int64(1) << (5 * letters), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def _encode_coco(mask: Mask) -> str:
    starts, lengths = _runs(mask.T.reshape(-1))
    edges = np.stack([starts, starts + lengths], axis=1).reshape(-1)
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    letters: list[str] = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            letters.append(chr(48 + (digit | 32 if more else digit)))
    return "".join(letters)


def _start(text: str) -> str:
    return text if len(text) <= 20 else text[:20] + "…"


_DIALECTS: dict[str, tuple[Callable[[str, Size], Mask], Callable[[Mask], str]]] = {
    "relative": (_decode_relative, _encode_relative),
    "absolute": (_decode_absolute, _encode_absolute),
    "coco": (_decode_coco, _encode_coco),
}
