"""Stored maps: what share of a dense head's training goes into reading them, and how fast they are written and read?

    python benchmarks/stored_maps.py [--encoder vit-small] [--images 96] [--steps 60]

Maps are stored first, then `linear` and `multiscale` train together at their default rates: from the store (no memory
is given to it), and from memory, three times each in turn. Prints the share of time that reading adds (wanted: below
.10).

    python benchmarks/stored_maps.py --rate [--images 400] [--folder .]

extracts maps of RAD-DINO's size (4 levels of 768 x 37 x 37, 8.4 MB in float16) with an encoder that costs nothing into
a store in ``--folder``, then reads them in batches of 16 in random order, the system's cache dropped before. Prints
bytes a second from the first image to the last flush ÷ those of one plain file written and flushed on the same disk
(wanted: at least .80), and the same of reading.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from evalfm.data.geometry import Geometry
from evalfm.data.phantom import make_phantom
from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.encoder import Features
from evalfm.encoders.preprocessing import Preparer
from evalfm.features.encoded import EncodedSource
from evalfm.features.extraction_plan import Destination, Item
from evalfm.features.map_costs import measured_rates
from evalfm.features.memory import MemoryBudget
from evalfm.features.pipeline import Pipeline, extract
from evalfm.features.readers import PreparedBatch
from evalfm.features.store import FeatureStore
from evalfm.heads.head import Context
from evalfm.heads.segmentation.light import LinearDenseHead, MultiscaleHead
from evalfm.heads.trained import Schedule
from evalfm.heads.training import fit_together
from evalfm.probing.labelled import LabelledFeatures
from evalfm.tasks.cohort import select_cohort
from evalfm.tasks.task import load_task

LEVELS, CHANNELS, GRID = 4, 768, 37


class FreeEncoder(nn.Module):
    """Maps of RAD-DINO's size that were computed before."""

    pooled_dim, map_channels, map_strides = 768, (CHANNELS,) * LEVELS, (14,) * LEVELS
    precision, not_finite = "float32", "a feature is not finite"

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.card = SimpleNamespace(name="free")
        self.preparer = Preparer(find_card("rad-dino").preprocessing, "free")
        self.input_size = self.preparer.facts.input_size
        generator = torch.Generator().manual_seed(0)
        maps = tuple(torch.randn(batch, CHANNELS, GRID, GRID, generator=generator) for _ in range(LEVELS))
        self.ready = Features(torch.randn(batch, 768, generator=generator), maps)

    def encode(self, batch: torch.Tensor, check: bool = True) -> Features:
        """What is ready."""
        return Features(self.ready.pooled[: len(batch)], tuple(level[: len(batch)] for level in self.ready.maps))


class Blank:
    """Images that need no reading."""

    def __init__(self, side: int) -> None:
        self.pixels = torch.zeros(64, 1, side, side, dtype=torch.uint8)

    def batches(self, parts: Iterable[Sequence[int]]) -> Iterator[PreparedBatch]:
        """Black images."""
        side = self.pixels.shape[-1]
        for rows in parts:
            sizes = tuple(Geometry.identity((side, side)) for _ in rows)
            yield PreparedBatch(tuple(rows), self.pixels[: len(rows)], sizes, {})


def plain(path: Path, nbytes: int) -> tuple[float, float]:
    """Bytes a second of one file: written and flushed, and read."""
    rates = measured_rates(path, nbytes)
    return rates.write, rates.read


def drop_cache(folder: Path) -> None:
    """Ask the system to forget the files of ``folder``."""
    for path in folder.rglob("*.data"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(images: int, parent: Path, batch: int = 8) -> None:
    """Print how fast maps are written and read, beside a plain file."""
    encoder = FreeEncoder(batch)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        cache = FeatureStore(folder).cache("0" * 64)
        items = [Item(f"{row:064x}", row) for row in range(images)]
        nbytes = images * LEVELS * CHANNELS * GRID * GRID * 2
        before = plain(Path(folder) / "plain", min(nbytes, 2_000_000_000))
        started = time.perf_counter()
        extract(Pipeline(encoder), Blank(encoder.input_size[0]), items, Destination(cache, True), batch_size=batch)
        written = nbytes / (time.perf_counter() - started)
        drop_cache(Path(folder))
        order = np.random.default_rng(0).permutation(images)
        started = time.perf_counter()
        for first in range(0, images, 16):
            cache.maps.read([items[row].address for row in order[first : first + 16]])
        read = nbytes / (time.perf_counter() - started)
        after = plain(Path(folder) / "plain", min(nbytes, 2_000_000_000))
    write_rate, read_rate = ((one + other) / 2 for one, other in zip(before, after, strict=True))
    print(
        f"{written / write_rate:.3f} (maps written at {written / 1e6:.0f} MB/s, a plain file at "
        f"{write_rate / 1e6:.0f}); "
        f"{read / read_rate:.3f} (read at {read / 1e6:.0f} MB/s, a plain file at {read_rate / 1e6:.0f})"
    )


class Held(EncodedSource):
    """The same features out of memory: what training takes where nothing is read."""

    held: Features | None = None

    def features(self, rows: Sequence[int], *, maps: bool = False) -> Features:
        """Rows of what is held."""
        if self.held is None:
            self.held = super().features(range(len(self._manifest)), maps=True)
        index = list(rows)
        return Features(self.held.pooled[index], tuple(level[index] for level in self.held.maps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="vit-small")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rate", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path())
    options = parser.parse_args()
    if options.rate:
        rate(options.images, options.folder)
        return
    encoder = load_encoder(options.encoder, weights="random")
    schedule = Schedule(epochs=3, least_steps=options.steps, most_steps=options.steps)
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_phantom(Path(folder) / "data", n=options.images, size=224)
        cohort = select_cohort(load_task("heart-seg"), manifest)
        store = FeatureStore(Path(folder) / "store")
        nothing = MemoryBudget({"host": 0})
        sources = [kind(encoder, manifest, store, maps="store", memory=nothing) for kind in (EncodedSource, Held)]
        sources[0].prefetch(range(len(manifest)), maps=True)
        sources[1].features([0], maps=True)
        rows = np.arange(len(cohort))
        seconds: list[list[float]] = [[], []]
        for _ in range(3):
            for source, taken in zip(sources, seconds, strict=True):
                side = LabelledFeatures(cohort, source)
                train, val = side.examples(rows[: -len(rows) // 4]), side.examples(rows[-len(rows) // 4 :])
                started = time.perf_counter()
                heads = [LinearDenseHead(schedule), MultiscaleHead(schedule)]
                fit_together(heads, train, val, Context("segmentation", cohort.class_names))
                taken.append(time.perf_counter() - started)
    stored, held = (statistics.median(taken) for taken in seconds)
    print(f"{1 - held / stored:.3f} (stored maps {stored:.2f} s, maps in memory {held:.2f} s, {options.steps} steps)")


if __name__ == "__main__":
    main()
