"""Gates for continuous integration: runs fail below a figure, or where they may be worse than an earlier run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evalfm.analysis.best_heads import best_heads, one_line_each
from evalfm.analysis.compare import Heads, of_cohort
from evalfm.analysis.pairing import AverageOver, over_seeds, pair
from evalfm.analysis.table import Line, TaskTable, facts_of, plain_runs, task_tables
from evalfm.errors import EvalfmError, UnknownNameError, shown
from evalfm.run import Run
from evalfm.statistics.comparison import Difference
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import estimates

ENDS = ("low", "high")
"""Ends of an interval that a gate may be about."""


@dataclass(frozen=True)
class Gate:
    """A figure that every line must reach.

    Attributes:
        text: as it was written.
        metric: its full name.
        bound: the figure; for errors an upper bound.
        end: ``low`` or ``high`` where that end of the interval must reach it; empty for the value.
    """

    text: str
    metric: str
    bound: float
    end: str = ""

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read ``auroc=.9`` or ``auroc:low=.9``.

        Raises:
            EvalfmError: it is not of this form.

        >>> Gate.parse("mae:high=.03")
        Gate(text='mae:high=.03', metric='mae', bound=0.03, end='high')
        """
        name, mark, number = text.rpartition("=")
        metric, colon, end = name.strip().rpartition(":")
        if not colon:
            metric, end = end, ""
        try:
            bound = float(number)
        except ValueError:
            bound = math.nan
        if not (mark and metric and math.isfinite(bound)) or end not in ("", *ENDS):
            raise EvalfmError(
                f"{shown(text)} is no gate; write METRIC=NUMBER, such as auroc=.9 or mae=.03, or METRIC:low=NUMBER "
                "(errors: METRIC:high=NUMBER) for the end of the 95 % interval."
            )
        return cls(text, metric, bound, end)


