"""Regression metrics against scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from evalfm.errors import EvalfmError

from .made import Sampling, regression_metrics

KEYS = {"mae", "rmse", "r2", "pearson", "spearman", "ccc", "bias", "limits_low", "limits_high"}


def study(n=120):
    generator = np.random.default_rng(0)
    target = generator.normal(0.5, 0.1, n)
    return target, 0.8 * target + 0.12 + generator.normal(0, 0.03, n), generator.integers(0, 60, n)


def test_values_equal_references_and_lie_in_their_intervals():
    target, prediction, patient = study()
    found = regression_metrics(target, prediction, patient)
    assert set(found) == KEYS
    gap = prediction - target
    expected = {
        "mae": np.abs(gap).mean(),
        "rmse": metrics.root_mean_squared_error(target, prediction),
        "r2": metrics.r2_score(target, prediction),
        "pearson": stats.pearsonr(target, prediction).statistic,
        "spearman": stats.spearmanr(target, prediction).statistic,
        "bias": gap.mean(),
        "limits_low": gap.mean() - 1.96 * gap.std(ddof=1),
        "limits_high": gap.mean() + 1.96 * gap.std(ddof=1),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-10)
        assert found[name].low < value < found[name].high
    assert found["ccc"].value <= found["pearson"].value
    assert found["mae"].n == len(np.unique(patient))


def test_interval_of_a_mean_equals_its_standard_error():
    target, prediction, _ = study()
    found = regression_metrics(target, prediction, np.arange(120))["bias"]
    error = (prediction - target).std(ddof=1) / 120**0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_a_constant_prediction_is_said():
    target, _, patient = study()
    found = regression_metrics(target, np.full(120, 0.5), patient, Sampling(resamples=100))
    assert found["pearson"].value is None
    assert "constant" in found["pearson"].reason
    assert found["spearman"].value is None
    assert found["ccc"].value == pytest.approx(0.0, abs=1e-12)
    assert found["r2"].value <= 0


def test_errors_are_of_all_folds_together_and_correlations_of_each():
    target, prediction, _ = study()
    folds = np.repeat([0, 1, 2], [20, 40, 60])
    found = regression_metrics(target, prediction, np.arange(120), Sampling(folds=folds, resamples=100))
    whole = regression_metrics(target, prediction, np.arange(120), Sampling(resamples=100))
    for name in ("mae", "rmse", "r2", "ccc", "bias", "limits_low", "limits_high"):
        assert found[name].value == pytest.approx(whole[name].value), name
        assert "excludes training variance" in found[name].method
    for name, of in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        parts = [of(target[folds == f], prediction[folds == f]).statistic for f in range(3)]
        assert found[name].value == pytest.approx(np.mean(parts)), name
    # What a fold's head adds to all of its values moves an error, and no rank.
    shifted = regression_metrics(target, prediction + folds, np.arange(120), Sampling(folds=folds, resamples=100))
    assert shifted["spearman"].value == found["spearman"].value
    assert shifted["pearson"].value == pytest.approx(found["pearson"].value)
    assert shifted["rmse"].value > found["rmse"].value + 0.1


def test_folds_of_three_images_do_not_ruin_r2():
    """A head that knows next to nothing: within three images the target hardly varies."""
    generator = np.random.default_rng(0)
    target, prediction = generator.normal(size=60), 0.4 * generator.normal(size=60)
    folds = np.arange(60) // 3
    found = regression_metrics(target, prediction, np.arange(60), Sampling(folds=folds, resamples=100))
    assert found["r2"].value == pytest.approx(metrics.r2_score(target, prediction))
    apart = np.mean([metrics.r2_score(target[folds == f], prediction[folds == f]) for f in range(20)])
    assert apart < found["r2"].value - 1


def test_a_fold_of_two_patients_has_no_correlation():
    target, prediction, _ = study()
    folds = np.r_[np.zeros(2), np.ones(118)].astype(int)
    found = regression_metrics(target, prediction, np.arange(120), Sampling(folds=folds, resamples=50))
    assert found["spearman"].value == pytest.approx(stats.spearmanr(target[2:], prediction[2:]).statistic)
    assert found["pearson"].note == "1 of 2 folds hold fewer than 3 patients and are left out"
    pairs = regression_metrics(target, prediction, np.arange(120), Sampling(folds=np.arange(120) // 2, resamples=50))
    assert pairs["pearson"].reason == "no fold holds 3 patients; take fewer folds"
    assert pairs["rmse"].value is not None


def test_heavy_tails_are_marked_and_normal_errors_are_not():
    generator = np.random.default_rng(0)
    target = generator.normal(size=150)
    normal = regression_metrics(target, target + generator.normal(size=150), np.arange(150), Sampling(resamples=50))
    heavy = regression_metrics(
        target, target + generator.standard_t(2, size=150), np.arange(150), Sampling(resamples=50)
    )
    for name in ("rmse", "r2", "ccc", "pearson", "limits_low", "limits_high"):
        assert normal[name].note is None
        assert (
            heavy[name].note.startswith("errors have heavy tails (L-kurtosis .") or "L-kurtosis 0." in heavy[name].note
        )
        assert heavy[name].note.endswith("coverage not shown")
    assert heavy["mae"].note is None
    assert heavy["rmse"].method.startswith("bootstrap-t on log")
    assert heavy["ccc"].method.startswith("bootstrap-t on Fisher's z")


def test_missing_values_are_refused():
    with pytest.raises(EvalfmError, match="prediction holds 1"):
        regression_metrics([1.0, 2.0], [1.0, np.nan], ["a", "b"])
