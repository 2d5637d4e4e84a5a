"""Small files that claim, chain or unpack without end, and decoders that fail in unusual ways: each one sentence."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
from PIL import Image as Pillow
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from evalfm.data import dicom, dicom_frames
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.images import dicom_attributes, image_size, read_image, read_stored
from evalfm.data.manifest import Manifest
from evalfm.data.report import check
from evalfm.data.stored import decoding
from evalfm.data.tiff import page_alone, page_of
from evalfm.errors import EvalfmError

from ..dicoms import dicom_header

GREY = (np.arange(48, dtype=np.uint8) * 5).reshape(6, 8)
ITEM = b"\xfe\xff\x00\xe0"


def refused(path: Path, member: str = "", read: Callable[[str, Path], object] = read_image) -> str:
    with pytest.raises(EvalfmError) as caught:
        read(path.name + member, path.parent)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert path.name in message
    return message


def zeros(count: int) -> bytes:
    packing = zlib.compressobj(9)
    return b"".join(packing.compress(bytes(2**24)) for _ in range(count >> 24)) + packing.flush()


class Panic(BaseException):
    """As pyo3's PanicException, which is no Exception."""


# What a decoder raises


@pytest.mark.parametrize(
    "error", [Panic("index out of bounds"), RecursionError("too deep"), struct.error(), Exception()]
)
def test_whatever_a_decoder_raises_is_one_sentence(error: BaseException) -> None:
    with pytest.raises(EvalfmError, match=r"^image: "), decoding(lambda caught: EvalfmError(f"image: {caught!r}")):
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), EvalfmError("as it is")])
def test_interrupts_exits_and_sentences_go_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, decoding(lambda _: EvalfmError("image")):
        raise error
    assert caught.value is error


def test_too_little_memory_is_said() -> None:
    with pytest.raises(EvalfmError, match="more memory than there is"), decoding(lambda error: EvalfmError(str(error))):
        raise MemoryError


def test_a_panic_is_the_fault_of_its_row_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    for number in range(3):
        Pillow.fromarray(np.roll(GREY, number)).save(tmp_path / f"{number}.png")
    read = Pillow.open

    def panic(path: Path, **options: Any) -> object:
        if path.name == "1.png":
            raise Panic("index out of bounds")
        return read(path, **options)

    monkeypatch.setattr(Pillow, "open", panic)
    table = pd.DataFrame({"id": ["a", "b", "c"], "image": [f"{n}.png" for n in range(3)], "lab": [0.0, 1.0, 0.0]})
    report = check(Manifest(DatasetInfo(name="toy", public_ids=True, label_source={"lab": "x"}), table, tmp_path))
    (fault,) = report.faults
    assert fault.row == 2
    assert "index out of bounds" in fault.message
    assert sum(report.sizes.values()) == 2


def test_a_panic_of_a_dicom_decoder_is_the_fault_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: object, **__: object) -> object:
        raise Panic("index out of bounds")

    dicom_file(tmp_path / "a.dcm")
    monkeypatch.setattr(dicom, "decoded_frame", panic)
    assert "index out of bounds" in refused(tmp_path / "a.dcm")


# DICOM


def dicom_file(path: Path, syntax: str = ExplicitVRLittleEndian, frame: bytes | None = None, **elements: Any) -> bytes:
    dataset = dicom_header(syntax)
    dataset.Rows, dataset.Columns = GREY.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.add_new("PixelData", "OB", GREY.tobytes() if frame is None else encapsulate([frame]))
    dataset["PixelData"].is_undefined_length = frame is not None
    pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return path.read_bytes()


def runs(*codes: bytes) -> bytes:
    return struct.pack("<16L", 1, 64, *[0] * 14) + b"".join(codes)


RUNS = [bytes([47]) + GREY.tobytes()]


def test_run_lengths_in_every_way_of_writing(tmp_path: Path) -> None:
    values = np.repeat(np.arange(6, dtype=np.uint8) * 40, 8)
    spelt = [bytes([257 - 8, value]) for value in values[::8].tolist()]
    for codes in (spelt, [b"\x80", *spelt], [*spelt, b"\0"], [bytes([47]) + values.tobytes()]):
        dicom_file(tmp_path / "a.dcm", RLELossless, runs(*codes), WindowCenter=128, WindowWidth=256)
        stored = np.rint(read_image("a.dcm", tmp_path).pixels[0] * 255)
        np.testing.assert_array_equal(stored, values.reshape(6, 8))


