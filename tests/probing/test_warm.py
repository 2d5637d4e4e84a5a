from __future__ import annotations

from pathlib import Path

import pytest

from evalfm.config import EncoderConfig
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.probing.warm import WarmEncoders

VIT, RESNET = EncoderRef.parse("random:test_vit"), EncoderRef.parse("random:test_resnet")


class Loads:
    """Counts what is loaded."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Encoder:
        self.count += 1
        return load_encoder("pixels")


def test_the_same_is_loaded_once_and_another_takes_its_place() -> None:
    warm, loads = WarmEncoders(1), Loads()
    first = warm.get(VIT, EncoderConfig(), "cpu", 0, loads)
    assert warm.get(VIT, EncoderConfig(batch_size=3, maps="store"), "cpu", 0, loads) is first
    assert loads.count == 1
    warm.get(RESNET, EncoderConfig(), "cpu", 0, loads)
    assert warm.get(VIT, EncoderConfig(), "cpu", 0, loads) is not first
    assert loads.count == 3


@pytest.mark.parametrize(
    ("settings", "device", "seed"),
    [
        ({"weights": "random"}, "cpu", 0),
        ({"input_size": 64}, "cpu", 0),
        ({"resize": "letterbox"}, "cpu", 0),
        ({"precision": "bfloat16"}, "cpu", 0),
        ({"compile": True}, "cpu", 0),
        ({}, "cuda", 0),
        ({}, "cpu", 1),
    ],
)
def test_whatever_decides_the_encoder_is_asked(settings: dict[str, object], device: str, seed: int) -> None:
    warm, loads = WarmEncoders(2), Loads()
    warm.get(VIT, EncoderConfig(), "cpu", 0, loads)
    warm.get(VIT, EncoderConfig.model_validate(settings), device, seed, loads)
    assert loads.count == 2


def test_weights_that_were_changed_are_read_anew(tmp_path: Path) -> None:
    warm, loads, file = WarmEncoders(1), Loads(), tmp_path / "weights.pt"
    for content in ("one", "another"):
        file.write_text(content)
        warm.get(VIT, EncoderConfig(weights=str(file)), "cpu", 0, loads)
    assert loads.count == 2


@pytest.mark.parametrize("name", ["mine.py:build", "pixels", "hog"])
def test_code_and_what_loads_nothing_is_made_anew_and_drives_nothing_out(name: str) -> None:
    warm, loads = WarmEncoders(1), Loads()
    first = warm.get(VIT, EncoderConfig(), "cpu", 0, loads)
    for _ in range(2):
        warm.get(EncoderRef.parse(name), EncoderConfig(), "cpu", 0, loads)
    assert loads.count == 3
    assert warm.get(VIT, EncoderConfig(), "cpu", 0, loads) is first


def test_a_folder_of_weights_is_read_anew(tmp_path: Path) -> None:
    warm, loads = WarmEncoders(1), Loads()
    for _ in range(2):
        warm.get(VIT, EncoderConfig(weights=str(tmp_path)), "cpu", 0, loads)
    assert loads.count == 2
