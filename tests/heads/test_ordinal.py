from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from statsmodels.miscmodels.ordinal_model import OrderedModel

from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.head import Context
from evalfm.heads.module import Statistics
from evalfm.heads.ordinal import OrdinalHead, OrdinalModule

NAMES = ("none", "mild", "severe", "gross")


def planted(array_source, make_examples, count=600, classes=4, seed=0):
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 3)) * [1, 10, 0.1] + [0, 50, 3]
    latent = features @ [1.0, 0.1, 0.0] + draw.logistic(size=count)
    target = np.digitize(latent, np.quantile(latent, [0.4, 0.7, 0.9])[: classes - 1]).astype(float)
    source = array_source(torch.from_numpy(features).float())
    half = count // 2
    parts = [make_examples(source, rows, target[rows]) for rows in (np.arange(half), np.arange(half, count))]
    return source, *parts, Context("ordinal", NAMES[:classes])


def features_of(examples):
    return examples.pooled().astype(np.float64)


def test_without_penalty_it_is_the_model_of_statsmodels(array_source, make_examples):
    _, train, val, context = planted(array_source, make_examples)
    head = OrdinalHead((1e8,))
    head.fit(train, val, context)
    features = features_of(train)
    scale, mean = features.std(0), features.mean(0)
    oracle = OrderedModel(train.target.astype(int), (features - mean) / scale, distr="logit")
    fitted = oracle.fit(method="bfgs", disp=False, gtol=1e-8)
    tensors = head.tensors()
    np.testing.assert_allclose(tensors["weight"].numpy() * scale, fitted.params[:3], atol=1e-3)
    np.testing.assert_allclose(
        head.predict(train), oracle.predict(fitted.params, exog=(features - mean) / scale), atol=1e-3
    )


def test_the_penalty_is_scikit_learns_convention(array_source, make_examples):
    """With two classes it is logistic regression."""
    from sklearn.linear_model import LogisticRegression

    _, train, val, context = planted(array_source, make_examples, classes=2)
    features = features_of(train)
    scale, mean = features.std(0), features.mean(0)
    for strength in (1e-3, 0.1):
        head = OrdinalHead((strength,))
        head.fit(train, val, context)
        oracle = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit((features - mean) / scale, train.target)
        np.testing.assert_allclose(head.tensors()["weight"].numpy() * scale, oracle.coef_[0], atol=1e-4)
        np.testing.assert_allclose(
            head.predict(val), oracle.predict_proba((features_of(val) - mean) / scale), atol=1e-4
        )


def test_c_is_chosen_by_val_log_loss(array_source, make_examples):
    _, train, val, context = planted(array_source, make_examples)
    head = OrdinalHead()
    fit = head.fit(train, val, context)
    answer = head.predict(val)
    np.testing.assert_allclose(answer.sum(1), 1, atol=1e-9)
    best = min(fit.path, key=lambda line: line["val_log_loss"])
    assert fit.chosen["C"] == best["C"]
    assert best["val_log_loss"] == pytest.approx(log_loss(val.target, answer, labels=range(4)), rel=1e-6)
    # A greater score moves probability upwards through the classes, never to and fro.
    score = features_of(val) @ head.tensors()["weight"].numpy()
    above = answer[np.argsort(score)][:, ::-1].cumsum(1)
    assert (np.diff(above, axis=0) >= -1e-9).all()


def test_a_class_that_train_does_not_show_has_probability_zero(array_source, make_examples):
    source, train, val, context = planted(array_source, make_examples)
    known = train.target != 1
    part = make_examples(source, train.rows[known], train.target[known])
    head = OrdinalHead()
    fit = head.fit(part, val, context)
    assert any("mild" in str(each) for each in fit.cautions)
    answer = head.predict(val)
    assert not answer[:, 1].any()
    np.testing.assert_allclose(answer.sum(1), 1, atol=1e-9)


def test_tensors_come_back(array_source, make_examples):
    _, train, val, context = planted(array_source, make_examples)
    head = load_head("linear", "ordinal")
    assert isinstance(head, OrdinalHead)
    head.fit(train, val, context)
    again = load_head("linear", "ordinal")
    again.load_tensors(head.tensors())
    assert np.array_equal(again.predict(val), head.predict(val))


@pytest.mark.parametrize("absent", [False, True])
def test_as_a_readout_it_answers_the_same_there_and_back(array_source, make_examples, absent):
    source, train, val, context = planted(array_source, make_examples)
    if absent:
        known = train.target != 2
        train = make_examples(source, train.rows[known], train.target[known])
    head = OrdinalHead()
    head.fit(train, val, context)
    expected = head.predict(val)
    features = train.pooled()
    statistics = Statistics(torch.from_numpy(features.mean(0)), torch.from_numpy(features.std(0)))
    objective = head.objective(train, context)
    module = head.fitted(statistics, objective)
    with torch.no_grad():
        answer = objective.link(module((), torch.from_numpy(val.pooled())))
    np.testing.assert_allclose(answer, expected, atol=2e-4)
    other = OrdinalHead()
    other.objective(train, context)
    other.set_module(module, head.layout(source, context), objective, torch.device("cpu"))
    np.testing.assert_allclose(other.predict(val), expected, atol=2e-4)


def test_a_fresh_readout_starts_at_the_shares_of_train(array_source, make_examples):
    source, train, _, context = planted(array_source, make_examples)
    head = OrdinalHead()
    objective = head.objective(train, context)
    module = head.new_module(head.layout(source, context), torch.Generator())
    assert isinstance(module, OrdinalModule)
    target = objective.read(train, None, context.progress, "train")
    module.init_bias(objective.start(target, 0.0))
    shares = np.bincount(train.target.astype(int)) + 1
    answer = objective.link(module((), source.pooled[:2])).detach()
    np.testing.assert_allclose(answer[0], shares / shares.sum(), atol=1e-5)


def test_one_class_is_refused(array_source, make_examples):
    source, _, val, context = planted(array_source, make_examples)
    only = make_examples(source, range(5), np.ones(5))
    with pytest.raises(EvalfmError, match="one class only"):
        OrdinalHead().fit(only, val, context)
