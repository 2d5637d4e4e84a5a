"""Pixel values as a file holds them, and what kind of file it is by its content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evalfm.errors import EvalfmError

Kind = Literal["dicom", "zip", "npy", "tiff", "picture"]

MOST_PIXELS = 2**28
"""An image that claims more pixels is refused before its memory is asked for."""

_STARTS: dict[bytes, Kind] = {
    b"PK\x03\x04": "zip",
    b"\x93NUMPY": "npy",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds, unscaled.

    Attributes:
        values: [C, H, W], C = 1 or 3, in native byte order; air dark where the file says which end is dark.
        bits: bits of a stored value; 1 for values of 0 and 1 that were stored as bits.
        rule: which reading was done, for the record.
        palette_indices: [H, W] of a file with a palette, whose colours are ``values``.
        opacity_varies: whether an opacity channel was dropped that was not the same everywhere.
        white_is_zero: whether the file says so; ``values`` are turned about already.
        lossy: whether its compression changes values.
    """

    values: NDArray[Any]
    bits: int
    rule: str
    palette_indices: NDArray[Any] | None = None
    opacity_varies: bool = False
    white_is_zero: bool = False
    lossy: bool = False


def kind_of(path: Path) -> Kind:
    """What kind of file ``path`` is, by its first bytes, not its name; anything unknown is a ``picture``.

    Raises:
        EvalfmError: the file cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except OSError as error:
        raise EvalfmError(f"{path.name} cannot be read ({error.strerror}); check the file.") from None
    # The 128 bytes before DICM are free, and some files are TIFF and DICOM at once.
    if head[128:] == b"DICM":
        return "dicom"
    return next((kind for start, kind in _STARTS.items() if head.startswith(start)), "picture")


def check_pixels(height: int, width: int, name: str) -> None:
    """Refuse an image that is empty or claims more pixels than any film has.

    Raises:
        EvalfmError: ``name`` has no pixels or more than ``MOST_PIXELS``.
    """
    if height < 1 or width < 1:
        raise EvalfmError(f"{name} has no pixels; take it out of the table.")
    if height * width > MOST_PIXELS:
        raise EvalfmError(
            f"{name} claims {height} × {width} pixels, more than any film has; "
            "take it out of the table, or cut it into smaller images."
        )


def frame_number(member: str | None, frames: int, locator: str, word: str = "frames") -> int:
    """Which of several frames or pages ``member`` names, counted from 0; without one there must be one only.

    Raises:
        EvalfmError: several and none named, or no such frame.
    """
    if member is None:
        if frames > 1:
            raise EvalfmError(f"{locator} has {frames} {word}; name one, the first as {locator}#0.")
        return 0
    if not (member.isascii() and member.isdecimal() and len(member) < 10 and int(member) < frames):
        raise EvalfmError(f"{locator} names none of the {frames} {word} of its file; count them from 0.")
    return int(member)


def reason(error: BaseException) -> str:
    """The first line of what another library said."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def native(values: NDArray[Any]) -> NDArray[Any]:
    """``values`` in the machine's byte order, truth values as 0 and 1."""
    if values.dtype == bool:
        return values.astype(np.uint8)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
