from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFilter

from evalfm.data.masks import (
    cardiothoracic_ratio,
    decode,
    decode_union,
    encode,
    horizontal_extent,
    mask_file_values,
    read_mask_file,
)
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


@pytest.mark.parametrize("bits", [1, 8])
def test_tiff_with_white_as_zero_is_refused_unless_its_value_is_said(tmp_path: Path, bits: int) -> None:
    """tifffile writes truth values so of itself, and they came back inverted."""
    top = 2**bits - 1
    stored = TRUTH if bits == 1 else TRUTH.astype(np.uint8) * top
    tifffile.imwrite(tmp_path / "m.tif", stored, photometric="miniswhite")
    with pytest.raises(EvalfmError, match="says white is zero; save it as PNG"):
        read_mask_file("m.tif", tmp_path)
    assert mask_file_values("m.tif", tmp_path) == (0, top)
    np.testing.assert_array_equal(read_mask_file("m.tif", tmp_path, [top]), TRUTH)
    np.testing.assert_array_equal(read_mask_file("m.tif", tmp_path, [0]), ~TRUTH)


def test_antialiased_border_is_cut_at_half(tmp_path: Path) -> None:
    values = np.array([[0, 1, 127, 128, 254, 255]], dtype=np.uint8)
    save(tmp_path / "m.png", values)
    np.testing.assert_array_equal(read_mask_file("m.png", tmp_path)[0], [0, 0, 0, 1, 1, 1])


def drawn(kind: str, size: int = 96, scale: int = 1) -> NDArray[np.uint8]:
    """A heart, a tube or both, 0 and 255, on ``size`` × ``scale`` pixels."""
    image = Pillow.new("L", (size * scale, size * scale))
    draw = ImageDraw.Draw(image)
    if kind != "tube":
        draw.ellipse([30 * scale, 35 * scale, 70 * scale, 62 * scale], fill=255)
    if kind != "heart":
        points = [(8, 90), (20, 60), (24, 40), (50, 20), (90, 11)]
        draw.line([(x * scale, y * scale) for x, y in points], fill=255, width=int(1.6 * scale))
    return np.asarray(image)


def smoothed(values: NDArray[np.uint8], size: int, how: int) -> NDArray[np.uint8]:
    return np.asarray(Pillow.fromarray(values).resize((size, size), how))


@pytest.mark.parametrize("kind", ["heart", "tube", "both"])
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("reduced", lambda kind: smoothed(drawn(kind, scale=4), 96, Pillow.Resampling.BOX)),
        ("enlarged", lambda kind: smoothed(drawn(kind), 768, Pillow.Resampling.BICUBIC)),
        ("rung", lambda kind: smoothed(drawn(kind), 240, Pillow.Resampling.LANCZOS)),
        ("blurred", lambda kind: np.asarray(Pillow.fromarray(drawn(kind)).filter(ImageFilter.GaussianBlur(0.7)))),
        ("deep", lambda kind: smoothed(drawn(kind, scale=4), 96, Pillow.Resampling.BOX).astype(np.uint16) * 257),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "40.jpg", "75.jpg", "95.jpg", "100.jpg", "75.jpg.png"])
def test_smoothed_borders_and_noise_are_no_labels(tmp_path: Path, kind: str, name: str, how: Any, suffix: str) -> None:
    values = how(kind)
    if name == "deep" and suffix != "png":
        return
    if suffix == "png":
        Pillow.fromarray(values).save(tmp_path / f"m.{suffix}")
    else:
        quality, extension = suffix.split(".", 1)
        Pillow.fromarray(values).save(tmp_path / "m.jpg", quality=int(quality))
        if extension == "jpg.png":
            Pillow.open(tmp_path / "m.jpg").save(tmp_path / "m.png")
        suffix = extension.removeprefix("jpg.")
    stored = np.asarray(Pillow.open(tmp_path / f"m.{suffix}"))
    mask = read_mask_file(f"m.{suffix}", tmp_path)
    np.testing.assert_array_equal(mask, stored > (32767 if name == "deep" else 127))
    assert mask.any()


def labelled(regions: dict[int, str], size: int = 96) -> NDArray[np.uint8]:
    """A map of labels: ``heart`` and ``tube`` as above, ``spot`` of 4 × 4 pixels, ``void`` and ``lung`` beside."""
    boxes = {"spot": np.s_[80:84, 20:24], "void": np.s_[:12, 60:], "lung": np.s_[30:70, 5:25]}
    values = np.zeros((size, size), np.uint8)
    for value, region in regions.items():
        if region in boxes:
            values[boxes[region]] = value
        else:
            values[drawn(region, size) > 0] = value
    return values


MAPS = [
    {1: "heart", 255: "void"},
    {1: "tube", 255: "heart"},
    {1: "spot", 255: "void"},
    {2: "spot", 255: "heart"},
    {128: "tube", 255: "heart"},
    {200: "tube", 255: "heart"},
    {85: "heart", 170: "lung", 255: "void"},
    {50: "heart", 100: "lung", 150: "void", 200: "spot"},
    {1: "heart", 2: "lung", 3: "spot", 255: "void"},
    {254: "heart", 255: "lung"},
    {100: "heart", 128: "lung"},
]