@dataclass(frozen=True)
class GateVerdict:
    """One gate on one line.

    Attributes:
        gate: as it was written. task, cohort, line: of what.
        passed: whether it holds.
        value, low, high: the figure, or the difference to the earlier run, with its interval.
        bound: what it was held against.
        sentence: all of that in words.
    """

    gate: str
    task: str
    cohort: str
    line: str
    passed: bool
    value: float | None
    low: float | None
    high: float | None
    bound: float
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Gated:
    """What all gates found, and what none of them speaks of.

    Attributes:
        verdicts: gate by gate, line by line.
        untouched: tasks that a gate says nothing about, a sentence each.
    """

    verdicts: tuple[GateVerdict, ...]
    untouched: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every gate holds on every line."""
        return all(each.passed for each in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "passed": self.passed,
            "verdicts": [each.to_json() for each in self.verdicts],
            "untouched": list(self.untouched),
        }


def joined(found: Sequence[Gated]) -> Gated:
    """Several kinds of gates as one."""
    return Gated(
        tuple(each for gated in found for each in gated.verdicts),
        tuple(dict.fromkeys(each for gated in found for each in gated.untouched)),
    )


def gated_lines(
    runs: Iterable[Run],
    *,
    task: str | None = None,
    cohort: str | None = None,
    metric: str | None = None,
    average_over: AverageOver = "image",
    heads: Heads = "all",
) -> list[TaskTable]:
    """The tables whose lines `evalfm compare` shows for the same options; those with baselines alone are left out.

    Raises:
        EvalfmError: a run would be held by no gate, for it belongs to a shortcut curve beside one of a weaker tie.
    """
    every = [run for run in runs if task in (None, run.task)]
    plain = plain_runs(every)
    tied = [run for run in every if run not in plain and not run.is_baseline]
    if tied:
        raise EvalfmError(
            f"{len(tied)} runs, the first {tied[0].folder}, learned from images tied to "
            f"{tied[0].record.config.associate}, and others of their task from less tied ones: those alone are shown, "
            "so no gate would hold these. Gate the runs of each tie in a call of its own."
        )
    tables = task_tables(plain)
    tables = of_cohort(tables, cohort) if cohort is not None else tables
    tables = [table for table in tables if not all(line.baseline for line in table.lines)]
    if heads == "all":
        return tables
    return [one_line_each(table, best_heads(table, metric, average_over)) for table in tables]


def fail_under(gates: Sequence[Gate], tables: Sequence[TaskTable], average_over: AverageOver = "image") -> Gated:
    """Hold every line of ``tables`` that is no baseline against ``gates``.

    A gate speaks of the tasks that have its metric, and there of every line. A figure that equals the bound passes; one
    that is absent fails.

    Raises:
        EvalfmError: no line has the metric, or of one task some have it and others not; the metric has no better and
            worse; or the wrong end of the interval is named.
    """
    verdicts: list[GateVerdict] = []
    untouched: list[str] = []
    for gate in gates:
        touched = [table for table in tables if any(gate.metric in line.runs[0].metrics for line in _lines(table))]
        if not touched:
            known = dict.fromkeys(name for table in tables for line in _lines(table) for name in line.runs[0].metrics)
            raise UnknownNameError("metric of a gate among these runs", gate.metric, known)
        for table in touched:
            verdicts += [_held(gate, table, line, average_over) for line in _lines(table)]
        untouched += [f"{gate.text} says nothing of {_where(table)}." for table in tables if table not in touched]
    return Gated(tuple(verdicts), tuple(dict.fromkeys(untouched)))


def _lines(table: TaskTable) -> list[Line]:
    return [line for line in table.lines if not line.baseline]


def _where(table: TaskTable) -> str:
    return f"{table.task} on {table.cohort}"


def _name(line: Line) -> str:
    return f"{line.encoder} · {line.head} · {line.adaptation}"


def _held(gate: Gate, table: TaskTable, line: Line, average_over: AverageOver) -> GateVerdict:
    """``gate`` on one line."""
    lacking = [run for run in line.runs if gate.metric not in run.metrics]
    if lacking:
        raise EvalfmError(
            f"{_name(line)} on {_where(table)} was not measured by {gate.metric}, which {gate.text} needs; run it "
            "again with --force, or name another metric."
        )
    facts = facts_of(gate.metric, line.runs)
    if facts.better not in ("higher", "lower"):
        raise EvalfmError(f"{gate.metric} is best {facts.direction}, so no gate can be set on one side of it.")
    lower = facts.lower_is_better
    if gate.end == ("low" if lower else "high"):
        right = "high" if lower else "low"
        raise EvalfmError(
            f"Of {gate.metric} {'small' if lower else 'large'} values are good, so a gate is of the other end of its "
            f"interval; write {gate.metric}:{right}={gate.bound:g}."
        )
    found = _estimate(line, gate.metric, average_over)
    figure = getattr(found, gate.end) if gate.end and found.value is not None else found.value
    what = f"the {'upper' if lower else 'lower'} end of {gate.metric}" if gate.end else gate.metric
    where, side = f"{_name(line)} on {_where(table)}", "above" if lower else "under"
    if figure is None:
        reason = found.reason or "it has no interval"
        passed, sentence = False, f"{where} has no {what.removeprefix('the ')} ({reason}), so that {gate.text} fails."
    else:
        passed = figure <= gate.bound if lower else figure >= gate.bound
        shown_figure = _against(figure, gate.bound)
        held = f"is not {side} {gate.bound:g}" if passed else f"is {side} {gate.bound:g}"
        sentence = f"{where}: {what} {shown_figure} {held}."
    return GateVerdict(
        gate.text,
        table.task,
        table.cohort,
        _name(line),
        passed,
        found.value,
        found.low,
        found.high,
        gate.bound,
        sentence,
    )


def _against(figure: float, bound: float) -> str:
    """``figure`` with as many decimals as tell it from ``bound``, three at least."""
    for digits in range(3, 10):
        if figure == bound or round(figure, digits) != round(bound, digits):
            break
    return f"{figure:.{digits}f}"


def _estimate(line: Line, metric: str, average_over: AverageOver) -> Estimate:
    """The metric of a line, averaged over its seeds, with the interval of that mean."""
    if average_over == "image":
        return over_seeds(line, metric)
    paired = pair([line], metric, average_over)
    return estimates({metric: paired.measured(0)}, paired.patients, unit=line.runs[0].record.data.unit)[metric]


def no_worse_than(
    reference: Sequence[Run],
    named: str | Path,
    tables: Sequence[TaskTable],
    margin: float,
    *,
    metric: str | None = None,
    average_over: AverageOver = "image",
) -> Gated:
    """Hold every line of ``tables`` against earlier runs: non-inferior where the 95 % interval ends inside the margin.

    The interval is that of the paired difference on the same test patients, training variance counted where the runs
    tell it. No correction is made over lines: all must pass, which no single false pass can bring about.

    Args:
        reference: the earlier runs, of each task one line.
        named: how they were named, for the words.
        tables: as ``gated_lines`` gives them.
        margin: on the scale of the metric.
        metric: by which; by default the one that ``compare`` takes.
        average_over: what counts once in a mean.

    Raises:
        EvalfmError: there is nothing to hold against, the reference is of several lines of a task or of other test
            patients, or the margin is not positive.
    """
    if not 0 < margin < math.inf:
        raise EvalfmError(f"--margin must be positive and finite, not {margin:g}.")
    earlier = [run for run in reference if not run.is_baseline]
    if not earlier:
        raise EvalfmError(f"{named} holds baselines alone; name a run of an encoder.")
    keys, tasks = {run.record.key for run in earlier}, {run.task for run in earlier}
    folders = {run.folder.resolve() for run in earlier}
    verdicts: list[GateVerdict] = []
    untouched: list[str] = []
    for table in tables:
        if table.task not in tasks:
            untouched.append(f"--no-worse-than {named} says nothing of {_where(table)}.")
            continue
        copies, others = [], []
        for line in _lines(table):
            same = [run.record.key in keys for run in line.runs]
            if any(same) and not all(same):
                raise EvalfmError(f"{named} and {_name(line)} differ in their seeds alone; name runs of all seeds.")
            if not any(same):
                others.append(line)
            elif any(run.folder.resolve() not in folders for run in line.runs):
                copies.append(line)
        for line in copies:
            words = f"{_name(line)} on {_where(table)} is the same run as {named}."
            verdicts.append(_verdict(named, table, line, True, None, margin, words))
        if others:
            verdicts += _inferiority(earlier, named, table, others, margin, metric, average_over)
    if not verdicts:
        raise EvalfmError(
            f"No run was held against {named}, which is of {', '.join(sorted(tasks))}; name others beside it."
        )
    return Gated(tuple(verdicts), tuple(untouched))


def _inferiority(
    earlier: Sequence[Run],
    named: str | Path,
    table: TaskTable,
    lines: Sequence[Line],
    margin: float,
    metric: str | None,
    over: AverageOver,
) -> list[GateVerdict]:
    """``lines`` of a table against the earlier run of its test patients."""
    known = {run.record.key for run in earlier}
    mine = [run for run in earlier if run.task == table.task]
    together = task_tables(plain_runs([*mine, *(run for line in lines for run in line.runs)]))
    own = {run.record.key for run in lines[0].runs}
    holding = [each for each in together if any(own & {run.record.key for run in line.runs} for line in each.lines)]
    if not holding:
        raise EvalfmError(
            f"{_name(lines[0])} on {_where(table)} learned from images tied to "
            f"{lines[0].runs[0].record.config.associate}, and {named} did not, or less; name a run of the same tie."
        )
    (joint,) = holding
    of_reference = [line for line in joint.lines if any(run.record.key in known for run in line.runs)]
    if any(run.record.key not in known for line in of_reference for run in line.runs):
        raise EvalfmError(f"{named} and a run beside it differ in their seeds alone; name runs of all seeds.")
    if not of_reference:
        raise EvalfmError(
            f"{named} was tested on other images or labels of {table.task} than {_name(lines[0])}, so that nothing can "
            "be paired; test both on one split."
        )
    if len(of_reference) > 1:
        several = ", ".join(map(_name, of_reference))
        raise EvalfmError(f"{named} holds {len(of_reference)} lines of {table.task} ({several}); name one run.")
    contenders = [line for line in joint.lines if line not in of_reference]
    paired = pair([*of_reference, *contenders], metric, over)
    differences = paired.differences([(place, 0) for place in range(1, len(contenders) + 1)])
    verdicts = []
    for line, found in zip(contenders, differences, strict=True):
        passed, words = _within(found, margin, lower=paired.lower_is_better)
        sentence = f"{_name(line)} on {_where(table)}: {paired.metric} {words}, against {named}, of {found.speaks_of}."
        verdicts.append(_verdict(named, table, line, passed, found, margin, sentence))
    return verdicts


def _within(found: Difference, margin: float, *, lower: bool) -> tuple[bool, str]:
    """Whether the end of the interval that is the worse one lies inside the margin, and that in words."""
    sign = -1 if lower else 1
    # Without a standard error the difference is the same in every patient and speaks for itself.
    ends = [found.value if end is None else end for end in (found.low, found.high)]
    worst = min(sign * end for end in ends)
    passed = worst > -margin
    digits = 3 if margin >= 0.01 else 4
    interval = f"{found.value:+.{digits}f} [{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}]"
    reach = f"worse by {_against(-worst, margin)} at most" if worst < 0 else "not worse"
    inside = f"inside the margin {margin:g}" if passed else f"not inside the margin {margin:g}"
    return passed, f"{interval}, {reach}, {inside}"


def _verdict(
    named: str | Path, table: TaskTable, line: Line, passed: bool, found: Difference | None, margin: float, words: str
) -> GateVerdict:
    value, low, high = (None, None, None) if found is None else (found.value, found.low, found.high)
    gate = f"--no-worse-than {named} --margin {margin:g}"
    return GateVerdict(gate, table.task, table.cohort, _name(line), passed, value, low, high, margin, words)
