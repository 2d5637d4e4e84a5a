from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from evalfm.data.masks import cardiothoracic_ratio, decode, decode_union, encode, horizontal_extent, read_mask_file
from evalfm.errors import EvalfmError

TRUTH = np.zeros((6, 9), dtype=bool)
TRUTH[1:4, 2:8] = True


def save(path: Path, values: NDArray[np.uint8], mode: str | None = None) -> None:
    image = Pillow.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path)


@pytest.mark.parametrize("top", [1, 255])
@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_grey_files(tmp_path: Path, suffix: str, top: int) -> None:
    save(tmp_path / f"m.{suffix}", TRUTH.astype(np.uint8) * top)
    mask = read_mask_file(f"m.{suffix}", tmp_path)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, TRUTH)


def test_one_bit_png(tmp_path: Path) -> None:
    save(tmp_path / "m.png", TRUTH.astype(np.uint8) * 255, "1")
    np.testing.assert_array_equal(read_mask_file("m.png", tmp_path), TRUTH)


def test_one_bit_tiff_with_white_as_zero(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", ~TRUTH, photometric="miniswhite")
    np.testing.assert_array_equal(read_mask_file("m.tif", tmp_path), TRUTH)


def test_antialiased_border_is_cut_at_half(tmp_path: Path) -> None:
    values = np.array([[0, 1, 127, 128, 254, 255]], dtype=np.uint8)
    save(tmp_path / "m.png", values)
    np.testing.assert_array_equal(read_mask_file("m.png", tmp_path)[0], [0, 0, 0, 1, 1, 1])


def test_sixteen_bits(tmp_path: Path) -> None:
    Pillow.fromarray(np.array([[0, 32767, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask_file("m.png", tmp_path)[0], [0, 0, 1, 1])
    # 0 and 255 in a wide type, as numpy users save them.
    np.save(tmp_path / "m.npy", TRUTH.astype(np.int64) * 255)
    np.testing.assert_array_equal(read_mask_file("m.npy", tmp_path), TRUTH)


def test_rgb_and_rgba_of_greys(tmp_path: Path) -> None:
    grey = TRUTH.astype(np.uint8) * 255
    save(tmp_path / "m.png", np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(read_mask_file("m.png", tmp_path), TRUTH)
    save(tmp_path / "a.png", np.stack([grey] * 3 + [np.full_like(grey, 255)], axis=-1))
    np.testing.assert_array_equal(read_mask_file("a.png", tmp_path), TRUTH)


@pytest.mark.parametrize("suffix", ["png", "gif"])
@pytest.mark.parametrize(
    "palette",
    [[0, 0, 0, 255, 255, 255], [0, 0, 0, 1, 1, 1], [0, 0, 0, 128, 0, 0]],
    ids=["grey", "ramp", "red"],
)
def test_palette(tmp_path: Path, suffix: str, palette: list[int]) -> None:
    image = Pillow.fromarray(TRUTH.astype(np.uint8), mode="P")
    image.putpalette(palette)
    image.save(tmp_path / f"m.{suffix}")
    np.testing.assert_array_equal(read_mask_file(f"m.{suffix}", tmp_path), TRUTH)


def test_inverted_grey_palette_counts_by_its_colours(tmp_path: Path) -> None:
    image = Pillow.fromarray((~TRUTH).astype(np.uint8), mode="P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "m.gif")
    np.testing.assert_array_equal(read_mask_file("m.gif", tmp_path), TRUTH)


def test_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", truth=TRUTH, stack=np.stack([~TRUTH, TRUTH]), soft=TRUTH * np.float32(0.8))
    np.testing.assert_array_equal(read_mask_file("m.npz#truth", tmp_path), TRUTH)
    np.testing.assert_array_equal(read_mask_file("m.npz#stack/1", tmp_path), TRUTH)
    np.testing.assert_array_equal(read_mask_file("m.npz#soft", tmp_path), TRUTH)


def test_empty_and_full_files(tmp_path: Path) -> None:
    save(tmp_path / "empty.png", np.zeros((4, 5), np.uint8))
    save(tmp_path / "full.png", np.full((4, 5), 255, np.uint8))
    assert not read_mask_file("empty.png", tmp_path).any()
    assert read_mask_file("full.png", tmp_path).all()


@pytest.mark.parametrize("top", [2, 100, 127])
def test_a_map_of_labels_is_not_an_empty_mask(tmp_path: Path, top: int) -> None:
    save(tmp_path / "m.png", TRUTH.astype(np.uint8) * top)
    with pytest.raises(EvalfmError, match=f"values up to {top}, neither 0 and 1"):
        read_mask_file("m.png", tmp_path)


def test_faint_sixteen_bit_values_are_refused(tmp_path: Path) -> None:
    Pillow.fromarray(TRUTH.astype(np.uint16) * 4095).save(tmp_path / "m.png")
    with pytest.raises(EvalfmError, match="half of 65535"):
        read_mask_file("m.png", tmp_path)


def test_mask_in_the_opacity_is_not_an_empty_mask(tmp_path: Path) -> None:
    black = np.zeros((*TRUTH.shape, 4), np.uint8)
    black[..., 3] = TRUTH * 255
    save(tmp_path / "m.png", black)
    with pytest.raises(EvalfmError, match="opacity"):
        read_mask_file("m.png", tmp_path)


def test_colours_are_refused(tmp_path: Path) -> None:
    red = np.zeros((*TRUTH.shape, 3), np.uint8)
    red[..., 0] = TRUTH * 255
    save(tmp_path / "m.png", red)
    with pytest.raises(EvalfmError, match="has colours"):
        read_mask_file("m.png", tmp_path)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_numbers_that_are_no_mask(tmp_path: Path, value: float) -> None:
    np.save(tmp_path / "m.npy", np.where(TRUTH, value, 0.0))
    with pytest.raises(EvalfmError, match="negative or infinite"):
        read_mask_file("m.npy", tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EvalfmError, match="no file"):
        read_mask_file("m.png", tmp_path)


def test_dialects_are_reached_from_here() -> None:
    text = encode("absolute", TRUTH)
    np.testing.assert_array_equal(decode("absolute", text, TRUTH.shape), TRUTH)
    np.testing.assert_array_equal(decode_union("absolute", [text, "-1"], TRUTH.shape), TRUTH)


def test_extent_counts_both_borders_and_ignores_gaps() -> None:
    mask = np.zeros((5, 12), dtype=bool)
    mask[0, 2] = mask[4, 9] = True
    assert horizontal_extent(mask) == 8
    assert horizontal_extent(np.zeros((3, 3), dtype=bool)) == 0


def test_ratio_takes_full_extents_not_the_widest_row() -> None:
    heart = np.zeros((6, 20), dtype=bool)
    heart[1, 4:8] = heart[4, 8:12] = True  # no row is wider than 4, the extent is 8
    lungs = np.zeros((6, 20), dtype=bool)
    lungs[:, 2:5] = lungs[:, 15:18] = True  # extent 16
    assert cardiothoracic_ratio(heart, lungs) == pytest.approx(8 / 16)


def test_ratio_is_absent_without_heart_or_lungs() -> None:
    full, empty = np.ones((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool)
    assert cardiothoracic_ratio(empty, full) is None
    assert cardiothoracic_ratio(full, empty) is None
