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


def test_folds_are_averaged():
    target, prediction, _ = study()
    folds = np.arange(120) % 3
    found = regression_metrics(target, prediction, np.arange(120), Sampling(folds=folds, resamples=100))
    parts = [metrics.r2_score(target[folds == f], prediction[folds == f]) for f in range(3)]
    assert found["r2"].value == pytest.approx(np.mean(parts))
    parts = [stats.spearmanr(target[folds == f], prediction[folds == f]).statistic for f in range(3)]
    assert found["spearman"].value == pytest.approx(np.mean(parts))
    assert "excludes training variance" in found["r2"].method


def test_missing_values_are_refused():
    with pytest.raises(EvalfmError, match="prediction holds 1"):
        regression_metrics([1.0, 2.0], [1.0, np.nan], ["a", "b"])
