"""A moving average of the trained tensors, which validation and test see in place of the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """Keeps ``decay`` of itself at every step and takes the rest from the model.

    The decay rises with the steps, min(decay, (1 + step) / (10 + step)), so that short trainings are not held at
    their start. Whole numbers (a batch norm's count) are copied. With decay 0 it is the model itself.

    Attributes:
        tensors: the average by name; empty with decay 0.
        steps: how many steps it has taken in.

    >>> weight = torch.zeros(1)
    >>> average = MovingAverage({"weight": weight}, decay=0.9)
    >>> _ = weight.fill_(11)
    >>> average.update()
    >>> average.tensors["weight"]
    tensor([9.])
    """

    def __init__(self, tensors: dict[str, Tensor], decay: float) -> None:
        self._live, self._decay, self.steps = tensors, decay, 0
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()} if decay else {}
        self._fractions = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        self._counts = [name for name, tensor in self.tensors.items() if not tensor.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model as it is after a step, all tensors in a few kernels and without waiting for them."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        if self._fractions:
            get_ema_multi_avg_fn(decay)(
                [self.tensors[name] for name in self._fractions],
                [self._live[name].detach() for name in self._fractions],
                self.steps,
            )
        for name in self._counts:
            self.tensors[name].copy_(self._live[name])

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Put the average into the model while the block runs: the two change places, and nothing is copied."""
        names = list(self.tensors)
        self._exchange(names)
        try:
            yield
        finally:
            # Backwards, for two names may be one tensor.
            self._exchange(names[::-1])

    def _exchange(self, names: list[str]) -> None:
        for name in names:
            live, average = self._live[name], self.tensors[name]
            live.data, average.data = average.data, live.data
