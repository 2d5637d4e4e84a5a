from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from evalfm.heads import load_head
from evalfm.heads.head import Context
from evalfm.heads.mlp import PerceptronHead
from evalfm.heads.trained import Schedule

QUICK = Schedule(epochs=6, least_steps=120, batch_size=64)


def planted(array_source, make_examples, kind, count=400, seed=0, offset=0.0, unit=1.0):
    """Two features whose product tells: no plane separates it. A third has a wild scale."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 3)) * [1, 1, 1e4] + [0, 5, 1e5]
    product = features[:, 0] * (features[:, 1] - 5)
    target = {
        "binary": (product > 0).astype(float),
        "regression": offset + unit * product,
        "multiclass": np.digitize(product, [-0.3, 0.3]).astype(float),
        "multilabel": np.stack([product > 0, features[:, 0] > 0], axis=1).astype(float),
    }[kind]
    source = array_source(torch.from_numpy(features).float())
    half = count // 2
    return source, *(make_examples(source, rows, target[rows]) for rows in (np.arange(half), np.arange(half, count)))


def names(kind):
    return {"multiclass": ("low", "mid", "high"), "multilabel": ("product", "sign")}.get(kind, ("finding",))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_learns_what_no_plane_separates(array_source, make_examples, kind):
    _, train, val = planted(array_source, make_examples, kind)
    head = PerceptronHead(QUICK)
    fit = head.fit(train, val, Context(kind, names(kind)))
    answer = head.predict(val)
    assert answer.shape == (len(val), {"binary": 1, "regression": 1, "multiclass": 3, "multilabel": 2}[kind])
    if kind == "regression":
        assert np.corrcoef(answer[:, 0], val.target)[0, 1] > 0.9
        return
    if kind == "multiclass":
        np.testing.assert_allclose(answer.sum(1), 1, atol=1e-6)
        assert (answer.argmax(1) == val.target).mean() > 0.75
        expected = log_loss(val.target, answer, labels=[0, 1, 2])
    else:
        columns = val.target if val.target.ndim == 2 else val.target[:, None]
        assert all(roc_auc_score(truth, score) > 0.93 for truth, score in zip(columns.T, answer.T, strict=True))
        expected = np.mean([log_loss(truth, score) for truth, score in zip(columns.T, answer.T, strict=True)])
    best = min(line["val_log_loss"] for line in fit.path)
    assert best == pytest.approx(expected, rel=1e-4)


def test_regression_is_in_the_targets_own_unit(array_source, make_examples):
    _, train, val = planted(array_source, make_examples, "regression", offset=1e3, unit=1e-3)
    head = PerceptronHead(QUICK)
    fit = head.fit(train, val, Context("regression", ("value",)))
    error = np.square(head.predict(val)[:, 0] - val.target).mean()
    assert error < 0.3 * np.var(val.target)
    assert min(line["val_mse"] for line in fit.path) == pytest.approx(error, rel=1e-2)


def test_unknown_labels_count_for_nothing(array_source, make_examples):
    """A label unknown for some films gives what the other label gives without those films being known."""
    source, train, val = planted(array_source, make_examples, "multilabel")
    blank = train.target.copy()
    blank[::2, 0] = np.nan
    filled = np.where(np.isnan(blank), 1.0 - train.target, blank)
    found = []
    for target in (blank, filled):
        head = PerceptronHead(QUICK, (1e-3,))
        rebuilt = type(train)(source, train.rows, target, train.patients)
        head.fit(rebuilt, val, Context("multilabel", names("multilabel")))
        found.append(roc_auc_score(val.target[:, 0], head.predict(val)[:, 0]))
    assert found[0] > 0.8 > found[1] + 0.1


def test_the_seed_repeats_and_tensors_come_back(array_source, make_examples):
    for kind in ("binary", "multiclass", "regression"):
        _, train, val = planted(array_source, make_examples, kind)
        heads = [PerceptronHead(QUICK) for _ in range(2)]
        fits = [head.fit(train, val, Context(kind, names(kind), seed=3)) for head in heads]
        assert fits[0] == fits[1]
        restored = load_head("mlp", kind)
        restored.load_tensors(heads[0].tensors())
        assert np.array_equal(restored.predict(val), heads[1].predict(val))


def test_equal_features_have_equal_scores(array_source, make_examples):
    source, train, val = planted(array_source, make_examples, "binary")
    head = PerceptronHead(QUICK)
    head.fit(train, val, Context("binary", ("finding",)))
    same = array_source(source.pooled[:1].expand(70, -1).clone())
    assert len(np.unique(head.predict(make_examples(same, range(70))))) == 1
