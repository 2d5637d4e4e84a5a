"""DICOM images and slices as pixels, and the few tags that may be read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from evalfm.data.dicom_frames import decoded_frame, items_of, read_dicom
from evalfm.data.dicom_intensity import Numbers, is_inverted, modality_values, padding_of, to_unit_interval
from evalfm.data.dicom_luts import palette
from evalfm.data.stored import StoredImage, check_pixels, decoding, frame_number, kind_of, reason
from evalfm.errors import EvalfmError

ADULT_HEIGHT_MM = 250.0
"""An image of an adult's chest is higher; a spacing that makes it lower is that of a resized copy."""
ADULT_YEARS = 18.0
OLDEST_AGE = 90.0
"""Older patients are 90: few are, so that their age would name them."""
LONGEST_LIFE = 120.0
"""A header that says more is wrong, such as 413 in SIIM-ACR."""
MODALITY_UNITS = {"CT": "HU", "MR": "raw", "PT": "raw", "NM": "raw"}
"""Modalities whose values mean something of themselves; all others are images and pictures."""
FILM_MODALITIES = ("CR", "DX")

_CHEST = ("", "CHEST", "THORAX")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PER_FRAME = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence")
_SIZE_TAGS = ["Rows", "Columns", "NumberOfFrames"]
_SPACING_TAGS = ["PixelSpacing", "ImagerPixelSpacing"]
_ATTRIBUTE_TAGS = ["PatientSex", "PatientAge", "ViewPosition", "Manufacturer", "Modality", *_SPACING_TAGS]
_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
_RUN_LENGTH = "1.2.840.10008.1.2.5"

Spacing = tuple[float, float]


class DicomAttributes(TypedDict):
    """All that ever leaves a DICOM header; None where it is unknown."""

    sex: str | None
    age: float | None
    view: str | None
    manufacturer: str | None
    modality: str | None
    spacing: Spacing | None


def read_dicom_image(path: Path, frame: str | None, locator: str) -> StoredImage:
    """One frame: modality LUT, for images VOI LUT, first window or percentiles, MONOCHROME1 inverted once.

    CT gives HU and MR raw values after the modality LUT alone, padding included. In images padding becomes air
    (0). Colour gives RGB.

    Raises:
        EvalfmError: no pixels, an unknown transfer syntax, damaged, or several frames and none chosen.
    """
    with decoding(lambda error: _damaged(locator, error)):
        dataset = read_dicom(path)
        if not any(keyword in dataset for keyword in _PIXEL_KEYWORDS):
            raise EvalfmError(f"{locator} is a DICOM file without pixels; take it out of the table.")
        check_pixels(int(dataset.Rows), int(dataset.Columns), locator, int(dataset.get("SamplesPerPixel") or 1))
        number = frame_number(frame, int(dataset.get("NumberOfFrames") or 1), locator)
        stored = _decoded(dataset, number, locator)
        # A window would turn infinity into white or black, unseen.
        if stored.dtype.kind == "f" and not np.isfinite(stored).all():
            raise EvalfmError(f"{locator} holds NaN or infinite pixels; fix it or take it out of the table.")
        # The bytes of the pixels are decoded; on a large image they are as large again as all that follows.
        for keyword in _PIXEL_KEYWORDS:
            dataset.pop(keyword, None)
        _raise_to_top(dataset, number)
        if int(dataset.get("SamplesPerPixel", 1)) == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
            return _colour_image(stored, dataset, locator)
        return _grey_image(stored, dataset, locator)


def dicom_size(path: Path, frame: str | None, locator: str) -> tuple[int, int]:
    """(height, width) from the header.

    Raises:
        EvalfmError: the header is damaged or has no size, or ``frame`` is none of its frames.
    """
    dataset = _header(path, locator, _SIZE_TAGS)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise EvalfmError(f"{locator} is a DICOM file without pixels; take it out of the table.")
    with decoding(lambda error: _damaged(locator, error)):
        frame_number(frame, int(dataset.get("NumberOfFrames") or 1), locator)
        height, width = int(dataset.Rows), int(dataset.Columns)
    check_pixels(height, width, locator)
    return height, width


