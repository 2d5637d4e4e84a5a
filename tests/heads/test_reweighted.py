"""Refits by weights against fits on repeated rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from evalfm.heads._logistic import Binomial, Multinomial, solve_path
from evalfm.heads._pooled import Standardisation
from evalfm.heads._reweighted import solve_reweighted
from evalfm.heads.head import Context, Drawn, HeldExamples
from evalfm.heads.knn import NeighbourHead, PrototypeHead
from evalfm.heads.linear import LinearHead, SoftmaxHead
from evalfm.heads.ordinal import OrdinalHead
from evalfm.heads.ridge import RidgeHead

REFITS = 4


def drawn(n: int, d: int, seed: int = 0, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Features of unlike scales and offsets, and classes that go with the first of them."""
    generator = np.random.default_rng(seed)
    latent = generator.normal(size=(n, d))
    label = np.digitize(latent[:, 0] + generator.normal(size=n), np.linspace(-0.8, 0.8, classes + 1)[1:-1])
    return (latent * generator.uniform(0.1, 5, d) + 3 * generator.normal(size=d)).astype(np.float32), label


def solved(features, label, strength, times):
    scaling = Standardisation.of(features)
    scaled = torch.from_numpy(scaling.apply(features))
    likelihood = Binomial(torch.from_numpy(label.astype(float)))
    start = solve_path(scaled, likelihood, torch.tensor([strength], dtype=torch.float64))
    return solve_reweighted(scaled, scaling, likelihood, strength, times, (start.weight[0], start.bias[0]))


def on_repeated_rows(features, label, strength, times):
    """Margins of scikit-learn's fit to repeated rows, standardised among themselves, at every image."""
    rows = np.repeat(np.arange(len(label)), times.astype(int))
    scaling = Standardisation.of(features[rows])
    fitted = LogisticRegression(C=strength, max_iter=5000, tol=1e-10).fit(scaling.apply(features[rows]), label[rows])
    return fitted.decision_function(scaling.apply(features))


@pytest.mark.parametrize(("n", "d"), [(200, 15), (60, 150)])
@pytest.mark.parametrize("strength", [1e-6, 1e-3, 1.0, 100.0])
def test_weights_are_repeated_rows(n, d, strength):
    features, label = drawn(n, d)
    times = np.random.default_rng(1).poisson(1.0, (REFITS, n)).astype(float)
    found = solved(features, label, strength, times)
    assert found.converged.all()
    for weight, bias, each in zip(found.weight, found.bias, times, strict=True):
        expected = on_repeated_rows(features, label, strength, each)
        assert features @ weight[0] + bias[0] == pytest.approx(expected, rel=1e-4, abs=1e-4 * np.abs(expected).max())


def test_a_feature_that_is_constant_among_the_drawn_rows_is_dropped():
    features, label = drawn(80, 6)
    features[:, 2] = 7.0
    features[:5, 2] = 8.0
    times = np.ones((2, 80))
    times[0, :5] = 0
    found = solved(features, label, 1.0, times)
    assert found.weight[0, 0, 2] == 0
    assert abs(found.weight[1, 0, 2]) > 0
    assert features @ found.weight[0, 0] + found.bias[0, 0] == pytest.approx(
        on_repeated_rows(features, label, 1.0, times[0]), abs=1e-4
    )


@pytest.mark.parametrize(("n", "d"), [(80, 6), (40, 60)])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_feature_that_only_rows_left_out_show_is_dropped(n, d, value):
    """As of a network that ends in a rectifier: of rounding alone it would have a tiny deviation and a huge weight."""
    features, label = drawn(n, d)
    features[:, 2] = value
    features[:7, 2] += np.float32(0.123)
    times = np.random.default_rng(8).poisson(1.0, (3, n)).astype(float)
    times[:, :7] = 0
    found = solved(features, label, 1.0, times)
    assert found.converged.all()
    assert (found.weight[:, 0, 2] == 0).all()
    for weight, bias, each in zip(found.weight, found.bias, times, strict=True):
        expected = on_repeated_rows(features, label, 1.0, each)
        assert features @ weight[0] + bias[0] == pytest.approx(expected, abs=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("head", "kind"), [(LinearHead, "binary"), (SoftmaxHead, "multiclass")])
