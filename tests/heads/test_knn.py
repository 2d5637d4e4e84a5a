from __future__ import annotations

import numpy as np
import pytest
import torch

from evalfm.errors import EvalfmError
from evalfm.heads.head import Context
from evalfm.heads.knn import TEMPERATURE, NeighbourHead, PrototypeHead


@pytest.fixture
def splits(array_source, make_examples):
    generator = np.random.default_rng(0)
    label = np.arange(90) % 3
    features = generator.normal(size=(90, 8)) + 2 * (label[:, None] == np.arange(8) % 3)
    source = array_source(torch.from_numpy(features).float())
    return make_examples(source, range(60), label[:60]), make_examples(source, range(60, 90), label[60:])


def brute_force(train, query, k, classes):
    bank, wanted = train.pooled().astype(float), query.pooled().astype(float)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    prior = np.bincount(train.target.astype(int), minlength=classes) / len(train)
    rows = []
    for vector in wanted:
        cosine = bank @ vector
        nearest = np.argsort(-cosine)[:k]
        weight = np.exp((cosine[nearest] - cosine.max()) / 0.07)
        votes = prior.copy()
        for position, share in zip(nearest, weight, strict=True):
            votes[int(train.target[position])] += share
        rows.append(votes / (weight.sum() + 1))
    return np.array(rows)


def test_multiclass_is_the_brute_force_vote(splits):
    train, val = splits
    head = NeighbourHead()
    fit = head.fit(train, val, Context("multiclass", ("a", "b", "c")))
    assert [line["k"] for line in fit.path] == [1, 3, 5, 9, 15, 25, 50]
    for line in fit.path:
        probability = brute_force(train, val, line["k"], 3)
        truth = probability[np.arange(len(val)), val.target.astype(int)]
        assert line["val_log_loss"] == pytest.approx(-np.log(truth).mean(), abs=1e-4)
    assert fit.chosen["k"] == min(fit.path, key=lambda line: line["val_log_loss"])["k"]
    assert head.predict(val) == pytest.approx(brute_force(train, val, fit.chosen["k"], 3), abs=1e-4)


def test_binary_scores_the_positive_class_and_round_trips(splits):
    train, val = (type(split)(split.source, split.rows, (split.target == 2) * 1.0, split.patients) for split in splits)
    head, other = NeighbourHead(), NeighbourHead()
    fit = head.fit(train, val, Context("binary", ("c",)))
    scores = head.predict(val)
    assert scores.shape == (30, 1)
    assert scores[:, 0] == pytest.approx(brute_force(train, val, fit.chosen["k"], 2)[:, 1], abs=1e-4)
    assert scores[val.target == 1].mean() > scores[val.target == 0].mean() + 0.3
    other.load_tensors(head.tensors())
    assert np.array_equal(other.predict(val), scores)


def test_one_class_is_refused(splits):
    train, val = splits
    with pytest.raises(EvalfmError, match="one class only"):
        NeighbourHead().fit(
            type(train)(train.source, train.rows, train.target * 0, train.patients),
            val,
            Context("binary", ("c",)),
        )


def by_means(train, query, classes):
    bank, wanted = (part.pooled() / np.linalg.norm(part.pooled(), axis=1, keepdims=True) for part in (train, query))
    means = np.stack([bank[train.target == code].mean(axis=0) for code in range(classes)])
    cosine = wanted @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    weight = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / TEMPERATURE)
    return weight / weight.sum(axis=1, keepdims=True)


def test_prototypes_are_the_cosine_to_the_mean_of_each_class(splits):
    train, val = splits
    head = PrototypeHead()
    fit = head.fit(train, val, Context("multiclass", ("a", "b", "c")))
    assert fit.chosen == {}
    assert head.predict(val) == pytest.approx(by_means(train, val, 3), abs=1e-5)
    assert not fit.cautions
    fit = head.fit(train, val, Context("multiclass", ("a", "b", "c", "d")))
    assert [each.code for each in fit.cautions] == ["unseen-class"]
    assert "shows d:" in str(fit.cautions[0])


def test_prototypes_of_two_classes_score_the_positive_one_and_round_trip(splits):
    train, val = (type(split)(split.source, split.rows, (split.target == 2) * 1.0, split.patients) for split in splits)
    head, other = PrototypeHead(), PrototypeHead()
    head.fit(train, val, Context("binary", ("c",)))
    scores = head.predict(val)
    assert scores == pytest.approx(by_means(train, val, 2)[:, 1:], abs=1e-5)
    other.load_tensors(head.tensors())
    assert np.array_equal(other.predict(val), scores)
    alone = type(train)(train.source, train.rows, train.target * 0, train.patients)
    with pytest.raises(EvalfmError, match="one class only"):
        head.fit(alone, val, Context("binary", ("c",)))
