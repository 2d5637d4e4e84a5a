"""Does an order of encoders hold on another data set: pairs that were significant on A, and their difference on B."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalfm.analysis.across import differences_of, goodness, shared_models
from evalfm.analysis.compare import ALPHA, Comparison, Heads, compare
from evalfm.analysis.pairing import AverageOver
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.statistics.comparison import Difference, holm
from evalfm.statistics.ranks import Agreement, kendall, negated


@dataclass(frozen=True)
class PairOnB:
    """A pair whose order was significant on A.

    Attributes:
        better, worse: on A.
        on_a, on_b: how much better the first is, turned so that above 0 it is better.
        p_a: after Holm over all pairs on A.
        p_b: on B, after Holm over the pairs that are looked at there; None where there is none.
        keeps_sign: whether the first is better on B too.
    """

    better: str
    worse: str
    on_a: Difference
    on_b: Difference
    p_a: float
    p_b: float | None
    keeps_sign: bool


@dataclass(frozen=True)
class ExternalValidation:
    """One task on A held against a task of its kind on B.

    Attributes:
        task_a, cohort_a, task_b, cohort_b: what is held against what.
        metric: of both.
        models: encoders that both have.
        pairs: those that were significant on A.
        kept: how many of them keep their sign on B.
        tau: of the two orders; None where one has ties only.
        speaks_of_a, speaks_of_b: encoders, or these trained heads, in a sentence.
    """

    task_a: str
    cohort_a: str
    task_b: str
    cohort_b: str
    metric: str
    models: tuple[str, ...]
    pairs: tuple[PairOnB, ...]
    kept: int
    tau: Agreement | None
    speaks_of_a: str
    speaks_of_b: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def by_test_data(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
    """Runs tested on the data set that they were trained on, and those tested on another one (``--test-data``)."""
    at_home: list[Run] = []
    elsewhere: list[Run] = []
    for run in runs:
        (at_home if run.record.data.test_name == run.record.data.name else elsewhere).append(run)
    return at_home, elsewhere


def external_validation(
    first: Sequence[Run],
    second: Sequence[Run],
    *,
    task: str | None = None,
    metric: str | None = None,
    average_over: AverageOver = "image",
    heads: Heads = "all",
) -> list[ExternalValidation]:
    """Every task on A (``first``) held against the task on B (``second``) of the same name, else those of its kind.

    Args:
        first, second: runs of the same encoders, tested on different data sets.
        task: on A, this one only.
        metric, average_over, heads: as of ``compare``.

    Raises:
        EvalfmError: no task on A has one of its kind on another data set of B with two encoders of A.
    """
    if not first or not second:
        which = "first" if not first else "second"
        raise EvalfmError(
            f"There is no run of the {which} data set; name two folders of runs, or one that also holds runs made with "
            "--test-data."
        )
    found, reasons = [], []
    of_both = {run.task for run in first} & {run.task for run in second}
    for on_a in compare(first, task=task, metric=metric, average_over=average_over, heads=heads):
        others = {run.task for run in second if run.kind == on_a.kind and not run.is_baseline}
        # Where tasks go by one name on both, each is held against its namesake alone.
        names = sorted(others & {on_a.task} if of_both else others)
        if not names:
            reasons.append(f"B has no {on_a.task if of_both else f'{on_a.kind} task'}")
        for name in names:
            mine = [run for run in second if run.task == name]
            for on_b in compare(mine, metric=on_a.metric, average_over=average_over, heads=heads):
                shared = shared_models([on_a, on_b])
                if on_a.data == on_b.data:
                    reasons.append(f"{on_a.task} and {on_b.task} were both tested on {on_a.data}")
                elif len(shared) < 2:
                    reasons.append(
                        f"{on_a.task} on {on_a.cohort} and {name} on {on_b.cohort} share {len(shared)} encoders"
                    )
                else:
                    found.append(_held(on_a, on_b))
    if not found:
        said = "; ".join(dict.fromkeys(reasons))
        raise EvalfmError(f"Nothing can be validated on another data set: {said}. Test the same encoders on both.")
    return found


def _held(on_a: Comparison, on_b: Comparison) -> ExternalValidation:
    shared = shared_models([on_a, on_b])
    names, entries = list(shared), list(shared.values())
    a = differences_of(on_a, [each[0] for each in entries])
    b = differences_of(on_b, [each[1] for each in entries])
    known = {frozenset((each.first, each.second)): each.p for each in on_a.every_pair}
    places = [(one, other) for one in range(len(names)) for other in range(one + 1, len(names))]
    significant = []
    for (one, other), mine, its in zip(places, a, b, strict=True):
        p = known[frozenset((entries[one][0].name, entries[other][0].name))]
        if p is not None and p < ALPHA:
            significant.append((one, other, mine, its, p))
    raw = [float("nan") if its.p is None else its.p for *_, its, _ in significant]
    corrected = [None if p != p else float(p) for p in holm(raw)]
    pairs = []
    for (one, other, mine, its, p), on_b_p in zip(significant, corrected, strict=True):
        if mine.value < 0:
            one, other, mine, its = other, one, negated(mine), negated(its)
        pairs.append(PairOnB(names[one], names[other], mine, its, p, on_b_p, its.value > 0))
    try:
        tau = kendall(*([goodness(table, each[place]) for each in entries] for place, table in enumerate((on_a, on_b))))
    except ValueError:
        tau = None
    return ExternalValidation(
        on_a.task,
        on_a.cohort,
        on_b.task,
        on_b.cohort,
        on_a.metric,
        tuple(names),
        tuple(pairs),
        sum(each.keeps_sign for each in pairs),
        tau,
        on_a.speaks_of,
        on_b.speaks_of,
    )
