"""Masks on the input grid: exact areas, thin lesions kept, and those of moved images beside supersampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evalfm.data.geometry import Geometry
from evalfm.features.memory import MemoryBudget
from evalfm.heads.segmentation.masks import read_target, target_grid
from evalfm.training.augmentation import Augmentation, Augmenter
from evalfm.training.masks import InputMasks, area_fractions


def line(side: int, width: float, seed: int) -> NDArray[np.bool_]:
    """A line [1, side, side] of a width in pixels, somewhere."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] + 0.5
    angle, (down, across) = generator.uniform(0, np.pi), generator.uniform(0.35, 0.65, 2) * side
    beside = np.abs((y - down) * np.cos(angle) + (x - across) * np.sin(angle))
    along = np.abs(-(y - down) * np.sin(angle) + (x - across) * np.cos(angle))
    return ((beside <= width / 2) & (along < side * 0.2))[None]


@pytest.mark.parametrize("size", [(64, 64), (50, 30), (100, 100), (7, 300)])
def test_areas_are_exact(size: tuple[int, int]) -> None:
    masks = np.random.default_rng(0).random((2, 100, 60)) < 0.3
    geometry = Geometry.identity((100, 60)).resize(size)
    found = area_fractions(masks, geometry)
    # Each stored pixel is cut into so many that no piece lies in two cells.
    fine = np.repeat(np.repeat(masks, size[0], axis=1), size[1], axis=2).astype(np.float64)
    expected = fine.reshape(2, size[0], 100, size[1], 60).mean((2, 4))
    assert found.dtype == np.uint8
    assert np.abs(found / 255 - expected).max() <= 0.5 / 255 + 1e-5


def test_what_the_crop_cut_away_and_what_was_padded_is_empty() -> None:
    masks = np.ones((1, 40, 20), dtype=bool)
    cropped = area_fractions(masks, Geometry.identity((40, 20)).crop(10, 0, (20, 20)))
    assert cropped.shape == (1, 20, 20)
    assert (cropped == 255).all()
    padded = area_fractions(masks, Geometry.identity((40, 20)).resize((20, 10)).crop(0, -5, (20, 20)))
    assert (padded[:, :, 5:15] == 255).all()
    assert not padded[:, :, :5].any()
    assert not padded[:, :, 15:].any()
    with pytest.raises(ValueError, match="before they are turned"):
        area_fractions(masks, Geometry((40, 20), (40, 20), ((1.0, 0.1, 0.0), (-0.1, 1.0, 0.0))))


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_thin_line_keeps_its_area_when_it_is_moved(width: int) -> None:
    """Beside supersampling the stored mask of 1024 x 1024 at an input of 224 x 224, where bits lose it."""
    geometry = Geometry.identity((1024, 1024)).resize((224, 224))
    grid, augment = target_grid((224, 224)), Augmenter(Augmentation(), 0, True)
    changes, apart = [], []
    for number in range(8):
        mask = line(1024, width, number)
        change = augment.draw(0, [number], [geometry])
        fractions = torch.from_numpy(area_fractions(mask, geometry))[None].float() / 255
        found = change.masks(fractions, grid)[0].float()
        expected = read_target(mask, change.geometries[0], grid).float()
        changes.append(float(found.sum() / expected.sum()) - 1)
        apart.append(float((found - expected).abs().sum() / expected.sum()))
    assert np.abs(changes).max() < 0.07
    assert abs(np.mean(changes)) < 0.02
    assert np.mean(apart) < 0.2


def test_a_target_of_the_inputs_size_and_one_that_does_not_divide_it() -> None:
    geometry = Geometry.identity((90, 90)).resize((70, 70))
    mask = np.zeros((1, 90, 90), dtype=bool)
    mask[:, 20:60, 30:70] = True
    change = Augmenter(Augmentation(), 0, True).draw(0, [3], [geometry])
    fractions = torch.from_numpy(area_fractions(mask, geometry))[None].float() / 255
    for grid in ((70, 70), (33, 17), (9, 70)):
        found, expected = change.masks(fractions, grid)[0], read_target(mask, change.geometries[0], grid)
        assert found.shape == expected.shape
        assert float((found.float() - expected.float()).abs().mean()) < 3


@pytest.fixture
def counted(bench):
    """Examples whose masks count how often they are read."""
    bench = bench("masks")
    examples, read = bench.examples("train"), []

    def masks(row: int) -> NDArray[np.bool_]:
        read.append(row)
        return bench.cohort.masks(row)

    return replace(examples, masks=masks), read


def test_masks_are_kept_when_they_are_first_read(counted) -> None:
    examples, read = counted
    budget = MemoryBudget({"host": 10**9})
    rows = examples.rows.tolist()
    with InputMasks(examples, (32, 32), budget) as kept:
        for row in rows:
            assert np.array_equal(kept.examples.masks(row), examples.masks(row))
        read.clear()
        taken = budget.taken("host")
        # Empty ones and empty borders take nothing.
        assert 0 < taken < 0.5 * len(rows) * 32 * 32
        stacked = kept.stack(rows)
        assert read == []
        assert stacked.dtype == torch.uint8
        expected = [area_fractions(examples.masks(row), examples.source.geometry(row)) for row in rows]
        assert np.array_equal(stacked.numpy(), np.stack(expected))
        assert stacked.any()
    assert budget.taken("host") == 0


def test_without_memory_they_are_read_again(counted) -> None:
    examples, read = counted
    rows = examples.rows.tolist()
    with InputMasks(examples, (32, 32), MemoryBudget({"host": 0})) as kept, InputMasks(examples, (32, 32)) as other:
        for row in rows:
            kept.examples.masks(row)
            other.examples.masks(row)
        read.clear()
        assert torch.equal(kept.stack(rows), other.stack(rows))
        again = list(read)
        # What is empty takes no memory.
        assert again == [row for row in rows if examples.masks(row).any()]
