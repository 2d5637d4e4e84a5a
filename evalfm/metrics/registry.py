"""Every metric by its name: its facts, which kinds of task have it, and all of a run's from its predictions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import lru_cache

from evalfm.errors import UnknownNameError
from evalfm.metrics import classes, labels, masks, values
from evalfm.metrics.metric import Metric
from evalfm.metrics.rows import ROWS, Rows, Scored
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import estimates

METRICS: tuple[Metric, ...] = (
    classes.QUADRATIC_KAPPA,
    *labels.METRICS,
    *classes.METRICS,
    *values.METRICS,
    *masks.METRICS,
)
"""Those of a kind in the order of tables; of those that can be paired the usual one first."""


def metrics_of(kind: str) -> list[Metric]:
    """The metrics of ``kind``; those that each class has under the plain name.

    >>> [metric.name for metric in metrics_of("regression")]
    ['mae', 'rmse', 'r2', 'pearson', 'ccc', 'bias', 'limits_low', 'limits_high', 'spearman']
    """
    return [metric for metric in METRICS if kind in (*metric.kinds, *metric.of_class)]


def measurable(kind: str, scored: Scored) -> dict[str, tuple[Metric, Rows]]:
    """Every metric of the predictions of ``kind`` by its full name, with the rows that it is of.

    Raises:
        EvalfmError: rows are missing, or a label does not fit the kind.
    """
    rows = ROWS[kind](scored)
    there = [each for each in metrics_of(kind) if each.needs is None or scored.has(each.needs)]
    whole = [each for each in there if kind in each.kinds] if rows.has_metrics else []
    return {each.name: (each, rows) for each in whole} | {
        each.name + ending: (each, of_class)
        for each in there
        if kind in each.of_class
        for ending, of_class in rows.of_class.items()
    }


def compute_metrics(kind: str, scored: Scored, only: Collection[str] | None = None) -> dict[str, Estimate]:
    """Every metric of ``kind`` on the test predictions with its interval, or ``only`` some, with the same values.

    Raises:
        EvalfmError: as for ``measurable``.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"patient": [f"p{i}" for i in range(40)], "target": 0.5, "prediction": 0.6})
    >>> found = compute_metrics("regression", Scored(table, ("size",), patients_known=True), only=("mae",))
    >>> round(found["mae"].value, 2), found["mae"].n, found["mae"].unit
    (0.1, 40, 'patients')
    """
    wanted = {
        name: metric.measure(rows)
        for name, (metric, rows) in measurable(kind, scored).items()
        if only is None or name in only
    }
    return estimates(wanted, scored.patients, seed=scored.seed, unit=scored.unit, resamples=scored.resamples)


@lru_cache(maxsize=4096)
def metric_of(name: str, class_names: tuple[str, ...] | None = None) -> Metric:
    """The metric called ``name``, as it stands in a run.

    Args:
        name: of the metric, of one class where the run has several.
        class_names: where they are known an ending must be one of them; None lets every ending pass.

    Raises:
        UnknownNameError: there is no metric of that name.

    >>> metric_of("brier").direction, metric_of("sensitivity").beside, metric_of("dice_all_heart").beside
    ('lower', ('specificity',), ('dice_positive_heart',))
    """
    base = _base_of(name, class_names)
    if base is None:
        raise UnknownNameError("metric", name, (metric.name for metric in METRICS))
    of_class = {metric.name for metric in METRICS if metric.of_class}
    metric, ending = next(metric for metric in METRICS if metric.name == base), name[len(base) :]
    beside = (each for each in metric.beside if not ending or each in of_class)
    return replace(metric, name=name, beside=tuple(each + ending for each in beside))


def check_metrics(names: Iterable[str], kind: str, class_names: tuple[str, ...] | None = None) -> None:
    """Refuse names that no task of ``kind`` has.

    Raises:
        UnknownNameError: there is such a name.

    >>> check_metrics(["auroc", "brier"], "binary")
    """
    known = metrics_of(kind)
    for name in names:
        base = _base_of(name, class_names)
        if not any(kind in (each.kinds if name == base else each.of_class) for each in known if each.name == base):
            raise UnknownNameError(f"metric of {kind} tasks", name, (each.name for each in known))


def _base_of(name: str, class_names: Collection[str] | None) -> str | None:
    """The plain name that ``name`` begins with, the longest one: nsd_mm is no nsd of a class called mm."""
    bases = {metric.name for metric in METRICS if name.startswith(metric.name)}
    return max((each for each in bases if _is_ending(name[len(each) :], class_names)), key=len, default=None)


def _is_ending(after: str, class_names: Collection[str] | None) -> bool:
    if not after:
        return True
    if class_names is not None:
        return after in {form for each in class_names for form in (f"[{each}]", f"_{each}")}
    return after[0] == "_" or (after[0], after[-1]) == ("[", "]")
