"""The time of one image against an encoder that takes a known time, and its operations against arithmetic."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder
from evalfm.features import cost as module
from evalfm.features.cost import device_words, measure_cost, operation_counter

pytestmark = pytest.mark.usefixtures("in_full")


@pytest.fixture
def encoder() -> Encoder:
    return load_encoder("random:resnet18", input_size=64)


def test_the_pass_of_one_image_is_timed_after_a_first_one(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def slow(_: Encoder, given: tuple[torch.Tensor, ...]) -> None:
        shapes.append(tuple(given[0].shape))
        time.sleep(0.5 if len(shapes) == 1 else 0.03)

    encoder.register_forward_pre_hook(slow)
    monkeypatch.setattr(module, "ENOUGH_SECONDS", 0.1)
    found = measure_cost(encoder)
    # Half a second of warming up is in no figure.
    assert 30 <= found.milliseconds < 300
    assert set(shapes) == {(1, 3, 64, 64)}
    assert 1 + module.FEWEST_PASSES <= len(shapes) <= 1 + module.MOST_PASSES
    assert (found.batch, found.input_size, found.precision) == (1, (64, 64), "float32")
    assert found.device == device_words(torch.device("cpu"))


def test_operations_grow_with_the_pixels(encoder: Encoder) -> None:
    small, large = (
        measure_cost(encoder).gigaflops,
        measure_cost(load_encoder("random:resnet18", input_size=128)).gigaflops,
    )
    # ResNet-18 makes 1.8 billion multiplications, each with an addition, at 224².
    assert large == pytest.approx(4 * small, rel=0.02)
    assert small * (224 / 64) ** 2 == pytest.approx(3.63, rel=0.03)


def test_a_processor_is_named_with_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text("vendor_id\t: X\nmodel name\t: Some CPU @ 2 GHz\n")
    monkeypatch.setattr(module, "CPU_FACTS", facts)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert device_words(torch.device("cpu")) == "Some CPU @ 2 GHz, 1 thread"
    monkeypatch.setattr(module, "CPU_FACTS", tmp_path / "none")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert device_words(torch.device("cpu")).endswith(", 8 threads")
    assert device_words(torch.device("mps")) == "mps"


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_counts_among_the_operations_on_every_device(heads: int) -> None:
    tokens, dim = 10, 32
    query = torch.zeros(2, heads, tokens, dim // heads)
    with torch.no_grad(), operation_counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    # Scores and their weighted sum: each tokens × tokens × dim multiplications with an addition.
    assert counter.get_total_flops() == 2 * 2 * 2 * tokens**2 * dim
    with torch.no_grad(), operation_counter() as counter:
        torch.nn.Linear(dim, 3)(torch.zeros(5, dim))
    assert counter.get_total_flops() == 2 * 5 * dim * 3
