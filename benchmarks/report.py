"""Seconds and size of the report of sixty runs: ten encoders, three heads, two tasks, 2,000 test images each.

    python benchmarks/report.py [--images 2000]

Scores and attributes are drawn; the runs are those that the tests write.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evalfm.analysis.report.page import report_page
from tests.analysis.made import binary_table, make_run, signal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    n, generator = options.images, np.random.default_rng(0)
    target = generator.random(n) < 0.3
    patient = np.array([f"p{row // 2:05}" for row in range(n)], dtype=object)
    subgroups = {"subgroups": ["sex", "age", "view", "chest_tube"]}
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for task in ("ptx-cls", "cardiomegaly-cls"):
            for number in range(30):
                table = binary_table(signal(target, 0.5 + 0.03 * number, number), target, patient)
                table["sex"] = np.where(np.arange(n) // 2 % 2 == 0, "F", "M")
                table["age"] = (20.0 + np.arange(n) // 2 % 70).astype(float)
                table["view"] = np.where(generator.random(n) < 0.3, "AP", "PA")
                table["chest_tube"] = (generator.random(n) < 0.2).astype(float)
                encoder, head = f"encoder-{number // 3}", ("linear", "knn", "mlp")[number % 3]
                runs.append(make_run(Path(folder), table, encoder=encoder, head=head, task=task, task_card=subgroups))
        started = time.perf_counter()
        page = report_page(runs)
        print(f"{time.perf_counter() - started:.1f} s for {len(runs)} runs, {len(page.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
