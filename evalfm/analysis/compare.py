"""Is encoder A really better than B: paired differences to the best, corrected, with ranks and what could be found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from evalfm.analysis.baselines import AgainstBaselines, against_baselines
from evalfm.analysis.best_heads import HeadByVal, best_heads, one_line_each
from evalfm.analysis.pairing import AverageOver, Paired, pair
from evalfm.analysis.table import Line, TaskTable, plain_runs, task_tables
from evalfm.analysis.training import sentence
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.run import Run
from evalfm.statistics.comparison import Difference, holm, minimal_detectable_difference, non_inferiority
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import estimates
from evalfm.statistics.ranks import rank_sets, significantly_worse

ALPHA = 0.05
BEST_BY_VAL = "best-by-val"
Heads = Literal["all", "best-by-val", "best-by-val-where-possible"]
"""Which lines of an encoder are compared: all, or the one that val has chosen."""


@dataclass(frozen=True)
class Entry:
    """One line of a comparison.

    Attributes:
        encoder, head, adaptation, baseline, seeds: as in the table of the task.
        seed_sd: spread of the metric over seeds; None for a single one.
        estimate: the metric averaged over seeds, with its interval.
        difference: this line minus the best one; None for the best itself.
        p: of that difference, after Holm over every pair of lines that are no baselines; None for them and the best.
        rank: first and last of the ranks that cannot be ruled out among lines that are no baselines, at 95 % for all
            of them at once.
        in_best_set: not significantly worse than the best; None for baselines.
        detectable: the true difference to the best that would have been found with 80 % power at the corrected level.
        non_inferior: whether it is worse than the reference by less than the margin, after Holm; None without a margin.
        best_by_val: whether it is the line of its encoder that is best on val; None where the encoder has one line,
            or none could be chosen.
    """

    encoder: str
    head: str
    adaptation: str
    baseline: bool
    seeds: int
    seed_sd: float | None
    estimate: Estimate
    difference: Difference | None
    p: float | None
    rank: tuple[int, int] | None
    in_best_set: bool | None
    detectable: float | None
    non_inferior: bool | None
    best_by_val: bool | None

    @property
    def name(self) -> str:
        """Encoder, head and adaptation."""
        return f"{self.encoder} · {self.head} · {self.adaptation}"


@dataclass(frozen=True)
class PairOfLines:
    """Two lines that are no baselines: the difference of the first minus the second, and its p after Holm."""

    first: str
    second: str
    difference: Difference
    p: float | None


@dataclass(frozen=True)
class Comparison:
    """All lines of one task on the same patients, best first, baselines last.

    Attributes:
        kind: of the task.
        data, cohort: the data set that was tested, and which of its images in words.
        metric, lower_is_better, unit: by what the lines are compared.
        estimand: what counts once in the metric, in words.
        pairs: how many were corrected for.
        method: the test of record.
        reference: to what non-inferiority refers; ``post_hoc`` where it is the best one observed.
        against: every line that is no baseline against the baselines.
        heads: of every encoder of several lines, which is best on val; ``one_line_each`` where the others are left out.
        every_pair: of lines that are no baselines.
    """

    task: str
    kind: str
    data: str
    metric: str
    lower_is_better: bool
    unit: str
    estimand: str
    counts: str
    cautions: tuple[str, ...]
    entries: tuple[Entry, ...]
    pairs: int
    method: str
    margin: float | None
    reference: str | None
    post_hoc: bool
    cohort: str
    against: tuple[AgainstBaselines, ...]
    heads: tuple[HeadByVal, ...]
    one_line_each: bool
    every_pair: tuple[PairOfLines, ...]

    @property
    def speaks_of(self) -> str:
        """Of what its p, ranks, best set, detectable differences and non-inferiority speak; empty without pairs."""
        return sentence(each.difference for each in self.every_pair)

    @property
    def mixed(self) -> bool:
        """Whether some of its differences speak of encoders and others of trained heads."""
        return len({each.difference.speaks_of for each in self.every_pair}) > 1

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        content = asdict(self) | {"speaks_of": self.speaks_of}
        for entry, written in zip(self.entries, content["entries"], strict=True):
            if entry.difference is not None:
                written["difference"]["speaks_of"] = entry.difference.speaks_of
        for each, written in zip(self.every_pair, content["every_pair"], strict=True):
            written["difference"]["speaks_of"] = each.difference.speaks_of
        return content


def compare(
    runs: Iterable[Run],
    *,
    task: str | None = None,
    cohort: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    reference: str | None = None,
    average_over: AverageOver = "image",
    heads: Heads = "all",
) -> list[Comparison]:
    """Compare runs, task by task and test cohort by test cohort.

    Args:
        runs: of any tasks; those on the same test patients and labels are compared with each other.
        task: this one only.
        cohort: part of the words of the test cohorts that are wanted; by default all.
        metric: by which; by default the task's primary one where it can be paired, else the usual one of its kind.
        margin: of non-inferiority, on the scale of the metric.
        reference: the encoder that non-inferiority refers to; by default the best one observed, which is said.
        average_over: what counts once in a metric that is a mean over images: estimate, interval, rank, test, best
            set and the choice of heads change together.
        heads: ``best-by-val`` compares one line of each encoder, that with the best metric on val.

    Raises:
        EvalfmError: there is nothing to compare, runs cannot be paired, the metric is no mean that could be averaged
            over patients, or no head of an encoder can be chosen on val.
    """
    tables = task_tables(plain_runs(runs))
    if task is not None:
        if task not in {table.task for table in tables}:
            raise UnknownNameError("task among these runs", task, sorted({table.task for table in tables}))
        tables = [table for table in tables if table.task == task]
    if cohort is not None:
        tables = of_cohort(tables, cohort)
    if reference is not None and margin is None:
        raise EvalfmError("--reference is what --margin refers to; give both.")
    if margin is not None and not 0 < margin < float("inf"):
        raise EvalfmError(f"--margin must be positive and finite, not {margin:g}.")
    if not tables:
        raise EvalfmError("There is no run to compare; name folders of runs.")
    # Baselines alone, on a cohort that no encoder was tested on, stop nothing.
    shown = [table for table in tables if not all(line.baseline for line in table.lines)] or tables
    _refuse_strangers(shown)
    return [_compare(table, metric, margin, reference, average_over, heads) for table in shown]


def of_cohort(tables: Sequence[TaskTable], words: str) -> list[TaskTable]:
    """Those whose cohort's words hold ``words``.

    Raises:
        UnknownNameError: there is none.
    """
    found = [table for table in tables if words in table.cohort]
    if not found:
        raise UnknownNameError("test cohort among these runs", words, dict.fromkeys(table.cohort for table in tables))
    # The whole words of one are meant, even where those of others hold them.
    return [table for table in found if table.cohort == words] or found


def _refuse_strangers(tables: Sequence[TaskTable]) -> None:
    """Refuse encoders of one task that were each tested alone, on other images or labels than the others.

    Raises:
        EvalfmError: there are some; says between which.
    """
    by_task: dict[str, list[Line]] = {}
    for table in tables:
        lines = [line for line in table.lines if not line.baseline]
        by_task.setdefault(table.task, []).extend(lines if len(lines) == 1 else [*lines, *lines])
    for task, lines in by_task.items():
        named = {(line.encoder, line.head, line.adaptation) for line in lines}
        if len(named) < len(lines) or len(lines) < 2:
            continue
        pair(lines[:2])
        cohorts = [table.cohort for table in tables if table.task == task]
        raise EvalfmError(
            f"Every encoder of {task} was tested on a cohort of its own ({'; '.join(cohorts[:5])}); run them on one."
        )


def _compare(
    whole: TaskTable, metric: str | None, margin: float | None, reference: str | None, over: AverageOver, heads: Heads
) -> Comparison:
    by_val = best_heads(whole, metric, over)
    if heads == "best-by-val":
        for each in by_val:
            if each.best is None:
                raise EvalfmError(f"{whole.task}: {each.sentence.rstrip('.')}; name one head with --head.")
    table = whole if heads == "all" else one_line_each(whole, by_val)
    paired = pair(table.lines, metric, over)
    measured = {str(place): paired.measured(place) for place in range(len(table.lines))}
    estimated = estimates(measured, paired.patients, unit=paired.unit)
    found = [estimated[str(place)] for place in range(len(table.lines))]
    contenders = [place for place, line in enumerate(table.lines) if not line.baseline]
    if not contenders:
        raise EvalfmError(f"{table.task}: there are baselines only; compare at least one encoder.")
    absent = [place for place in contenders if found[place].value is None]
    if absent:
        raise EvalfmError(
            f"{table.task}: {table.lines[absent[0]].encoder} has no {paired.metric}: {found[absent[0]].reason}."
        )
    lower = paired.lower_is_better
    best = _best(found, contenders, lower)
    every = list(combinations(contenders, 2))
    differences = dict(zip(every, paired.differences(every), strict=True)) if every else {}
    adjusted = dict(zip(every, map(_or_none, holm([_p(differences[each]) for each in every])), strict=True))
    to_best = _to_best(paired, differences, best, len(table.lines))
    ranks = dict(zip(contenders, rank_sets(list(differences.values()), lower_is_better=lower), strict=True))
    verdicts = None if margin is None else _non_inferior(table, paired, contenders, best, margin, reference)
    chosen = {line: line == each.chosen for each in by_val if each.best is not None for line in each.lines}
    entries = []
    for place, line in enumerate(table.lines):
        difference = to_best.get(place)
        corrected = adjusted.get((min(place, best), max(place, best)))
        contends = not line.baseline
        entries.append(
            Entry(
                line.encoder,
                line.head,
                line.adaptation,
                line.baseline,
                len(line.runs),
                paired.seed_sd(place),
                found[place],
                difference,
                corrected,
                ranks[place] if contends else None,
                difference is None or not significantly_worse(difference, corrected, lower_is_better=lower)
                if contends
                else None,
                _detectable(difference, len(every)) if contends else None,
                None if verdicts is None or not contends else verdicts[1].get(place),
                chosen.get((line.encoder, line.head, line.adaptation)) if contends else None,
            )
        )
    note = paired.measured(0).note
    order = sorted(range(len(entries)), key=lambda place: _order(entries[place], lower))
    return Comparison(
        table.task,
        table.lines[0].runs[0].kind,
        table.data,
        paired.metric,
        lower,
        paired.of_runs.metric.unit,
        _estimand(paired, over),
        table.unit_counts,
        (*table.cautions, *([] if note is None else [f"{paired.metric} {note}."])),
        tuple(entries[place] for place in order),
        len(every),
        _method([*differences.values()] or [*to_best.values()]),
        margin,
        None if verdicts is None else verdicts[0],
        verdicts is not None and reference is None,
        table.cohort,
        tuple(against_baselines(table, paired)),
        by_val,
        heads != "all" and any(each.best is not None for each in by_val),
        tuple(
            PairOfLines(entries[one].name, entries[other].name, differences[one, other], adjusted[one, other])
            for one, other in every
        ),
    )


def _method(differences: Sequence[Difference]) -> str:
    """The tests of record, each once."""
    methods = list(dict.fromkeys(each.method for each in differences))
    more = f" and {len(methods) - 3} others" if len(methods) > 3 else ""
    return "; ".join(methods[:3]) + more or "one encoder: nothing to compare"


def _estimand(paired: Paired, over: AverageOver) -> str:
    """What counts once, in words."""
    if over == "patient":
        return f"{paired.metric} is the mean over patients of the mean of their images: every patient counts once"
    if paired.of_runs.measured[0].by_patient is None:
        return f"{paired.metric} is over images; the images of a patient are a cluster"
    return f"{paired.metric} is the mean over images: every image counts once; those of a patient are a cluster"


def _detectable(difference: Difference | None, comparisons: int) -> float | None:
    if difference is None:
        return None
    freedom = difference.degrees_of_freedom
    return minimal_detectable_difference(
        difference.standard_error, degrees_of_freedom=freedom, comparisons=max(1, comparisons)
    )


def _best(found: Sequence[Estimate], among: Sequence[int], lower: bool) -> int:
    values = [float(found[place].value or 0.0) for place in among]
    return among[int(np.argmin(values) if lower else np.argmax(values))]


def _order(entry: Entry, lower: bool) -> tuple[bool, float]:
    value = entry.estimate.value
    return entry.baseline, float("inf") if value is None else value if lower else -value


def _p(difference: Difference) -> float:
    return float("nan") if difference.p is None else difference.p


def _or_none(p: float) -> float | None:
    return None if np.isnan(p) else float(p)


def _to_best(
    paired: Paired, differences: dict[tuple[int, int], Difference], best: int, count: int
) -> dict[int, Difference]:
    """Each line minus the best one, baselines too."""
    wanted = [(place, best) for place in range(count) if place != best]
    missing = [each for each in wanted if each not in differences]
    known = dict(zip(missing, paired.differences(missing), strict=True)) if missing else {}
    return {place: known.get((place, best)) or differences[place, best] for place, _ in wanted}


def _non_inferior(
    table: TaskTable, paired: Paired, contenders: Sequence[int], best: int, margin: float, reference: str | None
) -> tuple[str, dict[int, bool]]:
    """The reference's name, and for every other line whether it is non-inferior to it."""
    place = best if reference is None else _named(table.lines, contenders, reference)
    others = [other for other in contenders if other != place]
    differences = paired.differences([(other, place) for other in others])
    raw = [non_inferiority(each, margin, lower_is_better=paired.lower_is_better) for each in differences]
    adjusted = holm([float("nan") if p is None else p for p in raw]) if raw else np.array([])
    sign = -1 if paired.lower_is_better else 1
    verdicts = {}
    for other, difference, p in zip(others, differences, adjusted, strict=True):
        # Without a standard error the difference is the same in every patient and speaks for itself.
        verdicts[other] = bool(sign * difference.value > -margin) if np.isnan(p) else bool(p < ALPHA / 2)
    return table.lines[place].encoder, verdicts


def _named(lines: Sequence[Line], contenders: Sequence[int], reference: str) -> int:
    found = [place for place in contenders if lines[place].encoder == reference]
    if not found and reference in {line.encoder for line in lines}:
        raise EvalfmError(f"{reference} is a baseline here; --reference is an encoder that others may be as good as.")
    if not found:
        raise UnknownNameError("encoder among these runs", reference, [lines[place].encoder for place in contenders])
    if len(found) > 1:
        heads = ", ".join(f"{lines[place].head}-{lines[place].adaptation}" for place in found)
        raise EvalfmError(
            f"{reference} stands in {len(found)} lines ({heads}); compare one head at a time with --head."
        )
    return found[0]
