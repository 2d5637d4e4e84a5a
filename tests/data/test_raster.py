"""Pictures that other programs write: pages, palettes, previews, compressions of an optional library."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from evalfm.data.raster import raster_size, read_raster
from evalfm.errors import EvalfmError

GREY8 = (np.arange(48, dtype=np.uint8) * 5).reshape(6, 8)
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def without_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)


@pytest.mark.usefixtures("without_imagecodecs")
@pytest.mark.parametrize("values", [GREY8, COLOUR], ids=["grey", "colour"])
def test_lzw_without_the_optional_library(tmp_path: Path, values: np.ndarray) -> None:
    Pillow.fromarray(values).save(tmp_path / "a.tif", compression="tiff_lzw")
    expected = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif", None, "a.tif").values, expected)


@pytest.mark.usefixtures("without_imagecodecs")
def test_white_as_zero_is_turned_once_without_the_optional_library(tmp_path: Path) -> None:
    Pillow.fromarray(GREY8).save(tmp_path / "a.tif", tiffinfo={262: 0}, compression="tiff_lzw")
    with Pillow.open(tmp_path / "a.tif") as picture:
        shown = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif", None, "a.tif").values[0], shown)
    np.testing.assert_array_equal(shown, 255 - _stored_bytes(tmp_path / "a.tif"))


def _stored_bytes(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as picture:
        page = picture.pages[0]
        raw = [
            picture.filehandle.read_segments([offset], [count])
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        data = b"".join(page.decode(segment, 0, jpegtables=None)[0].tobytes() for each in raw for segment, _ in each)
    return np.frombuffer(data, np.uint8).reshape(6, 8)


@pytest.mark.usefixtures("without_imagecodecs")
def test_sixteen_bits_are_refused_and_not_cut_without_the_optional_library(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY8.astype(np.uint16) * 256)
    with pytest.raises(EvalfmError, match="install imagecodecs"):
        read_raster(tmp_path / "a.tif", None, "a.tif")


def test_palette_tiff(tmp_path: Path) -> None:
    indices = Pillow.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    indices.putpalette([10, 20, 30, 200, 100, 0])
    indices.save(tmp_path / "a.tif")
    stored = read_raster(tmp_path / "a.tif", None, "a.tif")
    np.testing.assert_array_equal(stored.values[:, 0], [[10, 200], [20, 100], [30, 0]])
    np.testing.assert_array_equal(stored.palette_indices, [[0, 1]])


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_cmyk_as_pillow_shows_it(tmp_path: Path, suffix: str) -> None:
    flat = np.full((16, 16, 4), (10, 200, 90, 30), np.uint8)
    Pillow.fromarray(flat, mode="CMYK").save(tmp_path / f"a.{suffix}")
    with Pillow.open(tmp_path / f"a.{suffix}") as picture:
        expected = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_raster(tmp_path / f"a.{suffix}", None, "a").values, expected)


def test_a_thumbnail_is_no_page(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY8[:2, :2], subfiletype=1, metadata=None)
        writer.write(GREY8, metadata=None)
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif", None, "a.tif").values[0], GREY8)
    assert raster_size(tmp_path / "a.tif", None, "a.tif") == (6, 8)


def test_tiff_with_opacity(tmp_path: Path) -> None:
    values = np.dstack([COLOUR, GREY8])
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    stored = read_raster(tmp_path / "a.tif", None, "a.tif")
    np.testing.assert_array_equal(stored.values, COLOUR.transpose(2, 0, 1))
    assert stored.opacity_varies


def test_a_volume_in_one_page_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((4, 6, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    with pytest.raises(EvalfmError, match=r"a\.tif"):
        read_raster(tmp_path / "a.tif", None, "a.tif")


def test_white_as_zero_in_floats_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY8.astype(np.float32), photometric="miniswhite")
    with pytest.raises(EvalfmError, match="white as zero"):
        read_raster(tmp_path / "a.tif", None, "a.tif")


def test_the_preview_in_a_jpeg_is_no_frame(tmp_path: Path) -> None:
    image, preview = (Pillow.fromarray(np.full(size, 90, np.uint8)) for size in ((32, 48), (8, 12)))
    image.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert read_raster(tmp_path / "a.jpg", None, "a.jpg").values.shape == (1, 32, 48)


def test_frames_of_an_animated_png_are_named(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(np.full((4, 5), value, np.uint8)) for value in (10, 20)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(EvalfmError, match="has 2 frames"):
        read_raster(tmp_path / "a.png", None, "a.png")


@pytest.mark.parametrize("kind", ["PPM", "TGA", "WEBP", "ICO", "EPS"])
def test_other_formats_are_opened_neither_for_pixels_nor_for_their_size(tmp_path: Path, kind: str) -> None:
    stream = io.BytesIO()
    Pillow.fromarray(COLOUR).save(stream, kind)
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    for read in (read_raster, raster_size):
        with pytest.raises(EvalfmError, match="not a PNG"):
            read(tmp_path / "a.png", None, "a.png")
