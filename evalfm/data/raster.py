"""PNG, JPEG, GIF and TIFF with every stored bit."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from evalfm.data.stored import Stored, channels_first
from evalfm.errors import EvalfmError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LARGEST_PIXELS = 400_000_000
"""A film may be large, a decompression bomb may not."""
_DEPTH = {"1": 1, "L": 8, "RGB": 8, "I;16": 16, "I;16B": 16, "I;16L": 16}

FAULTS = (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, KeyError, Pillow.DecompressionBombError)


def read_raster(path: Path, member: str | None, locator: str) -> Stored:
    """The pixels of a file; orientation tags of cameras are not applied, the stored grid is the film's.

    Raises:
        EvalfmError: truncated, of an unknown kind, or of a depth that cannot be read whole.
    """
    try:
        head = _head(path)
        if head.startswith(TIFF_SIGNATURES):
            return _read_tiff(path, member)
        if member is not None:
            raise EvalfmError(f"{locator} names a member, but {path.name} holds one image; leave out what follows '#'.")
        _refuse_deep_colour(head, path)
        return _read_pillow(path)
    except (UnidentifiedImageError, *FAULTS) as error:
        raise EvalfmError(
            f"{locator} cannot be read as an image ({_reason(error)}); export it again or take it out of the table."
        ) from None


def raster_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header."""
    try:
        if _head(path).startswith(TIFF_SIGNATURES):
            with tifffile.TiffFile(path) as opened:
                page = opened.pages[0]
                return int(page.imagelength), int(page.imagewidth)
        with Pillow.open(path) as opened:
            return opened.height, opened.width
    except (UnidentifiedImageError, *FAULTS) as error:
        raise EvalfmError(
            f"{path.name} cannot be read as an image ({_reason(error)}); export it again or take it out of the table."
        ) from None


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(32)


def _refuse_deep_colour(head: bytes, path: Path) -> None:
    """Pillow would cut 16-bit colour PNG to 8 bits without a word."""
    if head.startswith(PNG_SIGNATURE) and len(head) >= 26 and head[24] == 16 and head[25] != 0:
        raise EvalfmError(
            f"{path.name} is a PNG with 16 bits in several channels, which cannot be read whole; save it as 16-bit grey "
            "PNG or as TIFF."
        )


def _read_pillow(path: Path) -> Stored:
    with Pillow.open(path) as opened:
        if opened.width * opened.height > LARGEST_PIXELS:
            raise EvalfmError(f"{path.name} claims {opened.width} × {opened.height} pixels; no film is that large.")
        opened.load()
        kind = str(opened.format)
        if opened.mode in ("P", "PA"):
            picture = _from_palette(opened)
        elif opened.mode in ("RGBA", "RGBX"):
            picture = opened.convert("RGB")
        elif opened.mode in ("LA", "La"):
            picture = opened.convert("L")
        elif opened.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            picture = opened.convert("RGB")
        else:
            picture = opened
        values = np.array(picture)
        mode = picture.mode
    if mode == "I":
        return Stored(values[None], 16 if 0 <= values.min() and values.max() < 2**16 else 32, kind)
    if mode == "F":
        return Stored(values[None], 32, kind)
    found = channels_first(values.astype(np.uint8) if values.dtype == bool else values)
    if found is None or mode not in _DEPTH:
        raise EvalfmError(f"{path.name} has pixels of mode {mode}, which are not known; save it as grey PNG.")
    return Stored(found.astype(found.dtype.newbyteorder("=")), _DEPTH[mode], kind)


def _from_palette(opened: Pillow.Image) -> Pillow.Image:
    """Colours of a palette; grey where every colour is grey. A bare 0/1 palette keeps its indices as 0 and 255."""
    coloured = opened.convert("RGB")
    red, green, blue = (np.asarray(channel) for channel in coloured.split())
    return coloured.split()[0] if (red == green).all() and (red == blue).all() else coloured


def _read_tiff(path: Path, member: str | None) -> Stored:
    with tifffile.TiffFile(path) as opened:
        pages = len(opened.pages)
        if member is None and pages > 1:
            raise EvalfmError(f"{path.name} has {pages} pages; name one as {path.name}#0.")
        if member is not None and not (member.isdecimal() and int(member) < pages):
            raise EvalfmError(f"{path.name}#{member} is none of its {pages} pages; count from 0.")
        page = opened.pages[int(member or 0)]
        photometric = int(page.photometric)
        depth = page.bitspersample
        if page.imagelength * page.imagewidth > LARGEST_PIXELS:
            raise EvalfmError(f"{path.name} claims {page.imagewidth} × {page.imagelength} pixels; no film is that large.")
        try:
            values = page.asarray()
        except ValueError as error:
            # tifffile leaves some compressions to an optional library; Pillow reads the common ones itself.
            if "imagecodecs" not in str(error) or member not in (None, "0"):
                raise
            stored = _read_pillow(path)
            sixteen = stored.bits == 16 and photometric == 0
            return Stored(65535 - stored.values, 16, "TIFF, white is zero") if sixteen else stored
    found = channels_first(np.asarray(values))
    if found is None or photometric not in (0, 1, 2):
        raise EvalfmError(f"{path.name} is a TIFF of a kind that is not known; save it as grey.")
    bits = int(depth[0] if isinstance(depth, tuple) else depth)
    found = _native(found)
    if photometric == 0 and not np.issubdtype(found.dtype, np.floating):
        return Stored((2**bits - 1 - found.astype(np.int64)).astype(found.dtype), bits, "TIFF, white is zero")
    return Stored(found, bits, "TIFF")


def _native(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == bool:
        return values.astype(np.uint8)
    return values.astype(values.dtype.newbyteorder("="))


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "not a known kind of image" if isinstance(error, UnidentifiedImageError) else text
