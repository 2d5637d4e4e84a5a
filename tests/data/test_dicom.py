"""DICOM files written here: what is stored arrives by the standard's steps, whatever the encoding."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from evalfm.data.dicom import age_in_years, plausible_spacing
from evalfm.data.images import dicom_attributes, image_digest, image_size, read_image
from evalfm.data.masks import read_mask_file
from evalfm.errors import EvalfmError

from ..dicoms import dicom_header

HEIGHT, WIDTH = 16, 24
RAMP12 = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 10).reshape(HEIGHT, WIDTH)
RAMP8 = (RAMP12 // 16).astype(np.uint8)
COLOUR = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
# All 4096 values of 12 bits by LINEAR_EXACT, so that nothing but the division by 4096 changes them.
WHOLE_RANGE = {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"}


def write(
    path: Path,
    values: NDArray[Any],
    *,
    syntax: str = ExplicitVRLittleEndian,
    frames: list[bytes] | None = None,
    **elements: Any,
) -> Dataset:
    """A DICOM file of ``values`` [H, W], [F, H, W] or [H, W, 3]; ``frames`` are their compressed bytes."""
    dataset = dicom_header(syntax)
    grid = values.shape
    if values.ndim == 3 and grid[2] == 3:
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
    elif values.ndim == 3:
        dataset.NumberOfFrames, grid = grid[0], grid[1:]
    dataset.Rows, dataset.Columns = grid[0], grid[1]
    dataset.BitsAllocated = dataset.BitsStored = values.dtype.itemsize * 8
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.HighBit = elements.get("HighBit", dataset.BitsStored - 1)
    word = "OB" if frames is not None or values.dtype.itemsize == 1 else "OW"
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    raw = values.astype(values.dtype.newbyteorder(order)).tobytes()
    dataset.add_new("PixelData", word, raw if frames is None else encapsulate(frames))
    if frames is not None:
        dataset["PixelData"].is_undefined_length = True
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return dataset


def pixels(path: Path, member: str = "") -> NDArray[np.float32]:
    image = read_image(path.name + member, path.parent)
    assert image.pixels.dtype == np.float32
    assert image.unit == "unit-interval"
    return image.pixels


def refused(path: Path, member: str = "") -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(EvalfmError) as caught:
        read_image(path.name + member, path.parent)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image.dcm"


class TestEncodings:
    @pytest.mark.parametrize(
        "syntax",
        [
            ImplicitVRLittleEndian,
            ExplicitVRLittleEndian,
            ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian,
            RLELossless,
            JPEGLSLossless,
            JPEG2000Lossless,
        ],
    )
    @pytest.mark.parametrize("bits", [8, 12, 16])
    def test_without_loss(self, path: Path, syntax: str, bits: int) -> None:
        values = RAMP8 if bits == 8 else RAMP12 if bits == 12 else RAMP12 * 16
        elements = {"BitsStored": bits, "WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
        elements |= {"VOILUTFunction": "LINEAR_EXACT", "PixelSpacing": [0.5, 0.25]}
        if syntax == RLELossless:
            dataset = write(path, values, **elements)
            dataset.compress(RLELossless, encoding_plugin="pydicom")
            dataset.save_as(path, enforce_file_format=True)
        elif syntax == JPEGLSLossless:
            write(path, values, syntax=syntax, frames=[imagecodecs.jpegls_encode(values)], **elements)
        elif syntax == JPEG2000Lossless:
            stream = imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=True, bitspersample=bits)
            write(path, values, syntax=syntax, frames=[stream], **elements)
        else:
            write(path, values, syntax=syntax, **elements)
        np.testing.assert_allclose(pixels(path)[0], values / 2.0**bits, atol=1e-7)
        image = read_image(path.name, path.parent)
        assert (image.bits, image.spacing_mm) == (bits, None if HEIGHT * 0.5 < 250 else (0.5, 0.25))
        assert image_size(path.name, path.parent) == (HEIGHT, WIDTH)

    @pytest.mark.parametrize("syntax", [JPEG2000Lossless, ExplicitVRLittleEndian, RLELossless])
    def test_signed(self, path: Path, syntax: str) -> None:
        values = RAMP12.astype(np.int16) - 2000
        elements = WHOLE_RANGE | {"WindowCenter": 0, "BitsStored": 13}
        if syntax == JPEG2000Lossless:
            stream = imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=True, bitspersample=13)
            write(path, values, syntax=syntax, frames=[stream], **elements)
        else:
            dataset = write(path, values, **elements)
            if syntax == RLELossless:
                dataset.compress(RLELossless, encoding_plugin="pydicom")
                dataset.save_as(path, enforce_file_format=True)
        np.testing.assert_allclose(pixels(path)[0], np.clip(values / 4096 + 0.5, 0, 1), atol=1e-7)

    def test_bits_above_the_stored_ones_are_not_pixels(self, path: Path) -> None:
        # Old files keep overlays there.
        write(path, RAMP12 | 0xF000, BitsStored=12, BitsAllocated=16, **WHOLE_RANGE)
        np.testing.assert_allclose(pixels(path)[0], RAMP12 / 4096, atol=1e-7)
        negative = (RAMP12.astype(np.int32) - 2048).astype(np.int16)
        write(path, negative & 0x0FFF, BitsStored=12, **(WHOLE_RANGE | {"WindowCenter": 0}))
        np.testing.assert_allclose(pixels(path)[0], RAMP12 / 4096, atol=1e-7)

    def test_jpeg_baseline(self, path: Path) -> None:
        smooth = (np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) * 6).astype(np.uint8)
        stream = io.BytesIO()
        Pillow.fromarray(smooth).save(stream, "JPEG", quality=98)
        elements = {"WindowCenter": 128, "WindowWidth": 256}
        write(path, smooth, syntax=JPEGBaseline8Bit, frames=[stream.getvalue()], **elements)
        assert np.abs(pixels(path)[0] * 255 - smooth).max() < 3

    def test_lossy_jpeg_2000(self, path: Path) -> None:
        stream = imagecodecs.jpeg2k_encode(RAMP12, codecformat="j2k", level=60, bitspersample=12)
        write(path, RAMP12, syntax=JPEG2000, frames=[stream], BitsStored=12, **WHOLE_RANGE)
        assert np.abs(pixels(path)[0] * 4096 - RAMP12).max() < 20

    def test_a_file_without_suffix(self, tmp_path: Path) -> None:
        write(tmp_path / "1.2.840.99", RAMP12, **WHOLE_RANGE)
        np.testing.assert_allclose(pixels(tmp_path / "1.2.840.99")[0], RAMP12 / 4096, atol=1e-7)

    def test_frames_are_named(self, path: Path) -> None:
        write(path, np.stack([RAMP12, RAMP12[::-1], RAMP12 // 2]), **WHOLE_RANGE)
        np.testing.assert_allclose(pixels(path, "#1")[0], RAMP12[::-1] / 4096, atol=1e-7)
        np.testing.assert_allclose(pixels(path, "#2")[0], (RAMP12 // 2) / 4096, atol=1e-7)
        assert image_size("image.dcm#2", path.parent) == (HEIGHT, WIDTH)
        assert "has 3 frames" in refused(path)
        assert "none of the 3 frames" in refused(path, "#3")
        assert len({image_digest(f"image.dcm#{frame}", path.parent) for frame in range(3)}) == 3

    def test_frames_of_an_enhanced_file_have_their_own_steps(self, path: Path) -> None:
        def group(keyword: str, **elements: Any) -> Dataset:
            outer, inner = Dataset(), Dataset()
            for name, value in elements.items():
                setattr(inner, name, value)
            setattr(outer, keyword, [inner])
            return outer

        shared = group("PixelMeasuresSequence", PixelSpacing=[0.7, 0.6])
        own = [
            group(
                "PixelValueTransformationSequence",
                RescaleSlope=slope,
                RescaleIntercept=-1024,
                RescaleType="HU",
            )
            for slope in (1, 2)
        ]
        write(
            path,
            np.stack([RAMP12, RAMP12]),
            Modality="CT",
            SharedFunctionalGroupsSequence=[shared],
            PerFrameFunctionalGroupsSequence=own,
        )
        for frame, slope in enumerate((1, 2)):
            image = read_image(f"image.dcm#{frame}", path.parent)
            assert (image.unit, image.spacing_mm) == ("HU", (0.7, 0.6))
            np.testing.assert_array_equal(image.pixels[0], RAMP12.astype(np.float32) * slope - 1024)


class TestSteps:
    def test_rescale_goes_before_the_window(self, path: Path) -> None:
        elements = {"WindowCenter": 1000, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"}
        write(path, RAMP12, BitsStored=12, RescaleSlope=0.5, RescaleIntercept=100, **elements)
        np.testing.assert_allclose(pixels(path)[0], np.clip((RAMP12 * 0.5 + 100) / 2000, 0, 1), atol=1e-7)

    @pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
    def test_windows(self, path: Path, function: str | None) -> None:
        elements: dict[str, Any] = {"WindowCenter": [1500, 9], "WindowWidth": [1000, 9]}
        if function is not None:
            elements["VOILUTFunction"] = function
        write(path, RAMP12, BitsStored=12, **elements)
        stored = RAMP12.astype(float)
        expected = {
            "LINEAR": np.clip((stored - 1499.5) / 999 + 0.5, 0, 1),
            "LINEAR_EXACT": np.clip((stored - 1500) / 1000 + 0.5, 0, 1),
            "SIGMOID": 1 / (1 + np.exp(-4 * (stored - 1500) / 1000)),
        }[function or "LINEAR"]
        np.testing.assert_allclose(pixels(path)[0], expected, atol=1e-6)

    def test_voi_lut_goes_before_the_window(self, path: Path) -> None:
        item = Dataset()
        item.LUTDescriptor, item.LUTExplanation = [4096, 0, 12], "INVERTED"
        item.add_new("LUTData", "US", (4095 - np.arange(4096)).tolist())
        write(path, RAMP12, BitsStored=12, VOILUTSequence=[item], WindowCenter=5, WindowWidth=10)
        np.testing.assert_allclose(pixels(path)[0], (4095 - RAMP12.astype(float)) / 4095, atol=1e-7)

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    def test_modality_lut_goes_before_the_window(self, path: Path, syntax: str) -> None:
        item = Dataset()
        item.ModalityLUTType = "OD"
        item.add_new("LUTDescriptor", "US", [4096, 0, 16])
        item.add_new("LUTData", "US", (np.arange(4096) * 2 + 7).tolist())
        elements = {"WindowCenter": 5000, "WindowWidth": 10000, "VOILUTFunction": "LINEAR_EXACT"}
        write(path, RAMP12, syntax=syntax, BitsStored=12, ModalityLUTSequence=[item], **elements)
        np.testing.assert_allclose(pixels(path)[0], (RAMP12 * 2.0 + 7) / 10000, atol=1e-7)

    def test_percentiles_leave_out_padding_which_becomes_air(self, path: Path) -> None:
        values = np.full((60, 40), 60000, np.uint16)
        values[:25] = np.arange(1000).reshape(25, 40)
        write(path, values, PixelPaddingValue=60000)
        # Percentiles .5 and 99.5 of 0 … 999 by linear interpolation.
        expected = np.clip((np.arange(1000) - 4.995) / (994.005 - 4.995), 0, 1).reshape(25, 40)
        result = pixels(path)[0]
        np.testing.assert_allclose(result[:25], expected, atol=1e-6)
        assert (result[25:] == 0).all()

    def test_padding_is_air_in_inverted_images_too(self, path: Path) -> None:
        values = RAMP12.copy()
        values[:2] = 0
        write(path, values, BitsStored=12, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
        result = pixels(path)[0]
        assert (result[:2] == 0).all()
        assert result[2, 1] > 0.95 > 0.05 > result[-1, -1]

    @pytest.mark.parametrize("shape", [None, "INVERSE", "IDENTITY"])
    @pytest.mark.parametrize("steps", ["window", "percentiles"])
    def test_monochrome1_is_inverted_exactly_once(self, path: Path, shape: str | None, steps: str) -> None:
        elements = dict(WHOLE_RANGE) if steps == "window" else {}
        write(path, RAMP12, BitsStored=12, **elements)
        upright = pixels(path)
        if shape is not None:
            elements["PresentationLUTShape"] = shape
        write(path, RAMP12, BitsStored=12, PhotometricInterpretation="MONOCHROME1", **elements)
        np.testing.assert_allclose(pixels(path), 1 - upright, atol=1e-6)
        assert read_image(path.name, path.parent).rule.count("inverted") == 1

    def test_a_presentation_lut_of_inverse_alone_inverts(self, path: Path) -> None:
        write(path, RAMP12, BitsStored=12, PresentationLUTShape="INVERSE", **WHOLE_RANGE)
        np.testing.assert_allclose(pixels(path)[0], 1 - RAMP12 / 4096, atol=1e-6)

    def test_an_unknown_window_function_is_refused(self, path: Path) -> None:
        write(path, RAMP12, **(WHOLE_RANGE | {"VOILUTFunction": "CUBIC"}))
        assert "CUBIC" in refused(path)


class TestSlices:
    def test_ct_is_in_hounsfield_units_without_window_and_clipping(self, path: Path) -> None:
        values = RAMP12.astype(np.int16) - 1000
        elements = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
        write(path, values, Modality="CT", PixelSpacing=[0.8, 0.7], **elements)
        image = read_image(path.name, path.parent)
        assert (image.unit, image.spacing_mm) == ("HU", (0.8, 0.7))
        np.testing.assert_array_equal(image.pixels[0], values.astype(np.float32) * 2 - 1024)

    def test_ct_without_rescale_or_in_other_units_is_no_hu(self, path: Path) -> None:
        write(path, RAMP12, Modality="CT")
        assert read_image(path.name, path.parent).unit == "raw"
        write(path, RAMP12, Modality="CT", RescaleSlope=1, RescaleIntercept=0, RescaleType="ED")
        assert read_image(path.name, path.parent).unit == "raw"

    def test_mr_keeps_its_values(self, path: Path) -> None:
        write(path, RAMP12, Modality="MR", WindowCenter=100, WindowWidth=50, RescaleSlope=3, RescaleIntercept=1)
        image = read_image(path.name, path.parent)
        assert image.unit == "raw"
        np.testing.assert_array_equal(image.pixels[0], RAMP12.astype(np.float32) * 3 + 1)

    def test_a_unit_that_the_file_contradicts_is_refused(self, path: Path) -> None:
        write(path, RAMP12, **WHOLE_RANGE)
        with pytest.raises(EvalfmError, match="in unit-interval, not in HU"):
            read_image(path.name, path.parent, unit="HU")


class TestColour:
    def test_rgb_in_either_layout(self, path: Path) -> None:
        expected = COLOUR.transpose(2, 0, 1) / 255
        write(path, COLOUR, Modality="US")
        np.testing.assert_allclose(pixels(path), expected, atol=1e-7)
        dataset = write(path, COLOUR, Modality="US")
        dataset.PlanarConfiguration = 1
        dataset.PixelData = np.ascontiguousarray(COLOUR.transpose(2, 0, 1)).tobytes()
        dataset.save_as(path, enforce_file_format=True)
        np.testing.assert_allclose(pixels(path), expected, atol=1e-7)

    def test_ybr_becomes_rgb(self, path: Path) -> None:
        r, g, b = np.moveaxis(COLOUR.astype(float), 2, 0)
        # ITU-R BT.601, full range, as PS3.3 C.7.6.3.1.2 prints it.
        luma = 0.2990 * r + 0.5870 * g + 0.1140 * b
        blue = -0.1687 * r - 0.3313 * g + 0.5000 * b + 128
        red = 0.5000 * r - 0.4187 * g - 0.0813 * b + 128
        stored = np.clip(np.rint(np.dstack([luma, blue, red])), 0, 255).astype(np.uint8)
        write(path, stored, Modality="US", PhotometricInterpretation="YBR_FULL")
        assert np.abs(pixels(path) * 255 - COLOUR.transpose(2, 0, 1)).max() <= 2

    def test_jpeg_colour(self, path: Path) -> None:
        flat = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        flat[:] = (200, 90, 30)
        stream = io.BytesIO()
        Pillow.fromarray(flat).save(stream, "JPEG", quality=98)
        elements = {"Modality": "US", "PhotometricInterpretation": "YBR_FULL_422"}
        write(path, flat, syntax=JPEGBaseline8Bit, frames=[stream.getvalue()], **elements)
        assert np.abs(pixels(path) * 255 - flat.transpose(2, 0, 1)).max() <= 3

    def test_a_palette_stands_for_its_colours(self, path: Path) -> None:
        elements: dict[str, Any] = {"Modality": "US", "PhotometricInterpretation": "PALETTE COLOR"}
        channels = {"Red": np.arange(256), "Green": 255 - np.arange(256), "Blue": np.arange(256) // 2}
        for name, values in channels.items():
            elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            words = (values * 257).astype("<u2").tobytes()
            elements[f"{name}PaletteColorLookupTableData"] = words
        write(path, RAMP8, **elements)
        expected = np.stack([values[RAMP8] / 255 for values in channels.values()])
        np.testing.assert_allclose(pixels(path), expected, atol=1e-4)

    def test_grey_stored_as_rgb_is_one_channel(self, path: Path) -> None:
        write(path, np.dstack([RAMP8] * 3))
        np.testing.assert_allclose(pixels(path), RAMP8[None] / 255, atol=1e-7)


class TestSpacing:
    @pytest.mark.parametrize(
        ("elements", "expected"),
        [
            ({}, None),
            ({"PixelSpacing": [0.14, 0.15], "ImagerPixelSpacing": [0.2, 0.2]}, (0.14, 0.15)),
            ({"ImagerPixelSpacing": [0.2, 0.16]}, (0.2, 0.16)),
            ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.2, 0.16]}, (0.2, 0.16)),
            ({"PixelSpacing": [0.124, 0.15]}, None),
            ({"PixelSpacing": [0.125, 0.15]}, (0.125, 0.15)),
            ({"PixelSpacing": [0.05, 0.05], "PatientAge": "003Y"}, (0.05, 0.05)),
            ({"PixelSpacing": [0.05, 0.05], "PatientAge": "017Y"}, (0.05, 0.05)),
            ({"PixelSpacing": [0.05, 0.05], "PatientAge": "018Y"}, None),
            ({"PixelSpacing": [0.05, 0.05], "BodyPartExamined": "HAND"}, (0.05, 0.05)),
            ({"PixelSpacing": [0.05, 0.05], "Modality": "MG"}, (0.05, 0.05)),
        ],
    )
    def test_rules(self, path: Path, elements: dict[str, Any], expected: tuple[float, float] | None) -> None:
        write(path, np.zeros((2000, 4), np.uint8), **elements)
        image = read_image(path.name, path.parent)
        assert image.spacing_mm == expected
        assert ("implausible" in image.rule) == ("PixelSpacing" in elements and expected is None)

    def test_the_limit_is_250_mm_of_an_adult(self) -> None:
        assert plausible_spacing((0.25, 0.3), 1000) == (0.25, 0.3)
        assert plausible_spacing((0.2499, 0.3), 1000) is None
        assert plausible_spacing((0.1, 0.1), 1000, age=17.9) == (0.1, 0.1)
        assert plausible_spacing((0.1, 0.1), 1000, age=18) is None
        assert plausible_spacing(None, 1000) is None


class TestAttributes:
    def test_no_tag_beyond_the_allow_list_leaves_the_header(self, path: Path) -> None:
        secrets = {
            "PatientName": "SECRET^ANNA",
            "PatientID": "SECRET-1",
            "PatientBirthDate": "19300102",
            "AccessionNumber": "SECRET-2",
            "StudyDate": "20200304",
            "InstitutionName": "SECRET HOSPITAL",
            "StudyDescription": "SECRET report",
            "StudyInstanceUID": "1.2.3.4.5",
        }
        known = {"PatientSex": "F", "PatientAge": "045Y", "ViewPosition": "PA", "Manufacturer": "Acme"}
        write(path, RAMP12, PixelSpacing=[0.2, 0.3], **known, **secrets)
        attributes = dicom_attributes(path)
        assert attributes == {
            "sex": "F",
            "age": 45.0,
            "view": "PA",
            "manufacturer": "Acme",
            "modality": "DX",
            "spacing": (0.2, 0.3),
        }
        shown = repr(attributes) + read_image(path.name, path.parent).rule
        assert "SECRET" not in shown
        assert "1930" not in shown

    def test_what_is_empty_is_unknown(self, path: Path) -> None:
        write(path, RAMP12, PatientSex="", PatientAge="", Manufacturer="")
        attributes = dicom_attributes(path)
        assert attributes.pop("modality") == "DX"  # type: ignore[misc]
        assert set(attributes.values()) == {None}

    @pytest.mark.parametrize(
        ("text", "years"),
        [
            ("089Y", 89.0),
            ("090Y", 90.0),
            ("091Y", 90.0),
            ("120Y", 90.0),
            ("018M", 1.5),
            ("999M", 83.25),
            ("052W", 52 * 7 / 365.25),
            ("010D", 10 / 365.25),
            ("45", 45.0),
            ("5", 5.0),
            ("413", None),
            ("148Y", None),
            ("Y", None),
            ("-5Y", None),
            ("unknown", None),
            (None, None),
        ],
    )
    def test_ages(self, path: Path, text: str | None, years: float | None) -> None:
        assert age_in_years(text) == (None if years is None else pytest.approx(years))

    def test_age_is_top_coded_in_the_attributes(self, path: Path) -> None:
        write(path, RAMP12, PatientAge="097Y")
        assert dicom_attributes(path)["age"] == 90

    def test_a_picture_has_none(self, tmp_path: Path) -> None:
        Pillow.fromarray(RAMP8).save(tmp_path / "image.png")
        with pytest.raises(EvalfmError, match="no DICOM file"):
            dicom_attributes(tmp_path / "image.png")


class TestRefusals:
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGBaseline8Bit])
    @pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
    def test_truncated(self, path: Path, syntax: str, kept: float) -> None:
        noise = np.random.default_rng(5).integers(0, 256, (64, 64), dtype=np.uint8)
        if syntax == JPEG2000Lossless:
            frames = [imagecodecs.jpeg2k_encode(noise, codecformat="j2k", reversible=True)]
            write(path, noise, syntax=syntax, frames=frames)
        elif syntax == JPEGBaseline8Bit:
            stream = io.BytesIO()
            Pillow.fromarray(noise).save(stream, "JPEG")
            write(path, noise, syntax=syntax, frames=[stream.getvalue()])
        else:
            dataset = write(path, noise)
            if syntax == RLELossless:
                dataset.compress(RLELossless, encoding_plugin="pydicom")
                dataset.save_as(path, enforce_file_format=True)
        whole = path.read_bytes()
        assert pixels(path).shape == (1, 64, 64)
        path.write_bytes(whole[: int(len(whole) * kept)])
        assert "image.dcm" in refused(path)

    def test_without_pixels(self, path: Path) -> None:
        dataset = write(path, RAMP12)
        del dataset.PixelData
        dataset.save_as(path, enforce_file_format=True)
        assert "without pixels" in refused(path)
        del dataset.Rows
        dataset.save_as(path, enforce_file_format=True)
        with pytest.raises(EvalfmError, match="without pixels"):
            image_size(path.name, path.parent)

    def test_an_unknown_transfer_syntax(self, path: Path) -> None:
        write(path, RAMP12, syntax="1.2.840.10008.1.2.4.100", frames=[bytes(64)])
        assert "transfer syntax that cannot be read" in refused(path)

    def test_more_pixels_than_any_image_has(self, path: Path) -> None:
        write(path, RAMP12, Rows=60000, Columns=60000)
        assert "more than any image has" in refused(path)
        with pytest.raises(EvalfmError, match="more than any image has"):
            image_size(path.name, path.parent)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("modality", ["MR", "DX"])
    def test_nan_and_infinity(self, path: Path, modality: str, value: float) -> None:
        values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
        values[3, 3] = value
        dataset = write(path, np.zeros((16, 16), np.uint8), Modality=modality)
        del dataset.PixelData
        dataset.BitsAllocated = 32
        for keyword in ("BitsStored", "HighBit", "PixelRepresentation"):
            del dataset[keyword]
        dataset.FloatPixelData = values.tobytes()
        dataset.save_as(path, enforce_file_format=True)
        assert "NaN or infinite" in refused(path)

    def test_a_high_bit_of_an_old_layout(self, path: Path) -> None:
        write(path, RAMP12 << 4, BitsStored=12, HighBit=15)
        assert "below bit 15" in refused(path)

    def test_as_a_mask(self, path: Path) -> None:
        write(path, RAMP12)
        with pytest.raises(EvalfmError, match="is a DICOM file, where a mask"):
            read_mask_file(path.name, path.parent)


class TestFloats:
    @pytest.mark.parametrize(("dtype", "keyword"), [(np.float32, "Float"), (np.float64, "DoubleFloat")])
    def test_their_padding_becomes_air(self, path: Path, dtype: type, keyword: str) -> None:
        values = np.linspace(-3, 5, 256).astype(dtype).reshape(16, 16)
        values[:2] = -1000.5
        dataset = write(
            path, np.zeros((16, 16), np.uint8), WindowCenter=1, WindowWidth=8, VOILUTFunction="LINEAR_EXACT"
        )
        del dataset.PixelData
        dataset.BitsAllocated = 8 * values.dtype.itemsize
        for name in ("BitsStored", "HighBit", "PixelRepresentation"):
            del dataset[name]
        setattr(dataset, f"{keyword}PixelData", values.tobytes())
        setattr(dataset, f"{keyword}PixelPaddingValue", -2000.0)
        setattr(dataset, f"{keyword}PixelPaddingRangeLimit", -1000.0)
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.save_as(path, enforce_file_format=True)
        result = pixels(path)[0]
        assert (result[:2] == 0).all()
        np.testing.assert_allclose(result[2:], 1 - np.clip((values[2:] - 1) / 8 + 0.5, 0, 1), atol=1e-6)


class TestColours:
    @pytest.mark.parametrize("bits", [(8, 8), (16, 12), (16, 16)])
    @pytest.mark.parametrize("planar", [0, 1])
    @pytest.mark.parametrize(
        "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
    )
    def test_channels_in_either_layout(self, path: Path, syntax: str, planar: int, bits: tuple[int, int]) -> None:
        values = np.random.default_rng(2).integers(0, 2 ** bits[1], (HEIGHT, WIDTH, 3)).astype(f"u{bits[0] // 8}")
        laid = values if planar == 0 or syntax == RLELossless else values.transpose(2, 0, 1).reshape(values.shape)
        elements = {"BitsStored": bits[1], "PlanarConfiguration": planar if syntax != RLELossless else 0}
        if syntax == RLELossless:
            dataset = write(path, laid, **elements)
            dataset.compress(RLELossless, encoding_plugin="pydicom")
            dataset.save_as(path, enforce_file_format=True)
        else:
            write(path, laid, syntax=syntax, **elements)
        np.testing.assert_allclose(pixels(path), values.transpose(2, 0, 1) / (2.0 ** bits[1] - 1), atol=1e-6)

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
    def test_ybr_is_turned_to_rgb(self, path: Path, syntax: str) -> None:
        grey = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
        values = np.dstack([grey, np.full_like(grey, 100), np.full_like(grey, 180)])
        dataset = write(path, values, PhotometricInterpretation="YBR_FULL")
        if syntax == RLELossless:
            dataset.compress(RLELossless, encoding_plugin="pydicom")
            dataset.save_as(path, enforce_file_format=True)
        y, cb, cr = (channel.astype(float) for channel in np.moveaxis(values, 2, 0))
        expected = np.stack(
            [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
        )
        np.testing.assert_allclose(pixels(path) * 255, np.clip(expected, 0, 255), atol=1.01)
