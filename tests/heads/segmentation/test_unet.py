from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from evalfm.errors import EvalfmError
from evalfm.heads.head import Context
from evalfm.heads.module import Layout
from evalfm.heads.segmentation.unet import UNetDecoder, UNetHead
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
