"""Training dense heads from stored maps: what share of the time goes into reading the maps?

    python benchmarks/stored_maps.py [--encoder vit-small] [--images 96] [--steps 60]

Maps are stored first, then `linear` and `multiscale` train together at their default rates. Prints the share of
reading, batch by batch, in the whole of the training (wanted: below .10).
"""

from __future__ import annotations

import argparse
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
from evalfm.heads.segmentation.linear import LinearDenseHead
from evalfm.heads.segmentation.multiscale import MultiscaleHead
from evalfm.heads.trained import Schedule
from evalfm.heads.training import fit_together
from evalfm.probing.sides import Side
from evalfm.tasks.card import load_task
from evalfm.tasks.question import pose


class Timed(EncodedSource):
    """A source that counts the seconds spent in reading."""

    seconds = 0.0

    def features(self, rows: Sequence[int], *, maps: bool = False) -> Features:
        """As the source, timed."""
        started = time.perf_counter()
        found = super().features(rows, maps=maps)
        self.seconds += time.perf_counter() - started
        return found


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
        question = pose(load_task("heart-seg"), manifest)
        source = Timed(encoder, manifest, FeatureStore(Path(folder) / "store"), maps="store")
        side = Side(question, source)
        rows = np.arange(len(question))
        train, val = side.examples(rows[: -len(rows) // 4]), side.examples(rows[-len(rows) // 4 :])
        source.prefetch(question.rows.tolist(), maps=True)
        source.seconds = 0.0
        started = time.perf_counter()
        heads = [LinearDenseHead(schedule), MultiscaleHead(schedule)]
        fit_together(heads, train, val, Context("segmentation", question.class_names))
        whole = time.perf_counter() - started
    print(
        f"{source.seconds / whole:.3f} of {whole:.1f} s in reading maps ({source.seconds:.2f} s, {options.steps} steps)"
    )


if __name__ == "__main__":
    main()
