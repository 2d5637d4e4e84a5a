"""The linear probes: logistic, softmax and ridge regression with the penalty chosen on val."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.errors import EvalfmError
from evalfm.heads._logistic import Binomial, Multinomial, solve_path
from evalfm.heads._pooled import (
    Standardisation,
    as_columns,
    at_edge,
    at_rows,
    check_kind,
    check_two_classes,
    finite_pooled,
    known_rows,
    learnable,
    smallest_best,
    smoothed_share,
    standardised,
    tied,
)
from evalfm.heads.head import Context, Examples, Fit, PooledHead
from evalfm.heads.objectives import Objective, ValueObjective
from evalfm.heads.trained import TrainableAffineHead
from evalfm.tasks.kinds import kind_of

STRENGTHS: tuple[float, ...] = tuple(float(value) for value in np.logspace(-6, 2, 24))
LEAST_LOGIT = -20.0


class _LogisticHead(PooledHead, TrainableAffineHead):
    """What both linear probes share: the affine map and its storage."""

    name: ClassVar[str] = "linear"
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    deterministic: ClassVar[bool] = True

    def __init__(self, strengths: tuple[float, ...] = STRENGTHS) -> None:
        self._strengths = tuple(sorted(strengths))
        self._weight = torch.empty(0)
        self._bias = torch.empty(0)

    @property
    def grid(self) -> dict[str, object]:
        """C of scikit-learn's convention and how the features are scaled."""
        return {"C": list(self._strengths), "standardise": "train", "class_weight": "none", "refit": "no"}

    def tensors(self) -> dict[str, Tensor]:
        """``weight`` [K, D] and ``bias`` [K] on the raw features, float64."""
        return {"weight": self._weight, "bias": self._bias}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back ``weight`` and ``bias``."""
        self._weight, self._bias = tensors["weight"], tensors["bias"]

    def affine(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """Weight and bias; a class without train images starts at a small probability, not at none."""
        return self._weight, self._bias.clamp_min(LEAST_LOGIT)

    def take_affine(self, weight: Tensor, bias: Tensor, objective: Objective) -> None:
        """Take weight and bias."""
        self._weight, self._bias = weight, bias

    def _margins(self, examples: Examples) -> NDArray[np.float64]:
        features = torch.from_numpy(finite_pooled(examples, "given")).double()
        return tied((features @ self._weight.T + self._bias).numpy())

    def _keep(self, scaling: Standardisation, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Fold the standardisation into weights [J, kept] and bias [J]: on raw features, [J, D] and [J]."""
        raw = torch.from_numpy(scaling.raw(weight.cpu().numpy()))
        return raw, bias.cpu() - raw @ torch.from_numpy(scaling.mean)


