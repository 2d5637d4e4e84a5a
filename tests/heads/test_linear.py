from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from evalfm.errors import EvalfmError
from evalfm.heads import _pooled
from evalfm.heads.head import Context
from evalfm.heads.linear import STRENGTHS, LinearHead, SoftmaxHead

BINARY = Context("binary", ("sick",))


@pytest.fixture
def splits(array_source, make_examples):
    def build(n=240, d=12, seed=0, classes=2, flip=0.25):
        generator = np.random.default_rng(seed)
        label = generator.integers(0, classes, n)
        features = generator.normal(size=(n, d)) + 1.5 * (label[:, None] == np.arange(d) % classes)
        # Offsets and scales that only standardising survives; one constant channel.
        features = features * 10.0 ** generator.integers(-2, 3, d) + 100
        features[:, 3] = 5.0
        noisy = np.where(generator.random(n) < flip, generator.integers(0, classes, n), label)
        source = array_source(torch.from_numpy(features).float())
        half = n // 2
        return (
            source,
            make_examples(source, range(half), noisy[:half]),
            make_examples(source, range(half, n), noisy[half:]),
        )

    return build


def test_agrees_with_a_scikit_learn_grid(splits):
    _, train, val = splits()
    head = LinearHead()
    fit = head.fit(train, val, BINARY)
    scaler = StandardScaler().fit(train.pooled().astype(np.float64))
    losses = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10)
        model.fit(scaler.transform(train.pooled().astype(np.float64)), train.target)
        probability = model.predict_proba(scaler.transform(val.pooled().astype(np.float64)))[:, 1]
        losses.append(-np.log(np.where(val.target == 1, probability, 1 - probability)).mean())
    assert [line["C"] for line in fit.path] == list(STRENGTHS)
    assert [line["val_log_loss"] for line in fit.path] == pytest.approx(losses, abs=1e-4)
    assert fit.chosen == {"C": STRENGTHS[int(np.argmin(losses))]}
    best = LogisticRegression(C=fit.chosen["C"], solver="newton-cholesky", tol=1e-10)
    best.fit(scaler.transform(train.pooled().astype(np.float64)), train.target)
    expected = best.predict_proba(scaler.transform(val.pooled().astype(np.float64)))[:, 1:]
    assert head.predict(val) == pytest.approx(expected, abs=1e-3)
    assert "1 of 12 features are constant on train and were dropped." in map(str, fit.cautions)


def test_val_is_only_used_to_choose(splits):
    _, train, val = splits()
    head, other = LinearHead((0.1,)), LinearHead((0.1,))
    head.fit(train, val, BINARY)
    other.fit(train, type(val)(val.source, val.rows[:40], val.target[:40], val.patients[:40]), BINARY)
    assert torch.equal(head.tensors()["weight"], other.tensors()["weight"])


def test_unknown_labels_change_nothing(splits):
    source, train, val = splits()
    head, other = LinearHead(), LinearHead()
    target = train.target.copy()
    target[:20] = np.nan
    head.fit(type(train)(source, train.rows, target, train.patients), val, BINARY)
    source.pooled[:20] = 1e6
    other.fit(type(train)(source, train.rows, target, train.patients), val, BINARY)
    assert torch.equal(head.tensors()["weight"], other.tensors()["weight"])


def test_multilabel_is_independent_binary(splits):
    source, train, val = splits()
    generator = np.random.default_rng(5)
    second = [
        (train.pooled()[:, 0] > np.median(train.pooled()[:, 0])).astype(float),
        (generator.random(120) < 0.4) * 1.0,
    ]
    second[0][:7] = np.nan
    both = [np.stack([part.target, extra], axis=1) for part, extra in zip((train, val), second, strict=True)]
    many = LinearHead()
    examples = [type(p)(source, p.rows, t, p.patients) for p, t in zip((train, val), both, strict=True)]
    fit = many.fit(*examples, Context("multilabel", ("a", "b")))
    for column, label in enumerate("ab"):
        single = LinearHead()
        alone = [type(p)(source, p.rows, t[:, column], p.patients) for p, t in zip((train, val), both, strict=True)]
        one = single.fit(*alone, BINARY)
        assert fit.chosen[f"C[{label}]"] == one.chosen["C"]
        assert many.predict(val)[:, column] == pytest.approx(single.predict(val)[:, 0], abs=1e-9)


def test_softmax_probabilities_order_and_absent_class(splits):
    _, train, val = splits(classes=3, flip=0.0)
    head = SoftmaxHead()
    fit = head.fit(train, val, Context("multiclass", ("a", "b", "c", "never")))
    scores = head.predict(val)
    assert scores.shape == (120, 4)
    assert scores.sum(axis=1) == pytest.approx(np.ones(120))
    assert (scores[:, 3] == 0).all()
    assert (scores.argmax(axis=1) == val.target).mean() > 0.85
    assert any("No train image shows never" in str(each) for each in fit.cautions)


