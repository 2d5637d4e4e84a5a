"""How the seconds and the memory of a manifest grow from 10,000 rows to a million.

    python benchmarks/million_rows.py [--rows 10000 100000 1000000] [--folder build/million] [--keep]
    python benchmarks/million_rows.py --quick --rows 1000000       (the bound by the clock alone, on a quiet machine)

Makes a table of 20 columns and a file for every row, then, for each size in a process of its own: reading it from
Parquet and CSV, the quick checks where all is well and where every row has faults, digests that are remembered,
cohorts and splits. Prints a table of processor seconds, which other work on the machine does not lengthen, the peak of
memory, and the exponent by which the seconds grow between the two largest sizes: 1 is linear. The last line is of the
bound for a million rows: by the clock, with the peak of memory and the load average over the minute before, in which
the files were made (about 1 on a quiet machine). With ``--quick`` the exit status is 1 where the bound is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

FILES_A_FOLDER = 1000
LIMIT_SECONDS, LIMIT_GB = 60, 4
"""For loading a million rows and checking them quickly."""


LOAD = "load"

Stage = tuple[float, float, float]
"""Seconds of the processor, by the clock, and the gigabytes that the process had needed at the most until then."""


def make(folder: Path, rows: int) -> None:
    """Write a manifest of ``rows`` with its files; every tenth has no age, a patient has three images."""
    import numpy as np
    import pandas as pd

    draw = np.random.default_rng(0)
    number = np.arange(rows)
    patient = number // 3
    table = pd.DataFrame(
        {
            "id": [f"image-{each:08d}" for each in number],
            "image": [f"images/{each // FILES_A_FOLDER:04d}/{each:08d}.png" for each in number],
            "patient": [f"patient-{each:07d}" for each in patient],
            "study": [f"study-{each:08d}" for each in number // 2 * 2],
            "split": np.array(["train"] * 7 + ["val"] + ["test"] * 2)[patient % 10],
            "age": np.where(number % 10 == 0, np.nan, 20.0 + patient % 70),
            "sex": np.array(["F", "M"])[patient % 2],
            "view": np.array(["PA", "AP"])[number % 2],
            "site": np.array(["A", "B", "C"])[patient % 3],
            "spacing_row_mm": 0.14,
            "spacing_column_mm": 0.14,
            "lesion_mask": np.where(number % 20 == 0, "0 5 7 3", np.where(number % 2 == 0, "-1", None)),
            "grade": draw.integers(0, 4, rows).astype(float),
            "volume_ml": draw.random(rows),
            **{f"finding_{each}": (draw.random(rows) < 0.1 + each / 20).astype(float) for each in range(6)},
        }
    )
    os.makedirs(folder)
    table.to_parquet(folder / "manifest.parquet", index=False)
    labels = [*(f"finding_{each}" for each in range(6)), "grade", "volume_ml"]
    (folder / "dataset.yaml").write_text(
        "schema: 1\nname: million\nsynthetic: true\npublic_ids: true\n"
        f"label_source: {{{', '.join(f'{name}: simulated' for name in labels)}}}\n"
        "label_kinds: {grade: class, volume_ml: number}\nmask_dialects: {lesion: relative}\n"
        "attributes: [age, sex, view, site]\n",
        encoding="utf-8",
    )
    other = folder / "csv"
    os.makedirs(other)
    shutil.copy(folder / "dataset.yaml", other / "dataset.yaml")
    with (other / "dataset.yaml").open("a", encoding="utf-8") as stream:
        stream.write("root: ..\n")
    table.to_csv(other / "manifest.csv", index=False)
    for name in table["image"]:
        path = os.path.join(folder, name)
        if name.endswith("000.png"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(name.encode())


def measure(folder: Path, quick: bool) -> dict[str, Stage]:
    """Measure every stage on the manifest in ``folder``; beside them the load of the machine, as ``load``."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    import numpy as np

    from evalfm.data import checks, splits
    from evalfm.data.digests import image_digests
    from evalfm.data.manifest import Manifest
    from evalfm.data.privacy import public_table
    from evalfm.probing.splits import limited, make_splits
    from evalfm.split_options import SplitOptions
    from evalfm.tasks.cohort import resolve_task, select_cohort
    from evalfm.tasks.task import TaskCard

    measured: dict[str, Stage] = {LOAD: (load, load, 0.0)}

    def timed(stage: str, work: Callable[[], object]) -> object:
        by_clock, by_processor = time.perf_counter(), time.process_time()
        made = work()
        by_processor, by_clock = time.process_time() - by_processor, time.perf_counter() - by_clock
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        measured[stage] = (by_processor, by_clock, peak)
        print(f"{len(measured) - 1} {stage}: {by_processor:.2f} s, {by_clock:.2f} s by the clock", file=sys.stderr)
        return made

    manifest = timed("read Parquet", lambda: Manifest.read(folder, validate=False))
    assert isinstance(manifest, Manifest)
    assert timed("quick checks", lambda: checks.quick_faults(manifest)) == []
    if quick:
        return measured
    table = manifest.table
    patients = manifest.patients
    timed("split hash", manifest.split_hash)
    timed("with_split", lambda: manifest.with_split(manifest.splits))
    timed("where", lambda: manifest.where("age >= 60 and view == 'PA'"))
    timed("public table", lambda: public_table(manifest))
    one = timed("select_cohort, yes or no", lambda: select_cohort(resolve_task("finding_2", manifest), manifest))
    content = {"name": "six", "kind": "multilabel", "title": "six", "metrics": ["macro_auroc"], "heads": ["linear"]}
    six = TaskCard.model_validate({"schema": 1, **content, "target": [f"finding_{each}" for each in range(6)]})
    timed("select_cohort, six labels", lambda: select_cohort(six, manifest, "view == 'PA'"))
    timed("select_cohort, classes", lambda: select_cohort(resolve_task("grade", manifest), manifest))
    timed("limited to 1,000", lambda: limited(one, 1000))  # type: ignore[arg-type]
    timed("splits by hash", lambda: splits.assign(patients, seed=0))
    timed("splits, stratified", lambda: splits.stratified(patients, table["finding_2"], seed=0))
    timed("official split", lambda: make_splits(one, SplitOptions()))  # type: ignore[arg-type]
    timed("write", lambda: manifest.write(folder / "written"))
    wrong = table.assign(
        split=np.array(["train", "val", "test"])[np.arange(len(table)) % 3],
        finding_0=7.0,
        age=200.0,
        image="elsewhere/" + table["image"],
        id=table["id"].where(np.arange(len(table)) % 2 == 0, "image-00000000"),
    )
    faulty = Manifest(manifest.info, wrong, manifest.folder)
    del wrong
    timed("checks and lines, all rows faulty", lambda: checks.fault_lines(checks.quick_faults(faulty)))
    timed("read CSV", lambda: Manifest.read(folder / "csv", validate=False))
    timed("digests, first", lambda: image_digests(table["image"].tolist(), manifest.root))
    timed("digests, remembered", lambda: image_digests(table["image"].tolist(), manifest.root))
    timed("deep checks, first cell of a process", lambda: checks.deep_faults(manifest, findings=(), headers=False))
    timed("deep checks, a later cell", lambda: checks.deep_faults(manifest, findings=(), headers=False))
    timed("digests, a later cell", manifest.digests)
    timed("five folds", lambda: make_splits(one, SplitOptions(folds=5)))  # type: ignore[arg-type]
    timed("a tenth of the patients", lambda: make_splits(one, SplitOptions(label_fraction=0.1)))  # type: ignore[arg-type]
    shots = len(manifest) // 10
    timed("a tenth as shots", lambda: make_splits(one, SplitOptions(shots=shots)))  # type: ignore[arg-type]
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=Path("build/million"))
    parser.add_argument("--keep", action="store_true", help="leave the tables and files, and use those that are there")
    parser.add_argument("--quick", action="store_true", help="read and check, and nothing more")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(measure(options.child, options.quick)))
        return
    by_rows = {}
    for rows in sorted(options.rows):
        folder = options.folder / str(rows)
        if not options.keep or not folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder, rows)
        home = folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        command = [sys.executable, __file__, "--child", str(folder), *(["--quick"] if options.quick else [])]
        environment = {**os.environ, "EVALFM_HOME": str(home.resolve())}
        by_rows[rows] = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
        if not options.keep:
            shutil.rmtree(folder)
    print_curves(by_rows)
    met = bound_met(max(by_rows), by_rows[max(by_rows)])
    if options.quick and not met:
        sys.exit(1)


