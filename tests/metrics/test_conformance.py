"""What every metric must be: right, with an interval that covers, a fair contrast, a direction, and null with a reason.

A new metric needs an oracle in the table of its rows, and nothing else here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from evalfm.metrics import classes, labels, masks, values
from evalfm.metrics.metric import Contrast, Metric
from evalfm.metrics.registry import METRICS, compute_metrics, measurable
from evalfm.metrics.rows import ROWS, Classes, Masks, Question, Questions, Scored, TrueAndPredicted
from evalfm.statistics.comparison import compare_means
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import mean_over_folds

NAN = float("nan")
NAMES = {"binary": ("ptx",), "regression": (), "segmentation": ("heart",)}
SEVERAL = ("edema", "mass", "nodule", "effusion")
HALF = 2

# Reference values ------------------------------------------------------------------------------------------------


def at(threshold: float | None, score: Callable[..., float], **options: Any) -> Callable[[Question], float]:
    """A rate of scikit-learn, at a threshold or at that of the predictions."""

    def rate(of: Question) -> float:
        if not len(of.label):
            return NAN
        return float(
            score(of.label, of.score >= (of.beside("threshold") if threshold is None else threshold), **options)
        )

    return rate


def npv(label: np.ndarray, called: np.ndarray, **options: Any) -> float:
    return metrics.precision_score(1 - label, ~called, **options)


def balanced(label: np.ndarray, called: np.ndarray, **options: Any) -> float:
    return (metrics.recall_score(label, called, **options) + metrics.recall_score(1 - label, ~called, **options)) / 2


def line(of: Question, which: str) -> float:
    logit = np.log(of.score / (1 - of.score))[:, None]
    if len(set(of.label)) < 2:
        return NAN
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit, of.label)
    return float(fit.coef_[0, 0] if which == "slope" else fit.intercept_[0])


def ece(right: np.ndarray, sure: np.ndarray) -> float:
    gap = (np.asarray(right) - sure)[np.argsort(sure, kind="stable")]
    return float(sum(abs(part.sum()) for part in np.array_split(gap, 15)) / len(gap))


def brier(label: np.ndarray, score: np.ndarray) -> float:
    return float(np.mean((label - score) ** 2))


def area(label: np.ndarray, score: np.ndarray) -> float:
    return float(metrics.roc_auc_score(label, score)) if len(set(label)) == 2 else NAN


UNDEFINED = {"zero_division": np.nan}
RATES: dict[str, tuple[Callable[..., float], dict[str, Any]]] = {
    "sensitivity": (metrics.recall_score, UNDEFINED),
    "specificity": (metrics.recall_score, {"pos_label": 0, **UNDEFINED}),
    "ppv": (metrics.precision_score, UNDEFINED),
    "npv": (npv, UNDEFINED),
    "f1": (metrics.f1_score, UNDEFINED),
    "accuracy": (metrics.accuracy_score, {}),
    "balanced_accuracy": (balanced, UNDEFINED),
}
OF_QUESTION: dict[str, Callable[[Question], float]] = {
    "auroc": lambda of: area(of.label, of.score),
    "auprc": lambda of: metrics.average_precision_score(of.label, of.score) if of.label.any() else NAN,
    **{name: at(None, score, **options) for name, (score, options) in RATES.items()},
    **{f"{name}_default": at(0.5, score, **options) for name, (score, options) in RATES.items()},
    "f1_all_positive": at(-np.inf, metrics.f1_score, **UNDEFINED),
    "brier": lambda of: brier(of.label, of.score),
    "brier_calibrated": lambda of: brier(of.label, of.beside("calibrated")),
    "ece": lambda of: ece(of.label, of.score),
    "ece_calibrated": lambda of: ece(of.label, of.beside("calibrated")),
    "calibration_slope": lambda of: line(of, "slope"),
    "calibration_intercept": lambda of: line(of, "intercept"),
}


def kappa(of: Classes) -> float:
    if len({*of.label, *of.called}) < 2:
        return NAN
    return metrics.cohen_kappa_score(of.label, of.called, weights="quadratic", labels=range(of.scores.shape[1]))


def log_loss(label: np.ndarray, scores: np.ndarray) -> float:
    return float(-np.mean(np.log(np.clip(scores[np.arange(len(label)), label], 1e-6, 1))))


def certainty(label: np.ndarray, scores: np.ndarray) -> float:
    return ece(scores.argmax(axis=1) == label, scores.max(axis=1))


def by_half(label: np.ndarray, called: np.ndarray) -> tuple[float, float]:
    base = label < HALF
    return tuple(float((called == label)[each].mean()) if each.any() else NAN for each in (base, ~base))  # type: ignore[return-value]


def constant(label: np.ndarray) -> np.ndarray:
    often = [np.bincount(label[each]).argmax() if each.any() else 0 for each in (label < HALF, label >= HALF)]
    return np.where(label < HALF, *often)


OF_CLASSES: dict[str, Callable[[Classes], float]] = {
    "accuracy": lambda of: metrics.accuracy_score(of.label, of.called),
    "balanced_accuracy": lambda of: metrics.recall_score(
        of.label, of.called, average="macro", labels=np.unique(of.label), zero_division=0
    ),
    "macro_f1": lambda of: metrics.f1_score(of.label, of.called, average="macro"),
    "weighted_f1": lambda of: metrics.f1_score(of.label, of.called, average="weighted"),
    "quadratic_kappa": kappa,
    "log_loss": lambda of: log_loss(of.label, of.scores),
    "log_loss_calibrated": lambda of: log_loss(of.label, of.scored.of_classes("calibrated")),
    "ece": lambda of: certainty(of.label, of.scores),
    "ece_calibrated": lambda of: certainty(of.label, of.scored.of_classes("calibrated")),
    "accuracy_base": lambda of: by_half(of.label, of.called)[0],
    "accuracy_novel": lambda of: by_half(of.label, of.called)[1],
    "harmonic_mean": lambda of: stats.hmean(by_half(of.label, of.called)),
    "accuracy_base_constant": lambda of: by_half(of.label, constant(of.label))[0],
    "accuracy_novel_constant": lambda of: by_half(of.label, constant(of.label))[1],
    "harmonic_mean_constant": lambda of: stats.hmean(by_half(of.label, constant(of.label))),
}


def varies(of: TrueAndPredicted) -> bool:
    return bool(np.ptp(of.target) > 0 and np.ptp(of.prediction) > 0)


def gap(of: TrueAndPredicted) -> np.ndarray:
    return of.prediction - of.target


def concordance(of: TrueAndPredicted) -> float:
    (x, xy), (_, y) = np.cov(of.target, of.prediction, ddof=0)
    spread = x + y + gap(of).mean() ** 2
    return float(2 * xy / spread) if spread else NAN


OF_VALUES: dict[str, Callable[[TrueAndPredicted], float]] = {
    "mae": lambda of: metrics.mean_absolute_error(of.target, of.prediction),
    "rmse": lambda of: metrics.root_mean_squared_error(of.target, of.prediction),
    "r2": lambda of: metrics.r2_score(of.target, of.prediction) if np.ptp(of.target) else NAN,
    "pearson": lambda of: stats.pearsonr(of.target, of.prediction).statistic if varies(of) else NAN,
    "spearman": lambda of: stats.spearmanr(of.target, of.prediction).statistic if varies(of) else NAN,
    "ccc": concordance,
    "bias": lambda of: float(gap(of).mean()),
    "limits_low": lambda of: float(gap(of).mean() - 1.96 * gap(of).std(ddof=1)),
    "limits_high": lambda of: float(gap(of).mean() + 1.96 * gap(of).std(ddof=1)),
}


def among(of: Masks, what: str, which: Callable[[pd.DataFrame], pd.Series], unit: str | None = None) -> float:
    table = of.scored.table.rename(columns=lambda name: name.removesuffix("_heart"))
    kept = which(table) & (True if unit is None else table["distance_unit"] == unit)
    return float(table.loc[kept, what].mean()) if kept.any() else NAN


def lesion(table: pd.DataFrame) -> pd.Series:
    return table["area_true"] > 0


def called(table: pd.DataFrame) -> pd.Series:
    return table["area_predicted"] > 0


def either(table: pd.DataFrame) -> pd.Series:
    return lesion(table) | called(table)


def images(of: Masks, true: bool, predicted: bool) -> float:
    columns = [of.scored.table[f"area_{which}_heart"] > 0 for which in ("true", "predicted")]
    return float(((columns[0] == true) & (columns[1] == predicted)).sum())


def hit(of: Masks) -> float:
    table = of.scored.table
    true = table["area_true_heart"] > 0
    return float((table.loc[true, "dice_heart"] > 0).mean()) if true.any() else NAN


OF_MASKS: dict[str, Callable[[Masks], float]] = {
    "dice_positive": lambda of: among(of, "dice", lesion),
    "dice_all": lambda of: among(of, "dice", lambda table: table["dice"] >= 0),
    "iou_positive": lambda of: among(of, "iou", lesion),
    "fraction_missed": lambda of: 1 - hit(of),
    "false_positive_area": lambda of: among(of, "area_predicted", lambda table: ~lesion(table)),
    "hd95_mm": lambda of: among(of, "hd95", either, "mm"),
    "hd95_pixels": lambda of: among(of, "hd95", either, "pixels"),
    "nsd_mm": lambda of: among(of, "nsd", either, "mm"),
    "nsd_pixels": lambda of: among(of, "nsd", either, "pixels"),
    "nsd": lambda of: among(of, "nsd", either),
    "image_auroc": lambda of: area(of.lesion, of.column("score")),
    "empty_predictions": lambda of: images(of, True, False),
    "empty_truths": lambda of: images(of, False, True),
    "both_empty": lambda of: images(of, False, False),
}


def oracle_of(metric: Metric, rows: object) -> Callable[[Any], float]:
    """The reference of ``metric`` on such rows; a mean over labels or classes is made of that of each."""
    name = metric.name
    of_each = OF_QUESTION.get(name.removeprefix("macro_"))
    if of_each is not None and isinstance(rows, Questions) and not (isinstance(rows, Classes) and name in OF_CLASSES):
        return lambda of: float(np.nanmean([of_each(each) for each in of.questions.values()]))
    tables = {Question: OF_QUESTION, Classes: OF_CLASSES, TrueAndPredicted: OF_VALUES, Masks: OF_MASKS}
    known = tables.get(type(rows), {})
    assert name in known, f"{name} has no reference value: add one to the table of {type(rows).__name__}"
    return known[name]


# Predictions -----------------------------------------------------------------------------------------------------


def draw(kind: str, skill: float, seed: int = 0, patients: int = 120, truth: int = 0) -> Scored:
    """Two images of each patient: ``skill`` is how much a predictor sees; without it, it is rash and biased too."""
    people, noise = np.random.default_rng(truth), np.random.default_rng([seed, 1])
    n = 2 * patients
    table = pd.DataFrame({"patient": np.repeat([f"p{each:05}" for each in range(patients)], 2)})
    names = NAMES.get(kind, SEVERAL)
    if kind == "regression":
        target = people.normal(2, 1, n)
        prediction = target + (1 - skill) * (1.5 * noise.normal(size=n) + 0.5)
        return Scored(table.assign(target=target, prediction=prediction), names, True)
    if kind == "segmentation":
        return Scored(table.assign(**_masks(people, noise, skill, n)), names, True)
    if kind in ("binary", "multilabel"):
        for name in names:
            # What can be known of the image, of which the label is drawn.
            sure = np.repeat(people.normal(0, 1.5, patients), 2) + people.normal(0, 1, n)
            label = (people.random(n) < 1 / (1 + np.exp(-sure))).astype(float)
            seen = skill * sure + (1 - skill) * (4 * noise.normal(size=n) - 2)
            score = 1 / (1 + np.exp(-seen))
            if kind == "binary":
                return Scored(
                    table.assign(target=label, score_ptx=score, calibrated_ptx=score, threshold=0.4), names, True
                )
            label[people.random(n) < 0.2] = NAN
            table = table.assign(**{f"target_{name}": label, f"score_{name}": score, f"threshold_{name}": 0.4})
        return Scored(table, names, True)
    label = people.integers(0, 4, n)
    seen = -1.5 * skill * np.abs(np.arange(4) - label[:, None]) + (2 - skill) * noise.normal(size=(n, 4))
    if kind == "base-to-novel":
        seen = np.where((np.arange(4) < HALF) == (label < HALF)[:, None], seen, NAN)
        scores = calibrated = np.exp(seen)
    else:
        scores = np.exp(seen) / np.exp(seen).sum(axis=1, keepdims=True)
        calibrated = scores * 0.9 + 0.025
        table = table.assign(**dict(zip((f"calibrated_{name}" for name in names), calibrated.T, strict=True)))
    columns = dict(zip((f"score_{name}" for name in names), scores.T, strict=True))
    return Scored(table.assign(target=label.astype(float), **columns), names, True)


def _masks(people: np.random.Generator, noise: np.random.Generator, skill: float, n: int) -> dict[str, Any]:
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
    return {f"{name}_heart": values for name, values in columns.items()}


def rows_of(metric: Metric, kind: str, scored: Scored) -> Any:
    """The rows that ``metric`` is of: all, or those of the first class; NSD is asked in one unit."""
    if metric.name == "nsd":
        scored = replace(scored, table=scored.table.assign(distance_unit_heart="mm"))
    rows = ROWS[kind](scored)
    return rows if kind in metric.kinds else next(iter(rows.of_class.values()))


def estimated(metric: Metric, kind: str, scored: Scored) -> Estimate:
    rows = rows_of(metric, kind, scored)
    return estimates({metric.name: metric.measure(rows)}, scored.patients, resamples=scored.resamples)[metric.name]


# What is asked of each -------------------------------------------------------------------------------------------

UNMOVED = {"f1_all_positive", *(f"{each.name}_constant" for each in classes.OF_HALVES)}
"""Of answers that hang on no predictor."""


def conforms(metric: Metric, kind: str) -> None:
    """Everything that is asked of a metric but the coverage of its interval."""
    good, poor = (draw(kind, skill, seed) for seed, skill in enumerate((0.95, 0.3)))
    oracle = oracle_of(metric, rows_of(metric, kind, good))
    found = estimated(metric, kind, poor)
    assert found.value == pytest.approx(oracle(rows_of(metric, kind, poor)), rel=1e-6, abs=1e-9), "the reference value"
    assert found.reason or (found.low is not None and found.low <= found.value <= found.high), "an interval or a reason"
    _has_a_direction(metric, kind, good, poor)
    _is_null_with_a_reason(metric, kind, oracle)
    if metric.contrast is not None:
        assert metric.words, "a name for the sentence on methods"
        _is_paired_fairly(metric, metric.contrast, kind, (good, poor))


def _has_a_direction(metric: Metric, kind: str, good: Scored, poor: Scored) -> None:
    if metric.better is None or metric.name in UNMOVED:
        return
    better, worse = (metric.badness(estimated(metric, kind, each).value) for each in (good, poor))
    assert better < worse, f"a better predictor has a better {metric.name}"


def hopeless(kind: str) -> list[Scored]:
    """Predictions of which many a metric cannot be had: of one class, of few patients, of one, or constant."""
    drawn = draw(kind, 0.5)
    if kind == "base-to-novel":
        drawn = replace(drawn, table=drawn.table.fillna(0.01))
    truth = [name for name in drawn.table if str(name).startswith(("target", "area_true"))]
    guess = [name for name in drawn.table if str(name).startswith(("score", "prediction", "area_predicted"))]
    wild = [name for name in drawn.table if str(name).startswith(("score", "calibrated"))]
    tables = [
        drawn.table.assign(**dict.fromkeys(truth, 0.0)),
        drawn.table.assign(**dict.fromkeys(truth, 1.0)),
        drawn.table.assign(**dict.fromkeys(truth, 0.0), **dict.fromkeys(guess, 0.0)),
        drawn.table.assign(**{name: drawn.table[name] * 9 for name in wild}),
        drawn.table[:12],
        drawn.table[:2],
        drawn.table[:1],
    ]
    # An image without any mask has no distance, and another has one.
    filled = [table.fillna({"hd95_heart": 60.0, "nsd_heart": 0.0}) for table in tables]
    return [replace(drawn, table=table.reset_index(drop=True), resamples=50) for table in filled]


@pytest.mark.filterwarnings("ignore")
def _is_null_with_a_reason(metric: Metric, kind: str, oracle: Callable[[Any], float]) -> None:
    for scored in hopeless(kind):
        found = estimated(metric, kind, scored)
        assert (found.value is None) <= bool(found.reason), "null has a reason"
        assert (found.low is None) <= bool(found.reason), "no interval has a reason"
        assert found.value is None or np.isfinite(found.value), "no number is null"
        if found.value is not None:
            # What the reference cannot give is no number here either, above all not 0.
            expected = oracle(rows_of(metric, kind, scored))
            assert found.value == pytest.approx(expected, rel=1e-4, abs=1e-4), "the reference value, or null"


def _is_paired_fairly(metric: Metric, contrast: Contrast, kind: str, two: tuple[Scored, Scored]) -> None:
    rows = contrast.prepare([rows_of(metric, kind, each) for each in (*two, two[0])])
    there, back, same = contrast.test(rows, np.array([[1.0, -1, 0], [-1, 1, 0], [1, 0, -1]]))
    assert there.value == pytest.approx(-back.value), "first minus second is minus second minus first"
    assert (there.standard_error, there.p) == pytest.approx((back.standard_error, back.p)), "and as uncertain"
    assert (same.value, same.p) == (0.0, 1.0), "equal runs do not differ"
    assert there.p is not None
    assert there.p < 0.01, "what is far better is told from what is not"
    measured = [metric.measure(each) for each in rows]
    assert all(isinstance(each, Measured) for each in measured)
    first, second = (each.statistic.on_the_data() for each in measured[:2])  # type: ignore[union-attr]
    assert there.value == pytest.approx(first - second), "the difference is that of the estimates"


CASES = {f"{metric.name}, {kind}": (metric, kind) for metric in METRICS for kind in (*metric.kinds, *metric.of_class)}
"""Every metric in every kind of task; of masks once, which are measured alike alone and among several."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_metric_conforms(case: str) -> None:
    conforms(*CASES[case])


