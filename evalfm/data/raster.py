"""PNG, JPEG, GIF, BMP and TIFF with every stored bit."""

from __future__ import annotations

import logging
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from evalfm.data.codestreams import check_scans, check_stream
from evalfm.data.stored import MOST_FRAMES, Stored, check_pixels, decoding, frame_number, kind_of, native, reason
from evalfm.data.tiff import JPEG, page_alone, page_of
from evalfm.errors import EvalfmError

FORMATS = ("PNG", "JPEG", "GIF", "BMP")
"""What Pillow may open: formats of pixels alone, none that runs a program."""
GREY_BITS = {"1": 1, "L": 8, "I": 32, "F": 32}
"""Bits of a pixel in Pillow's modes of one channel."""
# What it has to say of a damaged page is said once, by the sentence that refuses it.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_DRAWN = 2**28
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C
_MINISWHITE, _MINISBLACK, _RGB = 0, 1, 2
_LOSSY = (6, 7, 33003, 33004, 33005, 34712, 34892)
"""Compressions of TIFF that change values: JPEG, JPEG 2000 and their kin."""


def read_raster(path: Path, member: str | None, locator: str) -> Stored:
    """The pixels of a file; orientation tags of cameras are not applied: masks are drawn on the stored grid.

    ``member`` is the page of a TIFF or the frame of a GIF, counted from 0. An opacity channel is dropped.

    Raises:
        EvalfmError: truncated, of an unknown kind, several pages with none named, or of a depth that cannot
            be read whole.
    """
    with decoding(lambda error: _unreadable(locator, error)):
        if kind_of(path) == "tiff":
            return _read_tiff(path, member, locator)
        return _read_picture(path, member, locator)


def raster_size(path: Path, member: str | None, locator: str) -> tuple[int, int]:
    """(height, width) from the header.

    Raises:
        EvalfmError: the header cannot be read, or claims more pixels than any image has.
    """
    with decoding(lambda error: _unreadable(locator, error)):
        size = _png_size(path) if member is None else None
        if size is not None:
            height, width = size
        elif kind_of(path) == "tiff":
            height, width = page_of(path, member, locator).size
        else:
            with Pillow.open(path, formats=FORMATS) as picture:
                height, width = picture.height, picture.width
    check_pixels(height, width, locator)
    return height, width


def _png_size(path: Path) -> tuple[int, int] | None:
    """(height, width) from the first chunk of a PNG, a tenth of the cost of Pillow; None for another file."""
    with path.open("rb") as stream:
        head = stream.read(24)
    if len(head) < 24 or not head.startswith(_PNG_SIGNATURE) or head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def _unreadable(locator: str, error: BaseException) -> EvalfmError:
    known = "not a PNG, JPEG, GIF, BMP, TIFF, DICOM, NPZ or NPY file"
    is_truncated = isinstance(error, struct.error | EOFError | IndexError)
    why = known if isinstance(error, UnidentifiedImageError) else "it is cut short" if is_truncated else reason(error)
    return EvalfmError(f"{locator} cannot be read as an image ({why}); export it again or take it out of the table.")


def _read_picture(path: Path, member: str | None, locator: str) -> Stored:
    _refuse_deep_colour(path, locator)
    with Pillow.open(path, formats=FORMATS) as picture:
        check_pixels(picture.height, picture.width, locator, len(picture.getbands()))
        if picture.format in ("JPEG", "MPO"):
            check_scans(path.read_bytes(), (picture.height, picture.width), locator)
        # A JPEG from a camera may carry a preview as a second picture; the first is the image.
        frames = 1 if picture.format in ("JPEG", "MPO") else _frames(path, picture, locator)
        number = frame_number(member, frames, locator)
        if number:
            # To show one frame all before it are drawn.
            if number * picture.height * picture.width > _MOST_DRAWN:
                raise EvalfmError(f"{locator} is frame {number} of a long animation; save each frame as PNG.")
            picture.seek(number)
        picture.load()
        return replace(_from_pillow(picture, locator), lossy=picture.format in ("JPEG", "MPO"))


def _frames(path: Path, picture: Pillow.Image, locator: str) -> int:
    """How many frames there are; those of a GIF are counted here, since Pillow counts without end."""
    if picture.format != "GIF":
        return int(getattr(picture, "n_frames", 1))
    data, frames = path.read_bytes(), 0
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    blocks = 0
    while place < len(data) and data[place] in (_GIF_EXTENSION, _GIF_IMAGE):
        if data[place] == _GIF_IMAGE:
            frames += 1
            flags = data[place + 9]
            place += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        else:
            place += 2
        while place < len(data) and data[place]:
            place += data[place] + 1
        place += 1
        blocks += 1
        if blocks > 4 * MOST_FRAMES:
            raise EvalfmError(f"{locator} has more than {MOST_FRAMES} frames; cut it into smaller files.")
    return max(frames, 1)


