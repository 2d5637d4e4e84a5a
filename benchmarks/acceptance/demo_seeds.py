"""Does a real encoder beat pixels and random weights on the phantom? The demo's questions over ten phantom seeds.

    python benchmarks/acceptance/demo_seeds.py --out build/demo-seeds

Writes benchmarks/acceptance/demo_seeds.md: every task that was tried, and which of them the demo may show. What is
finished is read again, so the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from evalfm.analysis.bias import bias_of_questions
from evalfm.analysis.pairing import pair
from evalfm.analysis.scores import questions_of_run
from evalfm.analysis.table import TaskTable, task_tables
from evalfm.data.atomic import write_atomically
from evalfm.data.phantom import Dials, make_phantom
from evalfm.study import load_study, run_study
from evalfm.study.config import Study

TABLE = Path(__file__).with_suffix(".md")
SEEDS = range(10)
IMAGES = 600
REAL = "squeezenet1-0.caffe"
RANDOM = f"{REAL} (random weights)"
BESIDE = ("pixels", RANDOM)
ENCODERS = (REAL, {"name": REAL, "weights": "random"}, "pixels")
TRIED = ("ptx-cls", "tube-cls", "cardiomegaly-cls", "ecg-cls", "heart-seg")
MASKS = ("heart-seg",)
"""Held out once on fewer images: five trainings on feature maps would be most of the demo's time."""
MASK_IMAGES = 160
UNTIED = Dials(tube_given_pneumothorax=0.3, tube_given_none=0.3)
TIED = Dials(tube_given_pneumothorax=0.8, tube_given_none=0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo-seeds"))
    parser.add_argument(
        "--table", action="store_true", help="Write the table of what is finished, and measure nothing."
    )
    parser.add_argument(
        "--seeds", type=int, nargs="*", help="Measure these alone and write no table; for several calls."
    )
    asked = parser.parse_args()
    out, seeds = asked.out, asked.seeds or SEEDS
    if asked.table:
        write_table(out)
        return
    parts = {"labels": labels, "masks": masks}
    for part, measure in parts.items():
        for seed in seeds:
            done = out / f"{part}-{seed}.json"
            if not done.exists():
                work = out / f"work-{part}-{seed}"
                shutil.rmtree(work, ignore_errors=True)
                measured = measure(seed, work)
                write_atomically(done, json.dumps(measured, indent=1).encode())
                shutil.rmtree(work)
            print(part, seed, flush=True)
    if asked.seeds:
        return
    write_table(out)


def write_table(out: Path) -> None:
    """The table of what is finished; labels must be, of every seed."""
    rows = []
    for seed in SEEDS:
        masks_of = out / f"masks-{seed}.json"
        found = json.loads((out / f"labels-{seed}.json").read_text())
        rows.append({"seed": seed, **found, **(json.loads(masks_of.read_text()) if masks_of.exists() else {})})
    TABLE.write_text("\n".join(report(rows)) + "\n", encoding="utf-8")
    print(f"Wrote {TABLE}")


def study_of(data: Path, encoders: Sequence[Any], tasks: Sequence[str], **more: Any) -> list[TaskTable]:
    """Linear heads on frozen features of one phantom."""
    content = {"schema": 2, "name": "seeds", "title": "The demo's encoders", "data": str(data), "baselines": "none"}
    content |= {"heads": ["linear"], "refits": 0, "encoders": list(encoders), "tasks": list(tasks), **more}
    done = run_study(Study.model_validate(content), data.with_name(f"runs-{data.name}"))
    if done.failed:
        raise SystemExit(str(done.failed))
    return task_tables(done)


def labels(seed: int, folder: Path) -> dict[str, Any]:
    """Differences by task of labels, and what a chest tube does to the real encoder's score, tied and untied."""
    dials = {"untied": UNTIED, "tied": TIED}
    for name, each in dials.items():
        make_phantom(folder / name, n=IMAGES, seed=seed, dials=each, name=f"phantom-{name}")
    plain = study_of(folder / "untied", ENCODERS, [task for task in TRIED if task not in MASKS], folds=5)
    tied = study_of(folder / "tied", [REAL], ["ptx-cls"], folds=5)
    of_real = {
        name: next(line for table in tables if table.task == "ptx-cls" for line in table.lines if line.encoder == REAL)
        for name, tables in (("tied", tied), ("untied", plain))
    }
    return {"labels": _differences(plain), "tube": {name: _tube(line.runs[0]) for name, line in of_real.items()}}


def masks(seed: int, folder: Path) -> dict[str, Any]:
    """Differences by task of masks."""
    make_phantom(folder / "untied", n=IMAGES, seed=seed, dials=UNTIED, name="phantom-untied")
    return {"masks": _differences(study_of(folder / "untied", ENCODERS, MASKS, limit=MASK_IMAGES))}


def _differences(tables: Sequence[TaskTable]) -> dict[str, Any]:
    found = {}
    for table in tables:
        lines = {line.encoder: line for line in table.lines}
        metric = table.metric_names[0]
        for other in BESIDE:
            (difference,) = pair([lines[REAL], lines[other]], metric).differences([(0, 1)])
            values = {"real": lines[REAL].metrics[metric].value, "value": difference.value, "low": difference.low}
            found[f"{table.task} {other}"] = {"metric": metric, **values}
    return found


def _tube(run: Any) -> dict[str, Any]:
    (report,) = bias_of_questions(questions_of_run(run), ["chest_tube"])
    (part,) = report.parts
    (contrast,) = part.contrasts
    pairs = contrast.cross["bpsn"]
    return {
        "auroc": run.metrics["auroc"].value,
        "pairs": [pairs.value, pairs.low, pairs.high],
        "associated": contrast.associated,
        "verdict": contrast.verdict,
    }


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds with its 95 % interval by t."""
    each = np.asarray(values)
    half = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each))
    return float(each.mean()), float(each.mean() - half), float(each.mean() + half)


def report(rows: Sequence[dict[str, Any]]) -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
    lines = [
        "# The demo's questions over ten phantom seeds",
        "",
        f"`python benchmarks/acceptance/demo_seeds.py` at commit `{commit.stdout.strip()}`. Phantom data throughout:",
        "no figure says anything about patients. The phantom was frozen before (`tests/data/phantom/test_dataset.py`",
        f"holds its SHA-256). {REAL} minus each baseline, linear head, mean over the seeds of the phantom",
        f"with a 95 % t interval over them; {IMAGES} images a seed with the tube as frequent with as without a",
        f"pneumothorax, out of five folds; `heart-seg` on {MASK_IMAGES} of them, held out once. Random weights are one",
        "draw of the same architecture. *Own*: in how many seeds the interval of that seed's own paired comparison",
        "lies above 0.",
        "",
        "| task | metric | seeds | real encoder, mean | minus pixels | own | minus random weights | own | the demo |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shown = {task.name for task in load_study("demo").tasks}
    for task in TRIED:
        cells, passed = [], True
        for other in BESIDE:
            names = f"{task} {other}"
            of_task = [found[names] for row in rows if names in (found := {**row["labels"], **row.get("masks", {})})]
            own = sum(each["low"] is not None and each["low"] > 0 for each in of_task)
            if len(of_task) < len(rows):
                # Fewer seeds than were asked for are no evidence.
                passed = False
                cells += [", ".join(f"{each['value']:+.3f}" for each in of_task) or "–", f"{own} of {len(of_task)}"]
                continue
            mean, low, high = mean_interval([each["value"] for each in of_task])
            passed &= low > 0
            cells += [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", f"{own} of {len(rows)}"]
        if task in shown and not passed:
            raise SystemExit(f"The demo shows {task}, and these seeds do not allow it.")
        real = f"{np.mean([each['real'] for each in of_task]):.3f}" if of_task else "–"
        told = "shows it" if task in shown else "could show it" if passed else "does not show it"
        lines.append(
            f"| {task} | {of_task[0]['metric'] if of_task else '–'} | {len(of_task)} | {real} | "
            f"{' | '.join(cells)} | {told} |"
        )
    lines += [
        "",
        "A task may be shown where both lower bounds over all ten seeds lie above 0; fewer seeds are no evidence.",
        "Tied: 80 % of images with a pneumothorax and 5 % of those without show a chest tube; untied: 30 % of either.",
        "Conflicting pairs: AUROC of pneumothorax without a tube against tube without a pneumothorax. Named:",
        "`evalfm bias` calls it a shortcut;",
        "cannot be said: a fold has fewer than two patients with a tube and no pneumothorax.",
        "",
        "| seed | AUROC tied | conflicting pairs | named | AUROC untied | conflicting pairs | named |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = []
        for each in (row["tube"]["tied"], row["tube"]["untied"]):
            value, low, high = each["pairs"]
            pairs = "–" if value is None else f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
            named = each["associated"] and high is not None and high < 0.5
            said = "yes" if named else "cannot be said" if each["verdict"].startswith("Cannot be said") else "no"
            cells += [f"{each['auroc']:.3f}", pairs, said]
        lines.append(f"| {row['seed']} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
