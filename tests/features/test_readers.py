"""Readers by threads and by processes: the same pixels in order, errors with their row, bounds, kills, interrupts."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pil

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.images import Image
from evalfm.data.manifest import Manifest
from evalfm.encoders import find_card
from evalfm.encoders.model_input import model_input
from evalfm.encoders.preprocessing import Preparer
from evalfm.errors import EvalfmError
from evalfm.features.memory import MemoryBudget
from evalfm.features.readers import FEW_IMAGES, ImageReader, PreparedBatch

from ..dicoms import dicom_header

GENEROUS = {"host": 10**9, "pinned": 0}


def manifest_of(folder: Path, names: Sequence[str], **info: Any) -> Manifest:
    table = pd.DataFrame({"id": [str(number) for number in range(len(names))], "image": list(names)})
    return Manifest(DatasetInfo(name="made", **info), table, folder)


def preparer(name: str = "resnet50") -> Preparer:
    return Preparer(find_card(name).preprocessing, name)


def drawn(height: int, width: int, bits: int, seed: int, channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = np.clip(generator.normal(0.5, 0.2, (height, width, channels)), 0, 1)
    return np.rint(values.squeeze() * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def write_dicom(path: Path, pixels: np.ndarray, **tags: Any) -> None:
    dataset = dicom_header("1.2.840.10008.1.2.1")
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_kinds(folder: Path) -> list[str]:
    """One image of each kind that can be read."""
    grey, deep, colour = drawn(70, 90, 8, 0), drawn(300, 260, 16, 1), drawn(81, 64, 8, 2, 3)
    signed = (deep.astype(np.int32) - 2**15).astype(np.int16)
    for suffix in ("png", "jpg", "gif", "bmp", "tif"):
        Pil.fromarray(grey).save(folder / f"grey.{suffix}")
    Pil.fromarray(deep).save(folder / "deep.png")
    Pil.fromarray(deep).save(folder / "deep.tif")
    Pil.fromarray(grey > 100).save(folder / "bits.png")
    Pil.fromarray(colour).save(folder / "colour.png")
    Pil.fromarray(colour).convert("RGBA").save(folder / "opaque.png")
    Pil.fromarray(colour).quantize(16).save(folder / "palette.png")
    Pil.fromarray(np.stack([grey] * 3, 2)).save(folder / "equal.png")
    Pil.fromarray((grey / np.float32(255)).astype(np.float32)).save(folder / "float.tif")
    np.savez(folder / "stack.npz", images=np.stack([grey, grey[::-1]]), deep=deep / np.float32(65535))
    write_dicom(folder / "plain.dcm", deep)
    write_dicom(
        folder / "window.dcm", deep, WindowCenter=30000, WindowWidth=20000, PhotometricInterpretation="MONOCHROME1"
    )
    write_dicom(folder / "signed.dcm", signed, RescaleSlope=2, RescaleIntercept=-7, PixelPaddingValue=int(signed.min()))
    write_dicom(folder / "twelve.dcm", deep // 16, BitsStored=12)
    write_dicom(folder / "byte.dcm", grey)
    write_dicom(folder / "byte-window.dcm", grey, WindowCenter=128, WindowWidth=256)
    write_dicom(
        folder / "colour.dcm", colour, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0
    )
    return [
        *(path.name for path in sorted(folder.iterdir()) if path.suffix != ".npz"),
        *("stack.npz#images/0", "stack.npz#images/1", "stack.npz#deep"),
    ]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("kinds")
    return manifest_of(folder, write_kinds(folder))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("many")
    names = [f"{number}.png" for number in range(FEW_IMAGES + 16)]
    for number, name in enumerate(names):
        Pil.fromarray(drawn(60 + number, 50, 8, number)).save(folder / name)
    return manifest_of(folder, names)


def in_parts(count: int, size: int = 16) -> list[list[int]]:
    return [list(range(first, min(first + size, count))) for first in range(0, count, size)]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def same(one: PreparedBatch, other: PreparedBatch) -> bool:
    return one.rows == other.rows and torch.equal(one.pixels, other.pixels) and one.geometries == other.geometries


@pytest.mark.parametrize("card", ["resnet50", "pixels", "chexzero", "medsiglip", "biovil-t"])
def test_threads_and_processes_and_prepare_give_the_same_pixels_of_every_kind(kinds: Manifest, card: str) -> None:
    rows = list(range(len(kinds)))
    # Enough rows that processes are started.
    parts = [[row] for row in rows] + [rows] * (FEW_IMAGES // len(rows) + 1)
    made = preparer(card)
    with ImageReader(made, kinds, workers=2) as reader:
        by_processes = list(reader.batches(parts))
        assert len(reader.process_ids) == 2
    with ImageReader(made, kinds, workers=2) as reader:
        by_threads = [batch for part in parts[: len(rows)] for batch in reader.batches([part])]
        assert reader.process_ids == ()
    for row, (one, other) in enumerate(zip(by_processes, by_threads, strict=False)):
        assert same(one, other), kinds.locator(row)
        prepared = made(kinds.image(row))
        shown, expected = (
            model_input(each, made.facts) for each in (one.pixels, torch.from_numpy(prepared.pixels[None]))
        )
        assert torch.equal(shown, expected), kinds.locator(row)
        assert one.geometries[0] == prepared.geometry
        assert set(one.seconds) == {"decode", "resize"}


def test_images_of_several_depths_are_in_a_batch_what_they_are_alone(kinds: Manifest) -> None:
    facts = find_card("resnet50").preprocessing.model_copy(
        update={"resize": "squash", "resize_to": None, "input_size": (70, 90)}
    )
    rows, made = list(range(len(kinds))), Preparer(facts, "r")
    with ImageReader(made, kinds, workers=1) as reader:
        (together,) = reader.batches([rows])
        alone = [next(reader.batches([[row]])) for row in rows]
    assert {batch.pixels.dtype for batch in alone} == {torch.uint8, torch.uint16}, "one image has the input's size"
    assert together.pixels.dtype == torch.uint16
    assert together.pixels.shape[1] == 3
    shown = model_input(together.pixels, made.facts)
    for row, batch in enumerate(alone):
        assert torch.equal(shown[row], model_input(batch.pixels, made.facts)[0]), kinds.locator(row)


def test_bytes_beside_hounsfield_units_are_in_a_batch_what_they_are_alone(tmp_path: Path) -> None:
    # Nothing is cut for this card, so that one image stays float and the other, of the input's size, bytes.
    facts = find_card("resnet50").preprocessing.model_copy(update={"cut_overshoot": False})
    Pil.fromarray(drawn(256, 256, 8, 0)[:224, :224]).save(tmp_path / "a.png")
    Pil.fromarray(drawn(400, 300, 8, 1)).save(tmp_path / "b.png")
    squash = facts.model_copy(update={"resize": "squash", "resize_to": None})
    manifest, made = manifest_of(tmp_path, ["a.png", "b.png"]), Preparer(squash, "r")
    with ImageReader(made, manifest, workers=1) as reader:
        (together,) = reader.batches([[0, 1]])
        (alone,) = reader.batches([[0]])
    assert (together.pixels.dtype, alone.pixels.dtype) == (torch.float32, torch.uint8)
    assert torch.equal(model_input(together.pixels, squash)[0], model_input(alone.pixels, squash)[0])


def test_batches_come_in_order_with_repeats(many: Manifest) -> None:
    order = np.random.default_rng(0).integers(0, len(many), 400)
    parts = [order[first : first + 7].tolist() for first in range(0, 400, 7)]
    made = preparer()
    with ImageReader(made, many, workers=2) as reader:
        batches = list(reader.batches(parts))
    assert [list(batch.rows) for batch in batches] == parts
    expected = [made(many.image(row)).pixels for row in range(len(many))]
    for batch in batches:
        assert [geometry.source[0] for geometry in batch.geometries] == [60 + row for row in batch.rows]
        assert np.array_equal(batch.pixels.numpy(), np.stack([expected[row] for row in batch.rows]))


def test_kept_images_are_decoded_once(many: Manifest) -> None:
    budget = MemoryBudget(GENEROUS)
    with ImageReader(preparer(), many, workers=2, memory=budget, keep=True) as reader:
        first = list(reader.batches(in_parts(len(many))))
        assert reader.decoded == len(many)
        assert budget.taken("host") >= len(many) * 2 * 224 * 224
        again = list(reader.batches(in_parts(len(many))))
        assert reader.decoded == len(many)
        assert all(same(one, other) for one, other in zip(first, again, strict=True))
        assert again[0].seconds == {}
    assert budget.taken("host") == 0


def test_what_does_not_fit_is_decoded_again_and_the_rest_is_not(many: Manifest) -> None:
    # Half of the images, and room for what is read ahead.
    most = len(many) // 2 * 2 * 224 * 224 + 8_000_000
    budget = MemoryBudget({"host": most})
    with ImageReader(preparer(), many, workers=2, memory=budget, keep=True) as reader:
        for _ in range(3):
            list(reader.batches(in_parts(len(many), 2)))
        # Once each, and in the two later passes those that are not kept.
        assert len(many) * 1.2 < reader.decoded < len(many) * 2.8
        assert budget.taken("host") <= most
    assert budget.taken("host") == 0


def test_images_of_another_cohort_leave_room_in_the_end(many: Manifest) -> None:
    budget = MemoryBudget({"host": 20 * 101_400 + 5_000_000})
    with ImageReader(preparer(), many, workers=1, memory=budget, keep=True) as reader:
        list(reader.batches([[row] for row in range(100 % len(many))]))
        decoded = []
        for _ in range(40):
            before = reader.decoded
            list(reader.batches([[row] for row in range(70, 75)]))
            decoded.append(reader.decoded - before)
    assert decoded[-1] == 0


def test_reading_ahead_is_bounded_by_the_budget_and_by_the_readers(many: Manifest) -> None:
    small = MemoryBudget({"host": 0})
    with ImageReader(preparer(), many, workers=2, memory=small) as reader:
        batches = reader.batches(in_parts(len(many), 4))
        next(batches)
        time.sleep(0.3)
        assert reader.decoded <= 8
        assert len(list(batches)) == len(many) // 4 - 1
    with ImageReader(preparer(), many, workers=2, memory=MemoryBudget(GENEROUS)) as reader:
        batches = reader.batches(in_parts(len(many), 4))
        next(batches)
        assert 16 < reader.decoded <= 40
        batches.close()
        assert reader.decoded <= 40


def test_few_images_start_no_process(many: Manifest) -> None:
    with ImageReader(preparer(), many, workers=2) as reader:
        list(reader.batches([[0, 1, 2]]))
        assert reader.process_ids == ()
        # Many calls for a few are many images.
        for first in range(0, FEW_IMAGES, 4):
            list(reader.batches([list(range(first, first + 4))]))
        assert len(reader.process_ids) == 2


def test_few_images_that_are_kept_and_come_again_and_again_start_no_process(many: Manifest) -> None:
    with ImageReader(preparer(), many, workers=2, keep=True) as reader:
        for _ in range(2):
            list(reader.batches([list(range(8))] * FEW_IMAGES))
        assert reader.process_ids == ()
        assert reader.decoded == 8
        list(reader.batches(in_parts(len(many))))
        assert len(reader.process_ids) == 2


@pytest.mark.parametrize("few", [True, False])
def test_errors_keep_their_row(many: Manifest, tmp_path: Path, few: bool) -> None:
    names = [str(Path("..") / "x.png"), "absent.png", "flat.png", "cut.png"]
    Pil.fromarray(np.full((50, 40), 51, np.uint8)).save(tmp_path / "flat.png")
    good = (many.folder / "3.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes((many.folder / name).read_bytes())
    names = ["0.png"] * (3 if few else FEW_IMAGES) + ["absent.png", "flat.png", "cut.png"]
    manifest, first = manifest_of(tmp_path, names), len(names) - 3
    said = ["There is no file absent.png", "all pixels of the image have the value 0.2;", "cut.png cannot be read"]
    for row, sentence in enumerate(said, first):
        with ImageReader(preparer(), manifest, workers=2) as reader:
            batches = reader.batches([*([each] for each in range(first)), [row]])
            with pytest.raises(EvalfmError, match=f"^Row {row + 1} of the manifest: ") as caught:
                list(batches)
            assert sentence in str(caught.value)
            assert (reader.process_ids == ()) == few
            # Another pass goes on with the same readers.
            assert len(list(reader.batches([[0], [1]]))) == 2


def test_an_image_that_an_encoder_does_not_take_is_named(kinds: Manifest, tmp_path: Path) -> None:
    write_dicom(tmp_path / "ct.dcm", drawn(64, 64, 8, 0), Modality="CT", RescaleSlope=1, RescaleIntercept=-100)
    manifest = manifest_of(tmp_path, ["ct.dcm"] * FEW_IMAGES)
    with (
        ImageReader(preparer(), manifest, workers=1) as reader,
        pytest.raises(EvalfmError, match="Row 1 of the manifest: resnet50 takes images in unit-interval, not in HU"),
    ):
        list(reader.batches([[row] for row in range(FEW_IMAGES)]))


def test_how_a_manifest_says_pixels_are_read_reaches_the_processes(tmp_path: Path) -> None:
    twelve = drawn(100, 90, 16, 0) // 16
    Pil.fromarray(twelve).save(tmp_path / "a.png")
    manifest = manifest_of(tmp_path, ["a.png"] * FEW_IMAGES, bits=12)
    with ImageReader(preparer(), manifest, workers=1) as reader:
        batch = next(reader.batches([[row] for row in range(FEW_IMAGES)]))
        assert reader.process_ids
    assert np.array_equal(batch.pixels[0].numpy(), preparer()(manifest.image(0)).pixels)
    assert batch.pixels.numpy().max() > 60_000


class Painted(Manifest):
    """A manifest that makes its images itself."""

    def image(self, row: int) -> Image:
        image = super().image(row)
        return dataclasses.replace(image, pixels=np.float32(1) - image.pixels)


def test_images_that_a_manifest_makes_itself_are_not_read_from_its_files(many: Manifest) -> None:
    painted = Painted(many.info, many.table, many.folder)
    with ImageReader(preparer(), painted, workers=2) as reader:
        batches = list(reader.batches(in_parts(len(many))))
        assert reader.process_ids == ()
    assert np.array_equal(batches[0].pixels[3].numpy(), preparer()(painted.image(3)).pixels)
    assert not np.array_equal(batches[0].pixels[3].numpy(), preparer()(many.image(3)).pixels)


# Processes


class Said:
    """What is said of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def track(self, items: Any, label: str, total: int | None = None) -> Iterator[Any]:
        yield from items

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.mark.parametrize("what", ["interpreter", "status", "memory"])
def test_where_processes_cannot_start_threads_read_and_it_is_said(
    many: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    if what == "interpreter":
        monkeypatch.setattr(sys, "executable", "/opt/program")
    elif what == "status":
        broken = tmp_path / "python"
        broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
        broken.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(broken))
    else:

        def refused(*_: object) -> int:
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr(os, "memfd_create", refused)
    said = Said()
    with ImageReader(preparer(), many, workers=2, progress=said) as reader:
        batches = list(reader.batches(in_parts(len(many))))
        assert reader.process_ids == ()
    assert len(batches) == 5
    assert len(said.lines) == 1
    words = {
        "interpreter": "no Python interpreter",
        "status": "status 3 (no such luck)",
        "memory": "MB of shared memory",
    }
    assert words[what] in said.lines[0]


