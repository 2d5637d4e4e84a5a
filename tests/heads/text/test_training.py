"""The schedule of a context, and the batches it sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from evalfm.heads.text.training import (
    ContextSchedule,
    absolute_difference,
    best_logits,
    centre,
    distillation,
    selected,
    shuffled,
    squared_difference,
)


def test_rates_are_those_of_a_cosine_after_one_slow_epoch() -> None:
    """torch's own cosine over all epochs, begun after the warm-up: what Dassl's scheduler does in CoOp's code."""
    schedule = ContextSchedule(epochs=100, rate=2.5e-3)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.5e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 100)
    expected = [1e-5]
    for _ in range(99):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        cosine.step()
    assert [schedule.rate_of(epoch) for epoch in range(100)] == pytest.approx(expected, rel=1e-9)
    assert schedule.rate_of(1) == 2.5e-3
    assert 0 < schedule.rate_of(99) < 1e-5


def test_an_epoch_deals_whole_batches_once() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (list(shuffled(10, 4, generator)) for _ in range(2))
    assert [len(batch) for batch in first] == [4, 4]
    assert len(set(torch.cat(first).tolist())) == 8
    assert torch.cat(first).tolist() != torch.cat(second).tolist()
    assert [len(batch) for batch in shuffled(8, 4, generator)] == [4, 4]
    # What is smaller than a batch is one.
    assert [len(batch) for batch in shuffled(3, 4, generator)] == [3]


Array = NDArray[np.float64]
B, C, D, N, SCALE = 4, 3, 512, 50, 90.0


def unit(*shape: int, seed: int = 0) -> Array:
    drawn = np.random.default_rng(seed).normal(size=shape)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True))


def tensor(values: Array) -> Tensor:
    return torch.from_numpy(values)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_differences_are_means_over_classes_and_dimensions() -> None:
    one, other = unit(C, D, seed=1), unit(C, D, seed=2)
    squares = sum((one[c, d] - other[c, d]) ** 2 for c in range(C) for d in range(D)) / (C * D)
    sizes = sum(abs(one[c, d] - other[c, d]) for c in range(C) for d in range(D)) / (C * D)
    assert float(squared_difference(tensor(one), tensor(other))) == pytest.approx(squares, abs=1e-6)
    assert float(absolute_difference(tensor(one), tensor(other))) == pytest.approx(sizes, abs=1e-6)
    assert float(absolute_difference(tensor(one), tensor(one))) == 0


def test_the_squared_difference_of_unit_vectors_is_two_less_two_mean_cosines_over_512() -> None:
    one, other = unit(C, D, seed=1), unit(C, D, seed=2)
    cosine = np.mean([one[c] @ other[c] for c in range(C)])
    assert float(squared_difference(tensor(one), tensor(other))) == pytest.approx((2 - 2 * cosine) / 512, rel=1e-9)


def test_distillation_is_the_divergence_from_the_teacher_over_all_logits() -> None:
    images, texts, teachers = unit(B, D, seed=3), unit(C, D, seed=4), unit(C, D, seed=5)
    student, teacher = SCALE * images @ texts.T, SCALE * images @ teachers.T
    p, q = softmax(teacher), softmax(student)
    expected = sum(p[b, c] * (np.log(p[b, c]) - np.log(q[b, c])) for b in range(B) for c in range(C)) / (B * C)
    assert float(distillation(tensor(teacher), tensor(student))) == pytest.approx(expected, abs=1e-6)
    assert expected > 1e-3
    # The other way round is another number: the teacher is what the student is held to.
    assert float(distillation(tensor(student), tensor(teacher))) != pytest.approx(expected, rel=1e-3)


def test_distillation_is_nothing_where_texts_are_the_sentences() -> None:
    images, texts = unit(B, D, seed=3), unit(C, D, seed=4)
    logits = tensor(SCALE * images @ texts.T)
    assert float(distillation(logits, logits)) == 0
    # And where logits differ by a constant, which no softmax sees.
    assert float(distillation(logits + 7, logits)) == pytest.approx(0, abs=1e-9)


def test_best_logits_are_the_largest_over_classes() -> None:
    images, sentences = unit(B, D, seed=6), unit(N, C, D, seed=7)
    expected = np.array(
        [[max(SCALE * images[b] @ sentences[i, c] for c in range(C)) for i in range(N)] for b in range(B)]
    )
    assert np.abs(best_logits(tensor(images), tensor(sentences), SCALE).numpy() - expected).max() < 1e-6


def by_the_authors(scores: Array, tau: float) -> NDArray[np.bool_]:
    """Median, median absolute deviation, and then mean and standard deviation, as their code has it."""
    # torch.median takes the lower of two middle values.
    middle = np.sort(scores)[(len(scores) - 1) // 2]
    spread = np.sort(np.abs(scores - middle))[(len(scores) - 1) // 2]
    z = (scores - middle) / spread
    return np.asarray(np.abs((z - z.mean()) / z.std(ddof=1)) <= tau)


@pytest.mark.parametrize("tau", [1.0, 1.25, 1.5, 2.0])
def test_the_selection_is_that_of_the_authors_two_steps(tau: float) -> None:
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(30, 2, size=N)
        kept = selected(tensor(scores), tau).numpy()
        assert np.array_equal(kept, by_the_authors(scores, tau))
        assert 0 < kept.sum() < N


@settings(deadline=None, max_examples=40)
@given(
    slope=st.floats(0.01, 100) | st.floats(-100, -0.01),
    shift=st.floats(-1000, 1000),
    seed=st.integers(0, 100),
)
def test_the_selection_does_not_change_with_an_affine_map_of_the_scores(slope: float, shift: float, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=N)
    kept = selected(tensor(scores), 1.5)
    assert torch.equal(selected(tensor(slope * scores + shift), 1.5), kept)


def test_without_a_bound_all_are_kept_and_both_centres_are_one() -> None:
    sentences, scores = tensor(unit(N, C, D, seed=7)), tensor(np.random.default_rng(1).normal(size=N))
    kept = selected(scores, float("inf"))
    assert bool(kept.all())
    assert torch.equal(centre(sentences[kept]), centre(sentences))


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        # More than half are equal: the median absolute deviation is 0, which the authors divide by.
        ([5.0] * 9 + [50.0], [True] * 9 + [False]),
        ([5.0] * 10, [True] * 10),
        ([0.0] * 10, [True] * 10),
        ([0.1 + 0.2] * 5 + [0.3] * 5, [True] * 10),
        ([5.0], [True]),
        ([1.0, 2.0], [True, True]),
    ],
)
def test_scores_without_a_spread_keep_what_they_should(scores: list[float], kept: list[bool]) -> None:
    assert selected(torch.tensor(scores, dtype=torch.float64), 1.5).tolist() == kept
    assert selected(torch.tensor(scores), 1.5).tolist() == kept


def test_a_bound_of_one_always_keeps_a_sentence() -> None:
    for count in range(2, 12):
        for seed in range(20):
            assert bool(selected(tensor(np.random.default_rng(seed).normal(size=count)), 1.0).any())


def test_a_centre_is_the_mean_of_length_one() -> None:
    sentences = unit(N, C, D, seed=8)
    for c in range(C):
        mean = sum(sentences[i, c] for i in range(N)) / N
        assert np.abs(centre(tensor(sentences))[c].numpy() - mean / np.sqrt((mean**2).sum())).max() < 1e-6
