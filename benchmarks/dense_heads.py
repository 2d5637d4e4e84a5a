"""Twelve dense heads trained on the fly in one backbone pass against one head, ViT-S at 224² on the CPU.

    python benchmarks/dense_heads.py [--encoder vit-small] [--images 64] [--steps 20]

One head is `multiscale` at one learning rate; twelve are `linear` and `multiscale` at six rates each. Maps are
streamed: each batch goes through the encoder once for all heads. Prints the ratio of seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from evalfm.data.phantom import make_phantom
from evalfm.encoders import load_encoder
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.heads.head import Context
from evalfm.heads.segmentation.light import LinearDenseHead, MultiscaleHead
from evalfm.heads.trained import Schedule, TrainedHead
from evalfm.heads.training import fit_together
from evalfm.probing.labelled import LabelledFeatures
from evalfm.tasks.card import load_task
from evalfm.tasks.cohort import select_cohort

RATES = (5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="vit-small")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    encoder = load_encoder(options.encoder, weights="random")
    schedule = Schedule(epochs=1, least_steps=options.steps, most_steps=options.steps)
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_phantom(Path(folder) / "data", n=options.images, size=224)
        cohort = select_cohort(load_task("heart-seg"), manifest)
        rows = np.arange(len(cohort))
        train, val = rows[: -len(rows) // 4], rows[-len(rows) // 4 :]

        def seconds(heads: list[TrainedHead]) -> tuple[float, int]:
            source = EncodedSource(encoder, manifest, FeatureStore(Path(folder) / "store"), maps="stream")
            side = LabelledFeatures(cohort, source)
            context = Context("segmentation", cohort.class_names)
            started = time.perf_counter()
            fit_together(heads, side.examples(train), side.examples(val), context)
            return time.perf_counter() - started, source.encoder_calls

        one: list[TrainedHead] = [MultiscaleHead(schedule, RATES[1:2])]
        twelve: list[TrainedHead] = [LinearDenseHead(schedule, RATES), MultiscaleHead(schedule, RATES)]
        seconds(one)
        alone, calls = seconds(one)
        together, calls_together = seconds(twelve)
    print(
        f"{together / alone:.2f} (twelve heads {together:.1f} s, {calls_together} encoder calls; "
        f"one head {alone:.1f} s, {calls} calls; {options.steps} steps)"
    )


if __name__ == "__main__":
    main()
