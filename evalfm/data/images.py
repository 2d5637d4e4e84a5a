"""One image of any kind in its stored depth or as float32, with its unit and spacing; nothing of its depth is lost."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from evalfm.data.arrays import array_size, item, read_array
from evalfm.data.dicom import dicom_attributes, dicom_size, plausible_spacing, read_dicom_image
from evalfm.data.locators import LinkedRoot
from evalfm.data.raster import raster_size, read_raster
from evalfm.data.stored import (
    JSRT_SIDE,
    Image,
    Kind,
    Stored,
    StoredImage,
    decoding,
    is_jsrt_raw,
    kind_of,
    read_jsrt_raw,
    reason,
)
from evalfm.errors import EvalfmError, UnknownNameError

UNITS = ("unit-interval", "HU", "raw")
BYTE_DEPTHS = (1, 2, 4, 8)
"""Depths whose levels are whole levels of a byte: 255 is a multiple of 2^bits − 1."""

__all__ = [
    "UNITS",
    "Image",
    "StoredImage",
    "dicom_attributes",
    "image_digest",
    "image_size",
    "is_constant",
    "plausible_spacing",
    "read_image",
    "read_stored",
    "read_stored_depth",
    "resolve",
]


def read_image(locator: str, root: Path, *, bits: int | None = None, unit: str | None = None) -> Image:
    """Read one image: PNG, JPEG, TIFF, GIF, BMP, DICOM or an array of NPZ or NPY, distinguished by content.

    A file called ``.img`` of 2048 × 2048 two-byte numbers is an image of JSRT.

    Whole numbers are divided by 2^bits − 1. DICOM images take modality LUT, then VOI LUT, else the first
    window, else the .5 to 99.5 percentile; CT and MR keep their rescaled values. Opacity is dropped, three
    equal channels become one. Orientation tags of JPEG are not applied: masks are drawn on the stored grid.

    Args:
        locator: path under ``root``, with a member, page or frame behind ``#`` (``set.npz#train_images/17``).
        root: folder that the locator may not leave, but by links of a ``LinkedRoot``.
        bits: significant bits of the stored numbers, where fewer than their type holds; not for DICOM.
        unit: unit of the values where the file does not say; HU and raw are not divided.

    Raises:
        EvalfmError: absent, truncated, of an unknown kind, with NaN, or outside ``root``.

    >>> import PIL.Image
    >>> PIL.Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save("grey.png")
    >>> read_image("grey.png", Path(".")).pixels.tolist()
    [[[0.0, 1.0]]]
    """
    return read_stored_depth(locator, root, bits=bits, unit=unit).image()


def read_stored_depth(locator: str, root: Path, *, bits: int | None = None, unit: str | None = None) -> StoredImage:
    """Read one image as ``read_image`` does, in the depth in which it is stored: a fraction of the cost for 8 bits.

    Raises:
        EvalfmError: as ``read_image``.

    >>> import PIL.Image
    >>> PIL.Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save("grey.png")
    >>> read_stored_depth("grey.png", Path(".")).pixels
    array([[[  0, 255]]], dtype=uint8)
    """
    if unit is not None and unit not in UNITS:
        raise UnknownNameError("unit", unit, UNITS)
    path, member = resolve(locator, root)
    with _reading(locator):
        kind = kind_of(path)
        if kind == "dicom":
            image = read_dicom_image(path, member, locator)
            if unit is not None and unit != image.unit:
                raise EvalfmError(
                    f"{locator} is a DICOM file in {image.unit}, not in {unit}; leave the data set's unit open."
                )
        else:
            image = _scaled(_read_file(path, member, locator, kind), locator, bits, unit or "unit-interval")
            if image.pixels.dtype != np.uint8 and not np.isfinite(image.pixels).all():
                raise EvalfmError(f"{locator} holds NaN or infinite pixels; fix it or take it out of the table.")
        return _without_equal_channels(image)


def read_stored(locator: str, root: Path) -> Stored:
    """The stored values [C, H, W] of an image file, unscaled.

    Raises:
        EvalfmError: as for ``read_image``, and for DICOM, whose stored values mean little without the header.
    """
    path, member = resolve(locator, root)
    kind = kind_of(path)
    if kind == "dicom":
        raise EvalfmError(f"{locator} is a DICOM file, where a mask or plain picture is wanted; save it as PNG.")
    with _reading(locator):
        return _read_file(path, member, locator, kind)


def image_size(locator: str, root: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone.

    Raises:
        EvalfmError: the file is absent, outside ``root`` or has no readable header.
    """
    path, member = resolve(locator, root)
    kind = kind_of(path)
    with _reading(locator):
        if kind == "dicom":
            return dicom_size(path, member, locator)
        if kind in ("zip", "npy"):
            return array_size(path, member)
        if is_jsrt_raw(path):
            return JSRT_SIDE, JSRT_SIDE
        return raster_size(path, member, locator)