def large(folder: Path) -> Manifest:
    """Images that take long to read."""
    noise = np.random.default_rng(0).integers(0, 65535, (2500, 2500)).astype(np.uint16)
    Pil.fromarray(noise).save(folder / "large.png", compress_level=1)
    return manifest_of(folder, ["large.png"] * 200)


def test_a_killed_process_is_told_with_its_row_and_others_are_started(tmp_path: Path, many: Manifest) -> None:
    with ImageReader(preparer(), large(tmp_path), workers=2) as reader:
        batches = reader.batches([[row] for row in range(200)])
        next(batches)
        before = reader.process_ids
        os.kill(before[0], signal.SIGKILL)
        with pytest.raises(EvalfmError, match=r"^Row \d+ of the manifest: the process that read large.png was killed"):
            list(batches)
        assert not is_alive(before[0])
        assert len(list(reader.batches([[0], [1]]))) == 2
        assert not set(before) & set(reader.process_ids)
    assert until(lambda: not any(map(is_alive, before)))


SCRIPT = """
import sys
from pathlib import Path
from evalfm.data.manifest import Manifest
from evalfm.data.dataset_info import DatasetInfo
from evalfm.encoders import find_card
from evalfm.encoders.preprocessing import Preparer
from evalfm.features.readers import ImageReader
import pandas as pd

folder, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
table = pd.DataFrame({"id": [str(row) for row in range(count)], "image": [name] * count})
manifest = Manifest(DatasetInfo(name="made"), table, Path(folder))
reader = ImageReader(Preparer(find_card("resnet50").preprocessing, "r"), manifest, workers=2)
for batch in reader.batches([[row] for row in range(count)]):
    if batch.rows == (0,):
        print(*reader.process_ids, flush=True)
print("done", flush=True)
"""


