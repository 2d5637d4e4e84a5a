from __future__ import annotations

import numpy as np
import pytest
import torch

from evalfm.errors import EvalfmError
from evalfm.heads.head import Context
from evalfm.heads.module import Projection
from evalfm.heads.segmentation.light import LinearDenseHead, MultiscaleHead
from evalfm.heads.segmentation.masks import PooledDice, read_targets
from evalfm.heads.trained import Schedule, predict_dense
from evalfm.heads.training import draw_batches, fit_together, read_statistics
from evalfm.progress import SILENT

CONTEXT = Context("segmentation", ("lesion",), seed=3)
QUICK = Schedule(epochs=8, least_steps=120, batch_size=8)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pooled_dice(head, examples):
    answers = [(p.numpy(), examples.masks(row)) for row, p in head.predict(examples)]
    probability = np.stack([p for p, _ in answers])
    truth = np.stack([t for _, t in answers])
    return max(
        2 * (truth & (probability >= t)).sum() / (truth.sum() + (probability >= t).sum())
        for t in np.linspace(0.02, 0.98, 49)
    )


@pytest.mark.parametrize("strides", [(4, 8, 16), (14,) * 5, (8, 8, 8)])
@pytest.mark.parametrize("kind", [LinearDenseHead, MultiscaleHead])
def test_learns_one_percent_of_foreground(plant, kind, strides):
    # Where every map has a coarse grid the square covers more of it; noise is the same.
    size = 112 if strides[0] == 14 else 64
    side = 25 if kind is LinearDenseHead or strides[0] == 14 else 9
    side = min(side, size // 3)
    _, train, val = plant(strides=strides, size=size, side=side, noise=0.3)
    foreground = np.mean([train.masks(row).mean() for row in train.rows])
    if side == 9:
        assert foreground < 0.011
    head = kind(QUICK)
    fit = head.fit(train, val, CONTEXT)
    best = pooled_dice(head, val)
    assert best > 0.6, fit
    assert abs(best - max(line["val_dice"] for line in fit.path)) < 0.15


def test_same_seed_is_bit_equal_and_global_state_is_left_alone(plant):
    _, train, val = plant()
    state = torch.get_rng_state()
    runs = []
    for _ in range(2):
        heads = [LinearDenseHead(QUICK), MultiscaleHead(QUICK)]
        fits = fit_together(heads, train, val, CONTEXT)
        runs.append((fits, [head.tensors() for head in heads]))
    assert runs[0][0] == runs[1][0]
    for first, second in zip(runs[0][1], runs[1][1], strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)
    other = MultiscaleHead(QUICK)
    other.fit(train, val, Context("segmentation", ("lesion",), seed=4))
    assert not torch.equal(other.tensors()["mix"], runs[0][1][1]["mix"])


def test_maps_are_fetched_once_for_all_heads_and_rates(plant):
    source, train, val = plant()
    lasting = Schedule(epochs=3, least_steps=24, batch_size=8, patience=100)
    counts = []
    for heads in (
        [LinearDenseHead(lasting, (1e-3,))],
        [LinearDenseHead(lasting), MultiscaleHead(lasting, tuple(1e-3 * i for i in range(1, 8)))],
    ):
        source.calls.clear()
        fit_together(heads, train, val, CONTEXT)
        counts.append(list(source.calls))
    assert counts[0] == counts[1]
    # 4 batches of 8 images for the statistics, then 3 times 8 steps and 2 batches of the 16 val images.
    assert len(counts[0]) == 4 + 3 * (8 + 2)


def test_companions_change_a_head_by_rounding_only(plant):
    _, train, val = plant()
    alone, together = MultiscaleHead(QUICK), MultiscaleHead(QUICK)
    first = alone.fit(train, val, CONTEXT)
    second = fit_together([LinearDenseHead(QUICK), together], train, val, CONTEXT)[1]
    assert first.chosen == second.chosen
    for line, other in zip(first.path, second.path, strict=True):
        assert line["val_dice"] == pytest.approx(other["val_dice"], abs=2e-3)


def test_round_trip_and_prediction_on_the_radiograph(plant):
    source, train, val = plant(image=(90, 70))
    heads = [LinearDenseHead(QUICK), MultiscaleHead(QUICK)]
    reader = lambda row: np.pad(train_masks(row), ((0, 0), (0, 26), (0, 6)))  # noqa: E731
    train_masks = train.masks
    train = type(train)(source, train.rows, train.target, train.patients, reader)
    val = type(val)(source, val.rows, val.target, val.patients, reader)
    fit_together(heads, train, val, CONTEXT)
    new_module = [LinearDenseHead(), MultiscaleHead()]
    for head, other in zip(heads, new_module, strict=True):
        other.load_tensors(head.tensors())
    seen = []
    for (row, ours), (again, theirs) in zip(predict_dense(heads, val), predict_dense(new_module, val), strict=True):
        assert row == again
        seen.append(row)
        for probability, same in zip(ours, theirs, strict=True):
            assert probability.shape == (1, 90, 70)
            assert probability.dtype == torch.float32
            assert torch.equal(probability, same)
            assert 0 <= float(probability.min()) <= float(probability.max()) <= 1
    assert seen == val.rows.tolist()


def test_one_positive_radiograph_and_constant_channels_give_no_nan(plant):
    source, train, val = plant(prevalence=0.5)
    masks = train.masks
    reader = lambda row: masks(row) if row in (0, int(val.rows[0])) else masks(row) & False  # noqa: E731
    source.maps[0][:, 0] = 7.0
    rebuilt = [type(train)(source, part.rows, part.target, part.patients, reader) for part in (train, val)]
    head = MultiscaleHead(QUICK)
    fit = head.fit(*rebuilt, CONTEXT)
    assert all(np.isfinite(line["val_dice"]) for line in fit.path)
    assert all(bool(torch.isfinite(value).all()) for value in head.tensors().values())


def test_every_batch_has_lesions_and_every_radiograph_is_used():
    target = torch.zeros(40, 1, 2, 2, dtype=torch.uint8)
    target[:3] = 255
    positive = (target > 0).flatten(1).any(1)
    batches = draw_batches(positive, len(target), Schedule(batch_size=8), torch.Generator().manual_seed(0))
    drawn = [next(batches) for _ in range(14)]
    assert all((batch < 3).sum() == 2 for batch in drawn)
    seen = torch.cat(drawn).tolist()
    assert set(seen) == set(range(40))
    assert max(np.bincount([position for position in seen if position >= 3])) <= 3


def test_refusals(plant, array_source, make_examples):
    source, train, val = plant()
    with pytest.raises(EvalfmError, match="serves segmentation tasks, not binary"):
        LinearDenseHead().fit(train, val, Context("binary", ("lesion",)))
    bare = array_source(torch.zeros(4, 3))
    without = make_examples(bare, range(4), masks=train.masks)
    with pytest.raises(EvalfmError, match="no feature maps"):
        LinearDenseHead().fit(without, without, CONTEXT)
    unmasked = make_examples(source, range(4))
    with pytest.raises(EvalfmError, match="needs masks"):
        LinearDenseHead().fit(unmasked, val, CONTEXT)
    empty = make_examples(source, val.rows, masks=lambda row: train.masks(row) & False)
    with pytest.raises(EvalfmError, match="No image of val shows lesion"):
        LinearDenseHead().fit(train, empty, CONTEXT)
    with pytest.raises(EvalfmError, match="not been fitted"):
        next(LinearDenseHead().predict(val))
    head = LinearDenseHead(QUICK)
    head.fit(train, val, CONTEXT)
    _, _, elsewhere = plant(strides=(8, 8))
    with pytest.raises(EvalfmError, match="was trained on maps of channels"):
        next(head.predict(elsewhere))
    assert fit_together([], train, val, CONTEXT) == []


def test_several_channels_keep_their_order(plant):
    _, train, val = plant(side=20)
    masks = train.masks
    both = lambda row: np.concatenate([masks(row), ~masks(row)])  # noqa: E731
    train, val = (type(p)(p.source, p.rows, p.target, p.patients, both) for p in (train, val))
    head = MultiscaleHead(QUICK)
    head.fit(train, val, Context("segmentation", ("lesion", "rest")))
    row, probability = next(iter(head.predict(val)))
    inside = torch.from_numpy(masks(row)[0])
    if bool(inside.any()):
        assert float(probability[0][inside].mean()) > float(probability[0][~inside].mean()) + 0.3
    assert float(probability[1].mean()) > 0.7


def test_the_best_epoch_is_kept_not_the_last(plant):
    source, train, val = plant()
    restless = Schedule(epochs=10, least_steps=80, batch_size=8, patience=100)
    head = MultiscaleHead(restless, (0.5,))
    fit = head.fit(train, val, CONTEXT)
    assert fit.chosen["epoch"] < len(fit.curve)
    tally = PooledDice(1, 1)
    target = read_targets(val, (16, 16), SILENT, "val") / 255
    found = source.features(val.rows.tolist(), maps=True)
    tally.add(torch.logit(head.outputs(found.maps, found.pooled).double())[None], target)
    best = max(line["val_dice"] for line in fit.curve)
    assert tally.score().item() == pytest.approx(best, abs=1e-3)
    assert abs(fit.curve[-1]["val_dice"] - best) > 2e-3


def test_projection_is_a_convolution_of_the_standardised_map():
    generator = torch.Generator().manual_seed(0)
    projection = Projection(6, 4, 1.0, generator)
    features = torch.randn(3, 6, 5, 7, generator=generator) * 10.0 ** torch.arange(-3, 3)[:, None, None] + 4
    mean, scale = features.mean((0, 2, 3)), features.std((0, 2, 3), correction=0)
    projection.mean.copy_(mean)
    projection.scale.copy_(scale)
    standardised = (features - mean[:, None, None]) / scale[:, None, None]
    expected = torch.einsum("oc,bchw->bohw", projection.weight, standardised)
    assert torch.allclose(projection(features), expected, rtol=1e-3, atol=1e-2)


def test_decoders_get_the_statistics_of_train_and_the_share_of_foreground(plant):
    source, train, val = plant(side=16)
    sampled = Schedule(epochs=1, least_steps=1, most_steps=1, batch_size=8, warm_up=1.0)
    heads = [LinearDenseHead(sampled, (1e-12,)), MultiscaleHead(sampled, (1e-12,))]
    fit_together(heads, train, val, CONTEXT)
    deepest = source.maps[-1][train.rows].double()
    tensors = heads[0].tensors()
    assert torch.allclose(tensors["project.mean"].double(), deepest.mean((0, 2, 3)), rtol=1e-4)
    assert torch.allclose(tensors["project.scale"].double(), deepest.std((0, 2, 3), correction=0), rtol=1e-4)
    finest = source.maps[0][train.rows].double().mean((0, 2, 3)).repeat_interleave(4)
    assert torch.allclose(heads[1].tensors()["projections.0.mean"].double(), finest, rtol=1e-4)
    share = np.mean([train.masks(row).mean() for row in train.rows])
    assert float(torch.sigmoid(tensors["project.bias"])) == pytest.approx(share, rel=0.01)


def test_maps_kept_in_half_precision_are_those_values_and_no_others(plant):
    source, train, val = plant()
    half = tuple(level.half() for level in source.maps)
    found = []
    for maps in (half, tuple(level.float() for level in half)):
        source.maps = maps
        head = MultiscaleHead(QUICK)
        fit = head.fit(train, val, CONTEXT)
        found.append((fit, head.tensors(), [probability for _, probability in head.predict(val)]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])
    assert all(torch.equal(one, other) for one, other in zip(found[0][2], found[1][2], strict=True))


def test_statistics_are_those_of_float64_over_all_batches(plant, make_examples):
    source, _, _ = plant()
    # Far from 0 and in batches that differ: sums of squares in float32 would lose every digit.
    shift = torch.arange(len(source.pooled))[:, None, None, None] // 8
    source.maps = tuple(level * 0.01 + 50 + shift for level in source.maps)
    source.maps[0][:, 1] = 7.0
    rows = range(20)
    schedule = Schedule(batch_size=8, statistics_images=20)
    found = read_statistics(make_examples(source, rows), schedule, torch.Generator().manual_seed(0), maps=True)
    for level, mean, scale in zip(source.maps, found.map_means, found.map_scales, strict=True):
        exact = level[:20].double()
        expected = exact.std((0, 2, 3), correction=0)
        assert torch.allclose(mean.double(), exact.mean((0, 2, 3)), rtol=1e-6)
        assert torch.allclose(scale.double(), torch.where(expected > 0, expected, 1.0), rtol=1e-4)
    assert float(found.map_scales[0][1]) == 1.0
