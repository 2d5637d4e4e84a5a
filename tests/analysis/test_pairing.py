"""Runs of several classes or labels paired: figures of the statistics, and what cannot be paired."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, f1_score, roc_auc_score
from typer.testing import CliRunner

from evalfm.analysis.compare import Comparison, compare
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.metrics.classes import OF_CLASSES, OF_GRADES
from evalfm.metrics.registry import metrics_of
from evalfm.run import Run
from evalfm.statistics.comparison import compare_means, contrast_confusions, contrast_macro_aurocs

from .made import GRADES, LABELS, class_scores, class_table, label_table, make_run

N, IMAGES = 240, 3
GENERATOR = np.random.default_rng(0)
TARGET = GENERATOR.integers(0, 4, N)
LABELLED = (GENERATOR.random((N, 3)) < 0.4).astype(float)
LABELLED[GENERATOR.random((N, 3)) < 0.2] = np.nan
PATIENT = np.array([f"p{row // IMAGES:05}" for row in range(N)])
STRENGTHS = {"good": 1.5, "poor": 0.4}
PAIR = [[-1.0, 1.0]]
SCORES = {name: class_scores(TARGET, strength, seed) for seed, (name, strength) in enumerate(STRENGTHS.items())}
CALLED = [scores.argmax(axis=1) for scores in SCORES.values()]


def of_classes(out: Path, kind: str, **changes: object) -> list[Run]:
    made = []
    for name, scores in SCORES.items():
        frame = class_table(TARGET, scores, IMAGES)
        made.append(make_run(out, frame, encoder=name, kind=kind, classes=GRADES, **changes))
    blind = class_table(TARGET, np.full((N, 4), 0.25), IMAGES)
    return [*made, make_run(out, blind, encoder="constant", kind=kind, classes=GRADES, baseline=True, **changes)]


def label_scores(strength: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(N, 3))
    return np.asarray(1 / (1 + np.exp(-(noise + strength * np.nan_to_num(LABELLED)))))


def of_labels(out: Path, unlearnt: str | None = None) -> list[Run]:
    made = []
    for seed, (name, strength) in enumerate(STRENGTHS.items()):
        frame = label_table(LABELLED, label_scores(strength, seed), IMAGES)
        if name == unlearnt:
            frame["score_mass"] = np.nan
        made.append(make_run(out, frame, encoder=name, kind="multilabel", classes=LABELS))
    blind = label_table(LABELLED, np.full((N, 3), 0.4), IMAGES)
    return [*made, make_run(out, blind, encoder="constant", kind="multilabel", classes=LABELS, baseline=True)]


def check(table: Comparison, metric: str, values: dict[str, float], p: float | None, error: float) -> None:
    """Names, estimates, the difference to the best and its p; the baseline last, without a p."""
    assert table.metric == metric
    assert [entry.encoder for entry in table.entries] == ["good", "poor", "constant"]
    assert {entry.encoder: entry.estimate.value for entry in table.entries} == pytest.approx(values)
    best, poor, baseline = table.entries
    assert poor.difference is not None
    assert poor.difference.value < 0
    assert poor.p == pytest.approx(p, rel=1e-9, abs=0)
    assert poor.difference.standard_error == pytest.approx(error, rel=1e-9)
    assert (best.in_best_set, poor.in_best_set, baseline.in_best_set) == (True, False, None)
    assert (best.rank, poor.rank, baseline.rank) == ((1, 1), (2, 2), None)
    assert (baseline.p, table.pairs) == (None, 1)
    assert poor.detectable is not None
    for entry in table.entries[:2]:
        assert entry.estimate.low is not None
        assert entry.estimate.low < (entry.estimate.value or 0) < (entry.estimate.high or 0)


def test_classes_by_macro_auroc(tmp_path: Path) -> None:
    (table,) = compare(of_classes(tmp_path, "multiclass"))
    scores = np.stack(list(SCORES.values()), axis=2)
    expected = contrast_macro_aurocs(np.eye(4)[TARGET], scores, PAIR, PATIENT)[0]
    areas = [roc_auc_score(TARGET, scores[:, :, model], multi_class="ovr") for model in (0, 1)]
    values = {"good": areas[0], "poor": areas[1], "constant": 0.5}
    check(table, "macro_auroc", values, expected.p, expected.standard_error)


def test_grades_by_quadratic_kappa(tmp_path: Path) -> None:
    (table,) = compare(of_classes(tmp_path, "ordinal"))
    expected = contrast_confusions(TARGET, np.stack(CALLED, axis=1), 4, OF_GRADES, PAIR, PATIENT)[0]
    kappas = [cohen_kappa_score(TARGET, each, weights="quadratic") for each in CALLED]
    values = {"good": kappas[0], "poor": kappas[1], "constant": 0.0}
    check(table, "quadratic_kappa", values, expected.p, expected.standard_error)


def test_labels_by_macro_auroc_where_they_are_known(tmp_path: Path) -> None:
    (table,) = compare(of_labels(tmp_path))
    scores = np.stack([label_scores(strength, seed) for seed, strength in enumerate(STRENGTHS.values())], axis=2)
    expected = contrast_macro_aurocs(LABELLED, scores, PAIR, PATIENT)[0]
    known = ~np.isnan(LABELLED)
    areas = [
        np.mean([roc_auc_score(LABELLED[known[:, k], k], scores[known[:, k], k, model]) for k in range(3)])
        for model in (0, 1)
    ]
    values = {"good": float(areas[0]), "poor": float(areas[1]), "constant": 0.5}
    check(table, "macro_auroc", values, expected.p, expected.standard_error)


def test_any_metric_can_be_asked_for(tmp_path: Path) -> None:
    runs = of_classes(tmp_path, "ordinal")
    references = {
        "accuracy": accuracy_score,
        "balanced_accuracy": balanced_accuracy_score,
        "macro_f1": lambda truth, answer: f1_score(truth, answer, average="macro"),
        "weighted_f1": lambda truth, answer: f1_score(truth, answer, average="weighted"),
    }
    able = {metric.name for metric in metrics_of("ordinal") if metric.contrast}
    assert set(references) | {"quadratic_kappa", "macro_auroc", "auroc", "log_loss", "log_loss_calibrated"} == able
    assert {each.name for each in OF_CLASSES} | {"accuracy"} == set(references)
    for metric, reference in references.items():
        (table,) = compare(runs, metric=metric)
        found = {entry.encoder: entry.estimate.value for entry in table.entries}
        assert found["good"] == pytest.approx(reference(TARGET, CALLED[0])), metric
        assert found["poor"] == pytest.approx(reference(TARGET, CALLED[1])), metric
    (table,) = compare(runs, metric="accuracy")
    right = [(each == TARGET).astype(float) for each in CALLED]
    assert table.entries[1].p == pytest.approx(compare_means(right[1], right[0], PATIENT).p, rel=1e-9, abs=0)
    (table,) = compare(runs, metric="auroc[C]")
    areas = [roc_auc_score(TARGET == 2, scores[:, 2]) for scores in SCORES.values()]
    assert [entry.estimate.value for entry in table.entries[:2]] == pytest.approx(areas)
    with pytest.raises(EvalfmError, match=r"no metric of ordinal runs .* 'acuracy'. Did you mean 'accuracy'"):
        compare(runs, metric="acuracy")


def test_the_first_metric_of_the_card_decides_where_it_can(tmp_path: Path) -> None:
    (table,) = compare(of_classes(tmp_path / "one", "multiclass", task_card={"metrics": ["macro_f1"]}))
    assert table.metric == "macro_f1"
    (table,) = compare(of_classes(tmp_path / "two", "multiclass", task_card={"metrics": ["auroc[A]"]}))
    assert table.metric == "macro_auroc"


def test_seeds_are_averaged_and_their_spread_is_of_the_metric_compared(tmp_path: Path) -> None:
    made, found = [], []
    for seed in (5, 6):
        scores = class_scores(TARGET, 1.0, seed)
        found.append(accuracy_score(TARGET, scores.argmax(axis=1)))
        made.append(make_run(tmp_path, class_table(TARGET, scores), kind="ordinal", classes=GRADES, seed=seed))
    (table,) = compare(made, metric="accuracy")
    assert table.entries[0].estimate.value == pytest.approx(np.mean(found))
    assert table.entries[0].seed_sd == pytest.approx(np.std(found, ddof=1))


def test_a_rare_class_is_left_out_as_in_the_run_and_said(tmp_path: Path) -> None:
    target = np.where(np.arange(N) < 12, 3, TARGET % 3)
    frames = [class_table(target, class_scores(target, strength, 0), IMAGES) for strength in STRENGTHS.values()]
    runs = [
        make_run(tmp_path, frame, encoder=name, kind="multiclass", classes=GRADES)
        for name, frame in zip(STRENGTHS, frames, strict=True)
    ]
    (table,) = compare(runs)
    # Twelve images are four patients.
    assert "macro_auroc over 3 of 4 classes, without D." in table.cautions
    assert table.entries[0].estimate.value == pytest.approx(runs[0].metrics["macro_auroc"].value)
    assert table.entries[0].estimate.note == runs[0].metrics["macro_auroc"].note
    with pytest.raises(EvalfmError, match=r"kind cannot be compared: auroc\[D\]: needs .* 4 and 76\. Test on more"):
        compare(runs, metric="auroc[D]")


def test_a_label_that_only_some_could_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvalfmError, match="some runs give no score of 'mass'"):
        compare(of_labels(tmp_path, unlearnt="poor"))


def test_folds_are_averaged_and_a_fold_without_a_class_is_refused(tmp_path: Path) -> None:
    runs = []
    for name, scores in SCORES.items():
        frame = class_table(TARGET, scores, IMAGES)
        frame["fold"] = np.arange(N) // IMAGES % 2
        runs.append(make_run(tmp_path, frame, encoder=name, kind="multiclass", classes=GRADES))
    folds = np.arange(N) // IMAGES % 2
    for metric in ("macro_auroc", "macro_f1"):
        (table,) = compare(runs, metric=metric)
        assert table.entries[0].estimate.value == pytest.approx(runs[0].metrics[metric].value)
    scores = np.stack(list(SCORES.values()), axis=2)
    expected = contrast_macro_aurocs(np.eye(4)[TARGET], scores, PAIR, PATIENT, folds=folds)[0]
    (table,) = compare(runs)
    assert table.entries[1].p == pytest.approx(expected.p, rel=1e-9, abs=0)
    target = np.where((folds == 1) & (TARGET == 3), 2, TARGET)
    thin = []
    for name in STRENGTHS:
        frame = class_table(target, class_scores(target, 1.0, 0), IMAGES).assign(fold=folds)
        thin.append(make_run(tmp_path / "thin", frame, encoder=name, kind="multiclass", classes=GRADES))
    with pytest.raises(EvalfmError, match="fold 2 tests 0 patients with 'D'"):
        compare(thin)


def frames(kind: str) -> tuple[pd.DataFrame, tuple[str, ...], str]:
    if kind == "multilabel":
        return label_table(LABELLED, label_scores(1.0, 0), IMAGES), LABELS, "target_edema"
    return class_table(TARGET, class_scores(TARGET, 1.0, 0), IMAGES), GRADES, "target"


@pytest.mark.parametrize("kind", ["multiclass", "ordinal", "multilabel"])
def test_what_differs_is_said(tmp_path: Path, kind: str) -> None:
    frame, classes, truth = frames(kind)
    number = count()

    def refused(changed: pd.DataFrame, match: str, **changes: object) -> None:
        folder = tmp_path / str(next(number))
        one = make_run(folder, frame, kind=kind, classes=classes)
        settings = {"classes": classes, **changes}
        other = make_run(folder, changed, encoder="other", kind=kind, **settings)  # type: ignore[arg-type]
        with pytest.raises(EvalfmError, match=match):
            compare([one, other])

    refused(frame[:200], r"tested on (200 and 240|240 and 200) images, 200 of them the same")
    refused(frame, "labels come from", label_source={"ptx": "text-mined"})
    renamed = tuple(name + "x" for name in classes)
    columns = {f"{part}_{name}": f"{part}_{name}x" for name in classes for part in ("score", "target")}
    refused(frame.rename(columns=columns), "their classes are", classes=renamed)
    flipped = frame.copy()
    flipped.loc[3, truth] = 1.0 if frame.loc[3, truth] != 1.0 else 0.0
    refused(flipped, f"'{truth}' of their predictions differs")
    refused(frame.assign(patient=frame["patient"] + "x"), "'patient' of their predictions differs")
    refused(frame.assign(fold=np.arange(N) // IMAGES % 2), "only one of them has folds")


def test_an_unknown_label_differs_from_a_known_one(tmp_path: Path) -> None:
    frame = frames("multilabel")[0]
    more = frame.copy()
    more.loc[int(np.flatnonzero(np.isnan(LABELLED[:, 0]))[0]), "target_edema"] = 0.0
    runs = [
        make_run(tmp_path, each, encoder=name, kind="multilabel", classes=LABELS)
        for name, each in (("one", frame), ("two", more))
    ]
    with pytest.raises(EvalfmError, match="'target_edema' of their predictions differs"):
        compare(runs)


def test_masks_of_another_truth_are_not_paired(tmp_path: Path) -> None:
    area = np.where(np.arange(40) % 2, 10.0, 0.0)
    rows = [f"{row:03}" for row in range(40)]
    frame = pd.DataFrame(
        {"id": rows, "patient": rows, "dice_ptx": 0.5, "area_true_ptx": area, "area_predicted_ptx": 0.0}
    )
    one = make_run(tmp_path, frame, kind="segmentation")
    other = make_run(tmp_path, frame.assign(area_true_ptx=area * 2), encoder="other", kind="segmentation")
    with pytest.raises(EvalfmError, match="'area_true_ptx' of their predictions differs"):
        compare([one, other])


def test_where_patients_are_unknown_images_are_the_unit(tmp_path: Path) -> None:
    runs = of_classes(tmp_path, "multiclass", patients_known=False)
    (table,) = compare(runs)
    assert table.entries[0].estimate.unit == "images"


def test_a_label_that_no_run_could_learn_is_left_out(tmp_path: Path) -> None:
    frame = label_table(LABELLED, label_scores(1.0, 0), IMAGES).assign(score_mass=np.nan)
    runs = [make_run(tmp_path, frame, encoder=name, kind="multilabel", classes=LABELS) for name in STRENGTHS]
    (table,) = compare(runs)
    assert "macro_auroc over 2 of 3 labels, without mass." in table.cautions
    assert table.entries[0].estimate.value == pytest.approx(runs[0].metrics["macro_auroc"].value)


@pytest.mark.parametrize("metric", ["macro_auroc", "quadratic_kappa", "accuracy"])
def test_the_p_of_several_seeds_is_of_the_mean_of_their_metrics(tmp_path: Path, metric: str) -> None:
    scores = {"good": [class_scores(TARGET, 1.2, seed) for seed in (0, 1, 2)], "poor": [class_scores(TARGET, 0.9, 3)]}
    made = [
        make_run(tmp_path, class_table(TARGET, each, IMAGES), encoder=name, kind="ordinal", classes=GRADES, seed=seed)
        for name, every in scores.items()
        for seed, each in enumerate(every)
    ]
    (table,) = compare(made, metric=metric)
    best, other = table.entries
    stacked = np.stack([*scores["good"], *scores["poor"]], axis=2)
    contrast = np.array([[-1 / 3, -1 / 3, -1 / 3, 1.0]]) * (1 if best.encoder == "good" else -1)
    called = stacked.argmax(axis=1)
    if metric == "macro_auroc":
        expected = contrast_macro_aurocs(np.eye(4)[TARGET], stacked, contrast, PATIENT)[0]
    elif metric == "accuracy":
        right = (called == TARGET[:, None]).astype(float)
        expected = compare_means(right @ contrast[0], np.zeros(N), PATIENT)
    else:
        expected = contrast_confusions(TARGET, called, 4, OF_GRADES, contrast, PATIENT)[0]
    assert other.difference is not None
    assert other.difference.value == pytest.approx(expected.value)
    assert other.difference.value == pytest.approx((other.estimate.value or 0) - (best.estimate.value or 0))
    assert other.p == pytest.approx(expected.p, rel=1e-9, abs=0)


def test_every_option_of_compare_does_something(tmp_path: Path) -> None:
    of_classes(tmp_path, "ordinal")
    make_run(tmp_path, class_table(TARGET, SCORES["poor"], IMAGES), kind="ordinal", classes=GRADES, head="knn")
    make_run(tmp_path, label_table(LABELLED, label_scores(1.0, 0), IMAGES), kind="multilabel", classes=LABELS)

    def asked(*options: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(app, ["compare", str(tmp_path), "--json", *options])
        assert done.exit_code == 0, done.output
        found: list[dict[str, Any]] = json.loads(done.output)
        return found

    assert {table["task"] for table in asked()} == {"density", "chexpert5"}
    (plain,) = asked("--task", "density")
    assert {entry["head"] for entry in plain["entries"]} == {"linear", "knn"}
    assert plain["metric"] == "quadratic_kappa"
    (headed,) = asked("--task", "density", "--head", "knn")
    # Baselines stay whatever their head.
    assert {(entry["head"], entry["baseline"]) for entry in headed["entries"]} == {("knn", False), ("linear", True)}
    (by_accuracy,) = asked("--task", "density", "--metric", "accuracy")
    assert by_accuracy["metric"] == "accuracy"
    assert by_accuracy["entries"][0]["estimate"]["value"] == pytest.approx(accuracy_score(TARGET, CALLED[0]))
    (held,) = asked("--task", "density", "--margin", "0.9", "--reference", "poor")
    assert (held["reference"], held["post_hoc"], held["margin"]) == ("poor", False, 0.9)
    assert {entry["encoder"]: entry["non_inferior"] for entry in held["entries"]}["good"] is True
