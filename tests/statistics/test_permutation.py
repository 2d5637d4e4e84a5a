from __future__ import annotations

import math
from itertools import combinations, product
from itertools import permutations as permutations_of

import numpy as np
import pytest
from scipy.stats import binom

from evalfm.statistics import permutation
from evalfm.statistics.auroc import auroc_covariance
from evalfm.statistics.fixed_label import at_fixed_label
from evalfm.statistics.permutation import attribute_permutation, constant_in_patients, exchanges
from evalfm.statistics.subgroups import SubgroupScores

GENERATOR = np.random.default_rng


def statistic(member: np.ndarray, score: np.ndarray, patient: np.ndarray, folds: np.ndarray | None = None) -> float:
    found = auroc_covariance(member, score, patient, folds)
    apart, variance = float(found.auroc[0] - 0.5), float(found.covariance[0, 0])
    # Groups that do not overlap have no spread.
    return apart / variance**0.5 if variance > 0 else math.copysign(math.inf, apart) if apart else 0.0


@pytest.mark.parametrize("rows_a_patient", [1, 3])
@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize("ties", [False, True])
def test_p_is_the_share_of_all_arrangements_that_are_as_extreme(rows_a_patient: int, folds: int, ties: bool) -> None:
    """By the clustered statistic, written elsewhere; members exchange within their fold."""
    generator = GENERATOR(1)
    patients = 10 if folds == 1 else 14
    patient = np.repeat(np.arange(patients), rows_a_patient)
    score = generator.normal(size=patients)[patient] + 0.7 * generator.normal(size=len(patient))
    score = np.round(2 * score) if ties else score
    fold = np.arange(patients) % folds
    every = []
    chosen = [combinations(np.flatnonzero(fold == each), 4 // folds) for each in range(folds)]
    for inside in product(*chosen):
        own = np.isin(np.arange(patients), np.concatenate(inside))
        found = abs(statistic(own[patient], score, patient, fold[patient] if folds > 1 else None))
        every.append((found, tuple(own)))
    # One that is neither usual nor rare.
    every.sort()
    observed, own = every[int(0.85 * len(every))]
    exact = np.mean([found >= observed * (1 - 1e-12) for found, _ in every])
    options = {"folds": fold[patient]} if folds > 1 else {}
    member = np.array(own)[patient]
    p = attribute_permutation(member, score, patient, fold[patient], permutations=60_000, **options).p
    assert abs(p - exact) < 4 * (exact * (1 - exact) / 60_000) ** 0.5 + 1e-4
    assert 0.02 < exact < 0.5


def test_only_patients_of_one_kind_exchange() -> None:
    # All that differs lies between the kinds: within each, every exchange leaves the statistic as it is.
    kind = np.repeat([0, 1], 20)
    member = kind.astype(bool)
    score = kind + GENERATOR(0).normal(size=40)
    assert attribute_permutation(member, score, np.arange(40), kind, permutations=200).p == 1.0
    assert attribute_permutation(member, score, np.arange(40), np.zeros(40), permutations=200).p < 0.05


def every_exchange(sizes: list[int]) -> list[np.ndarray]:
    """All permutations of rows that exchange patients of as many rows and permute rows within patients."""
    starts = np.cumsum([0, *sizes])
    own = [range(starts[each], starts[each + 1]) for each in range(len(sizes))]
    whole = [
        order
        for order in permutations_of(range(len(sizes)))
        if all(sizes[order[each]] == sizes[each] for each in range(len(sizes)))
    ]
    return [
        np.concatenate(rows)
        for order in whole
        for rows in product(*(list(permutations_of(own[each])) for each in order))
    ]


def test_an_attribute_that_varies_in_a_patient_is_exchanged_as_a_whole_and_within() -> None:
    """Against all arrangements and the clustered statistic written elsewhere."""
    sizes = [2, 2, 2, 1, 1, 1, 3]
    patient = np.repeat(np.arange(7), sizes)
    member = np.array([1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0], dtype=bool)
    score = GENERATOR(2).normal(size=12) + 0.8 * member
    arranged = [member[each] for each in every_exchange(sizes)]
    every = np.array([abs(statistic(each, score, patient)) for each in arranged])
    # One that is neither usual nor rare.
    member = arranged[int(np.argsort(every, kind="stable")[int(0.85 * len(every))])]
    observed = abs(statistic(member, score, patient))
    exact = np.mean(every >= observed * (1 - 1e-12))
    assert 0.01 < exact < 0.5
    found = attribute_permutation(member, score, patient, np.zeros(12), permutations=20_000)
    assert abs(found.p - exact) < 4 * (exact * (1 - exact) / 20_000) ** 0.5 + 1e-4
    assert found.critical == pytest.approx(np.quantile(every, 0.95, method="higher"), rel=0.1)
    for each, size in list(zip(arranged, every, strict=True))[::150]:
        exact = np.mean(every >= size * (1 - 1e-12))
        p = attribute_permutation(each, score, patient, np.zeros(12), permutations=2000).p
        assert abs(p - exact) < 4 * (exact * (1 - exact) / 2000) ** 0.5 + 1e-3
    # Within patients alone, or among them alone, are other tests.
    kinds = np.arange(7)[patient]
    within = attribute_permutation(member, score, patient, kinds, permutations=2000)
    assert within.critical != pytest.approx(found.critical, rel=0.1)


def test_exchanged_rows_stay_with_a_patient_of_as_many_rows_and_one_kind() -> None:
    patient = np.repeat(np.arange(9), [3, 1, 3, 2, 1, 3, 2, 2, 1])
    kind = (np.arange(9) % 2)[patient]
    moved = set()
    for block in exchanges(patient, kind, 500):
        for places in block:
            assert sorted(places) == list(range(len(patient)))
            assert np.array_equal(kind[places], kind)
            for each in np.unique(patient):
                (source,) = np.unique(patient[places[patient == each]])
                assert (patient == source).sum() == (patient == each).sum()
                moved.add((each, source))
    assert (0, 2) in moved
    assert (3, 7) in moved
    assert (3, 6) not in moved
    within = next(exchanges(np.zeros(5), np.zeros(5), 2000))
    assert np.allclose((within[:, 0][:, None] == np.arange(5)).mean(axis=0), 0.2, atol=0.05)


def test_small_levels_are_permuted_and_large_ones_are_not() -> None:
    patient = np.repeat(np.arange(400), 2)
    varying = np.arange(800) % 2 == 0
    assert not constant_in_patients(varying, patient)
    assert constant_in_patients(patient % 2 == 0, patient)
    score = GENERATOR(0).random(800)
    label = np.zeros(800)
    assert at_fixed_label(SubgroupScores.of(label, score, varying, patient))[0].method == "clustered, t"
    few = at_fixed_label(SubgroupScores.of(label[:80], score[:80], varying[:80], patient[:80]))[0]
    assert few.method == "2000 permutations of patients, and within patients, within the label"
    whole = at_fixed_label(SubgroupScores.of(label[:80], score[:80], patient[:80] % 2 == 0, patient[:80]))[0]
    assert whole.method == "2000 permutations of patients within the label"


def test_the_same_seed_gives_the_same_p() -> None:
    generator = GENERATOR(3)
    member, score = generator.random(50) < 0.4, generator.random(50)
    columns = member, score, np.arange(50), np.zeros(50)
    assert attribute_permutation(*columns, seed=1) == attribute_permutation(*columns, seed=1)
    assert attribute_permutation(*columns, seed=1) != attribute_permutation(*columns, seed=2)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = GENERATOR(4)
    columns = generator.random(50) < 0.4, generator.random(50), np.arange(50), np.zeros(50)
    whole = attribute_permutation(*columns, permutations=100)
    monkeypatch.setattr(permutation, "CELLS", 50 * 7)
    assert attribute_permutation(*columns, permutations=100) == whole


def test_the_level_holds_where_spreads_and_group_sizes_differ() -> None:
    # Equal chance to beat, unequal spreads, unequal groups: what an unstudentised permutation gets wrong.
    rejected, studies = 0, 400
    for seed in range(studies):
        generator = GENERATOR(seed)
        member = np.arange(80) < 20
        score = generator.normal(size=80) * np.where(member, 4.0, 1.0)
        rejected += attribute_permutation(member, score, np.arange(80), np.zeros(80), permutations=199).p <= 0.05
    assert binom.sf(rejected - 1, studies, 0.07) > 1e-4


def test_whole_patients_exchange_so_that_the_level_holds_with_several_images_each() -> None:
    rejected, studies = 0, 400
    patient = np.repeat(np.arange(40), 4)
    for seed in range(studies):
        generator = GENERATOR(seed)
        member = (generator.permutation(40) < 15)[patient]
        score = generator.normal(size=40)[patient] + generator.normal(size=160)
        rejected += attribute_permutation(member, score, patient, np.zeros(160), permutations=199).p <= 0.05
    assert binom.sf(rejected - 1, studies, 0.05) > 1e-4


def test_p_is_never_zero() -> None:
    member = np.arange(60) < 30
    assert attribute_permutation(member, member + 0.0, np.arange(60), np.zeros(60), permutations=99).p == 0.01


def test_a_constant_score_tells_nothing() -> None:
    member = np.arange(40) < 15
    assert attribute_permutation(member, np.ones(40), np.arange(40), np.zeros(40), permutations=99).p == 1.0
