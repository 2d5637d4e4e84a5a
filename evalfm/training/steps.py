"""What the steps of an epoch gave, kept on the device and looked at now and then, so that no step waits for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

CHECK_STEPS = 50
"""So many steps are looked at together: one wait for the device."""


class NotFiniteError(Exception):
    """A loss or gradient of a step is not finite.

    Attributes:
        what: ``the loss`` or ``the gradient``.
        batch: the examples of the first such step.
    """

    def __init__(self, what: str, batch: Sequence[int]) -> None:
        super().__init__(f"{what} is not finite")
        self.what, self.batch = what, batch


@dataclass
class StepLog:
    """Losses and gradient norms of one epoch.

    Attributes:
        mean: of a loss [n] over the processes.
        losses: those that were looked at, in order.

    >>> log = StepLog()
    >>> log.add(torch.tensor(0.5), torch.tensor(1.0), [3, 4])
    >>> log.check()
    >>> log.losses
    [0.5]
    """

    mean: Callable[[Tensor], Tensor] = lambda losses: losses
    losses: list[float] = field(default_factory=list)
    _waiting: list[tuple[Tensor, Tensor | None, Sequence[int]]] = field(default_factory=list)

    def add(self, loss: Tensor, norm: Tensor | None, batch: Sequence[int]) -> None:
        """Note a step: its 0-dimensional loss and gradient norm (None: the step was left out), and its examples.

        Raises:
            NotFiniteError: as ``check``, after every ``CHECK_STEPS`` steps.
        """
        self._waiting.append((loss, norm, batch))
        if len(self._waiting) >= CHECK_STEPS:
            self.check()

    def check(self) -> None:
        """Look at all steps since the last look.

        Raises:
            NotFiniteError: a loss or gradient was not finite; nothing that the model became may be kept.
        """
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        losses = self.mean(torch.stack([loss for loss, _, _ in waiting]))
        norms = torch.stack([torch.zeros_like(loss) if norm is None else norm for loss, norm, _ in waiting])
        for (_, _, batch), loss, norm in zip(waiting, *torch.stack([losses, norms]).tolist(), strict=True):
            for what, value in (("the loss", loss), ("the gradient", norm)):
                if not math.isfinite(value):
                    raise NotFiniteError(what, batch)
            self.losses.append(loss)
