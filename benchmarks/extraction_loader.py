"""Extraction with an encoder that costs nothing against torch's DataLoader: reading alone, in steady state.

    python benchmarks/extraction_loader.py [--format png] [--images 10000] [--workers 2]      (512² PNG, 8 bits)
    python benchmarks/extraction_loader.py --format dicom [--images 10000] [--workers 2]      (1024² DICOM, 16 bits)

A few files stand under many names. Both sides read them in the same number of processes, resize to 224² and stack
batches of 64; ours also brings them to the encoder's input and stores pooled features with their checksums, flushed.
The reference is a Dataset of a few lines (Pillow or pydicom, the same filter, the default collate, start method spawn).
Starting up is left out: both have read a tenth of the images before the clock starts. Digests are made up. They take
turns, and the medians count. Prints one ratio (images a second, ours / reference; wanted: at least .90), then what ours
reaches of bare decoding in one process for each of its processes, and the memory of the process tree at a third of the
images and at the end.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pydicom
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.encoders import find_card
from evalfm.encoders.encoder import Features
from evalfm.encoders.preprocessing import Preparer
from evalfm.features.extraction_plan import Destination, Item
from evalfm.features.pipeline import Pipeline, extract
from evalfm.features.profile import StageTimes
from evalfm.features.readers import ImageReader
from evalfm.features.store import FeatureStore

FILES, BATCH, SIDE = 48, 64, 224
CARD = "vit-small"
"""Whose preprocessing is taken."""


class FreeEncoder(nn.Module):
    """Takes what an encoder takes and gives the first pixels as features."""

    pooled_dim, map_channels, map_strides = 64, (), ()
    precision, not_finite = "float32", "an image is not finite"

    def __init__(self) -> None:
        super().__init__()
        self.card = SimpleNamespace(name="free")
        self.preparer = Preparer(find_card(CARD).preprocessing, "free")
        self.input_size = self.preparer.facts.input_size

    def encode(self, batch: Tensor, check: bool = True) -> Features:
        """Pooled features without any work."""
        return Features(batch[:, 0, 0, : self.pooled_dim].clone())


class PlainImages:
    """The reference: an image a row, read and resized in a few lines; picklable for worker processes."""

    def __init__(self, folder: Path, kind: str, count: int) -> None:
        self.folder, self.kind, self.count = folder, kind, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(self.read(row))

    def read(self, row: int) -> np.ndarray:
        """Decoded and resized [1, 224, 224], in single precision as ours."""
        image = self.decode(row)
        across = image.resize((SIDE, image.height), PIL.Image.Resampling.BICUBIC)
        return np.array(across.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC))[None]

    def decode(self, row: int) -> PIL.Image.Image:
        """As Pillow has it, as floats of the stored values."""
        path = self.folder / f"{row % FILES}.{self.kind}"
        if self.kind == "png":
            return PIL.Image.fromarray(np.asarray(PIL.Image.open(path).convert("L"), dtype=np.float32))
        return PIL.Image.fromarray(pydicom.dcmread(path).pixel_array.astype(np.float32))


def write_files(folder: Path, kind: str) -> None:
    """Smooth noise: about as hard to decode as a radiograph."""
    for number in range(FILES):
        generator = np.random.default_rng(number)
        coarse = PIL.Image.fromarray(generator.random((32, 32), np.float32))
        side = 512 if kind == "png" else 1024
        pixels = np.asarray(coarse.resize((side, side), PIL.Image.Resampling.BICUBIC)).clip(0, 1)
        pixels = (pixels + 0.02 * generator.random((side, side), np.float32)) / 1.02
        if kind == "png":
            PIL.Image.fromarray((pixels * 255).astype(np.uint8)).save(folder / f"{number}.png")
        else:
            _dicom((pixels * 65535).astype(np.uint16)).save_as(folder / f"{number}.dicom", enforce_file_format=True)


def _dicom(pixels: np.ndarray) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "DX", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.WindowCenter, dataset.WindowWidth = 32768, 65536
    dataset.PixelData = pixels.tobytes()
    return dataset


def manifest_of(folder: Path, kind: str, count: int) -> Manifest:
    """``count`` names of the files."""
    names = [f"{row % FILES}.{kind}" for row in range(count)]
    rows = [str(row) for row in range(count)]
    return Manifest(DatasetInfo(name="loader"), pd.DataFrame({"id": rows, "patient": rows, "image": names}), folder)


def ours(manifest: Manifest, folder: Path, workers: int, warm: int, times: StageTimes) -> Callable[[], Iterator[int]]:
    """Yields once for each batch, counted as images."""
    encoder = FreeEncoder()

    def run() -> Iterator[int]:
        with (
            tempfile.TemporaryDirectory(dir=folder) as store,
            ImageReader(encoder.preparer, manifest, workers=workers) as reader,
        ):
            cache, done = FeatureStore(store).cache("0" * 64), _Ticks()
            for part in (range(warm), range(warm, len(manifest))):
                items = [Item(f"{row:064x}", row) for row in part]
                where = Destination(cache)
                pipeline = Pipeline(encoder, times=times)
                extract(pipeline, reader, items, where, batch_size=BATCH, times=times, progress=done)
                yield len(items)

    return run


class _Ticks:
    """Progress that shows nothing."""

    def track(self, items, label: str, total: int | None = None):
        yield from items

    def say(self, message: str) -> None:
        pass


def reference(images: PlainImages, workers: int, warm: int) -> Callable[[], Iterator[int]]:
    """Yields when the first ``warm`` images are read, and at the end."""

    def run() -> Iterator[int]:
        loader = DataLoader(images, BATCH, num_workers=workers, multiprocessing_context="spawn")
        seen, warmed = 0, False
        for batch in loader:
            seen += len(batch)
            if not warmed and seen >= warm:
                warmed = True
                first = seen
                yield first
        yield seen - first

    return run


def rate(run: Callable[[], Iterator[int]]) -> float:
    """Images a second after the first yield."""
    iterator = run()
    next(iterator)
    started = time.perf_counter()
    images = next(iterator)
    seconds = time.perf_counter() - started
    for _ in iterator:
        pass
    return images / seconds


class TreeMemory(threading.Thread):
    """Proportional memory of this process and all below it, every half second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.megabytes: list[float] = []
        self.over = threading.Event()

    def run(self) -> None:
        """Measure until ``over``."""
        while not self.over.wait(0.5):
            self.megabytes.append(sum(map(_megabytes, _tree())))


