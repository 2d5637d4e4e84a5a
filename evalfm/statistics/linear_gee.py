"""Linear GEE with independence: least squares with a covariance that knows the patients, for few of them too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalfm.statistics.resampling import Values


@dataclass(frozen=True)
class LinearGee:
    """Coefficients [p] and their covariance [p, p]."""

    coefficients: Values
    covariance: Values


def linear_gee(design: Values, response: Values, groups: NDArray[np.generic]) -> LinearGee:
    """Least squares of ``response`` [N] on ``design`` [N, p], bias-reduced sandwich covariance by ``groups`` [N].

    Mancl and DeRouen (2001): each group's residuals are multiplied by (I − H)⁻¹, H its block of the hat matrix, which
    undoes that a fit is nearer to its own data. Groups of one size are solved together.

    Raises:
        numpy.linalg.LinAlgError: the design has not full rank.
    """
    bread = np.linalg.inv(design.T @ design)
    coefficients = bread @ (design.T @ response)
    residual = response - design @ coefficients
    codes = np.unique(groups, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    meat = np.zeros_like(bread)
    for size in np.unique(sizes):
        rows = order[starts[sizes == size][:, None] + np.arange(size)]
        block, left = design[rows], residual[rows]
        hat = block @ bread @ block.transpose(0, 2, 1)
        adjusted = np.linalg.solve(np.eye(size) - hat, left[..., None])[..., 0]
        score = np.einsum("gkp,gk->gp", block, adjusted)
        meat += score.T @ score
    return LinearGee(coefficients, bread @ meat @ bread)
