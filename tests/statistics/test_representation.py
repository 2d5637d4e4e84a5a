from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from evalfm.statistics.representation import jackknifed, linear_cka, rank_me, shared_neighbours


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_rank_me_counts_equal_directions() -> None:
    basis = np.linalg.qr(normal(0, 60, 60))[0]
    for rank in (1, 5, 40):
        assert rank_me(basis[:, :rank] @ basis[:rank]) == pytest.approx(rank, rel=1e-3)
    # By hand: shares 3/4 and 1/4.
    assert rank_me([[3.0, 0.0], [0.0, 1.0]]) == pytest.approx(4 / 3**0.75, rel=1e-5)
    assert np.isnan(rank_me(np.zeros((5, 3))))


def test_cka_is_one_after_rotation_scaling_and_shift_and_zero_for_strangers() -> None:
    features = normal(0, 80, 12)
    turned = 3 * features @ np.linalg.qr(normal(1, 12, 12))[0] + 5
    for unbiased in (True, False):
        assert linear_cka(features, turned, unbiased=unbiased) == pytest.approx(1, abs=1e-12)
    wide = [linear_cka(normal(seed, 80, 400), normal(seed + 99, 80, 400)) for seed in range(20)]
    assert abs(np.mean(wide)) < 0.02
    # The plain form takes strangers for relatives where there are more dimensions than images.
    assert linear_cka(normal(0, 80, 400), normal(99, 80, 400), unbiased=False) > 0.7


def test_plain_cka_is_its_formula_on_features() -> None:
    one, other = normal(0, 30, 4), normal(1, 30, 6)
    a, b = one - one.mean(0), other - other.mean(0)
    norm = np.linalg.norm
    expected = norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b))
    assert linear_cka(one, other, unbiased=False) == pytest.approx(expected, rel=1e-12)


def test_unbiased_hsic_is_the_mean_over_all_quadruples() -> None:
    # Song et al. (2012), equation 4 by brute force over ordered quadruples of different rows.
    one, other = normal(0, 7, 2), normal(1, 7, 3)

    def brute(first: np.ndarray, second: np.ndarray) -> float:
        k, m = first @ first.T, second @ second.T
        n, total, count = len(k), 0.0, 0
        for i in range(n):
            for j in range(n):
                for q in range(n):
                    for r in range(n):
                        if len({i, j, q, r}) == 4:
                            total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
                            count += 1
        return total / count

    expected = brute(one, other) / (brute(one, one) * brute(other, other)) ** 0.5
    assert linear_cka(one, other) == pytest.approx(expected, rel=1e-9)


def test_neighbours_are_those_of_brute_force_and_never_of_the_same_patient() -> None:
    one, other = normal(0, 40, 5), normal(1, 40, 5)
    patient = np.arange(40) // 2
    shared = shared_neighbours(one, other, patient, k=4)

    def nearest(features: np.ndarray, row: int) -> set[int]:
        far = cdist(features[[row]], features, "cosine")[0]
        far[patient == patient[row]] = np.inf
        return set(np.argsort(far)[:4].tolist())

    expected = [len(nearest(one, row) & nearest(other, row)) / 4 for row in range(40)]
    assert shared.tolist() == expected
    assert shared_neighbours(one, 2 * one, patient, k=4).tolist() == [1.0] * 40
    with pytest.raises(ValueError, match="4 images of other patients"):
        shared_neighbours(one[:4], one[:4], np.arange(4), k=4)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = normal(0, 400)
    found = jackknifed(lambda rows: float(values[rows].mean()), np.arange(400), unit="patients")
    assert found.value == pytest.approx(values.mean())
    widths = []
    for seed in range(200):
        each = jackknifed(lambda rows: float(values[rows].mean()), np.arange(400), unit="patients", seed=seed)
        widths.append((each.high - each.low) / 2 / 1.959964)
    assert np.mean(np.square(widths)) ** 0.5 == pytest.approx(values.std(ddof=1) / 20, rel=0.05)


def test_what_cannot_be_told_is_absent_with_the_reason() -> None:
    few = jackknifed(lambda rows: float(len(rows)), np.arange(39), unit="images")
    assert few.value == 39
    assert few.low is None
    assert "needs 40 patients" in str(few.reason)
    assert jackknifed(lambda rows: float("nan"), np.arange(50), unit="patients").value is None
    assert np.isnan(linear_cka(np.ones((10, 3)), normal(0, 10, 3)))
    with pytest.raises(ValueError, match="same four images"):
        linear_cka(normal(0, 5, 2), normal(0, 6, 2))