def _tree() -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    import os

    found = [os.getpid()]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def _megabytes(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--format", default="png", choices=["png", "dicom"])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warm = max(BATCH, options.images // 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, options.format)
        images = PlainImages(folder, options.format, options.images)
        manifest = manifest_of(folder, options.format, options.images)
        started = time.perf_counter()
        for row in range(2 * FILES):
            images.decode(row).load()
        bare = 2 * FILES / (time.perf_counter() - started)
        rates: tuple[list[float], list[float]] = ([], [])
        times = StageTimes()
        for _ in range(options.rounds):
            rates[1].append(rate(reference(images, options.workers, warm)))
            memory = TreeMemory()
            memory.start()
            rates[0].append(rate(ours(manifest, folder, options.workers, warm, times)))
            memory.over.set()
            memory.join()
    mine, theirs = map(statistics.median, rates)
    seen = memory.megabytes or [0.0]
    print(
        f"{mine / theirs:.3f} (ours {mine:.0f}, DataLoader {theirs:.0f} images/s, {options.workers} processes; "
        f"{mine / options.workers / bare:.3f} of bare decoding a process, {bare:.0f} images/s; memory of the tree "
        f"{max(seen[: max(1, len(seen) // 3)]):.0f} MB by a third, {max(seen):.0f} MB in all)"
    )
    print("\n".join(times.table()))


if __name__ == "__main__":
    main()
