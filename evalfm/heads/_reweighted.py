"""One logistic regression learnt again under many weightings of its examples, all at once and from its own solution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.heads._logistic import TOLERANCE, Likelihood
from evalfm.heads._pooled import CONSTANT, Standardisation

ELEMENTS_AT_ONCE = 1 << 23
"""Margins (weightings × outcomes × examples) that are held at once in double precision: 64 MB."""
ROWS = 1 << 15
"""That are weighted at once beside the features."""
SUSPICIOUS = 1e-6
"""Below this share of its mean square a variance is counted about its mean and not as a difference."""
ROUNDING = 1e-9
"""Of a feature's deviation among all rows: no deviation under a weighting is smaller and more than rounding."""
MAX_STEPS, MAX_INNER, MAX_HALVINGS = 60, 250, 30
FORCING = 0.05
SUFFICIENT_DECREASE = 1e-4


@dataclass(frozen=True)
class Solution:
    """Of R weightings.

    Attributes:
        weight: [R, J, D] on raw features. bias: [R, J].
        converged: [R] whether the tolerance was met.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    converged: NDArray[np.bool_]


def solve_reweighted(
    features: Tensor,
    scaling: Standardisation,
    likelihood: Likelihood,
    strength: float,
    weights: NDArray[np.float64],
    start: tuple[Tensor, Tensor],
) -> Solution:
    """Minimise C·Σ w·log-loss + ½‖v‖² on features standardised anew by each weighting w.

    The same as on rows repeated w times, which is what ``weights`` of whole numbers mean: mean, scale and constant
    features are those of the repeated rows too.

    Args:
        features: [n, d] float64, standardised by ``scaling``.
        likelihood: with the targets of the n examples.
        strength: C of scikit-learn's convention.
        weights: [R, n], each with every outcome of the likelihood.
        start: weight [J, d] and bias [J] on ``features``, best those of equal weights.
    """
    step = max(1, ELEMENTS_AT_ONCE // (len(start[1]) * len(features)))
    preconditioner = _Preconditioner(features, likelihood, strength, start)
    parts = [
        _solve(features, scaling, likelihood, strength, torch.from_numpy(some).to(features), start, preconditioner)
        for some in _blocks(np.asarray(weights, dtype=np.float64), step)
    ]
    return Solution(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _blocks(weights: NDArray[np.float64], step: int) -> Iterator[NDArray[np.float64]]:
    for first in range(0, len(weights), step):
        yield weights[first : first + step]


class _Preconditioner:
    """The Hessian of equal weights at their solution, with one profile p·(1 − p) for all outcomes, inverted once."""

    def __init__(self, features: Tensor, likelihood: Likelihood, strength: float, start: tuple[Tensor, Tensor]) -> None:
        n, d = features.shape
        margins = (start[0] @ features.T + start[1][:, None])[None]
        curvature = likelihood.weight(likelihood.probability(margins))[0].mean(dim=0).clamp_min(1e-12)
        self.wide, root = d > n, (strength * curvature).sqrt()[:, None]
        self.rooted = features * root if self.wide else features[:0]
        inner = self.rooted @ self.rooted.T if self.wide else features.new_zeros(d, d)
        for part in () if self.wide else zip(torch.split(features, ROWS), torch.split(root, ROWS), strict=True):
            rooted = part[0] * part[1]
            inner += rooted.T @ rooted
        inner.diagonal().add_(1.0)
        self.factor = torch.linalg.cholesky(inner)
        across = strength * (curvature @ features)
        self.toward = self._inverse(across[None])[0]
        self.across = across
        self.rest = (strength * curvature.sum() - across @ self.toward).clamp_min(1e-12 * strength * n)

    def _inverse(self, wanted: Tensor) -> Tensor:
        """Of the weights' own block, [..., d]."""
        flat = wanted.flatten(0, -2).T
        if self.wide:
            # Woodbury: n × n in place of d × d.
            flat = flat - self.rooted.T @ torch.cholesky_solve(self.rooted @ flat, self.factor)
        else:
            flat = torch.cholesky_solve(flat, self.factor)
        return flat.T.reshape(wanted.shape)

    def solve(self, gradient: Tensor) -> Tensor:
        """Divide ``gradient`` [k, J, d + 1] by the Hessian."""
        inner = self._inverse(gradient[..., :-1])
        bias = (gradient[..., -1] - inner @ self.across) / self.rest
        return torch.cat([inner - bias[..., None] * self.toward, bias[..., None]], dim=-1)


@dataclass(frozen=True)
class _Problem:
    """k weighted regressions on shared features [n, d]; ``weights`` [k, 1, n], ``scale`` [k, 1, d]."""

    features: Tensor
    likelihood: Likelihood
    strength: float
    weights: Tensor
    scale: Tensor

    def __getitem__(self, keep: Tensor) -> _Problem:
        return _Problem(self.features, self.likelihood, self.strength, self.weights[keep], self.scale[keep])

    def push(self, direction: Tensor) -> Tensor:
        """From weights and intercept [k, J, d + 1] to margins [k, J, n]."""
        return (direction[..., :-1] * self.scale) @ self.features.T + direction[..., -1:]

    def pull(self, derivative: Tensor) -> Tensor:
        """From a derivative by margins [k, J, n] to one by weights and intercept."""
        return torch.cat([(derivative @ self.features) * self.scale, derivative.sum(-1, keepdim=True)], dim=-1)

    def objective(self, margins: Tensor, current: Tensor) -> Tensor:
        """C·Σ w·log-loss + ½‖v‖², [k]."""
        losses = self.likelihood.losses(margins)
        return self.strength * (losses * self.weights[:, 0]).sum(-1) + current[..., :-1].square().sum((1, 2)) / 2

    def gradient(self, probability: Tensor, current: Tensor) -> Tensor:
        """Of the objective by weights and intercept, [k, J, d + 1]."""
        found = self.pull(self.likelihood.residual(probability) * self.weights) * self.strength
        found[..., :-1] += current[..., :-1]
        return found

    def curve(self, probability: Tensor, weight: Tensor, direction: Tensor) -> Tensor:
        """Hessian times ``direction``."""
        moved = self.likelihood.curvature(probability, weight, self.push(direction)) * self.weights
        curved = self.pull(moved) * self.strength
        curved[..., :-1] += direction[..., :-1]
        return curved


