"""Average precision against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from evalfm.statistics.precision_recall import AveragePrecision, average_precision
from evalfm.statistics.resampling import identify


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=1, max_size=40).filter(
        lambda rows: any(label for label, _ in rows)
    )
)
def test_equals_sklearn_with_ties(rows):
    target, score = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    assert average_precision(target, score) == pytest.approx(average_precision_score(target, score), abs=1e-14)


def test_patient_weights_count_rows_repeated():
    generator = np.random.default_rng(0)
    target = (generator.random(60) < 0.3).astype(float)
    score = np.round(generator.normal(size=60) + target, 1)
    patients = identify(generator.integers(0, 25, 60))
    weights = generator.integers(0, 3, (20, patients.count)).astype(float)
    expected = []
    for row in weights:
        times = row[patients.codes].astype(int)
        expected.append(average_precision_score(np.repeat(target, times), np.repeat(score, times)))
    found = AveragePrecision(target, score, patients.codes, patients.count).values(weights)
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_without_a_positive_there_is_none():
    assert np.isnan(average_precision([0, 0], [0.1, 0.2]))
    assert average_precision([1], [0.3]) == 1.0
