"""The processes that train one model together; usually one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from evalfm.encoders.encoder import Precision
from evalfm.errors import EvalfmError


class Distributed:
    """Device, precision and the other processes, through accelerate.

    Attributes:
        rank: which process this is; 0 writes files.
        size: how many there are.
        device: where this one computes.
    """

    def __init__(self, device: torch.device, precision: Precision, expected: int = 1) -> None:
        """Join the processes that torch elastic started, or be alone.

        Raises:
            EvalfmError: there are not as many processes as were asked for.
        """
        # A study trains one model after another; each may have another precision.
        AcceleratorState._reset_state()
        if device.type == "cuda" and device.index is not None and expected == 1:
            torch.cuda.set_device(device)
        self._accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="fp16" if precision == "float16" else "no",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.rank: int = self._accelerator.process_index
        self.size: int = self._accelerator.num_processes
        self.device: torch.device = self._accelerator.device
        if self.size != expected:
            raise EvalfmError(
                f"{expected} processes were asked for and {self.size} came up; name one device with --devices."
            )

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def prepare(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The model as every process trains it, and its optimiser."""
        prepared = self._accelerator.prepare(model, optimiser)
        return prepared[0], prepared[1]

    def scaler_state(self) -> dict[str, Any]:
        """Of the loss scaling of float16; empty where there is none."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else dict(scaler.state_dict())

    def load_scaler(self, state: dict[str, Any]) -> None:
        """Take back the loss scaling."""
        if self._accelerator.scaler is not None and state:
            self._accelerator.scaler.load_state_dict(state)

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``, scaled where the precision needs it."""
        self._accelerator.backward(loss)

    def clip(self, parameters: Sequence[nn.Parameter], norm: float) -> Tensor:
        """Clip the gradient to ``norm``; its norm before, 0-dimensional, on the device and not waited for."""
        before = self._accelerator.clip_grad_norm_(parameters, norm)
        return torch.zeros((), device=self.device) if before is None else torch.as_tensor(before, device=self.device)

    @property
    def step_was_skipped(self) -> bool:
        """Whether loss scaling found an overflow and left the step out."""
        return bool(self._accelerator.optimizer_step_was_skipped)

    @contextmanager
    def gathering(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Exchange gradients in the last micro-batch only."""
        if last or self.size == 1:
            yield
        else:
            with self._accelerator.no_sync(model):
                yield

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, differentiably: its gradient is the sum of all processes' gradients."""
        if self.size == 1:
            return tensor
        summed: Tensor = _Sum.apply(tensor)
        return summed

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()

    def share(self, positions: Sequence[int]) -> list[int]:
        """This process's part of a batch."""
        return list(positions[self.rank :: self.size])


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        summed = tensor.detach().clone()
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(summed)
        return summed
