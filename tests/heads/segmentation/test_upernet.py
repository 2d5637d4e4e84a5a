from __future__ import annotations

import pytest
import torch
from torch import nn

from evalfm.heads.module import Layout
from evalfm.heads.segmentation.upernet import UPerNetDecoder, pyramid_levels


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        ((4, 8, 16), (0, 1, 2)),
        ((4, 8, 16, 32), (0, 1, 2, 3)),
        ((2, 4, 8, 16, 32), (None, 0, 1, 2, 3)),
        ((14,) * 5, (0, 0, 1, 2, 3)),
        ((16,) * 4, (0, 1, 2, 3)),
        ((16,) * 12, (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)),
        ((8, 8, 8), (0, 1, 2)),
        ((8,), (0,)),
        ((1, 2), (0, 1)),
    ],
)
def test_each_map_feeds_its_level(strides, expected):
    assert pyramid_levels(strides) == expected


def decoder(channels, strides, grid):
    return UPerNetDecoder(Layout(3, channels, strides, 1, grid), torch.Generator().manual_seed(0)).eval()


def pyramid_of(module, maps):
    seen = []
    hook = module.decoder.register_forward_pre_hook(lambda module, given: seen.append([*given[0][2:]]))
    with torch.no_grad():
        answer = module(maps, torch.zeros(len(maps[0]), 3))
    hook.remove()
    return seen[0], answer


def test_a_vit_at_an_odd_grid_becomes_a_pyramid_of_the_answers_grid():
    generator = torch.Generator().manual_seed(1)
    maps = tuple(torch.randn(1, 4, 37, 37, generator=generator) for _ in range(5))
    pyramid, answer = pyramid_of(decoder((4,) * 5, (14,) * 5, (128, 128)), maps)
    assert [tuple(level.shape[2:]) for level in pyramid] == [(128, 128), (64, 64), (32, 32), (16, 16)]
    assert answer.shape == (1, 1, 128, 128)


def test_an_even_field_stays_even_through_the_pyramid_and_two_maps_on_a_level_are_summed():
    module = decoder((2,) * 5, (14,) * 5, (45, 45))
    maps = tuple(torch.full((1, 2, 13, 13), 1.0 + index) for index in range(5))
    pyramid, _ = pyramid_of(module, maps)
    assert [level.shape[2] for level in pyramid] == [45, 23, 12, 6]
    weights = [module.projections[str(index)].weight for index in range(5)]
    values = [weight.sum(1) * (1.0 + index) for index, weight in enumerate(weights)]
    expected = [values[0] + values[1], values[2], values[3], values[4]]
    for level, value in zip(pyramid, expected, strict=True):
        assert torch.allclose(level, value[None, :, None, None].expand_as(level), atol=1e-5)


def test_hierarchical_maps_enter_at_their_own_grid():
    generator = torch.Generator().manual_seed(1)
    maps = tuple(torch.randn(2, 3, 64 // stride, 64 // stride, generator=generator) for stride in (2, 4, 8, 16))
    module = decoder((3,) * 4, (2, 4, 8, 16), (16, 16))
    pyramid, _ = pyramid_of(module, maps)
    assert [level.shape[2] for level in pyramid] == [16, 8, 4]
    assert sorted(module.projections) == ["1", "2", "3"]


def test_no_norm_depends_on_the_batch():
    module = decoder((3,) * 3, (4, 8, 16), (16, 16))
    assert not [each for each in module.modules() if isinstance(each, nn.BatchNorm2d | nn.InstanceNorm2d)]
    # 4 of pyramid pooling and its fusion, 2 laterals with their convolutions, and the last fusion.
    assert sum(isinstance(each, nn.GroupNorm) for each in module.modules()) == 4 + 1 + 2 * 2 + 1
    assert not dict(module.decoder.named_buffers())