class LinearHead(_LogisticHead):
    """Logistic regression on standardised pooled features, one per label.

    Objective C·Σ log-loss + ½‖w‖², intercept unpenalised, no class weights; C of 24 values by val log-loss,
    ties to the smaller C. Unknown labels (NaN) are left out, label by label; of several labels one that has a single
    class in train or val gets the same score for every image, and a run gives it none.
    """

    summary: ClassVar[str] = "logistic regression on standardised pooled features, C chosen by val log-loss"
    kinds: ClassVar[frozenset[str]] = frozenset({"binary", "multilabel"})

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Learn each label on its known train rows.

        Raises:
            EvalfmError: the kind is not served, or a label has one class only in train or in val.
        """
        check_kind(self, context)
        train_target, val_target = as_columns(train.target), as_columns(val.target)
        names = context.class_names if kind_of(context.kind).several_labels else context.class_names[-1:] or ("target",)
        several = len(names) > 1
        read_train, read_val = partial(finite_pooled, train, "train"), partial(finite_pooled, val, "val")
        if several:
            # Of one label they are read when they are needed, and not kept beside what is made of them.
            read_train, read_val = partial(np.asarray, read_train()), partial(np.asarray, read_val())
        chosen: dict[str, float | int | str] = {}
        path: list[dict[str, float | int | str]] = []
        cautions: list[Caution] = []
        weights, biases = [], []
        for column, label in enumerate(names):
            if several and not (learnable(train_target[:, column]) and learnable(val_target[:, column])):
                share = smoothed_share(train_target[:, column])
                weights.append(torch.zeros(1, train.source.pooled_dim, dtype=torch.float64))
                biases.append(torch.tensor([special.logit(share)], dtype=torch.float64))
                continue
            rows = known_rows(train_target[:, column], "train", label)
            val_rows = known_rows(val_target[:, column], "val", label)
            check_two_classes(train_target[rows, column], "train", label)
            check_two_classes(val_target[val_rows, column], "val", label)
            scaling, features = standardised(read_train, rows)
            likelihood = Binomial(torch.from_numpy(train_target[rows, column]).to(context.device))
            solved = solve_path(
                torch.from_numpy(features).to(context.device),
                likelihood,
                torch.tensor(self._strengths, dtype=torch.float64, device=context.device),
            )
            held_out = torch.from_numpy(scaling.apply(at_rows(read_val(), val_rows))).to(context.device)
            margins = solved.weight @ held_out.T + solved.bias[..., None]
            truth = Binomial(torch.from_numpy(val_target[val_rows, column]).to(context.device))
            losses = (truth.loss(margins) / len(val_rows)).cpu().numpy()
            best = smallest_best(losses)
            key = f"C[{label}]" if several else "C"
            chosen[key] = self._strengths[best]
            path += _path_lines(self._strengths, losses, label if several else None)
            cautions += _cautions(self._strengths, best, label, scaling, solved.converged)
            weight, bias = self._keep(scaling, solved.weight[best], solved.bias[best])
            weights.append(weight)
            biases.append(bias)
        self._weight, self._bias = torch.cat(weights), torch.cat(biases)
        return Fit(chosen, tuple(path), cautions=tuple(cautions))

    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """Probability of each label, [N, K]; binary: K = 1."""
        return np.asarray(special.expit(self._margins(examples)))


class SoftmaxHead(_LogisticHead):
    """Softmax regression on standardised pooled features, every class with its own weights.

    Objective C·Σ log-loss + ½‖W‖², intercepts unpenalised, no class weights; C of 24 values by val log-loss,
    ties to the smaller C. A class without train images gets probability 0, with a note.
    """

    summary: ClassVar[str] = "softmax regression on standardised pooled features, C chosen by val log-loss"
    kinds: ClassVar[frozenset[str]] = frozenset({"multiclass"})

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Learn the classes that train holds.

        Raises:
            EvalfmError: the kind is not served, or train or val holds one class only.
        """
        check_kind(self, context)
        label = " / ".join(context.class_names)
        rows = known_rows(train.target, "train", label)
        val_rows = known_rows(val.target, "val", label)
        target = train.target[rows].astype(np.intp)
        val_target = val.target[val_rows].astype(np.intp)
        check_two_classes(train.target[rows], "train", label)
        scaling, features = standardised(partial(finite_pooled, train, "train"), rows)
        seen = np.unique(target)
        one_hot = torch.from_numpy((target == seen[:, None]).astype(np.float64)).to(context.device)
        solved = solve_path(
            torch.from_numpy(features).to(context.device),
            Multinomial(one_hot),
            torch.tensor(self._strengths, dtype=torch.float64, device=context.device),
        )
        held_out = torch.from_numpy(scaling.apply(at_rows(finite_pooled(val, "val"), val_rows))).to(context.device)
        scorable = np.isin(val_target, seen)
        check_two_classes(val.target[val_rows][scorable], "val", label)
        position = np.searchsorted(seen, val_target[scorable])
        margins = (solved.weight @ held_out[torch.from_numpy(scorable)].T + solved.bias[..., None]).cpu()
        truth = torch.from_numpy((position == np.arange(len(seen))[:, None]).astype(np.float64))
        losses = (Multinomial(truth).loss(margins) / len(position)).numpy()
        best = smallest_best(losses)
        cautions = _cautions(self._strengths, best, label, scaling, solved.converged)
        absent = [name for index, name in enumerate(context.class_names) if index not in seen]
        if absent:
            cautions.append(without_images(absent))
        weight, bias = self._keep(scaling, solved.weight[best], solved.bias[best])
        self._weight = torch.zeros(len(context.class_names), weight.shape[1], dtype=torch.float64)
        self._bias = torch.full((len(context.class_names),), -torch.inf, dtype=torch.float64)
        self._weight[seen], self._bias[seen] = weight, bias
        return Fit(
            {"C": self._strengths[best]},
            tuple(_path_lines(self._strengths, losses, None)),
            cautions=tuple(cautions),
        )

    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """Probability of each class, [N, K]; rows sum to 1."""
        return np.asarray(special.softmax(self._margins(examples), axis=1))


def _path_lines(
    strengths: tuple[float, ...], losses: NDArray[np.float64], label: str | None
) -> list[dict[str, float | int | str]]:
    lines: list[dict[str, float | int | str]] = [
        {"C": strength, "val_log_loss": float(loss)} for strength, loss in zip(strengths, losses, strict=True)
    ]
    return lines if label is None else [{"label": label, **line} for line in lines]


def without_images(classes: Sequence[str]) -> Caution:
    """What is said where train shows no image of ``classes``."""
    words = f"No train image shows {', '.join(classes)}: its probability is 0 and val images of it do not choose C."
    return Caution("unseen-class", words)


def _cautions(
    strengths: tuple[float, ...], best: int, label: str, scaling: Standardisation, converged: Tensor
) -> list[Caution]:
    cautions = [*at_edge(f"C for {label!r}", strengths, best), *scaling.cautions]
    if not bool(converged.all()):
        late = ", ".join(f"{strengths[index]:.3g}" for index in torch.nonzero(~converged)[:, 0].tolist())
        cautions.append(Caution("solver-stopped", f"The solver stopped before its tolerance at C = {late}."))
    return cautions


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

    def __init__(self, penalties: tuple[float, ...] = PENALTIES) -> None:
        self._penalties = tuple(sorted(penalties, reverse=True))
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
