"""How often a 95 % interval covers the truth, and how often a paired test rejects where there is none.

    python benchmarks/coverage.py [--studies 2000] [--workers 16] [--only PATTERN]

Seeds are 0, 1, 2, …; nothing is chosen after the fact. Intervals are those that runs print: 2,000 resamples of patients
where they are made of resamples. Several images of a patient correlate by one half, and so do two models on one image.

Columns: the share of intervals that hold the truth among those that there are, with its binomial 95 % limits; the same
of the percentile interval of the same resamples; the share of studies without an interval, and with a caution
("marked"); coverage among the unmarked; mean width over that of 95 % of the estimates (1 is right, below 1 too narrow).
"""

from __future__ import annotations

import argparse
import fnmatch
import os
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import Pool

import numpy as np
from drawn_studies import clustered_normal, draw_scores
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import beta, norm

from evalfm.metrics.registry import metrics_of
from evalfm.metrics.rows import ROWS, Scored
from evalfm.statistics.auroc import Auroc
from evalfm.statistics.calibration import calibration_error, expected_calibration_error
from evalfm.statistics.comparison import compare_means, contrast_aurocs
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.net_benefit import net_benefit
from evalfm.statistics.resampling import Statistic, identify, mean_over_images

Generator = np.random.Generator
Values = NDArray[np.float64]
Made = tuple[float | None, float | None, float | None, tuple[float, float] | None, bool]
"""Estimate, bounds, percentile bounds, and whether it is marked."""

