"""How often a 95 % interval covers the truth, and how often a paired test rejects where there is none.

    python benchmarks/coverage.py [--studies 2000]

Seeds are 0, 1, 2, …; nothing is chosen after the fact. Intervals are those that runs print: 2,000 resamples of
patients. Several images of a patient correlate by one half, and so do two models on one image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from drawn_studies import clustered_normal, draw_scores
from numpy.typing import NDArray
from scipy.stats import norm

from evalfm.statistics.auroc import Auroc
from evalfm.statistics.comparison import compare_auroc, compare_means
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import Statistic, identify, mean_over_images

Generator = np.random.Generator
Values = NDArray[np.float64]
AREAS = {
    "AUROC .75, 50 and 200 patients, 3 images each": (0.75, 50, 200, 3),
    "AUROC .90, 50 and 200 patients, 3 images each": (0.90, 50, 200, 3),
    "AUROC .90, 200 and 800 patients, 3 images each": (0.90, 200, 800, 3),
    "AUROC .95, 10 and 100 patients, 1 image each": (0.95, 10, 100, 1),
    "AUROC .95, 10 and 100 patients, 3 images each": (0.95, 10, 100, 3),
    "AUROC .95, 30 and 100 patients, 1 image each": (0.95, 30, 100, 1),
}
PAIRED = {"120 patients, 4 images each": (40, 80, 4), "250 patients, 1 image each": (50, 200, 1)}


def dice(latent: Values, better: float = 0.0) -> Values:
    """One lesion in seven is missed (Dice 0), the others lie about .6."""
    return np.where(latent < -1.07, 0.0, np.clip(0.6 + better + 0.2 * latent, 0, 1))


def absolute_error(latent: Values, better: float = 0.0) -> Values:
    """Absolute errors of a measurement whose error is normal."""
    return np.abs((0.05 - better) * latent)


MEANS = {"Dice": dice, "absolute error": absolute_error}
EVERY = norm.ppf((np.arange(1_000_000) + 0.5) / 1_000_000)
"""Quantiles whose mean stands for an expectation over the normal."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    options = parser.parse_args()
    print("| interval of | BCa | percentile | no interval | mean width, BCa |")
    print("|---|---|---|---|---|")
    for name, (area, *design) in AREAS.items():
        covered(name, area, lambda generator, area=area, design=design: auroc_of(generator, area, *design), options)
    for kind, value in MEANS.items():
        for patients in (50, 200):
            covered(
                f"mean {kind}, {patients} patients, 3 images each",
                float(value(EVERY).mean()),
                lambda generator, value=value, patients=patients: mean_of(
                    value(clustered_normal(generator, patients, 3)), np.repeat(np.arange(patients), 3)
                ),
                options,
            )
    print("\n| paired difference | coverage | size | coverage unclustered | size unclustered |")
    print("|---|---|---|---|---|")
    for name, (positives, negatives, images) in PAIRED.items():
        counts = np.zeros(4)
        for seed in range(options.studies):
            for column, areas in enumerate(((0.80, 0.75), (0.75, 0.75))):
                drawn = draw_scores(
                    np.random.default_rng(seed), areas, positives=positives, negatives=negatives, images=images
                )
                label, scores, patient = drawn
                for place, group in ((column, patient), (column + 2, None)):
                    found = compare_auroc(label, scores[:, 0], scores[:, 1], group)
                    inside = found.low <= areas[0] - areas[1] <= found.high
                    counts[place] += inside if column == 0 else found.p < 0.05
        row("AUROC, " + name, counts / options.studies)
    for kind, value in MEANS.items():
        for patients in (50, 200):
            counts = np.zeros(4)
            for seed in range(options.studies):
                for column, better in enumerate((0.01, 0.0)):
                    generator = np.random.default_rng(seed)
                    one, other = pair(generator, patients, 3)
                    first, second, truth = value(one, better), value(other), value(EVERY, better) - value(EVERY)
                    names = np.repeat(np.arange(patients), 3)
                    for place, group in ((column, names), (column + 2, np.arange(len(names)))):
                        found = compare_means(first, second, group)
                        inside = found.low <= truth.mean() <= found.high
                        counts[place] += inside if column == 0 else found.p < 0.05
            row(f"mean {kind}, {patients} patients, 3 images each", counts / options.studies)


def covered(
    name: str, truth: float, draw: Callable[[Generator], tuple[Statistic, int]], options: argparse.Namespace
) -> None:
    """One line: how often the two intervals hold the truth, among the studies that have one."""
    found: list[Estimate] = []
    for seed in range(options.studies):
        statistic, count = draw(np.random.default_rng(seed))
        patients = identify(np.arange(count))
        found.append(estimates({"it": Measured(statistic, count, "undefined")}, patients)["it"])
    made = [each for each in found if each.low is not None]
    corrected = np.mean([each.low <= truth <= each.high for each in made])
    plain = np.mean([each.percentile[0] <= truth <= each.percentile[1] for each in made])
    width = np.mean([each.high - each.low for each in made])
    none = (len(found) - len(made)) / len(found)
    print(f"| {name} | {corrected:.3f} | {plain:.3f} | {none:.3f} | {width:.3f} |", flush=True)


def auroc_of(generator: Generator, area: float, positives: int, negatives: int, images: int) -> tuple[Statistic, int]:
    label, scores, patient = draw_scores(generator, (area,), positives=positives, negatives=negatives, images=images)
    return Auroc(label, scores[:, 0], patient, positives + negatives), positives + negatives


def mean_of(values: Values, patient: NDArray[np.intp]) -> tuple[Statistic, int]:
    patients = identify(patient)
    return mean_over_images(values, patients), patients.count


def pair(generator: Generator, patients: int, images: int) -> tuple[Values, Values]:
    """Two models' latent values on the same images, correlated by one half."""
    shared = clustered_normal(generator, patients, images)
    return tuple(0.5**0.5 * (shared + clustered_normal(generator, patients, images)) for _ in range(2))


def row(name: str, shares: Values) -> None:
    coverage, size, coverage_single, size_single = shares
    print(f"| {name} | {coverage:.3f} | {size:.3f} | {coverage_single:.3f} | {size_single:.3f} |", flush=True)


if __name__ == "__main__":
    main()
