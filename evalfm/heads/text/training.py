"""Training of a context on stored image features: gradients reach the context alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from evalfm.encoders.text import Prompted
from evalfm.errors import EvalfmError
from evalfm.progress import Progress


@dataclass(frozen=True)
class ContextSchedule:
    """How a context is trained: SGD, the rate falling as half a cosine after a constant start.

    Attributes:
        epochs: passes over train; the context of the last one is kept.
        batch_size: images a step; what is left over at an epoch's end waits for the next shuffle.
        rate: learning rate of the first epoch after the start.
        momentum, weight_decay: SGD's.
        warm_up_epochs: so many epochs go at ``warm_up_rate``.
    """

    epochs: int
    rate: float
    batch_size: int = 4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up_epochs: int = 1
    warm_up_rate: float = 1e-5

    def rate_of(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0; the cosine starts after the warm-up and ends short of 0."""
        if epoch < self.warm_up_epochs:
            return self.warm_up_rate
        return self.rate * (1 + math.cos(math.pi * (epoch - self.warm_up_epochs) / self.epochs)) / 2


@dataclass(frozen=True)
class Labelled:
    """Images of length 1, float32 [N, D], and which row of the texts each belongs to, [N]."""

    images: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Labelled:
        """The same on a device."""
        return Labelled(self.images.to(device), self.target.to(device))


class Penalty(Protocol):
    """What is added to the cross-entropy of a batch."""

    def __call__(self, texts: Tensor, logits: Tensor, positions: Tensor) -> Tensor:
        """From ``texts`` [C, D] of length 1, ``logits`` [B, C] and the batch's ``positions`` in train [B], a number."""
        ...


Line = dict[str, float | int | str]


def learn_context(
    prompted: Prompted,
    train: Labelled,
    val: Labelled,
    scale: float,
    penalty: Penalty,
    schedule: ContextSchedule,
    generator: torch.Generator,
    progress: Progress,
    label: str,
) -> tuple[Tensor, tuple[Line, ...]]:
    """The context [n, W] after the last epoch, and per epoch the mean train loss and val's log-loss.

    Cross-entropy of softmax over ``scale`` · cosine, plus ``penalty``. Val is looked at and decides nothing.

    Raises:
        EvalfmError: the loss is no longer finite.
    """
    context = prompted.initial.clone().requires_grad_()
    optimiser = torch.optim.SGD(
        [context], schedule.rate, momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )
    curve: list[Line] = []
    for epoch in progress.track(range(schedule.epochs), label, schedule.epochs):
        optimiser.param_groups[0]["lr"] = schedule.rate_of(epoch)
        losses = []
        for positions in shuffled(len(train), schedule.batch_size, generator):
            positions = positions.to(context.device)
            texts = functional.normalize(prompted.encode(context), dim=-1)
            logits = scale * train.images[positions] @ texts.T
            loss = functional.cross_entropy(logits, train.target[positions]) + penalty(texts, logits, positions)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise EvalfmError(
                f"The loss of {label} is not finite in epoch {epoch + 1}; check the weights of the text tower."
            )
        with torch.no_grad():
            texts = functional.normalize(prompted.encode(context), dim=-1)
            on_val = functional.cross_entropy(scale * val.images @ texts.T, val.target)
        curve.append({"epoch": epoch + 1, "train_loss": mean, "val_log_loss": float(on_val)})
    return context.detach(), tuple(curve)


def shuffled(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions of one epoch in batches; an incomplete last one is left out unless it is the only one."""
    batches = torch.split(torch.randperm(count, generator=generator), batch_size)
    yield from batches if len(batches) == 1 or len(batches[-1]) == batch_size else batches[:-1]