@pytest.mark.parametrize(("head", "kind", "classes"), [(LinearHead, "binary", 2), (SoftmaxHead, "multiclass", 3)])
def test_tensors_round_trip(splits, head, kind, classes):
    _, train, val = splits(classes=classes)
    first, second = head(), head()
    first.fit(train, val, Context(kind, ("sick",) if classes == 2 else ("0", "1", "2")))
    second.load_tensors(first.tensors())
    assert np.array_equal(first.predict(val), second.predict(val))


def test_ties_take_the_smaller_c_and_the_edge_is_told(array_source, make_examples):
    assert _pooled.smallest_best(np.array([0.5, 0.3, 0.3, 0.4])) == 1
    source = array_source(torch.ones(20, 3))
    label = np.arange(20) % 2
    head = LinearHead()
    fit = head.fit(
        make_examples(source, range(10), label[:10]), make_examples(source, range(10, 20), label[10:]), BINARY
    )
    assert fit.chosen == {"C": 1e-6}
    assert any("lower edge of the grid" in str(each) for each in fit.cautions)
    assert head.predict(make_examples(source, [0, 1])) == pytest.approx(np.full((2, 1), 0.5))


def test_two_shots(splits):
    source, train, val = splits()
    pair = [int(np.flatnonzero(train.target == value)[0]) for value in (0, 1)]
    few = type(train)(source, train.rows[pair], train.target[pair], train.patients[pair])
    head = LinearHead()
    head.fit(few, val, BINARY)
    assert np.isfinite(head.predict(val)).all()


def test_refusals(splits):
    source, train, val = splits()
    same = type(train)(source, train.rows, np.ones(len(train)), train.patients)
    with pytest.raises(EvalfmError, match="In train 'sick' has one class only; enlarge train"):
        LinearHead().fit(same, val, BINARY)
    with pytest.raises(EvalfmError, match="In val 'sick' has one class only; enlarge val"):
        LinearHead().fit(train, same, BINARY)
    with pytest.raises(EvalfmError, match="serves binary, multilabel tasks, not regression"):
        LinearHead().fit(train, val, Context("regression", ("ctr",)))
    unknown = type(train)(source, train.rows, np.full(len(train), np.nan), train.patients)
    with pytest.raises(EvalfmError, match="No train image has a known 'sick'"):
        LinearHead().fit(unknown, val, BINARY)
    source.pooled[3, 0] = torch.nan
    with pytest.raises(EvalfmError, match=r"not finite \(first: row 4\)"):
        LinearHead().fit(train, val, BINARY)


@pytest.mark.parametrize(("head", "classes"), [(LinearHead, 2), (SoftmaxHead, 3)])
def test_rows_in_parts_are_scaled_as_all_at_once(splits, monkeypatch, head, classes):
    _, train, val = splits(classes=classes)
    context = Context("binary", ("sick",)) if classes == 2 else Context("multiclass", ("a", "b", "c"))
    fits, tensors = [], []
    for rows in (10**6, 1, 7, 120):
        monkeypatch.setattr(_pooled, "ROWS_AT_ONCE", rows)
        fitted = head()
        fits.append(fitted.fit(train, val, context))
        tensors.append(fitted.tensors())
    for fit, learnt in zip(fits[1:], tensors[1:], strict=True):
        assert fit == fits[0]
        assert all(torch.equal(learnt[name], tensors[0][name]) for name in learnt)
    deviation = np.std(train.pooled(), axis=0, dtype=np.float64)
    scaling = _pooled.Standardisation.of(train.pooled())
    assert np.array_equal(scaling.scale[scaling.kept], deviation[scaling.kept])


def test_features_that_are_not_finite_do_not_cancel_out(array_source, make_examples):
    features = torch.ones(4, 3)
    features[2, 0], features[2, 1] = torch.inf, -torch.inf
    source = array_source(features)
    good, bad = make_examples(source, [0, 1], [0, 1]), make_examples(source, [1, 2, 3], [0, 1, 1])
    for train, val, split in ((bad, good, "train"), (good, bad, "val")):
        with pytest.raises(EvalfmError, match=rf"1 {split} images have features that are not finite \(first: row 3\)"):
            LinearHead().fit(train, val, BINARY)


def test_large_features_are_finite_though_their_sum_is_not_in_single_precision(array_source, make_examples):
    features = torch.full((8, 3), 3e38)
    features[::2, 0] = 1e38
    source = array_source(features)
    train, val = make_examples(source, range(4), [0, 1, 0, 1]), make_examples(source, range(4, 8), [0, 1, 0, 1])
    head = LinearHead()
    head.fit(train, val, BINARY)
    assert (head.predict(val)[:, 0] > 0.5).tolist() == [False, True, False, True]
