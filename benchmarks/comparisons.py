"""Rank sets, average ranks, Friedman, Kendall's τ and the mean over tasks: how often they hold the truth.

    python benchmarks/comparisons.py [--studies 2000] [--workers 2]

Seeds are 0, 1, 2, … in every cell; nothing is chosen after the fact. Limits beside a share are binomial, 95 % (Wilson).
Models share their test patients, so that their errors correlate. With ``refits`` the true error is of test patients and
of the training sample in equal parts; the second is estimated from 20 refits, t by Satterthwaite.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from multiprocessing import Pool

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalfm.statistics.comparison import Difference, contrast_aurocs
from evalfm.statistics.hierarchical import ROPE, SCALES, mean_difference
from evalfm.statistics.ranks import friedman, kendall, rank_sets, task_ranks

Values = NDArray[np.float64]
REFITS = 20
DRAWS = 20_000


@dataclass(frozen=True)
class Models:
    """Models whose true values are ``gap`` apart: AUROCs on drawn scores, or estimates with normal errors."""

    count: int
    gap: float
    error: float = 0.02
    correlation: float = 0.6
    refits: bool = False
    scores: bool = False


RANKS = {
    "3 equal": Models(3, 0.0),
    "10 equal": Models(10, 0.0),
    "10 equal, refits": Models(10, 0.0, refits=True),
    "10, .002 apart": Models(10, 0.002),
    "10, .002 apart, refits": Models(10, 0.002, refits=True),
    "10, .02 apart": Models(10, 0.02),
    "10, .02 apart, refits": Models(10, 0.02, refits=True),
    "10 AUROCs, 100 and 200 patients, equal": Models(10, 0.0, scores=True),
    "10 AUROCs, 100 and 200 patients, .002 apart": Models(10, 0.002, scores=True),
}


def drawn(design: Models, generator: np.random.Generator) -> tuple[Values, list[Difference], Values]:
    """True values, all differences, and the estimates of one study."""
    true = 0.85 - design.gap * np.arange(design.count)
    pairs = list(combinations(range(design.count), 2))
    if design.scores:
        label = np.repeat([1, 0], [100, 200])
        shift = 2**0.5 * stats.norm.ppf(true)
        noise = (1 - design.correlation) ** 0.5 * generator.normal(size=(300, design.count))
        noise += design.correlation**0.5 * generator.normal(size=(300, 1))
        scores = noise + label[:, None] * shift
        weights = np.zeros((len(pairs), design.count))
        for row, (one, other) in enumerate(pairs):
            weights[row, one], weights[row, other] = 1, -1
        found = contrast_aurocs(label, scores, [*weights, *np.eye(design.count)])
        return true, found[: len(pairs)], np.array([each.value for each in found[len(pairs) :]])
    unit = (1 - design.correlation) * np.eye(design.count) + design.correlation
    test = design.error**2 * unit / (2 if design.refits else 1)
    estimates = generator.multivariate_normal(true, test)
    refits = None
    if design.refits:
        estimates = estimates + generator.multivariate_normal(np.zeros(design.count), test)
        refits = generator.multivariate_normal(np.zeros(design.count), test, size=REFITS)
    differences = []
    for one, other in pairs:
        variance, freedom = float(test[one, one] + test[other, other] - 2 * test[one, other]), None
        if refits is not None:
            training = float((refits[:, one] - refits[:, other]).var(ddof=1))
            variance += training
            freedom = variance**2 / (training**2 / (REFITS - 1))
        differences.append(difference(float(estimates[one] - estimates[other]), variance**0.5, freedom))
    return true, differences, estimates


def difference(value: float, error: float, freedom: float | None) -> Difference:
    """With its interval and p."""
    law = stats.norm() if freedom is None else stats.t(freedom)
    reach = float(law.isf(0.025)) * error
    return Difference(value, error, value - reach, value + reach, 2 * float(law.sf(abs(value) / error)), freedom, 1, "")


def ranks_of(design: Models, seed: int) -> dict[str, float]:
    """One study: is the true rank of the best, and of all, in the sets; how wide are they."""
    true, differences, estimates = drawn(design, np.random.default_rng(seed))
    sets = np.array(rank_sets(differences, draws=DRAWS))
    # Equal models may have any of the ranks that they share.
    low = 1 + (true[:, None] < true[None, :]).sum(axis=1)
    high = design.count - (true[:, None] > true[None, :]).sum(axis=1)
    inside = (sets[:, 0] <= low) & (high <= sets[:, 1])
    pairs = list(combinations(range(design.count), 2))
    return {
        "best": float(inside[0]),
        "all": float(inside.all()),
        "width": float((sets[:, 1] - sets[:, 0] + 1).mean()),
        "error": float(np.mean([each.standard_error for each in differences])),
        "miss": float(np.mean([(estimates[i] - estimates[j] - true[i] + true[j]) ** 2 for i, j in pairs])),
    }


@dataclass(frozen=True)
class Tasks:
    """True differences over tasks: δ₀ and τ, and of what s_i are made."""

    count: int
    mean: float
    spread: float
    refits: bool = False


MEANS = {
    f"{count} tasks, δ₀ {mean:g}, τ {spread:g}{', refits' if refits else ''}": Tasks(count, mean, spread, refits)
    for count in (2, 5, 11)
    for mean, spread in ((0.0, 0.0), (0.0, 0.02), (0.02, 0.0), (0.02, 0.02), (0.02, 0.05))
    for refits in (False, True)
}


def mean_of(design: Tasks, scale: float, seed: int) -> dict[str, float]:
    """One study: does the credible interval hold δ₀, and what does it say of practical equality."""
    generator = np.random.default_rng(seed)
    s = generator.uniform(0.008, 0.025, design.count)
    x = generator.normal(design.mean, np.hypot(s, design.spread))
    given = s
    if design.refits:
        variance = s**2 / 2 * (1 + generator.chisquare(REFITS - 1, design.count) / (REFITS - 1))
        freedom = variance**2 / ((variance - s**2 / 2) ** 2 / (REFITS - 1))
        given = np.sqrt(variance) * stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975)
    found = mean_difference(x, given, scale=scale)
    return {
        "held": float(found.low <= design.mean <= found.high),
        "width": found.high - found.low,
        "equal": float(found.equal > 0.95),
        "apart": float(max(found.better, found.worse) > 0.95),
    }


def average_of(tasks: int, gap: float, seed: int) -> dict[str, float]:
    """One study of eight models on several tasks: are all true average ranks within the intervals."""
    generator, models = np.random.default_rng(seed), 8
    ends, true = [], []
    for _ in range(tasks):
        order = generator.permutation(models)
        design = Models(models, gap)
        values, differences, _ = drawn(design, generator)
        sets = np.array(rank_sets(differences, level=1 - 0.05 / tasks, draws=DRAWS))[order]
        ends.append(sets)
        true.append(task_ranks([values[order]])[0])
    low, high = np.mean(ends, axis=0).T
    rank = np.mean(true, axis=0)
    return {"held": float(((low <= rank) & (rank <= high)).all()), "width": float((high - low).mean())}


def friedman_of(tasks: int, models: int, seed: int) -> dict[str, float]:
    """One study of equal models: does Friedman's test reject, does any pair by Nemenyi."""
    found = friedman(np.random.default_rng(seed).normal(size=(tasks, models)))
    return {"friedman": float(found.p < 0.05), "nemenyi": float((found.pairs < 0.05).any())}


