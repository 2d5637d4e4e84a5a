from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from evalfm.statistics.representation import (
    directions,
    index_estimate,
    jackknifed,
    linear_cka,
    rank_me,
    robustness_index,
    shared_neighbours,
    shift_share,
)


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
    assert "needs 40 images" in str(few.reason)
    assert jackknifed(lambda rows: float("nan"), np.arange(50), unit="patients").value is None
    assert np.isnan(linear_cka(np.ones((10, 3)), normal(0, 10, 3)))
    with pytest.raises(ValueError, match="same four images"):
        linear_cka(normal(0, 5, 2), normal(0, 6, 2))


# Shift by a perturbation


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("folded", [False, True])
def test_the_share_of_the_way_is_its_definition_over_all_pairs(folded: bool) -> None:
    clean, changed = normal(0, 30, 6) + 1, normal(1, 30, 6) + 1
    patient = np.repeat(np.arange(12), 3)[:30]
    folds = patient % 3 if folded else None
    apart = [
        1 - cosine(clean[i], clean[j])
        for i in range(30)
        for j in range(30)
        if patient[i] != patient[j] and (folds is None or folds[i] == folds[j])
    ]
    moved = [1 - cosine(one, other) for one, other in zip(clean, changed, strict=True)]
    assert shift_share(clean, changed, patient, folds) == pytest.approx(np.mean(moved) / np.mean(apart), rel=1e-9)


def test_the_share_is_nothing_where_nothing_moves_and_one_for_the_image_of_anybody() -> None:
    clean = normal(0, 200, 8) + 3
    patient = np.arange(200)
    assert shift_share(clean, clean, patient) == 0.0
    # Longer features of the same directions have not moved.
    assert shift_share(clean, 5 * clean, patient) == pytest.approx(0, abs=1e-12)
    others = [shift_share(clean, clean[np.random.default_rng(seed).permutation(200)], patient) for seed in range(30)]
    assert np.mean(others) == pytest.approx(1, abs=0.02)
    # By hand: every feature turned by 90° among two directions at 90°.
    square = np.array([[1.0, 0], [0, 1]])
    assert shift_share(square, square[::-1], ["a", "b"]) == pytest.approx(1)


def test_a_common_direction_does_not_hide_a_shift() -> None:
    # Cosines of encoders whose features all lie close together say little; the share does not see where they lie.
    clean, noise = normal(0, 300, 16), 0.5 * normal(1, 300, 16)
    shares, cosines = [], []
    for offset in (0, 30):
        shares.append(shift_share(clean + offset, clean + offset + noise, np.arange(300)))
        pairs = zip(clean + offset, clean + offset + noise, strict=True)
        cosines.append(np.mean([cosine(one, other) for one, other in pairs]))
    assert cosines[1] > 0.999 > 0.95 > cosines[0]
    assert shares[1] == pytest.approx(shares[0], rel=0.3)


def test_without_two_patients_or_with_one_feature_there_is_no_share() -> None:
    assert np.isnan(shift_share(normal(0, 4, 3), normal(1, 4, 3), ["a"] * 4))
    assert np.isnan(shift_share(np.ones((4, 3)), normal(1, 4, 3), list("abcd")))
    assert directions([[0.0, 0], [0, -2]]).tolist() == [[0, 0], [0, -1]]


# Site against class


def brute_index(
    features: np.ndarray, label: np.ndarray, site: np.ndarray, patient: np.ndarray, k: int
) -> tuple[float, float]:
    """The index and its chance, image by image."""
    same_class = same_site = 0
    by_class = by_site = 0.0
    for i in range(len(features)):
        others = [j for j in range(len(features)) if patient[j] != patient[i]]
        biology = [j for j in others if label[j] == label[i] and site[j] != site[i]]
        place = [j for j in others if label[j] != label[i] and site[j] == site[i]]
        nearest = sorted(others, key=lambda j: -cosine(features[i], features[j]))[:k]
        same_class += len(set(nearest) & set(biology))
        same_site += len(set(nearest) & set(place))
        by_class += len(biology) / len(others)
        by_site += len(place) / len(others)
    return same_class / (same_class + same_site), by_class / (by_class + by_site)


@pytest.mark.parametrize("seed", range(6))
def test_the_index_is_that_of_counting_image_by_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, 25, 60)
    label, site = rng.integers(0, 3, 60), rng.integers(0, 2, 60)
    features = normal(seed, 60, 5) + 0.8 * np.eye(5)[label] + 0.8 * np.eye(5)[3 + site]
    found = robustness_index(features, label, site, patient, k=7)
    assert (found.value, found.chance) == pytest.approx(brute_index(features, label, site, patient, 7), rel=1e-12)
    # Site and class are judged alike: exchanged, the share is the rest.
    assert robustness_index(features, site, label, patient, k=7).value == pytest.approx(1 - found.value)
    names = np.array(["beta", "alpha", "gamma"])[label]
    assert robustness_index(3 * features, names, site, patient.astype(str), k=7).value == found.value


