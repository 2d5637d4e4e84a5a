"""Real trained weights and real images through the encoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models
from PIL import Image as Pil
from torch import Tensor, nn

from evalfm.data.images import Image, read_image
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WEIGHTS = SHARED / "weights" / "squeezenet1_0_torchvision_keys_rgb255.npz"

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("squeezenet1-0.caffe", weights=WEIGHTS)


@pytest.fixture(scope="module")
def oracle() -> nn.Module:
    model = torchvision.models.squeezenet1_0(weights=None).eval()
    with np.load(WEIGHTS) as archive:
        model.load_state_dict({name: torch.from_numpy(archive[name]) for name in archive.files})
    return model


def images(count: int = 4) -> list[Path]:
    return sorted((SHARED / "nih-cxr14-starter" / "images").glob("*.png"))[:count]


def by_hand(path: Path) -> Tensor:
    """RGB 0-255 minus the authors' mean colour, squashed to 224 x 224 by PIL in float."""
    grey = np.asarray(Pil.open(path).convert("L")).astype(np.float32)
    resized = np.asarray(Pil.fromarray(grey).resize((224, 224), Pil.Resampling.BILINEAR))
    return torch.from_numpy(np.stack([resized - mean for mean in (123, 117, 104)]))


def prepared(encoder: Encoder, path: Path) -> Tensor:
    return encoder.prepare(read_image(path.name, path.parent))[0]


def test_the_real_weights_give_torchvisions_own_features(encoder: Encoder, oracle: nn.Module) -> None:
    batch = torch.stack([prepared(encoder, path) for path in images()])
    expected_input = torch.stack([by_hand(path) for path in images()])
    assert float((batch - expected_input).abs().max()) < 5e-3
    features = encoder.encode(expected_input)
    with torch.no_grad():
        layers = list(oracle.get_submodule("features").children())
        raw = expected_input
        kept = {}
        for index, layer in enumerate(layers):
            raw = layer(raw)
            kept[index] = raw.clone()
    scale = float(raw.mean((2, 3)).abs().max())
    assert scale > 1
    assert float((features.pooled - raw.mean((2, 3))).abs().max()) < 1e-5 * scale
    assert float((features.maps[0][:, :, 1:-1, 1:-1] - kept[5]).abs().max()) < 1e-5 * float(kept[5].max())
    assert float((features.maps[1][:, :, 1:, 1:] - kept[10]).abs().max()) < 1e-5 * float(kept[10].max())
    assert float((features.maps[2][:, :, 1:, 1:] - kept[12]).abs().max()) < 1e-5 * float(kept[12].max())


def test_the_real_weights_are_the_cards_and_nothing_is_random(encoder: Encoder) -> None:
    assert encoder.random_weights is False
    assert encoder.state.weights_file == encoder.card.weights.sha256
    assert not any("another file" in str(each) for each in encoder.cautions)
    with np.load(WEIGHTS) as archive:
        loaded = encoder.state_dict()
        used = [name for name in archive.files if name.startswith("features.")]
        assert len(used) == len(loaded) == 50
        assert all(np.array_equal(loaded[f"model.{name}"].numpy(), archive[name]) for name in used)


def test_torchvisions_own_scaling_would_give_other_features(encoder: Encoder) -> None:
    given = torch.stack([prepared(encoder, path) for path in images()])
    right = encoder.encode(given).pooled
    unit = (given + torch.tensor([123.0, 117, 104])[:, None, None]) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wrong = encoder.encode((unit - mean[:, None, None]) / std[:, None, None]).pooled
    similarity = torch.cosine_similarity(right, wrong)
    assert float(similarity.max()) < 0.95
    assert float((right.norm(dim=1) / wrong.norm(dim=1)).min()) > 2


def test_trained_features_tell_radiographs_apart_better_than_their_mean(encoder: Encoder) -> None:
    given = torch.stack([prepared(encoder, path) for path in images(8)])
    pooled = encoder.encode(given).pooled
    apart = torch.pdist(pooled)
    again = encoder.encode(given + torch.randn(given.shape, generator=torch.Generator().manual_seed(0))).pooled
    assert float((again - pooled).norm(dim=1).max()) < float(apart.min())


@pytest.mark.parametrize("name", ["pixels", "hog", "squeezenet1-0.caffe"])
def test_a_dicom_of_16_bits_goes_through(name: str, encoder: Encoder) -> None:
    image: Image = read_image("RG1_J2KI.dcm", SHARED / "dicom")
    model = encoder if name == encoder.card.name else load_encoder(name)
    tensor, geometry = model.prepare(image)
    assert geometry.source == (1955, 1841)
    features = model.encode(tensor[None])
    assert bool(torch.isfinite(features.pooled).all())
    # More levels than 8 bits can hold reach the model.
    assert len(torch.unique(tensor[0])) > 10_000


@pytest.mark.parametrize("name", ["pixels", "squeezenet1-0.caffe"])
def test_a_real_heart_mask_comes_back_through_the_geometry(name: str, encoder: Encoder) -> None:
    model = encoder if name == encoder.card.name else load_encoder(name)
    for path in sorted((SHARED / "wingspan-ctr" / "mask" / "heart").glob("*.png"))[:5]:
        mask = torch.from_numpy((np.asarray(Pil.open(path)) > 0).astype(np.float32))[None]
        geometry = model.geometry_of(*mask.shape[1:])
        back = geometry.to_source(geometry.to_input(mask)) > 0.5
        truth = mask > 0.5
        assert float((back & truth).sum() / (back | truth).sum()) >= 0.98