@pytest.mark.parametrize(
    "frame",
    [
        runs(bytes([46]) + GREY.tobytes()[:47]),
        runs(bytes([47]) + GREY.tobytes(), bytes([255, 7])),
        runs(bytes([257 - 100, 7])),
        runs(bytes([47]) + GREY.tobytes()[:20]),
        struct.pack("<16L", 2, 64, 80, *[0] * 13) + RUNS[0],
        struct.pack("<16L", 1, 4096, *[0] * 14) + RUNS[0],
        struct.pack("<16L", 15, *range(64, 79)) + RUNS[0],
        struct.pack("<16L", 2**31, *[64] * 15) + RUNS[0],
        b"\1\0",
    ],
    ids=["short", "long", "run too long", "cut", "two segments", "outside", "fifteen", "billions", "no head"],
)
def test_damaged_run_lengths_are_one_sentence_and_print_nothing(
    tmp_path: Path, frame: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    dicom_file(tmp_path / "a.dcm", RLELossless, frame)
    assert "cannot be decoded" in refused(tmp_path / "a.dcm")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["undefined", "defined"])
def test_items_without_end(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_frames, "MOST_READS", 10_000)
    monkeypatch.setattr(dicom_frames, "MOST_ITEMS", 10_000)
    whole = dicom_file(tmp_path / "a.dcm")
    length, mark = (2**32 - 1, b"\xfe\xff\xdd\xe0\0\0\0\0") if kind == "undefined" else (8 * 20_000, b"")
    sequence = struct.pack("<HH2sHL", 0x28, 0x3010, b"SQ", 0, length) + (ITEM + bytes(4)) * 20_000 + mark
    place = whole.index(struct.pack("<HH2s", 0x7FE0, 0x10, b"OB"))
    (tmp_path / "a.dcm").write_bytes(whole[:place] + sequence + whole[place:])
    assert "never ends" in refused(tmp_path / "a.dcm")


@pytest.mark.parametrize("depth", [300, 20_000])
def test_sequences_within_sequences(tmp_path: Path, depth: int) -> None:
    whole = dicom_file(tmp_path / "a.dcm")
    level = struct.pack("<HH2sHL", 0x20, 0x9116, b"SQ", 0, 2**32 - 1) + ITEM + b"\xff\xff\xff\xff"
    place = whole.index(struct.pack("<HH2s", 0x28, 0x02, b"US"))
    (tmp_path / "a.dcm").write_bytes(whole[:place] + level * depth + whole[place:])
    for read in (read_image, image_size):
        assert "damaged DICOM" in refused(tmp_path / "a.dcm", read=read)


def test_a_deflated_file_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dicom_file(tmp_path / "a.dcm", DeflatedExplicitVRLittleEndian)
    (tmp_path / "b.dcm").write_bytes(whole)
    assert read_image("b.dcm", tmp_path).pixels.shape == (1, 6, 8)
    assert dicom_attributes(tmp_path / "b.dcm")["modality"] == "DX"
    (meta,) = struct.unpack_from("<L", whole, 140)
    packing = zlib.compressobj(9, zlib.DEFLATED, -15)
    endless = packing.compress(bytes(2**22)) + packing.flush()
    (tmp_path / "a.dcm").write_bytes(whole[: 144 + meta] + endless)
    monkeypatch.setattr(dicom_frames, "MOST_INFLATED", 2**20)
    assert "unpacks to more than" in refused(tmp_path / "a.dcm")


def j2k(height: int, width: int) -> bytes:
    stream = bytearray(imagecodecs.jpeg2k_encode(GREY, codecformat="j2k", reversible=True))
    stream[8:16] = stream[24:32] = struct.pack(">LL", width, height)
    return bytes(stream)


