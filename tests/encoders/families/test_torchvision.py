"""SqueezeNet through its card against torchvision's own modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models

from evalfm.encoders import load_encoder
from evalfm.encoders.registry import CARDS
from evalfm.errors import EvalfmError


def test_maps_are_the_fire_modules_outputs_with_their_border_repeated(tmp_path: Path) -> None:
    model = torchvision.models.squeezenet1_0(weights=None).eval()
    np.savez(tmp_path / "weights.npz", **{name: each.numpy() for name, each in model.state_dict().items()})
    encoder = load_encoder("squeezenet1-0.caffe", weights=tmp_path / "weights.npz")
    batch = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        raw = [model.features[: last + 1](batch) for last in (5, 10, 12)]
    features = encoder.encode(batch)
    assert [each.shape[2] for each in raw] == [54, 27, 13]
    assert torch.allclose(features.maps[0][:, :, 1:-1, 1:-1], raw[0], atol=1e-6)
    for mine, theirs in zip(features.maps[1:], raw[1:], strict=True):
        assert torch.allclose(mine[:, :, 1:, 1:], theirs, atol=1e-6)
        assert torch.equal(mine[:, :, 0], mine[:, :, 1])
    assert torch.allclose(features.pooled, raw[2].mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_cell_lies_within_half_a_cell_of_what_it_sees(index: int) -> None:
    encoder = load_encoder("squeezenet1-0.caffe", weights="random")
    stride = encoder.map_strides[index]
    side = 224 // stride
    batch = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).requires_grad_()
    row, column = side // 2, side // 3
    encoder(batch).maps[index][0, :, row, column].square().sum().backward()
    assert batch.grad is not None
    weight = batch.grad[0].abs().sum(0)
    centre = torch.arange(224) + 0.5
    seen_y = float((weight.sum(1) * centre).sum() / weight.sum())
    seen_x = float((weight.sum(0) * centre).sum() / weight.sum())
    assert abs(seen_y - (row + 0.5) * stride) <= stride / 2
    assert abs(seen_x - (column + 0.5) * stride) <= stride / 2


def test_a_model_without_one_sequence_is_refused(tmp_path: Path) -> None:
    text = (CARDS / "squeezenet1-0.caffe.yaml").read_text()
    for wrong, said in (
        ("resnet18", "no sequence 'features'"),
        ("squeezenet1_9", "or 'squeezenet1_0'"),
    ):
        (tmp_path / "wrong.yaml").write_text(text.replace("squeezenet1_0", wrong))
        with pytest.raises(EvalfmError, match=said):
            load_encoder(str(tmp_path / "wrong.yaml"), weights="random")
