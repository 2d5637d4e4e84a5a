"""Operations of a forward pass, counted on the model: a multiplication and an addition are two."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def operation_counter() -> FlopCounterMode:
    """A counter that knows attention on the CPU as it does on a GPU; torch's own leaves it out there."""
    attention: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    return FlopCounterMode(display=False, custom_mapping={} if attention is None else {attention: _attention})


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Of shapes [B, heads, tokens, D], which the counter gives in place of tensors."""
    count: Any = sdpa_flop_count
    return int(count(query, key, value))
