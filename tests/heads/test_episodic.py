"""Batched few-shot classifiers against scikit-learn, the heads that they are small copies of, and what must hold."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from evalfm.heads import episodic
from evalfm.heads.episodic import (
    EpisodeBatch,
    against_rest,
    linear,
    neighbours,
    normalised,
    prototypes,
    softmax_margins,
    solve,
)
from evalfm.heads.head import Context, Examples
from evalfm.heads.knn import NeighbourHead, PrototypeHead
from evalfm.statistics.auroc import episode_auroc

QUERIES = 6


@dataclass(frozen=True)
class Drawn:
    """Features of episodes: support [E, C · n, D], query [E, Q, D]."""

    support: torch.Tensor
    query: torch.Tensor
    classes: int

    @property
    def shots(self) -> int:
        return self.support.shape[1] // self.classes

    @property
    def batch(self) -> EpisodeBatch:
        return EpisodeBatch.of(self.support, self.query, self.classes)


def drawn(
    classes: int = 5, shots: int = 5, dimensions: int = 64, episodes: int = 7, seed: int = 0, raw: bool = False
) -> Drawn:
    """Features with a falling spectrum and a common mean, classes that overlap."""
    generator = np.random.default_rng(seed)
    centre = generator.normal(size=(episodes, classes, 1, dimensions)) * 0.12

    def features(number: int) -> torch.Tensor:
        noise = generator.normal(size=(episodes, classes, number, dimensions)) * np.arange(1, dimensions + 1) ** -0.3
        made = torch.from_numpy((1 + centre + noise).reshape(episodes, classes * number, dimensions))
        return made if raw else normalised(made)

    return Drawn(features(shots), features(QUERIES), classes)


def labels(of: Drawn, number: int) -> NDArray[np.intp]:
    return np.repeat(np.arange(of.classes), number)


def fitted(of: Drawn, episode: int, strength: float) -> LogisticRegression:
    model = LogisticRegression(C=strength, solver="newton-cg", tol=1e-12, max_iter=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(of.support[episode].numpy(), labels(of, of.shots))


@pytest.mark.parametrize(
    ("classes", "shots", "dimensions", "strength", "raw"),
    [
        (5, 5, 64, 1.0, False),
        (5, 5, 64, 1.0, True),
        (5, 5, 64, 100.0, True),
        (5, 5, 64, 1e-4, False),
        (3, 1, 64, 1.0, False),
        (2, 1, 32, 1.0, False),
        (2, 8, 32, 1.0, True),
        (2, 8, 32, 30.0, True),
        # More images than features.
        (4, 12, 3, 1.0, True),
        (2, 30, 5, 10.0, True),
    ],
)
def test_the_linear_probe_is_scikit_learns(classes: int, shots: int, dimensions: int, strength: float, raw: bool):
    made = drawn(classes, shots, dimensions, raw=raw)
    answers = linear(made.batch, strength)
    assert answers.converged.all()
    for episode in range(len(made.support)):
        reference = fitted(made, episode, strength).predict_proba(made.query[episode].numpy())
        ours = torch.sigmoid(answers.scores[episode]).numpy()
        assert ours == pytest.approx(reference, abs=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_coefficients_and_intercepts_are_scikit_learns(classes: int):
    made = drawn(classes, 4, 16, raw=True)
    axes = torch.cat([torch.zeros(1, 16), torch.eye(16)]).double().expand(len(made.support), -1, -1)
    margins, _ = softmax_margins(EpisodeBatch.of(made.support, axes, classes), 0.5 if classes == 2 else 1.0)
    for episode in range(len(made.support)):
        model = fitted(made, episode, 1.0)
        bias, weight = margins[episode, 0].numpy(), (margins[episode, 1:] - margins[episode, :1]).numpy().T
        if classes == 2:
            bias, weight = bias[1:] - bias[:1], weight[1:] - weight[:1]
        assert weight == pytest.approx(model.coef_, rel=1e-4, abs=1e-5)
        assert bias - bias.mean() == pytest.approx(model.intercept_ - model.intercept_.mean(), abs=1e-4)
        if classes == 2:
            assert bias == pytest.approx(model.intercept_, abs=1e-4)


def test_auroc_of_each_episode_is_scikit_learns():
    made = drawn(episodes=20)
    ours = episode_auroc(linear(made.batch).scores.reshape(20, 5, QUERIES, 5).numpy())
    truth = labels(made, QUERIES)
    for episode in range(20):
        probability = fitted(made, episode, 1.0).predict_proba(made.query[episode].numpy())
        assert ours[episode] == pytest.approx(roc_auc_score(truth, probability, multi_class="ovr"), abs=1e-12)
    assert 0.6 < ours.mean() < 0.95


def test_an_episode_does_not_depend_on_its_companions():
    made = drawn(episodes=9, raw=True)
    # One that converges slowly beside those that do not.
    made.support[3] *= 40
    together = linear(made.batch, 10.0).scores
    for episode in (0, 3, 8):
        alone = linear(EpisodeBatch.of(made.support[episode : episode + 1], made.query[episode : episode + 1], 5), 10.0)
        assert alone.scores[0].numpy() == pytest.approx(together[episode].numpy(), rel=1e-4, abs=1e-4)


def test_an_unfinished_solution_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(episodic, "MAX_NEWTON_STEPS", 2)
    assert not linear(drawn(raw=True).batch, 100.0).converged.all()
    monkeypatch.setattr(episodic, "TOLERANCE", 1.0)
    assert linear(drawn(raw=True).batch, 100.0).converged.all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(0)
    features = normalised(torch.from_numpy(generator.normal(size=(60, 16))))
    support, query = generator.integers(60, size=(11, 3, 4)), generator.integers(60, size=(11, 3, 5))
    whole = {name: solve(name, features, support, query).scores for name in episodic.METHODS}
    monkeypatch.setattr(episodic, "BLOCK_BYTES", 1)
    monkeypatch.setattr(episodic, "CACHE_BYTES", 1)
    for name, scores in whole.items():
        assert solve(name, features, support, query).scores.numpy() == pytest.approx(scores.numpy(), abs=1e-6)


def test_rows_of_the_features_are_those_asked():
    generator = np.random.default_rng(1)
    features = normalised(torch.from_numpy(generator.normal(size=(30, 8))))
    support, query = np.array([[[3, 4], [20, 21]]]), np.array([[[5], [22]]])
    by_hand = EpisodeBatch.of(features[[3, 4, 20, 21]][None], features[[5, 22]][None], 2)
    for name, method in episodic.METHODS.items():
        assert torch.equal(solve(name, features, support, query).scores, method(by_hand, 1.0).scores)


@pytest.mark.parametrize("method", list(episodic.METHODS))
@pytest.mark.parametrize("classes", [2, 5])
def test_features_that_know_nothing_are_at_chance_exactly(method: str, classes: int):
    alike = torch.full((3, classes * 4, 8), 0.37, dtype=torch.float64)
    queries = torch.full((3, classes * QUERIES, 8), 0.37, dtype=torch.float64)
    answers = episodic.METHODS[method](EpisodeBatch.of(normalised(alike), normalised(queries), classes), 1.0)
    assert answers.converged.all()
    assert episode_auroc(answers.scores.reshape(3, classes, QUERIES, classes).numpy()).tolist() == [0.5] * 3


@pytest.mark.parametrize("method", list(episodic.METHODS))
def test_equal_queries_have_equal_scores(method: str):
    # A number and a length at which products of one and the same row differ in their last bit from place to place.
    made = drawn(raw=True, dimensions=17)
    queries = made.query[:, :1].expand(-1, 13, -1).contiguous()
    scores = episodic.METHODS[method](EpisodeBatch.of(made.support, queries, 5), 1.0).scores
    assert torch.equal(scores, scores[:, :1].expand_as(scores))


def test_prototypes_are_the_nearest_means():
    made = drawn(3, 4)
    scores = prototypes(made.batch).scores
    for episode in range(len(made.support)):
        support, query = made.support[episode].numpy(), made.query[episode].numpy()
        means = np.stack([support[labels(made, 4) == code].mean(axis=0) for code in range(3)])
        cosine = query @ means.T / np.linalg.norm(means, axis=1) / np.linalg.norm(query, axis=1)[:, None]
        assert scores[episode].numpy().argmax(axis=1).tolist() == cosine.argmax(axis=1).tolist()
        softmax = np.exp(cosine / 0.07) / np.exp(cosine / 0.07).sum(axis=1, keepdims=True)
        assert torch.sigmoid(scores[episode]).numpy() == pytest.approx(softmax, abs=1e-7)


@pytest.mark.parametrize(("classes", "shots"), [(2, 1), (2, 6), (4, 5)])
def test_neighbours_are_those_of_the_head(classes: int, shots: int, array_source, make_examples):
    def examples(features: torch.Tensor, target: NDArray[np.intp]) -> Examples:
        return make_examples(array_source(features.float()), range(len(features)), target)

    made = drawn(classes, shots, episodes=3)
    k = min(episodic.NEIGHBOURS, classes * shots)
    scores = neighbours(made.batch).scores
    for episode in range(3):
        head = NeighbourHead((k,))
        kind = "binary" if classes == 2 else "multiclass"
        names = ("positive",) if classes == 2 else tuple(f"c{each}" for each in range(classes))
        support = examples(made.support[episode], labels(made, shots))
        head.fit(support, support, Context(kind, names))
        expected = head.predict(examples(made.query[episode], labels(made, QUERIES)))
        ours = scores[episode].numpy()
        assert (ours[:, 1:] if classes == 2 else ours) == pytest.approx(expected, abs=1e-5)


def test_with_one_image_of_each_of_two_classes_all_methods_rank_alike():
    made = drawn(2, 1, 128, episodes=40)
    areas = [
        episode_auroc(episodic.METHODS[name](made.batch, 1.0).scores.reshape(40, 2, QUERIES, 2).numpy())
        for name in episodic.METHODS
    ]
    assert areas[0] == pytest.approx(areas[1])
    assert areas[0] == pytest.approx(areas[2])


def test_log_odds_keep_the_order_of_probabilities_where_those_have_come_to_an_end():
    margins = torch.tensor([[60.0, 0.0, 0.0], [80.0, 0.0, 0.0], [-90.0, 0.0, 0.0]], dtype=torch.float64)
    probability = torch.softmax(margins, dim=-1)
    assert probability[0, 0] == probability[1, 0]
    odds = against_rest(margins)
    assert odds[1, 0] > odds[0, 0] > odds[2, 0]
    moderate = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.sigmoid(against_rest(moderate)).numpy() == pytest.approx(torch.softmax(moderate, -1).numpy())


@pytest.mark.parametrize(("classes", "shots"), [(2, 3), (4, 5)])
def test_prototypes_are_those_of_the_head(classes: int, shots: int, array_source, make_examples):
    made = drawn(classes, shots, episodes=3)
    scores = torch.sigmoid(prototypes(made.batch).scores)
    for episode in range(3):
        head = PrototypeHead()
        names = ("positive",) if classes == 2 else tuple(f"c{each}" for each in range(classes))
        support, query = (
            make_examples(array_source(features[episode].float()), range(len(features[episode])), labels(made, each))
            for features, each in ((made.support, shots), (made.query, QUERIES))
        )
        head.fit(support, support, Context("binary" if classes == 2 else "multiclass", names))
        ours = scores[episode].numpy()
        assert (ours[:, 1:] if classes == 2 else ours) == pytest.approx(head.predict(query), abs=1e-5)
