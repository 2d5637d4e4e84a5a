"""DICOM films and slices: intensity by the standard's own steps, and the few tags that may be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, pixel_array

from evalfm.errors import EvalfmError

ADULT_HEIGHT_MM = 250.0
"""A film of an adult's chest is higher; a spacing that makes it lower is that of a resized copy."""
PERCENTILES = (0.5, 99.5)
UNIT_OF_MODALITY = {"CT": "HU", "MR": "raw", "PT": "raw", "NM": "raw"}
OLDEST_AGE = 90
_YEARS = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}


@dataclass(frozen=True)
class Film:
    """Pixels of one frame, scaled; fields as in ``evalfm.data.images.Image``."""

    pixels: NDArray[np.float32]
    unit: str
    bits: int
    spacing_mm: tuple[float, float] | None
    rule: str


def is_dicom(path: Path) -> bool:
    """Whether the content is DICOM, whatever the file is called."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_film(path: Path, frame: str | None, *, unit: str | None = None) -> Film:
    """One frame: modality LUT, then for films VOI LUT, first window or percentiles, MONOCHROME1 inverted once.

    CT gives HU and MR raw values, after the modality LUT alone. Padding becomes air.

    Raises:
        EvalfmError: no pixels, an unknown transfer syntax, truncated, or several frames and none chosen.
    """
    dataset = _read(path)
    stored = _decode(dataset, path, frame)
    bits = int(dataset.get("BitsStored", 16))
    own_unit = unit or UNIT_OF_MODALITY.get(str(dataset.get("Modality", "")), "unit-interval")
    spacing, measured = _spacing(dataset)
    if stored.ndim == 3:
        pixels = np.moveaxis(stored, 2, 0).astype(np.float64) / (2**bits - 1)
        return Film(pixels.astype(np.float32), "unit-interval", bits, spacing, f"DICOM colour; {measured}")
    values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    if own_unit != "unit-interval":
        return Film(values.astype(np.float32)[None], own_unit, bits, spacing, f"DICOM rescaled; {measured}")
    padding = _padding(stored, dataset)
    scaled, step = _to_unit_interval(values, dataset, padding)
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1" or (
        dataset.get("PresentationLUTShape") == "INVERSE"
    )
    if inverted:
        scaled = 1.0 - scaled
    scaled[padding] = 0.0
    rule = f"DICOM {step}{', inverted' if inverted else ''}; {measured}"
    return Film(scaled.astype(np.float32)[None], own_unit, bits, plausible_spacing(spacing, scaled.shape[0]), rule)


def film_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header."""
    dataset = _read(path, pixels=False)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise EvalfmError(f"{path.name} is a DICOM file without pixels; take it out of the table.")
    return int(dataset.Rows), int(dataset.Columns)


def dicom_attributes(path: Path) -> dict[str, str | float | None]:
    """Sex, age (years, 90 at most), view, modality and manufacturer; no other tag is ever passed on."""
    dataset = _read(path, pixels=False)

    def text(tag: str) -> str | None:
        return str(dataset.get(tag, "") or "").strip() or None

    sex = text("PatientSex")
    return {
        "sex": sex if sex in ("F", "M", "O") else None,
        "age": _age(text("PatientAge")),
        "view": text("ViewPosition"),
        "modality": text("Modality"),
        "manufacturer": text("Manufacturer"),
    }


def plausible_spacing(spacing: tuple[float, float] | None, height: int) -> tuple[float, float] | None:
    """``spacing`` of a film of ``height`` pixels, or None where it would make an adult's film under 250 mm high."""
    return None if spacing is None or spacing[0] * height < ADULT_HEIGHT_MM else spacing


def _read(path: Path, *, pixels: bool = True) -> Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise EvalfmError(f"{path.name} is a damaged DICOM file ({_line(error)}); export it again.") from None


def _decode(dataset: Dataset, path: Path, frame: str | None) -> NDArray[Any]:
    """Stored values [H, W] or [H, W, 3] (as RGB) of one frame."""
    if "PixelData" not in dataset:
        raise EvalfmError(f"{path.name} is a DICOM file without pixels; take it out of the table.")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if frame is None and frames > 1:
        raise EvalfmError(f"{path.name} has {frames} frames; name one as {path.name}#0.")
    if frame is not None and not (frame.isdecimal() and int(frame) < frames):
        raise EvalfmError(f"{path.name}#{frame} is none of its {frames} frames; count from 0.")
    try:
        return np.array(pixel_array(dataset, index=int(frame or 0)))
    except NotImplementedError as error:
        raise EvalfmError(
            f"{path.name} has a transfer syntax that cannot be read ({_line(error)}); convert it to JPEG 2000 or "
            "uncompressed."
        ) from None
    except Exception as error:  # decoders of other libraries raise whatever they like on damaged data
        raise EvalfmError(f"The pixels of {path.name} cannot be decoded ({_line(error)}); export it again.") from None


def _to_unit_interval(
    values: NDArray[np.float64], dataset: Dataset, padding: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], str]:
    """Values through VOI LUT, else the first window, else percentiles outside the padding, to [0, 1]."""
    luts = dataset.get("VOILUTSequence")
    if luts:
        return _through_lut(values, luts[0]), "VOI LUT"
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is not None and width is not None and width > 0:
        function = str(dataset.get("VOILUTFunction", "LINEAR") or "LINEAR")
        return _windowed(values, centre, width, function), f"window {function}"
    seen = values[~padding] if not padding.all() else values
    low, high = np.percentile(seen, PERCENTILES)
    if high <= low:
        return np.zeros_like(values), "percentiles of a constant film"
    return np.clip((values - low) / (high - low), 0, 1), "percentiles .5–99.5"


def _windowed(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 with an output of 0 to 1."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1))
    if width <= 1:
        return np.asarray((values > centre - 0.5).astype(np.float64))
    return np.asarray(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1))


def _through_lut(values: NDArray[np.float64], lut: Dataset) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.1: the table starts at its first mapped value and holds on beyond both ends."""
    entries, first, bits = (int(value) for value in lut.LUTDescriptor)
    # A descriptor read as unsigned says a negative start as a number above 32767.
    first = first - 65536 if first > 32767 and values.min() < 0 else first
    data = lut.LUTData
    if isinstance(data, bytes):
        table = np.frombuffer(data, dtype=np.uint8 if bits <= 8 and len(data) == (entries or 65536) else "<u2")
    else:
        table = np.atleast_1d(np.asarray(data))
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return np.asarray(np.clip(table[index] / (2**bits - 1), 0, 1), dtype=np.float64)


def _padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Where the film holds its padding value, or lies in the padding range."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    return np.asarray((stored >= low) & (stored <= high))


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str]:
    """(row, column) spacing in mm and where it was found."""
    for tag in ("PixelSpacing", "ImagerPixelSpacing"):
        value = dataset.get(tag)
        if value is not None and len(value) == 2 and float(value[0]) > 0 and float(value[1]) > 0:
            return (float(value[0]), float(value[1])), tag
    return None, "no spacing"


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    several = isinstance(value, (list, tuple, pydicom.multival.MultiValue))
    return float(value[0]) if several else float(value)


def _age(text: str | None) -> float | None:
    """Years of an age string such as ``045Y`` or ``018M``."""
    if text is None or len(text) < 2 or not text[:-1].isdecimal() or text[-1].upper() not in _YEARS:
        return None
    return min(float(int(text[:-1]) / _YEARS[text[-1].upper()]), OLDEST_AGE)


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
