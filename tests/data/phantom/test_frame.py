from __future__ import annotations

import numpy as np
import pytest

from evalfm.data.phantom.frame import bands, draw, fractal_noise, make_frame, splat, spline, stroke, to_image
from evalfm.data.phantom.patients import Pose

POSE = Pose(rotation=0.05, scale=1.1, shift_x=0.02, shift_y=-0.03)


def test_the_frame_and_its_inverse_agree() -> None:
    frame = make_frame(64, POSE)
    image = to_image(np.stack((frame.x, frame.y), axis=-1), POSE)
    centre = (np.arange(64) + 0.5) / 64
    assert image[..., 0] == pytest.approx(np.broadcast_to(centre, (64, 64)), abs=1e-5)
    assert image[..., 1] == pytest.approx(np.broadcast_to(centre[:, None], (64, 64)), abs=1e-5)


def test_tables_are_looked_up_at_the_pixel() -> None:
    frame = make_frame(128, POSE)
    assert frame.by_row(frame.rows.values) == pytest.approx(frame.y, abs=1 / 512)
    assert frame.by_column(frame.columns.values) == pytest.approx(frame.x, abs=1 / 512)
    sides = frame.by_row(np.zeros_like(frame.rows.values), np.ones_like(frame.rows.values))
    assert np.array_equal(sides == 1, frame.x >= 0)


def test_splatting_keeps_mass_and_centre_and_drops_what_is_off_the_image() -> None:
    points = np.array([[0.30, 0.71], [0.52, 0.48], [1.4, 0.5], [0.5, -0.2]], dtype=np.float32)
    drawn = splat(points, np.array([2.0, 3.0, 50.0, 50.0], dtype=np.float32), 50)
    assert drawn.sum() == pytest.approx(5.0)
    centre = (np.arange(50) + 0.5) / 50
    assert (drawn.sum(axis=0) * centre).sum() / 5 == pytest.approx((2 * 0.30 + 3 * 0.52) / 5, abs=1e-5)
    assert (drawn.sum(axis=1) * centre).sum() / 5 == pytest.approx((2 * 0.71 + 3 * 0.48) / 5, abs=1e-5)


@pytest.mark.parametrize("size", [64, 200, 512])
@pytest.mark.parametrize("half_width", [0.001, 0.02])
def test_a_stroke_has_its_area_at_every_size(size: int, half_width: float) -> None:
    path = np.array([[0.2, 0.3], [0.8, 0.6]], dtype=np.float32)
    drawn = draw([(1.0, stroke(path, half_width, np.ones(2, dtype=np.float32), size))], size)
    length = np.hypot(0.6, 0.3)
    assert drawn.sum() / size**2 == pytest.approx(2 * half_width * length, rel=0.02)
    if half_width * size > 2:
        assert drawn.max() == pytest.approx(1.0, abs=0.06)


def test_a_spline_passes_its_knots() -> None:
    knots = np.array([[0.0, 0.0], [0.2, 0.5], [0.7, 0.4], [1.0, 1.0]])
    curve = spline(knots, 31)
    assert curve[[0, 10, 20, 30]] == pytest.approx(knots, abs=1e-6)


def test_noise_is_one_field_at_every_size() -> None:
    small, large = (fractal_noise(np.random.default_rng(4), (4, 8), 0.5, size) for size in (64, 128))
    assert large.reshape(64, 2, 64, 2).mean(axis=(1, 3)) == pytest.approx(small, abs=0.02)


def test_bands_cover_a_rectangle_once() -> None:
    count = np.zeros((700, 300), dtype=int)
    for band in bands((slice(13, 690), slice(5, 280))):
        count[band] += 1
    assert count.sum() == 677 * 275
    assert set(np.unique(count)) == {0, 1}
