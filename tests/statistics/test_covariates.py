"""Splines against patsy and R, whose spaces they span, and a basis that nothing makes singular."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import patsy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalfm.statistics.covariates import adjustment_basis, natural_spline


def with_constant(columns: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(columns)), columns])


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """How far the columns of ``one`` lie outside the space of ``other``, over their length."""
    left = one - other @ np.linalg.lstsq(other, one, rcond=None)[0]
    return float(np.abs(left).max() / np.abs(one).max())


@pytest.mark.parametrize("degrees", [1, 2, 3, 4])
def test_the_space_is_that_of_natural_splines(degrees: int) -> None:
    x = np.random.default_rng(0).gamma(2.0, 20.0, 200)
    low, *inner, high = np.quantile(x, np.linspace(0, 1, degrees + 1)).tolist()
    ours = with_constant(natural_spline(x, degrees))
    theirs = np.asarray(patsy.cr(x, knots=inner, lower_bound=low, upper_bound=high)) if inner else with_constant(x)
    assert ours.shape == (200, degrees + 1)
    assert np.linalg.matrix_rank(ours) == degrees + 1
    assert apart(ours, theirs) < 1e-9
    assert apart(theirs, ours) < 1e-9


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not here")
def test_the_space_is_that_of_r() -> None:
    x = np.random.default_rng(1).normal(60, 15, 80)
    script = f"library(splines); cat(format(ns(c({','.join(map(repr, x.tolist()))}), df = 3), digits = 17))"
    said = subprocess.run(["Rscript", "-e", script], capture_output=True, text=True, check=True).stdout
    theirs = with_constant(np.array(said.split(), dtype=float).reshape(3, 80).T)
    ours = with_constant(natural_spline(x))
    assert apart(ours, theirs) < 1e-9
    assert apart(theirs, ours) < 1e-9


@pytest.mark.parametrize(
    ("values", "columns"),
    [([1.0] * 9, 0), ([0, 1] * 5, 1), ([0, 1, 2] * 4, 2), ([0] * 90 + list(range(1, 11)), 3), ([5, 5, 5, 7], 1)],
)
def test_ties_leave_as_many_columns_as_there_are_knots(values: list[float], columns: int) -> None:
    found = natural_spline(values)
    assert found.shape == (len(values), columns)
    assert np.linalg.matrix_rank(with_constant(found)) == columns + 1


def test_three_values_are_three_means() -> None:
    x = np.repeat([1.0, 2.0, 7.0], 5)
    assert apart((x[:, None] == [1.0, 2.0, 7.0]).astype(float), with_constant(natural_spline(x))) < 1e-12


@given(st.lists(st.integers(-3, 3), min_size=5, max_size=40), st.integers(0, 3))
def test_the_basis_is_orthonormal_and_holds_what_it_should(values: list[int], seed: int) -> None:
    x = np.array(values, dtype=float)
    other = np.random.default_rng(seed).normal(size=len(x)).round(1)
    basis = adjustment_basis([x, 1e3 + x, other, -other], len(x))
    assert np.allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-9)
    for column in (np.ones(len(x)), x, other):
        assert np.allclose(basis @ (basis.T @ column), column, atol=1e-6 * max(1.0, np.abs(column).max()))
    assert basis.shape[1] <= 1 + 3 + 3
