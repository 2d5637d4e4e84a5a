"""The linear probe of values: ridge regression with the penalty chosen on val."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor

from evalfm.errors import EvalfmError
from evalfm.heads._pooled import OnVal, Standardisation, at_edge, check_kind, finite_pooled, known_rows
from evalfm.heads.head import Context, Drawn, Examples, Fit, HeldExamples, PooledHead
from evalfm.heads.objectives import Objective, ValueObjective
from evalfm.heads.trained import TrainableAffineHead

PENALTIES: tuple[float, ...] = tuple(float(value) for value in np.logspace(-4, 6, 31))
TIE = 1e-9
"""Val errors within this share of the lowest count as equal: the larger penalty is taken."""


class RidgeHead(PooledHead, TrainableAffineHead):
    """Minimises Σ (y − w·x − b)² + α‖w‖² on standardised features, intercept unpenalised.

    α of 31 values by val mean squared error, ties to the larger α. Predictions are in the target's own unit.
    """

    name: ClassVar[str] = "ridge"
    summary: ClassVar[str] = "ridge regression on standardised pooled features, penalty chosen by val squared error"
    kinds: ClassVar[frozenset[str]] = frozenset({"regression"})
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    deterministic: ClassVar[bool] = True
    refits_cheaply: ClassVar[bool] = True

    def __init__(self, penalties: tuple[float, ...] = PENALTIES) -> None:
        self._penalties = tuple(sorted(penalties, reverse=True))
        self._on_val = OnVal(np.empty(0, dtype=np.intp), np.empty((0, 0)))
        self._weight = torch.empty(0)
        self._bias = torch.empty(0)

    @property
    def grid(self) -> dict[str, object]:
        """α of scikit-learn's convention and how the features are scaled."""
        return {"alpha": list(self._penalties), "standardise": "train", "refit": "no"}

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Learn on the train rows whose value is known.

        Raises:
            EvalfmError: the kind is not served, or train or val has too few known values.
        """
        check_kind(self, context)
        label = " / ".join(context.class_names) or "target"
        rows, val_rows = known_rows(train.target, "train", label), known_rows(val.target, "val", label)
        if len(rows) < 2:
            raise EvalfmError(f"Train has one known {label!r}; a regression needs two or more, so enlarge train.")
        features, target = finite_pooled(train, "train")[rows], train.target[rows]
        scaling = Standardisation.of(features)
        weights = ridge_path(scaling.apply(features), target - target.mean(), np.array(self._penalties))
        held_out = scaling.apply(finite_pooled(val, "val")[val_rows])
        errors = held_out @ weights.T + target.mean() - val.target[val_rows, None]
        losses = np.square(errors).mean(axis=0)
        best = int(np.flatnonzero(losses <= losses.min() * (1 + TIE))[0])
        self._on_val = OnVal(val_rows, np.square(errors).T)
        raw = scaling.raw(weights[best])
        self._weight = torch.from_numpy(raw)
        self._bias = torch.tensor(target.mean() - raw @ scaling.mean, dtype=torch.float64)
        path: tuple[dict[str, float | int | str], ...] = tuple(
            {"alpha": alpha, "val_mse": float(loss)} for alpha, loss in zip(self._penalties, losses, strict=True)
        )
        cautions = (*at_edge("alpha", self._penalties, best), *scaling.cautions)
        return Fit({"alpha": self._penalties[best]}, path, cautions=cautions)

    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """Values in the target's unit, [N, 1]."""
        features = finite_pooled(examples, "given").astype(np.float64)
        return np.asarray(features @ self._weight.numpy() + float(self._bias))[:, None]

    def refits(
        self, train: HeldExamples, val: HeldExamples, context: Context, drawn: Drawn, *, choose: bool
    ) -> Iterator[PooledHead]:
        """At the penalty that the drawn val chooses, by weights in place of repeated rows."""
        if choose:
            yield from super().refits(train, val, context, drawn, choose=True)
            return
        rows = np.flatnonzero(np.isfinite(train.target))
        features, target = finite_pooled(train, "train")[rows], train.target[rows]
        for times, of_val in zip(drawn.train[:, rows], drawn.val, strict=True):
            some, penalty = times > 0, self._penalties[self._on_val.best(of_val)]
            scaling = Standardisation.of(np.repeat(features, times, axis=0))
            mean, rooted = times[some] @ target[some] / times.sum(), np.sqrt(times[some])
            standardised = scaling.apply(features[some]) * rooted[:, None]
            weight = ridge_at(standardised, (target[some] - mean) * rooted, penalty)
            head = RidgeHead(self._penalties)
            raw = scaling.raw(weight)
            head._weight = torch.from_numpy(raw)
            head._bias = torch.tensor(mean - raw @ scaling.mean, dtype=torch.float64)
            yield head

    def tensors(self) -> dict[str, Tensor]:
        """``weight`` [D] and ``bias`` [] on the raw features, float64."""
        return {"weight": self._weight, "bias": self._bias}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back ``weight`` and ``bias``."""
        self._weight, self._bias = tensors["weight"], tensors["bias"]

    def affine(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """Weight and bias for the standardised target."""
        assert isinstance(objective, ValueObjective)
        return self._weight[None] / objective.scale, (self._bias[None] - objective.mean) / objective.scale

    def take_affine(self, weight: Tensor, bias: Tensor, objective: Objective) -> None:
        """Take weight and bias back into the target's unit."""
        assert isinstance(objective, ValueObjective)
        self._weight = weight[0] * objective.scale
        self._bias = bias[0] * objective.scale + objective.mean


def ridge_path(
    features: NDArray[np.float64], target: NDArray[np.float64], penalties: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights [k, d] of every penalty [k] for centred ``features`` [n, d] and ``target`` [n].

    The eigenvectors of the smaller of XᵀX and XXᵀ serve all penalties.

    >>> ridge_path(np.array([[-1.0], [1.0]]), np.array([-2.0, 2.0]), np.array([0.0, 2.0])).round(3).tolist()
    [[2.0], [1.0]]
    """
    n, d = features.shape
    wide = d > n
    eigenvalue, basis = np.linalg.eigh(features @ features.T if wide else features.T @ features)
    eigenvalue = np.maximum(eigenvalue, 0)
    rotated = basis.T @ (target if wide else features.T @ target)
    solved = (rotated / (eigenvalue + penalties[:, None])) @ basis.T
    weights: NDArray[np.float64] = solved @ features if wide else solved
    return weights


def ridge_at(features: NDArray[np.float64], target: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """Weights [d] at one ``penalty`` above 0, by Cholesky's factor of the smaller of XᵀX + α and XXᵀ + α.

    >>> ridge_at(np.array([[-1.0], [1.0]]), np.array([-2.0, 2.0]), 2.0).round(3).tolist()
    [1.0]
    """
    n, d = features.shape
    wide = d > n
    inner = features @ features.T if wide else features.T @ features
    inner[np.diag_indices_from(inner)] += penalty
    solved = linalg.solve(inner, target if wide else features.T @ target, assume_a="pos")
    return np.asarray(features.T @ solved if wide else solved)
