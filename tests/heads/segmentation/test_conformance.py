"""What every trained dense head must do, on every layout of maps that it takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evalfm.heads import list_heads, load_head
from evalfm.heads.head import Context
from evalfm.heads.module import Layout, Statistics
from evalfm.heads.trained import Schedule, TrainedDenseHead

CONTEXT = Context("segmentation", ("lesion",), seed=3)
QUICK = Schedule(epochs=6, least_steps=90, batch_size=8)
WIDE = Schedule(epochs=6, least_steps=40, batch_size=8)
"""Of a head that is wide and slow, and learns in fewer steps."""
SCHEDULES = {"unet": WIDE}
BRIEF = Schedule(epochs=2, least_steps=6, batch_size=8)
NAMES = sorted(
    entry.name
    for entry in list_heads()
    if "segmentation" in entry.kinds and isinstance(load_head(entry.name, "segmentation"), TrainedDenseHead)
)
STEPPED_ONLY = {"unet"}
# (strides, input size): a hierarchical encoder, one from the stem on, a short one, a ViT at an odd grid, another.
STEPPED = [((4, 8, 16, 32), 128), ((2, 4, 8, 16, 32), 96), ((4, 8, 16), 64)]
PLAIN = [((14,) * 5, 182), ((16,) * 5, 64), ((8,), 64)]
LAYOUTS = [
    pytest.param(name, *layout, id=f"{name}-{'-'.join(map(str, layout[0]))}")
    for name in NAMES
    for layout in [*STEPPED, *([] if name in STEPPED_ONLY else PLAIN)]
]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def head_of(name, schedule=None, rates=None):
    return type(load_head(name, "segmentation"))(schedule, rates)


def readout_of(name, strides, size, outputs=1, seed=0):
    """A fresh module and random features of its layout, batch of three."""
    head = head_of(name)
    channels = tuple(6 + level for level in range(len(strides)))
    layout = Layout(5, channels, strides, outputs, head.answer_grid((size, size)))
    module = head.new_module(layout, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    maps = tuple(
        torch.randn(3, count, -(-size // stride), -(-size // stride), generator=generator)
        for count, stride in zip(channels, strides, strict=True)
    )
    return module, maps, torch.randn(3, 5, generator=generator)


def stirred(module):
    """Every parameter moved off its start, so that zeros hide nothing."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.mark.parametrize(("name", "strides", "size"), LAYOUTS)
def test_answers_on_its_grid_and_every_parameter_learns(name, strides, size):
    module, maps, pooled = readout_of(name, strides, size, outputs=2)
    stirred(module).train()
    answer = module(maps, pooled)
    assert answer.shape == (3, 2, *head_of(name).answer_grid((size, size)))
    answer.square().mean().backward()
    for title, parameter in module.named_parameters():
        assert parameter.grad is not None, title
        assert float(parameter.grad.abs().max()) > 0, title


