"""Seconds and memory of a subgroup report: 25,000 images, four attributes, 2,000 resamples, 2,000 permutations.

    python benchmarks/bias.py [--images 25000]

Scores and attributes are drawn; three images a patient, of one sex and age (so these two are permuted).
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd

from evalfm.analysis.bias import bias
from evalfm.analysis.scores import LabelScores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=25_000)
    options = parser.parse_args()
    n, generator = options.images, np.random.default_rng(0)
    y = (generator.random(n) < 0.2).astype(float)
    score = 1 / (1 + np.exp(-(y + generator.normal(size=n))))
    patient = np.array([f"p{row // 3}" for row in range(n)], dtype=object)
    table = pd.DataFrame(
        {
            "chest_tube": (generator.random(n) < 0.1 + 0.4 * y).astype(float),
            "sex": np.where(generator.random(n) < 0.5, "F", "M")[np.arange(n) // 3],
            "age": generator.integers(18, 90, n).astype(float)[np.arange(n) // 3],
            "view": np.where(generator.random(n) < 0.3, "AP", "PA"),
        }
    )
    scores = LabelScores("drawn", table, y, score, np.full(n, 0.5), patient, None, "patients", ())
    started, used = time.perf_counter(), time.process_time()
    bias(scores, ["chest_tube", "sex", "age:65", "view"], adjust=["age", "sex", "view"])
    seconds, used = time.perf_counter() - started, time.process_time() - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shown = f"{seconds:.1f} s ({used:.1f} s of processor time)"
    print(f"{shown} for {n:,} images and 4 attributes, {memory:.0f} MB at the peak")


if __name__ == "__main__":
    main()
