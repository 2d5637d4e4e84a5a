"""Every metric by its name: its facts, which kinds of task have it, and all of a run's from its predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.metrics import classes, labels, masks, values
from evalfm.metrics.metric import Metric, Table
from evalfm.metrics.rows import ROWS, Rows, Scored
from evalfm.plugins import PlugIn, find_plugins, load_all
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured, estimates

METRICS: tuple[Metric, ...] = (
    classes.QUADRATIC_KAPPA,
    *labels.METRICS,
    *classes.METRICS,
    *values.METRICS,
    *masks.METRICS,
)
"""evalfm's own; those of a kind in the order of tables; of those that can be paired the usual one first."""


def metric_names() -> list[str]:
    """The names of all metrics, without those of classes; no plug-in is imported.

    >>> "dice_positive" in metric_names()
    True
    """
    return sorted({metric.name for metric in METRICS} | set(metric_plugins()))


def list_metrics() -> list[Metric]:
    """Every metric, those of other packages last; broken plug-ins are left out.

    >>> list_metrics()[0].name
    'quadratic_kappa'
    """
    return [*METRICS, *load_all(metric_plugins())[0].values()]


def metric_plugins() -> dict[str, PlugIn[Metric]]:
    """The metrics that other packages bring, by name; none is imported."""
    found = find_plugins("metric", {metric.name for metric in METRICS}, _plugged)
    of_masks = [metric.name for metric in masks.METRICS]
    for name, plugin in found.items():
        own = next((each for each in of_masks if name.startswith(f"{each}_")), None)
        if own is not None and not plugin.fault:
            reading = f"has a name that reads as {own} of a class {name.removeprefix(f'{own}_')!r}"
            found[name] = replace(plugin, fault=reading)
    return found


def metrics_of(kind: str, named: Iterable[str] = ()) -> list[Metric]:
    """The metrics of ``kind``, those that each class has under the plain name; plug-ins where ``named`` asks for them.

    Raises:
        EvalfmError: a plug-in that is asked for is broken.

    >>> [metric.name for metric in metrics_of("regression")]
    ['mae', 'rmse', 'r2', 'pearson', 'ccc', 'bias', 'limits_low', 'limits_high', 'spearman']
    """
    every = [*METRICS, *(_loaded(plugin) for plugin in plugins_of(named).values())]
    return [metric for metric in every if kind in (*metric.kinds, *metric.of_class)]


def plugins_of(names: Iterable[str]) -> dict[str, PlugIn[Metric]]:
    """The plug-ins among the metrics ``names``, by their plain name; none is imported."""
    plugins = metric_plugins()
    plain = {each for name in names for each in (name, _base_of(name))} if plugins else set()
    own = {metric.name for metric in METRICS}
    return {name: plugin for name, plugin in plugins.items() if name in plain - own}


def metrics_in(table: Table, kind: str) -> list[Metric]:
    """Those of evalfm's metrics of ``kind`` that ``table`` shows, in the order of tables.

    >>> [metric.name for metric in metrics_in("subgroups", "binary")]
    ['auroc', 'auprc', 'auprc_chance', 'sensitivity', 'specificity']
    """
    return [metric for metric in METRICS if kind in metric.kinds and table in metric.tables]


def measurable(kind: str, scored: Scored, named: Iterable[str] = ()) -> dict[str, tuple[Metric, Rows]]:
    """Every metric of the predictions of ``kind`` by its full name, with the rows that it is of.

    Plug-ins are among them where ``named`` asks for them.

    Raises:
        EvalfmError: rows are missing, a label does not fit the kind, or a plug-in that is asked for is broken.
    """
    rows = ROWS[kind](scored)
    there = [each for each in metrics_of(kind, named) if each.needs is None or scored.has(each.needs)]
    whole = [each for each in there if kind in each.kinds] if rows.has_metrics else []
    found = [(each.name, each, rows) for each in whole] + [
        (each.name + ending, each, of_class)
        for each in there
        if kind in each.of_class
        for ending, of_class in rows.of_class.items()
    ]
    by_name = {name: (metric, of) for name, metric, of in found}
    if len(by_name) < len(found):
        twice = next(name for name, count in Counter(name for name, *_ in found).items() if count > 1)
        raise EvalfmError(f"Two metrics of these predictions are called {twice!r}; rename a class or a plug-in.")
    return by_name


