from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

from evalfm.data.dicom_intensity import (
    Numbers,
    is_inverted,
    modality_values,
    padding_of,
    to_unit_interval,
    windowed,
)
from evalfm.errors import EvalfmError

NO_PADDING = np.zeros(1, dtype=bool)


def header(**elements: object) -> Dataset:
    dataset = Dataset()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.PixelRepresentation = 16, 12, 0
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def table(descriptor: list[int], data: list[int] | bytes) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if descriptor[1] >= 0 else "SS", descriptor)
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return item


def standard_window(x: float, c: float, w: float, function: str) -> float:
    """The formulas of PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2 as printed, ymin 0, ymax 1."""
    if function == "SIGMOID":
        return 1 / (1 + math.exp(-4 * (x - c) / w))
    if function == "LINEAR_EXACT":
        if x <= c - w / 2:
            return 0.0
        return 1.0 if x > c + w / 2 else (x - c) / w + 0.5
    if x <= c - 0.5 - (w - 1) / 2:
        return 0.0
    return 1.0 if x > c - 0.5 + (w - 1) / 2 else (x - (c - 0.5)) / (w - 1) + 0.5


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2048.0, 4096.0), (40.0, 400.0), (0.0, 100.0), (7.5, 1.0)])
def test_windows_follow_the_standard(function: str, centre: float, width: float) -> None:
    values = np.array([-3000, -50, -1, 0, 1, 7, 7.5, 8, 39, 40, 41, 2047, 2048, 4095, 5000.0])
    bound = [
        x if function != "SIGMOID" else float(np.clip(x, centre - 170 * width, centre + 170 * width)) for x in values
    ]
    expected = [standard_window(x, centre, width, function) for x in bound]
    np.testing.assert_allclose(windowed(values, centre, width, function), expected, atol=1e-12)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_as_pydicom_has_them(function: str) -> None:
    stored = np.arange(0, 4096, 13, dtype=np.uint16)
    dataset = header(WindowCenter=1200.0, WindowWidth=2500.0, VOILUTFunction=function)
    scaled, rule = to_unit_interval(stored.astype(np.float64), dataset, NO_PADDING)
    np.testing.assert_allclose(scaled, apply_windowing(stored, dataset) / 4095, atol=1e-12)
    assert rule == f"window {function}"


def test_the_first_of_several_windows() -> None:
    dataset = header(WindowCenter=[50.5, 2000], WindowWidth=[101, 10])
    scaled, _ = to_unit_interval(np.array([0.0, 25.0, 50.0, 100.0, 900.0]), dataset, NO_PADDING)
    np.testing.assert_allclose(scaled, [0, 0.25, 0.5, 1, 1])


def test_an_unknown_window_function_is_not_guessed() -> None:
    with pytest.raises(EvalfmError, match="CUBIC"):
        to_unit_interval(np.zeros(1), header(WindowCenter=1, WindowWidth=5, VOILUTFunction="CUBIC"), NO_PADDING)


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": None},
        {"WindowCenter": None, "WindowWidth": 20},
    ],
)
def test_percentiles_where_no_window_is_stated(elements: dict[str, object]) -> None:
    values = np.arange(1001.0)
    scaled, rule = to_unit_interval(values, header(**elements), np.zeros(1001, dtype=bool))
    # The .5 percentile of 0 … 1000 is 5, the 99.5 is 995.
    np.testing.assert_allclose(scaled, np.clip((values - 5) / 990, 0, 1))
    assert rule == "percentiles .5–99.5"


def test_percentiles_leave_out_padding() -> None:
    values = np.concatenate([np.full(5000, -2000.0), np.arange(1001.0)])
    scaled, _ = to_unit_interval(values, header(), values == -2000)
    np.testing.assert_allclose(scaled[5000 + 500], 0.5)


def test_percentiles_of_images_with_almost_one_value() -> None:
    values = np.zeros(1000)
    values[0] = 8
    np.testing.assert_array_equal(to_unit_interval(values, header(), values < 0)[0], values / 8)
    assert to_unit_interval(np.full(9, 3.0), header(), np.zeros(9, dtype=bool))[1] == "one value only"
    assert to_unit_interval(np.full(9, 3.0), header(), np.ones(9, dtype=bool))[1] == "nothing but padding"


