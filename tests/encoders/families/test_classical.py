"""The untrained encoders against plain numpy and scipy."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import dctn

from evalfm.encoders import load_encoder


def pictures(count: int = 2) -> NDArray[np.float32]:
    generator = np.random.default_rng(4)
    y, x = np.mgrid[0:256, 0:256] / 256
    waves = [np.sin(9 * x * (1 + each)) * np.cos(7 * y) for each in range(count)]
    noise = generator.random((count, 256, 256))
    return (0.5 + 0.3 * np.stack(waves) + 0.1 * (noise - 0.5)).astype(np.float32)


def test_pixels_pools_the_low_cosine_frequencies() -> None:
    given = pictures()
    features = load_encoder("pixels").encode(torch.from_numpy(given)[:, None])
    small = given.reshape(2, 32, 8, 32, 8).mean((2, 4))
    expected = dctn(small, axes=(1, 2), norm="ortho")[:, :16, :16].reshape(2, 256)
    assert np.abs(features.pooled.numpy() - expected).max() < 1e-4
    # Orthonormal: the first coefficient is the mean times the side.
    assert np.allclose(features.pooled[:, 0], 32 * given.mean((1, 2)), rtol=1e-5)


def test_the_pixel_map_holds_each_cells_own_pixels() -> None:
    given = pictures()
    features = load_encoder("pixels").encode(torch.from_numpy(given)[:, None])
    fine = given.reshape(2, 64, 4, 64, 4).mean((2, 4))
    for row, column in [(0, 0), (3, 11), (15, 15)]:
        block = fine[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(2, 16)
        assert np.abs(features.maps[0][:, :, row, column].numpy() - block).max() < 1e-6


def hog_by_hand(image: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normalised cell histograms [32, 32, 9] and energies [32, 32], gradient by gradient."""
    padded = np.pad(image.astype(np.float64), 1, mode="edge")
    across = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = padded[2:, 1:-1] - padded[:-2, 1:-1]
    magnitude = np.hypot(across, down)
    degrees = np.degrees(np.arctan2(down, across)) % 180
    cells = np.zeros((32, 32, 9))
    for y in range(256):
        for x in range(256):
            position = degrees[y, x] / 20
            lower = int(position)
            share = position - lower
            cells[y // 8, x // 8, lower % 9] += magnitude[y, x] * (1 - share) / 64
            cells[y // 8, x // 8, (lower + 1) % 9] += magnitude[y, x] * share / 64
    total, count = np.zeros_like(cells), np.zeros((32, 32, 1))
    for y in range(31):
        for x in range(31):
            block = cells[y : y + 2, x : x + 2]
            block = np.minimum(block / np.sqrt((block**2).sum() + 1e-6), 0.2)
            total[y : y + 2, x : x + 2] += block / np.sqrt((block**2).sum() + 1e-6)
            count[y : y + 2, x : x + 2] += 1
    return total / count, np.log1p(cells.sum(2))


def test_hog_is_the_histogram_made_by_hand() -> None:
    given = pictures(1)
    features = load_encoder("hog").encode(torch.from_numpy(given)[:, None])
    cells, energy = hog_by_hand(given[0])
    assert np.abs(features.maps[0][0, :9].numpy().transpose(1, 2, 0) - cells).max() < 1e-3
    assert np.abs(features.maps[0][0, 9].numpy() - energy).max() < 1e-4
    grid = cells.reshape(8, 4, 8, 4, 9).mean((1, 3)).transpose(2, 0, 1).reshape(576)
    assert np.abs(features.pooled[0].numpy() - grid).max() < 1e-4


@pytest.mark.parametrize(("angle", "orientation"), [(0, 0), (40, 2), (90, 4), (160, 8)])
def test_a_slope_votes_for_its_own_orientation(angle: int, orientation: int) -> None:
    y, x = np.mgrid[0:256, 0:256] / 512
    slope = x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle)) + 0.3
    maps = load_encoder("hog").encode(torch.from_numpy(slope.astype(np.float32))[None, None]).maps[0]
    # 90 degrees lies halfway between two orientations.
    assert int(maps[0, :9, 12, 20].argmax()) in {orientation, orientation + (angle == 90)}


def test_a_blank_film_has_no_gradients_and_no_nan() -> None:
    features = load_encoder("hog").encode(torch.full((1, 1, 256, 256), 0.5))
    assert float(features.pooled.abs().max()) < 0.01
    assert float(features.maps[0].abs().max()) < 0.01


@pytest.mark.parametrize("name", ["pixels", "hog"])
def test_the_floors_cost_little(name: str) -> None:
    encoder = load_encoder(name)
    batch = torch.rand(16, 1, 256, 256)
    encoder.encode(batch)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        encoder.encode(batch)
        seconds.append(time.process_time() - start)
    # Measured at over 600 images a second on one idle core; the bound is wide because machines are shared.
    assert 16 / min(seconds) > 30
