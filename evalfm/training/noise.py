"""Gaussian noise from a counter: the same for the same counter on every device, in every batch and process."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_FACTORS = 0xD2511F53, 0xCD9E8D57
_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Philox4x32-10: four random words of 32 bits for each counter of four and key of two, as int64 tensors.

    Whole-number arithmetic alone, so that every device gives the same bits.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.

    >>> zero = torch.zeros(1, dtype=torch.int64)
    >>> [hex(int(word)) for word in philox((zero, zero, zero, zero), (zero, zero))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    first, second, third, fourth = counter
    low, high = key
    for _ in range(_ROUNDS):
        # The product wraps around in 64 bits with a sign; the mask takes the upper half as it is.
        one, other = first * _FACTORS[0], third * _FACTORS[1]
        first, second, third, fourth = (
            ((other >> 32) & _MASK) ^ second ^ low,
            other & _MASK,
            ((one >> 32) & _MASK) ^ fourth ^ high,
            one & _MASK,
        )
        low, high = (low + _STEPS[0]) & _MASK, (high + _STEPS[1]) & _MASK
    return first, second, third, fourth


def gaussian_noise(shape: tuple[int, ...], seed: int, epoch: int, rows: Tensor) -> Tensor:
    """Standard normal float32 [B, *shape], decided by ``seed``, ``epoch`` and each of ``rows`` (int64 [B]) alone.

    The bits are those of :func:`philox`; their normal values (Box and Muller 1958) may differ between devices in the
    last place.

    >>> alone = gaussian_noise((1, 2, 3), 0, 1, torch.tensor([7]))
    >>> bool(torch.equal(alone[0], gaussian_noise((1, 2, 3), 0, 1, torch.tensor([3, 7]))[1]))
    True
    """
    count = math.prod(shape)
    index = torch.arange(-(-count // 4), dtype=torch.int64, device=rows.device)[None, :]
    row = rows[:, None]
    key = torch.full_like(row, seed & _MASK), torch.full_like(row, epoch & _MASK)
    words = philox((index + torch.zeros_like(row), row >> 32, row & _MASK, torch.full_like(row, seed >> 32)), key)
    normal = []
    for size, turn in (words[:2], words[2:]):
        # 23 bits and a half are exact in float32, and never 0.
        length = ((size >> 9).float() + 0.5).mul_(2**-23).log_().mul_(-2).sqrt_()
        angle = ((turn >> 9).float() + 0.5).mul_(2 * math.pi * 2**-23)
        normal += [length * angle.cos(), length * angle.sin()]
    return torch.stack(normal, dim=-1).flatten(1)[:, :count].reshape(len(rows), *shape)
