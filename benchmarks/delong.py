"""Seconds of paired DeLong: every difference of ten encoders on 25,000 images, patients clustered and not.

python benchmarks/delong.py [--images 25000]
"""

from __future__ import annotations

import argparse
import time
from itertools import combinations

import numpy as np

from evalfm.statistics.comparison import contrast_aurocs

ENCODERS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=25_000)
    options = parser.parse_args()
    n, generator = options.images, np.random.default_rng(0)
    target = generator.random(n) < 0.2
    scores = target[:, None] * np.linspace(0.5, 1.5, ENCODERS) + generator.normal(size=(n, ENCODERS))
    contrasts = np.zeros((ENCODERS * (ENCODERS - 1) // 2, ENCODERS))
    for row, (one, other) in enumerate(combinations(range(ENCODERS), 2)):
        contrasts[row, [one, other]] = 1, -1
    for name, patient in (("three images a patient", np.arange(n) // 3), ("one image a patient", None)):
        started = time.perf_counter()
        found = contrast_aurocs(target, scores, contrasts, patient)
        print(f"{time.perf_counter() - started:.2f} s for {len(found)} differences on {n:,} images, {name}")


if __name__ == "__main__":
    main()
