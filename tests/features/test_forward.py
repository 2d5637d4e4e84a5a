"""Batches of a size that fits: by rule, by measure, and by trial."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from torch import Tensor

from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder, Features
from evalfm.errors import EvalfmError
from evalfm.features import forward
from evalfm.features.forward import Forward, automatic_batch_size, search_batch_size


def free(monkeypatch: pytest.MonkeyPatch, count: int | None) -> None:
    monkeypatch.setattr(forward, "available_bytes", lambda: count)


def test_the_rule_is_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 10**10)
    monkeypatch.setattr(forward, "forward_bytes", lambda _: 1 / 0)
    assert automatic_batch_size(load_encoder("random:resnet18")) == 32
    assert automatic_batch_size(load_encoder("random:resnet18", input_size=512)) == 6
    assert automatic_batch_size(load_encoder("random:resnet18", input_size=2048)) == 1
    free(monkeypatch, None)
    assert automatic_batch_size(load_encoder("random:resnet18")) == 32


def test_short_memory_makes_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder("random:resnet18")
    monkeypatch.setattr(forward, "forward_bytes", lambda _: 10**7)
    free(monkeypatch, 4 * 10**8)
    assert automatic_batch_size(encoder) == 10
    free(monkeypatch, 10**6)
    assert automatic_batch_size(encoder) == 1


class Cramped:
    """Refuses batches of more than ``most``."""

    def __init__(self, encoder: Encoder, most: int, error: type[Exception]) -> None:
        self.encoder, self.most, self.error, self.sizes = encoder, most, error, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode(self, batch: Tensor, check=True) -> Features:
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return self.encoder.encode(batch)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_batch_that_does_not_fit_is_split_and_none_of_its_size_tried_again(error: type[Exception]) -> None:
    encoder = load_encoder("light-cnn")
    batch = torch.rand(13, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    cramped: Any = Cramped(encoder, 3, error)
    run = Forward(cramped)
    features, whole = run(batch), encoder.encode(batch)
    assert cramped.sizes == [13, 6, 3, 3, 3, 3, 1]
    assert torch.allclose(features.pooled, whole.pooled, atol=1e-6)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(features.maps, whole.maps, strict=True))
    run(batch[:5])
    assert cramped.sizes[7:] == [3, 2]


def test_where_not_even_the_measure_fits_the_batch_is_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = Cramped(load_encoder("light-cnn"), 0, torch.OutOfMemoryError)
    free(monkeypatch, 10**6)
    assert automatic_batch_size(encoder) == 1


def test_not_even_one() -> None:
    cramped: Any = Cramped(load_encoder("light-cnn"), 0, torch.OutOfMemoryError)
    with pytest.raises(EvalfmError, match="Not even one image of 64 x 64 fits the memory of cpu"):
        Forward(cramped)(torch.zeros(4, 1, 64, 64))


def test_other_faults_are_not_taken_for_short_memory() -> None:
    cramped: Any = Cramped(load_encoder("light-cnn"), 0, ValueError)
    with pytest.raises(ValueError):
        Forward(cramped)(torch.zeros(4, 1, 64, 64))


def test_wrong_channels_are_refused() -> None:
    encoder = load_encoder("light-cnn")

    class Liar(Cramped):
        pooled_dim = 7

    liar: Any = Liar(encoder, 9, ValueError)
    with pytest.raises(EvalfmError, match="gives"):
        Forward(liar)(torch.zeros(2, 1, 64, 64))


def test_a_process_with_little_memory_finishes() -> None:
    # The limit leaves 500 MB; a batch of 24 at 448² wants 1.1 GB.
    code = """
        import resource, torch
        torch.set_num_threads(1)
        from pathlib import Path
        from evalfm.encoders import load_encoder
        from evalfm.features.forward import Forward, automatic_batch_size, search_batch_size
        encoder = load_encoder("light-cnn", input_size=448)
        encoder.encode(torch.zeros(1, 1, 448, 448))
        batch = torch.rand(24, 1, 448, 448)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 500_000_000, resource.RLIM_INFINITY))
        size = automatic_batch_size(encoder)
        run = Forward(encoder)
        pooled = torch.cat([run(part).pooled for part in batch.split(size)])
        assert tuple(pooled.shape) == (24, 256)
        print(size)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) < 8


@pytest.mark.parametrize(
    ("most", "busy_from", "size"),
    [(1000, 1, 32), (1000, 100, 128), (1000, 10_000, 512), (64, 10_000, 64), (32, 1, 32), (5, 1, 4), (0, 1, 1)],
)
def test_the_smallest_batch_that_keeps_a_gpu_busy_is_found(most: int, busy_from: int, size: int) -> None:
    tried: list[int] = []

    def rate(images: int) -> float | None:
        tried.append(images)
        return None if images > most else 100.0 * min(images, busy_from)

    assert search_batch_size(rate, 32, 512) == size
    assert len(tried) == len(set(tried)) <= 7
    # One step beyond what is enough, and none beyond what does not fit.
    assert max(tried) <= max(32, 2 * size)


def test_a_batch_that_is_slower_than_its_half_is_not_taken() -> None:
    assert search_batch_size({32: 100.0, 64: 150.0, 128: 140.0}.get, 32, 512) == 64
    assert search_batch_size({32: 100.0, 64: 98.0}.get, 32, 512) == 32