def started(tmp_path: Path, folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    """A plain script without ``if __name__``, from another folder."""
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join(each for each in sys.path if each)
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(folder), name, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )


def test_a_plain_script_without_a_guard_reads_and_leaves_nothing_behind(tmp_path: Path, many: Manifest) -> None:
    script = started(tmp_path, many.folder, "5.png", 100)
    said, errors = script.communicate(timeout=120)
    processes = [int(each) for each in said.split()[:2]]
    assert (said.split()[2:], errors, script.returncode) == (["done"], "", 0)
    assert until(lambda: not any(map(is_alive, processes)))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_processes_end_with_their_parent_however_it_ends(tmp_path: Path, how: signal.Signals) -> None:
    large(tmp_path)
    script = started(tmp_path, tmp_path, "large.png", 200)
    assert script.stdout is not None
    processes = [int(each) for each in script.stdout.readline().split()]
    assert all(map(is_alive, processes))
    script.send_signal(how)
    said, errors = script.communicate(timeout=60)
    assert said == ""
    # A plain script shows where it was interrupted, once; its readers show nothing.
    assert errors.count("KeyboardInterrupt") == (1 if how == signal.SIGINT else 0)
    assert until(lambda: not any(map(is_alive, processes)))


def test_processes_of_a_reader_that_nobody_closed_end_with_it(many: Manifest) -> None:
    budget = MemoryBudget(GENEROUS)
    reader = ImageReader(preparer(), many, workers=2, memory=budget, keep=True)
    list(reader.batches(in_parts(len(many))))
    processes = reader.process_ids
    assert all(map(is_alive, processes))
    assert budget.taken("host") > 0
    del reader
    assert until(lambda: not any(map(is_alive, processes)))
    assert until(lambda: budget.taken("host") == 0)