def test_biology_alone_gives_one_and_the_site_alone_nought() -> None:
    label, site = np.tile([0, 1], 40), np.repeat([0, 1], 40)
    around = 0.05 * normal(0, 80, 2)
    assert robustness_index(around + np.eye(2)[label], label, site, np.arange(80)).value == 1
    assert robustness_index(around + np.eye(2)[site], label, site, np.arange(80)).value == 0


@pytest.mark.parametrize("rare", [0.5, 0.1])
def test_strangers_have_the_level_of_chance_also_where_a_class_is_rare(rare: float) -> None:
    rng = np.random.default_rng(0)
    label, site = (rng.random(300) < rare).astype(int), rng.integers(0, 2, 300)
    found = [robustness_index(normal(seed, 300, 12), label, site, np.arange(300)) for seed in range(20)]
    assert np.mean([each.value for each in found]) == pytest.approx(found[0].chance, abs=0.01)
    assert found[0].chance == pytest.approx(rare**2 + (1 - rare) ** 2, abs=0.03)


def test_images_of_the_same_patient_are_no_neighbours() -> None:
    # Twins of the same class at another site would make biology of a copy.
    features = np.repeat(normal(0, 40, 6), 2, axis=0)
    label, site = np.repeat(np.arange(40) % 2, 2), np.tile([0, 1], 40)
    alone = robustness_index(features, label, site, np.arange(80), k=1)
    assert (alone.value, alone.same_class.sum()) == (1.0, 80)
    paired = robustness_index(features, label, site, np.repeat(np.arange(40), 2), k=1)
    assert paired.same_class.sum() < 60
    assert paired.same_site.sum() > 0


@pytest.mark.parametrize(
    ("label", "site", "says"),
    [
        ([0] * 20, [0, 1] * 10, "one class"),
        ([0, 1] * 10, ["x"] * 20, "one site"),
        ([0, 1] * 10, [0, 1] * 10, "no class is seen at two sites"),
        ([0, 1] * 10, list(range(20)), "no site has two classes"),
    ],
)
def test_an_index_of_nothing_is_refused(label: list[int], site: list[object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        robustness_index(normal(0, 20, 4), label, site, np.arange(20), k=3)


def test_too_few_images_of_other_patients_are_refused() -> None:
    with pytest.raises(ValueError, match="10 images of other patients"):
        robustness_index(normal(0, 12, 4), [0, 1] * 6, [0, 0, 1, 1] * 3, [0, 0, 0, *range(9)])


def test_an_index_without_such_neighbours_has_no_value() -> None:
    features = np.array([[1, 0], [1, 0.01], [0, 1], [0.01, 1], [-1, -1], [-1, -1.01]])
    found = robustness_index(features, [0, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 0], range(6), k=1)
    assert np.isnan(found.value)
    assert not found.same_class.any()
    assert not found.same_site.any()


def test_a_jackknife_with_a_group_that_decides_all_has_no_interval() -> None:
    found = jackknifed(lambda rows: 1.0 if 0 in rows else float("nan"), np.arange(60), unit="patients")
    assert (found.value, found.low, found.reason) == (1.0, None, "without some of the patients there is no value")


def test_the_interval_of_the_index_covers() -> None:
    # The truth is the index of a large sample; each of the small ones is drawn from the same mixture.
    def draw(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        label, site = rng.integers(0, 2, n), rng.integers(0, 2, n)
        return rng.normal(size=(n, 6)) + 0.7 * np.eye(6)[label] + 0.9 * np.eye(6)[2 + site], label, site

    truth = np.mean([robustness_index(*draw(1000 + seed, 160), np.arange(160)).value for seed in range(60)])
    covered = 0
    for seed in range(40):
        found = index_estimate(*draw(seed, 160), np.arange(160), unit="patients")
        covered += found.low <= truth <= found.high
    # Of images whose neighbours stay as they are, 30 of 40.
    assert covered >= 36


def test_an_index_of_one_or_nought_is_not_certain() -> None:
    label, site = np.tile([0, 1], 40), np.repeat([0, 1], 40)
    around = 0.05 * normal(0, 80, 2)
    for what, value in ((label, 1), (site, 0)):
        found = index_estimate(around + np.eye(2)[what], label, site, np.arange(80), unit="patients")
        assert found.value == value
        assert {found.low, found.high} >= {float(value)}
        assert found.high - found.low == pytest.approx(0.048, abs=0.005)


def test_the_interval_of_few_patients_is_absent_and_that_of_an_undefined_index_too() -> None:
    few = index_estimate(normal(0, 30, 4), [0, 1] * 15, [0, 0, 1, 1, 0, 1] * 5, np.arange(30), k=3, unit="images")
    assert few.value is not None
    assert (few.low, few.reason) == (None, "an interval needs 40 images")
    features = np.array([[1, 0], [1, 0.01], [0, 1], [0.01, 1], [-1, -1], [-1, -1.01]])
    none = index_estimate(features, [0, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 0], range(6), k=1, unit="patients")
    assert (none.value, none.reason) == (None, "no neighbour shares class or site alone")
