"""One image of any kind as float32, with its unit, depth and spacing; nothing of its depth is lost."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from evalfm.data import arrays, dicom, raster
from evalfm.data.stored import Stored
from evalfm.errors import EvalfmError

UNITS = ("unit-interval", "HU", "raw")


@dataclass(frozen=True)
class Image:
    """Pixels as an encoder's preprocessing wants them.

    Attributes:
        pixels: float32 [C, H, W], C = 1 or 3 as stored; air dark, bone bright.
        unit: ``unit-interval`` for films and photographs, ``HU`` for CT, ``raw`` for MR and others.
        bits: significant bits of the stored pixels.
        spacing_mm: (row, column) spacing of the stored pixels, or None where unknown.
        rule: how intensities were made, part of the feature key.
    """

    pixels: NDArray[np.float32]
    unit: str
    bits: int
    spacing_mm: tuple[float, float] | None
    rule: str


def read_image(locator: str, root: Path, *, bits: int | None = None, unit: str | None = None) -> Image:
    """Read one image.

    Files are divided by 2^bits − 1; DICOM films take modality LUT, then VOI LUT, else the first window, else the .5 to
    99.5 percentile; CT and MR keep their values. Three equal channels become one.

    Args:
        locator: path under ``root``, with a member or frame behind ``#`` (``set.npz#train_images/17``).
        root: folder that the locator may not leave.
        bits: significant bits, where the stored type is wider than what was measured.
        unit: unit of the values where the file does not say.

    Raises:
        EvalfmError: absent, truncated, of an unknown kind, with NaN, or outside ``root``.
    """
    path, member = resolve(locator, root)
    if dicom.is_dicom(path):
        film = dicom.read_film(path, member, unit=unit)
        return _checked(Image(film.pixels, film.unit, film.bits, film.spacing_mm, film.rule), locator)
    stored = _stored(path, member, locator)
    return _checked(_scaled(stored, locator, bits, unit), locator)


def stored_array(locator: str, root: Path) -> Stored:
    """The stored values of an image file [C, H, W], unscaled; not for DICOM."""
    path, member = resolve(locator, root)
    return _stored(path, member, locator)


def image_size(locator: str, root: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the header where there is one."""
    path, member = resolve(locator, root)
    if dicom.is_dicom(path):
        return dicom.film_size(path)
    if arrays.is_array_file(path):
        height, width = arrays.read_array(path, member).values.shape[1:]
        return int(height), int(width)
    return raster.raster_size(path)


def image_digest(locator: str, root: Path) -> str:
    """SHA-256 in hex of what is stored: the file's bytes, or the member's type, shape and values."""
    path, member = resolve(locator, root)
    if member is not None and arrays.is_array_file(path):
        values = arrays.read_array(path, member).values
        return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
    except OSError as error:
        raise EvalfmError(f"{locator} cannot be read ({error.strerror}); check the file.") from None
    if member is not None:
        digest.update(f"#{member}".encode())
    return digest.hexdigest()


def resolve(locator: str, root: Path) -> tuple[Path, str | None]:
    """The file that ``locator`` names under ``root``, and the member behind ``#``.

    Raises:
        EvalfmError: the locator is absolute, climbs out with ``..`` or through a link, or names no file.
    """
    name, mark, member = locator.partition("#")
    inside = PurePosixPath(name.replace("\\", "/"))
    if not name or "\0" in name or inside.is_absolute() or ".." in inside.parts or name[1:2] == ":":
        raise EvalfmError(f"{locator!r} leaves the data set's folder; write paths relative to its root, without '..'.")
    path = root / name
    # A name without links under a root without links stays inside; only links need the slow look.
    real = path.resolve()
    if not real.is_relative_to(root.resolve()):
        raise EvalfmError(f"{locator!r} leaves the data set's folder through a link; put the file inside the root.")
    if not real.is_file():
        raise EvalfmError(f"There is no file {locator} under the data set's root; check the path or import again.")
    return real, member if mark else None


def is_constant(image: Image) -> bool:
    """Whether every pixel has one value, as of a film that was never exposed or exported wrongly."""
    return bool(image.pixels.min() == image.pixels.max())


def needs_bits(highest: int, stored_bits: int) -> bool:
    """Whether a set of ``stored_bits`` files whose largest value is ``highest`` must be told its significant bits."""
    return stored_bits == 16 and highest < 2**15


def _stored(path: Path, member: str | None, locator: str) -> Stored:
    if arrays.is_array_file(path):
        return arrays.read_array(path, member)
    return raster.read_raster(path, member, locator)


def _scaled(stored: Stored, locator: str, bits: int | None, unit: str | None) -> Image:
    values, rule = stored.values, stored.rule
    if values.shape[0] == 3 and (values[0] == values[1]).all() and (values[0] == values[2]).all():
        values, rule = values[:1], rule + "; three equal channels taken as one"
    if unit not in (None, "unit-interval"):
        if unit not in UNITS:
            raise EvalfmError(f"There is no unit {unit!r}; take one of {', '.join(UNITS)}.")
        return Image(values.astype(np.float32), str(unit), bits or stored.bits, None, f"{rule}; values as stored")
    if np.issubdtype(values.dtype, np.floating):
        if np.isfinite(values).all() and (values.min() < 0 or values.max() > 1):
            raise EvalfmError(
                f"{locator} holds numbers from {values.min():g} to {values.max():g}; scale them to 0–1, or state their "
                "unit (HU or raw) in dataset.yaml."
            )
        return Image(values.astype(np.float32), "unit-interval", stored.bits, None, f"{rule}; 0–1 as stored")
    depth = bits or stored.bits
    if values.size and (int(values.max()) >= 2**depth or int(values.min()) < 0):
        raise EvalfmError(
            f"{locator} holds values from {values.min()} to {values.max()}, outside of {depth} bits; "
            "state the significant bits of the set with --bits."
        )
    pixels = (values / np.float64(2**depth - 1)).astype(np.float32)
    return Image(pixels, "unit-interval", depth, None, f"{rule}; divided by 2^{depth} − 1")


def _checked(image: Image, locator: str) -> Image:
    if not image.pixels.size:
        raise EvalfmError(f"{locator} has no pixels; take it out of the table.")
    if not np.isfinite(image.pixels).all():
        raise EvalfmError(f"{locator} holds NaN or infinite pixels; mend it or take it out of the table.")
    return image
