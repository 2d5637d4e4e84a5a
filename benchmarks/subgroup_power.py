"""How often the subgroup tests find an effect of the attribute itself, over its size: a table and a figure.

    python benchmarks/subgroup_power.py [--studies 2000] [--figure docs/images/power.png]

Seeds are 0, 1, 2, …; nothing is chosen after the fact. The attribute goes with the label, so that a model could lean on
it, and moves the score, what is drawn where nothing is, and the Dice by 0 to 1 standard deviations at fixed label.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from drawn_studies import SimulationDesign, draw_study, p_values

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    print("| studies | effect | " + " | ".join(SHOWN) + " |")
    print("|---" * (2 + len(SHOWN)) + "|")
    curves = {}
    for name, design in DESIGNS.items():
        curves[name] = []
        for effect in DIAL:
            shares = power(replace(design, effect=effect), options.studies)
            curves[name].append(shares)
            cells = " | ".join(f"{shares[test]:.3f}" for test in SHOWN)
            print(f"| {name} | {effect:g} | {cells} |", flush=True)
    if options.figure is not None:
        draw(curves, options.figure, options.studies)


def power(design: SimulationDesign, studies: int) -> dict[str, float]:
    """The share of studies in which each test rejects at the 5 % level."""
    made = [p_values(draw_study(design, np.random.default_rng(seed)), PERMUTATIONS) for seed in range(studies)]
    return {test: float(np.mean([study[test] is not None and study[test] <= 0.05 for study in made])) for test in SHOWN}


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
