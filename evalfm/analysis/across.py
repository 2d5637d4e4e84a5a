"""Several tasks that share encoders: average ranks, Friedman and Nemenyi, how far orders agree, pairs over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from evalfm.analysis.compare import Comparison, Entry
from evalfm.statistics.comparison import Difference
from evalfm.statistics.hierarchical import SCALES, MeanDifference, mean_difference
from evalfm.statistics.ranks import FEWEST_TASKS, Agreement, friedman, kendall, negated, rank_sets, task_ranks

LEVEL = 0.95


@dataclass(frozen=True)
class AverageRank:
    """One encoder over all tasks.

    Attributes:
        name: of the encoder, with head and adaptation where a task has several of its lines.
        rank: mean over tasks of its rank among the shared encoders, 1 the best.
        low, high: 95 % for all encoders at once: the means of the ends of its rank sets, each at 1 − .05 / tasks.
        ranks: in each task.
    """

    name: str
    rank: float
    low: float
    high: float
    ranks: tuple[float, ...]


@dataclass(frozen=True)
class FriedmanTest:
    """Friedman's χ² over tasks, and the pairs by Nemenyi: the better by average rank first."""

    statistic: float
    degrees_of_freedom: int
    p: float
    critical_difference: float
    pairs: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class OrderAgreement:
    """Kendall's τ between the orders of the encoders in two tasks."""

    first: str
    second: str
    tau: Agreement


@dataclass(frozen=True)
class PairOverTasks:
    """Two encoders over the tasks of one metric: the mean difference δ₀ for each prior, above 0 the first is better."""

    first: str
    second: str
    metric: str
    tasks: tuple[str, ...]
    posteriors: tuple[MeanDifference, ...]

    @property
    def widest(self) -> MeanDifference:
        """By the prior that lets tasks differ most, of which the interval is shown."""
        return max(self.posteriors, key=lambda each: each.scale)


@dataclass(frozen=True)
class AcrossTasks:
    """What several tasks say together of the encoders that all of them have.

    Attributes:
        tasks: in words.
        cautions: what was left out, or not given, and why.
        models: by average rank.
        friedman: from five tasks and three encoders on, else None.
        orders: of every two tasks.
        pairs: by average rank, the better first.
        speaks_of: encoders where every difference counts the variance of the training sample.
    """

    tasks: tuple[str, ...]
    cautions: tuple[str, ...]
    models: tuple[AverageRank, ...]
    friedman: FriedmanTest | None
    orders: tuple[OrderAgreement, ...]
    pairs: tuple[PairOverTasks, ...]
    speaks_of: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def across_tasks(comparisons: Sequence[Comparison]) -> AcrossTasks | None:
    """What ``comparisons`` say together; None where no two tasks or data sets share two encoders.

    Where not every task has the same encoders, those tasks are taken of which tasks times shared encoders is largest.
    A task counts once on a data set: other cohorts of it (folds, other images of the set) are no further tasks and are
    left out, which is said.
    """
    candidates, cautions = _one_each(comparisons)
    tables = _that_share(candidates)
    if not tables:
        return None
    cautions += [
        f"Has too few of these encoders, and left out: {each.task} on {each.cohort}."
        for each in candidates
        if all(each is not table for table in tables)
    ]
    shared = shared_models(tables)
    names = list(shared)
    tasks = _words(tables)
    scores = np.array(
        [[goodness(table, shared[name][number]) for name in names] for number, table in enumerate(tables)]
    )
    differences = [
        differences_of(table, [shared[name][number] for name in names]) for number, table in enumerate(tables)
    ]
    level = 1 - (1 - LEVEL) / len(tables)
    sets = np.array([rank_sets(each, level=level) for each in differences])
    ranks = task_ranks(scores)
    average, ends = ranks.mean(axis=0), sets.mean(axis=0)
    order = sorted(range(len(names)), key=lambda place: average[place])
    models = tuple(
        AverageRank(names[place], float(average[place]), float(low), float(high), tuple(map(float, ranks[:, place])))
        for place, (low, high) in ((place, ends[place]) for place in order)
    )
    left = sorted({entry.name for table in tables for entry in _contenders(table)} - _named_in(shared))
    if left:
        cautions.append(f"Not in every task, and left out: {', '.join(left)}.")
    found = None
    if len(tables) < FEWEST_TASKS:
        cautions.append(f"Friedman and Nemenyi are given from {FEWEST_TASKS} tasks on; there are {len(tables)}.")
    elif len(names) < 3:
        cautions.append("Friedman needs three encoders.")
    else:
        try:
            found = _friedman(scores, names, order)
        except ValueError as error:
            cautions.append(f"Friedman: {error}.")
    pairs, more = _pairs(tables, tasks, differences, names, order)
    every = {each.speaks_of for of_table in differences for each in of_table}
    return AcrossTasks(
        tasks,
        (*cautions, *more),
        models,
        found,
        tuple(_orders(scores, tasks)),
        pairs,
        "encoders" if every == {"encoders"} else "these trained heads",
    )


def shared_models(tables: Sequence[Comparison]) -> dict[str, list[Entry]]:
    """The entry in each table of every encoder that all have.

    By the encoder's name where no table has several lines of one, else by encoder, head and adaptation.
    """
    lines = [_contenders(table) for table in tables]
    alone = all(len({each.encoder for each in entries}) == len(entries) for entries in lines)
    by_name = [{each.encoder if alone else each.name: each for each in entries} for entries in lines]
    return {name: [each[name] for each in by_name] for name in by_name[0] if all(name in each for each in by_name)}


