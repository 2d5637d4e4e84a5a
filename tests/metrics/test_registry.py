"""The one table of metrics: whatever a task produces has a direction, a unit and a place beside its other half."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evalfm.analysis.bias import SHOWN
from evalfm.analysis.operating_points import HEADER
from evalfm.analysis.pairing import pair_tables
from evalfm.analysis.report.methods import paired_tests
from evalfm.cards import validate
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.metrics.metric import Contrast, Metric
from evalfm.metrics.registry import METRICS, check_metrics, compute_metrics, metric_of, metrics_in, metrics_of
from evalfm.metrics.rows import ROWS, Scored
from evalfm.statistics.estimate import Estimate
from evalfm.tasks.kinds import KINDS
from evalfm.tasks.task import TaskCard, list_tasks

CLASSES = ("heart", "left_lung", "mm", "D")
IMAGES = 240
LOWER = {
    *("mae", "rmse", "brier", "brier_calibrated", "log_loss", "log_loss_calibrated"),
    *("calibration_rms", "calibration_rms_calibrated"),
    *(
        "fraction_missed",
        "false_positive_area",
        "false_positives_per_image",
        "hd95_mm",
        "hd95_pixels",
        "empty_predictions",
        "empty_truths",
    ),
}
NEAR = {"calibration_slope": 1.0, "calibration_intercept": 0.0, "bias": 0.0, "limits_low": 0.0, "limits_high": 0.0}
ANY = {
    *("both_empty", "ece", "ece_calibrated", "ece_expected", "ece_expected_calibrated"),
    *("auprc_chance", "macro_auprc_chance"),
}
OF_CLASSES = ("macro_auroc", "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")
PAIRED = {
    "binary": ("auroc", "auprc", "sensitivity", "ppv", "f1", "brier", "brier_calibrated", "accuracy_default"),
    "multilabel": ("macro_auroc", "macro_auprc", "macro_f1", "auprc[a b]"),
    "multiclass": (*OF_CLASSES, "log_loss"),
    "ordinal": ("quadratic_kappa", *OF_CLASSES),
    "base-to-novel": ("harmonic_mean", "accuracy_base", "accuracy_novel"),
    "segmentation": (
        "dice_positive",
        "dice_all",
        "iou_positive",
        "hd95_mm",
        "fraction_missed",
        "lesion_sensitivity",
        "froc_score",
    ),
    "regression": ("mae", "rmse", "r2", "pearson", "ccc", "spearman"),
}
"""Some of what can be paired."""
UNPAIRED = {
    *("ece", "ece_calibrated", "ece_expected", "ece_expected_calibrated", "auprc_chance", "macro_auprc_chance"),
    *("calibration_rms", "calibration_rms_calibrated", "calibration_slope", "calibration_intercept", "f1_all_positive"),
    *("bias", "limits_low", "limits_high", "harmonic_mean_constant", "accuracy_base_constant"),
    *("accuracy_novel_constant", "empty_predictions", "empty_truths", "both_empty"),
}
"""What runs are not ranked by: biased, without better and worse, the same for all, or a count."""


def scored(kind: str, classes: tuple[str, ...]) -> Scored:
    """Predictions of every column that ``kind`` may have, so that every metric of it is computed."""
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"id": np.arange(IMAGES), "patient": [f"p{row}" for row in range(IMAGES)], "split": "test"})
    target = draw.integers(0, 2 if kind in ("binary", "multilabel") else len(classes), IMAGES)
    if kind == "regression":
        table = table.assign(target=draw.normal(size=IMAGES), prediction=draw.normal(size=IMAGES))
    elif kind == "segmentation":
        for name in classes:
            areas = {
                f"area_{which}_{name}": draw.random(IMAGES) * draw.integers(0, 2, IMAGES)
                for which in ("true", "predicted")
            }
            values = {f"{what}_{name}": draw.random(IMAGES) for what in ("dice", "iou", "hd95", "nsd", "score")}
            values |= {f"{what}_{name}": draw.integers(1, 4, IMAGES) for what in ("lesions", "false_positives")}
            values[f"lesions_found_{name}"] = values[f"lesions_{name}"] - draw.integers(0, 2, IMAGES)
            table = table.assign(
                **areas, **values, **{f"distance_unit_{name}": np.where(draw.random(IMAGES) < 0.5, "mm", "pixels")}
            )
    else:
        probabilities = draw.dirichlet(np.ones(max(len(classes), 2)), IMAGES)
        for place, name in enumerate(classes):
            table[f"score_{name}"] = table[f"calibrated_{name}"] = probabilities[:, place]
            if kind == "multilabel":
                table[f"target_{name}"], table[f"threshold_{name}"] = draw.integers(0, 2, IMAGES).astype(float), 0.2
        table = table.assign(target=target.astype(float), threshold=0.2)
    return Scored(table, classes, True)


def produced(kind: str) -> dict[str, tuple[str, ...]]:
    """Every metric that ``kind`` can have, each with the classes of the run that had it."""
    several = [("heart",)] if kind in ("binary", "regression") else [CLASSES]
    several += [("heart",)] if kind == "segmentation" else []
    return {name: classes for classes in several for name in compute_metrics(kind, scored(kind, classes))}


@pytest.mark.parametrize("kind", ROWS)
def test_every_metric_has_its_direction_whatever_class_it_is_of(kind: str) -> None:
    names = produced(kind)
    assert names
    bases = set()
    for name, classes in names.items():
        facts = metric_of(name, classes)
        plain = next(
            (
                base
                for base in (*LOWER, *NEAR, *ANY)
                if name == base
                or name in {ending for each in classes for ending in (f"{base}_{each}", f"{base}[{each}]")}
            ),
            None,
        )
        expected = NEAR.get(str(plain), None if plain in ANY else "lower" if plain in LOWER else "higher")
        assert facts.better == expected, name
        assert metric_of(name).better == facts.better
        assert all(each in names for each in facts.beside), (name, facts.beside)
        bases.add(max((each.name for each in METRICS if name.startswith(each.name)), key=len))
    # Nothing stands in the registry that no run has, either.
    assert bases == {metric.name for metric in metrics_of(kind)}


def test_a_metric_of_another_kind_is_refused() -> None:
    for name, kind in (
        ("dice", "segmentation"),
        ("auroc[]x", "multilabel"),
        ("mae", "binary"),
        ("auroc", "multiclass"),
    ):
        with pytest.raises(UnknownNameError, match="no metric of"):
            check_metrics([name], kind)
    with pytest.raises(UnknownNameError, match="'auroc_spleen'"):
        check_metrics(["auroc_spleen"], "segmentation", CLASSES)


def test_what_a_name_ends_in_never_turns_its_direction() -> None:
    for name in ("fraction_missed_heart", "false_positive_area_left_lung", "brier_x", "mae_per_side", "hd95_mm_mm"):
        assert metric_of(name).lower_is_better, name
    for name in ("dice_positive_heart", "auroc[mae]", "nsd_mm", "macro_auroc", "sensitivity_default"):
        assert metric_of(name).better == "higher", name
    assert metric_of("fraction_missed_heart").beside == ("false_positive_area_heart",)
    assert metric_of("sensitivity[a b]").beside == ("specificity[a b]",)
    assert metric_of("macro_ppv").beside == ("macro_npv",)
    assert metric_of("calibration_slope").badness(0.9) < metric_of("calibration_slope").badness(1.2)
    assert metric_of("bias").badness(-0.1) < metric_of("bias").badness(0.2)
    assert metric_of("auroc").badness(0.9) < metric_of("auroc").badness(0.8) < metric_of("auroc").badness(None)


@pytest.mark.parametrize("kind", ROWS)
def test_every_metric_is_compared_or_refused_with_a_reason_and_told_in_the_methods(kind: str) -> None:
    for name, classes in produced(kind).items():
        table = scored(kind, classes).table
        facts = metric_of(name, classes)
        absent = compute_metrics(kind, scored(kind, classes))[name]
        if facts.contrast is not None and absent.value is None:
            with pytest.raises(EvalfmError, match=re.escape(f"{name}: {absent.reason}")):
                pair_tables(kind, name, [table, table], classes)
        elif facts.contrast is not None:
            paired = pair_tables(kind, name, [table, table], classes)
            assert paired.name == name
            assert np.isfinite(paired.measured[0].statistic.on_the_data())
        else:
            assert facts.name in UNPAIRED or any(name.startswith((f"{each}_", f"{each}[")) for each in UNPAIRED), name
            with pytest.raises(EvalfmError, match=rf"no paired test of {re.escape(name)} is built in; compare by"):
                pair_tables(kind, name, [table, table], classes)

    class Stub:
        def __init__(self, primary: str) -> None:
            self.kind, self.primary = kind, primary
            self.record = SimpleNamespace(episodes=None, plugged_metrics={})

    for name in PAIRED[kind]:
        if name not in produced(kind) and kind != "segmentation":
            assert "[" in name
            continue
        assert not metric_of(name).beside or metric_of(name).better in ("higher", "lower")
        assert paired_tests([Stub(name)]), name  # type: ignore[list-item]


def test_a_card_that_asks_for_a_metric_that_is_none_is_refused() -> None:
    content = {"schema": 1, "name": "x", "kind": "binary", "title": "x?", "target": ["x"], "heads": ["linear"]}
    with pytest.raises(EvalfmError, match=r"no metric of binary tasks 'sensitivty'\. Did you mean 'sensitivity'"):
        validate(TaskCard, {**content, "metrics": ["auroc", "sensitivty"]}, "task card x")
    masks = {**content, "kind": "segmentation", "target": ["heart", "lungs"]}
    with pytest.raises(EvalfmError, match="both_empty has no better and worse"):
        validate(TaskCard, {**masks, "metrics": ["both_empty"]}, "task card x")
    assert (
        validate(TaskCard, {**masks, "metrics": ["dice_positive_heart"]}, "task card x").primary
        == "dice_positive_heart"
    )
    for kind in KINDS.values():
        check_metrics(kind.metrics, kind.name)
    assert len(list_tasks()) > 10
    # Those that ship are listed unchecked, so that a list imports no numpy.
    for name, card in list_tasks().items():
        assert validate(TaskCard, card.model_dump(by_alias=True), name) == card


def test_what_a_metric_names_is_a_metric_of_its_kinds() -> None:
    for metric in METRICS:
        for kind in metric.kinds:
            names = {each.name for each in metrics_of(kind) if kind in each.kinds}
            assert {*metric.beside, metric.default, metric.calibrated, metric.constant} - {""} <= names, metric.name
    named = {each.default for each in METRICS} | {each.calibrated for each in METRICS}
    endings = {metric.name for metric in METRICS if metric.name.endswith(("_default", "_calibrated"))}
    assert named - {""} == endings, "each of them is named by its other half"


def test_tables_show_the_metrics_that_say_so() -> None:
    assert SHOWN == ("auroc", "auprc", "auprc_chance", "sensitivity", "specificity")
    calibration = ("brier", "ece", "ece_expected", "calibration_rms")
    assert HEADER[3:] == ("f1", "sensitivity", "specificity", "accuracy", *calibration, "auroc")
    strata = [metric.name for metric in metrics_in("strata of a report", "binary")]
    assert strata == ["auroc", "sensitivity", "specificity"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"kinds": ("binry",)}, "mine is of binry; known are binary, multilabel"),
        ({"kinds": ()}, "mine is of no kind of task"),
        ({"of_class": ("regression",)}, "mine is of regression; known are multilabel"),
        ({"better": "Lower"}, "'Lower' is no direction; take 'higher', 'lower', a number or None"),
        ({"better": 1.0, "contrast": Contrast("{}", lambda rows, weights: [])}, "so it needs better='higher' or"),
    ],
)
def test_a_metric_that_says_what_cannot_be_is_refused(facts: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Metric(**{"name": "mine", "kinds": ("binary",), "measure": lambda rows: Estimate(None, reason="no"), **facts})
