"""A moving average of the trained tensors, which val and test see in place of the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """Keeps ``decay`` of itself at every step and takes the rest from the model.

    The decay rises with the steps, min(decay, (1 + step) / (10 + step)), so that short trainings are not held at
    their start. Whole numbers (a batch norm's count) are copied. With decay 0 it is the model itself.
    """

    def __init__(self, tensors: dict[str, Tensor], decay: float) -> None:
        self._live, self._decay, self.steps = tensors, decay, 0
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model as it is after a step."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        for name, average in self.tensors.items():
            live = self._live[name].detach()
            if average.is_floating_point():
                average.lerp_(live, 1 - decay)
            else:
                average.copy_(live)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Put the average into the model while the block runs."""
        if not self.tensors:
            yield
            return
        kept = {name: self._live[name].detach().clone() for name in self.tensors}
        self._write(self.tensors)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._live[name].copy_(value)
