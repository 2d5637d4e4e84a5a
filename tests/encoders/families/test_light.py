from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from evalfm.encoders import load_encoder
from evalfm.encoders.registry import CARDS
from evalfm.errors import EvalfmError


def by_hand(tensors: dict[str, Tensor], batch: Tensor) -> list[Tensor]:
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
def test_it_is_four_blocks_of_convolution_norm_and_pooling(size: int) -> None:
    encoder = load_encoder("light-cnn", input_size=size)
    batch = torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(0))
    encoder.train()(batch)
    expected = by_hand(encoder.eval().state_dict(), batch)
    features = encoder.encode(batch)
    for mine, theirs in zip(features.maps, (expected[0], expected[1], expected[3]), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert torch.allclose(features.pooled, expected[3].mean((2, 3)), atol=1e-5)
    assert [each.shape[2] for each in features.maps] == [-(-size // stride) for stride in (2, 4, 8)]


def test_its_weights_are_always_drawn_and_it_says_so() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    default, asked = load_encoder("light-cnn"), load_encoder("light-cnn", weights="random")
    assert torch.equal(torch.rand(1), expected)
    assert default.random_weights
    assert asked.random_weights
    assert default.key == asked.key
    assert default.notes == ("light-cnn has random weights: it has learnt nothing.",)
    assert load_encoder("light-cnn", weights="random", seed=1).weights_digest != default.weights_digest
    with pytest.raises(EvalfmError, match="takes no weights"):
        load_encoder("light-cnn", weights="some.pt")


def test_every_parameter_is_on_the_way_to_the_deepest_map() -> None:
    encoder = load_encoder("light-cnn", input_size=28).train()
    encoder(torch.randn(4, 1, 28, 28)).maps[-1].square().mean().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize(("size", "said"), [(24, "28 pixels or more"), (30, "multiples of 4")])
def test_other_sizes_are_refused(size: int, said: str) -> None:
    with pytest.raises(EvalfmError, match=said):
        load_encoder("light-cnn", input_size=size)


def test_another_architecture_is_refused(tmp_path: object) -> None:
    text = (CARDS / "light-cnn.yaml").read_text().replace("architecture: light-cnn", "architecture: light-cmn")
    path = f"{tmp_path}/wrong.yaml"
    with open(path, "w") as file:
        file.write(text)
    with pytest.raises(EvalfmError, match="'light-cnn'"):
        load_encoder(path)
