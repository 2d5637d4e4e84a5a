"""Every transform has its way back; what a crop cannot see stays unseen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from evalfm.data.geometry import Geometry


def blob(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = ((y - 0.4 * height) / (0.22 * height)) ** 2 + ((x - 0.6 * width) / (0.2 * width)) ** 2 < 1
    return inside[None].float()


def overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    one, other = first > 0.5, second > 0.5
    return float((one & other).sum() / (one | other).sum())


def flipped_over(geometry: Geometry) -> Geometry:
    return geometry.then(geometry.output, ((1.0, 0.0, 0.0), (0.0, -1.0, float(geometry.output[1]))))


CHAINS = {
    "squash": lambda size: Geometry.identity(size).resize((224, 224)),
    "letterbox": lambda size: Geometry.identity(size).resize((180, 224)).crop(-22, 0, (224, 224)),
    "flip": lambda size: flipped_over(Geometry.identity(size).resize((224, 224))),
    "larger": lambda size: Geometry.identity(size).resize((600, 640)),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("size", [(320, 320), (300, 200), (181, 333)])
def test_a_mask_comes_back_where_nothing_was_cropped(name: str, size: tuple[int, int]):
    geometry, mask = CHAINS[name](size), blob(*size)
    assert overlap(geometry.to_source(geometry.to_input(mask)), mask) >= 0.98
    assert bool(geometry.visible().all())


def test_identity_changes_nothing():
    mask = torch.rand(2, 17, 23)
    geometry = Geometry.identity((17, 23))
    torch.testing.assert_close(geometry.to_input(mask), mask)
    torch.testing.assert_close(geometry.to_source(mask), mask)


def test_a_flip_is_a_mirror_and_its_own_inverse():
    image = torch.rand(1, 12, 16)
    flipped = flipped_over(Geometry.identity((12, 16)))
    torch.testing.assert_close(flipped.to_input(image), image.flip(-1))
    torch.testing.assert_close(flipped.to_source(image.flip(-1)), image)


def test_a_crop_keeps_its_place_and_hides_the_rest():
    image = torch.arange(100.0).reshape(1, 10, 10)
    geometry = Geometry.identity((10, 10)).crop(2, 3, (4, 5))
    torch.testing.assert_close(geometry.to_input(image), image[:, 2:6, 3:8])
    back = geometry.to_source(torch.ones(1, 4, 5), outside=-1.0)
    expected = torch.full((1, 10, 10), -1.0)
    expected[:, 2:6, 3:8] = 1.0
    torch.testing.assert_close(back, expected)
    assert int(geometry.visible().sum()) == 20


def test_rows_and_columns_are_not_swapped():
    image = torch.zeros(1, 40, 20)
    image[:, :10] = 1.0  # the upper quarter
    small = Geometry.identity((40, 20)).resize((8, 8)).to_input(image)
    assert small[0, :2].min() == 1.0
    assert small[0, 2:].max() == 0.0


def test_maps_of_any_grid_return_like_a_bilinear_upsampling():
    maps = torch.rand(3, 7, 7)
    geometry = Geometry.identity((64, 48)).resize((224, 224))
    expected = functional.interpolate(maps[None], (64, 48), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(geometry.to_source(maps), expected, atol=1e-5, rtol=0)


def test_a_grid_of_the_truth_holds_area_fractions():
    image = torch.zeros(1, 64, 64)
    image[:, :6, :3] = 1.0
    cells = Geometry.identity((64, 64)).resize((32, 32)).to_input(image, (8, 8))
    assert float(cells[0, 0, 0]) == pytest.approx(18 / 64)
    assert float(cells.sum() - cells[0, 0, 0]) == 0.0


def test_a_mask_on_a_finer_grid_keeps_its_hard_border():
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    cells = Geometry.identity((2, 2)).resize((8, 8)).to_input(mask)
    assert torch.equal(cells, mask.repeat_interleave(4, 1).repeat_interleave(4, 2))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(20, 200), width=st.integers(20, 200), top=st.integers(-10, 8), left=st.integers(-10, 8))
def test_the_inverse_of_a_chain_is_its_inverse(height: int, width: int, top: int, left: int):
    chain = flipped_over(Geometry.identity((height, width)).resize((90, 70)).crop(top, left, (80, 64)))
    forward = np.vstack([chain.matrix, [0, 0, 1]])
    backward = np.vstack([chain.inverse().matrix, [0, 0, 1]])
    np.testing.assert_allclose(forward @ backward, np.eye(3), atol=1e-9)
