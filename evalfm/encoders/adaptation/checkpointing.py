"""Activation checkpointing: blocks are computed again on the way back instead of being remembered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from evalfm.encoders.blocks import blocks
from evalfm.encoders.encoder import Encoder


def activation_checkpointing(encoder: Encoder) -> bool:
    """Let every residual block forget what it computed inside, and compute it again for the gradient.

    Takes about a third more time for memory that grows with the number of blocks instead of with all their
    layers (Chen et al., Training deep nets with sublinear memory cost, 2016). Features and gradients stay as
    they are: random numbers are repeated, and batch-norm statistics are moved once only. One way for every
    library, since their own leave out intermediate maps or count batch-norm statistics twice.

    Returns:
        Whether there are blocks; otherwise nothing is changed. Calling it twice is as once.

    >>> from evalfm.encoders import load_encoder
    >>> activation_checkpointing(load_encoder("random:test_vit")), activation_checkpointing(load_encoder("pixels"))
    (True, False)
    """
    members = [block for _, block in blocks(encoder)]
    for block in members:
        if not hasattr(type(block), "_recomputes"):
            # A class, not a function bound to this block: a copy of the model must run its own weights.
            kind: Any = type(block)
            block.__class__ = _recomputing(kind)
    return bool(members)


@cache
def _recomputing(kind: type[Any]) -> type[Any]:
    """The same class of block, recomputed for the gradient."""

    def forward(self: Any, *inputs: Any, **keywords: Any) -> Any:
        if not torch.is_grad_enabled():
            return kind.forward(self, *inputs, **keywords)

        # DenseNet's blocks lengthen the list they hand on, before the way back reads it again.
        inputs = tuple(list(each) if isinstance(each, list) else each for each in inputs)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _statistics_held(self)

        return checkpoint(
            lambda *again, **also: kind.forward(self, *again, **also),
            *inputs,
            use_reentrant=False,
            context_fn=contexts,
            **keywords,
        )

    return type(kind.__name__, (kind,), {"forward": forward, "_recomputes": True, "__module__": kind.__module__})


@contextmanager
def _statistics_held(block: nn.Module) -> Iterator[None]:
    """Batch norm uses its batch as before, but moves no running statistics."""
    # Any: the attributes belong to batch norms, not to every module.
    moving: list[Any] = [
        each for each in block.modules() if getattr(each, "track_running_stats", False) and each.training
    ]
    held = [(each, each.momentum, each.num_batches_tracked) for each in moving]
    for each in moving:
        # Not track_running_stats: without it batch norm remembers other tensors than the first time.
        each.momentum = 0.0
        # A count of its own, to be thrown away: synchronised batch norm insists on one.
        each.num_batches_tracked = None if each.num_batches_tracked is None else each.num_batches_tracked.clone()
    try:
        yield
    finally:
        for each, momentum, count in held:
            each.momentum, each.num_batches_tracked = momentum, count
