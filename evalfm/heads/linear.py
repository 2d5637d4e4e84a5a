"""The linear probes of labels: logistic and softmax regression with the penalty chosen on val."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.heads._logistic import Binomial, Likelihood, Multinomial, Path, solve_path
from evalfm.heads._pooled import (
    OnVal,
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
from evalfm.heads._reweighted import solve_reweighted
from evalfm.heads.head import Context, Drawn, Examples, Fit, HeldExamples, PooledHead
from evalfm.heads.objectives import Objective
from evalfm.heads.trained import TrainableAffineHead
from evalfm.tasks.kinds import kind_of

STRENGTHS: tuple[float, ...] = tuple(float(value) for value in np.logspace(-6, 2, 24))
LEAST_LOGIT = -20.0


@dataclass(frozen=True)
class _Path:
    """Every candidate of a fit on raw features: ``weight`` [C, J, D], ``bias`` [C, J], and what each loses on val."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    on_val: OnVal


class _LogisticHead(PooledHead, TrainableAffineHead):
    """What both linear probes share: the affine map and its storage."""

    name: ClassVar[str] = "linear"
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    deterministic: ClassVar[bool] = True
    refits_cheaply: ClassVar[bool] = True

    def __init__(self, strengths: tuple[float, ...] = STRENGTHS) -> None:
        self._strengths = tuple(sorted(strengths))
        self._weight = torch.empty(0)
        self._bias = torch.empty(0)
        self._paths: dict[int, _Path] = {}

    def _again(self, weight: Tensor, bias: Tensor) -> Self:
        """Another head of this kind, with weight [K, D] and bias [K]."""
        head = type(self)(self._strengths)
        head._weight, head._bias = weight, bias
        return head

    def _reweighted(
        self,
        features: NDArray[np.float32],
        likelihood: Likelihood,
        path: _Path,
        drawn: Drawn,
        context: Context,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights [R, J, D] and biases [R, J] on raw features, each at the C that the drawn val chooses.

        ``drawn`` is of the rows of ``features`` and of all of val.
        """
        scaling = Standardisation.of(features)
        scaled = torch.from_numpy(scaling.apply(features)).to(context.device)
        chosen = np.array([path.on_val.best(each) for each in drawn.val])
        weight = np.zeros((len(chosen), *path.weight.shape[1:]))
        bias = np.zeros((len(chosen), path.bias.shape[1]))
        for candidate in np.unique(chosen):
            mine = np.flatnonzero(chosen == candidate)
            raw, offset, strength = path.weight[candidate], path.bias[candidate], self._strengths[candidate]
            start = raw[:, scaling.kept] * scaling.scale[scaling.kept], offset + raw @ scaling.mean
            first, last = (torch.from_numpy(each).to(context.device) for each in start)
            times = drawn.train[mine].astype(np.float64)
            solved = solve_reweighted(scaled, scaling, likelihood, strength, times, (first, last))
            weight[mine], bias[mine] = solved.weight, solved.bias
            for number in mine[~solved.converged]:
                # From the start, as the head itself is fitted.
                rows = np.repeat(np.arange(len(features)), drawn.train[number])
                again = Standardisation.of(features[rows])
                whole = solve_path(
                    torch.from_numpy(again.apply(features[rows])).to(context.device),
                    replace(likelihood, target=likelihood.target[..., torch.from_numpy(rows).to(context.device)]),
                    torch.tensor([strength], dtype=torch.float64, device=context.device),
                )
                kept = self._keep(again, whole.weight[0], whole.bias[0])
                weight[number], bias[number] = (each.numpy() for each in kept)
        return weight, bias

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

    def _path(self, scaling: Standardisation, solved: Path, on_val: OnVal) -> _Path:
        """``solved`` on raw features."""
        weight = scaling.raw(solved.weight.cpu().numpy())
        return _Path(weight, solved.bias.cpu().numpy() - weight @ scaling.mean, on_val)

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
            self._paths[column] = self._path(scaling, solved, OnVal(val_rows, truth.losses(margins).cpu().numpy()))
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

    def refits(
        self, train: HeldExamples, val: HeldExamples, context: Context, drawn: Drawn, *, choose: bool
    ) -> Iterator[PooledHead]:
        """By weights in place of repeated rows, all at once; each label at the C that the drawn val chooses for it.

        A label with one class only among the drawn rows gets the same score for every image.
        """
        if choose:
            yield from super().refits(train, val, context, drawn, choose=True)
            return
        target, features = as_columns(train.target), finite_pooled(train, "train")
        weight = torch.zeros(len(drawn.train), len(self._bias), features.shape[1], dtype=torch.float64)
        bias = torch.zeros(len(drawn.train), len(self._bias), dtype=torch.float64)
        for column, label in enumerate(target.T):
            rows = np.flatnonzero(np.isfinite(label))
            times, positive = drawn.train[:, rows], drawn.train[:, rows] @ label[rows]
            able = (positive > 0) & (positive < times.sum(axis=1)) & (column in self._paths)
            bias[:, column] = torch.from_numpy(special.logit((positive + 1) / (times.sum(axis=1) + 2)))
            if able.any():
                likelihood = Binomial(torch.from_numpy(label[rows]).to(context.device))
                mine = Drawn(times[able], drawn.val[able])
                found = self._reweighted(at_rows(features, rows), likelihood, self._paths[column], mine, context)
                weight[able, column], bias[able, column] = (torch.from_numpy(each[:, 0]) for each in found)
        for each in zip(weight, bias, strict=True):
            yield self._again(*each)


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
        of_each = Multinomial(truth).losses(margins).numpy()
        self._paths = {0: self._path(scaling, solved, OnVal(val_rows[scorable], of_each))}
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

    def as_chosen(self, times: NDArray[np.intp]) -> SoftmaxHead:
        """At that C."""
        return SoftmaxHead((self._strengths[self._paths[0].on_val.best(times)],))

    def refits(
        self, train: HeldExamples, val: HeldExamples, context: Context, drawn: Drawn, *, choose: bool
    ) -> Iterator[PooledHead]:
        """By weights in place of repeated rows, all at once; draws that lack a class of train by repeated rows."""
        rows = np.flatnonzero(np.isfinite(train.target))
        target = train.target[rows].astype(np.intp)
        seen = np.unique(target)
        one_hot = (target == seen[:, None]).astype(np.float64)
        whole = np.all(drawn.train[:, rows] @ one_hot.T > 0, axis=1) & (not choose)
        weights, biases = np.empty((0, 0, 0)), np.empty((0, 0))
        if whole.any():
            likelihood = Multinomial(torch.from_numpy(one_hot).to(context.device))
            mine = Drawn(drawn.train[whole][:, rows], drawn.val[whole])
            features = at_rows(finite_pooled(train, "train"), rows)
            weights, biases = self._reweighted(features, likelihood, self._paths[0], mine, context)
        for number, by_weights in enumerate(whole):
            if not by_weights:
                alone = Drawn(drawn.train[[number]], drawn.val[[number]])
                yield from super().refits(train, val, context, alone, choose=choose)
                continue
            place = int(whole[:number].sum())
            weight, bias = torch.zeros_like(self._weight), torch.full_like(self._bias, -torch.inf)
            weight[seen], bias[seen] = torch.from_numpy(weights[place]), torch.from_numpy(biases[place])
            yield self._again(weight, bias)


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
