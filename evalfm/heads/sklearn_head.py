"""Any scikit-learn estimator as a head: its parameters chosen on val, kept as the arrays that make it again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.errors import EvalfmError
from evalfm.heads._pooled import (
    Standardisation,
    as_columns,
    at_edge,
    check_kind,
    check_two_classes,
    finite_pooled,
    known_rows,
    learnable,
    smallest_best,
    smoothed_share,
    tied,
)
from evalfm.heads.head import Context, Examples, Fit, PooledHead
from evalfm.heads.registry import HeadEntry
from evalfm.tasks.kinds import kind_of

KINDS = ("binary", "multiclass", "multilabel", "regression")
LEAST_PROBABILITY = 1e-12
CHECKED_ROWS = 256
"""Train images whose scores a run keeps, to hold a head that is made again against the one that was scored."""
AGREEMENT = 1e-6
UNLEARNT = -1
"""In place of a candidate, for a label with one class only: it has the same score for every image."""


class SklearnHead(PooledHead):
    """An estimator on pooled features standardised by train; its parameters chosen by val log-loss or squared error.

    A classifier serves binary, multiclass and multilabel tasks (one copy a label), a regressor regression. Ties go to
    the candidate that the grid names first. Every ``random_state`` is the seed of the run.

    A run keeps no pickle, which would run code: it keeps the train features and targets, the seed and the chosen
    candidate, from which ``load_tensors`` fits the estimator again, and some scores, which the copy must give too.

    Args:
        entry: the head as it is listed; ``kinds`` must fit the estimator.
        estimator: never fitted itself, only copies of it.
        grid: names of parameters and the values to try, ``{"shrinkage": [0.0, 0.1]}``; empty for none.

    Raises:
        EvalfmError: the estimator is no classifier with probabilities or no regressor, as ``entry.kinds`` need it.

    >>> from sklearn.linear_model import Ridge
    >>> entry = HeadEntry("my-ridge", ("regression",), ("pooled",), "ridge of scikit-learn", "mine:build")
    >>> SklearnHead(entry, Ridge(), {"alpha": [1, 10]}).grid["try"]
    {'alpha': [1, 10]}
    """

    def __init__(self, entry: HeadEntry, estimator: Any, grid: Mapping[str, Sequence[Any]] | None = None) -> None:
        self.name = entry.name  # type: ignore[misc]
        self.kinds = frozenset(entry.kinds)  # type: ignore[misc]
        self.needs = frozenset(entry.needs)  # type: ignore[misc]
        self._estimator, self._grid = estimator, {name: list(values) for name, values in (grid or {}).items()}
        self._candidates = [dict(zip(self._grid, each, strict=True)) for each in product(*self._grid.values())]
        self._classifies = is_classifier(estimator)
        self._check(type(estimator).__name__)
        settings = estimator.get_params()
        self._random = [name for name in settings if name.split("__")[-1] == "random_state"]
        self.deterministic = not self._random  # type: ignore[misc]
        self._kept: dict[str, Tensor] = {}
        self._models: list[tuple[Standardisation, Any] | None] = []

    def _check(self, called: str) -> None:
        if not self._classifies and not is_regressor(self._estimator):
            raise EvalfmError(f"{called} is neither a classifier nor a regressor of scikit-learn.")
        serves = {"binary", "multiclass", "multilabel"} if self._classifies else {"regression"}
        if not self.kinds <= serves:
            raise EvalfmError(f"{called} serves {', '.join(sorted(serves))}, not {', '.join(self.kinds - serves)}.")
        if self._classifies and not hasattr(self._estimator, "predict_proba"):
            raise EvalfmError(f"{called} gives no probabilities; wrap it in CalibratedClassifierCV.")
        if self.needs != {"pooled"}:
            raise EvalfmError(f"{called} reads pooled features, not {', '.join(sorted(self.needs))}.")
        unknown = set(self._grid) - set(self._estimator.get_params())
        if unknown or not self._candidates:
            raise EvalfmError(f"The grid names no value, or what {called} has not: {', '.join(sorted(unknown))}.")

    @property
    def grid(self) -> dict[str, object]:
        """The estimator, its settings and the candidates, and how the features are scaled."""
        settings = self._estimator.get_params()
        fixed = {name: _plain(settings[name]) for name in sorted(settings) if name not in (*self._random, *self._grid)}
        estimator = f"{type(self._estimator).__module__}.{type(self._estimator).__qualname__}"
        tried = {name: [_plain(value) for value in values] for name, values in self._grid.items()}
        return {"estimator": estimator, **fixed, "try": tried, "standardise": "train", "refit": "no"}

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Learn every candidate on the known train rows, keep the best on val.

        Raises:
            EvalfmError: the kind is not served, train or val has too little to learn, or the estimator fails.
        """
        check_kind(self, context)
        features, held_out = finite_pooled(train, "train"), finite_pooled(val, "val")
        target, truth = as_columns(train.target), as_columns(val.target)
        several = kind_of(context.kind).several_labels
        names = context.class_names if several else (" / ".join(context.class_names) or "target",)
        numbers = {"seed": context.seed, "kind": KINDS.index(context.kind), "classes": max(len(context.class_names), 1)}
        self._kept = {name: torch.tensor(number) for name, number in numbers.items()}
        self._kept |= {"features": torch.from_numpy(features), "target": torch.from_numpy(target)}
        self._models, chosen, cautions = [], [], list[Caution]()
        path: list[dict[str, float | int | str]] = []
        for column, label in enumerate(names):
            if several and not (learnable(target[:, column]) and learnable(truth[:, column])):
                self._models.append(None)
                chosen.append(UNLEARNT)
                continue
            rows, val_rows = known_rows(target[:, column], "train", label), known_rows(truth[:, column], "val", label)
            if self._classifies:
                # Val images of a class that train does not show choose nothing.
                val_rows = val_rows[np.isin(truth[val_rows, column], target[rows, column])]
                check_two_classes(target[rows, column], "train", label)
                check_two_classes(truth[val_rows, column], "val", label)
            tried = [self._learnt(features[rows], target[rows, column], each) for each in range(len(self._candidates))]
            losses = np.array([self._loss(*each[0], held_out[val_rows], truth[val_rows, column]) for each in tried])
            if not np.isfinite(losses).any():
                raise EvalfmError(f"No candidate of the head {self.name!r} gives finite scores; change its grid.")
            best = smallest_best(np.where(np.isfinite(losses), losses, np.inf))
            self._models.append(tried[best][0])
            chosen.append(best)
            lines = [{**self._shown(each), self._loss_name: float(loss)} for each, loss in enumerate(losses)]
            path += [{"label": label, **line} for line in lines] if several else lines
            cautions += self._cautions(label, best, target[rows, column], context, tried[best][0][0], tried[best][1])
        self._kept["chosen"] = torch.tensor(chosen)
        self._kept["scores"] = torch.from_numpy(self._scores(self._checked_features()))
        named = {
            (f"{name}[{label}]" if several else name): value
            for label, best in zip(names, chosen, strict=True)
            if best != UNLEARNT
            for name, value in self._shown(best).items()
        }
        return Fit(named, tuple(path), cautions=tuple(dict.fromkeys(cautions)))

    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """Probabilities [N, K] (binary: of the positive class, [N, 1]), or values [N, 1]."""
        return self._scores(finite_pooled(examples, "given"))

    def tensors(self) -> dict[str, Tensor]:
        """``features`` [N, D] and ``target`` [N, K] of train, ``chosen`` candidates [K], ``scores`` of some rows."""
        return self._kept

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Fit the chosen candidates again.

        Raises:
            EvalfmError: the copy does not give the scores that the run kept.
        """
        self._kept = tensors
        features, target = tensors["features"].numpy(), tensors["target"].numpy()
        self._models = []
        for column, candidate in enumerate(tensors["chosen"].tolist()):
            rows = np.flatnonzero(np.isfinite(target[:, column]))
            learnt = candidate != UNLEARNT
            self._models.append(self._learnt(features[rows], target[rows, column], candidate)[0] if learnt else None)
        if not np.allclose(self._scores(self._checked_features()), tensors["scores"].numpy(), atol=AGREEMENT, rtol=0):
            raise EvalfmError(
                f"The head {self.name!r} cannot be made again: fitted on the run's train features it gives other "
                "scores than the run's; install the versions of scikit-learn and of the plug-in that made the run."
            )

    @property
    def _loss_name(self) -> str:
        return "val_log_loss" if self._classifies else "val_mse"

    def _checked_features(self) -> NDArray[np.float32]:
        features: NDArray[np.float32] = self._kept["features"].numpy()
        return features[:: max(1, len(features) // CHECKED_ROWS)]

    def _learnt(
        self, features: NDArray[np.float32], target: NDArray[np.float64], candidate: int
    ) -> tuple[tuple[Standardisation, Any], bool]:
        """A copy of the estimator with the parameters of ``candidate``, and whether it converged."""
        scaling = Standardisation.of(features)
        random = dict.fromkeys(self._random, int(self._kept["seed"]) % 2**32)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ConvergenceWarning)
            try:
                model = clone(self._estimator).set_params(**{**random, **self._candidates[candidate]})
                model.fit(scaling.apply(features), target.astype(np.intp) if self._classifies else target)
            except (ValueError, TypeError, RuntimeError, np.linalg.LinAlgError) as error:
                shown = self._shown(candidate)
                raise EvalfmError(f"The head {self.name!r} cannot be fitted with {shown}: {error}") from error
        for each in said:
            if not issubclass(each.category, ConvergenceWarning):
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        return (scaling, model), not any(issubclass(each.category, ConvergenceWarning) for each in said)

    def _loss(
        self, scaling: Standardisation, model: Any, features: NDArray[np.float32], truth: NDArray[np.float64]
    ) -> float:
        scaled = scaling.apply(features)
        if not self._classifies:
            return float(np.square(np.ravel(model.predict(scaled)) - truth).mean())
        of_truth = model.predict_proba(scaled)[np.arange(len(truth)), np.searchsorted(model.classes_, truth)]
        return float(-np.log(np.maximum(of_truth, LEAST_PROBABILITY)).mean())

    def _scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        several = kind_of(KINDS[int(self._kept["kind"])]).exclusive
        scores = np.zeros((len(features), int(self._kept["classes"]) if several else len(self._models)))
        for column, learnt in enumerate(self._models):
            if learnt is None:
                scores[:, column] = smoothed_share(self._kept["target"][:, column].numpy())
                continue
            scaling, model = learnt
            scaled = scaling.apply(features)
            if not self._classifies:
                scores[:, column] = np.ravel(model.predict(scaled))
            elif several:
                scores[:, model.classes_] = model.predict_proba(scaled)
            else:
                scores[:, column] = model.predict_proba(scaled)[:, list(model.classes_).index(1)]
        return tied(scores)

    def _shown(self, candidate: int) -> dict[str, float | int | str]:
        plain = {name: _plain(value) for name, value in self._candidates[candidate].items()}
        return {name: value if isinstance(value, int | float | str) else str(value) for name, value in plain.items()}

    def _cautions(
        self,
        label: str,
        best: int,
        target: NDArray[np.float64],
        context: Context,
        scaling: Standardisation,
        converged: bool,
    ) -> list[Caution]:
        cautions = scaling.cautions
        name, values = next(iter(self._grid.items()), ("", []))
        if len(self._grid) == 1 and all(isinstance(each, int | float) for each in values):
            cautions += at_edge(f"{name} for {label!r}", values, best)
        if not converged:
            words = f"The solver of {self.name} stopped before its tolerance for {label!r}."
            cautions.append(Caution("solver-stopped", words))
        unseen = set(range(len(context.class_names))) - set(target.astype(int).tolist())
        if kind_of(context.kind).exclusive and unseen:
            lacking = ", ".join(context.class_names[each] for each in sorted(unseen))
            words = f"No train image shows {lacking}: its probability is 0 and val images of it choose nothing."
            cautions.append(Caution("unseen-class", words))
        return cautions


def _plain(value: Any) -> Any:
    """A parameter as a value that JSON holds and that is the same in every process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if hasattr(value, "get_params"):
        # Its own parameters stand beside it.
        value = type(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return (
        f"{value.__module__}.{value.__qualname__}" if callable(value) and hasattr(value, "__qualname__") else str(value)
    )
