"""Does the pneumothorax score on real NIH radiographs depend on the view or the sex: and what 44 cases cannot say.

    python benchmarks/acceptance/nih_bias.py --shared ../shared/data --out build/acceptance

Writes benchmarks/acceptance/nih_bias.md: the subgroup report of the five-fold runs, with the command and the commit.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import replace
from pathlib import Path

from evalfm.analysis.bias import bias
from evalfm.analysis.bias_page import BiasReport
from evalfm.analysis.contrasts import Bias
from evalfm.analysis.scores import scores_of_run
from evalfm.analysis.table import model_names
from evalfm.analysis.verdicts import words
from evalfm.data.importing import import_data
from evalfm.probing.probe import probe

TABLE = Path(__file__).with_suffix(".md")
METRICS = ("auroc", "sensitivity", "specificity")


def strata(report: Bias) -> list[str]:
    """Sizes and metrics of every level, and how well the score tells it at fixed label."""
    lines = [
        f"### {report.model}",
        "",
        "| level | images | cases | AUROC | sensitivity | specificity |",
        "|---" * 6 + "|",
    ]
    for part in report.parts:
        for each in part.strata:
            cells = [f"{part.attribute} = {each.level}", str(each.images), str(each.events)]
            lines.append("| " + " | ".join([*cells, *(words(each.metrics[name]) for name in METRICS)]) + " |")
    lines += [
        "",
        "| level | AUROC for it, no pneumothorax | AUROC for it, pneumothorax | conflicting pairs | balanced |",
    ]
    lines.append("|---" * 5 + "|")
    for part in report.parts:
        for each in part.contrasts:
            cells = [words(each.fixed[0].auroc), words(each.fixed[1].auroc), words(each.cross["bpsn"])]
            balanced = "–" if each.balanced is None else f"{each.balanced:.3f}"
            lines.append(f"| {part.attribute} = {each.level} | " + " | ".join([*cells, balanced]) + " |")
    return [*lines, ""]


def unsettled(reports: list[Bias]) -> str:
    """What the cases are too few for, in numbers."""
    gaps = [each.gap for report in reports for part in report.parts for each in part.contrasts]
    detectable = [gap.detectable for gap in gaps if gap.detectable is not None]
    smallest, largest = min(detectable), max(detectable)
    return (
        "Among the 577 images without a pneumothorax there is enough to ask whether the score follows view and sex;\n"
        "within a level there are 14 to 30 cases, so whether the score is worse for one of them stays open: only\n"
        f"differences of AUROC of {smallest:.2f} to {largest:.2f} could have been detected with 80 % power."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/acceptance"))
    options = parser.parse_args()
    weights = options.shared / "weights" / "squeezenet1_0_torchvision_keys_rgb255.npz"
    nih = import_data("nih-cxr14", options.shared / "nih-cxr14-starter", options.out / "nih", force=True)
    made = probe("squeezenet1-0.caffe", "ptx-cls", weights=weights, data=nih, folds=5, out=options.out / "runs")
    runs = [run for run in made if not run.is_baseline]
    reports = [
        bias(replace(scores_of_run(run), name=name), ["view", "sex"])
        for name, run in zip(model_names(runs), runs, strict=True)
    ]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    lines = [
        "# View and sex on real images",
        "",
        f"`python benchmarks/acceptance/nih_bias.py` at commit `{commit[:12]}`: what `evalfm bias --by view,sex`",
        "says of the five-fold pneumothorax runs on 621 NIH images, one a patient. 44 cases, text-mined labels.",
        "",
        unsettled(reports),
        *BiasReport(reports).markdown.replace("## ", "### ").splitlines()[2:],
        "",
        "## Levels",
        "",
        *(line for report in reports for line in strata(report)),
    ]
    TABLE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
