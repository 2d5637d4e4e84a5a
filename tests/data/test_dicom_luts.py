"""Look-up tables of DICOM over a matrix of syntaxes, signs, depths and ways to write a table.

What is right is worked out pixel by pixel from PS3.3 C.7.6.3.1.5, C.7.9.2, C.11.1 and C.11.2 with numbers alone, and
compared with pydicom where pydicom reads the case.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from evalfm.data.images import read_image
from evalfm.errors import EvalfmError

HEIGHT, WIDTH = 6, 8
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "little": ExplicitVRLittleEndian,
    "big": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "runs": RLELossless,
}
DEPTHS = [(8, 8), (16, 10), (16, 12), (16, 16)]
RNG = np.random.default_rng(16)


@dataclass(frozen=True)
class Table:
    """A table as the test knows it: what it means, and how it is written."""

    first: int
    entries: list[int]
    bits: int
    kind: str
    """US: a number an element. words: bytes of 16 bits. packed: two entries of 8 bits a word. bytes: OB."""

    def value(self, stored: float) -> int:
        return self.entries[int(min(max(stored - self.first, 0), len(self.entries) - 1))]


def lut_item(table: Table, big: bool, descriptor: str = "US") -> Dataset:
    item = Dataset()
    put_table(item, table, big, "LUTDescriptor", "LUTData", descriptor)
    return item


def put_table(item: Dataset, table: Table, big: bool, described: str, data: str, descriptor: str) -> None:
    count = len(table.entries) % 65536
    if descriptor == "SS" and count > 32767:
        count -= 65536
    first = table.first if descriptor == "SS" else table.first % 65536
    item.add_new(described, descriptor, [count, first, table.bits])
    order = ">" if big else "<"
    if table.kind == "US":
        item.add_new(data, "US", table.entries)
    elif table.kind == "words":
        item.add_new(data, "OW", struct.pack(f"{order}{len(table.entries)}H", *table.entries))
    elif table.kind == "bytes":
        padded = [*table.entries, 0] if len(table.entries) % 2 else table.entries
        item.add_new(data, "OB", bytes(padded))
    else:
        padded = [*table.entries, 0] if len(table.entries) % 2 else table.entries
        words = [low | high << 8 for low, high in zip(padded[::2], padded[1::2], strict=True)]
        item.add_new(data, "OW", struct.pack(f"{order}{len(words)}H", *words))


def written(path: Path, stored: NDArray[Any], syntax: str, allocated: int, bits: int, **elements: Any) -> Dataset:
    """A file of ``stored`` [H, W] whole numbers; bits above the stored ones are noise where nothing forbids it."""
    signed = bool(elements.pop("PixelRepresentation", 0))
    palette = elements.pop("palette", Dataset())
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "DX", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.update(palette)
    raw = stored.astype(np.int64) % 2**bits + (RNG.integers(0, 2 ** (allocated - bits), stored.shape) << bits)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = raw.astype(f"{order}u{allocated // 8}").tobytes()
    dataset.add_new("PixelData", "OB" if allocated == 8 else "OW", data)
    if syntax == RLELossless:
        dataset.compress(RLELossless, encoding_plugin="pydicom")
        dataset.save_as(path, enforce_file_format=True)
    else:
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return dataset


def values_within(low: int, high: int) -> NDArray[np.int64]:
    values = np.linspace(low, high, HEIGHT * WIDTH).round().astype(np.int64)
    return np.asarray(RNG.permutation(values).reshape(HEIGHT, WIDTH))


def images(signed: bool, bits: int) -> list[NDArray[np.int64]]:
    """One image over the whole range and one without a negative value, since no value tells what is signed."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return [values_within(low, high), values_within(max(low, 0), high // 2)]