@pytest.mark.parametrize("regions", MAPS, ids=str)
@pytest.mark.parametrize("kind", ["png", "tif", "npy", "rgb", "deep", "float", "palette"])
def test_a_map_of_labels_is_never_one_mask(tmp_path: Path, regions: dict[int, str], kind: str) -> None:
    """Values up to half of the range were dropped, all above it became one finding."""
    values = labelled(regions)
    name = {"npy": "m.npy", "float": "m.npy", "tif": "m.tif"}.get(kind, "m.png")
    if kind == "npy":
        np.save(tmp_path / name, values.astype(np.int64))
    elif kind == "float":
        np.save(tmp_path / name, (values / 255).astype(np.float32))
    elif kind == "deep":
        Pillow.fromarray(values.astype(np.uint16) * 257).save(tmp_path / name)
    elif kind == "rgb":
        save(tmp_path / name, np.stack([values] * 3, axis=-1))
    elif kind == "palette":
        image = Pillow.fromarray(values, mode="P")
        image.putpalette([level for value in range(256) for level in (value, value, value)])
        image.save(tmp_path / name)
    else:
        save(tmp_path / name, values)
    with pytest.raises(EvalfmError, match="fill areas of their own"):
        read_mask_file(name, tmp_path)


@pytest.mark.parametrize("regions", MAPS[6:8], ids=str)
def test_a_map_of_labels_is_known_behind_smoothing_and_compression(tmp_path: Path, regions: dict[int, str]) -> None:
    values = labelled(regions)
    Pillow.fromarray(values).save(tmp_path / "m.jpg", quality=90)
    Pillow.fromarray(smoothed(values, 192, Pillow.Resampling.BILINEAR)).save(tmp_path / "m.png")
    noise = np.random.default_rng(0).integers(-4, 5, values.shape) * (values > 0)
    save(tmp_path / "noisy.png", (values.astype(int) + noise).clip(0, 255).astype(np.uint8))
    for name in ("m.jpg", "m.png", "noisy.png"):
        with pytest.raises(EvalfmError, match="fill areas of their own"):
            read_mask_file(name, tmp_path)


def test_the_values_of_a_map_are_chosen(tmp_path: Path) -> None:
    values = labelled({1: "heart", 2: "lung", 3: "spot"})
    save(tmp_path / "m.png", values)
    coloured = Pillow.fromarray(values, mode="P")
    coloured.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    coloured.save(tmp_path / "p.png")
    for name in ("m.png", "p.png"):
        assert mask_file_values(name, tmp_path) == (0, 1, 2, 3)
        np.testing.assert_array_equal(read_mask_file(name, tmp_path, [1]), values == 1)
        np.testing.assert_array_equal(read_mask_file(name, tmp_path, [2, 3]), values >= 2)
        assert not read_mask_file(name, tmp_path, [7]).any()
    with pytest.raises(EvalfmError, match=r"has colours; .* or say which value is the finding"):
        read_mask_file("p.png", tmp_path)


def test_what_nobody_judged_is_not_taken_for_background(tmp_path: Path) -> None:
    values = labelled({1: "heart", 255: "void"})
    save(tmp_path / "m.png", values)
    with pytest.raises(EvalfmError, match="often marks what nobody judged; say so at the import"):
        read_mask_file("m.png", tmp_path, [1])
    np.testing.assert_array_equal(read_mask_file("m.png", tmp_path, [1], named=[1, 255]), values == 1)
    np.testing.assert_array_equal(read_mask_file("m.png", tmp_path, [255]), values == 255)
    save(tmp_path / "organs.png", labelled({85: "heart", 170: "lung", 255: "spot"}))
    assert read_mask_file("organs.png", tmp_path, [85]).sum() == (drawn("heart") > 0).sum()
    save(tmp_path / "inverted.png", np.where(TRUTH, 0, 255).astype(np.uint8))
    np.testing.assert_array_equal(read_mask_file("inverted.png", tmp_path, [0]), TRUTH)


def test_values_are_read_of_maps_alone(tmp_path: Path) -> None:
    Pillow.fromarray(labelled({85: "heart"})).save(tmp_path / "m.jpg")
    with pytest.raises(EvalfmError, match="is a JPEG, which changes the values"):
        read_mask_file("m.jpg", tmp_path, [85])
    np.save(tmp_path / "m.npy", np.array([[0.0, 0.5]]))
    with pytest.raises(EvalfmError, match="no whole numbers from 0"):
        read_mask_file("m.npy", tmp_path, [1])
    save(tmp_path / "c.png", np.zeros((4, 4, 3), np.uint8) + np.array([255, 0, 0], np.uint8))
    with pytest.raises(EvalfmError, match="has colours, which are no values"):
        read_mask_file("c.png", tmp_path, [255])


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


@pytest.mark.parametrize("value", [1 / 255, 0.5])
def test_a_float_mask_that_was_scaled_once_too_often_is_not_taken_as_empty(tmp_path: Path, value: float) -> None:
    mask = np.zeros((20, 20), np.float32)
    mask[4:9, 4:9] = value
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    with pytest.raises(EvalfmError, match="less than half of 1; save it as 0 and 1"):
        read_mask_file("mask.tif", tmp_path)
    tifffile.imwrite(tmp_path / "mask.tif", np.linspace(0, 0.4, 400, dtype=np.float32).reshape(20, 20))
    assert not read_mask_file("mask.tif", tmp_path).any(), "probabilities of nothing"
