"""Training dense heads from stored maps: what share of the time goes into reading the maps?

    python benchmarks/stored_maps.py [--encoder vit-small] [--images 96] [--steps 60]

Maps are stored first, then `linear` and `multiscale` train together at their default rates: from the store, and from
memory, three times each in turn. Prints the share of time that reading adds (wanted: below .10).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evalfm.data.phantom import make_phantom
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Features
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.heads.head import Context
from evalfm.heads.segmentation.light import LinearDenseHead, MultiscaleHead
from evalfm.heads.trained import Schedule
from evalfm.heads.training import fit_together
from evalfm.probing.labelled import LabelledFeatures
from evalfm.tasks.card import load_task
from evalfm.tasks.cohort import select_cohort


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
    options = parser.parse_args()
    encoder = load_encoder(options.encoder, weights="random")
    schedule = Schedule(epochs=3, least_steps=options.steps, most_steps=options.steps)
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_phantom(Path(folder) / "data", n=options.images, size=224)
        cohort = select_cohort(load_task("heart-seg"), manifest)
        store = FeatureStore(Path(folder) / "store")
        sources = [kind(encoder, manifest, store, maps="store") for kind in (EncodedSource, Held)]
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