def entries(count: int, bits: int) -> list[int]:
    made = RNG.integers(0, 2**bits, count).tolist()
    made[count // 2] = 2**bits - 1
    return [int(value) for value in made]


def tables(low: int, high: int) -> list[Table]:
    """Tables over a part of ``low`` to ``high`` in every way of writing."""
    count = min(high - low + 1, 300)
    made = [
        Table(low, entries(count, 16), 16, "US"),
        Table(low, entries(count, 16), 16, "words"),
        Table(low, entries(count, 8), 8, "US"),
        Table(low, entries(count, 8), 8, "words"),
        Table(low, entries(count - 1, 8), 8, "packed"),
        Table(low, entries(count - 1, 8), 8, "bytes"),
        Table((low + high) // 2, entries(count, 12), 12, "words"),
        Table(high - 5, entries(9, 10), 10, "US"),
    ]
    return made if low > -32768 or high < 32767 else [*made, Table(low, entries(65536, 16), 16, "words")]


def as_read(path: Path) -> NDArray[np.float32]:
    image = read_image(path.name, path.parent)
    assert image.unit == "unit-interval"
    return image.pixels[0]


@pytest.mark.parametrize("descriptor", ["US", "SS"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("allocated", "bits"), DEPTHS)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_voi_luts_on_stored_values(
    tmp_path: Path, syntax: str, allocated: int, bits: int, signed: bool, descriptor: str
) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    path = tmp_path / "image.dcm"
    for stored, table, white in itertools.product(
        images(signed, bits), tables(low, high), ("MONOCHROME1", "MONOCHROME2")
    ):
        if descriptor == "SS" and not -32768 <= table.first <= 32767:
            continue
        item = lut_item(table, syntax == "big", descriptor)
        written(
            path,
            stored,
            SYNTAXES[syntax],
            allocated,
            bits,
            PixelRepresentation=signed,
            VOILUTSequence=[item],
            PhotometricInterpretation=white,
        )
        top = 2**table.bits - 1
        expected = np.array([[table.value(value) / top for value in row] for row in stored.tolist()])
        expected = 1 - expected if white == "MONOCHROME1" else expected
        np.testing.assert_allclose(as_read(path), expected, atol=1e-6, err_msg=str((table.first, table.kind)))
        dataset = pydicom.dcmread(path)
        # pydicom takes the start as it is written, and cannot index more than 255 entries of 8 bits.
        if table.kind == "US" and table.bits > 8 and table.first == dataset.VOILUTSequence[0].LUTDescriptor[1]:
            theirs = apply_voi(stored.astype(np.int32), dataset) / top
            np.testing.assert_allclose(as_read(path), 1 - theirs if white == "MONOCHROME1" else theirs, atol=1e-6)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("allocated", "bits"), DEPTHS)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_modality_luts(tmp_path: Path, syntax: str, allocated: int, bits: int, signed: bool) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    path = tmp_path / "slice.dcm"
    for stored, table in itertools.product(images(signed, bits), tables(low, high)):
        item = lut_item(table, syntax == "big")
        elements = {"ModalityLUTSequence": [item], "RescaleSlope": 3, "RescaleIntercept": -7}
        written(path, stored, SYNTAXES[syntax], allocated, bits, PixelRepresentation=signed, Modality="MR", **elements)
        image = read_image(path.name, tmp_path)
        assert image.rule.startswith("DICOM modality LUT")
        expected = [[table.value(value) for value in row] for row in stored.tolist()]
        np.testing.assert_array_equal(image.pixels[0], expected, err_msg=str((table.first, table.kind)))
        dataset = pydicom.dcmread(path)
        del dataset.RescaleSlope
        if table.kind == "US" and table.bits == 16 and table.first == dataset.ModalityLUTSequence[0].LUTDescriptor[1]:
            np.testing.assert_array_equal(image.pixels[0], apply_modality_lut(stored.astype(np.int32), dataset))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_voi_lut_behind_a_modality_lut_starts_unsigned(tmp_path: Path, syntax: str) -> None:
    stored = values_within(-2048, 2047)
    first = Table(-2048, [int(value) for value in np.arange(4096) * 15 + 2000], 16, "words")
    second = Table(40000, entries(20000, 12), 12, "US")
    written(
        tmp_path / "image.dcm",
        stored,
        SYNTAXES[syntax],
        16,
        12,
        PixelRepresentation=True,
        ModalityLUTSequence=[lut_item(first, syntax == "big")],
        VOILUTSequence=[lut_item(second, syntax == "big")],
    )
    expected = [[second.value(first.value(value)) / 4095 for value in row] for row in stored.tolist()]
    np.testing.assert_allclose(as_read(tmp_path / "image.dcm"), expected, atol=1e-6)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("signed", "bits", "slope", "intercept", "first"),
    [
        (False, 12, 1, -1024, -1024),  # signed by the range, whatever the pixels are
        (False, 12, 1, -1024, -300),
        (False, 12, 2, -4096, -4000),
        (False, 12, -1, 0, -4095),
        (True, 12, 1, 0, -2048),
        (True, 12, 1, 2048, 0),
        (True, 16, 1, 32768, 40000),  # unsigned by the range, although the pixels are signed
        (False, 16, 1, -1024, 40000),  # the signed reading would lie outside of all possible values
        (False, 16, 1, -1024, -1024),
        (False, 16, 1, 0, 50000),
        (True, 16, 1, -10, -32768),
    ],
)
def test_voi_luts_behind_a_rescale(
    tmp_path: Path, syntax: str, signed: bool, bits: int, slope: int, intercept: int, first: int
) -> None:
    table = Table(first, entries(2000, 16), 16, "words")
    for stored in images(signed, bits):
        written(
            tmp_path / "image.dcm",
            stored,
            SYNTAXES[syntax],
            16,
            bits,
            PixelRepresentation=signed,
            RescaleSlope=slope,
            RescaleIntercept=intercept,
            VOILUTSequence=[lut_item(table, syntax == "big")],
        )
        expected = [[table.value(value * slope + intercept) / 65535 for value in row] for row in stored.tolist()]
        np.testing.assert_allclose(as_read(tmp_path / "image.dcm"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("bits", "kind"),
    [*itertools.product([8, 12, 16], ["US", "words"]), (8, "packed"), (8, "bytes")],
)
@pytest.mark.parametrize(
    ("syntax", "signed", "first"),
    [
        (syntax, signed, first)
        for syntax in SYNTAXES
        for signed, first in [(False, 0), (False, 7), (False, 200), (True, -100), (True, 0)]
        # pydicom writes no signed palettes as run lengths.
        if not (signed and syntax == "runs")
    ],
)
def test_palettes(tmp_path: Path, syntax: str, signed: bool, first: int, bits: int, kind: str) -> None:
    stored = values_within(-128, 127) if signed else values_within(0, 255)
    path, colours, dataset = tmp_path / "picture.dcm", [], Dataset()
    for name in ("Red", "Green", "Blue"):
        table = Table(first, entries(200, bits), bits, kind)
        colours.append(table)
        described, data = f"{name}PaletteColorLookupTableDescriptor", f"{name}PaletteColorLookupTableData"
        put_table(dataset, table, syntax == "big", described, data, "US")
    elements = {"PixelRepresentation": signed, "PhotometricInterpretation": "PALETTE COLOR", "Modality": "US"}
    written(path, stored, SYNTAXES[syntax], 8, 8, **elements, palette=dataset)
    image = read_image(path.name, tmp_path)
    expected = np.array([[[t.value(v) / (2**bits - 1) for v in row] for row in stored.tolist()] for t in colours])
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    assert image.bits == bits
    if kind == "words" and syntax != "big" and first >= 0 and bits == 16:
        theirs = apply_color_lut(stored.astype(np.int32), pydicom.dcmread(path)) / 65535
        np.testing.assert_allclose(image.pixels, theirs.transpose(2, 0, 1), atol=1e-6)


def segments(bits: int, big: bool) -> tuple[bytes, list[int]]:
    """A segmented palette and what it stands for: ten numbers, a ramp up, one down, and the first two once more."""
    top = 2**bits - 1
    plain = [int(value) for value in np.linspace(0, top, 10)]
    numbers = [0, 10, *plain, 1, 100, 3, 1, 50, top]
    offset = 0
    numbers += [2, 2, *([offset & 255, 0, 0, 0] if bits == 8 else [offset, 0])]
    up = [round(plain[-1] + (3 - plain[-1]) * step / 100) for step in range(1, 101)]
    down = [round(3 + (top - 3) * step / 50) for step in range(1, 51)]
    again = [round(plain[-1] + (3 - plain[-1]) * step / 100) for step in range(1, 101)]
    expanded = [*plain, *up, *down, *plain, *again]
    if bits == 16:
        return struct.pack(f"{'>' if big else '<'}{len(numbers)}H", *numbers), expanded
    padded = bytes([*numbers, 0] if len(numbers) % 2 else numbers)
    swapped = np.frombuffer(padded, np.uint8).reshape(-1, 2)[:, ::-1].tobytes()
    return swapped if big else padded, expanded


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_segmented_palettes(tmp_path: Path, syntax: str, bits: int) -> None:
    data, expanded = segments(bits, syntax == "big")
    stored = values_within(0, 255)
    elements: dict[str, Any] = {}
    for name in ("Red", "Green", "Blue"):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [len(expanded), 0, bits]
        elements[f"Segmented{name}PaletteColorLookupTableData"] = data
    path = tmp_path / "picture.dcm"
    written(path, stored, SYNTAXES[syntax], 8, 8, PhotometricInterpretation="PALETTE COLOR", **elements)
    table = Table(0, expanded, bits, "")
    expected = [[table.value(value) / (2**bits - 1) for value in row] for row in stored.tolist()]
    image = read_image(path.name, tmp_path)
    np.testing.assert_allclose(image.pixels[0], expected, atol=1e-6)
    if syntax != "big":
        theirs = apply_color_lut(stored.astype(np.int32), pydicom.dcmread(path))
        np.testing.assert_allclose(image.pixels[0], theirs[..., 0] / (2**bits - 1), atol=1e-6)


@pytest.mark.parametrize(
    "numbers", [[1, 5, 9], [2, 1, 0, 0], [7, 1, 1], [0, 3, 1, 2, 3, 2, 9, 0, 0, 2, 9, 5, 0], [0, 0] * 200_000]
)
def test_damaged_segments_are_one_sentence(tmp_path: Path, numbers: list[int]) -> None:
    elements: dict[str, Any] = {}
    for name in ("Red", "Green", "Blue"):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"Segmented{name}PaletteColorLookupTableData"] = struct.pack(f"<{len(numbers)}H", *numbers)
    path = tmp_path / "picture.dcm"
    photometric = "PALETTE COLOR"
    written(
        path, values_within(0, 255), ExplicitVRLittleEndian, 8, 8, PhotometricInterpretation=photometric, **elements
    )
    with pytest.raises(EvalfmError, match=r"picture\.dcm cannot be read: its .*; export it again\.$"):
        read_image(path.name, tmp_path)