DRAWS, LARGE = 100, 20_000
FEWEST = 80
ROUGH = {"ece", "ece_calibrated", "accuracy_base_constant", "accuracy_novel_constant", "harmonic_mean_constant"}
"""Not linear at small sizes: a sum of absolute gaps, and the better of two answers; they lean to one side."""


@pytest.mark.parametrize("kind", ROWS)
def test_intervals_cover_what_is_true_of_everybody(kind: str) -> None:
    whole = measurable(kind, draw(kind, 0.5, seed=999, truth=999, patients=LARGE))
    plain = {name: metric.measure(rows) for name, (metric, rows) in whole.items() if kind in metric.kinds}
    draws = [
        compute_metrics(kind, replace(draw(kind, 0.5, seed, FEWEST, truth=seed + 1), resamples=200), only=plain)
        for seed in range(DRAWS)
    ]
    for name, of_all in plain.items():
        found = [each[name] for each in draws if each[name].low is not None]
        if not found:
            assert draws[0][name].reason
            continue
        assert len(found) > 0.9 * DRAWS
        assert isinstance(of_all, Measured)
        truth = of_all.statistic.on_the_data()
        covered = np.mean([each.low <= truth <= each.high for each in found])
        # Of 100 draws at 95 % fewer than 84 have probability 1e-5.
        assert covered >= (0.6 if name in ROUGH else 0.84), name
        spread = np.std([each.value for each in found]) * 2 * 1.96
        width = np.mean([each.high - each.low for each in found]) / spread
        assert (0.4 if name in ROUGH else 0.6) < width < (2 if name in ROUGH else 1.5), name


