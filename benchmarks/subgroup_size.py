"""How often the subgroup tests reject where there is nothing to find, at the 5 % level.

    python benchmarks/subgroup_size.py [--studies 2000]

Seeds are 0, 1, 2, …; nothing is chosen after the fact. Nulls: the attribute is independent of all (i); it goes with
the label alone (ii); it goes with severity, which the score follows (iii: a null for negatives, and for Dice held to
the lesion's area; elsewhere severity itself is found); four images a patient with an intraclass correlation of one
half, the attribute constant in a patient (iv-c) or varying (iv-v), in each of the three ties.
"""

from __future__ import annotations

import argparse

import numpy as np
from drawn_studies import SimulationDesign, draw_study, p_values

TIES = {"(i) independent": "nothing", "(ii) tied to the label": "label", "(iii) tied to severity": "severity"}
NULLS = {
    **{name: SimulationDesign(tie) for name, tie in TIES.items()},
    **{f"(iv-c) {name}": SimulationDesign(tie, images=4) for name, tie in TIES.items()},
    **{f"(iv-v) {name}": SimulationDesign(tie, images=4, constant=False) for name, tie in TIES.items()},
    "(iv-c) (i), 100 patients": SimulationDesign(images=4, patients=100),
    "(iv-v) (i), 100 patients": SimulationDesign(images=4, patients=100, constant=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--permutations", type=int, default=199, help="a tenth of the report's, to save time")
    options = parser.parse_args()
    for number, (name, design) in enumerate(NULLS.items()):
        made = [
            p_values(draw_study(design, np.random.default_rng(seed)), options.permutations)
            for seed in range(options.studies)
        ]
        if number == 0:
            print("| null | " + " | ".join(made[0]) + " |")
            print("|---" * (1 + len(made[0])) + "|")
        shares = [np.mean([study[test] is not None and study[test] <= 0.05 for study in made]) for test in made[0]]
        print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
