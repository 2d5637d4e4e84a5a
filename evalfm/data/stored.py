"""Images: pixel values as a file holds them, scaled or not, and what kind of file it is by its content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evalfm.errors import EvalfmError

Kind = Literal["dicom", "zip", "npy", "tiff", "picture"]

MOST_PIXELS = 40_000_000
"""An image that claims more is refused before its memory is allocated; digitised mammograms have up to 38 million."""
MOST_CHANNELS = 4
MOST_BYTES = 2**29
LONGEST_SIDE = 2**16
MOST_FRAMES = 10_000
"""Pages or frames of one file that are counted; a small file may claim or chain any number."""
JSRT_SUFFIX, JSRT_SIDE, JSRT_BITS = ".img", 2048, 12

_LONGEST_REASON = 200

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


@dataclass(frozen=True, eq=False)
class Image:
    """Pixels as an encoder's preprocessing wants them.

    Attributes:
        pixels: float32 [C, H, W], C = 1 or 3 as stored; air dark, bone bright.
        unit: ``unit-interval`` for images and photographs, ``HU`` for CT, ``raw`` for MR and others.
        bits: significant bits of the stored pixels.
        spacing_mm: (row, column) spacing of the stored pixels, or None where unknown.
        rule: how intensities were made and where the spacing was found, in a few stable words.
    """

    pixels: NDArray[np.float32]
    unit: str
    bits: int
    spacing_mm: tuple[float, float] | None
    rule: str


@dataclass(frozen=True, eq=False)
class StoredImage:
    """Pixels in the depth in which they are stored; fields as those of ``Image`` but for ``pixels``.

    Attributes:
        pixels: [C, H, W]: uint8, where 255 stands for 1, of whole numbers of 1, 2, 4 or 8 bits in the unit interval;
            else float32.
        scale: what one level of ``pixels`` stands for, in the image's unit.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    unit: str
    bits: int
    spacing_mm: tuple[float, float] | None
    rule: str

    @property
    def scale(self) -> float:
        """1/255 for uint8, else 1."""
        return 1 / 255 if self.pixels.dtype == np.uint8 else 1.0

    def image(self) -> Image:
        """The same image as float32."""
        values = self.pixels.astype(np.float32, copy=False)
        if self.pixels.dtype == np.uint8:
            values /= np.float32(255)
        return Image(values, self.unit, self.bits, self.spacing_mm, self.rule)


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


def check_pixels(height: int, width: int, name: str, channels: int = 1, itemsize: int = 1) -> None:
    """Refuse an image that is empty or claims more than any radiograph has; ``itemsize`` in bytes per number.

    Raises:
        EvalfmError: ``name`` has no pixels, more than ``MOST_PIXELS``, ``MOST_CHANNELS`` or ``MOST_BYTES``, or a side
            above ``LONGEST_SIDE``.
    """
    if height < 1 or width < 1 or channels < 1:
        raise EvalfmError(f"{name} has no pixels; take it out of the table.")
    too_many = height * width > MOST_PIXELS or max(height, width) > LONGEST_SIDE
    if too_many or height * width * channels * itemsize > MOST_BYTES:
        shown = f"{height} × {width}" + (f" × {channels}" if channels > 1 else "")
        raise EvalfmError(
            f"{name} claims {shown} pixels, more than any image has; "
            "take it out of the table, or cut it into smaller images."
        )
    if channels > MOST_CHANNELS:
        raise EvalfmError(f"{name} is an image of {channels} channels; save it with one or three.")


@contextmanager
def decoding(refusal: Callable[[BaseException], EvalfmError]) -> Iterator[None]:
    """Make whatever a decoder raises the fault of its file: one sentence, made by ``refusal``.

    Decoders raise anything on damaged data, also classes outside Exception (Rust's panics), which would pass every
    handler above and end the work on all other images. Interrupts and exits go through.
    """
    try:
        yield
    except (EvalfmError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except MemoryError:
        raise refusal(MemoryError("it needs more memory than there is")) from None
    except BaseException as error:
        raise refusal(error) from None


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
    """The first line of what another library said, and the next one that it announces; a few words are enough."""
    lines = [line.strip() for line in str(error).strip().split("\n", 2)[:2]]
    said = " ".join(lines if lines[0].endswith(":") else lines[:1]).rstrip(".: ")
    said = "".join(sign for sign in said if sign.isprintable())
    said = said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]} …"
    return said or type(error).__name__


def native(values: NDArray[Any]) -> NDArray[Any]:
    """``values`` in the machine's byte order, truth values as 0 and 1."""
    if values.dtype == bool:
        return values.astype(np.uint8)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def is_jsrt_raw(path: Path) -> bool:
    """Whether ``path`` has the ending and the length of an image of JSRT; there is no mark to know one by."""
    return path.suffix.lower() == JSRT_SUFFIX and path.stat().st_size == 2 * JSRT_SIDE**2


def read_jsrt_raw(path: Path, locator: str) -> Stored:
    """An image of JSRT with air dark: 4095 less the stored value (2048 × 2048, big-endian, no header).

    Raises:
        EvalfmError: a value has more than 12 bits, so that it is another format.
    """
    values = np.fromfile(path, dtype=">u2").reshape(1, JSRT_SIDE, JSRT_SIDE)
    top = 2**JSRT_BITS - 1
    if values.max() > top:
        raise EvalfmError(
            f"{locator} holds values up to {values.max()}, where JSRT's images have 12 bits; check the file."
        )
    return Stored((top - values).astype(np.uint16), JSRT_BITS, "JSRT raw, inverted")