def tau_of(models: int, correlation: float, seed: int) -> dict[str, float]:
    """One study: does the interval hold τ of a normal law with that correlation."""
    generator = np.random.default_rng(seed)
    one = generator.normal(size=models)
    other = correlation * one + (1 - correlation**2) ** 0.5 * generator.normal(size=models)
    found = kendall(one, other)
    true = 2 / np.pi * np.arcsin(correlation)
    if found.low is None or found.high is None:
        raise ValueError("τ has an interval from five models on")
    return {"held": float(found.low <= true <= found.high), "width": found.high - found.low}


def share(values: Sequence[float]) -> str:
    """A share with its binomial limits."""
    found = stats.binomtest(int(sum(values)), len(values)).proportion_ci(method="wilson")
    return f"{np.mean(values):.3f} ({found.low:.3f}–{found.high:.3f})"


def table(header: Sequence[str]) -> None:
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with Pool(options.workers) as pool:

        def studies(one: Callable[[int], dict[str, float]]) -> dict[str, list[float]]:
            every = pool.map(one, range(options.studies), chunksize=max(1, options.studies // (8 * options.workers)))
            return {name: [each[name] for each in every] for name in every[0]}

        table(["rank sets", "studies", "true best rank held", "all ranks held", "mean width", "estimated ÷ true error"])
        for name, models in RANKS.items():
            found = studies(partial(ranks_of, models))
            ratio = np.mean(found["error"]) / np.mean(found["miss"]) ** 0.5
            cells = [share(found["best"]), share(found["all"]), f"{np.mean(found['width']):.2f}", f"{ratio:.3f}"]
            print(f"| {name} | {options.studies} | {' | '.join(cells)} |", flush=True)
        table(["mean over tasks", "prior", "studies", "δ₀ held", "mean width", f"P(within ± {ROPE:g}) > .95", "apart"])
        for name, tasks in MEANS.items():
            for scale in SCALES:
                found = studies(partial(mean_of, tasks, scale))
                cells = [share(found["held"]), f"{np.mean(found['width']):.4f}", share(found["equal"])]
                cells += [share(found["apart"])]
                print(f"| {name} | {scale:g} | {options.studies} | {' | '.join(cells)} |", flush=True)
        table(["average ranks of 8 models", "studies", "all held", "mean width"])
        for count in (2, 5, 11):
            for gap in (0.002, 0.02):
                found = studies(partial(average_of, count, gap))
                cells = [share(found["held"]), f"{np.mean(found['width']):.2f}"]
                print(f"| {count} tasks, {gap:g} apart | {options.studies} | {' | '.join(cells)} |", flush=True)
        table(["equal models", "studies", "Friedman p < .05", "a pair by Nemenyi"])
        for count in (5, 11, 20):
            for models in (3, 5, 10):
                found = studies(partial(friedman_of, count, models))
                cells = [share(found["friedman"]), share(found["nemenyi"])]
                print(f"| {count} tasks, {models} models | {options.studies} | {' | '.join(cells)} |", flush=True)
        table(["Kendall's τ", "studies", "held", "mean width"])
        for models in (5, 6, 8, 12, 20):
            for correlation in (0.0, 0.5, 0.9):
                found = studies(partial(tau_of, models, correlation))
                cells = [share(found["held"]), f"{np.mean(found['width']):.2f}"]
                print(
                    f"| {models} models, correlation {correlation:g} | {options.studies} | {' | '.join(cells)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