def jpeg(height: int, width: int) -> bytes:
    made = io.BytesIO()
    Pillow.fromarray(GREY).save(made, "JPEG")
    stream = bytearray(made.getvalue())
    place = stream.index(b"\xff\xc0")
    stream[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(stream)


@pytest.mark.parametrize(("syntax", "made"), [(JPEG2000Lossless, j2k), (JPEGBaseline8Bit, jpeg)])
def test_a_compressed_picture_of_another_size_than_the_header(
    tmp_path: Path, syntax: str, made: Callable[[int, int], bytes]
) -> None:
    dicom_file(tmp_path / "a.dcm", syntax, made(6, 8))
    assert read_image("a.dcm", tmp_path).pixels.shape == (1, 6, 8)
    dicom_file(tmp_path / "a.dcm", syntax, made(4000, 4000))
    assert "compressed picture of 4000 × 4000 where its header says 6 × 8" in refused(tmp_path / "a.dcm")
    dicom_file(tmp_path / "a.dcm", syntax, made(60000, 60000))
    assert "more than any image has" in refused(tmp_path / "a.dcm")


def test_jpeg_2000_of_many_tiles_or_layers(tmp_path: Path) -> None:
    stream = bytearray(j2k(6, 8))
    place = stream.index(b"\xff\x52") + 6
    stream[place : place + 2] = b"\xff\xff"
    dicom_file(tmp_path / "a.dcm", JPEG2000Lossless, bytes(stream))
    assert "65535 layers" in refused(tmp_path / "a.dcm")


def test_more_frames_than_there_are_bytes(tmp_path: Path) -> None:
    dicom_file(tmp_path / "a.dcm", NumberOfFrames=2**31 - 1)
    assert "cannot be decoded" in refused(tmp_path / "a.dcm", "#0")


# TIFF


def tiff(entries: list[tuple[int, int, int, int | bytes]], data: bytes = b"", following: int = 0) -> bytes:
    """A TIFF of one page; values of bytes are laid behind the tags, ``data`` behind them."""
    place, table, values = 14 + 12 * len(entries), b"", b""
    for tag, kind, count, value in entries:
        where = place + len(values) if isinstance(value, bytes) else value
        table += struct.pack("<HHLL", tag, kind, count, where)
        values += value if isinstance(value, bytes) else b""
    head = struct.pack("<2sHLH", b"II", 42, 8, len(entries))
    return head + table + struct.pack("<L", following) + values + data


def page(height: int, width: int, compression: int = 1) -> list[tuple[int, int, int, int | bytes]]:
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]


def chain(count: int) -> bytes:
    """Pages of one tag, each pointing to the next."""
    made = bytearray(struct.pack("<2sHL", b"II", 42, 8))
    for number in range(count):
        made += struct.pack("<HHHLLL", 1, 256, 4, 1, 5, 8 + 18 * (number + 1) if number < count - 1 else 0)
    return bytes(made)


def test_pages_in_a_circle_and_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff([*page(6, 8), (273, 4, 1, 8), (279, 4, 1, 48)], bytes(100), following=8))
    assert "turn in a circle" in refused(path)
    path.write_bytes(chain(10_001))
    assert "more than 10000 pages" in refused(path)
    assert "more than 10000 pages" in refused(path, read=image_size)
    path.write_bytes(chain(9_999))
    assert "has 9999 pages; name one" in refused(path)


def test_pages_through_rubbish(tmp_path: Path) -> None:
    rubbish = np.random.default_rng(3).integers(0, 256, 200_000, dtype=np.uint8).tobytes()
    path = tmp_path / "a.tif"
    for start in range(200, 240):
        path.write_bytes(tiff([*page(6, 8), (273, 4, 1, 100), (279, 4, 1, 48)], rubbish, following=start))
        refused(path, "#5")


@pytest.mark.parametrize(
    ("entries", "data", "why"),
    [
        ([*page(2**31, 2**31), (273, 4, 1, 8), (279, 4, 1, 48)], bytes(100), "more than any image has"),
        ([*page(6, 8), (322, 4, 1, 2**30), (323, 4, 1, 2**30), (324, 4, 1, 8), (325, 4, 1, 8)], b"", "more than any"),
        ([*page(6, 8), (273, 4, 1, 8), (279, 4, 1, 10**6)], bytes(100), "cut short"),
        ([*page(6, 8), (273, 4, 1, 10**8), (279, 4, 1, 48)], bytes(100), "cut short"),
        ([*page(6, 8), (278, 4, 1, 1), (273, 4, 2, bytes(8)), (279, 4, 2, bytes(8))], b"", "2 of 6 strips"),
        ([*page(6, 8), (277, 3, 1, 60000), (273, 4, 1, 8), (279, 4, 1, 48)], b"", "60000 channels"),
        ([*page(6, 8), (32997, 4, 1, 9), (273, 4, 1, 8), (279, 4, 1, 48)], b"", "with depth"),
        ([*page(6, 8, 34933), (273, 4, 1, 8), (279, 4, 1, 48)], bytes(100), "compression 34933"),
        ([*page(6, 8), (273, 4, 2**31, 8), (279, 4, 2**31, 8)], b"", "holds 2147483648 values"),
        ([*page(0, 8), (273, 4, 1, 8), (279, 4, 1, 48)], bytes(100), "no pixels"),
        (page(6, 8), b"", "without pixels"),
    ],
)
def test_tiffs_that_claim_what_they_do_not_hold(
    tmp_path: Path, entries: list[tuple[int, int, int, int | bytes]], data: bytes, why: str
) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(entries, data))
    assert why in refused(tmp_path / "a.tif")


