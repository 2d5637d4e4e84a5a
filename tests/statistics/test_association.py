from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import Table2x2

from evalfm.statistics.association import linear_gee, odds_ratio


def table(a: int, b: int, c: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a 2 x 2 table: a both, b first alone, c second alone, d neither."""
    first = np.repeat([1.0, 1.0, 0.0, 0.0], [a, b, c, d])
    second = np.repeat([1.0, 0.0, 1.0, 0.0], [a, b, c, d])
    return first, second


@pytest.mark.parametrize("cells", [(16, 28, 87, 490), (1, 1, 1, 1), (3, 50, 7, 9)])
def test_one_row_a_patient_is_woolf(cells: tuple[int, int, int, int]) -> None:
    first, second = table(*cells)
    found = odds_ratio(first, second, np.arange(len(first)))
    a, b, c, d = cells
    theirs = Table2x2(np.array([[a, b], [c, d]]))
    assert found.value == pytest.approx(theirs.oddsratio, rel=1e-12)
    assert (found.low, found.high) == pytest.approx(theirs.oddsratio_confint(), rel=1e-9)
    assert found.n == sum(cells)


def test_several_rows_a_patient_are_the_sandwich_of_a_logistic_model() -> None:
    generator = np.random.default_rng(3)
    patient = np.repeat(np.arange(60), generator.integers(1, 6, 60))
    leaning = generator.normal(size=60)[patient]
    second = (generator.random(len(patient)) < 1 / (1 + np.exp(-leaning))).astype(float)
    first = (generator.random(len(patient)) < 1 / (1 + np.exp(-leaning - second))).astype(float)
    found = odds_ratio(first, second, patient)
    model = sm.GLM(first, sm.add_constant(second), family=sm.families.Binomial())
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": patient, "use_correction": False}, tol=1e-12)
    assert found.value == pytest.approx(math.exp(fitted.params[1]), rel=1e-8)
    low, high = np.exp(fitted.conf_int()[1])
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6)
    assert found.n == 60


def test_an_empty_cell_gets_halves_and_says_so() -> None:
    first, second = table(4, 0, 3, 5)
    found = odds_ratio(first, second, np.arange(12))
    assert found.value == pytest.approx(4.5 * 5.5 / (0.5 * 3.5))
    error = math.sqrt(1 / 4.5 + 1 / 0.5 + 1 / 3.5 + 1 / 5.5)
    assert found.high == pytest.approx(found.value * math.exp(1.959964 * error), rel=1e-6)
    assert found.note is not None


def test_unknown_rows_are_left_out_and_constants_have_no_ratio() -> None:
    first, second = table(2, 3, 4, 5)
    more = odds_ratio(np.append(first, np.nan), np.append(second, 1.0), np.arange(15))
    assert more.value == odds_ratio(first, second, np.arange(14)).value
    assert odds_ratio(np.ones(9), table(2, 3, 2, 2)[1], np.arange(9)).value is None
    assert odds_ratio([], [], []).reason


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_gee_of_statsmodels_with_bias_reduced_covariance(seed: int) -> None:
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(40), generator.integers(1, 7, 40))
    generator.shuffle(groups)
    own = generator.normal(size=40)[groups]
    design = np.c_[np.ones(len(groups)), generator.normal(size=(len(groups), 3))]
    response = design @ [1.0, 0.5, 0.0, -1.0] + own + generator.normal(size=len(groups))
    found = linear_gee(design, response, groups)
    theirs = sm.GEE(
        response, design, groups=groups, family=sm.families.Gaussian(), cov_struct=sm.cov_struct.Independence()
    ).fit(cov_type="bias_reduced")
    assert found.coefficients == pytest.approx(theirs.params, rel=1e-7)
    assert found.covariance == pytest.approx(theirs.cov_params(), rel=1e-6, abs=1e-12)
