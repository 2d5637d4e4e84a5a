from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from evalfm.statistics.episodes import episode_auroc, over_episodes


@pytest.mark.parametrize(("classes", "queries"), [(2, 1), (2, 10), (5, 7)])
@pytest.mark.parametrize("ties", [False, True])
def test_macro_auroc_is_scikit_learns(classes: int, queries: int, ties: bool):
    generator = np.random.default_rng(classes + queries)
    scores = generator.normal(size=(9, classes, queries, classes)) + 0.8 * np.eye(classes)[:, None]
    if ties:
        scores = scores.round(0)
    truth = np.repeat(np.arange(classes), queries)
    found = episode_auroc(scores)
    for episode, flat in enumerate(scores.reshape(9, -1, classes)):
        each = [roc_auc_score(truth == code, flat[:, code]) for code in range(classes)]
        assert found[episode] == pytest.approx(np.mean(each), abs=1e-12)


def test_equal_scores_are_at_chance_and_perfect_ones_at_one():
    assert episode_auroc(np.zeros((2, 3, 4, 3))).tolist() == [0.5, 0.5]
    perfect = np.broadcast_to(np.eye(3)[:, None], (3, 4, 3))[None]
    assert episode_auroc(perfect).tolist() == [1.0]
    assert episode_auroc(-perfect).tolist() == [0.0]


@pytest.mark.parametrize("shape", [(3, 4, 3), (2, 3, 4, 2), (2, 1, 4, 1), (2, 3, 0, 3)])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="scores must be"):
        episode_auroc(np.zeros(shape))


def test_a_score_that_is_no_number_is_refused():
    scores = np.zeros((1, 2, 3, 2))
    scores[0, 1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        episode_auroc(scores)


def test_mean_and_interval_are_those_of_a_t_test():
    values = np.random.default_rng(0).normal(0.7, 0.1, 40)
    mean, deviation = over_episodes(values)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean.value == pytest.approx(values.mean())
    assert (mean.low, mean.high) == pytest.approx(tuple(reference))
    assert deviation == pytest.approx(np.std(values, ddof=1))
    assert (mean.n, mean.unit) == (40, "episodes")
    assert "share images" in mean.method


def test_no_interval_of_one_episode_or_of_equal_ones():
    alone, deviation = over_episodes([0.8])
    assert (alone.value, alone.low, deviation) == (0.8, None, None)
    assert alone.reason == "one episode has no spread"
    equal, deviation = over_episodes([0.5, 0.5, 0.5])
    assert (equal.value, equal.low, equal.high, deviation) == (0.5, None, None, 0.0)
    assert "same value" in (equal.reason or "")