def dicom_attributes(path: Path) -> DicomAttributes:
    """Sex, age (years, 90 at most), view, manufacturer, modality and spacing (mm); no other tag is read.

    Raises:
        EvalfmError: the file is no DICOM or its header is damaged.
    """
    if kind_of(path) != "dicom":
        raise EvalfmError(f"{path.name} is no DICOM file; give one that has the DICM mark at byte 128.")
    dataset = _header(path, path.name, _ATTRIBUTE_TAGS)

    def text(tag: str) -> str | None:
        return str(dataset.get(tag, "") or "").strip() or None

    # A damaged value shows when it is read.
    with decoding(lambda error: _damaged(path.name, error)):
        sex = (text("PatientSex") or "").upper()
        return {
            "sex": sex if sex in ("F", "M", "O") else None,
            "age": age_in_years(text("PatientAge")),
            "view": text("ViewPosition"),
            "manufacturer": text("Manufacturer"),
            "modality": text("Modality"),
            "spacing": _spacing(dataset)[0],
        }


def age_in_years(text: str | None) -> float | None:
    """Years of an age string such as ``045Y`` or ``018M``, 90 at most; None where it is none or above 120.

    A bare number of up to three digits is years, as SIIM-ACR's headers have it.
    """
    if text is not None and text.isascii() and text.isdecimal() and len(text) <= 3:
        text = f"{text}Y"
    if text is None or len(text) < 2 or not (text.isascii() and text[:-1].isdecimal()):
        return None
    per_year = _PER_YEAR.get(text[-1].upper())
    years = None if per_year is None else int(text[:-1]) / per_year
    return None if years is None or years > LONGEST_LIFE else min(years, OLDEST_AGE)


def plausible_spacing(spacing: Spacing | None, height: int, *, age: float | None = None) -> Spacing | None:
    """``spacing`` of a chest image of ``height`` pixels, or None where an adult's would be under 250 mm high.

    ``age`` in years; an unknown one counts as adult.
    """
    if spacing is None or (age is not None and age < ADULT_YEARS):
        return spacing
    return None if spacing[0] * height < ADULT_HEIGHT_MM else spacing


def _header(path: Path, locator: str, tags: list[str]) -> Dataset:
    with decoding(lambda error: _damaged(locator, error)):
        return read_dicom(path, tags)


def _damaged(locator: str, error: BaseException) -> EvalfmError:
    return EvalfmError(f"{locator} is a damaged DICOM file ({reason(error)}); export it again.")


def _raise_to_top(dataset: Dataset, number: int) -> None:
    """Bring up rescale, window and spacing, which enhanced files state per frame or for all in groups."""
    shared = items_of(dataset, "SharedFunctionalGroupsSequence")[:1]
    own = items_of(dataset, "PerFrameFunctionalGroupsSequence")[number : number + 1]
    for group in (*shared, *own):
        for keyword in _PER_FRAME:
            for macro in items_of(group, keyword)[:1]:
                dataset.update(macro)


