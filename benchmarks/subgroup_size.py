"""How often the subgroup tests reject where there is nothing to find, at the 5 % level, and how often intervals cover.

    python benchmarks/subgroup_size.py [--studies 2000] [--workers 1]

Seeds are 0, 1, 2, …; nothing is chosen after the fact. Of the first table: the attribute is independent of all (i); it
goes with the label alone (ii); it goes with severity, which the score follows (iii: a null for negatives, for Dice held
to the lesion's area and for the score within sizes; elsewhere severity itself is found); four images a patient with an
intraclass correlation of one half, the attribute constant in a patient (iv-c) or varying (iv-v), in each of the three
ties.

The second table has what breaks naive tests: a number that acts within one label alone or bends; 30 and 10 patients
with the attribute of 300 without the finding, scores skewed, saturated and twice as wide; clusters that are unequal.
AUROCs are not adjusted: where the number acts they find it, and are left out. The third has gaps between levels. The
ratio is the mean half-width of the interval over 1.96 standard deviations of the figure over studies.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from multiprocessing import Pool
from typing import TypeVar

import numpy as np
from drawn_studies import (
    CellDesign,
    Outcome,
    SimulationDesign,
    cell_outcomes,
    draw_calibrated,
    draw_cells,
    draw_gap,
    draw_study,
    gap_outcomes,
    p_values,
)
from scipy.stats import binom

Made = TypeVar("Made")

TIES = {"(i) independent": "nothing", "(ii) tied to the label": "label", "(iii) tied to severity": "severity"}
NULLS = {
    **{name: SimulationDesign(tie) for name, tie in TIES.items()},
    **{f"(iv-c) {name}": SimulationDesign(tie, images=4) for name, tie in TIES.items()},
    **{f"(iv-v) {name}": SimulationDesign(tie, images=4, constant=False) for name, tie in TIES.items()},
    "(iv-c) (i), 100 patients": SimulationDesign(images=4, patients=100),
    "(iv-v) (i), 100 patients": SimulationDesign(images=4, patients=100, constant=False),
}
WIDE = {"negatives": 400, "tubes": 120, "positives": 200, "positive_tubes": 120}
HEAVY = {"images": "heavy", "correlation": 0.9}
CELLS = {
    "number acts among negatives alone, 600 patients": CellDesign(**WIDE, covariate="negatives"),
    "number with opposite slopes, 600 patients": CellDesign(**WIDE, covariate="opposite"),
    "number that bends, 600 patients": CellDesign(**WIDE, covariate="curved"),
    "number that bends, 30 tubes": CellDesign(covariate="curved"),
    "opposite slopes, 10 tubes, saturated": CellDesign(tubes=10, covariate="opposite", noise="saturated"),
    **{
        f"{tubes} tubes of 300, {noise}": CellDesign(tubes=tubes, noise=noise)
        for tubes in (30, 10)
        for noise in ("normal", "skewed", "saturated", "unequal")
    },
    "geometric clusters, constant": CellDesign(600, 90, 200, 100, images="geometric"),
    "geometric clusters, constant, 30 tubes, skewed": CellDesign(images="geometric", noise="skewed"),
    "geometric clusters, varying, 10 in 300": CellDesign(
        tubes=10, images="geometric", constant=False, correlation=0.9, noise="skewed"
    ),
    "3 % with 40 images, constant": CellDesign(1500, 450, 500, 250, **HEAVY),
    "3 % with 40 images, varying, 300 negatives": CellDesign(300, 90, 150, 75, constant=False, **HEAVY),
    "3 % with 40 images, varying, 600 negatives": CellDesign(600, 180, 300, 150, constant=False, **HEAVY),
}
FOUND_BY_AREA = {"negatives": (0,), "opposite": (0, 1), "curved": (0, 1)}
"""At which labels the number itself tells the attribute, so that an AUROC is no null."""
FOUR = {"images": 4}
GAPS: dict[str, tuple[Callable[..., object], dict[str, object], float, tuple[str, ...]]] = {
    **{
        f"AUROC {area}, 10 and 30 against 100 and 300": (draw_gap, {"area": area}, 1.0, ("mean_error", "intercept"))
        for area in (0.85, 0.92, 0.98)
    },
    "AUROC .85, the same with 4 images": (draw_gap, {"area": 0.85, **FOUR}, 1.0, ("mean_error", "intercept")),
    "AUROC .98, the same with 4 images": (draw_gap, {"area": 0.98, **FOUR}, 1.0, ("mean_error", "intercept")),
    "AUROC .85, 50 and 150 against 100 and 300": (
        draw_gap,
        {"area": 0.85, "positives": (50, 100), "negatives": (150, 300)},
        1.0,
        ("mean_error", "intercept"),
    ),
    "right probabilities, 400 patients": (draw_calibrated, {}, 0.5, ()),
    "right probabilities, a seventh with the attribute": (draw_calibrated, {"members": 0.15}, 0.5, ()),
    "right probabilities, 150 patients of 4 images": (draw_calibrated, {"patients": 150, **FOUR}, 0.5, ()),
}
CALIBRATED = ("mean_error", "intercept")
"""The only nulls of right probabilities: where they differ between levels, so do sensitivity and AUROC."""


def of_study(design: SimulationDesign, permutations: int, seed: int) -> dict[str, float | None]:
    """p of every test on one study."""
    return p_values(draw_study(design, np.random.default_rng(seed)), permutations)


def of_cells(design: CellDesign, adjusted: bool, permutations: int, seed: int) -> dict[str, Outcome]:
    """Every figure that is a null on one study of cells."""
    return cell_outcomes(draw_cells(design, np.random.default_rng(seed)), adjusted, permutations)


def of_gaps(name: str, seed: int) -> dict[str, Outcome]:
    """Every gap that is a null on one study."""
    draw, options, threshold, left_out = GAPS[name]
    found = gap_outcomes(draw(np.random.default_rng(seed), **options), threshold)
    kept = CALIBRATED if draw is draw_calibrated else [each for each in found if each not in left_out]
    return {each: found[each] for each in kept if each in found}


def line(design: str, test: str, outcomes: list[Outcome]) -> str:
    """A row of the table: how often rejected, covered, how wide."""
    tested = [each for each in outcomes if each.p is not None]
    covered = [each for each in outcomes if each.low is not None and each.high is not None]
    if not tested:
        return f"| {design} | {test} | 0 of {len(outcomes)} | | | | |"
    rejected = np.mean([each.p <= 0.05 for each in tested])
    low, high = (binom.ppf(tail, len(tested), 0.05) / len(tested) for tail in (0.025, 0.975))
    cells = ["", ""]
    if covered and covered[0].value is not None:
        share = np.mean([each.low <= 0 <= each.high for each in covered])
        width = np.mean([each.high - each.low for each in covered]) / 2 / 1.96
        cells = [f"{share:.3f}", f"{width / np.std([each.value for each in covered], ddof=1):.2f}"]
    return (
        f"| {design} | {test} | {len(tested)} of {len(outcomes)} | {rejected:.3f} | {low:.3f}–{high:.3f} | "
        f"{cells[0]} | {cells[1]} |"
    )


HEADER = "| design | test | studies | rejected | limits of .05 | covered | ratio |"


def show(design: str, made: Iterable[Mapping[str, Outcome]]) -> None:
    """The rows of one design."""
    studies = list(made)
    for test in studies[0]:
        print(line(design, test, [each[test] for each in studies]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--permutations", type=int, default=199, help="a tenth of the report's, to save time")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tables", default="nulls,cells,gaps", help="which of the three")
    options = parser.parse_args()
    seeds, tables = range(options.studies), options.tables.split(",")
    with Pool(options.workers) as pool:

        def each(work: Callable[[int], Made]) -> list[Made]:
            return pool.map(work, seeds, chunksize=max(1, options.studies // (8 * options.workers)))

        if "nulls" in tables:
            nulls(options.studies, lambda design: each(partial(of_study, design, options.permutations)))
        if "cells" in tables:
            print(f"\n{HEADER}\n{'|---' * 7}|", flush=True)
            for name, design in CELLS.items():
                adjusted = design.covariate != "none"
                made = each(partial(of_cells, design, adjusted, options.permutations))
                gone = {f"AUROC(a given y = {truth})" for truth in FOUND_BY_AREA.get(design.covariate, ())}
                show(name, [{test: study[test] for test in study if test not in gone} for study in made])
        if "gaps" in tables:
            print(f"\n{HEADER}\n{'|---' * 7}|", flush=True)
            for name in GAPS:
                show(name, each(partial(of_gaps, name)))


def nulls(studies: int, run: Callable[[SimulationDesign], list[dict[str, float | None]]]) -> None:
    """The first table, a row per null; in brackets what is none there."""
    for number, (name, design) in enumerate(NULLS.items()):
        made = run(design)
        if number == 0:
            low, high = (binom.ppf(tail, studies, 0.05) / studies for tail in (0.025, 0.975))
            print(f"{studies} studies a row; a true .050 lies within {low:.3f} and {high:.3f}.\n")
            print("| null | " + " | ".join(made[0]) + " |")
            print("|---" * (1 + len(made[0])) + "|")
        shares = {
            test: np.mean([study[test] is not None and study[test] <= 0.05 for study in made]) for test in made[0]
        }
        of_severity = ("AUROC(a given y = 1)", "effect at y = 1", "stratum gap")
        cells = [
            f"[{share:.3f}]" if design.tie == "severity" and test in of_severity else f"{share:.3f}"
            for test, share in shares.items()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
