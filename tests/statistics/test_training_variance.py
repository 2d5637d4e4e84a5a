"""Training variance against the formulas written out, and on small drawn studies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evalfm.statistics.comparison import contrast_aurocs
from evalfm.statistics.training_variance import counting, over_draws, over_folds, over_refits

GENERATOR = np.random.default_rng(0)
VALUES = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=2, max_size=30)


def test_refits_by_hand():
    refits = GENERATOR.normal(0.02, 0.03, 20)
    found = over_refits(0.0005, refits)
    mean = sum(refits) / 20
    training = sum((each - mean) ** 2 for each in refits) / 19
    assert found.training == pytest.approx(training)
    assert found.total == pytest.approx(0.0005 + training)
    assert found.degrees_of_freedom == pytest.approx((0.0005 + training) ** 2 / (training**2 / 19))


def test_few_patients_lower_the_degrees_of_freedom():
    refits = GENERATOR.normal(0.02, 0.03, 20)
    known, few = over_refits(0.0005, refits), over_refits(0.0005, refits, test_freedom=8)
    assert few.total == known.total
    expected = few.total**2 / (few.training**2 / 19 + 0.0005**2 / 8)
    assert few.degrees_of_freedom == pytest.approx(expected)
    assert few.degrees_of_freedom < known.degrees_of_freedom


def test_refits_that_never_differ_leave_the_test_variance_alone():
    assert over_refits(0.0005, np.full(20, 0.25)).degrees_of_freedom is None
    assert over_refits(0.0005, np.full(20, 0.25)).total == 0.0005
    assert over_refits(0.0005, np.full(20, 0.25), test_freedom=7).degrees_of_freedom == pytest.approx(7)


def test_folds_by_hand():
    folds = [0.01, 0.05, -0.02, 0.03, 0.04]
    found = over_folds(0.0001, folds, test_to_train=1 / 3)
    spread = sum((each - sum(folds) / 5) ** 2 for each in folds) / 4
    assert found.total == pytest.approx(spread * (1 / 5 + 1 / 3))
    assert found.training == pytest.approx(found.total - 0.0001)
    assert found.degrees_of_freedom == 4


def test_draws_by_hand():
    draws, each, average, shots, pool = np.array([0.02, 0.08, 0.05]), [0.0004, 0.0006, 0.0005], 0.0003, 16, 116
    found = over_draws(average, each, draws, images=shots, pool=pool)
    factor = 1 / 3 + 16 / 100
    spread = draws.var(ddof=1)
    within = (0.0005 - 0.0003) * 3 / 2
    assert found.training == pytest.approx(factor * (spread - within))
    assert found.total == pytest.approx(average + factor * (spread - within))
    assert found.degrees_of_freedom == pytest.approx(max(2, found.total**2 / ((factor * spread) ** 2 / 2)))


def test_draws_that_differ_less_than_their_test_patients_add_nothing():
    found = over_draws(0.0003, [0.003, 0.003], [0.05, 0.0501], images=4, pool=100)
    assert found.training == 0
    assert found.total == 0.0003


def test_variances_whose_squares_are_zero_keep_their_degrees_of_freedom():
    tiny, plain = [0.0, 2.4e-130, 1e-130], [0.0, 2.4, 1.0]
    for found, expected in (
        (over_refits(0.0, tiny), over_refits(0.0, plain)),
        (over_draws(0.0, [0.0] * 3, tiny, images=3, pool=9), over_draws(0.0, [0.0] * 3, plain, images=3, pool=9)),
    ):
        assert found.degrees_of_freedom == pytest.approx(expected.degrees_of_freedom)
    assert over_draws(0.0, [0.0] * 2, [0.0, 1e-200], images=3, pool=9).degrees_of_freedom is None


@settings(max_examples=60, deadline=None)
@given(values=VALUES, test=st.floats(0, 1), shift=st.floats(-1, 1), factor=st.floats(0.1, 10))
def test_a_shift_changes_nothing_and_a_scale_its_square(values, test, shift, factor):
    def both(found, moved):
        assert moved.total == pytest.approx(factor**2 * found.total, rel=1e-6, abs=1e-9)
        assert found.total >= 0
        assert found.training >= 0

    moved = factor * (np.array(values) + shift)
    both(over_refits(test, values), over_refits(factor**2 * test, moved))
    both(over_folds(test, values, 0.25), over_folds(factor**2 * test, moved, 0.25))
    of_each = [2 * test] * len(values)
    drawn = over_draws(test, of_each, values, images=3, pool=9)
    both(drawn, over_draws(factor**2 * test, [factor**2 * each for each in of_each], moved, images=3, pool=9))
    # What the training sample adds never makes a comparison surer.
    assert over_refits(test, values).total >= test
    assert drawn.total >= test


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: over_refits(0.1, [0.1]), "refits needs two"),
        (lambda: over_refits(0.1, [0.1, np.nan]), "a value of each"),
        (lambda: over_folds(0.1, [0.1], 0.2), "folds needs two"),
        (lambda: over_draws(0.1, [0.1, 0.1], [0.1, 0.2], images=5, pool=5), "every image of a class"),
    ],
)
def test_what_has_no_variance_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def difference():
    label = GENERATOR.integers(0, 2, 200)
    scores = label[:, None] * 0.5 + GENERATOR.normal(size=(200, 2))
    return contrast_aurocs(label, scores, [[1, -1]])[0]


def test_a_counted_difference_has_the_t_of_its_variance():
    plain, refits = difference(), GENERATOR.normal(0, 0.05, 20)
    variance = over_refits(plain.standard_error**2, refits)
    found = counting(plain, variance, "with training variance over 20 refits")
    law = stats.t(variance.degrees_of_freedom)
    assert found.value == plain.value
    assert found.standard_error == pytest.approx(np.hypot(plain.standard_error, refits.std(ddof=1)))
    assert found.training_error == pytest.approx(refits.std(ddof=1))
    assert found.test_error == plain.standard_error
    assert found.p == pytest.approx(2 * law.sf(abs(plain.value) / found.standard_error))
    assert found.low == pytest.approx(plain.value - law.ppf(0.975) * found.standard_error)
    assert found.high == pytest.approx(plain.value + law.ppf(0.975) * found.standard_error)
    assert found.speaks_of == "encoders"
    assert found.method == "paired DeLong, with training variance over 20 refits, t"


def test_two_that_never_differ_stay_so():
    label = np.repeat([0, 1], 20)
    scores = np.stack([label + 0.1, label + 0.2], axis=1)
    (same,) = contrast_aurocs(label, scores, [[1, -1]])
    found = counting(same, over_refits(0.0, np.zeros(20)), "refits")
    assert (found.p, found.standard_error, found.training_error) == (1, 0, 0)


def drawn_study(seed: int) -> tuple[bool, bool]:
    """Whether two encoders of one quality differ, by the test patients alone and with 20 refits.

    Scores are the truth through noise of the test patients, and through what the training sample did: a tilt of the
    scores that another sample would have drawn anew, which refits draw around.
    """
    generator = np.random.default_rng(seed)
    label = (generator.random(300) < 0.4).astype(float)
    own = generator.normal(size=(300, 2)) + label[:, None]
    tilted = generator.normal(size=(300, 2))
    learnt = generator.normal(size=2)

    def scores(tilt):
        return own + 0.35 * tilt * tilted - 0.25 * tilt * label[:, None]

    (plain,) = contrast_aurocs(label, scores(learnt), [[1, -1]])
    again = [contrast_aurocs(label, scores(learnt + generator.normal(size=2)), [[1, -1]])[0].value for _ in range(20)]
    counted = counting(plain, over_refits(plain.standard_error**2, again), "refits")
    return plain.p < 0.05, counted.p < 0.05


def test_size_where_training_moves_the_scores():
    found = np.mean([drawn_study(seed) for seed in range(150)], axis=0)
    # Binomial limits of 150 studies: .05 is rejected above .093.
    assert found[0] > 0.12
    assert found[1] <= 0.093
