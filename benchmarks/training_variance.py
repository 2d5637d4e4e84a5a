"""How often two encoders of one quality are called different, with and without training variance, at the 5 % level.

    python benchmarks/training_variance.py [--studies 2000] [--workers 16]

Seeds are 0, 1, 2, …; nothing is chosen after the fact. Two encoders give d = 100 features of each patient's image: the
class, what they share of the patient, and noise of their own, by the same law, so that linear heads on either have the
same expected AUROC. Heads are evalfm's: C chosen on val, thresholds not needed. Designs: five folds (n = 200, 600), one
split (n = 600: 60 % train, 20 % val, 20 % test), 16 shots with 5 draws from pools of 40, 200 and 1,000 images a class
tested on 400; the last design of folds is power: the second encoder sees less.

Ways: ``test`` counts the test patients alone; ``refits`` adds the variance over 20 refits, each at the C that the drawn
val chooses among the head's own, with ``--choice`` also among all fitted again (20 times the work); ``folds`` is
Nadeau and Bengio's; ``draws`` the rule for few shots; ``one draw`` tests the first draw by its test patients. Beside
each share of studies with p < .05 its binomial 95 % limits, the share of 95 % intervals that hold the mean difference
over studies, and the ratio of the estimated error (root mean square) to the standard deviation of the difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from evalfm.heads.head import Context, Drawn, HeldExamples
from evalfm.heads.linear import LinearHead
from evalfm.probing.refitting import multiplicities
from evalfm.statistics.auroc import auroc
from evalfm.statistics.comparison import Difference, contrast_aurocs
from evalfm.statistics.training_variance import Variance, counting, over_draws, over_folds, over_refits

REFITS = 20
DIMENSIONS = 100
FOLDS = 5
SHOTS, DRAWS, TESTED = 16, 5, 400
PAIR = [[1.0, -1.0]]
CONTEXT = Context("binary", ("finding",))

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """How a study is drawn; ``weaker`` is what the second encoder sees less of the class."""

    images: int = 0
    folds: bool = False
    pool: int = 0
    signal: float = 2.0
    weaker: float = 0.0


DESIGNS = {
    "5 folds, n = 200": Design(200, folds=True),
    "5 folds, n = 600": Design(600, folds=True),
    "one split, n = 600": Design(600),
    "16 shots of 40, 5 draws": Design(pool=40),
    "16 shots of 200, 5 draws": Design(pool=200),
    "16 shots of 1,000, 5 draws": Design(pool=1000),
    "power: 5 folds, n = 600, the second sees .5 less": Design(600, folds=True, weaker=0.5),
}


def features(label: Values, design: Design, generator: np.random.Generator) -> list[NDArray[np.float32]]:
    """Of both encoders, [N, d] each: a direction of the class, ten of the patient that both see, and own noise.

    Directions are those of both, so that the two are exchangeable: not only on average over encoders are they equal.
    """
    shared = generator.normal(size=(len(label), 10)) @ generator.normal(size=(10, DIMENSIONS)) / 10**0.5
    direction = generator.normal(size=DIMENSIONS)
    seen = label[:, None] * direction / np.linalg.norm(direction)
    return [
        (strength * seen + shared + generator.normal(size=seen.shape)).astype(np.float32)
        for strength in (design.signal, design.signal - design.weaker)
    ]


def examples(given: NDArray[np.float32], label: Values, rows: NDArray[np.intp]) -> HeldExamples:
    """The images at ``rows``."""
    source = SimpleNamespace(pooled_dim=given.shape[1])
    patients = np.array([f"p{row}" for row in rows], dtype=object)
    return HeldExamples(source, rows, label[rows], patients, held=given[rows])  # type: ignore[arg-type]


def fitted(
    given: NDArray[np.float32], label: Values, split: tuple[NDArray[np.intp], ...], refits: int, *, choose: bool = False
) -> tuple[Values, Values]:
    """Test scores of a head, [n], and of its refits, [R, n]."""
    train, val, test = (examples(given, label, rows) for rows in split)
    head = LinearHead()
    head.fit(train, val, CONTEXT)
    drawn = Drawn(*(multiplicities(each.patients, range(refits)) for each in (train, val)))
    again = [each.predict(test)[:, 0] for each in head.refits(train, val, CONTEXT, drawn, choose=choose)]
    return head.predict(test)[:, 0], np.reshape(again, (refits, len(test)))


def splits(design: Design, generator: np.random.Generator) -> list[tuple[NDArray[np.intp], ...]]:
    """Train, val and test of every fold, or of one split."""
    order = np.array_split(generator.permutation(design.images), FOLDS)
    made = [
        (np.concatenate([order[(k + j) % FOLDS] for j in range(2, FOLDS)]), order[(k + 1) % FOLDS], order[k])
        for k in range(FOLDS)
    ]
    return made if design.folds else made[:1]


def variance_of(
    label: Values, parts: list[tuple[NDArray[np.intp], ...]], again: list[list[Values]], plain: Difference
) -> Variance:
    """Over refits, whose scores ``again`` holds by encoder and fold, each [R, n]."""
    areas = np.array(
        [
            [[auroc(label[part[2]], each) for each in refits] for refits, part in zip(of, parts, strict=True)]
            for of in again
        ]
    )
    return over_refits(plain.standard_error**2, (areas[0] - areas[1]).mean(axis=0))


def over_all(design: Design, seed: int, *, choice: bool) -> dict[str, Difference]:
    """The difference by each way, in one study of folds or a split."""
    generator = np.random.default_rng(seed)
    label = (generator.random(design.images) < 0.4).astype(float)
    given = features(label, design, generator)
    parts = splits(design, generator)
    rows = np.concatenate([test for *_, test in parts])
    fold = np.repeat(np.arange(len(parts)), [len(test) for *_, test in parts])
    found = [[fitted(each, label, part, REFITS) for part in parts] for each in given]
    scores = np.stack([np.concatenate([score for score, _ in of]) for of in found], axis=1)
    (plain,) = contrast_aurocs(label[rows], scores, PAIR, folds=fold)
    variance = variance_of(label, parts, [[refits for _, refits in of] for of in found], plain)
    ways = {"test": plain, "refits": counting(plain, variance, "refits")}
    if choice:
        again = [[fitted(each, label, part, REFITS, choose=True)[1] for part in parts] for each in given]
        ways["refits, every C again"] = counting(plain, variance_of(label, parts, again, plain), "refits")
    if design.folds:
        of_fold = [auroc(label[p[2]], a[0]) - auroc(label[p[2]], b[0]) for a, b, p in zip(*found, parts, strict=True)]
        ratio = len(parts[0][2]) / len(parts[0][0])
        ways["folds"] = counting(plain, over_folds(plain.standard_error**2, of_fold, ratio), "folds")
    return ways


def over_shots(design: Design, seed: int) -> dict[str, Difference]:
    """The same of few shots: draws from a pool of both classes, a val of as many images as a draw."""
    generator = np.random.default_rng(seed)
    label = np.concatenate(
        [np.repeat([0.0, 1.0], design.pool), np.repeat([0.0, 1.0], SHOTS), np.repeat([0.0, 1.0], TESTED // 2)]
    )
    given = features(label, design, generator)
    val = np.arange(2 * design.pool, 2 * design.pool + 2 * SHOTS)
    test = np.arange(2 * design.pool + 2 * SHOTS, len(label))
    scores: list[list[Values]] = [[], []]
    for _ in range(DRAWS):
        train = np.concatenate([first + generator.permutation(design.pool)[:SHOTS] for first in (0, design.pool)])
        for place, each in enumerate(given):
            scores[place].append(fitted(each, label, (train, val, test), 0)[0])
    every = np.stack([*scores[0], *scores[1]], axis=1)
    weights = np.concatenate([np.eye(DRAWS), -np.eye(DRAWS)], axis=1)
    plain, *of_each = contrast_aurocs(label[test], every, [weights.mean(axis=0), *weights])
    variance = over_draws(
        plain.standard_error**2,
        [each.standard_error**2 for each in of_each],
        [each.value for each in of_each],
        images=SHOTS,
        pool=design.pool,
    )
    return {"one draw": of_each[0], "test": plain, "draws": counting(plain, variance, "draws")}


def study(task: tuple[str, int, bool]) -> dict[str, tuple[float, ...]]:
    """p, low, high and error by way."""
    torch.set_num_threads(1)
    design, seed = DESIGNS[task[0]], task[1]
    found = over_shots(design, seed) if design.pool else over_all(design, seed, choice=task[2])
    return {
        way: (
            1.0 if each.p is None else each.p,
            each.value if each.low is None else each.low,
            each.value if each.high is None else each.high,
            each.standard_error,
            each.value,
        )
        for way, each in found.items()
    }


def lines(name: str, found: list[dict[str, tuple[float, ...]]]) -> Iterator[str]:
    """Rows of the table of one design."""
    for way in found[0]:
        p, low, high, error, value = np.array([each[way] for each in found]).T
        count, n, mean = int((p < 0.05).sum()), len(p), value.mean()
        limits = stats.binomtest(count, n).proportion_ci(method="exact")
        ratio = np.sqrt(np.mean(error**2)) / value.std(ddof=1)
        yield (
            f"| {name} | {way} | {n} | {count / n:.3f} [{limits.low:.3f}, {limits.high:.3f}] | "
            f"{np.mean((low <= mean) & (mean <= high)):.3f} | {ratio:.2f} | {mean:+.4f} ± {value.std() / n**0.5:.4f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", help="designs whose name holds this")
    parser.add_argument("--choice", action="store_true", help="refits in which every C is fitted again too")
    options = parser.parse_args()
    print(
        "| design | way | studies | p < .05 | coverage | error ÷ true | mean difference |\n" + "|---" * 7 + "|",
        flush=True,
    )
    with ExitStack() as opened:
        every: Callable[..., Iterable[dict[str, tuple[float, ...]]]] = map
        if options.workers > 1:
            # Not forked: torch has threads.
            every = opened.enter_context(get_context("spawn").Pool(options.workers)).imap
        for name in (each for each in DESIGNS if options.only in each):
            tasks = [(name, seed, options.choice) for seed in range(options.studies)]
            for line in lines(name, list(every(study, tasks))):
                print(line, flush=True)


if __name__ == "__main__":
    main()
