from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call, vmap

from evalfm.heads.head import Context
from evalfm.heads.module import Layout
from evalfm.heads.segmentation.light import GlobalLocalDecoder, GlobalLocalHead, MultiscaleDecoder, MultiscaleHead
from evalfm.heads.trained import Schedule
from evalfm.heads.training import fit_together

LAYOUT = Layout(7, (6, 9, 12), (4, 8, 16), 2, (16, 16))


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = tuple(
        torch.randn(3, count, 64 // stride, 64 // stride, generator=generator)
        for count, stride in zip(LAYOUT.channels, LAYOUT.strides, strict=True)
    )
    return maps, torch.randn(3, 7, generator=generator)


def decoder():
    return GlobalLocalDecoder(LAYOUT, torch.Generator().manual_seed(0))


def test_it_starts_as_the_multiscale_decoder():
    multiscale = MultiscaleDecoder(LAYOUT, torch.Generator().manual_seed(0))
    maps, pooled = features()
    with torch.no_grad():
        assert torch.equal(decoder()(maps, pooled), multiscale(maps, pooled))


def test_the_gate_moves_each_masks_logits_alike_everywhere():
    maps, pooled = features()
    gated = decoder()
    with torch.no_grad():
        before = gated(maps, pooled)
        gated.gate.weight[1, 3] = 2.0
        change = gated(maps, pooled) - before
    assert torch.equal(change[:, 0], torch.zeros_like(change[:, 0]))
    expected = (2 * pooled[:, 3] / 7**0.5)[:, None, None].expand_as(change[:, 1])
    assert torch.allclose(change[:, 1], expected, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_pooled_embedding_reaches_every_scale(level):
    maps, pooled = features()
    modulated = decoder()
    with torch.no_grad():
        modulated.films[level].weight[:32] = 0.7
        scaled = modulated(maps, pooled)
        # Radiograph 0's map by hand: every channel times 1 + .7 · Σ pooled / √7.
        factor = 1 + 0.7 * pooled.sum(1) / 7**0.5
        projected = list(modulated.local.project(maps))
        projected[level] = projected[level] * factor[:, None, None, None]
        assert torch.allclose(scaled, modulated.local.decode(tuple(projected)), atol=1e-4)
        modulated.films[level].weight.zero_()
        # Unequal over channels: a shift of all alike is normalised away.
        channel = torch.linspace(-2, 2, 32)
        modulated.films[level].weight[32:] = channel[:, None]
        projected = list(modulated.local.project(maps))
        shift = pooled.sum(1)[:, None] / 7**0.5 * channel
        projected[level] = projected[level] + shift[:, :, None, None]
        assert torch.allclose(modulated(maps, pooled), modulated.local.decode(tuple(projected)), atol=1e-4)


def test_copies_run_as_one():
    maps, pooled = features()
    modules = [decoder(), decoder()]
    with torch.no_grad():
        for index, module in enumerate(modules):
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    stacked = {
        name: torch.stack([dict(each.named_parameters())[name] for each in modules])
        for name, _ in modules[0].named_parameters()
    }
    buffers = dict(modules[0].named_buffers())
    with torch.no_grad():
        together = vmap(lambda each: functional_call(modules[0], (each, buffers), (maps, pooled)))(stacked)
        for module, answer in zip(modules, together, strict=True):
            assert torch.allclose(module(maps, pooled), answer, atol=1e-5)


def test_it_uses_evidence_that_only_the_pooled_embedding_has(plant):
    """Every image's maps show a square; the pooled embedding alone says whether it is a lesion."""
    torch.set_num_threads(1)
    source, train, val = plant(prevalence=1.0, noise=0.3, count=72, train=48)
    draw = np.random.default_rng(1)
    real = draw.random(72) < 0.5
    source.pooled = torch.randn(72, 6, generator=torch.Generator().manual_seed(2))
    source.pooled[:, 2] += torch.from_numpy(np.where(real, 3.0, -3.0)).float()
    masks = train.masks
    shown = lambda row: masks(row) & bool(real[row])  # noqa: E731
    train, val = (type(p)(p.source, p.rows, p.target, p.patients, shown) for p in (train, val))
    schedule = Schedule(epochs=8, least_steps=120, batch_size=8)
    heads = [GlobalLocalHead(schedule, (1e-2,)), MultiscaleHead(schedule, (1e-2,))]
    fits = fit_together(heads, train, val, Context("segmentation", ("lesion",), seed=3))
    with_pooled, without = (max(line["val_dice"] for line in fit.curve) for fit in fits)
    # Half of the squares are none: without the embedding, Dice is at most about 2·.5 / (1 + .5).
    assert with_pooled > 0.75
    assert without < 0.68
