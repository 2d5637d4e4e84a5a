"""The loss of trained heads, and the val score that chooses among them, per kind of task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evalfm.errors import EvalfmError
from evalfm.heads._pooled import check_two_classes
from evalfm.heads.head import Context, Examples
from evalfm.heads.module import Layout, log_odds
from evalfm.heads.segmentation.masks import PooledDice, pixel_loss, read_targets
from evalfm.progress import Progress
from evalfm.tasks.kinds import kind_of

Total = Callable[[Tensor], Tensor]
"""Adds up a tensor over all processes, differentiably."""


def here(tensor: Tensor) -> Tensor:
    """The total of a single process."""
    return tensor


class Tally(Protocol):
    """Gathers val logits batch by batch."""

    def add(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: logits [L, B, …] of every candidate, target [B, …]."""

    def merge(self, total: Total, device: torch.device) -> None:
        """Add up what all processes have counted, exchanged on ``device``."""

    def score(self) -> Tensor:
        """The val score of every candidate, [L]."""


class Objective(ABC):
    """Loss and val score of one kind of task.

    Attributes:
        score_name: what curves call the val score.
        higher_is_better: whether a greater val score is the better one.
    """

    score_name: ClassVar[str]
    higher_is_better: ClassVar[bool]

    @abstractmethod
    def read(self, examples: Examples, grid: tuple[int, int] | None, progress: Progress, label: str) -> Tensor:
        """The truth of all examples as one tensor [N, …]."""

    @abstractmethod
    def check(self, target: Tensor, split: str) -> None:
        """Refuse what nothing can be learnt from, or chosen on.

        Raises:
            EvalfmError: the truth of ``split`` is all one.
        """

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor, total: Total = here) -> Tensor:
        """Loss of every candidate [L] for logits [L, B, …] and target [B, …] as ``read`` gives it.

        ``total`` adds up over processes what a loss over the whole batch needs; the mean over processes of what
        comes back is then the loss of the whole batch.
        """

    @abstractmethod
    def tally(self, candidates: int) -> Tally:
        """A fresh tally for so many candidates."""

    @abstractmethod
    def start(self, target: Tensor, positive_share: float) -> Tensor:
        """The best constant answer [K] on train, from which a module starts; see ``HeadModule.init_bias``."""

    def positive(self, target: Tensor) -> Tensor | None:
        """Which examples [N] every batch must hold a share of; None where batches are drawn evenly."""
        return None

    def smooth(self, share: float) -> None:
        """Give ``share`` of each label's weight in the loss to all classes alike; val is scored without.

        Raises:
            EvalfmError: there is nothing to smooth.
        """
        if share:
            raise EvalfmError("Label smoothing is for labels and classes; leave label_smoothing out for this task.")

    def link(self, logits: Tensor) -> Tensor:
        """Answers to what ``predict`` gives."""
        return torch.sigmoid(logits)

    def tensors(self) -> dict[str, Tensor]:
        """What ``restored_objective`` needs to make the link again."""
        return {}

    def better(self, score: float) -> float:
        """``score`` such that greater is better."""
        return score if self.higher_is_better else -score


class MaskObjective(Objective):
    """Binary cross-entropy plus batch Dice; Dice of all val pixels together at its best threshold."""

    score_name: ClassVar[str] = "val_dice"
    higher_is_better: ClassVar[bool] = True

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def read(self, examples: Examples, grid: tuple[int, int] | None, progress: Progress, label: str) -> Tensor:
        """Area fractions, uint8 [N, K, *grid], 255 = full."""
        assert grid is not None
        return read_targets(examples, grid, progress, label)

    def check(self, target: Tensor, split: str) -> None:
        """Some image must show a lesion."""
        if not bool(target.any()):
            names = ", ".join(self._names)
            raise EvalfmError(f"No image of {split} shows {names} within the encoder's view; enlarge {split}.")

    def loss(self, logits: Tensor, target: Tensor, total: Total = here) -> Tensor:
        """See ``pixel_loss``."""
        return pixel_loss(logits, _as_fraction(target), total)

    def tally(self, candidates: int) -> Tally:
        """Pooled-pixel Dice."""
        return _MaskTally(PooledDice(candidates, len(self._names)))

    def start(self, target: Tensor, positive_share: float) -> Tensor:
        """Log odds of the foreground that batches will show."""
        positive = self.positive(target)
        share = max(positive_share, float(positive.float().mean()))
        fraction = target[positive].double().mean((0, 2, 3)) / 255 * share
        return log_odds(fraction.clamp(max=0.5))

    def positive(self, target: Tensor) -> Tensor:
        """Images with any lesion (``any`` of bytes gives bytes, whose ``~`` is not a negation)."""
        return (target.flatten(1) > 0).any(dim=1)


