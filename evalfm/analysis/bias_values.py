"""The subgroup report of masks and measurements: Dice, false alarms and errors by attribute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfm.analysis.attributes import Attribute, covariates, usable
from evalfm.analysis.predictions import Predictions
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.statistics.association import MeanDifference, mean_difference
from evalfm.statistics.comparison import benjamini_hochberg
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import identify, mean_over_folds
from evalfm.tasks.kinds import BASE_TO_NOVEL

ALPHA = 0.05
SUMS_TO_ONE = 1e-4
"""How far probabilities of float32 may be from that."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """One level: its size and the mean of the value."""

    level: str
    images: int
    patients: int
    mean: Estimate


@dataclass(frozen=True)
class Gap:
    """One level against all others that are known; ``corrected`` is p after Benjamini and Hochberg over the report."""

    level: str
    difference: MeanDifference
    corrected: float | None
    verdict: str


@dataclass(frozen=True)
class ValueOutcome:
    """One value by one attribute.

    Attributes:
        name: what is measured, and on which images.
        held: what the gaps are adjusted for.
    """

    name: str
    attribute: str
    held: tuple[str, ...]
    unknown: int
    levels: tuple[Level, ...]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class ValueBias:
    """The subgroup report of one model of masks or measurements; ``left_out`` as in ``Bias``."""

    model: str
    images: int
    unit: str
    outcomes: tuple[ValueOutcome, ...]
    cautions: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Measure:
    """A value per image [N], the images it is of, and what it goes with by its nature."""

    name: str
    values: Values
    rows: NDArray[np.bool_]
    held: dict[str, Values]


def bias_of_values(
    of: Run | Predictions,
    by: Sequence[str],
    *,
    label: str | None = None,
    adjust: Sequence[str] = (),
    seed: int = 0,
) -> ValueBias:
    """The report of a segmentation, regression or ordinal run by each attribute.

    Dice is of images with the finding, adjusted for the logarithm of the lesion's area; the predicted area is of images
    without it. Errors of measurements are adjusted for the truth. A grade is measured by its expected number, the sum
    of the classes' numbers times their probabilities. ``label`` keeps one of several masks.

    Raises:
        EvalfmError: the run is of another kind, its scores are no probabilities, or an attribute cannot be used.
    """
    if not by:
        raise EvalfmError("Say what to look at, such as --by chest_tube,sex,age:65,view.")
    found = of if isinstance(of, Predictions) else Predictions.of_run(of)
    table, kind, unit = found.table, found.kind, found.unit
    if kind == "segmentation":
        names = [name for name in found.class_names if label in (None, name)]
        measures = [each for name in names for each in _masks(table, name)]
    elif kind == "regression":
        measures = _errors(table["target"], table["prediction"], "absolute error", "prediction − truth")
    elif kind == "ordinal":
        scores = table[[f"score_{name}" for name in found.class_names]].to_numpy(np.float64)
        if scores.min() < 0 or np.abs(scores.sum(axis=1) - 1).max() > SUMS_TO_ONE:
            raise EvalfmError(
                f"The scores of {found.source} are no probabilities, so there is no expected grade; ask a class with "
                "--label."
            )
        expected = scores @ np.arange(scores.shape[1])
        measures = _errors(table["target"], expected, "absolute error in grades", "expected − true grade")
    elif kind == BASE_TO_NOVEL:
        raise EvalfmError(f"{found.source} tried its classes in halves, which has no score to ask by attribute.")
    else:
        raise EvalfmError(f"{found.source} answers a {kind} task, which is reported by its labels and has no errors.")
    outcomes = []
    attributes_used, reasons = usable(table, by)
    if not attributes_used:
        raise EvalfmError(" ".join(reasons))
    for attribute in attributes_used:
        own = {part.split(":")[0].strip() for part in attribute.name.split("*")}
        extra = covariates(table, [name for name in adjust if name not in own])
        outcomes += [_outcome(each, attribute, found.patient, extra, unit, seed) for each in measures]
    return ValueBias(
        found.model,
        len(table),
        unit,
        tuple(_corrected(outcomes)),
        found.cautions,
        tuple(reasons),
    )


def _masks(table: Any, name: str) -> list[_Measure]:
    area = table[f"area_true_{name}"].to_numpy(np.float64)
    there = area > 0
    logarithm = np.log(np.where(there, area, 1.0))
    return [
        _Measure(
            f"Dice of {name} where it is there",
            table[f"dice_{name}"].to_numpy(np.float64),
            there,
            {"log area": logarithm},
        ),
        _Measure(
            f"predicted area of {name} where it is not",
            table[f"area_predicted_{name}"].to_numpy(np.float64),
            area == 0,
            {},
        ),
    ]


def _errors(target: Any, prediction: Any, size: str, signed: str) -> list[_Measure]:
    truth = np.asarray(target, dtype=np.float64)
    error: Values = np.asarray(prediction, dtype=np.float64) - truth
    every = np.isfinite(truth)
    return [_Measure(size, np.abs(error), every, {"truth": truth}), _Measure(signed, error, every, {"truth": truth})]


def _outcome(
    measure: _Measure,
    attribute: Attribute,
    patient: NDArray[np.object_],
    extra: dict[str, Values],
    unit: str,
    seed: int,
) -> ValueOutcome:
    used = measure.rows & np.isfinite(measure.values)
    known = used & (attribute.codes >= 0)
    levels = tuple(
        _level(name, measure.values, known & (attribute.codes == number), patient, unit, seed)
        for number, name in enumerate(attribute.levels)
    )
    held = {**measure.held, **extra}
    chosen = range(len(attribute.levels)) if len(attribute.levels) > 2 else [len(attribute.levels) - 1]
    gaps = []
    for number in chosen:
        difference = mean_difference(
            measure.values[known],
            attribute.codes[known] == number,
            patient[known],
            {name: column[known] for name, column in held.items()},
        )
        gaps.append(Gap(attribute.levels[number], difference, None, ""))
    unknown = int((used & (attribute.codes < 0)).sum())
    return ValueOutcome(measure.name, attribute.name, tuple(held), unknown, levels, tuple(gaps))


def _level(
    name: str, values: Values, rows: NDArray[np.bool_], patient: NDArray[np.object_], unit: str, seed: int
) -> Level:
    count = int(rows.sum())
    if count == 0:
        return Level(name, 0, 0, Estimate.absent("no such image", unit=unit))
    patients = identify(patient[rows])
    measured = {"mean": Measured(mean_over_folds(values[rows], patients), patients.count, "no such image")}
    return Level(name, count, patients.count, estimates(measured, patients, seed=seed, unit=unit)["mean"])


def _corrected(outcomes: Sequence[ValueOutcome]) -> list[ValueOutcome]:
    raw = [np.nan if gap.difference.p is None else gap.difference.p for each in outcomes for gap in each.gaps]
    adjusted = iter(benjamini_hochberg(raw).tolist())
    made = []
    for outcome in outcomes:
        gaps = []
        for gap in outcome.gaps:
            p = next(adjusted)
            corrected = None if np.isnan(p) else float(p)
            gaps.append(replace(gap, corrected=corrected, verdict=_verdict(outcome, gap, corrected)))
        made.append(replace(outcome, gaps=tuple(gaps)))
    return made


def _verdict(outcome: ValueOutcome, gap: Gap, p: float | None) -> str:
    """Associational words; nothing is ever called free of bias."""
    what = f"{outcome.attribute} = {gap.level}"
    found = gap.difference
    if p is None or found.value is None or found.low is None or found.high is None:
        return f"{outcome.name}: cannot be said for {what} ({found.reason or 'it has no spread'})."
    if p < ALPHA:
        way = "higher" if found.value > 0 else "lower"
        near, far = sorted((abs(found.low), abs(found.high)))
        return f"{outcome.name} is {way} with {what} by {abs(found.value):.3g} [{near:.3g}, {far:.3g}]: an association."
    could = f"one of {found.detectable:.3g} could have been detected with 80 % power"
    return f"{outcome.name}: no difference with {what} was detected; {could}."
