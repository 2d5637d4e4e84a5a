from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from evalfm.errors import EvalfmError
from evalfm.heads.head import Context
from evalfm.heads.registry import HeadEntry
from evalfm.heads.sklearn_head import SklearnHead

KINDS = ("binary", "multilabel", "multiclass")
GRID = {"C": [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]}


def entry(*kinds: str) -> HeadEntry:
    return HeadEntry("mine", kinds or KINDS, ("pooled",), "ours", "mine:build")


@pytest.fixture
def draw(array_source, make_examples):
    """(train, val) of 5 features on different scales, the targets by ``truth``; val is shifted."""

    def drawn(truth, seed: int = 0, n: int = 120):
        generator = np.random.default_rng(seed)
        features = generator.normal(size=(2 * n, 5)) * [1, 10, 100, 1, 1] + [0, 5, 50, 0, 0]
        target = truth(features, generator)
        features[n:] += 0.3
        source = array_source(torch.from_numpy(features.astype(np.float32)))
        return tuple(make_examples(source, rows, target[rows]) for rows in (range(n), range(n, 2 * n)))

    return drawn


def sick(features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return (features[:, 0] + features[:, 1] / 10 + generator.normal(size=len(features)) > 0.5).astype(float)


def size(features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return 3 * features[:, 0] + features[:, 1] + generator.normal(size=len(features))


def test_val_log_loss_chooses_and_train_alone_scales(draw) -> None:
    train, val = draw(sick, n=40, seed=1)
    head = SklearnHead(entry(), LogisticRegression(), GRID)
    fit = head.fit(train, val, Context("binary", ("sick",)))
    oracle = {}
    for strength in GRID["C"]:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength)).fit(train.pooled(), train.target)
        oracle[strength] = (log_loss(val.target, model.predict_proba(val.pooled())[:, 1]), model)
    best = min(oracle, key=lambda strength: oracle[strength][0])
    assert fit.chosen == {"C": best}
    assert best not in (GRID["C"][0], GRID["C"][-1])
    assert [line["val_log_loss"] for line in fit.path] == pytest.approx([loss for loss, _ in oracle.values()], abs=1e-5)
    assert head.predict(val)[:, 0] == pytest.approx(oracle[best][1].predict_proba(val.pooled())[:, 1], abs=1e-5)
    assert head.predict(val).shape == (40, 1)


def test_the_first_of_equals_is_taken(draw) -> None:
    train, val = draw(sick)
    # The iterations beyond what it needs change nothing.
    fit = SklearnHead(entry(), LogisticRegression(), {"max_iter": [900, 500]}).fit(
        train, val, Context("binary", ("s",))
    )
    assert fit.chosen == {"max_iter": 900}