def _refuse_deep_colour(path: Path, locator: str) -> None:
    """Pillow would cut PNG with 16 bits in several channels to 8 bits without a word."""
    with path.open("rb") as stream:
        head = stream.read(26)
    if head.startswith(_PNG_SIGNATURE) and head[24:25] == b"\x10" and head[25:26] != b"\0":
        raise EvalfmError(
            f"{locator} is a PNG with 16 bits in several channels, which cannot be read whole; "
            "save it as 16-bit grey PNG or as TIFF."
        )


def _from_pillow(picture: Pillow.Image, locator: str) -> Stored:
    mode, kind = picture.mode, "JPEG" if picture.format == "MPO" else str(picture.format)
    depth = 16 if mode.startswith("I;16") else GREY_BITS.get(mode)
    if depth is not None:
        return Stored(native(np.asarray(picture))[None], depth, kind)
    if mode in ("LA", "RGBA"):
        *colours, opacity = (np.asarray(band) for band in picture.split())
        return Stored(np.stack(colours), 8, f"{kind}, opacity dropped", opacity_varies=_varies(opacity))
    if mode == "P":
        indices = np.array(picture)
        return Stored(_channels(np.asarray(picture.convert("RGB"))), 8, f"{kind}, palette", indices)
    if mode in ("RGB", "CMYK", "YCbCr"):
        return Stored(_channels(np.asarray(picture.convert("RGB"))), 8, kind)
    raise EvalfmError(f"{locator} has pixels of mode {mode}, which are not known; save it as grey PNG.")


def _channels(colours: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(colours, 2, 0))


def _varies(opacity: NDArray[Any]) -> bool:
    return bool((opacity != opacity.flat[0]).any())


# TIFF


def _read_tiff(path: Path, member: str | None, locator: str) -> Stored:
    page = page_of(path, member, locator)
    alone = page_alone(path, page, locator)
    with tifffile.TiffFile(alone) as picture:
        decoded: Any = picture.pages.first
        photometric = int(decoded.photometric)
        depths = {int(bits) for bits in np.atleast_1d(decoded.bitspersample)}
        is_white_zero, is_lossy = photometric == _MINISWHITE, int(decoded.compression) in _LOSSY
        if int(decoded.compression) in JPEG:
            _check_jpegs(alone, decoded, locator)
        if photometric not in (_MINISWHITE, _MINISBLACK, _RGB):
            return replace(_tiff_by_pillow(alone, depths, locator), lossy=is_lossy)
        try:
            values, axes = np.asarray(decoded.asarray(maxworkers=1)), str(decoded.axes)
        except ValueError as error:
            # tifffile leaves some compressions to an optional library; Pillow reads the common ones itself.
            if "imagecodecs" not in str(error):
                raise
            pillow = _tiff_by_pillow(alone, depths, locator)
            return replace(pillow, white_is_zero=is_white_zero, lossy=is_lossy)
    if axes not in ("YX", "YXS", "SYX") or len(depths) != 1:
        raise EvalfmError(f"{locator} is a TIFF with axes {axes}, which is no image; save it as grey TIFF.")
    if values.dtype.kind not in "buif":
        raise EvalfmError(f"{locator} is a TIFF of {values.dtype}, which is no image; save plain numbers.")
    shown = values[None] if axes == "YX" else values if axes == "SYX" else np.moveaxis(values, 2, 0)
    colours = 3 if photometric == _RGB else 1
    if len(shown) < colours or len(shown) > colours + 1:
        raise EvalfmError(f"{locator} is a TIFF of {len(shown)} channels; save it with one or three.")
    opacity = shown[colours:]
    bits, rule = depths.pop(), "TIFF" + (", opacity dropped" if len(opacity) else "")
    pixels = native(np.ascontiguousarray(shown[:colours]))
    if is_white_zero:
        if pixels.dtype.kind != "u":
            raise EvalfmError(f"{locator} is a TIFF of {pixels.dtype} with white as zero; save it with black as zero.")
        pixels, rule = (2**bits - 1 - pixels).astype(pixels.dtype), f"{rule}, white is zero"
    varies = bool(len(opacity)) and _varies(opacity)
    return Stored(pixels, bits, rule, opacity_varies=varies, white_is_zero=is_white_zero, lossy=is_lossy)


def _check_jpegs(alone: BinaryIO, page: Any, locator: str) -> None:
    size = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        alone.seek(start)
        check_stream(alone.read(length), size, locator, exact=False)


def _tiff_by_pillow(alone: BinaryIO, depths: set[int], locator: str) -> Stored:
    """Palette, CMYK, YCbCr and compressions unknown to tifffile: up to 8 bits, of which Pillow loses none."""
    if max(depths) > 8:
        raise EvalfmError(
            f"{locator} is a TIFF of {max(depths)} bits with colours or a compression that cannot be read "
            "whole; save it as grey TIFF without compression, or install imagecodecs."
        )
    alone.seek(0)
    with Pillow.open(alone, formats=("TIFF",)) as picture:
        picture.load()
        return _from_pillow(picture, locator)