def test_a_refit_that_stops_early_is_solved_from_the_start(array_source, make_examples, monkeypatch, head, kind):
    (train, val), context = examples(array_source, make_examples, kind)
    fitted = head()
    fitted.fit(train, val, context)
    drawn = draw(train, val, 5, 2)
    expected = [each.predict(val) for each in fitted.refits(train, val, context, drawn, choose=False)]
    monkeypatch.setattr("evalfm.heads._reweighted.MAX_STEPS", 1)
    for again, scores in zip(fitted.refits(train, val, context, drawn, choose=False), expected, strict=True):
        assert again.predict(val) == pytest.approx(scores, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.integers(1, 5))
def test_equal_weights_change_c_alone(seed, factor):
    """Rows that all stand ``factor`` times are the same rows at ``factor`` times the C."""
    features, label = drawn(50, 4, seed)
    scaling = Standardisation.of(features)
    scaled, likelihood = torch.from_numpy(scaling.apply(features)), Binomial(torch.from_numpy(label.astype(float)))
    path = solve_path(scaled, likelihood, torch.tensor([0.1, 0.1 * factor], dtype=torch.float64))
    start = path.weight[0], path.bias[0]
    found = solve_reweighted(scaled, scaling, likelihood, 0.1, np.full((1, 50), float(factor)), start)
    expected = scaling.raw(path.weight[1].numpy())
    # A weight near 0 is known to the solver's tolerance of the largest alone.
    assert found.weight[0] == pytest.approx(expected, rel=1e-3, abs=1e-5 * np.abs(expected).max())


def examples(array_source, make_examples, kind: str, n: int = 120):
    classes = {"multiclass": 3, "ordinal": 3}.get(kind, 2)
    features, label = drawn(2 * n, 8, seed=3, classes=classes)
    target = label.astype(float)
    if kind == "regression":
        target = features[:, 0] + features[:, 1] + np.random.default_rng(4).normal(size=2 * n)
    if kind == "multilabel":
        target = np.stack([target, (features[:, 1] > np.median(features[:, 1])).astype(float)], axis=1)
        target[::7, 1] = np.nan
    source = array_source(torch.from_numpy(features))
    made = [make_examples(source, range(start, start + n), target[start : start + n]) for start in (0, n)]
    names = ("a", "b", "c")[: max(classes, 2)] if kind in ("multiclass", "multilabel", "ordinal") else ("a",)
    return [HeldExamples.of(each) for each in made], Context(kind, names)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (LinearHead, "binary"),
        (LinearHead, "multilabel"),
        (SoftmaxHead, "multiclass"),
        (OrdinalHead, "ordinal"),
        (RidgeHead, "regression"),
        (NeighbourHead, "binary"),
        (PrototypeHead, "multiclass"),
    ],
)
def test_a_refit_is_a_fit_to_repeated_rows_at_what_the_drawn_val_chooses(array_source, make_examples, head, kind):
    (train, val), context = examples(array_source, make_examples, kind)
    fitted = head()
    path = fitted.fit(train, val, context).path
    drawn = draw(train, val, 5)
    refits = list(fitted.refits(train, val, context, drawn, choose=False))
    assert len(refits) == REFITS
    names = context.class_names if kind == "multilabel" else (None,)
    for of_train, of_val, again in zip(drawn.train, drawn.val, refits, strict=True):
        expected = np.full((len(val), len(context.class_names)), np.nan)
        for place, name in enumerate(names):
            setting = next((each for each in path[0] if each in ("C", "k", "alpha")), None) if path else None
            candidates = dict.fromkeys(line[setting] for line in path) if setting else {None: None}
            alone = [head() if each is None else head((each,)) for each in candidates]
            losses = []
            for each in alone:
                each.fit(train, val, context)
                target = val.target if val.target.ndim == 1 else val.target[:, place]
                losses.append(loss_of(kind, each.predict(val), target, place, of_val))
            best = alone[int(np.argmin(losses))]
            best.fit(train.repeated(of_train), val, context)
            of = [place] if name else slice(None)
            expected[:, of] = best.predict(val)[:, of]
        assert again.predict(val) == pytest.approx(expected, abs=2e-4 * max(1, np.abs(expected).max()))
        # What is drawn moves the scores.
        assert np.abs(again.predict(val) - fitted.predict(val)).max() > 1e-4