def test_each_label_learns_on_its_known_rows(draw) -> None:
    def truth(features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        one, other = sick(features, generator), (features[:, 3] > 0).astype(float)
        one[::3], other[1::4] = np.nan, np.nan
        return np.stack([one, other, np.zeros(len(one))], axis=1)

    train, val = draw(truth)
    head = SklearnHead(entry(), LogisticRegression(), {"C": [0.1]})
    fit = head.fit(train, val, Context("multilabel", ("one", "other", "never")))
    assert fit.chosen == {"C[one]": 0.1, "C[other]": 0.1}
    scores = head.predict(val)
    for column in (0, 1):
        known = np.isfinite(train.target[:, column])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
        model.fit(train.pooled()[known], train.target[known, column])
        assert scores[:, column] == pytest.approx(model.predict_proba(val.pooled())[:, 1], abs=1e-5)
    # One of each class added to 120 negatives.
    assert scores[:, 2].tolist() == pytest.approx([1 / 122] * 120)


def test_a_class_that_train_does_not_show_keeps_its_column(draw) -> None:
    def truth(features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        target = np.where(features[:, 0] > 0, 2.0, 0.0)
        target[-3:] = 1
        return target

    train, val = draw(truth)
    head = SklearnHead(entry(), LinearDiscriminantAnalysis())
    fit = head.fit(train, val, Context("multiclass", ("none", "rare", "much")))
    scores = head.predict(val)
    assert scores.shape == (120, 3)
    assert scores[:, 1].max() == 0
    assert scores.sum(axis=1) == pytest.approx(np.ones(120))
    assert np.mean(scores[:117].argmax(axis=1) == val.target[:117]) > 0.9
    assert [(each.code, "rare" in each.sentence) for each in fit.cautions] == [("unseen-class", True)]


class ColumnRidge(Ridge):
    def predict(self, features: np.ndarray) -> np.ndarray:
        return super().predict(features)[:, None]


@pytest.mark.parametrize("estimator", [Ridge(), ColumnRidge()], ids=["flat", "column"])
def test_a_regressor_is_chosen_by_squared_error(draw, estimator: Any) -> None:
    train, val = draw(size)
    head = SklearnHead(entry("regression"), estimator, {"alpha": [0.1, 10.0, 1e4]})
    fit = head.fit(train, val, Context("regression", ("size",)))
    assert head.predict(val).shape == (120, 1)
    losses = [line["val_mse"] for line in fit.path]
    assert min(losses) == pytest.approx(mean_squared_error(val.target, head.predict(val)[:, 0]), rel=1e-6)
    assert min(losses) < np.var(val.target) / 5


def test_the_seed_of_the_run_is_every_random_state(draw) -> None:
    train, val = draw(sick)
    scores = {}
    for seed, again in ((0, False), (0, True), (1, False)):
        head = SklearnHead(entry(), make_pipeline(RandomForestClassifier(5, random_state=7)))
        head.fit(train, val, Context("binary", ("sick",), seed=seed))
        scores[seed, again] = head.predict(val)
    assert np.array_equal(scores[0, False], scores[0, True])
    assert not np.array_equal(scores[0, False], scores[1, False])
    assert not head.deterministic
    assert SklearnHead(entry(), LinearDiscriminantAnalysis()).deterministic
    assert "random_state" not in str(head.grid)


CASES = [
    ("binary", sick, GradientBoostingClassifier(n_estimators=10), {"max_depth": [1, 3]}),
    ("binary", sick, KNeighborsClassifier(), {"n_neighbors": [3, 9]}),
    ("multiclass", lambda f, g: np.digitize(f[:, 0], [-0.5, 0.5]).astype(float), LinearDiscriminantAnalysis(), {}),
    ("multilabel", lambda f, g: np.stack([sick(f, g), np.zeros(len(f))], axis=1), RandomForestClassifier(5), {}),
    ("regression", size, Ridge(), {"alpha": [1.0, 10.0]}),
]


@pytest.mark.parametrize(("kind", "truth", "estimator", "grid"), CASES)
def test_a_head_is_made_again_from_its_arrays(
    draw, tmp_path: Path, kind: str, truth: Any, estimator: Any, grid: dict[str, Any]
) -> None:
    train, val = draw(truth)
    head = SklearnHead(entry(kind), estimator, grid)
    names = {"multiclass": ("a", "b", "c"), "multilabel": ("a", "b")}.get(kind, ("a",))
    head.fit(train, val, Context(kind, names, seed=3))
    save_file(head.tensors(), tmp_path / "head.safetensors")
    copy = SklearnHead(entry(kind), estimator, grid)
    copy.load_tensors(load_file(tmp_path / "head.safetensors"))
    assert copy.predict(val) == pytest.approx(head.predict(val), abs=1e-9)
    assert not hasattr(estimator, "classes_"), "the estimator that was given is never fitted"


@pytest.mark.parametrize("change", ["estimator", "seed", "features", "candidate"])
def test_a_head_that_cannot_be_made_again_is_refused(draw, change: str) -> None:
    train, val = draw(sick)
    forest = RandomForestClassifier(5)
    head = SklearnHead(entry(), forest, {"max_depth": [1, 4]})
    head.fit(train, val, Context("binary", ("sick",)))
    kept = {name: tensor.clone() for name, tensor in head.tensors().items()}
    if change == "estimator":
        forest = RandomForestClassifier(6)
    elif change == "seed":
        kept["seed"] += 1
    elif change == "features":
        kept["features"][:60] += 1
    else:
        kept["chosen"][0] = 1 - kept["chosen"][0]
    with pytest.raises(EvalfmError, match=r"'mine' cannot be made again: .* install the versions"):
        SklearnHead(entry(), forest, {"max_depth": [1, 4]}).load_tensors(kept)


@pytest.mark.parametrize(
    ("estimator", "grid", "kinds", "words"),
    [
        (KMeans(), {}, KINDS, "KMeans is neither a classifier nor a regressor"),
        (LinearSVC(), {}, KINDS, "LinearSVC gives no probabilities; wrap it in CalibratedClassifierCV"),
        (Ridge(), {}, ("binary",), "Ridge serves regression, not binary"),
        (LogisticRegression(), {}, ("regression",), "serves binary, multiclass, multilabel, not regression"),
        (LogisticRegression(), {"c": [1.0]}, KINDS, "what LogisticRegression has not: c"),
        (LogisticRegression(), {"C": []}, KINDS, "The grid names no value"),
    ],
)
def test_what_cannot_be_a_head_is_refused(estimator: Any, grid: Any, kinds: tuple[str, ...], words: str) -> None:
    with pytest.raises(EvalfmError, match=words):
        SklearnHead(entry(*kinds), estimator, grid)


def test_another_estimator_or_setting_is_another_run() -> None:
    grids = [
        SklearnHead(entry(), estimator, grid).grid
        for estimator, grid in (
            (LogisticRegression(), {}),
            (LogisticRegression(fit_intercept=False), {}),
            (LogisticRegression(), GRID),
            (LinearDiscriminantAnalysis(), {}),
            (make_pipeline(LogisticRegression(tol=0.1)), {}),
            (make_pipeline(LogisticRegression(tol=0.2)), {}),
        )
    ]
    assert len({str(grid) for grid in grids}) == len(grids)


class Warns(ClassifierMixin, BaseEstimator):
    def fit(self, features: np.ndarray, target: np.ndarray) -> Warns:
        warnings.warn("heed this", UserWarning, stacklevel=1)
        self.classes_ = np.unique(target)
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        return np.full((len(features), 2), 0.5)


def test_warnings_are_cautions_or_pass(draw) -> None:
    train, val = draw(sick)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stopped = SklearnHead(entry(), LogisticRegression(max_iter=1))
        fit = stopped.fit(train, val, Context("binary", ("sick",)))
    assert [each.code for each in fit.cautions] == ["solver-stopped"]
    with pytest.warns(UserWarning, match="heed this"):
        SklearnHead(entry(), Warns()).fit(train, val, Context("binary", ("sick",)))


def test_faults_of_data_and_estimator_are_sentences(draw) -> None:
    train, val = draw(lambda features, generator: np.zeros(len(features)))
    with pytest.raises(EvalfmError, match="In train 'sick' has one class only"):
        SklearnHead(entry(), LogisticRegression()).fit(train, val, Context("binary", ("sick",)))
    train, val = draw(sick)
    with pytest.raises(EvalfmError, match=r"'mine' cannot be fitted with \{'C': -1\}"):
        SklearnHead(entry(), LogisticRegression(), {"C": [-1]}).fit(train, val, Context("binary", ("sick",)))
    with pytest.raises(EvalfmError, match="serves binary tasks, not regression"):
        SklearnHead(entry("binary"), LogisticRegression()).fit(train, val, Context("regression", ("size",)))