def test_strips_that_share_their_bytes(tmp_path: Path) -> None:
    packed = zeros(2**24)
    strips = [*page(4096, 4096, 8), (278, 4, 1, 1)]
    place = 14 + 12 * (len(strips) + 2) + 8 * 4096
    offsets, lengths = np.full(4096, place, "<u4").tobytes(), np.full(4096, len(packed), "<u4").tobytes()
    (tmp_path / "a.tif").write_bytes(tiff([*strips, (273, 4, 4096, offsets), (279, 4, 4096, lengths)], packed))
    assert "overlap" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["deflate", "lzma"])
def test_a_strip_that_unpacks_without_end_is_cut_at_its_size(tmp_path: Path, compression: str) -> None:
    values = np.zeros((2048, 4096), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression, rowsperstrip=2048)
    whole = (tmp_path / "a.tif").read_bytes()
    # The page says a quarter of the rows that its strip holds.
    short = whole.replace(struct.pack("<HHLL", 257, 4, 1, 2048), struct.pack("<HHLL", 257, 4, 1, 512))
    short = short.replace(struct.pack("<HHLHH", 257, 3, 1, 2048, 0), struct.pack("<HHLHH", 257, 3, 1, 512, 0))
    assert short != whole
    (tmp_path / "a.tif").write_bytes(short)
    assert read_image("a.tif", tmp_path).pixels.shape == (1, 512, 4096)
    unpacked = page_alone(tmp_path / "a.tif", page_of(tmp_path / "a.tif", None, "a.tif"), "a.tif")
    assert 512 * 4096 <= len(unpacked.getvalue()) < 512 * 4096 + 1000


@pytest.mark.parametrize(("compression", "made"), [(33005, j2k), (7, jpeg)])
def test_compressed_strips_larger_than_their_page(
    tmp_path: Path, compression: int, made: Callable[[int, int], bytes]
) -> None:
    for size, why in (((6, 8), ""), ((4000, 4000), "4000 × 4000"), ((60000, 60000), "more than any image has")):
        strip = made(*size)
        tags = [*page(6, 8, compression), (273, 4, 1, 14 + 12 * 7), (279, 4, 1, len(strip))]
        (tmp_path / "a.tif").write_bytes(tiff(tags, strip))
        if why:
            assert why in refused(tmp_path / "a.tif")
        else:
            assert read_image("a.tif", tmp_path).pixels.shape == (1, 6, 8)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"rowsperstrip": 5}])
@pytest.mark.parametrize(
    ("compression", "predictor"),
    [
        (None, False),
        ("lzw", True),
        ("deflate", False),
        ("deflate", True),
        ("lzma", False),
        ("lzma", True),
        ("zstd", False),
        ("packbits", False),
    ],
)
def test_white_as_zero_in_every_layout(
    tmp_path: Path, compression: Any, predictor: bool, layout: dict[str, Any], bigtiff: bool, byteorder: Any
) -> None:
    for values in (np.kron(GREY, np.ones((8, 8), np.uint8)), np.kron(GREY, np.ones((8, 8), np.uint16)) * 257):
        made: dict[str, Any] = {"photometric": "miniswhite", "bigtiff": bigtiff, "byteorder": byteorder, **layout}
        tifffile.imwrite(tmp_path / "a.tif", values, compression=compression, predictor=predictor, **made)
        image = read_image("a.tif", tmp_path)
        np.testing.assert_allclose(image.pixels[0], 1 - values / np.iinfo(values.dtype).max, atol=1e-6)
        assert "white is zero" in image.rule


