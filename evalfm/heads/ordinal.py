"""The linear probe for ordered classes: proportional odds, its penalty chosen on val."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional

from evalfm.heads._pooled import (
    OnVal,
    Standardisation,
    check_kind,
    check_two_classes,
    finite_pooled,
    known_rows,
    smallest_best,
    tied,
)
from evalfm.heads.head import Context, Examples, Fit, PooledHead
from evalfm.heads.linear import STRENGTHS, _cautions, without_images
from evalfm.heads.module import HeadModule, Layout, Maps, Projection, Statistics
from evalfm.heads.objectives import Objective, objective_of
from evalfm.heads.trained import TrainableHead

ABSENT = -40.0
"""Log-probability of a class that train does not show."""
SMALLEST_STEP, LARGEST_STEP = -12.0, 8.0
"""Bounds on the logarithm of the distance between two thresholds."""


class OrdinalModule(HeadModule):
    """One score and ordered thresholds: log-probabilities of the classes, [B, K]."""

    seen: Tensor

    def __init__(self, pooled_dim: int, seen: Tensor) -> None:
        super().__init__()
        self.project = Projection(pooled_dim, 1, 0.0, torch.Generator())
        self.first = nn.Parameter(torch.zeros(()))
        self.steps = nn.Parameter(torch.zeros(max(0, int(seen.sum()) - 2)))
        self.register_buffer("seen", seen)

    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """Pooled [B, D] to log-probabilities; maps are not looked at."""
        inside = log_probabilities(self.project(pooled)[:, 0], self.first, self.steps)
        # A product and no assignment, so that many copies can run as one.
        place = torch.zeros(inside.shape[1], len(self.seen), dtype=inside.dtype, device=inside.device)
        place[torch.arange(inside.shape[1]), torch.nonzero(self.seen)[:, 0]] = 1.0
        return inside @ place + torch.where(self.seen, 0.0, ABSENT).to(inside.dtype)

    def standardise(self, statistics: Statistics) -> None:
        """Take the statistics of the pooled features."""
        self.project.standardise(statistics.pooled_mean, statistics.pooled_scale)

    def init_bias(self, answer: Tensor) -> None:
        """Set the thresholds so that the classes have the log-shares ``answer`` [K]; the weights start at zero."""
        share = torch.softmax(answer[self.seen].double(), 0)
        thresholds = torch.logit(share.cumsum(0)[:-1])
        self.first.data.copy_(thresholds[0])
        self.steps.data.copy_(thresholds.diff().log().clamp(SMALLEST_STEP, LARGEST_STEP))


class OrdinalHead(PooledHead, TrainableHead):
    """Proportional odds on standardised pooled features: P(class ≤ k) = σ(θ_k − w·x).

    Objective C·Σ log-loss + ½‖w‖², thresholds unpenalised and ordered; C of 24 values by val log-loss, ties to the
    smaller C. A class without train images gets probability 0, with a note. Source: McCullagh 1980.
    """

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "proportional odds on standardised pooled features, C chosen by val log-loss"
    kinds: ClassVar[frozenset[str]] = frozenset({"ordinal"})
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    deterministic: ClassVar[bool] = True
    refits_cheaply: ClassVar[bool] = True

    def __init__(self, strengths: tuple[float, ...] = STRENGTHS) -> None:
        self._strengths = tuple(sorted(strengths))
        self._on_val = OnVal(np.empty(0, dtype=np.intp), np.empty((0, 0)))
        self._weight = torch.empty(0)
        self._first = torch.zeros(())
        self._steps = torch.empty(0)
        self._seen = torch.empty(0, dtype=torch.bool)

    @property
    def grid(self) -> dict[str, object]:
        """C of scikit-learn's convention, the link, and how the features are scaled."""
        return {"C": list(self._strengths), "link": "proportional odds", "standardise": "train", "refit": "no"}

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Learn the classes that train holds.

        Raises:
            EvalfmError: the kind is not served, or train or val holds one class only.
        """
        check_kind(self, context)
        label = " / ".join(context.class_names)
        rows, val_rows = known_rows(train.target, "train", label), known_rows(val.target, "val", label)
        check_two_classes(train.target[rows], "train", label)
        seen = np.unique(train.target[rows].astype(np.intp))
        features = finite_pooled(train, "train")[rows]
        scaling = Standardisation.of(features)
        learnt = torch.from_numpy(scaling.apply(features))
        place = torch.from_numpy(np.searchsorted(seen, train.target[rows].astype(np.intp)))
        scorable = np.isin(val.target[val_rows].astype(np.intp), seen)
        check_two_classes(val.target[val_rows][scorable], "val", label)
        held_out = torch.from_numpy(scaling.apply(finite_pooled(val, "val")[val_rows][scorable]))
        truth = torch.from_numpy(np.searchsorted(seen, val.target[val_rows][scorable].astype(np.intp)))
        solutions, converged = solve_path(learnt, place, len(seen), self._strengths)
        losses = np.array([float(_loss(solution, held_out, truth) / len(truth)) for solution in solutions])
        best = smallest_best(losses)
        of_each = [_losses(solution, held_out, truth).numpy() for solution in solutions]
        self._on_val = OnVal(val_rows[scorable], np.stack(of_each))
        cautions = _cautions(self._strengths, best, label, scaling, torch.tensor(converged))
        absent = [name for index, name in enumerate(context.class_names) if index not in seen]
        if absent:
            cautions.append(without_images(absent))
        first, steps, weight = solutions[best]
        raw = torch.from_numpy(scaling.raw(weight.numpy()))
        self._weight, self._steps = raw, steps
        self._first = first + raw @ torch.from_numpy(scaling.mean)
        self._seen = torch.zeros(len(context.class_names), dtype=torch.bool)
        self._seen[torch.from_numpy(seen)] = True
        path: tuple[dict[str, float | int | str], ...] = tuple(
            {"C": strength, "val_log_loss": float(loss)} for strength, loss in zip(self._strengths, losses, strict=True)
        )
        return Fit({"C": self._strengths[best]}, path, cautions=tuple(cautions))

    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """Probability of each class, [N, K]; rows sum to 1."""
        features = torch.from_numpy(finite_pooled(examples, "given")).double()
        score = torch.from_numpy(tied((features @ self._weight).numpy()))
        inside = torch.softmax(log_probabilities(score, self._first, self._steps), dim=1)
        answer: NDArray[np.float64] = np.zeros((len(score), len(self._seen)))
        answer[:, self._seen.numpy()] = inside.numpy()
        return answer

    def as_chosen(self, times: NDArray[np.intp]) -> OrdinalHead:
        """At that C."""
        return OrdinalHead((self._strengths[self._on_val.best(times)],))

    def tensors(self) -> dict[str, Tensor]:
        """``weight`` [D] on the raw features, ``first`` threshold, log ``steps`` and which classes were ``seen``."""
        return {"weight": self._weight, "first": self._first, "steps": self._steps, "seen": self._seen}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self._weight, self._first = tensors["weight"], tensors["first"]
        self._steps, self._seen = tensors["steps"], tensors["seen"]

    def objective(self, train: Examples, context: Context) -> Objective:
        """Cross-entropy: the softmax of log-probabilities is the probabilities."""
        self._seen = torch.zeros(len(context.class_names), dtype=torch.bool)
        self._seen[torch.from_numpy(np.unique(train.target.astype(np.intp)))] = True
        return objective_of(train, context)

    def new_module(self, layout: Layout, generator: torch.Generator) -> HeadModule:
        """Zero weights; of the classes that the objective saw in train, of all before that."""
        seen = self._seen if len(self._seen) else torch.ones(layout.outputs, dtype=torch.bool)
        return OrdinalModule(layout.pooled_dim, seen)

    def fitted(self, statistics: Statistics, objective: Objective) -> HeadModule:
        """The fitted score and thresholds."""
        module = OrdinalModule(len(self._weight), self._seen)
        module.standardise(statistics)
        scale, mean = statistics.pooled_scale.double(), statistics.pooled_mean.double()
        module.project.weight.data.copy_((self._weight * scale)[None])
        module.project.bias.data.copy_((self._weight @ mean)[None])
        module.first.data.copy_(self._first)
        module.steps.data.copy_(self._steps)
        return module

    def set_module(self, module: HeadModule, layout: Layout, objective: Objective, device: torch.device) -> None:
        """Take the score and the thresholds back, on features as they are."""
        assert isinstance(module, OrdinalModule)
        project = module.project
        self._weight = (project.weight.detach().double() / project.scale.double())[0].cpu()
        shift = project.bias.detach().double()[0].cpu() - self._weight @ project.mean.double().cpu()
        self._first = module.first.detach().double().cpu() - shift
        self._steps, self._seen = module.steps.detach().double().cpu(), module.seen.cpu()


def log_probabilities(score: Tensor, first: Tensor, steps: Tensor) -> Tensor:
    """Of K classes [N, K] for ``score`` [N], the first threshold and the logarithms [K − 2] of the steps between.

    σ(a) − σ(b) = σ(a)·σ(−b)·(1 − e^(b − a)), so that no difference of nearly equal numbers is taken.

    >>> score, first, steps = torch.zeros(1), torch.tensor(-1.0), torch.zeros(1)
    >>> [round(each, 3) for each in log_probabilities(score, first, steps).exp()[0].tolist()]
    [0.269, 0.231, 0.5]
    """
    thresholds = torch.cat([first[None], first + steps.exp().cumsum(0)])
    below = thresholds[None] - score[:, None]
    gap = torch.log(-torch.expm1(-steps.exp()))
    upper = functional.pad(functional.logsigmoid(below), (0, 1))
    lower = functional.pad(functional.logsigmoid(-below), (1, 0))
    return upper + lower + functional.pad(gap, (1, 1))


def solve_path(
    features: Tensor, place: Tensor, classes: int, strengths: tuple[float, ...]
) -> tuple[list[tuple[Tensor, Tensor, Tensor]], list[bool]]:
    """First threshold, log steps and weight [d] for every C, each started from the one before (L-BFGS-B).

    Beside them, which of them reached the tolerance.

    ``features`` [n, d] float64, standardised; ``place`` [n] class of each.
    """
    share = torch.bincount(place, minlength=classes).double() / len(place)
    thresholds = torch.logit(share.cumsum(0)[:-1])
    start = torch.cat([thresholds[:1], thresholds.diff().log(), torch.zeros(features.shape[1], dtype=torch.float64)])
    free = classes - 1
    unbounded: tuple[float | None, float | None] = (None, None)
    bounds: Any = [unbounded] + [(SMALLEST_STEP, LARGEST_STEP)] * (free - 1) + [unbounded] * features.shape[1]
    solutions, converged = [], []
    for strength in strengths:

        def value(flat: Any, strength: float = strength) -> tuple[float, Any]:
            given = torch.from_numpy(flat).requires_grad_(True)
            solution = (given[0], given[1:free], given[free:])
            # Divided by C·n, so that the tolerance means the same for every C.
            loss = _loss(solution, features, place) + 0.5 * solution[2].square().sum() / strength
            loss = loss / len(place)
            (gradient,) = torch.autograd.grad(loss, given)
            return float(loss.detach()), gradient.numpy()

        options: Any = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-12, "gtol": 1e-8}
        solved: Any = minimize(value, start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        start = torch.from_numpy(np.asarray(solved.x))
        solutions.append((start[0].clone(), start[1:free].clone(), start[free:].clone()))
        converged.append(bool(solved.success))
    return solutions, converged


def _loss(solution: tuple[Tensor, Tensor, Tensor], features: Tensor, place: Tensor) -> Tensor:
    """Summed log-loss."""
    return _losses(solution, features, place).sum()


def _losses(solution: tuple[Tensor, Tensor, Tensor], features: Tensor, place: Tensor) -> Tensor:
    """Log-loss of each row, [n]."""
    first, steps, weight = solution
    return -log_probabilities(features @ weight, first, steps).gather(1, place[:, None])[:, 0]