def test_voi_lut_goes_before_the_window() -> None:
    dataset = header(WindowCenter=2, WindowWidth=2)
    dataset.VOILUTSequence = [table([4, 10, 12], [0, 1000, 2000, 4095])]
    values = np.array([-5.0, 10, 11, 12, 13, 99])
    scaled, rule = to_unit_interval(values, dataset, NO_PADDING)
    np.testing.assert_allclose(scaled, np.array([0, 0, 1000, 2000, 4095, 4095]) / 4095)
    assert rule == "VOI LUT"
    np.testing.assert_allclose(scaled[1:], apply_voi(values[1:].astype(np.int64), dataset) / 4095)


def test_voi_lut_of_eight_bits_and_more_than_256_entries() -> None:
    # An index that took the type of the entries would wrap here.
    dataset = header()
    dataset.VOILUTSequence = [table([1024, 0, 8], bytes(index // 4 for index in range(1024)))]
    scaled, _ = to_unit_interval(np.array([0.0, 300, 1023]), dataset, NO_PADDING)
    np.testing.assert_allclose(scaled, np.array([0, 75, 255]) / 255)


def test_voi_lut_as_bytes_of_words_and_with_all_entries() -> None:
    dataset = header()
    words = np.arange(65536, dtype="<u2")[::-1]
    dataset.VOILUTSequence = [table([0, 0, 16], words.tobytes())]
    scaled, _ = to_unit_interval(np.array([0.0, 1, 65535]), dataset, NO_PADDING)
    np.testing.assert_allclose(scaled, np.array([65535, 65534, 0]) / 65535)


def test_voi_lut_with_a_negative_start_written_as_unsigned() -> None:
    dataset = header(PixelRepresentation=1)
    dataset.VOILUTSequence = [table([3, 65535, 8], [10, 20, 30])]
    scaled, _ = to_unit_interval(np.array([-1.0, 0, 1]), dataset, NO_PADDING)
    np.testing.assert_allclose(scaled, np.array([10, 20, 30]) / 255)


def test_voi_lut_whose_entries_need_more_bits_than_stated() -> None:
    dataset = header()
    dataset.VOILUTSequence = [table([2, 0, 8], [0, 4095])]
    np.testing.assert_allclose(to_unit_interval(np.array([0.0, 1]), dataset, NO_PADDING)[0], [0, 1])


def test_a_voi_lut_without_data_is_passed_over() -> None:
    dataset = header(WindowCenter=50.5, WindowWidth=101)
    dataset.VOILUTSequence = [Dataset()]
    assert to_unit_interval(np.array([50.0]), dataset, NO_PADDING)[0][0] == 0.5


def test_a_table_shorter_than_stated_is_refused() -> None:
    dataset = header()
    dataset.VOILUTSequence = [table([5, 0, 8], [0, 1, 2])]
    with pytest.raises(EvalfmError, match="5 entries holds 3"):
        to_unit_interval(np.zeros(1), dataset, NO_PADDING)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_modality_lut(dtype: type) -> None:
    dataset = header(RescaleSlope=2, RescaleIntercept=5)
    dataset.ModalityLUTSequence = [table([4, 1, 16], [100, 200, 300, 60000])]
    stored = np.array([0, 1, 2, 3, 4, 5], dtype=dtype)
    values, rule = modality_values(stored, dataset)
    np.testing.assert_array_equal(values, [100, 100, 200, 300, 60000, 60000])
    np.testing.assert_array_equal(values, apply_modality_lut(stored, dataset))
    assert rule == "modality LUT"


def test_modality_lut_of_65536_entries_on_signed_values() -> None:
    dataset = header()
    words = np.arange(65536, dtype="<u2")
    dataset.ModalityLUTSequence = [table([0, -32768, 16], words.tobytes())]
    values, _ = modality_values(np.array([-32768, 0, 32767], dtype=np.int16), dataset)
    np.testing.assert_array_equal(values, [0, 32768, 65535])


def test_rescale_goes_beyond_the_stored_type() -> None:
    stored = np.array([0, 4095], dtype=np.uint16)
    values, rule = modality_values(stored, header(RescaleSlope=20.5, RescaleIntercept=-1024))
    np.testing.assert_allclose(values, [-1024, 82923.5])
    assert rule == "rescaled"
    assert modality_values(stored, header())[1] == "stored values"
    with pytest.raises(EvalfmError, match="slope is 0"):
        modality_values(stored, header(RescaleSlope=0, RescaleIntercept=0))


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_which_end_is_white(photometric: str, shape: str | None, inverted: bool) -> None:
    dataset = header(PhotometricInterpretation=photometric)
    if shape is not None:
        dataset.PresentationLUTShape = shape
    assert is_inverted(dataset) is inverted


@pytest.mark.parametrize(
    ("elements", "signed", "stored", "expected"),
    [
        ({}, 0, [0, 1], [0, 0]),
        ({"PixelPaddingValue": 0}, 0, [0, 1], [1, 0]),
        ({"PixelPaddingValue": 10, "PixelPaddingRangeLimit": 12}, 0, [9, 10, 12, 13], [0, 1, 1, 0]),
        ({"PixelPaddingValue": 12, "PixelPaddingRangeLimit": 10}, 0, [9, 10, 12, 13], [0, 1, 1, 0]),
        ({"PixelPaddingValue": 63536}, 1, [-2000, 63, 0], [1, 0, 0]),
        ({"PixelPaddingValue": -2000}, 1, [-2000, 63, 0], [1, 0, 0]),
        ({"PixelPaddingValue": -1}, 0, [65535, 1], [1, 0]),
    ],
)
def test_padding(elements: dict[str, int], signed: int, stored: list[int], expected: list[int]) -> None:
    dataset = header(PixelRepresentation=signed)
    for keyword, value in elements.items():
        dataset.add_new(keyword, "SS" if value < 0 else "US", value)
    values: NDArray[np.int64] = np.array(stored)
    np.testing.assert_array_equal(padding_of(values, dataset), np.array(expected, dtype=bool))


# Numbers looked up or computed, for all pixels at once

STORED = {
    "bytes": lambda draw: draw.integers(0, 256, (40, 90)).astype(np.uint8),
    "twelve": lambda draw: draw.integers(300, 1200, (50, 90)).astype(np.uint16),
    "signed": lambda draw: draw.integers(-900, 700, (60, 90)).astype(np.int16),
    "lowest": lambda draw: draw.integers(-(2**15), -(2**15) + 900, (50, 90)).astype(np.int16),
    "highest": lambda draw: draw.integers(2**16 - 900, 2**16, (50, 90)).astype(np.uint16),
}
HEADERS: dict[str, dict[str, object]] = {
    "window": {"WindowWidth": 120},
    "exact": {"WindowWidth": 150, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowWidth": 150, "VOILUTFunction": "SIGMOID"},
    "nothing": {},
    "rescaled": {"RescaleSlope": -0.37, "RescaleIntercept": 12.5},
    "padded": {"PixelPaddingRangeLimit": 0},
}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("name", HEADERS)
def test_each_number_once_is_each_pixel_on_its_own(kind: str, name: str) -> None:
    stored = STORED[kind](np.random.default_rng(3))
    dataset = header(**HEADERS[name])
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    middle = int(stored.mean())
    if "WindowWidth" in dataset:
        dataset.WindowCenter = middle
    if "PixelPaddingRangeLimit" in dataset:
        dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = middle, middle + 30
    numbers = Numbers.of(stored)
    assert numbers.place is not None
    np.testing.assert_array_equal(numbers.everywhere(numbers.each), stored)
    direct, rule = to_unit_interval(modality_values(stored, dataset)[0], dataset, padding_of(stored, dataset))
    values, _ = modality_values(numbers.each, dataset)
    scaled, same = to_unit_interval(values, dataset, padding_of(numbers.each, dataset), numbers.counts)
    assert rule == same
    assert np.ptp(direct) > 0.5
    np.testing.assert_allclose(numbers.everywhere(scaled), direct, atol=1e-12)
    # Half a step of 16 bits is 7.6e-6.
    single = scaled.astype(np.float32)
    np.testing.assert_allclose(numbers.everywhere(single, exact=False), direct, atol=2e-6)


def test_a_table_that_is_no_line_is_looked_up() -> None:
    stored = np.random.default_rng(0).integers(0, 500, (40, 40)).astype(np.uint16)
    numbers = Numbers.of(stored)
    bent = np.sin(np.arange(len(numbers.each)) / 50).astype(np.float32)
    broken = (np.arange(len(numbers.each)) / 500).astype(np.float32)
    broken[7] = 0.9
    for values in (bent, broken):
        np.testing.assert_array_equal(numbers.everywhere(values, exact=False), values[stored - stored.min()])


def test_images_of_many_numbers_and_of_wide_ones_are_taken_as_they_are() -> None:
    few = np.array([[0, 40000]], dtype=np.uint16)
    wide = np.arange(100, dtype=np.int32).reshape(10, 10)
    for stored in (few, wide, few.astype(np.float32)):
        numbers = Numbers.of(stored)
        assert numbers.place is None
        assert numbers.everywhere(numbers.each) is stored
        assert numbers.counts().sum() == stored.size
