"""Pairs among 10,000 × 10,000 fingerprints, after hashing: seconds, and how many planted pairs are found.

    python benchmarks/overlap.py [--radiographs 10000] [--planted 1000]

Each radiograph is one of --distinct phantoms with a smooth random field over it.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.ndimage import gaussian_filter

from evalfm.data.fingerprints import Fingerprints, Print, cells_of, fingerprint
from evalfm.data.overlap import _near
from evalfm.data.phantom import render


def packed(prints: list[Print]) -> Fingerprints:
    return Fingerprints(
        np.arange(len(prints)),
        np.stack([each.thumb for each in prints]),
        [each.detail for each in prints],
        {},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--radiographs", type=int, default=10_000)
    parser.add_argument("--planted", type=int, default=1000)
    parser.add_argument("--distinct", type=int, default=400)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    drawn = np.stack([cells_of(render(0, number, 128).pixels[None], 64) for number in range(options.distinct)])

    def made(count: int) -> list[Print]:
        chosen = drawn[generator.integers(0, len(drawn), count)]
        fields = gaussian_filter(generator.normal(0, 1, chosen.shape), (0, 4, 4))
        radiographs = chosen + 0.25 * fields / fields.std()
        return [fingerprint(radiograph[None].astype(np.float32)) for radiograph in radiographs]

    one, other = made(options.radiographs), made(options.radiographs)
    other[: options.planted] = one[: options.planted]
    first, second = packed(one), packed(other)
    started = time.perf_counter()
    pairs = list(_near(first, second, within=False))
    seconds = time.perf_counter() - started
    found = sum(pair.one == pair.other < options.planted for pair in pairs)
    size = f"{options.radiographs:,} x {options.radiographs:,}"
    print(f"{size}: {seconds:.1f} s; {found} of {options.planted} planted pairs, {len(pairs) - found} others")


if __name__ == "__main__":
    main()
