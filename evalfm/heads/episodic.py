"""Few-shot classifiers on stored features, all episodes solved in one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evalfm.heads._pooled import TIED_DECIMALS
from evalfm.heads.knn import TEMPERATURE

STRENGTH = 1.0
"""C of the linear probe."""
NEIGHBOURS = 5
BLOCK_BYTES = 30_000_000
"""Of inner products that are solved at once."""
CACHE_BYTES = 2_500_000
"""Of features that are multiplied at once."""
TOLERANCE = 1e-7
"""Of the preconditioned gradient, relative to the weights."""
ROUNDING = 1e-14
"""A step below this is none: features that are all alike have no gradient but rounding."""
FORCING = 0.05
MAX_NEWTON_STEPS = 50
MAX_INNER_STEPS = 200
MAX_HALVINGS = 30
SUFFICIENT_DECREASE = 1e-4
NEGLIGIBLE = 1e-13
"""Axes with less than this share of the features' mean squared length are rounding, and are left out."""


@dataclass(frozen=True)
class EpisodeBatch:
    """E episodes of C classes as inner products of their features, which are all that any method here needs.

    Attributes:
        own: [E, C·n, C·n] float64, of the support with itself, class after class.
        cross: [E, Q, C·n], of the queries with the support.
        classes: C.
    """

    own: Tensor
    cross: Tensor
    classes: int

    @classmethod
    def of(cls, support: Tensor, query: Tensor, classes: int) -> EpisodeBatch:
        """From features [E, C·n, D] and [E, Q, D]."""
        return cls(support @ support.mT, query @ support.mT, classes)

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, chosen: slice) -> EpisodeBatch:
        """Some of the episodes."""
        return EpisodeBatch(self.own[chosen], self.cross[chosen], self.classes)

    @property
    def shots(self) -> int:
        """Images of each class in a support."""
        return self.own.shape[1] // self.classes

    @property
    def one_hot(self) -> Tensor:
        """[C·n, C], the same for every episode."""
        return torch.eye(self.classes, dtype=self.own.dtype).repeat_interleave(self.shots, dim=0)


@dataclass(frozen=True)
class Answers:
    """Scores of the queries.

    Attributes:
        scores: [E, Q, C], larger where the class is likelier; equal features have equal scores.
        converged: [E] whether the solver met its tolerance.
    """

    scores: Tensor
    converged: Tensor


def normalised(features: Tensor) -> Tensor:
    """Each of [N, D] divided by its length, in float64; zero stays zero.

    >>> normalised(torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """
    return functional.normalize(features.double(), dim=-1)


def linear(batch: EpisodeBatch, strength: float = STRENGTH) -> Answers:
    """Logistic regression: scikit-learn's objective C·Σ log-loss + ½‖W‖², intercepts unpenalised.

    With two classes it is the binomial form, which has one vector of weights: a softmax at C/2 is the same problem.
    """
    margins, converged = softmax_margins(batch, strength / 2 if batch.classes == 2 else strength)
    return Answers(_tied(against_rest(margins)), converged)


def prototypes(batch: EpisodeBatch) -> Answers:
    """Cosine to the mean support feature of each class, softmax at the temperature of ``knn``; features of length 1."""
    share = batch.one_hot / batch.shots
    length = (share.mT @ batch.own @ share).diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    cosine = (batch.cross @ share) / length[:, None, :].clamp_min(torch.finfo(length.dtype).tiny)
    return Answers(_tied(against_rest(cosine / TEMPERATURE)), _all(batch))


def neighbours(batch: EpisodeBatch, k: int = NEIGHBOURS) -> Answers:
    """Votes of the k nearest by cosine as the head ``knn`` counts them, or of all where there are fewer; features of
    length 1."""
    # Rounded, and the sort stable: which of two equal neighbours comes first is not left to the last bit.
    similarity, index = torch.sort(_tied(batch.cross), dim=-1, descending=True, stable=True)
    k = min(k, batch.cross.shape[-1])
    weight = ((similarity[..., :k] - similarity[..., :1]) / TEMPERATURE).exp()
    votes = (weight[..., None] * batch.one_hot[index[..., :k]]).sum(dim=-2)
    return Answers(_tied((votes + 1 / batch.classes) / (weight.sum(dim=-1, keepdim=True) + 1)), _all(batch))


METHODS: dict[str, Callable[[EpisodeBatch, float], Answers]] = {
    "linear": linear,
    "prototypes": lambda batch, strength: prototypes(batch),
    "knn": lambda batch, strength: neighbours(batch),
}
"""By the name on the command line; each is given C too."""


