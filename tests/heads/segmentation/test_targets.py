from __future__ import annotations

import numpy as np
import pytest
import torch

from evalfm.heads.segmentation.targets import read_targets, target_grid
from evalfm.progress import SILENT


def test_grid_is_a_quarter_of_the_input_and_capped():
    assert target_grid((224, 256)) == (56, 64)
    assert target_grid((518, 1024)) == (128, 128)


def test_targets_are_area_fractions_in_place(array_source, make_examples):
    source = array_source(torch.zeros(3, 1), size=(32, 32), film=(64, 128))
    masks = np.zeros((3, 2, 64, 128), dtype=bool)
    masks[1, 0, :32, 64:] = True  # upper right quarter
    masks[1, 1, :8, :8] = True  # half of the first cell: 8 × 16 film pixels each
    target = read_targets(make_examples(source, range(3), masks=lambda row: masks[row]), (8, 8), SILENT, "train")
    assert target.dtype == torch.uint8
    assert target.shape == (3, 2, 8, 8)
    assert bool((target[1, 0, :4, 4:] == 255).all())
    assert int((target[1, 0] > 0).sum()) == 16
    assert float(target[1, 1, 0, 0]) == pytest.approx(127.5, abs=1)
    assert int((target[1, 1] > 0).sum()) == 1
    assert not bool(target[[0, 2]].any())
