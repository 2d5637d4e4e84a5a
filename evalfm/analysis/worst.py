"""The stratum of the declared attributes in which a run does worst."""

from __future__ import annotations

from evalfm.analysis.attributes import attributes, declared
from evalfm.analysis.paired_metrics import Aurocs, PairedMetric, paired_metric
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.tasks.metrics.facts import metric_of

FEWEST = 10
"""Patients (for AUROC: of either class) that a stratum must have to be called the worst."""


def worst_stratum(run: Run, metric: str) -> str | None:
    """The level with the worst ``metric`` among all declared attributes, in words; None where none is large enough.

    Of a macro AUROC only strata that hold every class count: means over other classes do not compare.
    """
    table = run.predictions()
    table = table[table["split"] == "test"].reset_index(drop=True)
    kind, names = run.kind, tuple(run.record.data.class_names)
    whole = paired_metric(kind, metric, metric, [table], names)[1]
    facts = metric_of(metric)
    found: list[tuple[float, str]] = []
    for name in declared(table, names):
        try:
            (attribute,) = attributes(table, [name])
        except EvalfmError:
            # Numbers that nobody cut, and columns of one level, part nothing.
            continue
        for number, level in enumerate(attribute.levels):
            part = table[attribute.codes == number].reset_index(drop=True)
            try:
                of = paired_metric(kind, metric, metric, [part], names)[1]
            except EvalfmError:
                continue
            if of.fewest < FEWEST or _asked(of) != _asked(whole):
                continue
            value = of.statistic(0).on_the_data()
            if value == value:
                told = f"{name} = {level}: {metric} {value:.3f} on {len(part)} images"
                found.append((-facts.badness(value), told))
    return min(found)[1] if found else None


def _asked(of: PairedMetric) -> tuple[str, ...]:
    return of.asked if isinstance(of, Aurocs) else ()
