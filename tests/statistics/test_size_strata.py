"""Strata of lesion size: quantiles, ties, patients in one stratum; a test that severity alone does not move."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_studies import SimulationDesign, draw_study
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from evalfm.statistics.adjusted import mean_difference
from evalfm.statistics.fixed_label import as_logit
from evalfm.statistics.size_strata import size_strata, within_size_strata


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(2, 5))
def test_strata_are_ordered_without_gaps_and_equal_areas_share_one(areas: list[int], strata: int) -> None:
    area = np.array(areas) / 10
    found = size_strata(area, range(len(area)), strata)
    assert set(found.codes) == set(range(len(found.low)))
    assert len(found.low) <= strata
    for first, second in zip(range(len(area)), range(1, len(area)), strict=False):
        if area[first] == area[second]:
            assert found.codes[first] == found.codes[second]
        if area[first] < area[second]:
            assert found.codes[first] <= found.codes[second]
    for stratum, (low, high) in enumerate(zip(found.low, found.high, strict=True)):
        assert (low, high) == (area[found.codes == stratum].min(), area[found.codes == stratum].max())


def test_tertiles_are_thirds_and_a_patient_stands_in_one() -> None:
    area = np.random.default_rng(0).gamma(1.0, 1.0, 300)
    assert np.bincount(size_strata(area, range(300)).codes).tolist() == [100, 100, 100]
    patient = np.arange(300) // 3
    found = size_strata(area, patient)
    assert all(len(set(found.codes[patient == each])) == 1 for each in range(100))
    with pytest.raises(ValueError, match="above 0"):
        size_strata([0.1, 0.0], range(2))


def test_severity_alone_is_not_the_attribute_and_an_effect_within_sizes_is() -> None:
    studies, rejected, bare, stratified = 60, 0, 0, 0
    for seed in range(studies):
        study = draw_study(SimulationDesign("severity", patients=300), np.random.default_rng(seed))
        ill = study.label
        values, member, patient = as_logit(study.score)[ill], study.attribute[ill], study.patient[ill]
        area = np.exp(study.log_area[ill])
        strata = size_strata(area, patient)
        found = within_size_strata(values, member, area, patient, strata, permutations=99)
        rejected += found.p <= 0.05
        bare += mean_difference(values, member, patient, permutations=99).p <= 0.05
        moved = values + 1.0 * member
        stratified += within_size_strata(moved, member, area, patient, strata, permutations=99).p <= 0.05
    assert rejected <= binom.isf(1e-4, studies, 0.05)
    assert bare > binom.isf(1e-4, studies, 0.05)
    assert stratified >= binom.ppf(1e-4, studies, 0.95)


def test_within_a_third_the_larger_lesions_have_the_tubes_too() -> None:
    studies, rejected, bare = 20, 0, 0
    for seed in range(studies):
        generator = np.random.default_rng(seed)
        size = generator.normal(size=300)
        member = generator.random(300) < 1 / (1 + np.exp(-2 * size))
        values = 2 * size + generator.normal(size=300)
        strata = size_strata(np.exp(size), range(300))
        rejected += within_size_strata(values, member, np.exp(size), range(300), strata).p <= 0.05
        # A mean for each stratum is not enough.
        bare += mean_difference(values, member, range(300), folds=strata.codes).p <= 0.05
    assert rejected <= binom.isf(1e-4, studies, 0.05)
    assert bare > binom.isf(1e-4, studies, 0.05)


def test_residuals_exchange_within_a_stratum_alone() -> None:
    """All that is left differs between strata in spread: exchanged across, the statistic would be another."""
    area = np.repeat([0.1, 0.2, 0.4], 20)
    member = np.tile([True, False], 30)
    values = np.random.default_rng(1).normal(size=60) * np.repeat([0.01, 1.0, 10.0], 20)
    strata = size_strata(area, range(60))
    assert strata.codes.tolist() == np.repeat([0, 1, 2], 20).tolist()
    within = within_size_strata(values, member, area, range(60), strata, permutations=999)
    across = mean_difference(values, member, range(60), {"log": np.log(area)}, permutations=999)
    assert within.value == pytest.approx(np.mean([values[k:k + 20][::2].mean() - values[k:k + 20][1::2].mean()
                                                  for k in (0, 20, 40)]))  # fmt: skip
    assert within.p != across.p