AREAS = {
    "AUROC .75, 50 and 200 patients, 3 images each": (0.75, 50, 200, 3),
    "AUROC .90, 50 and 200 patients, 3 images each": (0.90, 50, 200, 3),
    "AUROC .90, 200 and 800 patients, 3 images each": (0.90, 200, 800, 3),
    "AUROC .95, 10 and 100 patients, 1 image each": (0.95, 10, 100, 1),
    "AUROC .95, 10 and 100 patients, 3 images each": (0.95, 10, 100, 3),
    "AUROC .95, 30 and 100 patients, 1 image each": (0.95, 30, 100, 1),
}
PAIRED = {"120 patients, 4 images each": (40, 80, 4), "250 patients, 1 image each": (50, 200, 1)}
SHARES = [
    *[(patients, 1, share) for patients in (20, 50) for share in (0.9, 0.97)],
    *[(patients, 3, share) for patients in (20, 50, 200) for share in (0.9, 0.97)],
    (30, 0, 0.9),
]
"""Patients, images of each (0: geometric with mean 4), and the sensitivity."""
SLOPES = [(n, images, slope) for n, images in ((300, 1), (1000, 1), (300, 3), (999, 3)) for slope in (1.0, 0.8, 0.6)]
AGREED = [(50, 3, 0), (50, 3, 5), (50, 3, 3), (200, 3, 0), (200, 3, 3)]
"""Patients, images of each, and the degrees of freedom of t errors (0: normal)."""
OF_VALUES = ("mae", "rmse", "r2", "pearson", "ccc", "limits_low", "limits_high")
NOISE = 0.7
ACT_FROM = (0.05, 0.2, 0.5)


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
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--only", default="*", help="cells whose name fits this pattern")
    options = parser.parse_args()
    # One thread a process: products of resamples by a few sums are bound by memory.
    os.environ["OMP_NUM_THREADS"] = "1"
    with Pool(options.workers) as pool:
        print(f"{options.studies} studies a cell\n")
        print("| interval of | coverage [95 % limits] | percentile | no interval | marked | unmarked | width ratio |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for names, truths, study in cells():
            if any(fnmatch.fnmatch(name, options.only) for name in names):
                found = pool.map(study, range(options.studies), chunksize=10)
                for place, (name, truth) in enumerate(zip(names, truths, strict=True)):
                    if fnmatch.fnmatch(name, options.only):
                        covered(name, truth, [each[place] for each in found])
        if fnmatch.fnmatch("ECE", options.only):
            print("\n| ECE of a calibrated score | mean | its expectation | RMS error, mean |\n|---|---|---|---|")
            for n in (300, 1000):
                columns = np.array(pool.map(partial(ece_of, n), range(options.studies), chunksize=10)).mean(axis=0)
                print(f"| {n} images | " + " | ".join(f"{each:.4f}" for each in columns) + " |", flush=True)
        if fnmatch.fnmatch("paired", options.only):
            print("\n| paired difference | coverage | size | coverage unclustered | size unclustered |")
            print("|---|---|---|---|---|", flush=True)
            for name, study in paired_cells():
                shares = np.mean(pool.map(study, range(options.studies), chunksize=10), axis=0)
                print(f"| {name} | " + " | ".join(f"{each:.3f}" for each in shares) + " |", flush=True)


def cells() -> list[tuple[Sequence[str], Sequence[float], Callable[[int], Sequence[Made]]]]:
    """Names, truths and how a study is made by its seed, of cells that share their studies."""
    found: list[tuple[Sequence[str], Sequence[float], Callable[[int], Sequence[Made]]]] = []
    for name, (area, *design) in AREAS.items():
        found.append(([name], [area], partial(auroc_of, area, *design)))
    for kind, value in MEANS.items():
        for patients in (50, 200):
            name, truth = f"mean {kind}, {patients} patients, 3 images each", float(value(EVERY).mean())
            found.append(([name], [truth], partial(mean_of, kind, patients)))
    for patients, images, share in SHARES:
        words = f"{images} images each" if images else "geometric images"
        name = f"sensitivity {share:g}, {patients} patients, {words}"
        found.append(([name], [share], partial(share_of, patients, images, share)))
    for n, images, slope in SLOPES:
        line = 1.5 * EVERY - 1
        truth = float(np.mean((expit(slope * line) - expit(line)) ** 2) ** 0.5)
        names = [f"{what}, slope {slope:g}, {n} images, {images} a patient" for what in ("RMS calibration", "slope")]
        found.append(
            (
                [*names, f"in the large, slope {slope:g}, {n} images, {images} a patient"],
                [truth, slope, large(slope)],
                partial(calibration_of, n, images, slope),
            )
        )
    for patients, images, freedom in AGREED:
        words = f"t{freedom} errors" if freedom else "normal errors"
        names = [f"{name}, {patients} patients, {images} images each, {words}" for name in OF_VALUES]
        found.append((names, values_truths(freedom), partial(values_of, patients, images, freedom)))
    names = [f"net benefit from {at:g}, 100 patients, 3 images each" for at in ACT_FROM]
    line = 1.5 * EVERY - 1
    truths = [
        float(np.mean((expit(line) >= at) * (expit(line) - (1 - expit(line)) * at / (1 - at)))) for at in ACT_FROM
    ]
    found.append((names, truths, benefit_of))
    return found


def covered(name: str, truth: float, found: Sequence[Made]) -> None:
    """One line of the table."""
    made = [each for each in found if each[1] is not None]
    inside = np.array([low <= truth <= high for _, low, high, _, _ in made])
    unmarked = inside[[not each[4] for each in made]]
    held, n = int(inside.sum()), len(inside)
    low_limit = beta.ppf(0.025, held, n - held + 1) if held else 0.0
    high_limit = beta.ppf(0.975, held + 1, n - held) if held < n else 1.0
    percentiles = [each[3] for each in made if each[3] is not None]
    plain = f"{np.mean([low <= truth <= high for low, high in percentiles]):.3f}" if percentiles else "–"
    values = np.array([each[0] for each in found if each[0] is not None])
    width = np.mean([high - low for _, low, high, _, _ in made]) / (2 * 1.96 * values.std(ddof=1))
    apart = f"{unmarked.mean():.3f}" if len(unmarked) else "–"
    without, marked = 1 - n / len(found), 1 - len(unmarked) / n
    coverage = f"{held / n:.3f} [{low_limit:.3f}, {high_limit:.3f}]"
    print(f"| {name} | {coverage} | {plain} | {without:.3f} | {marked:.3f} | {apart} | {width:.2f} |", flush=True)


def made_of(estimate: Estimate) -> Made:
    return estimate.value, estimate.low, estimate.high, estimate.percentile, bool(estimate.note)


def interval_of(statistic: Statistic, count: int, fewest: int | None = None) -> Made:
    measured = {"it": Measured(statistic, count, "undefined", fewest)}
    return made_of(estimates(measured, identify([f"{each:06}" for each in range(count)]))["it"])


def auroc_of(area: float, positives: int, negatives: int, images: int, seed: int) -> list[Made]:
    generator = np.random.default_rng(seed)
    label, scores, patient = draw_scores(generator, (area,), positives=positives, negatives=negatives, images=images)
    count = positives + negatives
    return [interval_of(Auroc(label, scores[:, 0], patient, count), count, min(positives, negatives))]


def mean_of(kind: str, patients: int, seed: int) -> list[Made]:
    values = MEANS[kind](clustered_normal(np.random.default_rng(seed), patients, 3))
    who = identify([f"{each:06}" for each in np.repeat(np.arange(patients), 3)])
    return [interval_of(mean_over_images(values, who), patients)]


def metrics_made(kind: str, names: Sequence[str], columns: dict[str, object], patient: Sequence[object]) -> list[Made]:
    """What a run prints of these predictions."""
    import pandas as pd

    class_names = () if kind == "regression" else ("x",)
    scored = Scored(pd.DataFrame({"patient": [f"{each:06}" for each in patient], **columns}), class_names, True)
    rows = ROWS[kind](scored)
    wanted = {metric.name: metric.measure(rows) for metric in metrics_of(kind) if metric.name in names}
    found = estimates(wanted, scored.patients)
    return [made_of(found[name]) for name in names]


def share_of(patients: int, images: int, share: float, seed: int) -> list[Made]:
    generator = np.random.default_rng(seed)
    counts = np.full(patients, images) if images else generator.geometric(0.25, patients)
    patient = np.repeat(np.arange(patients), counts)
    latent = (generator.normal(size=patients)[patient] + generator.normal(size=len(patient))) / 2**0.5
    found = (latent < norm.ppf(share)).astype(float)
    columns = {"target": np.ones(len(found)), "score_x": found, "threshold": 0.5}
    return metrics_made("binary", ["sensitivity"], columns, patient)


def calibration_of(n: int, images: int, slope: float, seed: int) -> list[Made]:
    generator = np.random.default_rng(seed)
    patients = n // images
    line = 1.5 * clustered(generator, patients, images) - 1
    label = norm.cdf(clustered(generator, patients, images)) < expit(slope * line)
    columns = {"target": label.astype(float), "score_x": expit(line)}
    names = ["calibration_rms", "calibration_slope", "calibration_intercept"]
    return metrics_made("binary", names, columns, np.repeat(np.arange(patients), images))


def clustered(generator: Generator, patients: int, images: int) -> Values:
    """Standard normal; images of a patient correlate by one half."""
    own = generator.normal(size=patients * images)
    return own if images == 1 else (np.repeat(generator.normal(size=patients), images) + own) / 2**0.5


def large(slope: float) -> float:
    """The shift under which probabilities have the right mean, where logits must be multiplied by ``slope``."""
    line = 1.5 * EVERY[::10] - 1
    low, high, wanted = -5.0, 5.0, expit(slope * line).mean()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(middle + line).mean() < wanted else (low, middle)
    return low


def values_of(patients: int, images: int, freedom: int, seed: int) -> list[Made]:
    generator = np.random.default_rng(seed)
    target, error = clustered(generator, patients, images), clustered(generator, patients, images)
    if freedom:
        error = error / np.sqrt(generator.chisquare(freedom, len(error)) / freedom)
    columns = {"target": target, "prediction": target + NOISE * error}
    return metrics_made("regression", OF_VALUES, columns, np.repeat(np.arange(patients), images))


def values_truths(freedom: int) -> list[float]:
    """In the order of ``OF_VALUES``."""
    variance = NOISE**2 * (freedom / (freedom - 2) if freedom else 1.0)
    # E |t| by its density, of the normal √(2 / π).
    from scipy.stats import t

    mean = float(t(freedom).expect(abs)) if freedom else (2 / np.pi) ** 0.5
    agreed = [1 - variance, (1 + variance) ** -0.5, 2 / (2 + variance)]
    return [NOISE * mean, variance**0.5, *agreed, -1.96 * variance**0.5, 1.96 * variance**0.5]


def benefit_of(seed: int) -> list[Made]:
    generator = np.random.default_rng(seed)
    line = 1.5 * clustered(generator, 100, 3) - 1
    label = norm.cdf(clustered(generator, 100, 3)) < expit(line)
    found = net_benefit(label, expit(line), np.repeat(np.arange(100), 3), ACT_FROM)
    bounds = zip(found.model.tolist(), found.low.tolist(), found.high.tolist(), strict=True)
    return [(value, low, high, None, False) for value, low, high in bounds]


def ece_of(n: int, seed: int) -> tuple[float, float, float]:
    """ECE, its expectation and the RMS error of a calibrated score."""
    from evalfm.statistics.calibration import CalibrationRms

    generator = np.random.default_rng(seed)
    score = expit(1.5 * generator.normal(size=n) - 1)
    label = generator.random(n) < score
    rms = CalibrationRms(label, score, np.arange(n), n).on_the_data()
    return calibration_error(label, score), expected_calibration_error(score), rms


def paired_cells() -> list[tuple[str, Callable[[int], Values]]]:
    found: list[tuple[str, Callable[[int], Values]]] = []
    found += [(f"AUROC, {name}", partial(two_aurocs, *design)) for name, design in PAIRED.items()]
    return found + [
        (f"mean {kind}, {patients} patients, 3 images each", partial(two_means, kind, patients))
        for kind in MEANS
        for patients in (50, 200)
    ]


def two_aurocs(positives: int, negatives: int, images: int, seed: int) -> Values:
    """Whether the interval holds the difference and the test rejects none, clustered and not."""
    counts = np.zeros(4)
    for column, areas in enumerate(((0.80, 0.75), (0.75, 0.75))):
        generator = np.random.default_rng(seed)
        label, scores, patient = draw_scores(generator, areas, positives=positives, negatives=negatives, images=images)
        for place, group in ((column, patient), (column + 2, None)):
            (found,) = contrast_aurocs(label, scores, [[1, -1]], group)
            inside = found.low <= areas[0] - areas[1] <= found.high
            counts[place] = inside if column == 0 else found.p < 0.05
    return counts


def two_means(kind: str, patients: int, seed: int) -> Values:
    counts, value = np.zeros(4), MEANS[kind]
    for column, better in enumerate((0.01, 0.0)):
        one, other = pair(np.random.default_rng(seed), patients, 3)
        first, second, truth = value(one, better), value(other), value(EVERY, better) - value(EVERY)
        names = np.repeat(np.arange(patients), 3)
        for place, group in ((column, names), (column + 2, np.arange(len(names)))):
            found = compare_means(first, second, group)
            inside = found.low <= truth.mean() <= found.high
            counts[place] = inside if column == 0 else found.p < 0.05
    return counts


def pair(generator: Generator, patients: int, images: int) -> tuple[Values, Values]:
    """Two models' latent values on the same images, correlated by one half."""
    shared = clustered_normal(generator, patients, images)
    return tuple(0.5**0.5 * (shared + clustered_normal(generator, patients, images)) for _ in range(2))


if __name__ == "__main__":
    main()
