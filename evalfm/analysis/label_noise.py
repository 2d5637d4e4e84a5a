"""Does the answer stand if labels are wrong: comparisons anew on labels flipped at stated rates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfm.analysis.compare import ALPHA, of_cohort
from evalfm.analysis.pairing import Paired, pair, pair_tables
from evalfm.analysis.table import Line, TaskTable, plain_runs, task_tables
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.statistics.comparison import Difference, holm
from evalfm.statistics.label_noise import auroc_ceiling, flip_labels
from evalfm.tasks.kinds import Kind, kind_of

DRAWS = 200
TRIED = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)
"""Rates at which the order is looked for, the larger of the two; beyond the last nothing is said."""
STANDS = 0.95
"""Share of the draws in which an order must hold to be called so."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class FlipRates:
    """How often labels are wrong: positives that are ``missed``, and negatives that are ``false`` positives.

    >>> FlipRates.parse(".1/.02"), str(FlipRates.parse("0.05"))
    (FlipRates(missed=0.1, false=0.02), '5 %')
    """

    missed: float
    false: float

    @classmethod
    def parse(cls, text: str) -> FlipRates:
        """Read ``.05`` for both, or ``.1/.02`` for missed positives and false positives.

        Raises:
            EvalfmError: it is neither, or a rate is not from 0 to .5.
        """
        parts = text.strip().split("/")
        try:
            missed, false = map(float, parts if len(parts) == 2 else parts * 2)
        except ValueError:
            missed = false = -1.0
        if not (0 <= missed < 0.5 and 0 <= false < 0.5 and missed + false > 0):
            raise EvalfmError(
                f"{text!r} is no rate of wrong labels; write one below .5 such as .05, or two for missed positives and "
                "false positives such as .1/.02."
            )
        return cls(missed, false)

    def __str__(self) -> str:
        if self.missed == self.false:
            return f"{100 * self.missed:g} %"
        return f"{100 * self.missed:g} % of positives missed, {100 * self.false:g} % of negatives called positive"


@dataclass(frozen=True)
class PairUnderNoise:
    """A pair of lines that differ significantly: ``better`` before ``worse``.

    Attributes:
        order: share of the draws in which the estimates keep that order.
        significant: in which the difference is significant too, in the same direction.
    """

    better: str
    worse: str
    order: float
    significant: float


@dataclass(frozen=True)
class UnderNoise:
    """A comparison at one rate.

    Attributes:
        rates: in words; ``missed`` and ``false`` as numbers.
        best_first: share of the draws in which the line with the best estimate is the same.
        best_set: share of the draws in which each line is in the best set, by its name.
        pairs: those that differ significantly on the labels as they are.
        stands: share of the draws in which all of these keep their order; None where there are none.
        ceilings: by label the AUROC of a perfect model if the labels at hand had these errors; None where they cannot.
    """

    rates: str
    missed: float
    false: float
    best_first: float
    best_set: dict[str, float]
    pairs: tuple[PairUnderNoise, ...]
    stands: float | None
    ceilings: dict[str, float | None]


@dataclass(frozen=True)
class LabelNoise:
    """What flipped labels do to a comparison.

    Attributes:
        best: the line with the best estimate.
        draws: how often labels were flipped at each rate, each image by itself.
        up_to: the largest of the rates tried up to which every significant pair keeps its order in 95 % of the draws,
            in words; None where there is no such pair, or the order is lost at the smallest one.
        bound: the largest that was tried, in words.
    """

    task: str
    cohort: str
    metric: str
    best: str
    draws: int
    under: tuple[UnderNoise, ...]
    up_to: str | None
    bound: str

    @property
    def sentences(self) -> list[str]:
        """What is found, in words."""
        said = []
        for each in self.under:
            said.append(f"Labels wrong at {each.rates}: {self.best} stays first in {each.best_first:.0%} of the draws.")
            said += [
                f"{pair.better} stays before {pair.worse} in {pair.order:.0%}, significantly in {pair.significant:.0%}."
                for pair in each.pairs
            ]
            for label, ceiling in each.ceilings.items():
                if ceiling is None:
                    said.append(
                        f"Labels of {label} cannot be wrong so often: they hold too few positives or negatives."
                    )
                else:
                    said.append(
                        f"If those of {label} are wrong so often, a perfect model's AUROC on them is {ceiling:.3f}."
                    )
        if not self.under[0].pairs:
            said.append("No two models differ significantly on the labels as they are: there is no order to lose.")
        elif self.up_to is None:
            said.append(f"The order of significant pairs is lost in more than 5 % of the draws at {_tried(0)} already.")
        else:
            beyond = " (the largest tried)" if self.up_to == self.bound else ""
            said.append(f"Every significant pair keeps its order in 95 % of the draws up to {self.up_to}{beyond}.")
        return said

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "sentences": self.sentences}