@pytest.mark.parametrize("white", [0, 1])
@pytest.mark.parametrize("compression", [None, "packbits", "group3", "group4"])
def test_one_bit_as_pillow_shows_it(tmp_path: Path, compression: str | None, white: int) -> None:
    shown = np.kron(GREY > 100, np.ones((8, 8), bool))
    Pillow.fromarray(shown).save(tmp_path / "a.tif", compression=compression, tiffinfo={262: white})
    np.testing.assert_array_equal(read_image("a.tif", tmp_path).pixels[0], shown)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_of_every_width(tmp_path: Path, dtype: str) -> None:
    values = (GREY / 255).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.save(tmp_path / "a.npy", values)
    for name in ("a.tif", "a.npy"):
        np.testing.assert_array_equal(read_image(name, tmp_path).pixels[0], values.astype(np.float32))


@pytest.mark.parametrize("read", [read_image, read_stored])
def test_complex_numbers_are_no_image(tmp_path: Path, read: Callable[[str, Path], object]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(np.complex64))
    np.save(tmp_path / "a.npy", GREY.astype(np.complex64))
    for name in ("a.tif", "a.npy"):
        assert "complex64" in refused(tmp_path / name, read=read)


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (8, 1)])
def test_one_row_or_column_is_a_image_and_none_is_not(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = np.arange(8, dtype=np.uint8)[: shape[0] * shape[1]].reshape(shape)
    Pillow.fromarray(values).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    np.save(tmp_path / "a.npy", values)
    for name in ("a.png", "a.tif", "a.npy"):
        np.testing.assert_allclose(read_image(name, tmp_path).pixels[0], values / 255, atol=1e-7)
    np.save(tmp_path / "b.npy", np.zeros((0, shape[1]), np.uint8))
    assert "no pixels" in refused(tmp_path / "b.npy")


# Pictures and arrays


def test_a_jpeg_of_many_scans(tmp_path: Path) -> None:
    made = io.BytesIO()
    Pillow.fromarray(np.zeros((3000, 3000), np.uint8)).save(made, "JPEG", progressive=True)
    whole = made.getvalue()
    (tmp_path / "a.jpg").write_bytes(whole)
    assert read_image("a.jpg", tmp_path).pixels.shape == (1, 3000, 3000)
    last = whole.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(whole[:last] + whole[last:-2] * 500 + b"\xff\xd9")
    assert "scans" in refused(tmp_path / "a.jpg")


def test_a_gif_of_frames_without_end(tmp_path: Path) -> None:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", 800, 800, 0x80, 0, 0) + bytes(6)
    path = tmp_path / "a.gif"
    path.write_bytes(head + frame * 50_000 + b"\x3b")
    assert "more than 10000 frames" in refused(path)
    path.write_bytes(head + frame * 5_000 + b"\x3b")
    assert "has 5000 frames" in refused(path)
    assert "long animation" in refused(path, "#4999")
    assert read_image("a.gif#3", tmp_path).pixels.shape == (1, 800, 800)


def npz(path: Path, shape: str, content: int, method: int = zipfile.ZIP_DEFLATED) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with (
        zipfile.ZipFile(path, "w", method) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        for _ in range(content >> 24):
            member.write(bytes(2**24))


def test_arrays_that_claim_terabytes(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", "(2199023, 1000, 1000)", 2**24)
    assert "another length" in refused(tmp_path / "a.npz", "#images/0")


def test_arrays_that_unpack_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz(tmp_path / "a.npz", "(1024, 128, 128)", 2**24)
    assert read_image("a.npz#images/0", tmp_path).pixels.shape == (1, 128, 128)
    monkeypatch.setattr("evalfm.data.arrays.CACHE_BYTES", 2**23)
    npz(tmp_path / "b.npz", "(1024, 128, 128)", 2**24)
    assert "unpacks to" in refused(tmp_path / "b.npz", "#images/0")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        npz(tmp_path / "c.npz", "(1024, 128, 128)", 2**24, method)
        for read in (read_image, image_size):
            assert "savez_compressed" in refused(tmp_path / "c.npz", "#images/0", read)


@pytest.mark.parametrize("shape", ["(" * 4000 + ")" * 4000, "-" * 9000 + "1", "(9**9**9**9,)", "(-8, 8)"])
def test_headers_of_arrays_that_are_programs(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    refused(tmp_path / "a.npy")
