"""A real manifest and a real encoder through the store."""

from __future__ import annotations

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.encoders import load_encoder
from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.features.tables import MetadataSource


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    generator = np.random.default_rng(0)
    for number in range(6):
        pixels = generator.integers(0, 256, (40 + number, 50), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    table = pd.DataFrame(
        {
            "id": [f"film{number}" for number in range(7)],
            "image": [f"{number}.png" for number in [*range(6), 2]],
            "sex": ["F", "M", "F", None, "M", "F", "F"],
        }
    )
    return Manifest(DatasetInfo(name="made-up", attributes=["sex"]), table, tmp_path)


def test_pixels_of_a_manifest_are_stored_and_served(manifest, tmp_path):
    encoder = load_encoder("pixels")
    store = FeatureStore(tmp_path / "store")
    source = EncodedSource(encoder, manifest, store, batch_size=4)
    expected = torch.cat([encoder.encode(encoder.prepare(manifest.image(row))[0][None]).pooled for row in range(7)])
    torch.testing.assert_close(source.features(range(7)).pooled, expected, rtol=1e-5, atol=1e-5)
    assert source.encoded_images == 6
    assert source.key == encoder.key
    again = EncodedSource(encoder, manifest.select([5, 1]), store)
    assert torch.equal(again.features([0, 1]).pooled, source.features([5, 1]).pooled)
    assert again.encoder_calls == 0
    assert again.geometry(0) == encoder.prepare(manifest.image(5))[1]


def test_a_truncated_radiograph_is_named(manifest, tmp_path):
    path = tmp_path / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    source = EncodedSource(load_encoder("pixels"), manifest, FeatureStore(tmp_path / "store"))
    with pytest.raises(EvalfmError, match=r"3\.png"):
        source.features(range(7))


def test_metadata_of_a_manifest(manifest):
    source = MetadataSource(manifest, ["sex"])
    assert source.feature_names == ("sex=F", "sex=M", "sex unknown")
    assert source.features(range(7)).pooled.sum(0).tolist() == [4, 2, 1]