def compute_metrics(
    kind: str, scored: Scored, only: Collection[str] | None = None, named: Iterable[str] = ()
) -> dict[str, Estimate]:
    """Every metric of ``kind`` on the test predictions with its interval, or ``only`` some, with the same values.

    Plug-ins are among them where ``only`` or ``named`` asks for them.

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
        for name, (metric, rows) in measurable(kind, scored, (*(only or ()), *named)).items()
        if only is None or name in only
    }
    return estimates(wanted, scored.patients, seed=scored.seed, unit=scored.unit, resamples=scored.resamples)


def metric_of(name: str, class_names: tuple[str, ...] | None = None) -> Metric:
    """The metric called ``name``, as it stands in a run.

    Args:
        name: of the metric, of one class where the run has several.
        class_names: where they are known an ending must be one of them; None lets every ending pass.

    Raises:
        UnknownNameError: there is no metric of that name.
        EvalfmError: it is a broken plug-in.

    >>> metric_of("brier").direction, metric_of("sensitivity").beside, metric_of("dice_all_heart").beside
    ('lower', ('specificity',), ('dice_positive_heart',))
    """
    base = _base_of(name, class_names)
    if base is None:
        if name in metric_plugins():
            return metric_plugins()[name].load()
        raise UnknownNameError("metric", name, metric_names())
    metric, ending = _plain(base), name[len(base) :]
    beside = (each for each in metric.beside if not ending or _plain(each).of_class)
    return replace(metric, name=name, beside=tuple(each + ending for each in beside))


def check_metrics(names: Iterable[str], kind: str, class_names: tuple[str, ...] | None = None) -> None:
    """Refuse names that no task of ``kind`` has.

    Raises:
        UnknownNameError: there is such a name.
        EvalfmError: it is that of a broken plug-in.

    >>> check_metrics(["auroc", "brier"], "binary")
    """
    names = list(names)
    known = metrics_of(kind, names)
    for name in names:
        base = _base_of(name, class_names)
        if not any(kind in (each.kinds if name == base else each.of_class) for each in known if each.name == base):
            raise UnknownNameError(f"metric of {kind} tasks", name, (each.name for each in known))


def _plain(base: str) -> Metric:
    """The metric of that plain name; of namesakes of other kinds the first, which says the same of itself."""
    own = next((metric for metric in METRICS if metric.name == base), None)
    return own or _loaded(metric_plugins()[base])


def _base_of(name: str, class_names: Collection[str] | None = None) -> str | None:
    """The plain name that ``name`` begins with, the longest one: nsd_mm is no nsd of a class called mm."""
    usable = (each for each, plugin in metric_plugins().items() if not plugin.fault)
    bases = {each for each in (*(metric.name for metric in METRICS), *usable) if name.startswith(each)}
    return max((each for each in bases if _is_ending(name[len(each) :], class_names)), key=len, default=None)


def _is_ending(after: str, class_names: Collection[str] | None) -> bool:
    if not after:
        return True
    if class_names is not None:
        return after in {form for each in class_names for form in (f"[{each}]", f"_{each}")}
    return after[0] == "_" or (after[0], after[-1]) == ("[", "]")


def _plugged(name: str, loaded: Any) -> Metric:
    if not isinstance(loaded, Metric):
        raise EvalfmError(f"it is {type(loaded).__name__}, not a Metric")
    if loaded.name != name:
        raise EvalfmError(f"its Metric is called {loaded.name!r}")
    strange = sorted({*loaded.beside, loaded.default, loaded.calibrated, loaded.constant} - {"", *metric_names()})
    if strange:
        raise EvalfmError(f"it names {', '.join(strange)}, which no metric is called")
    return loaded


def _loaded(plugin: PlugIn[Metric]) -> Metric:
    """The metric of a plug-in, whose faults on some predictions are reasons of absent figures, or one sentence."""
    metric, contrast = plugin.load(), plugin.load().contrast

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def of(*given: Any) -> Any:
            try:
                return call(*given)
            except (EvalfmError, ValueError):
                # Too few patients, or runs that cannot be compared.
                raise
            except Exception as error:
                raise plugin.failed(error) from error

        return of

    def measure(rows: Rows) -> Measured | Estimate:
        try:
            return _checked(metric.measure(rows))
        except Exception as error:
            return Estimate.absent(str(plugin.failed(error)), n=rows.patients.count, unit=rows.unit)

    if contrast is not None:
        contrast = replace(contrast, test=guarded(contrast.test), prepare=guarded(contrast.prepare))
    return replace(metric, measure=measure, contrast=contrast)


def _checked(found: object) -> Measured | Estimate:
    """What a plug-in has measured, its statistic tried on two weights of every patient."""
    if isinstance(found, Estimate):
        if found.value is None and not found.reason:
            raise TypeError("no value, and no reason why")
        return found
    if not isinstance(found, Measured):
        raise TypeError(f"{type(found).__name__}, not Measured or Estimate")
    values = found.statistic.values(np.ones((2, found.statistic.patients)))
    if np.shape(values) != (2,):
        raise TypeError(f"values of shape {np.shape(values)} for two weights")
    return found
