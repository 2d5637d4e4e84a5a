"""How often the subgroup tests find an effect of the attribute itself, over its size: a table and a figure.

    python benchmarks/subgroup_power.py [--studies 2000] [--workers 1] [--figure docs/images/power.png]

Seeds are 0, 1, 2, …; nothing is chosen after the fact. The attribute goes with the label, so that a model could lean on
it, and moves the score, what is drawn where nothing is, and the Dice by 0 to 1 standard deviations at fixed label. A
second table plants half a standard deviation in few tubes among 300 negatives, and says how often intervals cover it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import TypeVar

import numpy as np
from drawn_studies import CellDesign, Outcome, SimulationDesign, cell_outcomes, draw_cells, draw_study, p_values

Made = TypeVar("Made")

PERMUTATIONS = 199
"""A tenth of the report's, to save time."""
DIAL = [step / 10 for step in range(11)]
DESIGNS = {
    "300 patients, 1 image each": SimulationDesign("label"),
    "100 patients, 4 images each": SimulationDesign("label", patients=100, images=4),
}
SHOWN = {
    "AUROC(a given y = 0)": "o-",
    "effect at y = 0": "s--",
    "verdict": "x:",
    "false-positive area": "^-.",
    "Dice, adjusted": "d-",
}


PLANTED, TUBES = 0.5, (10, 30, 50, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--tables", default="dial,tubes", help="which of the two")
    options = parser.parse_args()
    with Pool(options.workers) as pool:

        def each(work: Callable[[int], Made]) -> list[Made]:
            return pool.map(work, range(options.studies), chunksize=max(1, options.studies // (8 * options.workers)))

        if "dial" in options.tables:
            print("| studies | effect | " + " | ".join(SHOWN) + " |")
            print("|---" * (2 + len(SHOWN)) + "|", flush=True)
            curves: dict[str, list[dict[str, float]]] = {}
            for name, design in DESIGNS.items():
                curves[name] = []
                for effect in DIAL:
                    made = each(partial(of_study, replace(design, effect=effect)))
                    shares = {test: rejected([study[test] for study in made]) for test in SHOWN}
                    curves[name].append(shares)
                    cells = " | ".join(f"{shares[test]:.3f}" for test in SHOWN)
                    print(f"| {name} | {effect:g} | {cells} |", flush=True)
            if options.figure is not None:
                draw(curves, options.figure, options.studies)
        if "tubes" in options.tables:
            tests = ("AUROC(a given y = 0)", "effect at y = 0", "verdict")
            print("\n| tubes among 300 negatives | scores | studies | " + " | ".join(tests) + " | covered |")
            print("|---" * 7 + "|", flush=True)
            for noise in ("normal", "skewed"):
                for tubes in TUBES:
                    found = each(partial(of_cells, CellDesign(tubes=tubes, noise=noise, effect=PLANTED)))
                    cells = " | ".join(f"{rejected([study[test].p for study in found]):.3f}" for test in tests)
                    print(f"| {tubes} | {noise} | {len(found)} | {cells} | {covered(found):.3f} |", flush=True)


def of_study(design: SimulationDesign, seed: int) -> dict[str, float | None]:
    """p of every test on one study."""
    return p_values(draw_study(design, np.random.default_rng(seed)), PERMUTATIONS)


def of_cells(design: CellDesign, seed: int) -> dict[str, Outcome]:
    """Every figure of one study of cells."""
    return cell_outcomes(draw_cells(design, np.random.default_rng(seed)), False, PERMUTATIONS)


def rejected(ps: list[float | None]) -> float:
    """The share of studies in which a test rejects at the 5 % level."""
    return float(np.mean([p is not None and p <= 0.05 for p in ps]))


def covered(found: list[dict[str, Outcome]]) -> float:
    """How often the interval of the effect holds what was planted."""
    effects = [study["effect at y = 0"] for study in found]
    ends = [(each.low, each.high) for each in effects if each.low is not None and each.high is not None]
    return float(np.mean([low <= PLANTED <= high for low, high in ends]))


def draw(curves: dict[str, list[dict[str, float]]], path: Path, studies: int) -> None:
    """A panel per design, a line per test, the 5 % level and 80 % power marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(curves), figsize=(9, 3.8), sharey=True, layout="constrained")
    for panel, (name, points) in zip(panels, curves.items(), strict=True):
        for colour, (test, style) in zip(COLOURS, SHOWN.items(), strict=True):
            panel.plot(DIAL, [point[test] for point in points], style, color=colour, label=test, markersize=4)
        for level, words in ((0.05, "5 %"), (0.8, "80 %")):
            panel.axhline(level, color="0.7", linewidth=0.8, zorder=0)
            panel.annotate(words, (1.0, level), xytext=(0, 2), textcoords="offset points", ha="right", color="0.45")
        panel.set(title=name, xlabel="effect of the attribute, standard deviations", ylim=(0, 1.02), xlim=(0, 1))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"share of {studies:,} studies that find it")
    panels[0].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.08))
    figure.savefig(path, dpi=130)


COLOURS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#CC79A7")
"""Okabe and Ito's, told apart by the colour-blind."""


if __name__ == "__main__":
    main()