def _tried(place: int) -> str:
    return f"{100 * TRIED[place]:g} %"


def noise_of_runs(
    runs: Iterable[Run],
    rates: Sequence[FlipRates],
    *,
    task: str | None = None,
    cohort: str | None = None,
    metric: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[LabelNoise]:
    """The comparisons of ``runs`` under each of ``rates``, as ``compare`` divides them.

    Raises:
        EvalfmError: the task is no yes-or-no question, or runs cannot be paired.
    """
    tables = [each for each in task_tables(plain_runs(runs)) if task in (None, each.task)]
    tables = of_cohort(tables, cohort) if cohort is not None else tables
    shown = [each for each in tables if not all(line.baseline for line in each.lines)]
    return [label_noise(each, rates, metric, draws=draws, seed=seed) for each in shown]


def label_noise(
    table: TaskTable, rates: Sequence[FlipRates], metric: str | None = None, *, draws: int = DRAWS, seed: int = 0
) -> LabelNoise:
    """The lines of ``table`` that are no baselines, compared on test labels that are flipped at each of ``rates``.

    Labels as they are stand for the truth: a draw shows what labels with such errors would have said. Each image is
    flipped by itself, with the same draws at every rate.

    Raises:
        EvalfmError: the task is no yes-or-no question, or runs cannot be paired.
    """
    lines = [line for line in table.lines if not line.baseline]
    run = lines[0].runs[0]
    kind = kind_of(run.kind)
    if not kind.yes_or_no:
        raise EvalfmError(f"--label-noise is for yes-or-no labels, and {table.task} is {run.kind}.")
    paired = pair(lines, metric)
    every = list(combinations(range(len(lines)), 2))
    values = _values(paired)
    found = paired.differences(every) if every else []
    best = _first(values, paired.lower_is_better)
    signs = {each: _sign(one) for each, one, p in zip(every, found, _holm(found), strict=True) if p < ALPHA}
    names = [_name(line) for line in lines]
    under = []
    for rate in rates:
        orders, significant, sets = _Counts(signs), _Counts(signs), np.zeros(len(lines))
        first = stands = valid = 0
        for noisy in _drawn(paired, kind, rate, draws, seed):
            now, contrasts = _values(noisy), noisy.differences(every) if every else []
            adjusted, found_signs = _holm(contrasts), [_sign(each) for each in contrasts]
            first += _first(now, paired.lower_is_better) == best
            stands += orders.add(every, found_signs, np.zeros(len(every)))
            significant.add(every, found_signs, adjusted)
            sets += _best_set(now, every, adjusted, paired.lower_is_better)
            valid += 1
        pairs = tuple(
            PairUnderNoise(
                *_ordered(names, each, sign, paired), orders.share(each, valid), significant.share(each, valid)
            )
            for each, sign in signs.items()
        )
        under.append(
            UnderNoise(
                str(rate),
                rate.missed,
                rate.false,
                first / valid,
                dict(zip(names, (sets / valid).tolist(), strict=True)),
                pairs,
                stands / valid if signs else None,
                _ceilings(paired, kind, rate),
            )
        )
    up_to = _up_to(paired, kind, signs, rates[0], draws, seed) if signs else None
    return LabelNoise(
        table.task,
        table.cohort,
        paired.metric,
        names[best],
        draws,
        tuple(under),
        up_to,
        str(_scaled(rates[0], TRIED[-1])),
    )


class _Counts:
    """In how many draws each pair has the sign that it has on the data."""

    def __init__(self, signs: dict[Pair, int]) -> None:
        self.signs, self.count = signs, dict.fromkeys(signs, 0)

    def add(self, every: Sequence[Pair], signs: Sequence[int], p: NDArray[np.float64]) -> bool:
        """Count a draw, a pair where its p is below 5 %; whether all count."""
        now = {each: sign if one < ALPHA else 0 for each, sign, one in zip(every, signs, p, strict=True)}
        held = {each: now[each] == sign for each, sign in self.signs.items()}
        for each, holds in held.items():
            self.count[each] += holds
        return all(held.values())

    def share(self, each: Pair, draws: int) -> float:
        """Of the draws in which it counted."""
        return self.count[each] / draws


def _drawn(paired: Paired, kind: Kind, rate: FlipRates, draws: int, seed: int) -> Iterator[Paired]:
    """The same lines on flipped labels, draw by draw; a draw that leaves too few of a class is drawn anew.

    Raises:
        EvalfmError: most draws leave too few.
    """
    scored = [rows.scored for rows in paired.of_runs.rows]
    first, generator, made, tried = scored[0], np.random.default_rng(seed), 0, 0
    columns = kind.truth_columns(first.class_names)
    lesions = [each.lesions for each in scored]
    while made < draws:
        tried += 1
        if tried > 2 * draws:
            raise EvalfmError(f"At {rate} most draws leave too few images of a class; give smaller rates.")
        uniform = generator.random((len(columns), len(first.table)))
        flipped = {
            name: flip_labels(first.table[name].to_numpy(np.float64), rate.missed, rate.false, each)
            for name, each in zip(columns, uniform, strict=True)
        }
        tables = [each.table.assign(**flipped) for each in scored]
        try:
            found = pair_tables(kind.name, paired.metric, tables, first.class_names, paired.unit, lesions)
        except EvalfmError:
            continue
        made += 1
        yield replace(paired, of_runs=found)


def _values(paired: Paired) -> NDArray[np.float64]:
    return np.array([paired.statistic(line).on_the_data() for line in range(len(paired.seeds))])


def _first(values: NDArray[np.float64], lower: bool) -> int:
    return int(np.argmin(values) if lower else np.argmax(values))


def _sign(difference: Difference) -> int:
    return int(np.sign(difference.value))


def _holm(found: Sequence[Difference]) -> NDArray[np.float64]:
    """Adjusted p of each; 1 where it has none."""
    if not found:
        return np.empty(0)
    adjusted = holm([float("nan") if each.p is None else each.p for each in found])
    return np.where(np.isnan(adjusted), 1.0, adjusted)


def _best_set(
    values: NDArray[np.float64], every: Sequence[Pair], p: NDArray[np.float64], lower: bool
) -> NDArray[np.float64]:
    """1 for every line that is not significantly worse than the first."""
    best, inside = _first(values, lower), np.ones(len(values))
    for each, one in zip(every, p, strict=True):
        if best in each and one < ALPHA:
            inside[each[0] if each[1] == best else each[1]] = 0.0
    return inside


def _ordered(names: Sequence[str], each: Pair, sign: int, paired: Paired) -> tuple[str, str]:
    one, other = (names[place] for place in each)
    return (one, other) if (sign > 0) != paired.lower_is_better else (other, one)


def _ceilings(paired: Paired, kind: Kind, rate: FlipRates) -> dict[str, float | None]:
    """By label, whose prevalence is that of the test images where it is known."""
    scored = paired.of_runs.rows[0].scored
    columns = zip(scored.class_names, kind.truth_columns(scored.class_names), strict=True)
    shares = {name: float(np.nanmean(scored.table[column].to_numpy(np.float64))) for name, column in columns}
    return {
        name: auroc_ceiling(share, rate.missed, rate.false) if 0 < share < 1 else None for name, share in shares.items()
    }


def _scaled(rates: FlipRates, most: float) -> FlipRates:
    """The same proportion of both rates, the larger at ``most``."""
    larger = max(rates.missed, rates.false)
    return FlipRates(most * rates.missed / larger, most * rates.false / larger)


def _up_to(paired: Paired, kind: Kind, signs: dict[Pair, int], rates: FlipRates, draws: int, seed: int) -> str | None:
    """The largest rate tried up to which the order holds, by the estimates alone."""
    last = None
    for most in TRIED:
        rate = _scaled(rates, most)
        lost = 0
        try:
            for noisy in _drawn(paired, kind, rate, draws, seed):
                values = _values(noisy)
                lost += any(np.sign(values[one] - values[other]) != sign for (one, other), sign in signs.items())
                if lost > (1 - STANDS) * draws:
                    return last
        except EvalfmError:
            return last
        last = str(rate)
    return last


def _name(line: Line) -> str:
    return " · ".join((line.encoder, line.head, *({line.adaptation} - {"frozen"})))
