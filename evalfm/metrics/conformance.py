"""What every metric must be: right, with an interval that covers, a fair contrast, a direction, and null with a reason.

For evalfm's own metrics and those of other packages: each is held against a reference on predictions that are drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.errors import EvalfmError
from evalfm.metrics.metric import Contrast, Metric
from evalfm.metrics.rows import ROWS, Rows, Scored
from evalfm.statistics.classification import base_classes
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import bootstrap

Oracle = Callable[[Any], float]
"""The reference value on the rows that a metric is of; NaN where it has none."""

NAMES = {"binary": ("ptx",), "regression": (), "segmentation": ("heart",)}
SEVERAL = ("edema", "mass", "nodule", "effusion")
NAN = float("nan")
DRAWS, FEWEST, LARGE = 100, 80, 20_000
"""Draws by which coverage is measured, patients in each, and patients that stand for everybody."""


def check(metric: Metric, oracle: Oracle) -> None:
    """Hold a metric to all that evalfm's own are held to, in every kind of task that it is of.

    Args:
        metric: as it is offered by the entry point.
        oracle: from the rows that it is measured on to its value, computed in another way; NaN where it has none.

    Raises:
        EvalfmError: what it fails, in one sentence.

    >>> from evalfm.metrics import mean_among
    >>> misses = Metric("misses", ("regression",), better="lower", measure=lambda rows: mean_among(
    ...     rows, abs(rows.prediction - rows.target) > 1, undefined="no image"))
    >>> check(misses, lambda rows: np.mean(abs(rows.prediction - rows.target) > 1))
    """
    for kind in metric.kinds:
        check_values(metric, kind, oracle)
    for kind in metric.of_class:
        check_values(replace(metric, kinds=()), kind, oracle)
    for kind in metric.kinds:
        covered, width = coverage(kind, [metric]).get(metric.name, (0.95, 1.0))
        # Of 100 draws at 95 % fewer than 84 have probability 1e-5.
        _need(metric, covered >= 0.84, f"an interval that holds the true value in more than {covered:.0%} of draws")
        _need(metric, 0.6 < width < 1.5, f"an interval as wide as it varies, not {width:.1f} times as wide")


def check_values(
    metric: Metric,
    kind: str,
    oracle: Oracle,
    *,
    moves: bool = True,
    drawn: Callable[[Scored], Scored] = lambda scored: scored,
) -> None:
    """The same but for the interval's coverage, in one kind of task.

    Args:
        metric: of ``kind``, as it is or of each class.
        kind: of task.
        oracle: as in ``check``.
        moves: False for a metric of answers that hang on no predictor.
        drawn: brings drawn predictions to where the metric is defined.

    Raises:
        EvalfmError: what it fails, in one sentence.
    """

    def estimated(scored: Scored) -> Estimate:
        return _estimated(metric, rows_of(metric, kind, drawn(scored)), scored)

    good, poor = (draw(kind, skill, seed) for seed, skill in enumerate((0.95, 0.3)))
    found, expected = estimated(poor), oracle(rows_of(metric, kind, drawn(poor)))
    _need(metric, _close(found.value, expected, 1e-6), f"the reference value {expected:.6g}, not {found.value}")
    bounded = found.low is not None and found.high is not None and found.low <= (found.value or 0.0) <= found.high
    _need(metric, bool(found.reason) or bounded, "an interval around the value, or a reason why there is none")
    if metric.better is not None and moves:
        _need(
            metric,
            metric.badness(estimated(good).value) < metric.badness(found.value),
            "a better value for a better predictor",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for scored in hopeless(kind):
            _is_null_with_a_reason(metric, estimated(scored), oracle, rows_of(metric, kind, drawn(scored)))
    if metric.contrast is not None:
        rows = [rows_of(metric, kind, drawn(each)) for each in (good, poor, good)]
        _is_paired_fairly(metric, metric.contrast, rows)


def coverage(kind: str, metrics: Iterable[Metric]) -> dict[str, tuple[float, float]]:
    """How often the interval of each holds what is true of everybody, and its mean width over that of 95 % of draws.

    Metrics that have no interval with a stated reason are left out; they must be of ``kind`` as a whole.

    Raises:
        EvalfmError: a metric has an interval in few of the draws.
    """
    every = list(metrics)
    everybody = ROWS[kind](draw(kind, 0.5, seed=999, truth=999, patients=LARGE))
    drawn: list[dict[str, Estimate]] = []
    for seed in range(DRAWS):
        scored = draw(kind, 0.5, seed, FEWEST, truth=seed + 1)
        rows = ROWS[kind](scored)
        drawn.append(estimates({each.name: each.measure(rows) for each in every}, scored.patients, resamples=200))
    found = {}
    for metric in every:
        here = [each[metric.name] for each in drawn]
        bounds = np.array([(each.low, each.high, each.value) for each in here if each.low is not None], dtype=float)
        if not len(bounds):
            _need(metric, bool(here[0].reason), "an interval, or a reason why there is none")
            continue
        _need(metric, len(bounds) > 0.9 * DRAWS, f"an interval in more than {len(bounds)} of {DRAWS} draws")
        whole = metric.measure(everybody)
        truth = whole.statistic.on_the_data() if isinstance(whole, Measured) else NAN
        low, high, value = bounds.T
        width = (high - low).mean() / (2 * 1.96 * value.std())
        found[metric.name] = (float(np.mean((low <= truth) & (truth <= high))), float(width))
    return found


def rows_of(metric: Metric, kind: str, scored: Scored) -> Any:
    """The rows that ``metric`` is of: all, or those of the first class."""
    rows = ROWS[kind](scored)
    return rows if kind in metric.kinds else next(iter(rows.of_class.values()), rows)


def draw(kind: str, skill: float, seed: int = 0, patients: int = 120, truth: int = 0) -> Scored:
    """Predictions for two images of each patient: ``skill`` in [0, 1] is how much a predictor sees.

    Without skill it is rash and biased too.

    >>> draw("regression", skill=0.9, patients=3).table.shape
    (6, 3)
    """
    people, noise = np.random.default_rng(truth), np.random.default_rng([seed, 1])
    n = 2 * patients
    table = pd.DataFrame({"patient": np.repeat([f"p{each:05}" for each in range(patients)], 2)})
    names = NAMES.get(kind, SEVERAL)
    if kind == "regression":
        target = people.normal(2, 1, n)
        prediction = target + (1 - skill) * (1.5 * noise.normal(size=n) + 0.5)
        return Scored(table.assign(target=target, prediction=prediction), names, True)
    if kind == "segmentation":
        table = table.assign(id=[f"i{each:05}" for each in range(n)], **_masks(people, noise, skill, n))
        return Scored(table, names, True, lesions=_lesions(table, noise, skill))
    if kind in ("binary", "multilabel"):
        for name in names:
            # What can be known of the image, of which the label is drawn.
            sure = np.repeat(people.normal(0, 1.5, patients), 2) + people.normal(0, 1, n)
            label = (people.random(n) < 1 / (1 + np.exp(-sure))).astype(float)
            seen = skill * sure + (1 - skill) * (4 * noise.normal(size=n) - 2)
            score = 1 / (1 + np.exp(-seen))
            if kind == "binary":
                found = table.assign(target=label, score_ptx=score, calibrated_ptx=score, threshold=0.4)
                return Scored(found, names, True)
            label[people.random(n) < 0.2] = NAN
            columns = {f"target_{name}": label, f"score_{name}": score, f"threshold_{name}": np.full(n, 0.4)}
            table = table.assign(**columns)
        return Scored(table, names, True)
    label = people.integers(0, 4, n)
    seen = -1.5 * skill * np.abs(np.arange(4) - label[:, None]) + (2 - skill) * noise.normal(size=(n, 4))
    if kind == "base-to-novel":
        base = base_classes(4)
        seen = np.where((np.arange(4) < base) == (label < base)[:, None], seen, NAN)
        scores = np.exp(seen)
    else:
        scores = np.exp(seen) / np.exp(seen).sum(axis=1, keepdims=True)
        calibrated = scores * 0.9 + 0.025
        table = table.assign(**dict(zip((f"calibrated_{name}" for name in names), calibrated.T, strict=True)))
    columns = dict(zip((f"score_{name}" for name in names), scores.T, strict=True))
    return Scored(table.assign(target=label.astype(float), **columns), names, True)


def _masks(people: np.random.Generator, noise: np.random.Generator, skill: float, n: int) -> dict[str, NDArray[Any]]:
    there = np.repeat(people.random(n // 2) < 0.5, 2)
    found = np.where(there, noise.random(n) < 0.5 + 0.4 * skill, noise.random(n) < 0.5 - 0.4 * skill)
    hit = there & found
    overlap = np.where(hit, np.clip(0.2 + 0.6 * skill + 0.1 * noise.normal(size=n), 0.01, 1), ~there & ~found)
    columns = {
        "area_true": there * 0.1,
        "area_predicted": found * noise.uniform(0.05, 0.15, n),
        "dice": overlap,
        "iou": overlap / (2 - overlap),
        "hd95": np.where(hit, 30 - 20 * skill + noise.normal(size=n), np.where(there | found, 60, NAN)),
        "nsd": np.where(there | found, overlap**2, NAN),
        "score": 1 / (1 + np.exp(-noise.normal(size=n) - 2 * skill * there)),
        "distance_unit": np.where(np.arange(n) % 4 < 2, "mm", "pixels"),
    }
    columns |= {
        "lesions": there + there * (np.arange(n) % 2),
        "lesions_found": hit * 1.0,
        "false_positives": noise.poisson(1.5 * (1 - skill), n).astype(float),
    }
    return {f"{name}_heart": values for name, values in columns.items()}


def _lesions(table: pd.DataFrame, noise: np.random.Generator, skill: float) -> pd.DataFrame:
    """Rows that agree with the counts of ``_masks``; candidates that hit have the higher scores."""
    rows = []
    counts = table[["id", "lesions_heart", "lesions_found_heart", "false_positives_heart"]]
    for name, lesions, found, false in counts.itertuples(index=False):
        for lesion, matched, times in ((True, True, found), (True, False, lesions - found), (False, False, false)):
            for _ in range(int(times)):
                score = noise.normal(2 * skill * matched)
                rows.append((name, "heart", lesion, matched, NAN if lesion > matched else score, 0.01, NAN))
    columns = ["id", "finding", "lesion", "matched", "score", "share", "area_mm2"]
    return pd.DataFrame(rows, columns=columns).astype({"lesion": bool, "matched": bool, "score": float})


def hopeless(kind: str) -> list[Scored]:
    """Predictions of which many a metric cannot be had: of one class, of few patients, of one, or constant.

    >>> [len(each.table) for each in hopeless("binary")]
    [240, 240, 240, 240, 12, 2, 1]
    """
    drawn = draw(kind, 0.5)
    if kind == "base-to-novel":
        drawn = replace(drawn, table=drawn.table.fillna(0.01))
    names = list(map(str, drawn.table))
    truth = [name for name in names if name.startswith(("target", "area_true"))]
    guess = [name for name in names if name.startswith(("score", "prediction", "area_predicted"))]
    wild = [name for name in names if name.startswith(("score", "calibrated"))]
    tables = [
        drawn.table.assign(**dict.fromkeys(truth, 0.0)),
        drawn.table.assign(**dict.fromkeys(truth, 1.0)),
        drawn.table.assign(**dict.fromkeys([*truth, *guess], 0.0)),
        drawn.table.assign(**{name: drawn.table[name] * 9 for name in wild}),
        drawn.table[:12],
        drawn.table[:2],
        drawn.table[:1],
    ]
    # An image without any mask has no distance, and another has one.
    filled = [table.fillna({"hd95_heart": 60.0, "nsd_heart": 0.0}) for table in tables]
    return [replace(drawn, table=table.reset_index(drop=True), resamples=50) for table in filled]


def _estimated(metric: Metric, rows: Rows, scored: Scored) -> Estimate:
    return estimates({"": metric.measure(rows)}, scored.patients, resamples=scored.resamples)[""]


def _is_null_with_a_reason(metric: Metric, found: Estimate, oracle: Oracle, rows: Rows) -> None:
    _need(metric, found.value is not None or bool(found.reason), "a reason where it has no value")
    _need(metric, found.low is not None or bool(found.reason), "a reason where it has no interval")
    if found.value is not None:
        # What the reference cannot give is no number here either, above all not 0.
        expected = oracle(rows)
        _need(
            metric,
            _close(found.value, expected, 1e-4),
            f"the reference value {expected:.6g} or none, not {found.value}",
        )


def _is_paired_fairly(metric: Metric, contrast: Contrast, rows: list[Any]) -> None:
    """Of a good run, a poor one, and the good one again."""
    paired = contrast.prepare(rows)
    there, back, same = contrast.test(paired, np.array([[1.0, -1, 0], [-1, 1, 0], [1, 0, -1]]))
    apart = (there.value, there.standard_error, there.p)
    mirrored = (-back.value, back.standard_error, back.p)
    agree = all(_close(one, other, 1e-6) for one, other in zip(apart, mirrored, strict=True))
    _need(metric, agree, "a contrast of first and second that is minus that of second and first, and as sure")
    _need(metric, (same.value, same.p) == (0.0, 1.0), "no difference between equal runs")
    measured = map(metric.measure, paired[:2])
    statistics = {str(place): each.statistic for place, each in enumerate(measured) if isinstance(each, Measured)}
    _need(metric, len(statistics) == 2, "an estimate where runs are paired by it")
    resampled = bootstrap(statistics, paired[0].patients, resamples=400)
    spread = float(np.nanstd(resampled["0"] - resampled["1"]))
    fair = there.p is not None and 0.7 < there.standard_error / spread < 1.4
    _need(metric, fair, "a contrast as sure as the difference varies when patients are drawn again")
    first, second = (_estimated(metric, each, each.scored).value for each in paired[:2])
    both = first is not None and second is not None
    _need(metric, both and _close(there.value, first - second, 1e-6), "a contrast that is the difference of estimates")  # type: ignore[operator]


def _close(value: float | None, expected: float | None, tolerance: float) -> bool:
    if value is None or expected is None:
        return value is expected
    return bool(np.isclose(value, expected, rtol=tolerance, atol=tolerance))


def _need(metric: Metric, there: bool, what: str) -> None:
    if not there:
        raise EvalfmError(f"The metric {metric.name!r} needs {what}.")
