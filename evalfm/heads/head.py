"""A head: what learns on features. Here is what every head declares, is given, and gives back.

It gets rows of a feature source with their targets (``Examples``), learns on those of train, makes every choice on
those of val, and scores whole images (``PooledHead``) or every pixel (``DenseHead``). It never asks which encoder
made the features. A new one is a class in its own module of this folder, found by its ``summary`` without an import.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.encoders.text import TextTower
from evalfm.features.source import FeatureSource
from evalfm.progress import SILENT, Progress
from evalfm.tasks.prompts import PromptSet

PASSES = 50
"""Over the features, in a refit of a linear head."""
MaskReader = Callable[[int], NDArray[np.bool_]]
"""From a row of the manifest to its masks, bool [K, H, W], on the stored image's grid."""


@dataclass(frozen=True)
class Examples:
    """Rows of a feature source with their targets.

    Attributes:
        source: where the features come from.
        rows: positions in the manifest, [N].
        target: float64 labels, class indices or measurements, [N]; [N, K] for multilabel; [N, 0] for masks.
        patients: patient id of each row, [N].
        masks: reads the masks of a row for segmentation and for measurements on masks, else None.
        masked: whether each row has masks to read, [N]; None where all have, or none is needed.
    """

    source: FeatureSource
    rows: NDArray[np.intp]
    target: NDArray[np.float64]
    patients: NDArray[np.object_]
    masks: MaskReader | None = None
    masked: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def pooled(self) -> NDArray[np.float32]:
        """Pooled features of all rows, [N, D]."""
        pooled = self.source.features(self.rows.tolist()).pooled
        return np.asarray(pooled.numpy(), dtype=np.float32)


@dataclass(frozen=True)
class HeldExamples(Examples):
    """Examples whose pooled features, ``held`` [N, D], are in memory."""

    held: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, examples: Examples) -> HeldExamples:
        """``examples`` with their features read."""
        given = {name: getattr(examples, name) for name in Examples.__dataclass_fields__}
        return cls(**given, held=examples.pooled())

    def pooled(self) -> NDArray[np.float32]:
        """Pooled features of all rows, [N, D]."""
        assert self.held is not None
        return self.held

    def repeated(self, times: NDArray[np.intp]) -> HeldExamples:
        """Each row so often as ``times`` [N] says, in the same order."""
        rows = np.repeat(np.arange(len(self)), times)
        return replace(
            self,
            rows=self.rows[rows],
            target=self.target[rows],
            patients=self.patients[rows],
            masked=None if self.masked is None else self.masked[rows],
            held=self.pooled()[rows],
        )


@dataclass(frozen=True)
class Drawn:
    """How often each row of train [R, N] and of val [R, M] is drawn in each of R refits."""

    train: NDArray[np.intp]
    val: NDArray[np.intp]


@dataclass(frozen=True)
class Text:
    """What a head that reads text is given: sentences for the task's classes, and the tower that reads them."""

    prompts: PromptSet
    tower: TextTower


@dataclass(frozen=True)
class Context:
    """What a head may know beside its examples.

    Attributes:
        kind: the task's kind: ``binary``, ``multiclass``, ``multilabel``, ``ordinal``, ``segmentation`` or
            ``regression``.
        class_names: one name per score column or mask channel.
        seed: fixes initialisation and batch order; all randomness comes from it.
        device: where training happens.
        progress: where long work is shown.
        measure: how a regression's target is measured on masks: ``area-fraction``, ``lung-fraction``, ``ctr``; or None.
        findings: the masks that the measure needs, in the order in which ``Examples.masks`` gives them.
        text: sentences and text tower, for heads that need ``text``.
        data, task: names of the data set and the task, by which heads look up what their authors set for each.
    """

    kind: str
    class_names: tuple[str, ...]
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = SILENT
    measure: str | None = None
    findings: tuple[str, ...] = ()
    text: Text | None = None
    data: str = ""
    task: str = ""


@dataclass(frozen=True)
class Fit:
    """How a head was fitted: every choice made on val, and its notes.

    Attributes:
        chosen: the selected hyper-parameters, such as ``{"C": 0.01}``.
        path: one mapping per candidate of the grid with its val score.
        curve: one mapping per epoch for heads that train in epochs.
        cautions: cautions to print, such as a best C at the grid's edge.
    """

    chosen: dict[str, float | int | str]
    path: tuple[dict[str, float | int | str], ...] = ()
    curve: tuple[dict[str, float | int | str], ...] = ()
    cautions: tuple[Caution, ...] = ()


class Head(ABC):
    """Learns on features; every choice is made on val, nothing is refitted on train and val together.

    Attributes:
        name: the word on the command line.
        kinds: the task kinds it serves.
        needs: what it reads of the features, of ``pooled``, ``maps``, ``text``, ``group``.
        deterministic: True where the seed changes nothing.
        learns: False where train changes nothing but what val decides too, as in zero-shot.
        refits_cheaply: True where a fit takes seconds, so that a run holds refits on resampled training patients.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[str]]
    needs: ClassVar[frozenset[str]]
    deterministic: ClassVar[bool]
    learns: ClassVar[bool] = True
    refits_cheaply: ClassVar[bool] = False

    @property
    @abstractmethod
    def grid(self) -> dict[str, object]:
        """Every setting that changes the result, as plain values: part of the run key."""

    @abstractmethod
    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Learn on ``train``, choose on ``val``."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What was learnt, for head.safetensors."""

    @abstractmethod
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``tensors`` gave, so that ``predict`` works without a fit."""


class PooledHead(Head):
    """A head that scores an image by its features as a whole."""

    @abstractmethod
    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """Scores [N, K]: probabilities per class (binary: K = 1, of the positive class), or values (regression)."""

    def refit_cost(self, train: int, others: int, dimensions: int) -> int:
        """Multiplications of one refit on ``train`` images with the scores of ``others``, roughly."""
        return PASSES * train * dimensions

    def as_chosen(self, times: NDArray[np.intp]) -> PooledHead:
        """A fresh head of the same kind that has nothing left to choose.

        It is at the candidate, of those that this head has fitted, that val chooses with its rows counted ``times``.
        A head that ``refits_cheaply`` has this, or ``refits`` of its own.
        """
        raise NotImplementedError(f"{self.name} has no refits")

    def refits(
        self, train: HeldExamples, val: HeldExamples, context: Context, drawn: Drawn, *, choose: bool
    ) -> Iterator[PooledHead]:
        """Heads fitted as this one was, on ``train`` and ``val`` with each row repeated as ``drawn``, in turn.

        With ``choose`` every candidate is fitted again for the drawn val to choose among; else it chooses among those
        that this head has fitted, and that one alone is fitted again.
        """
        for of_train, of_val in zip(drawn.train, drawn.val, strict=True):
            head = type(self)() if choose else self.as_chosen(of_val)
            head.fit(train.repeated(of_train), val.repeated(of_val), context)
            yield head


class DenseHead(Head):
    """A head that gives a probability to every pixel of the stored image."""

    @abstractmethod
    def predict(self, examples: Examples) -> Iterator[tuple[int, Tensor]]:
        """For each row in order: the row and its probabilities, float32 [K, H, W] on the stored image's grid."""
