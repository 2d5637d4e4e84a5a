"""Extraction into the store against a bare loop over the same encoder, batch and images.

    python benchmarks/extraction.py [--encoder resnet50] [--images 256] [--rounds 3] [--device cpu] [--disk]

Both sides take turns in this process, each on radiographs that lie in memory at the encoder's input size; the loop
prepares them, runs the encoder and keeps the pooled features. With --disk both read PNG radiographs of twice that
size, so the loop decodes before it computes. Prints one ratio (throughput of extraction / throughput of the
loop) and beside it what each side took, in images a second and in CPU seconds.

    python benchmarks/extraction.py --memory 10000

runs extraction of that many radiographs once, made as they are read, and prints the process's peak memory in MB
instead; compare two numbers of radiographs.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import torch

from evalfm.data.images import Image, read_image
from evalfm.encoders import load_encoder
from evalfm.features.encoded import EncodedSource
from evalfm.features.forward import automatic_batch_size, device_of
from evalfm.features.store import FeatureStore


class Radiographs:
    """A manifest of random radiographs, kept in memory, read from PNG files, or made anew at each reading."""

    def __init__(self, count: int, size: tuple[int, int], folder: Path | None = None, *, keep: bool = True):
        self.info = SimpleNamespace(bits=None, unit=None)
        self._count, self._size, self._folder = count, size, folder
        self._kept = [self._make(row) for row in range(count)] if keep and folder is None else None
        for row in range(count if folder is not None else 0):
            pixels = (self._make(row).pixels[0] * 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / f"{row}.png")

    def __len__(self) -> int:
        return self._count

    def _make(self, row: int) -> Image:
        pixels = np.random.default_rng(row).random((1, *self._size), dtype=np.float32)
        return Image(pixels, "unit-interval", 8, None, "made up")

    def image(self, row: int) -> Image:
        """The radiograph of ``row``."""
        if self._folder is not None:
            return read_image(f"{row}.png", self._folder)
        return self._make(row) if self._kept is None else self._kept[row]

    def digests(self, rows, *, progress) -> list[str]:
        """An address per row."""
        return [hashlib.sha256(str(row).encode()).hexdigest() for row in rows]


def bare_loop(encoder, radiographs: Radiographs, batch: int) -> torch.Tensor:
    device, pooled = device_of(encoder), []
    for first in range(0, len(radiographs), batch):
        images = [radiographs.image(row) for row in range(first, min(first + batch, len(radiographs)))]
        tensor = torch.stack([encoder.prepare(image)[0] for image in images]).to(device)
        pooled.append(encoder.encode(tensor).pooled.cpu())
    return torch.cat(pooled)


def extraction(encoder, radiographs: Radiographs, batch: int, workers: int) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        source = EncodedSource(encoder, radiographs, FeatureStore(Path(folder)), batch_size=batch, workers=workers)
        return source.features(range(len(radiographs))).pooled


def timed(work) -> tuple[np.ndarray, torch.Tensor]:
    """Seconds on the clock and of the CPU, and the result."""
    start = np.array([time.perf_counter(), time.process_time()])
    result = work()
    return np.array([time.perf_counter(), time.process_time()]) - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--weights", default="random", help="hub for an encoder without weights")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--disk", action="store_true")
    parser.add_argument("--memory", type=int, metavar="IMAGES")
    options = parser.parse_args()
    encoder = load_encoder(options.encoder, weights=options.weights, device=options.device, precision=options.precision)
    batch = options.batch or automatic_batch_size(encoder)
    if options.memory:
        radiographs = Radiographs(options.memory, encoder.input_size, keep=False)
        with tempfile.TemporaryDirectory() as folder:
            source = EncodedSource(encoder, radiographs, FeatureStore(Path(folder)), batch_size=batch)
            source.prefetch(range(options.memory))
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
        return
    with tempfile.TemporaryDirectory() as folder:
        height, width = encoder.input_size
        size = (2 * height, 2 * width) if options.disk else (height, width)
        radiographs = Radiographs(options.images, size, Path(folder) if options.disk else None)
        encoder.encode(torch.zeros(batch, *encoder.prepare(radiographs.image(0))[0].shape, device=device_of(encoder)))
        loop, ours = np.zeros(2), np.zeros(2)
        for _ in range(options.rounds):
            seconds, expected = timed(lambda: bare_loop(encoder, radiographs, batch))
            loop += seconds
            seconds, found = timed(lambda: extraction(encoder, radiographs, batch, options.workers))
            ours += seconds
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    images = options.rounds * options.images
    print(
        f"{loop[0] / ours[0]:.3f} (extraction {images / ours[0]:.1f}, loop {images / loop[0]:.1f} images/s; "
        f"CPU {ours[1]:.1f} s, loop {loop[1]:.1f} s)"
    )


if __name__ == "__main__":
    main()
