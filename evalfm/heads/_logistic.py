"""The whole regularisation path of logistic regression as one batched, preconditioned Newton iteration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TOLERANCE = 2e-5
LARGEST_LAST_STEP = 2e-3
FORCING = 0.1
MAX_NEWTON_STEPS = 60
MAX_INNER_STEPS = 250
SUFFICIENT_DECREASE = 1e-4
MAX_HALVINGS = 30
EXAMPLES_AT_ONCE = 1 << 16
"""That are weighted at once beside the features."""


@dataclass(frozen=True)
class Likelihood(ABC):
    """A log-loss of margins [k, J, n]: k strengths of the penalty, J linear functions, n examples."""

    target: Tensor

    @abstractmethod
    def loss(self, margins: Tensor) -> Tensor:
        """Sum of the log-loss over the examples, [k]."""

    @abstractmethod
    def losses(self, margins: Tensor) -> Tensor:
        """The log-loss of each example, [k, n]."""

    @abstractmethod
    def probability(self, margins: Tensor) -> Tensor:
        """Probability of each of the J outcomes, [k, J, n]."""

    def residual(self, probability: Tensor) -> Tensor:
        """Derivative of the loss by the margins, p − y, [k, J, n]."""
        return probability - self.target

    def weight(self, probability: Tensor) -> Tensor:
        """Second derivative by the margins, taken outcome by outcome, p·(1 − p), [k, J, n]."""
        return probability * (1 - probability)

    @abstractmethod
    def curvature(self, probability: Tensor, weight: Tensor, direction: Tensor) -> Tensor:
        """Second derivative by the margins times ``direction``, [k, J, n]."""

    @abstractmethod
    def prior(self) -> Tensor:
        """Margins of the best constant prediction, [J]."""


@dataclass(frozen=True)
class Binomial(Likelihood):
    """Two classes, one margin: ``target`` is [n] of 0 and 1."""

    def loss(self, margins: Tensor) -> Tensor:
        """Sum of log(1 + exp(m)) − y·m, [k]."""
        return (functional.softplus(margins, threshold=50.0) - self.target * margins).sum(dim=(1, 2))

    def losses(self, margins: Tensor) -> Tensor:
        """Log(1 + exp(m)) − y·m."""
        return (functional.softplus(margins, threshold=50.0) - self.target * margins)[:, 0]

    def probability(self, margins: Tensor) -> Tensor:
        """Of the positive class."""
        return torch.sigmoid(margins)

    def curvature(self, probability: Tensor, weight: Tensor, direction: Tensor) -> Tensor:
        """P·(1 − p)·direction."""
        return weight * direction

    def prior(self) -> Tensor:
        """Log odds of the positive class."""
        return torch.logit(self.target.mean(dtype=torch.float64)).reshape(1)


@dataclass(frozen=True)
class Multinomial(Likelihood):
    """J classes with a softmax over J margins: ``target`` is one-hot [J, n]."""

    def loss(self, margins: Tensor) -> Tensor:
        """Sum of logsumexp(m) − m of the true class, [k]."""
        return (torch.logsumexp(margins, dim=1) - (self.target * margins).sum(dim=1)).sum(dim=-1)

    def losses(self, margins: Tensor) -> Tensor:
        """Logsumexp(m) − m of the true class."""
        return torch.logsumexp(margins, dim=1) - (self.target * margins).sum(dim=1)

    def probability(self, margins: Tensor) -> Tensor:
        """Softmax over the classes."""
        return torch.softmax(margins, dim=1)

    def curvature(self, probability: Tensor, weight: Tensor, direction: Tensor) -> Tensor:
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

    def __init__(self, features: Tensor, profile: Tensor | None = None) -> None:
        """``profile`` [n] has mean 1: how p·(1 − p) is shared out among the examples; flat if left out."""
        self.count, d = features.shape
        self.mean = features.new_zeros(d) if profile is None else profile @ features / self.count
        eigenvalue, self.basis = torch.linalg.eigh(self._products(features, profile))
        self.eigenvalue = eigenvalue.clamp_min(0)

    def _products(self, features: Tensor, profile: Tensor | None) -> Tensor:
        """Inner products [d, d] of the features about their mean, each example counted by its weight."""
        if profile is None:
            return features.T @ features
        products = features.new_zeros(len(self.mean), len(self.mean))
        for part, weight in zip(
            torch.split(features, EXAMPLES_AT_ONCE), torch.split(profile, EXAMPLES_AT_ONCE), strict=True
        ):
            rooted = (part - self.mean) * weight.sqrt()[:, None]
            products += rooted.T @ rooted
        return products

    def solve(self, gradient: Tensor, strength: Tensor, mean_weight: Tensor) -> Tensor:
        """Divide ``gradient`` [k, J, d + 1] by the approximate Hessian of each C and outcome, in float32."""
        scale = strength.float()[:, None, None] * mean_weight.float()[:, :, None]
        weights, rest = torch.split(gradient.float(), [len(self.mean), 1], dim=-1)
        inner = ((weights - rest * self.mean) @ self.basis) / (scale * self.eigenvalue + 1)
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
    preconditioner = _Preconditioner(single)
    prior = likelihood.prior().to(features)
    k, outcomes = len(strengths), len(prior)
    current = features.new_zeros(k, outcomes, d + 1)
    current[..., -1] = prior
    # At the start all C share one gradient but for its scale, and the flat profile needs no inner steps.
    margins = prior[:, None].expand(1, outcomes, n)
    probability = likelihood.probability(margins)
    gradient = _pull(likelihood.residual(probability), features) * strengths[:, None, None]
    mean_weight = likelihood.weight(probability).mean(dim=-1).expand(k, outcomes)
    step = -preconditioner.solve(gradient, strengths, mean_weight).to(features)
    margins = margins.repeat(k, 1, 1)
    loss = strengths * likelihood.loss(margins)
    solution, margins, loss = _move(features, likelihood, margins, loss, current, step, gradient, strengths)
    settled = torch.zeros(k, dtype=torch.bool, device=features.device)
    refresh_after = 8 + d * d // (5 * n)  # one refresh costs about as much as so many inner steps
    active = torch.arange(k, device=features.device)
    inner, steps = 0, 1
    while True:
        strength, current = strengths[active], solution[active]
        probability = likelihood.probability(margins)
        weight = likelihood.weight(probability)
        mean_weight = weight.mean(dim=-1).clamp_min(1e-12)
        gradient = _pull(likelihood.residual(probability), features) * strength[:, None, None]
        gradient[..., :-1] += current[..., :-1]
        if inner > refresh_after:
            profile = (weight / mean_weight[..., None]).mean(dim=(0, 1))
            preconditioner = _Preconditioner(single, profile.float())
        near = _small(preconditioner.solve(gradient, strength, mean_weight), current, TOLERANCE)
        # Where the preconditioner is too stiff its step is too short to judge by: the last real one must be short too.
        going = ~(near & settled)
        active = active[going]
        if len(active) == 0 or steps == MAX_NEWTON_STEPS:
            break
        strength, current, gradient = strength[going], current[going], gradient[going]
        system = _System(single, likelihood, probability[going].float(), weight[going].float(), strength.float())
        step, inner = system.solve(-gradient.float(), preconditioner, mean_weight[going].float())
        solution[active], margins, loss = _move(
            features, likelihood, margins[going], loss[going], current, step.to(features), gradient, strength
        )
        settled = _small(step, current, LARGEST_LAST_STEP)
        steps += 1
    converged = torch.ones(k, dtype=torch.bool, device=features.device)
    converged[active] = False
    return Path(solution[..., :-1].contiguous(), solution[..., -1].contiguous(), converged, steps)


def _push(direction: Tensor, features: Tensor) -> Tensor:
    """From weights and intercept [k, J, d + 1] to margins [k, J, n]."""
    return direction[..., :-1] @ features.T + direction[..., -1:]


def _pull(derivative: Tensor, features: Tensor) -> Tensor:
    """From a derivative by margins [k, J, n] to one by weights and intercept [k, J, d + 1]."""
    return torch.cat([derivative @ features, derivative.sum(-1, keepdim=True)], dim=-1)


def _small(step: Tensor, current: Tensor, tolerance: float) -> Tensor:
    """Whether a step changes weights and intercepts by less than ``tolerance`` of their size, [k]."""
    weights, bias = current[..., :-1].flatten(1).norm(dim=1), current[..., -1].norm(dim=1)
    near_weights = step[..., :-1].flatten(1).norm(dim=1) <= tolerance * weights
    near_bias = step[..., -1].norm(dim=1) <= tolerance * (1 + bias)
    return torch.logical_and(near_weights, near_bias)


@dataclass(frozen=True)
class _System:
    """The Hessians of k strengths at their iterates, in float32."""

    features: Tensor
    likelihood: Likelihood
    probability: Tensor
    weight: Tensor
    strength: Tensor

    def __getitem__(self, keep: Tensor) -> _System:
        """Those of the strengths that ``keep`` marks."""
        parts = (each[keep] for each in (self.probability, self.weight, self.strength))
        return _System(self.features, self.likelihood, *parts)

    def times(self, direction: Tensor) -> Tensor:
        """Hessian times ``direction`` [k, J, d + 1]."""
        moved = self.likelihood.curvature(self.probability, self.weight, _push(direction, self.features))
        curved = _pull(moved, self.features) * self.strength[:, None, None]
        curved[..., :-1] += direction[..., :-1]
        return curved

    def solve(self, wanted: Tensor, preconditioner: _Preconditioner, mean_weight: Tensor) -> tuple[Tensor, int]:
        """Conjugate gradients to a relative residual of ``FORCING``: the solutions and the iterations taken."""
        solution = torch.zeros_like(wanted)
        index = torch.arange(len(wanted), device=wanted.device)
        remaining = wanted
        direction = preconditioner.solve(remaining, self.strength, mean_weight)
        product = (remaining * direction).sum(dim=(1, 2))
        goal = FORCING**2 * product
        system, count = self, 0
        while count < MAX_INNER_STEPS:
            count += 1
            curved = system.times(direction)
            length = product / (direction * curved).sum(dim=(1, 2)).clamp_min(1e-30)
            solution[index] += length[:, None, None] * direction
            remaining = remaining - length[:, None, None] * curved
            toward = preconditioner.solve(remaining, system.strength, mean_weight)
            following = (remaining * toward).sum(dim=(1, 2))
            keep = following > goal
            if not bool(keep.any()):
                break
            direction = toward + (following / product)[:, None, None] * direction
            product = following
            if not bool(keep.all()):
                index, goal, product, mean_weight = index[keep], goal[keep], product[keep], mean_weight[keep]
                direction, remaining, system = direction[keep], remaining[keep], system[keep]
        return solution, count


def _move(
    features: Tensor,
    likelihood: Likelihood,
    margins: Tensor,
    loss: Tensor,
    current: Tensor,
    step: Tensor,
    gradient: Tensor,
    strength: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Go along each step, halved until the objective falls enough (Armijo): iterate, margins, C · loss there."""
    change = _push(step, features)
    slope = (gradient * step).sum(dim=(1, 2))
    linear = (current[..., :-1] * step[..., :-1]).sum(dim=(1, 2))
    square = step[..., :-1].square().sum(dim=(1, 2))
    slack = 1e-12 * loss.abs()
    length = torch.ones_like(strength)
    for _ in range(MAX_HALVINGS):
        ahead = margins + length[:, None, None] * change
        reached = strength * likelihood.loss(ahead)
        rise = reached - loss + length * linear + length.square() / 2 * square
        failed = rise > SUFFICIENT_DECREASE * length * slope + slack
        if not bool(failed.any()):
            break
        length = torch.where(failed, length / 2, length)
    return current + length[:, None, None] * step, ahead, reached
