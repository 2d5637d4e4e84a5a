"""Training of a context on stored image features: the terms of the loss, the schedule and the loop.

Shapes: images v [B, D], learnt texts t [C, D] and sentences e [n, C, D] are of length 1; logits are [B, C]. s is the
tower's logit scale.
"""

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
        """Learning rate of an epoch, counted from 0; the cosine starts after the warm-up and ends short of 0.

        >>> [round(ContextSchedule(epochs=3, rate=0.002).rate_of(epoch), 5) for epoch in range(3)]
        [1e-05, 0.002, 0.0015]
        """
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


Line = dict[str, float | int | str]


@dataclass(frozen=True)
class ContextLoss:
    """Cross-entropy of softmax over ``scale`` · cosine to the prompted sentences, plus ``penalty``."""

    prompted: Prompted
    scale: float
    penalty: Penalty

    def texts(self, context: Tensor) -> Tensor:
        """Embeddings [C, D] of length 1 of the sentences with ``context`` [n, W]."""
        return functional.normalize(self.prompted.encode(context), dim=-1)

    def of(self, context: Tensor, train: Labelled, positions: Tensor) -> Tensor:
        """The loss of a batch of ``train``."""
        texts = self.texts(context)
        logits = self.scale * train.images[positions] @ texts.T
        return functional.cross_entropy(logits, train.target[positions]) + self.penalty(texts, logits, positions)

    def log_loss(self, context: Tensor, images: Labelled) -> Tensor:
        """The cross-entropy alone, over all images."""
        return functional.cross_entropy(self.scale * images.images @ self.texts(context).T, images.target)


def learn_context(
    loss_of: ContextLoss,
    train: Labelled,
    val: Labelled,
    schedule: ContextSchedule,
    generator: torch.Generator,
    progress: Progress,
    label: str,
) -> tuple[Tensor, tuple[Line, ...]]:
    """The context [n, W] after the last epoch, and per epoch the mean train loss and the log-loss on val.

    The epoch is not chosen on val: the last one is kept, as its authors do.

    Args:
        loss_of: what is minimised, and where the context starts from.
        train, val: images and the row of texts that each belongs to.
        schedule: epochs, batches and rates.
        generator: of the batches' order.
        progress, label: where the epochs are shown, and under which words.

    Raises:
        EvalfmError: the loss is no longer finite.
    """
    context = loss_of.prompted.initial.clone().requires_grad_()
    optimiser = torch.optim.SGD(
        [context], schedule.rate, momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )
    curve: list[Line] = []
    for epoch in progress.track(range(schedule.epochs), label, schedule.epochs):
        optimiser.param_groups[0]["lr"] = schedule.rate_of(epoch)
        losses = []
        for positions in shuffled(len(train), schedule.batch_size, generator):
            positions = positions.to(context.device)
            loss = loss_of.of(context, train, positions)
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
            on_val = loss_of.log_loss(context, val)
        curve.append({"epoch": epoch + 1, "train_loss": mean, "val_log_loss": float(on_val)})
    return context.detach(), tuple(curve)


def shuffled(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions of one epoch in batches; an incomplete last one is left out unless it is the only one.

    >>> [len(batch) for batch in shuffled(5, 2, torch.Generator().manual_seed(0))]
    [2, 2]
    """
    batches = torch.split(torch.randperm(count, generator=generator), batch_size)
    yield from batches if len(batches) == 1 or len(batches[-1]) == batch_size else batches[:-1]


def squared_difference(texts: Tensor, centres: Tensor) -> Tensor:
    """Mean over classes and dimensions of (t − ē)², BiomedCoOp's SCCM before its weight (arXiv 2411.15232).

    Of vectors of length 1 it is (2 − 2 · mean cosine) / D.

    >>> round(float(squared_difference(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]]))), 3)
    0.4
    """
    return functional.mse_loss(texts, centres)


def absolute_difference(texts: Tensor, centres: Tensor) -> Tensor:
    """Mean over classes and dimensions of |t − e|, Biomed-DPT's before its weight (arXiv 2505.05189).

    >>> round(float(absolute_difference(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]]))), 3)
    0.6
    """
    return functional.l1_loss(texts, centres)


def distillation(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax teacher ‖ softmax student) over all logits [B, C], divided by B · C; 0 where they agree.

    >>> round(float(distillation(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]))), 3)
    0.164
    """
    divergence = functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="sum", log_target=True)
    return divergence / student.numel()


def best_logits(images: Tensor, sentences: Tensor, scale: float) -> Tensor:
    """Of each image and sentence number the largest logit over the classes, max over c of s · v · e_i,c: [B, n].

    >>> best_logits(torch.tensor([[1.0, 0.0]]), torch.eye(2)[None], scale=10.0).tolist()
    [[10.0]]
    """
    return scale * torch.einsum("bd,ncd->bnc", images, sentences).amax(-1)


def selected(scores: Tensor, tau: float) -> Tensor:
    """Which sentences [n] have a standard score of at most ``tau`` in absolute value (KDSP).

    ``scores`` [n] are batch means of ``best_logits``. The authors first subtract the median and divide by the median
    absolute deviation, and then standardise the result by its mean and standard deviation (n − 1); the second step
    undoes the first, so it is left out and a median absolute deviation of 0 does no harm. Equal scores, and a single
    one, are all kept.

    >>> selected(torch.tensor([1.0, 1.1, 1.2, 9.0]), tau=1.0).tolist()
    [True, True, True, False]
    """
    deviation = scores.std() if len(scores) > 1 else scores.new_zeros(())
    # Rounding alone is no spread.
    if float(deviation) <= 1e-6 * float(scores.abs().max()):
        return torch.ones_like(scores, dtype=torch.bool)
    return ((scores - scores.mean()) / deviation).abs() <= tau


def centre(sentences: Tensor) -> Tensor:
    """The mean over sentences [n, C, D] of each class, brought to length 1: [C, D].

    >>> centre(torch.tensor([[[3.0, 0.0]], [[-1.0, 0.0]]])).tolist()
    [[1.0, 0.0]]
    """
    return functional.normalize(sentences.mean(0), dim=-1)
