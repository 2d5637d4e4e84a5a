from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from evalfm.errors import EvalfmError
from evalfm.heads.head import Context
from evalfm.heads.module import Layout
from evalfm.heads.segmentation.decoders import UNetDecoder, UNetHead, UPerNetDecoder, pyramid_levels
from evalfm.heads.trained import Schedule

CONTEXT = Context("segmentation", ("lesion",))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_answers_at_the_size_of_the_input_whatever_that_is(plant):
    assert UNetHead().answer_grid((511, 320)) == (511, 320)
    _, train, val = plant(strides=(2, 4, 8), size=32, side=8)
    head = UNetHead(Schedule(epochs=1, least_steps=2, batch_size=4), (1e-3,))
    head.fit(train, val, CONTEXT)
    assert head.tensors()["layout.grid"].tolist() == [32, 32]
    row, probability = next(head.predict(val))
    assert row == int(val.rows[0])
    assert probability.shape == (1, 32, 32)


@pytest.mark.parametrize("strides", [(16,) * 5, (8,), (4, 8, 8)])
def test_maps_of_one_stride_are_refused_with_the_remedy(plant, strides):
    _, train, val = plant(strides=strides, size=64)
    sentence = (
        r"needs maps of falling resolution and those of planted have strides .*; take the head upernet or multiscale"
    )
    with pytest.raises(EvalfmError, match=sentence):
        UNetHead().fit(train, val, CONTEXT)
    with pytest.raises(EvalfmError, match=sentence):
        UNetHead().layout(train.source, CONTEXT)


def by_hand(module, maps, grid):
    """The U-Net of the paper with nearest upsampling, block by block."""
    deep, *skips = maps[::-1]
    for index, block in enumerate(module.decoder.blocks):
        size = skips[index].shape[2:] if index < len(skips) else grid
        deep = functional.interpolate(deep, size, mode="nearest")
        if index < len(skips):
            deep = torch.cat([deep, skips[index]], dim=1)
        for convolution, norm in ((block.conv1[0], block.conv1[1]), (block.conv2[0], block.conv2[1])):
            deep = functional.conv2d(deep, convolution.weight, convolution.bias, padding=1)
            deep = functional.batch_norm(deep, norm.running_mean, norm.running_var, norm.weight, norm.bias)
            deep = functional.relu(deep)
    return functional.conv2d(deep, module.answer, module.bias, padding=1)


@pytest.mark.parametrize(
    ("strides", "size", "widths"),
    [
        ((2, 4, 8, 16, 32), 96, [256, 128, 64, 32, 16]),
        ((2, 4, 8, 16, 32), 73, [256, 128, 64, 32, 16]),
        ((4, 8, 16), 64, [128, 64, 16]),
        ((1, 2, 4), 20, [32, 16, 16]),
    ],
)
def test_every_map_goes_in_beside_the_block_of_its_size(strides, size, widths):
    channels = tuple(5 + index for index in range(len(strides)))
    layout = Layout(3, channels, strides, 2, (size, size))
    module = UNetDecoder(layout, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    maps = tuple(
        torch.randn(2, count, -(-size // stride), -(-size // stride), generator=generator)
        for count, stride in zip(channels, strides, strict=True)
    )
    module.train()(maps, torch.zeros(2, 3))
    module.eval()
    with torch.no_grad():
        answer = module(maps, torch.zeros(2, 3))
        assert answer.shape == (2, 2, size, size)
        assert torch.allclose(answer, by_hand(module, maps, (size, size)), atol=1e-4)
    assert [block.conv2[0].out_channels for block in module.decoder.blocks] == widths


def test_it_is_the_usual_unet_with_batch_norm():
    module = UNetDecoder(Layout(3, (4, 4), (2, 4), 1, (8, 8)), torch.Generator().manual_seed(0))
    assert sum(isinstance(each, nn.BatchNorm2d) for each in module.modules()) == 2 * 2
    assert not module.stackable


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
