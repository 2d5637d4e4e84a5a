"""The golden embedding on the card of the one network whose true weights are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalfm.encoders import load_encoder
from evalfm.encoders.golden import compare

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WEIGHTS = SHARED / "weights" / "squeezenet1_0_torchvision_keys_rgb255.npz"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")


def test_squeezenet_is_what_its_card_remembers_and_torchvisions_scaling_is_not() -> None:
    encoder = load_encoder("squeezenet1-0.caffe", weights=WEIGHTS)
    golden = encoder.card.golden
    assert golden is not None
    found = compare(encoder, golden)
    assert found is not None
    assert found.same
    scaled = {"input_range": (0.0, 1.0), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    encoder.preparer = type(encoder.preparer)(encoder.preparer.facts.model_copy(update=scaled), encoder.card.name)
    wrong = compare(encoder, golden)
    assert wrong is not None
    assert wrong.difference > 0.5