# A metric half added ---------------------------------------------------------------------------------------------


def rate_of_errors(rows: Classes) -> Measured:
    return Measured(mean_over_folds(rows.called != rows.label, rows.patients), rows.patients.count, "no image")


def unfair(rows: Any, weights: np.ndarray) -> list[Any]:
    wrong = [(each.called != each.label).astype(float) for each in rows]
    found = [
        compare_means(np.stack(wrong, axis=1) @ each, np.zeros(len(wrong[0])), rows[0].scored.patient)
        for each in weights
    ]
    return [replace(each, value=abs(each.value)) for each in found]


ERRORS = Metric("error_rate", ("multiclass",), rate_of_errors, better="lower")


@pytest.mark.filterwarnings("ignore")
def test_a_metric_half_added_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="error_rate has no reference value: add one to the table of Classes"):
        conforms(ERRORS, "multiclass")
    monkeypatch.setitem(OF_CLASSES, "error_rate", lambda of: 1 - metrics.accuracy_score(of.label, of.called))
    conforms(ERRORS, "multiclass")
    half_added = {
        "a better predictor has a better": replace(ERRORS, better="higher"),
        "the reference value": replace(ERRORS, measure=classes.METRICS[0].measure),
        "null has a reason": replace(
            ERRORS,
            measure=lambda rows: rate_of_errors(rows) if len(rows.label) > 20 else Estimate(None),
        ),
        "or null": replace(
            ERRORS,
            measure=lambda rows: rate_of_errors(rows) if len(rows.label) > 20 else Estimate(0.0, reason="few images"),
        ),
        "a name for the sentence": replace(ERRORS, contrast=Contrast("{}", unfair)),
        "first minus second": replace(ERRORS, contrast=Contrast("{}", unfair), words="errors"),
    }
    for why, metric in half_added.items():
        with pytest.raises(AssertionError, match=why):
            conforms(metric, "multiclass")


def declared(module: ModuleType) -> list[Metric]:
    found = []
    for value in vars(module).values():
        flat = (
            [each for part in value for each in (part if isinstance(part, tuple) else (part,))]
            if isinstance(value, tuple)
            else [value]
        )
        found += [each for each in flat if isinstance(each, Metric)]
    return found


@pytest.mark.parametrize("module", [labels, classes, values, masks], ids=lambda module: module.__name__)
def test_what_is_declared_is_registered_once(module: ModuleType) -> None:
    metrics_here = declared(module)
    assert len(metrics_here) > 5
    assert all(any(each is known for known in METRICS) for each in metrics_here)


def test_two_metrics_of_a_name_are_of_different_kinds_and_say_the_same_of_themselves() -> None:
    for metric in METRICS:
        namesakes = [each for each in METRICS if each.name == metric.name]
        kinds = [kind for each in namesakes for kind in each.kinds]
        assert len(set(kinds)) == len(kinds), metric.name
        said = {(each.unit, each.better) for each in namesakes}
        assert len(said) == 1, metric.name