def _solve(
    features: Tensor,
    scaling: Standardisation,
    likelihood: Likelihood,
    strength: float,
    weights: Tensor,
    start: tuple[Tensor, Tensor],
    preconditioner: _Preconditioner,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    deviation = _deviations(features, weights, scaling)
    kept = deviation > 0
    scale = torch.where(kept, 1 / deviation.where(kept, 1.0), 0.0)
    problem = _Problem(features, likelihood, strength, weights[:, None], scale[:, None])
    single = _Problem(features.float(), likelihood, strength, weights[:, None].float(), scale[:, None].float())
    # A step is one in the scale of each weighting, and the preconditioner knows that of equal weights.
    ratio = torch.where(kept, deviation, 0.0)[:, None]
    current = torch.cat([start[0][None] * ratio, start[1][None, :, None].expand(len(weights), -1, 1)], dim=-1).clone()
    margins = problem.push(current)
    objective = problem.objective(margins, current)
    active = torch.arange(len(weights), device=features.device)
    for _ in range(MAX_STEPS):
        part, at = problem[active], current[active]
        probability = likelihood.probability(margins)
        gradient = part.gradient(probability, at)
        step = _newton_step(single[active], likelihood, probability, gradient, preconditioner, kept[active][:, None])
        slope = (gradient * step).sum((1, 2))
        length, change = torch.ones_like(slope), part.push(step)
        for _ in range(MAX_HALVINGS):
            ahead, moved = margins + length[:, None, None] * change, at + length[:, None, None] * step
            reached = part.objective(ahead, moved)
            failed = reached - objective > SUFFICIENT_DECREASE * length * slope + 1e-12 * objective.abs()
            if not bool(failed.any()):
                break
            length = torch.where(failed, length / 2, length)
        current[active] = moved
        size = moved[..., :-1].flatten(1).norm(dim=1)
        near = step[..., :-1].flatten(1).norm(dim=1) <= TOLERANCE * size.clamp_min(TOLERANCE)
        near &= step[..., -1].norm(dim=1) <= TOLERANCE * (1 + moved[..., -1].norm(dim=1))
        active, margins, objective = active[~near], ahead[~near], reached[~near]
        if len(active) == 0:
            break
    converged = torch.ones(len(weights), dtype=torch.bool)
    converged[active.cpu()] = False
    by_feature = current[..., :-1] * scale[:, None]
    raw = scaling.raw(by_feature.cpu().numpy())
    bias = current[..., -1].cpu().numpy() - raw @ scaling.mean
    return raw, bias, converged.numpy()


def _newton_step(
    problem: _Problem,
    likelihood: Likelihood,
    probability: Tensor,
    gradient: Tensor,
    preconditioner: _Preconditioner,
    kept: Tensor,
) -> Tensor:
    """By preconditioned conjugate gradients in float32, to a relative residual of ``FORCING``; float64."""
    probability, weight = probability.float(), likelihood.weight(probability).float()

    def precondition(residual: Tensor) -> Tensor:
        solved = preconditioner.solve(residual.double())
        solved[..., :-1] *= kept
        return solved.float()

    remaining = -gradient.float()
    solution = torch.zeros_like(remaining)
    direction = precondition(remaining)
    product = (remaining * direction).sum((1, 2))
    goal = FORCING**2 * product
    for _ in range(MAX_INNER):
        curved = problem.curve(probability, weight, direction)
        length = product / (direction * curved).sum((1, 2)).clamp_min(1e-30)
        # What is solved already moves no further.
        length = torch.where(product > goal, length, 0.0)
        solution += length[:, None, None] * direction
        remaining = remaining - length[:, None, None] * curved
        toward = precondition(remaining)
        following = (remaining * toward).sum((1, 2))
        if not bool((following > goal).any()):
            break
        direction = toward + (following / product.clamp_min(1e-30))[:, None, None] * direction
        product = following
    return solution.double()


def _deviations(features: Tensor, weights: Tensor, scaling: Standardisation) -> Tensor:
    """Standard deviation [k, d] under each weighting, 0 for a feature that is constant under it."""
    total = weights.sum(1, keepdim=True)
    mean = weights @ features / total
    square = weights @ features.square() / total
    variance = square - mean.square()
    for problem, column in torch.nonzero(variance < SUSPICIOUS * square).tolist():
        about = features[:, column] - mean[problem, column]
        variance[problem, column] = weights[problem] @ about.square() / total[problem, 0]
    deviation = variance.clamp_min(0).sqrt()
    raw_scale = torch.from_numpy(scaling.scale[scaling.kept]).to(features)
    raw_mean = torch.from_numpy(scaling.mean[scaling.kept]).to(features) + mean * raw_scale
    constant = deviation * raw_scale <= CONSTANT * raw_mean.abs().clamp_min(float(np.finfo(np.float32).tiny))
    # What is one value in every drawn row has rounding for its deviation, be it 0 on the raw scale or not.
    return torch.where(constant | (deviation <= ROUNDING * (1 + mean.abs())), 0.0, deviation)