def settings_of(method: str, strength: float) -> dict[str, object]:
    """What decides the answer of ``method``, as plain values: part of the key of its results."""
    own: dict[str, dict[str, object]] = {
        "linear": {"C": strength},
        "prototypes": {"temperature": TEMPERATURE},
        "knn": {"k": NEIGHBOURS, "temperature": TEMPERATURE, "prior_vote": 1},
    }
    return {"features": "divided by their length", **own[method]}


def solve(
    method: str,
    features: Tensor,
    support: NDArray[np.intp],
    query: NDArray[np.intp],
    strength: float = STRENGTH,
) -> Answers:
    """Answers of ``method`` to all queries of all episodes, fitted and scored in blocks of bounded memory.

    Args:
        features: [M, D] of ``normalised``.
        support: [E, C, n] rows of ``features``, of each class n.
        query: [E, C, q].
        strength: C of the linear probe.

    Returns:
        Scores [E, C·q, C].

    >>> features = normalised(torch.tensor([[1.0, 0], [0, 1], [1, 0.2], [0.1, 1]]))
    >>> answers = solve("prototypes", features, np.array([[[0], [1]]]), np.array([[[2], [3]]]))
    >>> answers.scores.argmax(dim=-1).tolist()
    [[0, 1]]
    """
    batch = _products(features, support, query)
    size = max(1, BLOCK_BYTES // (batch.own[0].nbytes + batch.cross[0].nbytes))
    blocks = [METHODS[method](batch[start : start + size], strength) for start in range(0, len(batch), size)]
    return Answers(torch.cat([each.scores for each in blocks]), torch.cat([each.converged for each in blocks]))


def _products(features: Tensor, support: NDArray[np.intp], query: NDArray[np.intp]) -> EpisodeBatch:
    """Inner products of all episodes, a few at a time: so many that their features stay in the processor's cache."""
    episodes, classes = support.shape[:2]
    images = torch.from_numpy(np.concatenate([each.reshape(episodes, -1) for each in (support, query)], axis=1))
    learnt, width = support[0].size, features.shape[1]
    size = max(1, CACHE_BYTES // (8 * images.shape[1] * width))
    blocks = []
    for start in range(0, episodes, size):
        block = images[start : start + size]
        drawn = features.index_select(0, block.reshape(-1)).reshape(*block.shape, width)
        blocks.append(drawn @ drawn[:, :learnt].mT)
    whole = torch.cat(blocks)
    return EpisodeBatch(whole[:, :learnt], whole[:, learnt:], classes)


def against_rest(margins: Tensor) -> Tensor:
    """Log odds of each class against all others by a softmax over ``margins`` [..., C]: its order is that of the
    probability, without the ties of a probability that has come to 0 or 1.

    >>> against_rest(torch.tensor([2.0, 0.0])).tolist()
    [2.0, -2.0]
    """
    own = torch.eye(margins.shape[-1], dtype=torch.bool)
    others = margins[..., None, :].masked_fill(own, -torch.inf)
    return margins - torch.logsumexp(others, dim=-1)


def softmax_margins(batch: EpisodeBatch, strength: float) -> tuple[Tensor, Tensor]:
    """Margins [E, Q, C] of softmax regression, and whether each episode converged [E].

    The weights lie in the span of the centred support, whose principal axes make the Hessian with equal example weights
    diagonal: that is the preconditioner of a Newton iteration by conjugate gradients, for all episodes at once.
    """
    axes, query = _principal(batch.own, batch.cross)
    weight, bias, converged = _newton(axes, batch.one_hot, strength)
    return query @ weight + bias, converged


def _principal(own: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of support [E, N, N] and queries [E, Q, N] on the principal axes of the centred support."""
    mean = own.mean(dim=2, keepdim=True)
    squared_length = own.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
    variance, axis = torch.linalg.eigh(own - mean - mean.mT + mean.mean(dim=1, keepdim=True))
    kept = variance > NEGLIGIBLE * squared_length
    length = torch.where(kept, variance, 1.0).sqrt()[:, None, :]
    axis = axis * kept[:, None, :]
    # Of the queries' own rows the mean need not be taken: every axis sums to zero.
    return axis * length, (cross - mean.mT) @ (axis / length)


def _newton(features: Tensor, one_hot: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [E, r, C] and intercepts [E, 1, C] of every episode, and whether each converged."""
    episodes, examples, rank = features.shape
    classes = one_hot.shape[1]
    inverse = _flat_inverse(features, strength / classes)
    solution = features.new_zeros(episodes, rank + 1, classes)
    # A last column of ones carries the intercept; the penalty leaves it out.
    design = torch.cat([features, features.new_ones(episodes, examples, 1)], dim=2)
    penalty = torch.ones_like(solution[:1])
    penalty[:, -1] = 0
    active = torch.arange(episodes)
    converged = torch.zeros(episodes, dtype=torch.bool)
    for _ in range(MAX_NEWTON_STEPS):
        probability = torch.softmax(design @ solution[active], dim=2)
        gradient = strength * (design.mT @ (probability - one_hot)) + penalty * solution[active]
        # The softmax does not see what is common to all classes; of it there is rounding alone.
        gradient = gradient - gradient.mean(dim=2, keepdim=True)
        near = _norm(inverse * gradient) <= TOLERANCE * _norm(solution[active]) + ROUNDING
        converged[active[near]] = True
        if bool(near.all()):
            break
        if bool(near.any()):
            keep = ~near
            active, design, inverse = active[keep], design[keep], inverse[keep]
            probability, gradient = probability[keep], gradient[keep]
        step = _conjugate(design, probability, gradient, inverse, penalty, strength)
        solution[active] = _shortened(solution[active], step, gradient, design, one_hot, penalty, strength)
    return solution[:, :-1], solution[:, -1:], converged


def _flat_inverse(features: Tensor, weight: float) -> Tensor:
    """Inverse of the Hessian where every example has the same ``weight``, [E, r + 1, 1]: diagonal on principal axes."""
    episodes, examples, _ = features.shape
    variance = features.square().sum(dim=1)
    count = features.new_full((episodes, 1), float(examples))
    return torch.cat([1 / (weight * variance + 1), 1 / (weight * count)], dim=1)[..., None]


def _conjugate(
    design: Tensor, probability: Tensor, gradient: Tensor, inverse: Tensor, penalty: Tensor, strength: float
) -> Tensor:
    """Newton's step for every episode to a relative residual of ``FORCING``, by conjugate gradients."""
    step = torch.zeros_like(gradient)
    remaining = -gradient
    direction = inverse * remaining
    product = (remaining * direction).sum(dim=(1, 2), keepdim=True)
    goal = FORCING**2 * product
    for _ in range(MAX_INNER_STEPS):
        moved = probability * (design @ direction)
        moved = moved - probability * moved.sum(dim=2, keepdim=True)
        curved = strength * (design.mT @ moved) + penalty * direction
        # An episode that is done goes on with steps of length 0.
        going = product > goal
        length = torch.where(going, product / (direction * curved).sum(dim=(1, 2), keepdim=True).clamp_min(1e-300), 0.0)
        step = step + length * direction
        remaining = remaining - length * curved
        toward = inverse * remaining
        following = (remaining * toward).sum(dim=(1, 2), keepdim=True)
        if not bool((following > goal).any()):
            break
        direction = torch.where(going, toward + following / product.clamp_min(1e-300) * direction, direction)
        product = torch.where(going, following, product)
    return step


def _shortened(
    solution: Tensor,
    step: Tensor,
    gradient: Tensor,
    design: Tensor,
    one_hot: Tensor,
    penalty: Tensor,
    strength: float,
) -> Tensor:
    """Where each step leads, halved until the objective falls enough (Armijo)."""

    def objective(point: Tensor) -> Tensor:
        margins = design @ point
        loss = torch.logsumexp(margins, dim=2).sum(dim=1) - (margins * one_hot).sum(dim=(1, 2))
        return strength * loss + (penalty * point.square()).sum(dim=(1, 2)) / 2

    start = objective(solution)
    slope = (gradient * step).sum(dim=(1, 2))
    length = torch.ones_like(slope)
    for _ in range(MAX_HALVINGS):
        ahead = solution + length[:, None, None] * step
        # Near the minimum the objective cannot fall by more than its own rounding.
        failed = objective(ahead) > start + SUFFICIENT_DECREASE * length * slope + 1e-13 * start.abs()
        if not bool(failed.any()):
            break
        length = torch.where(failed, length / 2, length)
    return ahead


def _norm(values: Tensor) -> Tensor:
    return values.square().sum(dim=(1, 2)).sqrt()


def _tied(values: Tensor) -> Tensor:
    """To nine decimals, so that equal features have equal scores (see ``_pooled.tied``)."""
    return values.round(decimals=TIED_DECIMALS)


def _all(batch: EpisodeBatch) -> Tensor:
    return torch.ones(len(batch), dtype=torch.bool)
