"""Nearest neighbours and nearest class means, by cosine."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evalfm.cautions import Caution
from evalfm.heads._pooled import OnVal, check_kind, check_two_classes, finite_pooled, known_rows, tied
from evalfm.heads.head import Context, Examples, Fit, PooledHead
from evalfm.tasks.kinds import kind_of

NEIGHBOURS: tuple[int, ...] = (1, 3, 5, 9, 15, 25, 50, 100, 200)
TEMPERATURE = 0.07
CHUNK = 1024


class NeighbourHead(PooledHead):
    """Votes of the k most similar train images, each weighted exp((cosine − highest cosine) / .07).

    Pooled features are divided by their length and not standardised; the temperature is DINO's (Caron et
    al. 2021). One further vote of weight 1 goes to the train frequencies, so no probability is 0 or 1. k is
    chosen by val log-loss, ties to the smaller k; a k above the number of train images is left out.
    """

    name: ClassVar[str] = "knn"
    summary: ClassVar[str] = "cosine nearest neighbours with similarity-weighted votes, k chosen by val log-loss"
    kinds: ClassVar[frozenset[str]] = frozenset({"binary", "multiclass", "ordinal"})
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    deterministic: ClassVar[bool] = True
    refits_cheaply: ClassVar[bool] = True

    def __init__(self, neighbours: tuple[int, ...] = NEIGHBOURS) -> None:
        self._neighbours = tuple(sorted(neighbours))
        self._bank = torch.empty(0, 0)
        self._votes = torch.empty(0, 0)
        self._chosen = 0
        self._first = 0
        self._sizes: list[int] = []
        self._on_val = OnVal(np.empty(0, dtype=np.intp), np.empty((0, 0)))

    @property
    def grid(self) -> dict[str, object]:
        """Numbers of neighbours, the temperature and the metric."""
        return {"k": list(self._neighbours), "temperature": TEMPERATURE, "metric": "cosine", "prior_vote": 1}

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Keep the train features, choose k on val.

        Raises:
            EvalfmError: the kind is not served, or train or val holds one class only.
        """
        check_kind(self, context)
        label = " / ".join(context.class_names)
        rows, val_rows = known_rows(train.target, "train", label), known_rows(val.target, "val", label)
        check_two_classes(train.target[rows], "train", label)
        check_two_classes(val.target[val_rows], "val", label)
        # Of a label the score is that of its presence.
        self._first = int(not kind_of(context.kind).exclusive)
        classes = 2 if self._first else len(context.class_names)
        self._bank = functional.normalize(torch.from_numpy(finite_pooled(train, "train")[rows]), dim=1)
        self._votes = functional.one_hot(torch.from_numpy(train.target[rows]).long(), classes).float()
        sizes = [k for k in self._neighbours if k <= len(rows)] or [len(rows)]
        probability = self._vote(torch.from_numpy(finite_pooled(val, "val")[val_rows]), sizes)
        truth = torch.from_numpy(val.target[val_rows]).long()
        of_truth = probability[:, torch.arange(len(truth)), truth].clamp_min(1e-12)
        losses = -of_truth.log().mean(dim=1).numpy()
        self._sizes, self._on_val = sizes, OnVal(val_rows, -of_truth.log().double().numpy())
        best = int(np.argmin(losses))
        self._chosen = sizes[best]
        path: tuple[dict[str, float | int | str], ...] = tuple(
            {"k": k, "val_log_loss": float(loss)} for k, loss in zip(sizes, losses, strict=True)
        )
        cautions: tuple[Caution, ...] = ()
        if len(sizes) > 1 and best == len(sizes) - 1:
            cautions = (Caution("grid-edge", f"The best k, {self._chosen}, is the largest that was tried."),)
        return Fit({"k": self._chosen}, path, cautions=cautions)

    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """Share of the votes per class, [N, K]; binary: of the positive class, [N, 1]."""
        probability = self._vote(torch.from_numpy(finite_pooled(examples, "given")), [self._chosen])[0].double()
        probability = probability / probability.sum(dim=1, keepdim=True)
        return tied(probability[:, self._first :].numpy())

    def refit_cost(self, train: int, others: int, dimensions: int) -> int:
        """A cosine of each with each."""
        return train * others * dimensions

    def as_chosen(self, times: NDArray[np.intp]) -> NeighbourHead:
        """With that number of neighbours; a repeated image is as many neighbours as it is there times."""
        return NeighbourHead((self._sizes[self._on_val.best(times)],))

    def tensors(self) -> dict[str, Tensor]:
        """``bank`` [N, D] unit features, ``votes`` [N, classes], ``k``, ``first`` class that is scored."""
        numbers = {"k": torch.tensor(self._chosen), "first": torch.tensor(self._first)}
        return {"bank": self._bank, "votes": self._votes, **numbers}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``tensors`` gave."""
        self._bank, self._votes = tensors["bank"], tensors["votes"]
        self._chosen, self._first = int(tensors["k"]), int(tensors["first"])

    def _vote(self, features: Tensor, sizes: list[int]) -> Tensor:
        """Probabilities for each number of neighbours, [len(sizes), N, classes]."""
        prior = self._votes.mean(dim=0)
        parts = []
        for start in range(0, len(features), CHUNK):
            query = functional.normalize(features[start : start + CHUNK], dim=1)
            similarity, index = torch.sort(query @ self._bank.T, dim=1, descending=True, stable=True)
            similarity, index = similarity[:, : max(sizes)], index[:, : max(sizes)]
            weight = ((similarity - similarity[:, :1]) / TEMPERATURE).exp()
            summed = (weight[..., None] * self._votes[index]).cumsum(dim=1)
            total = weight.cumsum(dim=1)
            last = torch.tensor(sizes) - 1
            parts.append((summed[:, last] + prior) / (total[:, last, None] + 1))
        return torch.cat(parts).transpose(0, 1)


class PrototypeHead(PooledHead):
    """Cosine to the mean of each class's train features, softmax at the temperature of ``knn``.

    Pooled features are divided by their length (Snell et al. 2017, by cosine). Nothing is chosen on val.
    """

    name: ClassVar[str] = "prototypes"
    summary: ClassVar[str] = "cosine to the mean of each class, nothing chosen"
    kinds: ClassVar[frozenset[str]] = frozenset({"binary", "multiclass", "ordinal"})
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    deterministic: ClassVar[bool] = True
    refits_cheaply: ClassVar[bool] = True

    def __init__(self) -> None:
        self._means = torch.empty(0, 0)
        self._first = 0

    @property
    def grid(self) -> dict[str, object]:
        """The temperature and the metric."""
        return {"temperature": TEMPERATURE, "metric": "cosine"}

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Keep the mean of each class of train.

        Raises:
            EvalfmError: the kind is not served, or train holds one class only.
        """
        check_kind(self, context)
        label = " / ".join(context.class_names)
        rows = known_rows(train.target, "train", label)
        check_two_classes(train.target[rows], "train", label)
        # Of a label the score is that of its presence.
        self._first = int(not kind_of(context.kind).exclusive)
        classes = 2 if self._first else len(context.class_names)
        features = functional.normalize(torch.from_numpy(finite_pooled(train, "train")[rows]).double(), dim=1)
        members = functional.one_hot(torch.from_numpy(train.target[rows]).long(), classes).double()
        self._means = functional.normalize(members.T @ features, dim=1)
        absent = [name for name, count in zip(context.class_names, members.sum(dim=0), strict=False) if not count]
        words = f"No train image shows {', '.join(absent)}: the cosine to it is 0."
        return Fit({}, cautions=(Caution("unseen-class", words),) if absent and not self._first else ())

    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """Probability per class, [N, K]; binary: of the positive class, [N, 1]."""
        features = functional.normalize(torch.from_numpy(finite_pooled(examples, "given")).double(), dim=1)
        probability = torch.softmax(features @ self._means.T / TEMPERATURE, dim=1)
        return tied(probability[:, self._first :].numpy())

    def as_chosen(self, times: NDArray[np.intp]) -> PrototypeHead:
        """The same: nothing is chosen."""
        return PrototypeHead()

    def tensors(self) -> dict[str, Tensor]:
        """``means`` [classes, D] of length 1, float64, and the ``first`` class that is scored."""
        return {"means": self._means, "first": torch.tensor(self._first)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``tensors`` gave."""
        self._means, self._first = tensors["means"], int(tensors["first"])