class _LogLossObjective(Objective):
    """Cross-entropy that may be smoothed; chosen by val log-loss."""

    score_name: ClassVar[str] = "val_log_loss"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._smoothing = 0.0

    def smooth(self, share: float) -> None:
        """Smooth labels in the loss."""
        self._smoothing = share


class LabelObjective(_LogLossObjective):
    """Mean binary cross-entropy over known labels, each label with the same weight; chosen by val log-loss."""

    def read(self, examples: Examples, grid: tuple[int, int] | None, progress: Progress, label: str) -> Tensor:
        """Labels [N, K], NaN where unknown."""
        target = torch.from_numpy(np.asarray(examples.target, dtype=np.float32))
        return target[:, None] if target.ndim == 1 else target

    def check(self, target: Tensor, split: str) -> None:
        """Some label must be known and have both classes."""
        known = [target[:, column][~target[:, column].isnan()] for column in range(len(self._names))]
        if not any(bool((values != values[:1]).any()) for values in known):
            check_two_classes(known[0].double().numpy(), split, " / ".join(self._names))

    def loss(self, logits: Tensor, target: Tensor, total: Total = here) -> Tensor:
        """A label that is unknown throughout the batch adds nothing."""
        known = ~target.isnan()
        wanted = torch.where(known, target, 0.0) * (1 - self._smoothing) + self._smoothing / 2
        each = functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits), reduction="none")
        # Over the whole batch, so that a process with few known labels weighs no more than another.
        counts = total(known.float().sum(0)).clamp_min(1.0) / total(torch.ones((), device=target.device))
        return ((each * known).sum(1) / counts).mean(-1)

    def tally(self, candidates: int) -> Tally:
        """Mean log-loss over labels."""
        return _MeanTally(_label_penalty)

    def start(self, target: Tensor, positive_share: float) -> Tensor:
        """Log odds of each label's share in train."""
        return log_odds(target.nanmean(0).nan_to_num(0.5))


class ClassObjective(_LogLossObjective):
    """Cross-entropy over classes; chosen by val log-loss."""

    def read(self, examples: Examples, grid: tuple[int, int] | None, progress: Progress, label: str) -> Tensor:
        """Class indices [N]."""
        return torch.from_numpy(np.asarray(examples.target)).long()

    def check(self, target: Tensor, split: str) -> None:
        """Two classes or more."""
        check_two_classes(target.double().numpy(), split, " / ".join(self._names))

    def loss(self, logits: Tensor, target: Tensor, total: Total = here) -> Tensor:
        """Mean cross-entropy."""
        candidates, images, classes = logits.shape
        each = functional.cross_entropy(
            logits.reshape(-1, classes), target.repeat(candidates), reduction="none", label_smoothing=self._smoothing
        )
        return each.reshape(candidates, images).mean(1)

    def tally(self, candidates: int) -> Tally:
        """Mean log-loss."""
        return _MeanTally(_class_penalty)

    def start(self, target: Tensor, positive_share: float) -> Tensor:
        """Log of each class's share in train, one image added to each."""
        counts = torch.bincount(target, minlength=len(self._names)).double() + 1
        return (counts / counts.sum()).log().float()

    def link(self, logits: Tensor) -> Tensor:
        """Probabilities over classes."""
        return torch.softmax(logits, dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """That classes exclude each other."""
        return {"link.exclusive": torch.ones((), dtype=torch.int64)}


class ValueObjective(Objective):
    """Squared error of the standardised target; chosen by val mean squared error in the target's own unit.

    Attributes:
        mean, scale: of the target over train.
    """

    score_name: ClassVar[str] = "val_mse"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, mean: float, scale: float) -> None:
        self.mean, self.scale = mean, scale

    @classmethod
    def of(cls, target: NDArray[np.float64]) -> ValueObjective:
        """Standardise by ``target`` [N] of train; a target that never moves is left unscaled."""
        scale = float(np.std(target))
        return cls(float(np.mean(target)), scale if scale > 0 else 1.0)

    def read(self, examples: Examples, grid: tuple[int, int] | None, progress: Progress, label: str) -> Tensor:
        """Standardised values [N, 1]."""
        standardised = (np.asarray(examples.target, dtype=np.float64) - self.mean) / self.scale
        return torch.from_numpy(standardised).float()[:, None]

    def check(self, target: Tensor, split: str) -> None:
        """Two values or more to learn from."""
        if split == "train" and len(target) < 2:
            raise EvalfmError("Train has one known value; a regression needs two or more, so enlarge train.")

    def loss(self, logits: Tensor, target: Tensor, total: Total = here) -> Tensor:
        """Mean squared error."""
        return (logits - target).square().mean((1, 2))

    def tally(self, candidates: int) -> Tally:
        """Mean squared error in the target's unit."""
        return _MeanTally(
            lambda logits, target: (
                ((logits - target) * self.scale).square(),
                torch.ones_like(target, dtype=torch.bool),
            )
        )

    def start(self, target: Tensor, positive_share: float) -> Tensor:
        """The mean."""
        return torch.zeros(1)

    def link(self, logits: Tensor) -> Tensor:
        """Values in the target's unit."""
        return logits.double() * self.scale + self.mean

    def tensors(self) -> dict[str, Tensor]:
        """Mean and scale of the target."""
        values = {"link.mean": self.mean, "link.scale": self.scale}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


