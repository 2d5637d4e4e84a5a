from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as pycocotools

from evalfm.data.rle import decode, decode_union, encode
from evalfm.errors import EvalfmError, UnknownNameError

Mask = NDArray[np.bool_]
MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))
QUICK = settings(max_examples=150, deadline=None)


def slow_relative(text: str, size: tuple[int, int]) -> Mask:
    """SIIM-ACR's own reader: the first axis of its array is the column."""
    height, width = size
    flat = np.zeros(width * height, dtype=bool)
    numbers = [int(word) for word in text.split()]
    position = 0
    for gap, length in zip(numbers[0::2], numbers[1::2], strict=True):
        position += gap
        for pixel in range(position, position + length):
            flat[pixel] = True
        position += length
    return flat.reshape(width, height).T


def slow_absolute(text: str, size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, dtype=bool)
    numbers = [int(word) for word in text.split()]
    for start, length in zip(numbers[0::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            mask[pixel // size[1], pixel % size[1]] = True
    return mask


def oracle_coco(text: str, size: tuple[int, int]) -> Mask:
    return pycocotools.decode({"size": list(size), "counts": text}).astype(bool)


def oracle_coco_text(mask: Mask) -> str:
    return pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


READERS: dict[str, Callable[[str, tuple[int, int]], Mask]] = {
    "relative": slow_relative,
    "absolute": slow_absolute,
    "coco": oracle_coco,
}


def test_relative_by_hand() -> None:
    # Columns of 3: skip 1, mark 2 (rest of column 0), skip 1, mark 1 (row 1 of column 1).
    expected = np.array([[0, 0], [1, 1], [1, 0]], dtype=bool)
    np.testing.assert_array_equal(decode("relative", "1 2 1 1", (3, 2)), expected)
    assert encode("relative", expected) == "1 2 1 1"


def test_absolute_by_hand() -> None:
    # Rows of 3, pixels counted from 1.
    expected = np.array([[1, 0, 0], [0, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(decode("absolute", "1 1 5 2", (2, 3)), expected)
    assert encode("absolute", expected) == "1 1 5 2"


@pytest.mark.parametrize("dialect", READERS)
@given(mask=MASKS)
@QUICK
def test_round_trip_and_reference(dialect: str, mask: Mask) -> None:
    text = encode(dialect, mask)
    decoded = decode(dialect, text, mask.shape)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)
    if text != "-1":
        np.testing.assert_array_equal(READERS[dialect](text, mask.shape), mask)


@given(mask=MASKS)
@QUICK
def test_coco_writes_what_pycocotools_writes(mask: Mask) -> None:
    assert encode("coco", mask) == oracle_coco_text(mask)


def test_coco_with_counts_of_several_letters() -> None:
    # Runs from one pixel to hundreds of thousands, growing and shrinking: differences of both signs.
    mask = np.zeros((900, 700), dtype=bool)
    mask[100:101, 3] = mask[5:880, 40:600] = mask[2, 650] = mask[3:700, 651] = True
    text = oracle_coco_text(mask)
    assert encode("coco", mask) == text
    np.testing.assert_array_equal(decode("coco", text, mask.shape), mask)


def test_coco_in_json_holds_its_size() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 2] = True
    text = json.dumps({"size": [4, 6], "counts": encode("coco", mask)})
    np.testing.assert_array_equal(decode("coco", text, (4, 6)), mask)
    with pytest.raises(EvalfmError, match=r"size \[4, 6\], its image \[6, 4\]"):
        decode("coco", text, (6, 4))


@pytest.mark.parametrize("text", ['{"size": [2, 2]}', "{", '{"size": [2, 2], "counts": [1, 2, 1]}'])
def test_coco_json_that_is_none(text: str) -> None:
    with pytest.raises(EvalfmError, match="COCO mask"):
        decode("coco", text, (2, 2))


@pytest.mark.parametrize("dialect", READERS)
@pytest.mark.parametrize("text", ["-1", " -1 "])
def test_minus_one_is_a_known_empty_mask(dialect: str, text: str) -> None:
    mask = decode(dialect, text, (3, 5))
    assert mask.shape == (3, 5)
    assert not mask.any()


def test_empty_mask_is_written_as_minus_one() -> None:
    assert encode("relative", np.zeros((3, 5), dtype=bool)) == "-1"
    assert encode("absolute", np.zeros((3, 5), dtype=bool)) == "-1"


@pytest.mark.parametrize("dialect", READERS)
@pytest.mark.parametrize("text", ["", "  "])
def test_blank_is_unknown_and_not_empty(dialect: str, text: str) -> None:
    with pytest.raises(EvalfmError, match="blank"):
        decode(dialect, text, (3, 5))


def test_union_of_rows() -> None:
    union = decode_union("relative", ["0 2", "-1", "1 3"], (4, 2))
    np.testing.assert_array_equal(union, slow_relative("0 4", (4, 2)))
    assert not decode_union("relative", [], (4, 2)).any()


@pytest.mark.parametrize("dialect", ["relative", "absolute"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "odd number"),
        ("1 a", "not all whole numbers"),
        ("1.5 2", "not all whole numbers"),
        ("1 -2", "not all whole numbers"),
        ("1_0 2", "not all whole numbers"),
        ("٣ 1", "not all whole numbers"),
        ("1 0", "empty, overlap"),
        ("1 15", "leaves its image"),
        ("30 1", "leaves its image"),
        ("1 9223372036854775807", "leaves its image"),
        ("9 9 9 9", "leaves its image|overlap"),
        ("1 " + "9" * 400, "leaves its image"),
    ],
)
def test_malformed_runs(dialect: str, text: str, message: str) -> None:
    with pytest.raises(EvalfmError, match=message):
        decode(dialect, text, (2, 5))


def test_last_pixel_may_be_marked_and_no_further() -> None:
    assert decode("relative", "9 1", (2, 5))[1, 4]
    assert decode("absolute", "10 1", (2, 5))[1, 4]
    for dialect, text in (("relative", "10 1"), ("absolute", "11 1"), ("absolute", "0 1")):
        with pytest.raises(EvalfmError, match="leaves its image"):
            decode(dialect, text, (2, 5))


def test_relative_text_is_no_absolute_text() -> None:
    # Gaps after the first run are small numbers, which would be starts before it.
    with pytest.raises(EvalfmError, match="dialect"):
        decode("absolute", "50 10 3 10", (20, 20))


@pytest.mark.parametrize("text", ["P", "0`", "é0", "\ud800", "zz", "oooooooooooooooo0", "/"])
def test_malformed_coco(text: str) -> None:
    with pytest.raises(EvalfmError, match="COCO mask"):
        decode("coco", text, (2, 2))


def test_coco_of_another_size() -> None:
    text = encode("coco", np.eye(4, dtype=bool))
    with pytest.raises(EvalfmError, match="does not fill its image of 4 × 5"):
        decode("coco", text, (4, 5))


def test_unknown_dialect_is_named() -> None:
    with pytest.raises(UnknownNameError, match="relative"):
        decode("relativ", "1 2", (2, 2))
    with pytest.raises(UnknownNameError, match="absolute"):
        encode("absolut", np.zeros((2, 2), dtype=bool))


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros(4, dtype=bool), np.zeros((0, 2), dtype=bool)])
def test_only_masks_are_encoded(mask: NDArray[np.bool_]) -> None:
    with pytest.raises(ValueError, match=r"bool \[H, W\]"):
        encode("relative", mask)


def test_size_must_have_pixels() -> None:
    with pytest.raises(EvalfmError, match="0 × 4 pixels"):
        decode("relative", "-1", (0, 4))
