"""Films with small squares whose place is written, noisily, into the maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional


@pytest.fixture
def plant(array_source, make_examples) -> Callable[..., tuple]:
    def build(
        strides=(4, 8, 16),
        channels=12,
        size=64,
        count=48,
        train=32,
        prevalence=0.5,
        side=9,
        noise=0.6,
        seed=0,
        film=None,
    ):
        """(source, train, val): a square of ``side`` pixels on every 1/``prevalence``-th film."""
        draw = np.random.default_rng(seed)
        masks = np.zeros((count, 1, size, size), dtype=bool)
        for index in np.flatnonzero(np.arange(count) % max(1, round(1 / prevalence)) == 0):
            top, left = draw.integers(0, size - side, 2)
            masks[index, 0, top : top + side, left : left + side] = True
        generator = torch.Generator().manual_seed(seed)
        maps = []
        for level, stride in enumerate(strides):
            grid = size // stride
            signal = functional.adaptive_avg_pool2d(torch.from_numpy(masks).float(), grid)
            direction = torch.randn(channels + level, generator=generator)
            pattern = noise * torch.randn(count, channels + level, grid, grid, generator=generator)
            # Large unequal offsets and scales: a head that does not standardise cannot learn from these.
            scale = 10 ** torch.linspace(-2, 2, channels + level)
            maps.append(((pattern + 3 * signal * direction[:, None, None]) + 5) * scale[:, None, None])
        source = array_source(torch.zeros(count, 1), tuple(maps), tuple(strides), (size, size), film or (size, size))
        reader = lambda row: masks[row]  # noqa: E731
        order = list(range(count))
        return (
            source,
            make_examples(source, order[:train], masks=reader),
            make_examples(source, order[train:], masks=reader),
        )

    return build
