"""Pictures and arrays: every stored bit arrives, and what cannot be read whole is refused in one sentence."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from evalfm.data import arrays
from evalfm.data.images import (
    Image,
    image_digest,
    image_size,
    is_constant,
    read_image,
    resolve,
)
from evalfm.errors import EvalfmError, UnknownNameError

HEIGHT, WIDTH = 5, 7
GREY8 = (np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 7).astype(np.uint8)
GREY16 = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 1871 + 3
COLOUR = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def refused(locator: str, root: Path, read: Callable[[str, Path], object] = read_image) -> str:
    """The one sentence with which ``locator`` is refused."""
    with pytest.raises(EvalfmError) as caught:
        read(locator, root)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def assert_pixels(image: Image, expected: Any, bits: int) -> None:
    """float32 [C, H, W] with exactly the values ``expected``."""
    assert image.pixels.dtype == np.float32
    assert image.pixels.shape == np.shape(expected)
    np.testing.assert_allclose(image.pixels, expected, rtol=0, atol=1e-7)
    assert (image.unit, image.bits, image.spacing_mm) == ("unit-interval", bits, None)


def png(path: Path, colour_type: int, depth: int, rows: bytes, height: int, width: int) -> None:
    """A PNG written by hand, so that no library can share a mistake with the one that reads it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def scanlines(samples: NDArray[Any]) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in samples)