@pytest.mark.parametrize(("name", "strides", "size"), LAYOUTS)
def test_a_radiograph_alone_is_scored_as_in_a_batch(name, strides, size):
    module, maps, pooled = readout_of(name, strides, size)
    stirred(module).train()
    module(maps, pooled)
    module.eval()
    with torch.no_grad():
        together = module(maps, pooled)
        for index in range(3):
            alone = module(tuple(level[index : index + 1] for level in maps), pooled[index : index + 1])
            assert torch.allclose(alone[0], together[index], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize(("name", "strides", "size"), LAYOUTS)
def test_a_batch_of_one_trains(name, strides, size):
    module, maps, pooled = readout_of(name, strides, size)
    module.train()
    answer = module(tuple(level[:1] for level in maps), pooled[:1])
    answer.square().mean().backward()
    assert bool(torch.isfinite(answer).all())


@pytest.mark.parametrize(("name", "strides", "size"), LAYOUTS)
def test_rows_run_down_and_columns_across(name, strides, size):
    module, maps, pooled = readout_of(name, strides, size)
    stirred(module).eval()
    # A mark in the upper right corner of every map.
    marked = tuple(level.clone() for level in maps)
    for level in marked:
        cells = max(1, level.shape[2] // 4)
        level[:, :, :cells, -cells:] += 4
    with torch.no_grad():
        change = (module(marked, pooled) - module(maps, pooled)).square().sum((0, 1))
    half = change.shape[0] // 2
    quarters = [float(change[rows, columns].sum()) for rows in (slice(half), slice(half, None))
                for columns in (slice(half), slice(half, None))]  # fmt: skip
    assert int(np.argmax(quarters)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_start_and_the_global_generator_is_left_alone(name):
    state = torch.get_rng_state()
    first = readout_of(name, (4, 8, 16), 64, seed=1)[0].state_dict()
    torch.rand(7)
    torch.set_rng_state(state)
    torch.rand(3)
    moved = torch.get_rng_state()
    again = readout_of(name, (4, 8, 16), 64, seed=1)[0].state_dict()
    assert torch.equal(torch.get_rng_state(), moved)
    assert all(torch.equal(first[title], again[title]) for title in first)
    other = readout_of(name, (4, 8, 16), 64, seed=2)[0].state_dict()
    assert name == "linear" or any(not torch.equal(first[title], other[title]) for title in first)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_trains_to_the_same_bits_and_survives_a_round_trip(plant, name):
    _, train, val = plant()
    heads = [head_of(name, BRIEF, (3e-3,)) for _ in range(2)]
    fits = [head.fit(train, val, CONTEXT) for head in heads]
    assert fits[0] == fits[1]
    tensors = [head.tensors() for head in heads]
    assert all(torch.equal(tensors[0][title], tensors[1][title]) for title in tensors[0])
    restored = head_of(name)
    restored.load_tensors(tensors[0])
    for (row, ours), (again, theirs) in zip(heads[0].predict(val), restored.predict(val), strict=True):
        assert row == again
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_several_masks_keep_their_order(plant, name):
    _, train, val = plant(side=24, noise=0.3)
    masks = train.masks
    both = lambda row: np.concatenate([masks(row), ~masks(row)])  # noqa: E731
    train, val = (type(p)(p.source, p.rows, p.target, p.patients, both) for p in (train, val))
    head = head_of(name, SCHEDULES.get(name, QUICK), (3e-3,))
    head.fit(train, val, Context("segmentation", ("lesion", "rest")))
    seen = 0
    for row, probability in head.predict(val):
        inside = torch.from_numpy(masks(row)[0])
        if bool(inside.any()):
            seen += 1
            assert float(probability[0][inside].mean()) > float(probability[0][~inside].mean()) + 0.2
            assert float(probability[1][inside].mean()) < float(probability[1][~inside].mean()) - 0.2
    assert seen


@pytest.mark.parametrize("name", [name for name in NAMES if name != "linear"])
def test_finds_one_percent_of_the_pixels(plant, name):
    _, train, val = plant(noise=0.3)
    assert np.mean([train.masks(row).mean() for row in train.rows]) < 0.011
    head = head_of(name, SCHEDULES.get(name, QUICK), (3e-3,))
    head.fit(train, val, CONTEXT)
    found = [(probability.numpy() > 0.5, val.masks(row)) for row, probability in head.predict(val)]
    overlap = sum((mask & truth).sum() for mask, truth in found)
    assert 2 * overlap / sum(mask.sum() + truth.sum() for mask, truth in found) > 0.5


@pytest.mark.parametrize("name", [name for name in NAMES if name != "unet"])
def test_maps_are_standardised_by_the_statistics_of_train(name):
    module, maps, pooled = readout_of(name, (4, 8, 16), 64)
    stirred(module).eval()
    with torch.no_grad():
        expected = module(maps, pooled)
        scales = [10.0 ** torch.linspace(-2, 2, level.shape[1]) for level in maps]
        shifted = tuple((level + 5) * scale[:, None, None] for level, scale in zip(maps, scales, strict=True))
        statistics = Statistics(
            torch.full((5,), 3.0),
            torch.full((5,), 7.0),
            tuple(5 * scale for scale in scales),
            tuple(scales),
        )
        module.standardise(statistics)
        assert torch.allclose(module(shifted, pooled * 7 + 3), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_answer_is_about_the_share_of_foreground(name):
    module, maps, pooled = readout_of(name, (4, 8, 16), 64, outputs=2)
    module.init_bias(torch.tensor([-4.0, 1.0]))
    module.eval()
    with torch.no_grad():
        mean = module(maps, pooled).mean((0, 2, 3))
    assert torch.allclose(mean, torch.tensor([-4.0, 1.0]), atol=0.5)


@pytest.mark.parametrize("name", NAMES)
def test_stackable_is_told_rightly(name):
    module, _, _ = readout_of(name, (4, 8, 16), 64)
    stateful = [type(module).__name__ for module in module.modules() if "BatchNorm" in type(module).__name__]
    stateful += [type(module).__name__ for module in module.modules() if "Dropout" in type(module).__name__]
    assert not (module.stackable and stateful)
