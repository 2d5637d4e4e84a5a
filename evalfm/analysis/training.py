"""What another training sample would have changed of a comparison, by what the runs hold: refits, draws, or folds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.config import FEWEST_REFITS
from evalfm.errors import EvalfmError
from evalfm.metrics.metric import Contrast, Metric
from evalfm.metrics.registry import measurable
from evalfm.metrics.rows import Rows, Scored
from evalfm.run import Run
from evalfm.statistics.comparison import Difference
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import Average, Statistic
from evalfm.statistics.training_variance import Variance, counting, over_draws, over_folds, over_refits

FEWEST_FOLDS = 3
"""From two folds t has one degree of freedom, by which nothing is ever found."""
TRAINED_HEADS = "Differences are of these trained heads: what another training sample would have changed is not counted"
ENCODERS = "Differences are of encoders: errors, p and intervals count what another training sample would have changed"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingSample:
    """The runs behind a comparison, and how far another training sample would have moved each.

    Attributes:
        lines: the runs of each line.
        class_names, unit: of the task.
        name: of the metric; ``metric`` itself.
        contrast: by which the runs are paired.
        rows, measured: of every run, line by line.
    """

    lines: tuple[tuple[Run, ...], ...]
    class_names: tuple[str, ...]
    unit: str
    name: str
    metric: Metric
    contrast: Contrast
    rows: tuple[Rows, ...]
    measured: tuple[Measured, ...]

    def counted(self, differences: Sequence[Difference], weights: Values) -> list[Difference]:
        """``differences``, the contrasts ``weights`` [M, lines], with training variance wherever it can be had.

        That is so where every line of a contrast has refits, or learns nothing; else where all are draws of few
        images; else where there are folds over which the metric is averaged. No other is changed.
        """
        found = list(differences)
        of_run = np.repeat(weights / self._sizes, self._sizes, axis=1)
        drawn: list[int] = []
        for place, difference in enumerate(differences):
            involved = np.flatnonzero(weights[place])
            if all(self._has_refits(int(line)) for line in involved):
                found[place] = self._over_refits(difference, of_run[place])
            elif self._shots(involved) is not None:
                drawn.append(place)
            else:
                found[place] = self._over_folds(difference, of_run[place])
        over_draws = self._over_draws([found[each] for each in drawn], weights[drawn])
        for place, difference in zip(drawn, over_draws, strict=True):
            found[place] = difference
        return found

    @cached_property
    def _sizes(self) -> NDArray[np.intp]:
        return np.array([len(line) for line in self.lines])

    @cached_property
    def _runs(self) -> list[Run]:
        return [run for line in self.lines for run in line]

    def _has_refits(self, line: int) -> bool:
        sections = [run.record.refits for run in self.lines[line]]
        return all(each is not None and (each.numbers or not each.learns) for each in sections)

    @cached_property
    def refits(self) -> Values:
        """The metric of every run in every refit, [R, runs]; NaN where a run has no such refit.

        A run that learns nothing is what it is in all of them.
        """
        stored = [run.refits() for run in self._runs]
        still = [value if _learns_nothing(run) else np.nan for run, value in zip(self._runs, self._values, strict=True)]
        found = []
        for number in sorted({number for each in stored for number in each}):
            again = [number in each for each in stored]
            rows = [
                self._rows(run.kind, each[number]) if has else own
                for run, each, has, own in zip(self._runs, stored, again, self.rows, strict=True)
            ]
            try:
                prepared = self.contrast.prepare(rows)
            except EvalfmError:
                # Some run gives no score of a label in this draw.
                continue
            of_each = zip(prepared, again, still, strict=True)
            found.append([self._value(mine) if has else value for mine, has, value in of_each])
        return np.reshape(np.array(found, dtype=np.float64), (len(found), len(stored)))

    @cached_property
    def _values(self) -> list[float]:
        return [each.statistic.on_the_data() for each in self.measured]

    def _rows(self, kind: str, table: pd.DataFrame) -> Rows:
        scored = Scored(table, self.class_names, self.unit == "patients")
        return measurable(kind, scored, [self.name])[self.name][1]

    def _value(self, rows: Rows) -> float:
        found = self.metric.measure(rows)
        return found.statistic.on_the_data() if isinstance(found, Measured) else float("nan")

    def _over_refits(self, difference: Difference, of_run: Values) -> Difference:
        used = np.flatnonzero(of_run)
        if all(_learns_nothing(self._runs[run]) for run in used):
            alone = Variance(difference.standard_error**2, 0.0, difference.degrees_of_freedom)
            return counting(difference, alone, "nothing learnt")
        values = self.refits[:, used] @ of_run[used]
        values = values[np.isfinite(values)]
        if len(values) < FEWEST_REFITS:
            return difference
        found = over_refits(difference.standard_error**2, values, difference.degrees_of_freedom)
        return counting(difference, found, f"with training variance over {len(values)} refits")

    def _learning(self, lines: NDArray[np.intp]) -> list[int]:
        return [int(line) for line in lines if not all(map(_learns_nothing, self.lines[line]))]

    def _shots(self, lines: NDArray[np.intp]) -> int | None:
        """Images of each class in every run of ``lines`` that learns; None where that is not how they were drawn."""
        configs = [run.record.config for line in self._learning(lines) for run in self.lines[line]]
        shots = {config.shots for config in configs}
        return None if len(shots) != 1 or any(config.folds for config in configs) else shots.pop()

    def _over_draws(self, differences: Sequence[Difference], weights: Values) -> list[Difference]:
        found, able = list(differences), []
        for place, difference in enumerate(differences):
            learning = self._learning(np.flatnonzero(weights[place]))
            runs = [run for line in learning for run in self.lines[line]]
            shots, pools = runs[0].record.config.shots or 0, [run.record.data.pool or 0 for run in runs]
            seeds = [[run.seed for run in self.lines[line]] for line in learning]
            count, words = len(seeds[0]), f"{shots} shot{'s' if shots > 1 else ''}"
            if count > 1 and all(each == seeds[0] for each in seeds) and min(pools) > shots:
                able.append((place, count, shots, min(pools), words))
            else:
                what = f"one draw of {words}" if count == 1 else f"{count} draws of {words}"
                found[place] = replace(difference, method=f"{difference.method}, {what}")
        if not able:
            return found
        # All at once, because they share one covariance.
        by_draw = np.concatenate([self._by_draw(weights[place], count) for place, count, *_ in able])
        of_draws = self.contrast.test(self.rows, by_draw)
        for place, count, shots, pool, words in able:
            mine, of_draws = of_draws[:count], of_draws[count:]
            variances, values = [each.standard_error**2 for each in mine], [each.value for each in mine]
            test = found[place].standard_error ** 2
            variance = over_draws(test, variances, values, images=shots, pool=pool)
            found[place] = counting(found[place], variance, f"with training variance over {count} draws of {words}")
        return found

    def _by_draw(self, weights: Values, draws: int) -> Values:
        """The contrast of each draw alone, by run, [R, runs]; lines that learn nothing are the same in each."""
        starts = np.cumsum(self._sizes) - self._sizes
        of_draw = np.zeros((draws, int(self._sizes.sum())))
        learning = self._learning(np.flatnonzero(weights))
        for line in np.flatnonzero(weights):
            runs = starts[line] + np.arange(self._sizes[line])
            if line in learning:
                of_draw[np.arange(draws), runs] = weights[line]
            else:
                of_draw[:, runs] = weights[line] / len(runs)
        return of_draw

    def _over_folds(self, difference: Difference, of_run: Values) -> Difference:
        """By Nadeau and Bengio, of a metric that is a mean over folds; of any other as it is."""
        used = np.flatnonzero(of_run)
        by_fold = [_by_fold(self.measured[run].statistic) for run in used]
        if any(each is None or len(each) < FEWEST_FOLDS for each in by_fold):
            return difference
        values = of_run[used] @ np.stack([each for each in by_fold if each is not None])
        if not np.isfinite(values).all() or not np.isclose(values.mean(), difference.value, rtol=0, atol=1e-9):
            return difference
        ratio = max(_test_to_train(self._runs[run]) for run in used)
        variance = over_folds(difference.standard_error**2, values, ratio)
        return counting(difference, variance, f"with training variance over {len(values)} folds (conservative)")


def _learns_nothing(run: Run) -> bool:
    return run.record.refits is not None and not run.record.refits.learns


def _by_fold(statistic: Statistic) -> Values | None:
    """The statistic of each fold where it is their mean, of labels or seeds the mean over these; else None."""
    if not isinstance(statistic, Average):
        return None
    if statistic.names == "folds":
        return np.array([term.on_the_data() for term in statistic.terms])
    parts = [_by_fold(term) for term in statistic.terms]
    known = [each for each in parts if each is not None]
    return np.mean(known, axis=0) if len(known) == len(parts) else None


def _test_to_train(run: Run) -> float:
    """Images of a fold's test over those of its train, on average over folds."""
    table, folds = run.predictions(), run.record.data.folds or 1
    images, share = run.record.data.splits.test.images, run.record.config.label_fraction or 1.0
    test = images / folds
    val = float((table["split"] == "val").sum()) / folds
    return test / (share * (images - test - val))


def sentence(differences: Iterable[Difference]) -> str:
    """Of what ``differences`` speak, in a sentence; empty for none."""
    every = list(differences)
    counted = [each for each in every if each.training_error is not None]
    if not every:
        return ""
    if len(counted) == len(every):
        return f"{ENCODERS}."
    if not counted:
        return f"{TRAINED_HEADS}."
    return f"{ENCODERS} in {len(counted)} of {len(every)}; the others are of these trained heads."