def _that_share(tables: Sequence[Comparison]) -> list[Comparison]:
    """The tables that share encoders, two or more: those of which tasks times shared encoders is largest."""
    best: tuple[tuple[int, int], list[Comparison]] = ((0, 0), [])
    for one, other in combinations(tables, 2):
        wanted = set(shared_models([one, other]))
        if len(wanted) < 2:
            continue
        found = [table for table in tables if wanted <= set(shared_models([one, table]))]
        size = len(shared_models(found))
        if size >= 2:
            best = max(best, ((len(found) * size, len(found)), found), key=lambda each: each[0])
    return best[1]


def differences_of(table: Comparison, entries: Sequence[Entry]) -> list[Difference]:
    """All pairs of ``entries`` in the order of ``combinations``, turned so that above 0 the first is better."""
    known = {(each.first, each.second): each.difference for each in table.every_pair}
    found = []
    for one, other in combinations([entry.name for entry in entries], 2):
        difference = known[one, other] if (one, other) in known else negated(known[other, one])
        found.append(negated(difference) if table.lower_is_better else difference)
    return found


def _contenders(table: Comparison) -> list[Entry]:
    return [entry for entry in table.entries if not entry.baseline]


def _named_in(shared: Mapping[str, Sequence[Entry]]) -> set[str]:
    return {entry.name for entries in shared.values() for entry in entries}


def goodness(table: Comparison, entry: Entry) -> float:
    """The estimate, turned so that higher is better."""
    value = float(entry.estimate.value or 0.0)
    return -value if table.lower_is_better else value


def _one_each(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], list[str]]:
    """One cohort of each task and data set, that with most lines; and what was left out, in words."""
    kept: dict[tuple[str, str], Comparison] = {}
    for each in comparisons:
        best = kept.get((each.task, each.data))
        if best is None or len(_contenders(each)) > len(_contenders(best)):
            kept[each.task, each.data] = each
    out = [each for each in comparisons if all(each is not table for table in kept.values())]
    said = [
        f"No further task, and left out: {each.task} on {each.cohort} (another cohort of {each.data})." for each in out
    ]
    return list(kept.values()), said


def _words(tables: Sequence[Comparison]) -> tuple[str, ...]:
    """A name for each table: the task, with its data set where several have one task."""
    tasks = [table.task for table in tables]
    return tuple(each.task if tasks.count(each.task) == 1 else f"{each.task} on {each.data}" for each in tables)


def _friedman(scores: Any, names: Sequence[str], order: Sequence[int]) -> FriedmanTest:
    test = friedman(scores)
    pairs = tuple((names[one], names[other], float(test.pairs[one, other])) for one, other in combinations(order, 2))
    return FriedmanTest(test.statistic, test.degrees_of_freedom, test.p, test.critical_difference, pairs)


def _orders(scores: Any, tasks: Sequence[str]) -> list[OrderAgreement]:
    found = []
    for one, other in combinations(range(len(tasks)), 2):
        try:
            found.append(OrderAgreement(tasks[one], tasks[other], kendall(scores[one], scores[other])))
        except ValueError:
            # All encoders are equal in a task: there is no order.
            continue
    return found


def _pairs(
    tables: Sequence[Comparison],
    tasks: Sequence[str],
    differences: Sequence[Sequence[Difference]],
    names: Sequence[str],
    order: Sequence[int],
) -> tuple[tuple[PairOverTasks, ...], list[str]]:
    """Every pair over the tasks of each metric that is a share and that two tasks have; and what is not given."""
    of_metric: dict[str, list[int]] = {}
    for number, table in enumerate(tables):
        of_metric.setdefault(table.metric, []).append(number)
    cautions, found = [], []
    place_of = {pair: place for place, pair in enumerate(combinations(range(len(names)), 2))}
    for metric, numbers in of_metric.items():
        unit = tables[numbers[0]].unit
        if unit or len(numbers) < 2:
            why = f"it is measured in {unit}" if unit else "one task has it"
            cautions.append(f"No mean difference over tasks in {metric}: {why}.")
            continue
        for one, other in combinations(order, 2):
            turned = (one, other) in place_of
            place = place_of[one, other] if turned else place_of[other, one]
            each = [differences[number][place] for number in numbers]
            each = each if turned else [negated(of_task) for of_task in each]
            if any(of_task.standard_error <= 0 for of_task in each):
                continue
            x, s = [of_task.value for of_task in each], [_normal_error(of_task) for of_task in each]
            posteriors = tuple(mean_difference(x, s, scale=scale) for scale in SCALES)
            named = tuple(tasks[number] for number in numbers)
            found.append(PairOverTasks(names[one], names[other], metric, named, posteriors))
    return tuple(found), cautions


def _normal_error(difference: Difference) -> float:
    """The standard error of the normal law whose 95 % interval is that of the difference."""
    if difference.degrees_of_freedom is None:
        return difference.standard_error
    return float(difference.standard_error * stats.t.ppf(0.975, difference.degrees_of_freedom) / stats.norm.ppf(0.975))
