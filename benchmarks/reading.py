"""Reading and preparing images against Pillow or pydicom with the same resize, on one core and in worker processes.

    python benchmarks/reading.py [--encoder resnet18] [--images 400] [--workers 2] [--rounds 5] [--kinds png,dicom]

Images are phantoms: PNG of 512² in 8 bits, DICOM of 1024² in 16 bits (12 significant, with a window). The reference
decodes, resizes as the encoder's card says and stacks with numpy; it applies no window and checks nothing. Prints, for
each kind: CPU milliseconds an image on one core; images a second and CPU milliseconds an image of ``ImageReader`` and
of a torch DataLoader of as many spawned workers, from the second batch on; and memory and start of a reader process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
from numpy.typing import NDArray
from PIL import Image as Pil
from pydicom.dataset import Dataset, FileMetaDataset
from torch.utils.data import DataLoader

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.phantom import render
from evalfm.encoders import find_card
from evalfm.encoders.preprocessing import Preparer
from evalfm.encoders.sampling import resample
from evalfm.features.reader_process import ImageFiles
from evalfm.features.readers import ImageReader

BATCH = 32
DIFFERENT = 32


def write_images(folder: Path, kind: str) -> list[str]:
    """A few phantoms of ``kind`` with noise, as hard to decode as radiographs are."""
    side, names = {"png": 512, "dicom": 1024}[kind], []
    for seed in range(DIFFERENT):
        plane = Pil.fromarray(render(0, seed, 256).pixels).resize((side, side), Pil.Resampling.BICUBIC)
        values = np.asarray(plane) + np.random.default_rng(seed).normal(0, 0.004, (side, side))
        names.append(f"{seed}.{kind}")
        if kind == "png":
            Pil.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)).save(folder / names[-1])
            continue
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
        dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "DX", "MONOCHROME2", 1
        dataset.Rows = dataset.Columns = side
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.WindowCenter, dataset.WindowWidth = 2048, 3000
        dataset.PixelData = np.rint(np.clip(values, 0, 1) * 4095).astype(np.uint16).tobytes()
        dataset.save_as(folder / names[-1], enforce_file_format=True)
    return names


class Reference:
    """A data set as torch's DataLoader takes it."""

    def __init__(self, folder: Path, names: Sequence[str], preparer: Preparer) -> None:
        self.folder, self.names, self.preparer = folder, list(names), preparer

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> NDArray[Any]:
        path, facts = self.folder / self.names[row], self.preparer.facts
        if path.suffix == ".png":
            pixels = np.asarray(Pil.open(path))[None]
        else:
            pixels = pydicom.dcmread(path).pixel_array[None].astype(np.float32) / np.float32(4095)
        size, corner = self._plan(pixels.shape[1], pixels.shape[2])
        resized = resample(pixels, size, facts.interpolation, facts.antialias, cut=facts.cut_overshoot)
        height, width = facts.input_size
        return resized[:, corner[0] : corner[0] + height, corner[1] : corner[1] + width]

    def _plan(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        facts = self.preparer.facts
        if facts.resize == "squash":
            return facts.input_size, (0, 0)
        short = facts.resize_to or facts.input_size[0]
        size = (short * height // min(height, width), short * width // min(height, width))
        return size, ((size[0] - facts.input_size[0]) // 2, (size[1] - facts.input_size[1]) // 2)


def cpu_seconds(processes: Sequence[int]) -> float:
    """Processor seconds of processes and of this one so far."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


def on_one_core(one: Callable[[int], NDArray[Any]], count: int) -> float:
    """CPU milliseconds an image of ``one``, with stacking."""
    began = time.process_time()
    np.stack([np.array(one(row)) for row in range(count)])
    return (time.process_time() - began) / count * 1000


def steady(batches: Any, processes: Callable[[], Sequence[int]]) -> tuple[float, float]:
    """Images a second and CPU milliseconds an image, from the second batch on."""
    images, iterator = 0, iter(batches)
    next(iterator)
    ids = processes() if not hasattr(iterator, "_workers") else [each.pid for each in iterator._workers]
    began, used = time.perf_counter(), cpu_seconds(ids)
    for _ in iterator:
        images += BATCH
        last, spent = time.perf_counter(), cpu_seconds(ids)
    return images / (last - began), (spent - used) / images * 1000


START = """
import json, sys, time
from evalfm.features.reader_process import main
import evalfm.data.images
print(json.dumps([int(open("/proc/self/statm").read().split()[1]) * 4096, "torch" in sys.modules]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default="png,dicom")
    options = parser.parse_args()
    preparer = Preparer(find_card(options.encoder).preprocessing, options.encoder)
    began = time.perf_counter()
    memory, _ = json.loads(subprocess.check_output([sys.executable, "-c", START], text=True))
    print(f"reader process: {memory / 1e6:.0f} MB, {time.perf_counter() - began:.2f} s from start to end")
    for kind in options.kinds.split(","):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            names = write_images(folder, kind)
            files, reference = ImageFiles(folder, None, None), Reference(folder, names, preparer)
            pairs = [
                (
                    on_one_core(reference.__getitem__, DIFFERENT),
                    on_one_core(lambda row: files.read(preparer, names[row])[0].pixels, DIFFERENT),  # noqa: B023
                )
                for _ in range(options.rounds + 1)
            ][1:]
            bare, own = (statistics.median(each) for each in zip(*pairs, strict=True))
            ratio = statistics.median(first / second for first, second in pairs)
            print(f"{kind}: one core: reference {bare:.2f}, ours {own:.2f} CPU ms an image, ratio {ratio:.3f}")
            many = (names * (options.images // DIFFERENT + 1))[: options.images // BATCH * BATCH]
            table = pd.DataFrame({"id": [str(row) for row in range(len(many))], "image": many})
            manifest = Manifest(DatasetInfo(name="reading"), table, folder)
            parts = [range(first, first + BATCH) for first in range(0, len(many), BATCH)]
            loader: Any = DataLoader(
                Reference(folder, many, preparer),  # type: ignore[arg-type]
                batch_size=BATCH,
                num_workers=options.workers,
                multiprocessing_context="spawn",
            )
            for _ in range(options.rounds):
                with ImageReader(preparer, manifest, workers=options.workers) as reader:
                    ours = steady(reader.batches(parts), lambda: reader.process_ids)
                theirs = steady(loader, tuple)
                print(
                    f"  {options.workers} workers: DataLoader {theirs[0]:.0f} images/s, {theirs[1]:.2f} CPU ms each; "
                    f"ours {ours[0]:.0f}, {ours[1]:.2f}; ratio {ours[0] / theirs[0]:.2f} by the clock, "
                    f"{theirs[1] / ours[1]:.2f} by CPU"
                )


if __name__ == "__main__":
    main()