def image_digest(locator: str, root: Path) -> str:
    """SHA-256 in hex of what is stored: the bytes of the file, or type, shape and values of an array's item.

    A frame or page but the first is distinguished by its number.

    Raises:
        EvalfmError: the file is absent, outside ``root`` or cannot be read.
    """
    path, member = resolve(locator, root)
    if kind_of(path) in ("zip", "npy"):
        with _reading(locator):
            values = item(path, member)
        # Byte order is not content.
        values = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
        head = f"{values.dtype.str}{values.shape}".encode()
        return hashlib.sha256(head + values.tobytes()).hexdigest()
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
    except OSError as error:
        raise EvalfmError(f"{locator} cannot be read ({error.strerror}); check the file.") from None
    if member is not None and member.strip("0"):
        digest.update(f"#{member}".encode())
    return digest.hexdigest()


def resolve(locator: str, root: Path) -> tuple[Path, str | None]:
    """The file that ``locator`` names under ``root``, and the member behind ``#``; links inside are followed.

    Raises:
        EvalfmError: the locator is absolute, leaves with ``..`` or through a link, or names no plain file.
    """
    name, mark, member = locator.partition("#")
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or "\0" in locator or ".." in parts or name[1:2] == ":":
        raise EvalfmError(f"{locator!r} leaves the data set's folder; write a path relative to its root, without '..'.")
    path = root / name
    try:
        mode = _mode_without_links(os.fspath(root), name)
        if mode is None:
            path = path.resolve()
            if not isinstance(root, LinkedRoot) and not path.is_relative_to(root.resolve()):
                raise EvalfmError(
                    f"{locator!r} leaves the data set's folder through a link; put the file inside the root, or write "
                    "`follow_links: true` into dataset.yaml if you trust where links lead."
                )
            mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = 0
    except (OSError, RuntimeError, ValueError) as error:
        raise EvalfmError(f"{locator!r} cannot be reached ({error}); check the path and its links.") from None
    if not stat.S_ISREG(mode):
        raise EvalfmError(f"There is no file {locator} under {root}; check the path or import the data again.")
    return path, member if mark else None


def _mode_without_links(root: str, name: str) -> int | None:
    """Mode of ``root/name``, or None where a link lies between them; without one it cannot leave the root.

    A tenth of the cost of resolving both paths, which is paid for every image of a table.
    """
    # Windows has junctions, which are links that lstat does not call so.
    if os.name == "nt":
        return None
    path, mode = root, 0
    for name_of_folder in name.split("/"):
        path = f"{path}/{name_of_folder}"
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return None
    return mode


def is_constant(image: Image | StoredImage) -> bool:
    """Whether every pixel has one value, as of an image that was never exposed or exported wrongly."""
    first = image.pixels[:, :1, :1]
    # The first row shows of almost every image that it varies, for a thousandth of the cost.
    return bool((image.pixels[:, :1] == first).all() and (image.pixels == first).all())


