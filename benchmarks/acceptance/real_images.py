"""The spine's acceptance on real radiographs: NIH and Wingspan radiographs, really trained SqueezeNet weights.

    python benchmarks/acceptance/real_images.py --shared ../shared/data --out build/acceptance

Writes benchmarks/acceptance/real_images.md: every table with the command and the commit.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import numpy as np

from evalfm.analysis.figures import describe
from evalfm.analysis.table import task_tables
from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest
from evalfm.data.masks import cardiothoracic_ratio
from evalfm.probing.probe import probe
from evalfm.run import Run

TABLE = Path(__file__).with_suffix(".md")


def ratio_error(wingspan: Manifest) -> tuple[int, float]:
    """How many radiographs have a published ratio, and the mean absolute error of the one measured on masks."""
    given = wingspan.table["ctr"].to_numpy(np.float64)
    known = np.flatnonzero(~np.isnan(given))
    errors = []
    for row in known.tolist():
        heart, left, right = (wingspan.mask(row, name) for name in ("heart", "left_lung", "right_lung"))
        if heart is None or left is None or right is None:
            raise ValueError(f"row {row} lacks a mask")
        measured = cardiothoracic_ratio(heart, left | right)
        errors.append(abs(float("nan") if measured is None else measured - given[row]))
    return len(known), float(np.mean(errors))


def as_markdown(runs: list[Run]) -> list[str]:
    """One Markdown table per task."""
    lines: list[str] = []
    for table in task_tables(runs):
        lines += [f"### {table.task} on {table.data}", "", f"{table.unit_counts}.", ""]
        lines += ["| encoder | head | " + " | ".join(table.metric_names) + " |"]
        lines += ["|---" * (2 + len(table.metric_names)) + "|"]
        for line in table.lines:
            name = line.encoder + (" (baseline)" if line.baseline else "")
            cells = " | ".join(describe(line.metrics[metric]) for metric in table.metric_names)
            lines.append(f"| {name} | {line.head} | {cells} |")
        lines.append("")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/acceptance"))
    options = parser.parse_args()
    weights = options.shared / "weights" / "squeezenet1_0_torchvision_keys_rgb255.npz"
    nih = import_data("nih-cxr14", options.shared / "nih-cxr14-starter", options.out / "nih", force=True)
    wingspan = import_data("wingspan-ctr", options.shared / "wingspan-ctr", options.out / "wingspan", force=True)
    runs: list[Run] = []
    for task in ("ptx-cls", "cardiomegaly-cls", "sex", "view"):
        runs += probe("squeezenet1-0.caffe", task, weights=weights, data=nih, folds=5, out=options.out / "runs")
    for task in ("heart-seg", "ctr"):
        runs += probe("squeezenet1-0.caffe", task, weights=weights, data=wingspan, out=options.out / "runs")
    radiographs, error = ratio_error(wingspan)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    lines = [
        "# Acceptance on real images",
        "",
        f"`python benchmarks/acceptance/real_images.py` at commit `{commit[:12]}`. Really trained ImageNet SqueezeNet,",
        "frozen; NIH labels are text-mined, and 44 pneumothorax cases settle no ranking.",
        "",
        *as_markdown(runs),
        "Cardiothoracic ratio from full horizontal extents of the masks against the published one: mean absolute error "
        f"{error:.5f} on {radiographs} images.",
        "",
    ]
    TABLE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
