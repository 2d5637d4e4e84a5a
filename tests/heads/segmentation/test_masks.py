from __future__ import annotations

import numpy as np
import pytest
import torch

from evalfm.heads.segmentation.masks import PooledDice, pixel_loss, read_targets, target_grid
from evalfm.progress import SILENT


def test_grid_is_a_quarter_of_the_input_and_capped():
    assert target_grid((224, 256)) == (56, 64)
    assert target_grid((518, 1024)) == (128, 128)


def test_targets_are_area_fractions_in_place(array_source, make_examples):
    source = array_source(torch.zeros(3, 1), size=(32, 32), image=(64, 128))
    masks = np.zeros((3, 2, 64, 128), dtype=bool)
    masks[1, 0, :32, 64:] = True  # upper right quarter
    masks[1, 1, :8, :8] = True  # half of the first cell: 8 × 16 image pixels each
    target = read_targets(make_examples(source, range(3), masks=lambda row: masks[row]), (8, 8), SILENT, "train")
    assert target.dtype == torch.uint8
    assert target.shape == (3, 2, 8, 8)
    assert bool((target[1, 0, :4, 4:] == 255).all())
    assert int((target[1, 0] > 0).sum()) == 16
    assert float(target[1, 1, 0, 0]) == pytest.approx(127.5, abs=1)
    assert int((target[1, 1] > 0).sum()) == 1
    assert not bool(target[[0, 2]].any())


def test_loss_is_cross_entropy_plus_batch_dice():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 2, 4, 5, generator=generator)
    target = (torch.rand(3, 2, 4, 5, generator=generator) > 0.7).float()
    losses = pixel_loss(logits, target)
    for candidate in range(2):
        p, t = 1 / (1 + np.exp(-logits[candidate].numpy().astype(float))), target.numpy()
        entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
        dice = [(2 * (p * t)[:, k].sum() + 1) / (p[:, k].sum() + t[:, k].sum() + 1) for k in range(2)]
        assert float(losses[candidate]) == pytest.approx(entropy + 1 - np.mean(dice), abs=1e-5)


@pytest.mark.parametrize("value", [-100.0, 0.0, 100.0])
def test_all_empty_batch_has_a_finite_gradient(value):
    logits = torch.full((1, 2, 1, 8, 8), value, requires_grad=True)
    loss = pixel_loss(logits, torch.zeros(2, 1, 8, 8))
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(logits.grad).all())


def test_pooled_dice_is_the_best_over_thresholds():
    generator = np.random.default_rng(0)
    truth = generator.random((4, 1, 16, 16)) < 0.05
    logits = generator.normal(size=(2, 4, 1, 16, 16)) * 2 + 4 * truth * np.array([1.0, 0.3]).reshape(2, 1, 1, 1, 1)
    tally = PooledDice(2, 1)
    for part in (slice(0, 3), slice(3, 4)):
        tally.add(torch.from_numpy(logits[:, part]).float(), torch.from_numpy(truth[part]).float())
    for candidate, score in enumerate(tally.score().tolist()):
        best = max(
            2 * (truth & (logits[candidate] >= t)).sum() / (truth.sum() + (logits[candidate] >= t).sum())
            for t in np.unique(logits[candidate])
        )
        assert score == pytest.approx(best, abs=0.02)


def test_channels_without_a_lesion_are_left_out():
    tally = PooledDice(1, 2)
    logits = torch.full((1, 1, 2, 4, 4), -5.0)
    target = torch.zeros(1, 2, 4, 4)
    target[0, 0, 0, 0] = 1
    logits[0, 0, 0, 0, 0] = 5
    tally.add(logits, target)
    assert tally.score().tolist() == pytest.approx([1.0])
    empty = PooledDice(1, 1)
    empty.add(logits[:, :, 1:], target[:, 1:])
    assert bool(empty.score().isnan().all())


def test_counts_of_several_processes_add_up():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 1, 8, 8, generator=generator)
    target = torch.randint(0, 256, (6, 1, 8, 8), generator=generator) / 255
    whole, first, second, none = (PooledDice(2, 1) for _ in range(4))
    whole.add(logits, target)
    first.add(logits[:, :2], target[:2])
    second.add(logits[:, 2:], target[2:])
    counted: list[torch.Tensor] = []

    def keep(counts: torch.Tensor) -> torch.Tensor:
        counted.append(counts)
        return counts

    second.merge(keep)
    gathered = iter(counted)
    none.merge(keep)
    first.merge(lambda counts: counts + next(gathered))
    assert first.score().tolist() == whole.score().tolist()
    assert all(float(counts.sum()) == 0 for counts in counted[2:])