def _decoded(dataset: Dataset, number: int, locator: str) -> NDArray[Any]:
    """Stored values [H, W] or [H, W, 3] (as RGB) of one frame."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    as_stored = syntax in _UNCOMPRESSED or syntax == _RUN_LENGTH
    # Floats have neither of the two.
    highest = int(dataset.get("BitsStored") or 0) - 1
    if as_stored and "PixelData" in dataset and int(dataset.get("HighBit", highest)) != highest:
        raise EvalfmError(
            f"{locator} keeps its {dataset.BitsStored} bits below bit {dataset.HighBit}, an old layout that "
            "cannot be read; convert it with a DICOM tool."
        )

    def refusal(error: BaseException) -> EvalfmError:
        if isinstance(error, NotImplementedError):
            return EvalfmError(
                f"{locator} has a transfer syntax that cannot be read ({reason(error)}); "
                "convert it to JPEG 2000 or uncompressed."
            )
        said = reason(error).rpartition("available plugins: ")[2]
        return EvalfmError(f"The pixels of {locator} cannot be decoded ({said}); export it again.")

    with decoding(refusal):
        return decoded_frame(dataset, number, locator)


def _colour_image(stored: NDArray[Any], dataset: Dataset, locator: str) -> StoredImage:
    photometric = str(dataset.PhotometricInterpretation)
    bits, luts = int(dataset.BitsStored), []
    if photometric == "PALETTE COLOR":
        try:
            luts = palette(dataset)
        except EvalfmError as error:
            raise EvalfmError(f"{locator} cannot be read: {error}; export it again.") from None
        bits = max(lut.bits for lut in luts)
    elif photometric not in _COLOURS:
        raise EvalfmError(f"{locator} has colours of kind {photometric!r}, which are not known; convert it to RGB.")
    spacing, measured = _spacing(dataset)
    rule = f"DICOM {photometric}; {measured}"
    if not luts and bits == 8 and stored.dtype == np.uint8:
        return StoredImage(np.ascontiguousarray(np.moveaxis(stored, 2, 0)), "unit-interval", bits, spacing, rule)
    pixels = np.empty((3, *stored.shape[:2]), dtype=np.float32)
    for channel in range(3):
        values = luts[channel].through(stored) if luts else stored[..., channel]
        pixels[channel] = values / np.float64(2**bits - 1)
    return StoredImage(pixels, "unit-interval", bits, spacing, rule)


def _grey_image(stored: NDArray[Any], dataset: Dataset, locator: str) -> StoredImage:
    """What the header makes of each number that is stored, looked up for every pixel."""
    numbers = Numbers.of(stored)
    try:
        values, first_step = modality_values(numbers.each, dataset)
        modality = str(dataset.get("Modality") or "")
        unit = MODALITY_UNITS.get(modality, "unit-interval")
        spacing, measured = _spacing(dataset)
        bits = int(dataset.get("BitsStored") or stored.dtype.itemsize * 8)
        if unit != "unit-interval":
            # Without slope and intercept, or with another type, the values of a CT are no Hounsfield units.
            if unit == "HU" and (first_step != "rescaled" or dataset.get("RescaleType") not in (None, "", "HU")):
                unit = "raw"
            pixels = numbers.everywhere(_finite(values, locator))
            return StoredImage(pixels[None], unit, bits, spacing, f"DICOM {first_step}; {measured}")
        padding = padding_of(numbers.each, dataset)
        scaled, second_step = to_unit_interval(values, dataset, padding, numbers.counts)
    except EvalfmError as error:
        raise EvalfmError(f"{locator} cannot be read: {error}; export it again.") from None
    steps = [first_step, second_step]
    if is_inverted(dataset):
        scaled = 1.0 - scaled
        steps.append("inverted")
    if padding.any():
        scaled[padding] = 0.0
        if padding_of(stored, dataset).any():
            steps.append("padding to air")
    if _is_chest_radiograph(modality, dataset):
        plausible = plausible_spacing(spacing, len(stored), age=age_in_years(str(dataset.get("PatientAge") or "")))
        measured = measured if plausible == spacing else f"{measured} implausible"
        spacing = plausible
    pixels = numbers.everywhere(_finite(scaled, locator), exact=False)
    return StoredImage(pixels[None], unit, bits, spacing, f"DICOM {', '.join(steps)}; {measured}")


def _finite(values: NDArray[np.float64], locator: str) -> NDArray[np.float32]:
    """``values`` in single precision."""
    single = values.astype(np.float32)
    if not np.isfinite(single).all():
        raise EvalfmError(f"{locator} holds NaN or infinite pixels; fix it or take it out of the table.")
    return single


def _is_chest_radiograph(modality: str, dataset: Dataset) -> bool:
    return modality in FILM_MODALITIES and str(dataset.get("BodyPartExamined") or "").strip().upper() in _CHEST


def _spacing(dataset: Dataset) -> tuple[Spacing | None, str]:
    """(row, column) spacing in mm and where it was found; the detector's own where none was calibrated."""
    for tag in _SPACING_TAGS:
        value = dataset.get(tag)
        if not isinstance(value, str) and value is not None and len(value) == 2:
            row, column = float(value[0]), float(value[1])
            if math.isfinite(row) and math.isfinite(column) and row > 0 and column > 0:
                return (row, column), tag
    return None, "no spacing"