OBJECTIVES: dict[str, Callable[[Examples, Context], Objective]] = {
    "labels": lambda train, context: LabelObjective(context.class_names),
    "classes": lambda train, context: ClassObjective(context.class_names),
    "values": lambda train, context: ValueObjective.of(train.target),
    "masks": lambda train, context: MaskObjective(context.class_names),
}
"""By what a head learns, see ``Kind.target``."""


def objective_of(train: Examples, context: Context) -> Objective:
    """The objective of the kind of task in ``context``."""
    return OBJECTIVES[kind_of(context.kind).target](train, context)


def restored_objective(tensors: dict[str, Tensor], layout: Layout) -> Objective:
    """The objective whose ``tensors`` these are; only its link is of use."""
    names = tuple(str(index) for index in range(layout.outputs))
    if layout.grid is not None:
        return MaskObjective(names)
    if "link.mean" in tensors:
        return ValueObjective(float(tensors["link.mean"]), float(tensors["link.scale"]))
    return ClassObjective(names) if "link.exclusive" in tensors else LabelObjective(names)


class _MaskTally:
    def __init__(self, dice: PooledDice) -> None:
        self._dice = dice

    def add(self, logits: Tensor, target: Tensor) -> None:
        self._dice.add(logits, _as_fraction(target))

    def merge(self, total: Total, device: torch.device) -> None:
        self._dice.merge(lambda counted: total(counted.to(device)).cpu())

    def score(self) -> Tensor:
        return self._dice.score()


class _MeanTally:
    """The mean over val images (and labels) of a penalty.

    ``penalty`` gives of a batch the penalties [L, B, K] and which of them count [B, K], in float64.
    """

    def __init__(self, penalty: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self._penalty = penalty
        self._sum = self._count = torch.zeros((), dtype=torch.float64)

    def add(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch, on its device where that knows float64: nothing waits for it."""
        if logits.device.type == "mps":
            logits, target = logits.cpu(), target.cpu()
        penalty, known = self._penalty(logits.double(), target)
        self._sum = (penalty * known).sum(1) + self._sum
        self._count = known.double().sum(0) + self._count

    def merge(self, total: Total, device: torch.device) -> None:
        """Add up what all processes have counted."""
        self._sum, self._count = (total(each.to(device)).cpu() for each in (self._sum, self._count))

    def score(self) -> Tensor:
        """The mean over labels of the mean over images, [L]."""
        return (self._sum / self._count).nanmean(-1).cpu()


def _label_penalty(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    known = ~target.isnan()
    wanted = torch.where(known, target, 0.0).double().expand_as(logits)
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none"), known


def _class_penalty(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    log = torch.log_softmax(logits, dim=-1)
    penalty = -log.gather(-1, target[None, :, None].expand(len(logits), -1, 1))
    return penalty, torch.ones(len(target), 1, dtype=torch.bool, device=target.device)


def _as_fraction(target: Tensor) -> Tensor:
    return target.to(torch.float32) / 255