class TestPng:
    def test_8_bits(self, tmp_path: Path) -> None:
        Pillow.fromarray(GREY8).save(tmp_path / "image.png")
        image = read_image("image.png", tmp_path)
        assert_pixels(image, GREY8[None] / 255, bits=8)
        assert image.rule == "PNG, divided by 2^8 − 1"

    def test_every_one_of_16_bits_arrives(self, tmp_path: Path) -> None:
        png(tmp_path / "image.png", 0, 16, scanlines(GREY16.astype(">u2")), HEIGHT, WIDTH)
        assert_pixels(read_image("image.png", tmp_path), GREY16[None] / 65535, bits=16)

    def test_12_significant_bits_of_16(self, tmp_path: Path) -> None:
        values = GREY16 % 4096
        values[0, 0] = 4095
        Pillow.fromarray(values).save(tmp_path / "image.png")
        assert_pixels(read_image("image.png", tmp_path, bits=12), values[None] / 4095, bits=12)

    def test_values_above_the_significant_bits_are_refused(self, tmp_path: Path) -> None:
        Pillow.fromarray(np.array([[0, 4096]], np.uint16)).save(tmp_path / "image.png")
        message = refused("image.png", tmp_path, lambda name, root: read_image(name, root, bits=12))
        assert "from 0 to 4096" in message
        assert "--bits" in message

    def test_1_bit(self, tmp_path: Path) -> None:
        png(tmp_path / "mask.png", 0, 1, b"\0\xa0\0\x40", 2, 3)
        assert_pixels(read_image("mask.png", tmp_path), [[[1, 0, 1], [0, 1, 0]]], bits=1)

    @pytest.mark.parametrize("depth", [2, 4])
    def test_2_and_4_bits_fill_the_unit_interval(self, tmp_path: Path, depth: int) -> None:
        values = [0, 1, 2, 2**depth - 1]
        packed = sum(value << (8 * (4 * depth // 8) - depth * (place + 1)) for place, value in enumerate(values))
        png(tmp_path / "image.png", 0, depth, b"\0" + packed.to_bytes(4 * depth // 8, "big"), 1, 4)
        expected = np.array([[values]]) / (2**depth - 1)
        np.testing.assert_allclose(read_image("image.png", tmp_path).pixels, expected, atol=1e-7)

    def test_colour_keeps_its_channels(self, tmp_path: Path) -> None:
        Pillow.fromarray(COLOUR).save(tmp_path / "photo.png")
        assert_pixels(read_image("photo.png", tmp_path), COLOUR.transpose(2, 0, 1) / 255, bits=8)

    @pytest.mark.parametrize("opacity", [255, 0, "varies"])
    def test_grey_stored_as_rgba_is_one_channel_whatever_its_opacity(self, tmp_path: Path, opacity: int | str) -> None:
        alpha = GREY8[::-1] if opacity == "varies" else np.full_like(GREY8, opacity)
        Pillow.fromarray(np.dstack([GREY8, GREY8, GREY8, alpha])).save(tmp_path / "image.png")
        image = read_image("image.png", tmp_path)
        assert_pixels(image, GREY8[None] / 255, bits=8)
        assert "opacity dropped" in image.rule
        assert "three equal channels taken as one" in image.rule

    def test_colours_with_opacity(self, tmp_path: Path) -> None:
        Pillow.fromarray(np.dstack([COLOUR, GREY8])).save(tmp_path / "photo.png")
        assert_pixels(read_image("photo.png", tmp_path), COLOUR.transpose(2, 0, 1) / 255, bits=8)

    def test_grey_with_opacity(self, tmp_path: Path) -> None:
        Pillow.fromarray(np.dstack([GREY8, GREY8[::-1]])).save(tmp_path / "image.png")
        assert_pixels(read_image("image.png", tmp_path), GREY8[None] / 255, bits=8)

    def test_a_palette_stands_for_its_colours(self, tmp_path: Path) -> None:
        indices = Pillow.fromarray(np.array([[0, 1, 2]], np.uint8))
        indices.putpalette([10, 20, 30, 40, 50, 60, 200, 100, 0])
        indices.save(tmp_path / "drawing.png")
        expected = np.array([[[10, 40, 200]], [[20, 50, 100]], [[30, 60, 0]]]) / 255
        assert_pixels(read_image("drawing.png", tmp_path), expected, bits=8)

    def test_a_grey_palette_is_one_channel_of_its_greys(self, tmp_path: Path) -> None:
        indices = Pillow.fromarray(np.array([[0, 1, 2]], np.uint8))
        indices.putpalette([90, 90, 90, 200, 200, 200, 5, 5, 5])
        indices.save(tmp_path / "image.png")
        assert_pixels(read_image("image.png", tmp_path), np.array([[[90, 200, 5]]]) / 255, bits=8)

    @pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
    def test_16_bits_in_several_channels_would_be_cut_and_is_refused(
        self, tmp_path: Path, colour_type: int, channels: int
    ) -> None:
        samples = np.full((HEIGHT, WIDTH * channels), 258, ">u2")
        png(tmp_path / "photo.png", colour_type, 16, scanlines(samples), HEIGHT, WIDTH)
        assert "16 bits in several channels" in refused("photo.png", tmp_path)

    def test_the_content_counts_not_the_name(self, tmp_path: Path) -> None:
        Pillow.fromarray(GREY8).save(tmp_path / "image.dcm", format="PNG")
        assert_pixels(read_image("image.dcm", tmp_path), GREY8[None] / 255, bits=8)


class TestOtherPictures:
    def test_jpeg_is_as_its_decoder_gives_it(self, tmp_path: Path) -> None:
        smooth = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8) * 5
        Pillow.fromarray(smooth).save(tmp_path / "image.jpg", quality=100)
        image = read_image("image.jpg", tmp_path)
        assert (image.pixels.shape, image.bits) == ((1, 16, 24), 8)
        assert np.abs(image.pixels[0] * 255 - smooth).max() <= 2

    def test_orientation_is_not_applied_since_masks_lie_on_the_stored_grid(self, tmp_path: Path) -> None:
        tags = Pillow.Exif()
        tags[0x0112] = 6
        Pillow.fromarray(np.zeros((4, 9), np.uint8)).save(tmp_path / "image.jpg", exif=tags)
        assert read_image("image.jpg", tmp_path).pixels.shape == (1, 4, 9)
        assert image_size("image.jpg", tmp_path) == (4, 9)

    def test_bmp(self, tmp_path: Path) -> None:
        Pillow.fromarray(COLOUR).save(tmp_path / "photo.bmp")
        assert_pixels(read_image("photo.bmp", tmp_path), COLOUR.transpose(2, 0, 1) / 255, bits=8)

    def test_frames_of_a_gif_are_named(self, tmp_path: Path) -> None:
        frames = [Pillow.fromarray(np.full((3, 4), value, np.uint8)) for value in (10, 200)]
        frames[0].save(tmp_path / "image.gif", save_all=True, append_images=frames[1:])
        assert "has 2 frames" in refused("image.gif", tmp_path)
        assert_pixels(read_image("image.gif#1", tmp_path), np.full((1, 3, 4), 200) / 255, bits=8)
        assert "none of the 2 frames" in refused("image.gif#2", tmp_path)


class TestTiff:
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    @pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
    @pytest.mark.parametrize("values", [GREY8, GREY16], ids=["8", "16"])
    def test_grey(self, tmp_path: Path, values: NDArray[Any], compression: str | None, byteorder: Any) -> None:
        tifffile.imwrite(
            tmp_path / "image.tif",
            values,
            compression=compression,
            byteorder=byteorder,
            photometric="minisblack",
        )
        bits = values.dtype.itemsize * 8
        assert_pixels(read_image("image.tif", tmp_path), values[None] / (2**bits - 1), bits=bits)

    def test_12_bits_of_16(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "image.tif", GREY16 % 4096)
        assert_pixels(read_image("image.tif", tmp_path, bits=12), (GREY16 % 4096)[None] / 4095, bits=12)

    @pytest.mark.parametrize("values", [GREY8, GREY16], ids=["8", "16"])
    def test_white_as_zero_is_turned_round(self, tmp_path: Path, values: NDArray[Any]) -> None:
        tifffile.imwrite(tmp_path / "image.tif", values, photometric="miniswhite")
        top = np.iinfo(values.dtype).max
        image = read_image("image.tif", tmp_path)
        assert_pixels(image, (top - values.astype(float))[None] / top, bits=values.dtype.itemsize * 8)
        assert "white is zero" in image.rule

    @pytest.mark.parametrize("mode", ["1", "L"])
    def test_white_as_zero_written_by_another_program(self, tmp_path: Path, mode: str) -> None:
        image = Pillow.fromarray(np.array([[0, 255], [255, 255]], np.uint8)).convert(mode)
        image.save(tmp_path / "image.tif", tiffinfo={262: 0}, compression="tiff_lzw")
        np.testing.assert_array_equal(read_image("image.tif", tmp_path).pixels, [[[0, 1], [1, 1]]])

    def test_floats_are_taken_as_they_are(self, tmp_path: Path) -> None:
        values = np.linspace(0, 1, 35, dtype=np.float32).reshape(HEIGHT, WIDTH)
        tifffile.imwrite(tmp_path / "image.tif", values)
        np.testing.assert_array_equal(read_image("image.tif", tmp_path).pixels[0], values)

    def test_floats_outside_the_unit_interval_need_their_unit(self, tmp_path: Path) -> None:
        values = np.array([[-1000, 40.5]], np.float32)
        tifffile.imwrite(tmp_path / "slice.tif", values)
        assert "from -1000 to 40.5" in refused("slice.tif", tmp_path)
        image = read_image("slice.tif", tmp_path, unit="HU")
        assert image.unit == "HU"
        np.testing.assert_array_equal(image.pixels, values[None])

    def test_colour_in_either_layout(self, tmp_path: Path) -> None:
        expected = COLOUR.transpose(2, 0, 1) / 255
        tifffile.imwrite(tmp_path / "mixed.tif", COLOUR, photometric="rgb")
        planes = np.ascontiguousarray(COLOUR.transpose(2, 0, 1))
        tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
        assert_pixels(read_image("mixed.tif", tmp_path), expected, bits=8)
        assert_pixels(read_image("planes.tif", tmp_path), expected, bits=8)

    def test_16_bit_colour_keeps_its_bits(self, tmp_path: Path) -> None:
        values = np.random.default_rng(1).integers(0, 65536, (4, 6, 3), dtype=np.uint16)
        tifffile.imwrite(tmp_path / "photo.tif", values, photometric="rgb")
        assert_pixels(read_image("photo.tif", tmp_path), values.transpose(2, 0, 1) / 65535, bits=16)

    def test_pages_are_named(self, tmp_path: Path) -> None:
        with tifffile.TiffWriter(tmp_path / "images.tif") as writer:
            writer.write(GREY16, metadata=None)
            writer.write(GREY16[:3, :2] // 2, metadata=None)
        assert "has 2 pages" in refused("images.tif", tmp_path)
        assert_pixels(read_image("images.tif#1", tmp_path), (GREY16[:3, :2] // 2)[None] / 65535, bits=16)
        assert image_size("images.tif#1", tmp_path) == (3, 2)
        assert "none of the 2 pages" in refused("images.tif#2", tmp_path)


class TestArrays:
    @pytest.fixture(params=["stored", "compressed"])
    def stack(self, request: pytest.FixtureRequest, tmp_path: Path) -> NDArray[np.uint8]:
        values = np.random.default_rng(2).integers(0, 256, (4, HEIGHT, WIDTH), dtype=np.uint8)
        save = np.savez if request.param == "stored" else np.savez_compressed
        save(tmp_path / "set.npz", labels=np.arange(4), train_images=values, colour=COLOUR)
        return values

    def test_one_item_of_an_npz(self, stack: NDArray[np.uint8], tmp_path: Path) -> None:
        for index in range(4):
            image = read_image(f"set.npz#train_images/{index}", tmp_path)
            assert_pixels(image, stack[index][None] / 255, bits=8)
        assert image_size("set.npz#train_images/2", tmp_path) == (HEIGHT, WIDTH)

    def test_a_whole_member_in_colour(self, stack: NDArray[np.uint8], tmp_path: Path) -> None:
        assert_pixels(read_image("set.npz#colour", tmp_path), COLOUR.transpose(2, 0, 1) / 255, bits=8)

    def test_an_edited_file_is_read_anew(self, stack: NDArray[np.uint8], tmp_path: Path) -> None:
        before = read_image("set.npz#train_images/1", tmp_path).pixels
        digest = image_digest("set.npz#train_images/1", tmp_path)
        time = (tmp_path / "set.npz").stat().st_mtime_ns
        os.unlink(tmp_path / "set.npz")
        np.savez(tmp_path / "set.npz", train_images=255 - stack)
        os.utime(tmp_path / "set.npz", ns=(time + 1, time + 1))
        after = read_image("set.npz#train_images/1", tmp_path).pixels
        np.testing.assert_allclose(after, 1 - before, atol=1e-6)
        assert image_digest("set.npz#train_images/1", tmp_path) != digest

    def test_a_member_is_unpacked_once(
        self, stack: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read_image("set.npz#train_images/0", tmp_path)
        # Nothing of the file's content is asked for again.
        monkeypatch.setattr(zipfile.ZipFile, "open", None)
        monkeypatch.setattr(np.memmap, "__new__", None)
        for index in range(4):
            assert_pixels(read_image(f"set.npz#train_images/{index}", tmp_path), stack[index][None] / 255, bits=8)

    def test_what_is_read_cannot_be_spoilt_for_the_next_reader(self, stack: NDArray[np.uint8], tmp_path: Path) -> None:
        read_image("set.npz#train_images/0", tmp_path).pixels[:] = 0
        assert_pixels(read_image("set.npz#train_images/0", tmp_path), stack[0][None] / 255, bits=8)

    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("dtype", ["<u2", ">u2"])
    def test_npy_in_any_order(self, tmp_path: Path, dtype: str, order: Any) -> None:
        np.save(tmp_path / "image.npy", np.asarray(GREY16, dtype, order=order))
        np.save(tmp_path / "stack.npy", np.asarray(np.stack([GREY16 * 0, GREY16]), dtype, order=order))
        assert_pixels(read_image("image.npy", tmp_path), GREY16[None] / 65535, bits=16)
        assert_pixels(read_image("stack.npy#1", tmp_path), GREY16[None] / 65535, bits=16)

    @pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted by Linux alone")
    def test_one_file_an_image_does_not_use_up_the_file_descriptors(self, tmp_path: Path) -> None:
        for index in range(150):
            np.save(tmp_path / f"{index}.npy", GREY8 // (index + 1))
        for index in range(150):
            assert_pixels(read_image(f"{index}.npy", tmp_path), (GREY8 // (index + 1))[None] / 255, bits=8)
        mapped = [os.readlink(entry) for entry in _descriptors() if os.path.islink(entry)]
        assert sum(str(tmp_path) in name for name in mapped) <= arrays.MOST_ARRAYS

    def test_channels_first_and_opacity(self, tmp_path: Path) -> None:
        np.save(tmp_path / "planes.npy", COLOUR.transpose(2, 0, 1))
        np.save(tmp_path / "opacity.npy", np.dstack([COLOUR, GREY8]))
        assert_pixels(read_image("planes.npy", tmp_path), COLOUR.transpose(2, 0, 1) / 255, bits=8)
        assert_pixels(read_image("opacity.npy", tmp_path), COLOUR.transpose(2, 0, 1) / 255, bits=8)

    def test_bool_has_one_bit_and_wide_numbers_need_theirs(self, tmp_path: Path) -> None:
        np.save(tmp_path / "bool.npy", np.array([[True, False]]))
        np.save(tmp_path / "wide.npy", np.array([[0, 255]], np.int64))
        assert_pixels(read_image("bool.npy", tmp_path), [[[1, 0]]], bits=1)
        assert "--bits" in refused("wide.npy", tmp_path)
        assert_pixels(read_image("wide.npy", tmp_path, bits=8), [[[0, 1]]], bits=8)

    def test_objects_are_never_unpickled(self, tmp_path: Path) -> None:
        marker = tmp_path / "ran"

        class Planted:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (marker,)

        planted = np.empty((1, 2, 2), object)
        planted[:] = Planted()
        np.savez(tmp_path / "stored.npz", images=planted)
        np.savez_compressed(tmp_path / "packed.npz", images=planted)
        np.save(tmp_path / "planted.npy", planted, allow_pickle=True)
        (tmp_path / "bare.npy").write_bytes(pickle.dumps(Planted()))
        for read in (read_image, image_size, image_digest):
            for name in ("stored.npz#images/0", "packed.npz#images/0", "planted.npy#0"):
                assert "never unpickled" in refused(name, tmp_path, read)
        refused("bare.npy", tmp_path)
        assert not marker.exists()
        pickle.loads((tmp_path / "bare.npy").read_bytes())
        assert marker.exists(), "the planted pickle must be one that would have run"

    def test_absent_members_and_indices(self, stack: NDArray[np.uint8], tmp_path: Path) -> None:
        assert "holds the arrays colour, labels, train_images" in refused("set.npz", tmp_path)
        assert "no array 'test_images'" in refused("set.npz#test_images/0", tmp_path)
        for index, said in [("4", "image 4 of 4"), ("-1", "no index"), ("x", "no index"), ("²", "no index")]:
            assert said in refused(f"set.npz#train_images/{index}", tmp_path)
        assert "which is no image" in refused("set.npz#train_images", tmp_path)
        assert "which is no image" in refused("set.npz#labels/0", tmp_path)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_truncated_or_damaged(self, tmp_path: Path, save: Callable[..., None]) -> None:
        noise = np.random.default_rng(3).integers(0, 256, (8, 40, 40), dtype=np.uint8)
        save(tmp_path / "set.npz", images=noise)
        whole = (tmp_path / "set.npz").read_bytes()
        (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
        assert "damaged" in refused("short.npz#images/0", tmp_path)

    def test_a_wrong_checksum_is_seen(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "set.npz", images=np.tile(GREY8, (2, 1, 1)))
        whole = bytearray((tmp_path / "set.npz").read_bytes())
        directory = whole.index(b"PK\x01\x02")
        whole[directory + 16] ^= 1
        (tmp_path / "set.npz").write_bytes(whole)
        assert "damaged" in refused("set.npz#images/0", tmp_path)


def _descriptors() -> list[str]:
    return [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]


class TestRefusals:
    @pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif"])
    def test_truncated(self, tmp_path: Path, suffix: str) -> None:
        noise = np.random.default_rng(4).integers(0, 256, (64, 64), dtype=np.uint8)
        Pillow.fromarray(noise).save(tmp_path / f"image.{suffix}")
        whole = (tmp_path / f"image.{suffix}").read_bytes()
        (tmp_path / f"short.{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
        assert f"short.{suffix} cannot be read" in refused(f"short.{suffix}", tmp_path)

    def test_a_file_that_is_no_image(self, tmp_path: Path) -> None:
        (tmp_path / "notes.png").write_text("no image at all")
        (tmp_path / "empty.png").touch()
        for name in ("notes.png", "empty.png"):
            assert "not a PNG, JPEG" in refused(name, tmp_path)
            assert "not a PNG, JPEG" in refused(name, tmp_path, image_size)

    def test_programs_in_pictures_are_not_run(self, tmp_path: Path) -> None:
        (tmp_path / "image.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
        assert "not a PNG, JPEG" in refused("image.eps", tmp_path)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("unit", ["unit-interval", "raw"])
    def test_nan_and_infinity(self, tmp_path: Path, value: float, unit: str) -> None:
        values = np.full((4, 4), 0.5, np.float32)
        values[2, 1] = value
        np.save(tmp_path / "image.npy", values)
        tifffile.imwrite(tmp_path / "image.tif", values)
        for name in ("image.npy", "image.tif"):
            message = refused(name, tmp_path, lambda name, root: read_image(name, root, unit=unit))
            assert "NaN or infinite" in message or "outside of 0 to 1" in message

    @pytest.mark.parametrize("read", [read_image, image_size])
    def test_a_picture_that_claims_too_many_pixels(self, tmp_path: Path, read: Callable[[str, Path], object]) -> None:
        png(tmp_path / "bomb.png", 0, 1, b"\0", 60_000, 60_000)
        refused("bomb.png", tmp_path, read)

    @pytest.mark.parametrize("read", [read_image, image_size])
    def test_an_array_that_claims_too_much(self, tmp_path: Path, read: Callable[[str, Path], object]) -> None:
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + "\n"
        claim = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)
        (tmp_path / "bomb.npy").write_bytes(claim)
        assert "more than any image has" in refused("bomb.npy", tmp_path, read)

    def test_a_member_longer_than_its_bytes(self, tmp_path: Path) -> None:

        header = "{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 90, 90), }".ljust(117) + "\n"
        claim = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)
        with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", claim)
        assert "another length than it says" in refused("bomb.npz#images/0", tmp_path)

    def test_an_empty_array(self, tmp_path: Path) -> None:
        np.save(tmp_path / "image.npy", np.zeros((0, 5), np.uint8))
        assert "has no pixels" in refused("image.npy", tmp_path)

    def test_an_unknown_unit(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownNameError, match="Did you mean 'HU'"):
            read_image("image.png", tmp_path, unit="Hu")


class TestResolve:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "root/images").mkdir(parents=True)
        Pillow.fromarray(GREY8).save(tmp_path / "root/images/image.png")
        Pillow.fromarray(GREY8).save(tmp_path / "secret.png")
        return tmp_path / "root"

    def test_a_plain_path_and_a_member(self, root: Path) -> None:
        assert resolve("images/image.png", root) == (root / "images/image.png", None)
        assert resolve("images/image.png#a/b#c", root) == (root / "images/image.png", "a/b#c")
        assert resolve("images/image.png#", root) == (root / "images/image.png", "")
        assert resolve("./images//image.png", root)[0].samefile(root / "images/image.png")

    def test_a_relative_root(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root.parent)
        assert resolve("images/image.png", Path("root"))[0].samefile(root / "images/image.png")
        assert resolve("images/image.png", Path("root/../root"))[0].samefile(root / "images/image.png")

    @pytest.mark.parametrize(
        "locator",
        [
            "",
            "#images",
            "../secret.png",
            "images/../../secret.png",
            "images/../images/image.png",
            "..\\secret.png",
            "/etc/passwd",
            "\\\\server\\share",
            "C:/image.png",
            "images/image.png\0",
            "images/image.png#a\0",
        ],
    )
    def test_paths_that_leave_the_root(self, root: Path, locator: str) -> None:
        assert "leaves the data set's folder" in refused(locator, root, resolve)
        for read in (read_image, image_size, image_digest):
            refused(locator, root, read)

    def test_an_absolute_path_into_the_root_is_refused_too(self, root: Path) -> None:
        refused(str(root / "images/image.png"), root, resolve)

    def test_a_file_that_is_not_there(self, root: Path) -> None:
        for name in ("images/gone.png", "gone/image.png", "images", "images/image.png/more"):
            assert f"There is no file {name} under" in refused(name, root, resolve)

    def test_links_inside_are_followed(self, root: Path) -> None:
        (root / "image.png").symlink_to("images/image.png")
        (root / "folder").symlink_to("images")
        assert resolve("image.png", root)[0] == root / "images/image.png"
        assert resolve("folder/image.png", root)[0] == root / "images/image.png"

    def test_links_that_leave_are_refused(self, root: Path) -> None:
        (root / "image.png").symlink_to("../secret.png")
        (root / "folder").symlink_to("..")
        (root / "images/far.png").symlink_to(root.parent / "secret.png")
        (root / "chain.png").symlink_to("images/far.png")
        for name in ("image.png", "folder/secret.png", "images/far.png", "chain.png"):
            assert "through a link" in refused(name, root, resolve)

    def test_a_link_is_seen_even_if_it_appears_after_a_first_reading(self, root: Path) -> None:
        resolve("images/image.png", root)
        (root / "images/image.png").unlink()
        (root / "images/image.png").symlink_to("../../secret.png")
        assert "through a link" in refused("images/image.png", root, resolve)

    def test_a_root_that_is_a_link(self, root: Path) -> None:
        (root.parent / "link").symlink_to("root")
        (root / "inside.png").symlink_to("images/image.png")
        (root / "outside.png").symlink_to("../secret.png")
        for name in ("images/image.png", "inside.png"):
            assert resolve(name, root.parent / "link")[0].samefile(root / "images/image.png")
        refused("outside.png", root.parent / "link", resolve)

    def test_a_root_that_is_moved_to_another_folder_is_followed(self, root: Path) -> None:
        other = root.parent / "other/images"
        other.mkdir(parents=True)
        Pillow.fromarray(255 - GREY8).save(other / "image.png")
        link = root.parent / "current"
        link.symlink_to("root")
        before = read_image("images/image.png", link).pixels
        link.unlink()
        link.symlink_to("other")
        np.testing.assert_allclose(read_image("images/image.png", link).pixels, 1 - before, atol=1e-6)

    def test_a_loop_and_a_dangling_link(self, root: Path) -> None:
        (root / "loop.png").symlink_to("loop.png")
        (root / "nowhere.png").symlink_to("images/gone.png")
        assert "cannot be reached" in refused("loop.png", root, resolve)
        assert "There is no file" in refused("nowhere.png", root, resolve)

    def test_what_is_no_plain_file(self, root: Path) -> None:
        os.mkfifo(root / "pipe.png")
        assert "There is no file" in refused("pipe.png", root, resolve)


class TestDigest:
    def test_of_a_file_is_that_of_its_bytes(self, tmp_path: Path) -> None:
        Pillow.fromarray(GREY8).save(tmp_path / "image.png")
        whole = (tmp_path / "image.png").read_bytes()
        assert image_digest("image.png", tmp_path) == hashlib.sha256(whole).hexdigest()

    def test_of_an_item_is_that_of_its_values(self, tmp_path: Path) -> None:
        stack = np.stack([GREY16, GREY16 + 1, GREY16])
        np.savez(tmp_path / "stored.npz", images=stack)
        np.savez_compressed(tmp_path / "packed.npz", other=stack.astype(">u2"))
        digests = [image_digest(f"stored.npz#images/{index}", tmp_path) for index in range(3)]
        assert digests[0] == digests[2] != digests[1]
        assert image_digest("packed.npz#other/0", tmp_path) == digests[0]

    def test_the_shape_and_type_count(self, tmp_path: Path) -> None:
        zeros = np.zeros((4, 6), np.uint8)
        for name, values in {"a": zeros, "b": zeros.T, "c": zeros.astype(np.int8), "d": zeros.copy()}.items():
            np.save(tmp_path / f"{name}.npy", values)
        a, b, c, d = (image_digest(f"{name}.npy", tmp_path) for name in "abcd")
        assert len({a, b, c}) == 3
        assert a == d

    def test_pages_of_one_file_differ(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "images.tif", np.stack([GREY8] * 11), metadata=None)
        digests = {image_digest(f"images.tif#{page}", tmp_path) for page in (0, 1, 10)}
        assert len(digests) == 3


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.gif", "a.bmp", "a.npy"])
def test_the_size_is_that_of_the_pixels(tmp_path: Path, name: str) -> None:
    if name == "a.npy":
        np.save(tmp_path / name, COLOUR)
    else:
        Pillow.fromarray(COLOUR).save(tmp_path / name)
    assert image_size(name, tmp_path) == (HEIGHT, WIDTH) == read_image(name, tmp_path).pixels.shape[1:]


def test_constant_images_are_reported() -> None:
    flat = np.full((3, 4, 4), 0.25, np.float32)
    assert is_constant(Image(flat, "unit-interval", 8, None, ""))
    channels = flat * np.array([[[1]], [[2]], [[3]]], np.float32)
    assert is_constant(Image(channels, "unit-interval", 8, None, ""))
    channels[1, 3, 3] = 0
    assert not is_constant(Image(channels, "unit-interval", 8, None, ""))


@pytest.mark.parametrize("bits", range(1, 17))
def test_dividing_in_float32_is_exact_for_every_value(bits: int, tmp_path: Path) -> None:
    values = np.arange(2**bits, dtype=np.uint16).reshape(2, -1)
    np.save(tmp_path / "values.npy", values)
    pixels = read_image("values.npy", tmp_path, bits=bits).pixels
    assert np.array_equal(pixels[0], (values.astype(np.float64) / (2**bits - 1)).astype(np.float32))
    assert pixels.dtype == np.float32