def print_curves(by_rows: dict[int, dict[str, Stage]]) -> None:
    """Print a line a stage, with the exponent between the two largest sizes."""
    sizes = list(by_rows)
    print("| stage | " + " | ".join(f"{rows:,} rows" for rows in sizes) + " | exponent | peak, GB |")
    print("|---" * (len(sizes) + 3) + "|")
    for stage in (name for name in by_rows[sizes[-1]] if name != LOAD):
        seconds = [by_rows[rows][stage][0] for rows in sizes]
        power = "–"
        if len(sizes) > 1:
            power = f"{math.log(max(seconds[-1], 1e-3) / max(seconds[-2], 1e-3)) / math.log(sizes[-1] / sizes[-2]):.2f}"
        shown = " | ".join(f"{each:.2f} s" for each in seconds)
        print(f"| {stage} | {shown} | {power} | {by_rows[sizes[-1]][stage][2]:.2f} |")


def bound_met(rows: int, measured: dict[str, Stage]) -> bool:
    """Print whether reading ``rows`` and their quick checks kept the bound, and on how quiet a machine."""
    stages = (measured["read Parquet"], measured["quick checks"])
    by_processor, by_clock = (sum(stage[index] for stage in stages) for index in (0, 1))
    peak = max(stage[2] for stage in stages)
    met = by_clock < LIMIT_SECONDS and peak < LIMIT_GB
    print(
        f"{rows:,} rows read and checked: {by_clock:.1f} s by the clock (bound {LIMIT_SECONDS}), "
        f"{by_processor:.1f} s of one core, {peak:.2f} GB at most (bound {LIMIT_GB}): {'met' if met else 'missed'}; "
        f"load {measured[LOAD][0]:.1f} on {os.cpu_count()} cores"
    )
    return met


if __name__ == "__main__":
    main()
