from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from evalfm.statistics.linear_gee import linear_gee


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
