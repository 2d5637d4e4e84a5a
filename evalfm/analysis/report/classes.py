"""What is told of each class or label of a task of several: its AUROC by line, and what is answered for what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evalfm.analysis.report.tables import Table, Value, table
from evalfm.analysis.table import Line
from evalfm.run import Run
from evalfm.statistics.estimate import Estimate

Areas = list[tuple[Line, list[Estimate]]]


def by_class(lines: Sequence[Line]) -> tuple[list[str], Areas]:
    """Names of the classes, and of each line the AUROC of each."""
    classes = list(lines[0].runs[0].record.data.class_names)
    areas = [(line, [line.estimate(f"auroc[{name}]") for name in classes]) for line in lines]
    return classes, areas


def answers(name: str, run: Run) -> Table:
    """The confusion matrix of the test images of a run of exclusive classes."""
    classes = list(run.record.data.class_names)
    test = run.predictions()
    test = test[test["split"] == "test"]
    called = test[[f"score_{each}" for each in classes]].to_numpy(np.float64).argmax(axis=1)
    target = test["target"].to_numpy(np.intp)
    rows: list[list[Value]] = []
    for number, each in enumerate(classes):
        counts = np.bincount(called[target == number], minlength=len(classes))
        right = float(counts[number] / counts.sum()) if counts.sum() else None
        rows.append([each, int(counts.sum()), *map(int, counts), right])
    header = ["true class", "images", *(f"called {each}" for each in classes), "share right"]
    return table(name, header, rows, "Test images of the first seed; the class with the largest score is called.")