def _reading(locator: str) -> AbstractContextManager[None]:
    """Whatever goes wrong within is the fault of this one image; its readers say more where they can."""
    return decoding(lambda error: EvalfmError(f"{locator} cannot be read ({reason(error)}); export it again."))


def _read_file(path: Path, member: str | None, locator: str, kind: Kind) -> Stored:
    if kind in ("zip", "npy"):
        return read_array(path, member)
    if is_jsrt_raw(path):
        return read_jsrt_raw(path, locator)
    return read_raster(path, member, locator)


def _scaled(stored: Stored, locator: str, bits: int | None, unit: str) -> StoredImage:
    values, depth = stored.values, stored.bits if bits is None else bits
    if unit != "unit-interval":
        return StoredImage(values.astype(np.float32), unit, depth, None, f"{stored.rule}, values as stored")
    levels = _levels(values, depth)
    if levels is not None:
        return StoredImage(levels, unit, depth, None, f"{stored.rule}, divided by 2^{depth} − 1")
    is_float = values.dtype.kind == "f"
    if is_float and bits is None:
        pixels, rule = values.astype(np.float32), "0–1 as stored"
    else:
        if bits is None and depth > 16:
            raise EvalfmError(
                f"{locator} stores {values.dtype} numbers, which does not say how many bits are significant; "
                "state them with --bits (8 for values up to 255)."
            )
        pixels = _divided(values, depth)
        rule = f"divided by 2^{depth} − 1"
    lowest, highest = float(pixels.min()), float(pixels.max())
    # NaN and infinity are reported by the caller, as what they are.
    if math.isfinite(lowest) and math.isfinite(highest) and (lowest < 0 or highest > 1):
        remedy = "state its significant bits with --bits" if not is_float else "scale it to 0–1 or state --bits"
        raise EvalfmError(
            f"{locator} holds values from {values.min():g} to {values.max():g}, outside of "
            f"{'0 to 1' if is_float and bits is None else f'{depth} bits'}; {remedy}, or the unit."
        )
    return StoredImage(pixels, unit, depth, None, f"{stored.rule}, {rule}")


def _levels(values: NDArray[Any], depth: int) -> NDArray[np.uint8] | None:
    """Whole numbers of ``depth`` bits as levels of a byte, 255 for 2^depth − 1; None where they are none."""
    if values.dtype.kind not in "ui" or depth not in BYTE_DEPTHS:
        return None
    top = 2**depth - 1
    if (values.dtype != np.uint8 or depth < 8) and (values.max() > top or values.min() < 0):
        return None
    return (
        values.astype(np.uint8, copy=False) * np.uint8(255 // top) if depth < 8 else values.astype(np.uint8, copy=False)
    )


def _divided(values: NDArray[Any], depth: int) -> NDArray[np.float32]:
    """``values`` / (2^depth − 1) to the last bit; up to 16 bits float32 alone does that, at a fraction of the cost."""
    if values.dtype.kind in "ui" and values.dtype.itemsize <= 2 and depth <= 16:
        pixels = values.astype(np.float32)
        pixels /= np.float32(2**depth - 1)
        return pixels
    return (values / np.float64(2**depth - 1)).astype(np.float32)


def _without_equal_channels(image: StoredImage) -> StoredImage:
    """Grey stored as colour has one channel, whatever the file format made of it."""
    pixels = image.pixels
    # The first row shows of almost every picture in colour that it is one.
    if len(pixels) != 3 or not (_equal_channels(pixels[:, :1]) and _equal_channels(pixels)):
        return image
    grey = cast("NDArray[np.uint8] | NDArray[np.float32]", np.ascontiguousarray(pixels[:1]))
    return replace(image, pixels=grey, rule=f"{image.rule}, three equal channels taken as one")


def _equal_channels(pixels: NDArray[Any]) -> bool:
    return bool((pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all())
