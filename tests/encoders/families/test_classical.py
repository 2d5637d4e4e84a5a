"""The encoders without published weights against plain numpy, scipy and torch."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from torch import Tensor
from torch.nn import functional

from evalfm.encoders import load_encoder
from evalfm.encoders.registry import CARDS
from evalfm.errors import EvalfmError


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


def test_a_blank_radiograph_has_no_gradients_and_no_nan() -> None:
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


def light_cnn_by_hand(tensors: dict[str, Tensor], batch: Tensor) -> list[Tensor]:
    """Four blocks written out; the batch's own statistics are not used."""
    layers = []
    for index in range(4):
        batch = functional.conv2d(batch, tensors[f"blocks.{index}.0.weight"], padding=1)
        norm = [tensors[f"blocks.{index}.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        batch = functional.relu(functional.batch_norm(batch, *norm))
        if index < 3:
            odd = (0, batch.shape[3] % 2, 0, batch.shape[2] % 2)
            batch = functional.max_pool2d(functional.pad(batch, odd), 2)
        layers.append(batch)
    return layers


@pytest.mark.parametrize("size", [28, 36, 64])
def test_light_cnn_is_four_blocks_of_convolution_norm_and_pooling(size: int) -> None:
    encoder = load_encoder("light-cnn", input_size=size)
    batch = torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(0))
    encoder.train()(batch)
    expected = light_cnn_by_hand(encoder.eval().state_dict(), batch)
    features = encoder.encode(batch)
    for mine, theirs in zip(features.maps, (expected[0], expected[1], expected[3]), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert torch.allclose(features.pooled, expected[3].mean((2, 3)), atol=1e-5)
    assert [each.shape[2] for each in features.maps] == [-(-size // stride) for stride in (2, 4, 8)]


def test_light_cnns_weights_are_always_drawn_and_it_says_so() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    default, drawn = load_encoder("light-cnn"), load_encoder("light-cnn", weights="random")
    assert torch.equal(torch.rand(1), expected)
    assert default.random_weights
    assert drawn.random_weights
    assert default.key == drawn.key
    assert list(map(str, default.cautions)) == ["light-cnn has random weights: it has learnt nothing."]
    assert load_encoder("light-cnn", weights="random", seed=1).weights_digest != default.weights_digest
    with pytest.raises(EvalfmError, match="takes no weights"):
        load_encoder("light-cnn", weights="some.pt")


def test_every_parameter_of_light_cnn_is_on_the_way_to_the_deepest_map() -> None:
    encoder = load_encoder("light-cnn", input_size=28).train()
    encoder(torch.randn(4, 1, 28, 28)).maps[-1].square().mean().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize(("size", "said"), [(24, "28 pixels or more"), (30, "multiples of 4")])
def test_other_sizes_are_refused_by_light_cnn(size: int, said: str) -> None:
    with pytest.raises(EvalfmError, match=said):
        load_encoder("light-cnn", input_size=size)


def test_another_architecture_is_refused(tmp_path: object) -> None:
    text = (CARDS / "light-cnn.yaml").read_text().replace("architecture: light-cnn", "architecture: light-cmn")
    path = f"{tmp_path}/wrong.yaml"
    with open(path, "w") as file:
        file.write(text)
    with pytest.raises(EvalfmError, match="'light-cnn'"):
        load_encoder(path)