def loss_of(kind, scores, target, place, times):
    """Mean log-loss, or squared error, of the known rows counted ``times``."""
    known = np.isfinite(target)
    if kind == "regression":
        losses = np.square(scores[known, 0] - target[known])
    elif kind in ("binary", "multilabel"):
        score = scores[known, place]
        losses = -np.log(np.where(target[known] == 1, score, 1 - score))
    else:
        losses = -np.log(scores[known][np.arange(known.sum()), target[known].astype(int)])
    return np.average(losses, weights=times[known])


def draw(train, val, seed, count=REFITS):
    generator = np.random.default_rng(seed)
    return Drawn(*(generator.poisson(1.0, (count, len(each))) for each in (train, val)))


def of_train(times, val):
    """Val as it is."""
    return Drawn(times, np.ones((len(times), len(val)), dtype=int))


@pytest.mark.parametrize(
    ("head", "kind"), [(LinearHead, "binary"), (SoftmaxHead, "multiclass"), (RidgeHead, "regression")]
)
def test_where_val_chooses_again_a_refit_is_a_whole_fit(array_source, make_examples, head, kind):
    (train, val), context = examples(array_source, make_examples, kind, n=60)
    fitted = head((1e-3, 1.0, 10.0))
    fitted.fit(train, val, context)
    drawn = draw(train, val, 6, 2)
    refits = fitted.refits(train, val, context, drawn, choose=True)
    for of_train, of_val, again in zip(drawn.train, drawn.val, refits, strict=True):
        whole = head()
        whole.fit(train.repeated(of_train), val.repeated(of_val), context)
        assert again.predict(val) == pytest.approx(whole.predict(val))


def test_a_draw_without_a_class(array_source, make_examples):
    (train, val), context = examples(array_source, make_examples, "multiclass")
    fitted = SoftmaxHead()
    fitted.fit(train, val, context)
    times = np.ones((2, len(train)), dtype=int)
    times[0, train.target == 1] = 0
    without, same = fitted.refits(train, val, context, of_train(times, val), choose=False)
    assert (without.predict(val)[:, 1] == 0).all()
    assert same.predict(val) == pytest.approx(fitted.predict(val), abs=1e-3)


def test_a_label_of_which_one_class_is_drawn_has_one_score(array_source, make_examples):
    (train, val), context = examples(array_source, make_examples, "multilabel")
    fitted = LinearHead()
    fitted.fit(train, val, context)
    times = np.ones((1, len(train)), dtype=int)
    times[0, train.target[:, 0] == 1] = 0
    (refit,) = fitted.refits(train, val, context, of_train(times, val), choose=False)
    scores = refit.predict(val)
    assert np.ptp(scores[:, 0]) == 0
    assert np.ptp(scores[:, 1]) > 0.1
    assert scores[0, 0] < 0.05


def test_multinomial_weights_are_repeated_rows():
    features, label = drawn(150, 5, classes=3)
    scaling = Standardisation.of(features)
    scaled = torch.from_numpy(scaling.apply(features))
    likelihood = Multinomial(torch.from_numpy((label == np.arange(3)[:, None]).astype(float)))
    start = solve_path(scaled, likelihood, torch.tensor([1.0], dtype=torch.float64))
    times = np.random.default_rng(2).poisson(1.0, (1, 150)).astype(float)
    found = solve_reweighted(scaled, scaling, likelihood, 1.0, times, (start.weight[0], start.bias[0]))
    rows = np.repeat(np.arange(150), times[0].astype(int))
    again = Standardisation.of(features[rows])
    fitted = LogisticRegression(C=1.0, max_iter=5000, tol=1e-10).fit(again.apply(features[rows]), label[rows])
    margins = features @ found.weight[0].T + found.bias[0]
    probability = np.exp(margins) / np.exp(margins).sum(axis=1, keepdims=True)
    assert probability == pytest.approx(fitted.predict_proba(again.apply(features)), abs=1e-4)
