"""Patient weights, and statistics as functions of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evalfm.statistics.resampling import (
    Average,
    FromRows,
    FromSums,
    bootstrap,
    identify,
    mean_over_images,
    over_folds,
    patient_weights,
    ratio,
)


def mean_of(sums):
    return ratio(sums[..., 1], sums[..., 0])


def test_codes_do_not_depend_on_the_order_of_rows():
    first, second = identify(["b", "a", "b"]), identify(["a", "b", "b"])
    assert first.codes.tolist() == [1, 0, 1]
    assert second.codes.tolist() == [0, 1, 1]
    assert first.count == 2
    assert first.behind(np.array([True, False, True])) == 1


def test_a_patient_in_two_folds_is_refused():
    with pytest.raises(ValueError, match="more than one fold"):
        identify(["a", "a", "b"], [0, 1, 1])


@pytest.mark.parametrize("patient", [[], [["a"]]])
def test_patients_must_be_a_filled_column(patient):
    with pytest.raises(ValueError, match="one-dimensional"):
        identify(patient)


def test_folds_must_have_a_row_per_patient_entry():
    with pytest.raises(ValueError, match="shape"):
        identify(["a", "b"], [0])


def test_every_resample_draws_as_many_patients_as_there_are():
    weights = patient_weights(identify(np.arange(37)), 500, np.random.default_rng(0))
    assert weights.shape == (500, 37)
    assert (weights.sum(axis=1) == 37).all()
    # Multinomial margins: mean 1, variance 1 − 1/37.
    assert weights.mean() == 1.0
    assert weights.var() == pytest.approx(1 - 1 / 37, abs=0.03)


def test_draws_are_uniform_over_patients():
    weights = patient_weights(identify(np.arange(7)), 20000, np.random.default_rng(0))
    assert stats.chisquare(weights.sum(axis=0)).pvalue > 1e-4


def test_within_folds_each_fold_keeps_its_size():
    folds = np.array([2, 0, 2, 1, 0, 2])
    patients = identify(list("abcdef"), folds)
    weights = patient_weights(patients, 200, np.random.default_rng(0))
    for fold, size in ((0, 2), (1, 1), (2, 3)):
        assert (weights[:, folds == fold].sum(axis=1) == size).all()
    assert (weights[:, 0] == 0).any()


def test_blocks_draw_what_one_call_draws():
    patients = identify(np.arange(11), np.arange(11) % 3)
    whole = patient_weights(patients, 20, np.random.default_rng(5))
    generator = np.random.default_rng(5)
    parts = [patient_weights(patients, size, generator) for size in (7, 1, 12)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_bootstrap_does_not_depend_on_the_block_size(monkeypatch):
    patients = identify(np.arange(30) // 2)
    values = np.random.default_rng(0).normal(size=30)
    whole = bootstrap({"mean": mean_over_images(values, patients)}, patients, resamples=50, seed=3)["mean"]
    monkeypatch.setattr("evalfm.statistics.resampling.BLOCK_ELEMENTS", 100)
    found = bootstrap({"mean": mean_over_images(values, patients)}, patients, resamples=50, seed=3)["mean"]
    # A product of matrices may round otherwise in another shape.
    np.testing.assert_allclose(found, whole, rtol=1e-12)


def test_bootstrap_resamples_patients_not_rows():
    # Ten patients of 50 identical rows: the spread is that of ten values, not of 500.
    by_patient = np.random.default_rng(0).normal(size=10)
    patients = identify(np.repeat(np.arange(10), 50))
    found = bootstrap({"m": mean_over_images(np.repeat(by_patient, 50), patients)}, patients, seed=1)["m"]
    assert found.std() == pytest.approx(by_patient.std() / 10**0.5, rel=0.06)


def test_sums_and_rows_are_the_same_statistic():
    generator = np.random.default_rng(0)
    patients = identify(generator.integers(0, 9, 40))
    values = generator.normal(size=40)
    columns = np.stack([np.ones(40), values], axis=1)
    by_sums = FromSums(columns, patients.codes, patients.count, mean_of)
    by_rows = FromRows(patients.codes, patients.count, lambda w: (w @ values) / w.sum(axis=1))
    weights = patient_weights(patients, 30, generator)
    np.testing.assert_allclose(by_sums.values(weights), by_rows.values(weights), rtol=1e-12)
    expected = [values[patients.codes != p].mean() for p in range(patients.count)]
    np.testing.assert_allclose(by_sums.without_each(), expected, rtol=1e-12)
    np.testing.assert_allclose(by_rows.without_each(), expected, rtol=1e-12)
    assert by_sums.on_the_data() == pytest.approx(values.mean(), rel=1e-12)


def test_many_patients_are_left_out_in_groups_that_cover_everybody_once(monkeypatch):
    monkeypatch.setattr("evalfm.statistics.resampling.EXACT_DELETIONS", 8)
    values = np.random.default_rng(0).normal(size=21)
    statistic = FromRows(np.arange(21), 21, lambda w: w @ values)
    deleted = statistic.without_each()
    assert deleted.shape == (8,)
    assert np.sum(values.sum() - deleted) == pytest.approx(values.sum())


def by_fold(values, patients, rows=None):
    """The mean within each fold, averaged."""
    among = np.ones(len(values), dtype=bool) if rows is None else rows

    def build(inside):
        columns = np.stack([among[inside], values[inside] * among[inside]], axis=1)
        return FromSums(columns, patients.codes[inside], patients.count, mean_of)

    return over_folds(patients, build)


def test_average_leaves_out_undefined_parts_and_says_so():
    patients = identify(list("abcd"), [0, 0, 1, 1])
    rows = np.array([True, True, False, False])
    statistic = by_fold(np.array([1.0, 3.0, 9.0, 9.0]), patients, rows)
    assert isinstance(statistic, Average)
    assert statistic.on_the_data() == 2.0
    assert statistic.remark() == "undefined in 1 of 2 folds, which are left out"


def test_over_folds_averages_folds_not_rows():
    patients = identify(list("abcd"), [0, 0, 0, 1])
    values = np.array([0.0, 0.0, 0.0, 1.0])
    assert by_fold(values, patients).on_the_data() == 0.5
    assert by_fold(values, patients).remark() is None
    assert mean_over_images(values, patients).on_the_data() == 0.25


def test_folds_that_are_not_kept_do_not_count():
    patients = identify(list("abcdef"), [0, 0, 1, 1, 2, 2])
    values = np.array([1.0, 3.0, 50.0, 50.0, 4.0, 6.0])

    def build(inside):
        return FromSums(np.stack([np.ones(2), values[inside]], axis=1), patients.codes[inside], 6, mean_of)

    assert over_folds(patients, build, np.array([True, False, True])).on_the_data() == 3.5
    with pytest.raises(ValueError, match="at least one"):
        over_folds(patients, build, np.zeros(3, dtype=bool))


def test_an_average_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Average([])


def test_over_folds_without_folds_builds_on_all_rows():
    seen = []

    def build(rows):
        seen.append(rows.tolist())
        return FromRows(rows, 3, lambda w: w.sum(axis=1))

    over_folds(identify(list("abc")), build)
    assert seen == [[0, 1, 2]]
