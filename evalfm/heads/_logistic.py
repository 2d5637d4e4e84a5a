"""The whole regularisation path of logistic regression as one batched, preconditioned Newton iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

TOLERANCE = 2e-5
MAX_NEWTON_STEPS = 60
MAX_INNER_STEPS = 250
FORCING = 0.1
SUFFICIENT_DECREASE = 1e-4
MAX_HALVINGS = 30


class Likelihood(Protocol):
    """A log-loss of margins [k, J, n]: k strengths of the penalty, J linear functions, n examples."""

    def loss(self, margins: Tensor) -> Tensor:
        """Sum of the log-loss over the examples, [k]."""
        ...

    def probability(self, margins: Tensor) -> Tensor:
        """Probability of each of the J outcomes, [k, J, n]."""
        ...

    def residual(self, probability: Tensor) -> Tensor:
        """Derivative of the loss by the margins, [k, J, n]."""
        ...

    def curvature(self, probability: Tensor, direction: Tensor) -> Tensor:
        """Second derivative by the margins times ``direction``, [k, J, n]."""
        ...

    def prior(self) -> Tensor:
        """Margins of the best constant prediction, [J]."""
        ...


@dataclass(frozen=True)
class Binomial:
    """Two classes, one margin: ``target`` is [n] of 0 and 1."""

    target: Tensor

    def loss(self, margins: Tensor) -> Tensor:
        """Sum of log(1 + exp(m)) − y·m, [k]."""
        return (functional.softplus(margins, threshold=50.0) - self.target * margins).sum(dim=(1, 2))

    def probability(self, margins: Tensor) -> Tensor:
        """Of the positive class."""
        return torch.sigmoid(margins)

    def residual(self, probability: Tensor) -> Tensor:
        """P − y."""
        return probability - self.target

    def curvature(self, probability: Tensor, direction: Tensor) -> Tensor:
        """P·(1 − p)·direction."""
        return probability * (1 - probability) * direction

    def prior(self) -> Tensor:
        """Log odds of the positive class."""
        return torch.logit(self.target.mean(dtype=torch.float64)).reshape(1)


@dataclass(frozen=True)
class Multinomial:
    """J classes with a softmax over J margins: ``target`` is one-hot [J, n]."""

    target: Tensor

    def loss(self, margins: Tensor) -> Tensor:
        """Sum of logsumexp(m) − m of the true class, [k]."""
        return (torch.logsumexp(margins, dim=1) - (self.target * margins).sum(dim=1)).sum(dim=-1)

    def probability(self, margins: Tensor) -> Tensor:
        """Softmax over the classes."""
        return torch.softmax(margins, dim=1)

    def residual(self, probability: Tensor) -> Tensor:
        """P − y."""
        return probability - self.target

    def curvature(self, probability: Tensor, direction: Tensor) -> Tensor:
        """(diag(p) − p·pᵀ)·direction."""
        weighted = probability * direction
        return weighted - probability * weighted.sum(dim=1, keepdim=True)

    def prior(self) -> Tensor:
        """Log of the class frequencies, centred."""
        logarithm = self.target.mean(dim=1, dtype=torch.float64).log()
        return logarithm - logarithm.mean()


@dataclass(frozen=True)
class Path:
    """Solutions for k strengths of the penalty.

    Attributes:
        weight: [k, J, d] coefficients. bias: [k, J] intercepts, unpenalised.
        converged: [k] whether the tolerance was met.
        newton_steps: outer iterations of the slowest strength.
    """

    weight: Tensor
    bias: Tensor
    converged: Tensor
    newton_steps: int


def solve_path(features: Tensor, likelihood: Likelihood, strengths: Tensor) -> Path:
    """Minimise C·Σ log-loss + ½‖w‖² for every C of ``strengths`` [k] (scikit-learn's C) at once.

    ``features`` is [n, d] float64, centred. Each Newton step is solved for all C together by conjugate
    gradients in float32, so a step costs a few matrix products that all C share; gradient, objective and
    iterate are float64, so the solution is a float64 one. The preconditioner is the Hessian with one profile
    of weights p·(1 − p) for every C (flat at first, refreshed when the inner steps grow many): a single
    eigendecomposition serves the whole path. Where d > n the problem is solved in the row space of the
    features, which holds the solution.
    """
    n, d = features.shape
    if d > n:
        basis, triangle = torch.linalg.qr(features.T)
        path = _newton(triangle.T.contiguous(), likelihood, strengths)
        return Path(path.weight @ basis.T, path.bias, path.converged, path.newton_steps)
    return _newton(features, likelihood, strengths)


class _Preconditioner:
    """The Hessian with one profile of example weights for every C, inverted by one eigendecomposition."""

    def __init__(self, features: Tensor, profile: Tensor) -> None:
        """``profile`` [n] has mean 1: how p·(1 − p) is shared out among the examples."""
        self.count = features.shape[0]
        self.mean = profile @ features / self.count
        rooted = (features - self.mean) * profile.sqrt()[:, None]
        eigenvalue, self.basis = torch.linalg.eigh(rooted.T @ rooted)
        self.eigenvalue = eigenvalue.clamp_min(0)

    def solve(self, gradient: Tensor, strengths: Tensor, mean_weight: Tensor) -> Tensor:
        """Divide ``gradient`` [k, J, d + 1] by the approximate Hessian of each C and outcome."""
        scale = strengths[:, None, None] * mean_weight[:, :, None]
        rest = gradient[..., -1:]
        inner = ((gradient[..., :-1] - rest * self.mean) @ self.basis) / (scale * self.eigenvalue + 1)
        weights = inner @ self.basis.T
        bias = rest / (scale * self.count) - (weights * self.mean).sum(-1, keepdim=True)
        solved = torch.cat([weights, bias], dim=-1)
        if solved.shape[1] > 1:
            # The softmax does not see a shift common to all classes, and the penalty puts it at 0.
            solved = solved - solved.mean(dim=1, keepdim=True)
        return solved


def _newton(features: Tensor, likelihood: Likelihood, strengths: Tensor) -> Path:
    n, d = features.shape
    single = features.float()
    preconditioner = _Preconditioner(single, single.new_ones(n))
    prior = likelihood.prior().to(features)
    k, outcomes = len(strengths), len(prior)
    solution = features.new_zeros(k, outcomes, d + 1)
    solution[..., -1] = prior
    margins = prior[:, None].expand(k, outcomes, n).clone()
    active = torch.arange(k, device=features.device)
    refresh_after = 8 + d * d // (5 * n)  # one refresh costs about as much as so many inner steps
    steps = inner = 0
    for steps in range(MAX_NEWTON_STEPS + 1):
        strength, current, margin = strengths[active], solution[active], margins[active]
        probability = likelihood.probability(margin)
        gradient = _gradient(features, likelihood.residual(probability), current, strength)
        spread = probability * (1 - probability)
        mean_weight = spread.mean(-1).clamp_min(1e-12)
        if inner > refresh_after:
            profile = (spread / mean_weight[..., None]).mean(dim=(0, 1)).float()
            preconditioner = _Preconditioner(single, profile)
        near = preconditioner.solve(gradient.float(), strength.float(), mean_weight.float())
        going = ~_small(near, current)
        active = active[going]
        if len(active) == 0 or steps == MAX_NEWTON_STEPS:
            break
        strength, current, margin = strength[going], current[going], margin[going]
        step, inner = _conjugate_gradients(
            single,
            likelihood,
            probability[going].float(),
            gradient[going].float(),
            strength.float(),
            preconditioner,
            mean_weight[going].float(),
        )
        step = step.to(features)
        change = step[..., :-1] @ features.T + step[..., -1:]
        length = _line_search(likelihood, margin, change, current, step, gradient[going], strength)
        solution[active] = current + length * step
        margins[active] = margin + length * change
    converged = torch.ones(k, dtype=torch.bool, device=features.device)
    converged[active] = False
    return Path(solution[..., :-1].contiguous(), solution[..., -1].contiguous(), converged, steps)


def _gradient(features: Tensor, residual: Tensor, current: Tensor, strength: Tensor) -> Tensor:
    gradient = torch.cat([residual @ features, residual.sum(-1, keepdim=True)], dim=-1)
    gradient *= strength[:, None, None]
    gradient[..., :-1] += current[..., :-1]
    return gradient


def _small(step: Tensor, current: Tensor) -> Tensor:
    """Whether an approximate Newton step changes weights and intercepts by less than the tolerance, [k]."""
    weights, bias = current[..., :-1].flatten(1), current[..., -1]
    near_weights = step[..., :-1].flatten(1).norm(dim=1) <= TOLERANCE * weights.norm(dim=1)
    near_bias = step[..., -1].norm(dim=1) <= TOLERANCE * (1 + bias.norm(dim=1))
    return torch.logical_and(near_weights, near_bias)


def _conjugate_gradients(
    features: Tensor,
    likelihood: Likelihood,
    probability: Tensor,
    gradient: Tensor,
    strength: Tensor,
    preconditioner: _Preconditioner,
    mean_weight: Tensor,
) -> tuple[Tensor, int]:
    """Solve Hessian · step = −gradient for each C, to ``FORCING``; the steps and the iterations."""
    scale = strength[:, None, None]
    step = torch.zeros_like(gradient)
    remaining = -gradient
    toward = preconditioner.solve(remaining, strength, mean_weight)
    direction = toward
    product = (remaining * toward).sum(dim=(1, 2))
    goal = FORCING**2 * product
    index = torch.arange(len(strength), device=features.device)
    count = 0
    while count < MAX_INNER_STEPS:
        count += 1
        moved = direction[..., :-1] @ features.T + direction[..., -1:]
        curved = likelihood.curvature(probability, moved)
        curved = torch.cat([curved @ features, curved.sum(-1, keepdim=True)], dim=-1) * scale
        curved[..., :-1] += direction[..., :-1]
        length = product / (direction * curved).sum(dim=(1, 2)).clamp_min(1e-30)
        step[index] += length[:, None, None] * direction
        remaining = remaining - length[:, None, None] * curved
        toward = preconditioner.solve(remaining, strength, mean_weight)
        following = (remaining * toward).sum(dim=(1, 2))
        keep = following > goal
        if not bool(keep.any()):
            break
        direction = toward + (following / product)[:, None, None] * direction
        product = following
        if not bool(keep.all()):
            index, strength, scale, goal = index[keep], strength[keep], scale[keep], goal[keep]
            direction, remaining, product = direction[keep], remaining[keep], product[keep]
            probability, mean_weight = probability[keep], mean_weight[keep]
    return step, count


def _line_search(
    likelihood: Likelihood,
    margin: Tensor,
    change: Tensor,
    current: Tensor,
    step: Tensor,
    gradient: Tensor,
    strength: Tensor,
) -> Tensor:
    """Halve each step until the objective falls enough (Armijo); the lengths, [k, 1, 1]."""
    slope = (gradient * step).sum(dim=(1, 2))
    weights, ahead = current[..., :-1], step[..., :-1]
    linear, square = (weights * ahead).sum(dim=(1, 2)), ahead.square().sum(dim=(1, 2))
    start = strength * likelihood.loss(margin)
    length = torch.ones_like(strength)
    slack = 1e-12 * start.abs()
    for _ in range(MAX_HALVINGS):
        fit = strength * likelihood.loss(margin + length[:, None, None] * change)
        rise = fit - start + length * linear + length.square() / 2 * square
        failed = rise > SUFFICIENT_DECREASE * length * slope + slack
        if not bool(failed.any()):
            break
        length = torch.where(failed, length / 2, length)
    return length[:, None, None]
