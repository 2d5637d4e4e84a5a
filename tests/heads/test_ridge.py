from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from evalfm.errors import EvalfmError
from evalfm.heads.head import Context
from evalfm.heads.ridge import PENALTIES, RidgeHead, ridge_path

CONTEXT = Context("regression", ("ctr",))


@pytest.fixture
def values(array_source, make_examples):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(160, 10)) * 10.0 ** generator.integers(-2, 3, 10) + 50
    weight = generator.normal(size=10) / features.std(0)
    value = (features - 50) @ weight * 30 + 400 + generator.normal(size=160) * 20
    source = array_source(torch.from_numpy(features).float())
    return make_examples(source, range(80), value[:80]), make_examples(source, range(80, 160), value[80:])


@pytest.mark.parametrize(("n", "d"), [(80, 12), (20, 70)])
def test_path_is_scikit_learns(n, d):
    generator = np.random.default_rng(2)
    features, target = generator.normal(size=(n, d)), generator.normal(size=n)
    features -= features.mean(0)
    penalties = np.array([1e6, 10.0, 1e-3])
    ours = ridge_path(features, target - target.mean(), penalties)
    for row, alpha in zip(ours, penalties, strict=True):
        reference = Ridge(alpha=alpha, solver="svd").fit(features, target)
        assert row == pytest.approx(reference.coef_, rel=1e-5, abs=1e-9)


def test_chosen_on_val_and_in_the_unit_of_the_target(values):
    train, val = values
    head, other = RidgeHead(), RidgeHead()
    fit = head.fit(train, val, CONTEXT)
    scaler = StandardScaler().fit(train.pooled().astype(np.float64))
    errors = {}
    for alpha in PENALTIES:
        model = Ridge(alpha=alpha).fit(scaler.transform(train.pooled()), train.target)
        errors[alpha] = np.square(model.predict(scaler.transform(val.pooled())) - val.target).mean()
    assert fit.chosen["alpha"] == min(errors, key=errors.get)
    assert {line["alpha"]: line["val_mse"] for line in fit.path} == pytest.approx(errors, rel=1e-6)
    prediction = head.predict(val)
    assert prediction.shape == (80, 1)
    assert np.abs(prediction[:, 0] - val.target).mean() < 25
    other.load_tensors(head.tensors())
    assert np.array_equal(other.predict(val), prediction)


def test_without_signal_the_mean_is_predicted_and_the_larger_penalty_taken(array_source, make_examples):
    source = array_source(torch.ones(8, 4))
    train = make_examples(source, range(5), [1.0, 2.0, 3.0, 4.0, np.nan])
    head = RidgeHead()
    fit = head.fit(train, make_examples(source, range(5, 8), [2.0, 2.0, np.nan]), CONTEXT)
    assert fit.chosen["alpha"] == pytest.approx(1e6)
    assert head.predict(train)[:, 0] == pytest.approx(np.full(5, 2.5))
    with pytest.raises(EvalfmError, match="serves regression tasks"):
        RidgeHead().fit(train, train, Context("binary", ("x",)))
