"""How often the paired tests of `evalfm compare` reject where two models are alike, at the 5 % level.

    python benchmarks/comparison_size.py [--studies 2000]

Seeds are 0, 1, 2, …; nothing is chosen after the fact. Two models see the truth through noise of one size. Designs: one
image a patient; three or four images a patient whose noise has an intraclass correlation of one half, labels varying
within a patient; the same with all images of a patient in one class; a rare class of about fifteen patients; and five
folds. A fifth of the labels of a multilabel task is unknown. The last row is power: the second model sees less.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalfm.metrics.classes import OF_CLASSES, OF_GRADES, OF_HALVES
from evalfm.statistics.comparison import contrast_by_deletion, contrast_confusions, contrast_macro_aurocs
from evalfm.statistics.resampling import identify, mean_over_images

CLASSES = 4
EVEN = (0.3, 0.3, 0.2, 0.2)
RARE = (0.45, 0.3, 0.15, 0.1)
FEWEST = 10
PAIR = [[1.0, -1.0]]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """How a study is drawn; ``weaker`` is what the second model sees less of the classes."""

    patients: int = 150
    clustered: bool = False
    constant: bool = False
    shares: tuple[float, ...] = EVEN
    folds: int | None = None
    weaker: float = 0.0


DESIGNS = {
    "one image a patient": Design(),
    "three or four images, labels varying": Design(clustered=True),
    "three or four images, labels constant": Design(clustered=True, constant=True),
    "a rare class": Design(shares=RARE),
    "five folds": Design(patients=500, folds=5),
    "power: the second sees .1 less": Design(clustered=True, weaker=0.1),
}


def tests(design: Design, seed: int) -> dict[str, float | None]:
    """p by metric of one study."""
    generator = np.random.default_rng(seed)
    images = generator.integers(3, 5, design.patients) if design.clustered else np.ones(design.patients, dtype=int)
    patient = np.repeat(np.arange(design.patients), images)
    n = len(patient)
    drawn = generator.choice(CLASSES, size=n, p=design.shares)
    target = drawn[np.searchsorted(patient, patient)] if design.constant else drawn
    folds = None if design.folds is None else patient % design.folds

    def noise(width: int) -> Values:
        """One of each image and one of its patient, in equal parts where patients have several."""
        own = generator.normal(size=(n, width))
        return (
            own if not design.clustered else (own + generator.normal(size=(design.patients, width))[patient]) / 2**0.5
        )

    def seen(by_class: Values, strength: float) -> Values:
        return strength * by_class + noise(by_class.shape[1])

    strengths = (1.2, 1.2 - design.weaker)
    one_hot = np.eye(CLASSES)[target]
    nominal = np.stack([seen(one_hot, strength) for strength in strengths], axis=2)
    grades = [
        np.clip(np.round(target + noise(1)[:, 0] / strength), 0, CLASSES - 1).astype(int) for strength in strengths
    ]
    graded, called = np.stack(grades, axis=1), nominal.argmax(axis=1)
    several = (generator.random((n, CLASSES)) < design.shares).astype(float)
    findings = np.stack([seen(several, strength) for strength in strengths], axis=2)
    known = np.where(generator.random(several.shape) < 0.2, np.nan, several)

    def by_auroc(labels: Values, scores: Values) -> float | None:
        """As compare does it: without classes of fewer than ten patients."""
        kept = [k for k, label in enumerate(labels.T) if len(np.unique(patient[label == 1])) >= FEWEST]
        return contrast_macro_aurocs(labels[:, kept], scores[:, kept], PAIR, patient, folds=folds)[0].p

    behind = identify(patient, folds)

    def by_deletion(right: Values, among: Values | None = None) -> float | None:
        """Of the share of images that are ``right`` [N, 2]."""
        shares = [mean_over_images(each, behind, among) for each in right.T]
        values = [each.on_the_data() for each in shares]
        left = np.stack([each.without_each() for each in shares], axis=1)
        return contrast_by_deletion(values, left, PAIR, patients=behind.behind(among))[0].p

    right = (called == target[:, None]).astype(float)
    found = {
        "macro AUROC, classes": by_auroc(one_hot, nominal),
        "macro AUROC, labels": by_auroc(known, findings),
        "accuracy": by_deletion(right),
        "sensitivity to one class": by_deletion(right, target == 0),
    }
    for metric in (*OF_CLASSES, OF_GRADES, *OF_HALVES):
        answers = graded if metric is OF_GRADES else called
        found[metric.name] = contrast_confusions(target, answers, CLASSES, metric, PAIR, patient)[0].p
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    options = parser.parse_args()
    for number, (name, design) in enumerate(DESIGNS.items()):
        every = [tests(design, seed) for seed in range(options.studies)]
        if number == 0:
            print("| studies | " + " | ".join(every[0]) + " |")
            print("|---" * (1 + len(every[0])) + "|")
        shares = [
            np.mean([p is not None and p < 0.05 for p in (each[metric] for each in every)]) for metric in every[0]
        ]
        print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
