"""Painting over and its control: against brute force, the whole image's solution, and phantoms without the device."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.restoration import inpaint_biharmonic

from evalfm.data.inpainting import REACH, Region, control_region, inpainted, widened, widening
from evalfm.data.phantom import render

Mask = NDArray[np.bool_]
SIZE = (40, 48)


def line(rows: slice, columns: slice, size: tuple[int, int] = SIZE) -> Mask:
    mask = np.zeros(size, dtype=bool)
    mask[rows, columns] = True
    return mask


def hook() -> Mask:
    """A shape that is not its own mirror image."""
    return line(slice(5, 20), slice(6, 9)) | line(slice(17, 20), slice(6, 16))


def test_a_region_is_its_mask() -> None:
    region = Region.of(hook())
    assert (region.top, region.left, region.shape.shape) == (5, 6, (15, 10))
    assert np.array_equal(region.mask(SIZE), hook())
    with pytest.raises(ValueError, match="empty"):
        Region.of(np.zeros(SIZE, dtype=bool))


def test_widening_is_by_distance_and_by_the_images_height() -> None:
    assert [widening(height) for height in (64, 256, 1024, 3000)] == [2, 2, 4, 12]
    dot = line(slice(20, 21), slice(20, 21))
    rows, columns = np.nonzero(widened(dot, 3))
    assert max((rows - 20) ** 2 + (columns - 20) ** 2) == 9
    assert len(rows) == 29
    assert not widened(np.zeros(SIZE, dtype=bool), 3).any()


def test_the_control_is_the_mirror_image_where_that_is_free() -> None:
    control = control_region(Region.of(hook()), hook(), np.zeros(SIZE, dtype=bool))
    assert control is not None
    assert np.array_equal(control.mask(SIZE), hook()[:, ::-1])


@pytest.mark.parametrize("seed", range(6))
def test_the_control_is_the_nearest_free_place_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    keep_off = hook() | (rng.random(SIZE) < 0.012)
    blank = rng.random(SIZE) < 0.1
    region = Region.of(hook())
    shape, allowed = hook()[5:20, 6:16][:, ::-1], int((blank & hook()).sum())
    best = None
    for top in range(SIZE[0] - 15 + 1):
        for left in range(SIZE[1] - 10 + 1):
            window = (slice(top, top + 15), slice(left, left + 10))
            if (keep_off[window] & shape).any() or (blank[window] & shape).sum() > allowed:
                continue
            away = np.hypot(top - 5, left - (SIZE[1] - 6 - 10))
            if away <= REACH * max(SIZE) and (best is None or away < best[0]):
                best = (away, top, left)
    control = control_region(region, keep_off, blank)
    assert (control is None) == (best is None)
    if control is not None and best is not None:
        assert np.hypot(control.top - 5, control.left - (SIZE[1] - 16)) == best[0]
        image = control.mask(SIZE)
        assert image.sum() == hook().sum()
        assert not (image & keep_off).any()
        assert (blank & image).sum() <= allowed


def test_no_place_gives_none() -> None:
    nothing = np.zeros(SIZE, dtype=bool)
    across = line(slice(0, 40), slice(20, 28))
    assert control_region(Region.of(across), np.ones(SIZE, dtype=bool), nothing) is None
    # A place is free, yet too far from the mirrored one to be compared with.
    far = hook() | line(slice(0, 40), slice(16, 48))
    tall = line(slice(0, 40), slice(0, 40))
    assert control_region(Region.of(line(slice(0, 3), slice(0, 3))), tall | far, nothing) is None


def test_a_control_never_lies_on_padding() -> None:
    padding = line(slice(0, 40), slice(24, 48))
    control = control_region(Region.of(line(slice(5, 15), slice(4, 6))), line(slice(5, 15), slice(4, 6)), padding)
    assert control is None or not (control.mask(SIZE) & padding).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_other_pixel_stays_bit_by_bit_and_the_image_itself_untouched(channels: int) -> None:
    image = np.random.default_rng(0).random((channels, *SIZE), dtype=np.float32)
    before = image.copy()
    painted = inpainted(image, Region.of(hook()))
    assert painted.dtype == np.float32
    assert np.array_equal(image, before)
    assert np.array_equal(painted[:, ~hook()].view(np.uint32), image[:, ~hook()].view(np.uint32))
    assert (painted[:, hook()] != image[:, hook()]).all()


def test_a_ramp_is_restored_whatever_its_unit_and_depth() -> None:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    ramp = (-1000 + 3.25 * rows + 0.015625 * columns)[None]
    spoilt = ramp.copy()
    spoilt[0, hook()] = 900
    assert np.abs(inpainted(spoilt, Region.of(hook())) - ramp).max() < 1e-3


def test_it_is_the_solution_on_the_whole_image_also_at_its_border() -> None:
    image = np.random.default_rng(1).random((1, *SIZE)).astype(np.float32)
    for mask in (hook(), line(slice(0, 9), slice(3, 5)), line(slice(30, 40), slice(45, 48))):
        painted, whole = inpainted(image, Region.of(mask)), inpaint_biharmonic(image[0].astype(np.float64), mask)
        # Both hold what leaves the range of the surroundings: of the whole image, and of the region's box.
        held = np.clip(whole, painted[0][mask].min(), painted[0][mask].max())
        assert np.abs(painted[0] - held)[mask].max() < 1e-6


@pytest.mark.parametrize("index", range(6))
def test_a_phantom_without_its_tube_comes_nearer_to_the_one_drawn_without(index: int) -> None:
    with_tube, without = (render(9001, index, 256, tube=tube) for tube in (True, False))
    tube = with_tube.masks["chest_tube"]
    wide = widened(tube, widening(256))
    assert np.array_equal(with_tube.pixels[~wide], without.pixels[~wide]), "the widened outline holds the whole device"
    region = Region.of(wide)
    painted = inpainted(with_tube.pixels[None], region)[0]

    def distance(image: NDArray[np.float32]) -> float:
        return float(np.sqrt(((image - without.pixels)[tube] ** 2).mean()))

    assert distance(painted) < distance(with_tube.pixels)
    control = control_region(region, wide, np.zeros_like(tube))
    assert control is not None
    assert control.mask(tube.shape).sum() == wide.sum()
    assert not (control.mask(tube.shape) & wide).any()
