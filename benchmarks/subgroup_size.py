"""How often the subgroup tests reject where there is nothing to find, and where there is something, at the 5 % level.

    python benchmarks/subgroup_size.py [--studies 2000]

Seeds are 0, 1, 2, …; nothing is chosen after the fact. Nulls: the attribute is independent of all (i); it goes with
the label alone (ii); it goes with severity among positives, and the score sees severity (iii, negatives only); four
images a patient with an intraclass correlation of one half, the attribute constant in a patient (iv-c) or varying.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evalfm.statistics.stratum_gap import stratum_gap
from evalfm.statistics.subgroups import at_fixed_label

Study = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_], NDArray[np.str_]]
PATIENTS = 300


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-values)))


def independent(generator: np.random.Generator, effect: float = 0.0) -> Study:
    y = generator.random(PATIENTS) < 0.4
    a = generator.random(PATIENTS) < 0.35
    s = sigmoid(1.2 * y + effect * a + generator.normal(size=PATIENTS))
    return y, s, a, np.arange(PATIENTS).astype(str)


def tied(generator: np.random.Generator, effect: float = 0.0) -> Study:
    y = generator.random(PATIENTS) < 0.4
    a = generator.random(PATIENTS) < np.where(y, 0.7, 0.2)
    s = sigmoid(1.2 * y + effect * a + generator.normal(size=PATIENTS))
    return y, s, a, np.arange(PATIENTS).astype(str)


def severity(generator: np.random.Generator, effect: float = 0.0) -> Study:
    y = generator.random(PATIENTS) < 0.4
    size = np.where(y, generator.random(PATIENTS), 0.0)
    a = generator.random(PATIENTS) < np.where(y, 0.2 + 0.7 * size, 0.2)
    s = sigmoid(3 * size + effect * a + generator.normal(size=PATIENTS))
    return y, s, a, np.arange(PATIENTS).astype(str)


def clustered(generator: np.random.Generator, constant: bool, effect: float = 0.0) -> Study:
    patient = np.repeat(np.arange(PATIENTS), 4)
    n = len(patient)
    y = generator.random(n) < 0.4
    share = generator.random(PATIENTS)[patient] if constant else generator.random(n)
    a = share < 0.35
    s = sigmoid(1.2 * y + effect * a + generator.normal(size=PATIENTS)[patient] + generator.normal(size=n))
    return y, s, a, patient.astype(str)


STUDIES: dict[str, Callable[[np.random.Generator], Study]] = {
    "(i) independent": independent,
    "(ii) tied to the label": tied,
    "(iii) tied to severity": severity,
    "(iv-c) clustered, constant": lambda generator: clustered(generator, True),
    "(iv-v) clustered, varying": lambda generator: clustered(generator, False),
    "effect .5 of a standard deviation, tied": lambda generator: tied(generator, 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    options = parser.parse_args()
    print("| studies | AUROC(a given y = 0) | AUROC(a given y = 1) | effect at y = 0 | effect at y = 1 | stratum gap |")
    print("|---|---|---|---|---|---|")
    for name, made in STUDIES.items():
        rejected = np.zeros(5)
        for seed in range(options.studies):
            study = made(np.random.default_rng(seed))
            found = at_fixed_label(*study)
            ps = [found[0].p, found[1].p, found[0].effect.p, found[1].effect.p, stratum_gap(*study).p]
            rejected += [p is not None and p < 0.05 for p in ps]
        print(f"| {name} | " + " | ".join(f"{count / options.studies:.3f}" for count in rejected) + " |")


if __name__ == "__main__":
    main()
