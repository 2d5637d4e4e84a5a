"""Random weights drawn fast: each tensor once, from a stream of its own that is the same on every machine."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

SMALLEST = 1024
"""Smaller tensors are drawn by torch itself; they cost nothing."""

READS_NO_VALUE = frozenset(
    {"__get__", "size", "dim", "numel", "view", "requires_grad_", "untyped_storage", "data_ptr", "is_floating_point"}
)
"""Functions of a tensor that look at it without its values."""

OVERWRITES = frozenset({"copy_", "zero_", "fill_"})
"""Functions after which nothing of the tensor's values is left, such as the loading of a checkpoint."""


@dataclass(frozen=True)
class _Draw:
    """A distribution, and how many draws of the model came before: its stream.

    ``uniform`` lies between ``low`` and ``high``; ``normal`` has ``mean`` and ``deviation`` and is drawn again outside
    of ``low`` and ``high``.
    """

    number: int
    normal: bool
    low: float = -math.inf
    high: float = math.inf
    mean: float = 0.0
    deviation: float = 1.0


@contextmanager
def drawn_once(seed: int) -> Iterator[None]:
    """Within it, what libraries draw for the weights of a model comes from ``seed``, in their distributions.

    Libraries draw most weights twice: the layer draws its own, and the model's scheme draws over them. Here a tensor is
    drawn when its values are first looked at, or at the end, in threads; numpy's generators give the same numbers on
    every processor. Draws that are no uniform or normal filling of a whole tensor remain torch's.

    >>> with drawn_once(0):
    ...     first = torch.nn.Linear(64, 64).weight
    >>> with drawn_once(0):
    ...     second = torch.nn.Linear(64, 64).weight
    >>> torch.equal(first, second)
    True
    """
    mode = _Once(seed)
    truncated = mode.truncated_normal
    # Imported by whoever builds a model of it; nobody else shall wait for it.
    weight_init = sys.modules.get("timm.layers.weight_init")
    with (
        nullcontext() if weight_init is None else patch.object(weight_init, "_trunc_normal_", truncated),
        patch.object(torch.nn.init, "_no_grad_trunc_normal_", truncated),
        # torch's own schemes would take themselves for the whole draw, and hide what they fill a tensor with.
        patch.object(torch.overrides, "has_torch_function_variadic", lambda *tensors: False),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(seed)
        with mode:
            yield
        mode.finish()


class _Once(TorchFunctionMode):
    """Notes what fills a tensor, and fills it when that cannot wait."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._count = 0
        self._noted: dict[int, tuple[Tensor, _Draw]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name == "uniform_" and _is_whole(args[0], kwargs):
            low, high = _bounds(args, kwargs, ("from", "to"))
            return self._note(args[0], _Draw(self._count, normal=False, low=low, high=high))
        if name == "normal_" and _is_whole(args[0], kwargs):
            mean, deviation = _bounds(args, kwargs, ("mean", "std"))
            return self._note(args[0], _Draw(self._count, normal=True, mean=mean, deviation=deviation))
        if self._noted and name in OVERWRITES:
            self._noted.pop(args[0].untyped_storage().data_ptr() if _is_whole(args[0], {}) else 0, None)
        if self._noted and name not in READS_NO_VALUE:
            self._fill_those_of(args, kwargs)
        return function(*args, **kwargs)

    def truncated_normal(
        self, tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Any = None
    ) -> Tensor:
        """In place of the libraries' own: a normal draw that lies between ``a`` and ``b``."""
        with torch.no_grad():
            if tensor.is_meta:
                return tensor
            if not _is_whole(tensor, {"generator": generator}):
                # Small, or a part of a tensor.
                filled = torch.empty(max(tensor.numel(), SMALLEST))
                self._fill(filled, _Draw(self._next(), True, a, b, mean, std))
                return tensor.copy_(filled[: tensor.numel()].reshape(tensor.shape))
            return self._note(tensor, _Draw(self._count, True, a, b, mean, std))

    def finish(self) -> None:
        """Fill all that was noted."""
        noted = list(self._noted.values())
        self._noted.clear()
        with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
            list(pool.map(lambda pair: self._fill(*pair), noted))

    def _next(self) -> int:
        self._count += 1
        return self._count - 1

    def _note(self, tensor: Tensor, draw: _Draw) -> Tensor:
        self._count += 1
        self._noted[tensor.untyped_storage().data_ptr()] = (tensor.detach(), draw)
        return tensor

    def _fill_those_of(self, args: Any, kwargs: Any) -> None:
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor) and each.device.type == "cpu":
                noted = self._noted.pop(each.untyped_storage().data_ptr(), None)
                if noted is not None:
                    self._fill(*noted)

    def _fill(self, tensor: Tensor, draw: _Draw) -> None:
        generator = np.random.Generator(np.random.PCG64([self._seed, draw.number]))
        values = tensor.numpy()
        if not draw.normal:
            generator.random(dtype=np.float32, out=values)
            tensor.mul_(draw.high - draw.low).add_(draw.low)
            return
        generator.standard_normal(dtype=np.float32, out=values)
        low, high = ((bound - draw.mean) / draw.deviation for bound in (draw.low, draw.high))
        # No draw of so many lies beyond twelve deviations.
        while low > -12 or high < 12:
            outside = (values < low) | (values > high)
            count = int(outside.sum())
            if not count:
                break
            values[outside] = generator.standard_normal(count, dtype=np.float32)
        tensor.mul_(draw.deviation).add_(draw.mean)


def _is_whole(tensor: Tensor, kwargs: Any) -> bool:
    """Whether a tensor fills its memory, large, as float32 on the CPU, and is drawn from no generator of its own."""
    if kwargs.get("generator") is not None or tensor.device.type != "cpu" or tensor.dtype != torch.float32:
        return False
    whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
    return whole and tensor.is_contiguous() and tensor.numel() >= SMALLEST


def _bounds(args: Any, kwargs: Any, names: tuple[str, str]) -> tuple[float, float]:
    given = [*args[1:3], *(None,) * (3 - len(args))]
    first, second = (
        kwargs.get(name, default) if value is None else value
        for value, name, default in zip(given, names, (0.0, 1.0), strict=False)
    )
    return float(first), float(second)
