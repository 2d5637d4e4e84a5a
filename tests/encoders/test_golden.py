"""Golden embeddings: made with true weights only, compared with the same weights only, and drift is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evalfm.doctor import examine
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.golden import compare, find_golden, golden_file, make_golden, write_golden
from evalfm.errors import EvalfmError


@pytest.fixture
def trained(tmp_path: Path, home: Path) -> tuple[Encoder, Path]:
    drawn = load_encoder("squeezenet1-0.caffe", weights="random")
    tensors = {name.removeprefix("model."): each for name, each in drawn.state_dict().items()}
    save_file(tensors, tmp_path / "w.safetensors")
    return load_encoder("squeezenet1-0.caffe", weights=tmp_path / "w.safetensors"), tmp_path / "w.safetensors"


def without_golden(encoder: Encoder) -> Encoder:
    encoder.card = encoder.card.model_copy(update={"golden": None})
    return encoder


def test_what_was_written_is_found_and_the_same(trained: tuple[Encoder, Path]) -> None:
    encoder = without_golden(trained[0])
    assert find_golden(encoder.card) is None
    assert write_golden(encoder) == golden_file(encoder.card)
    golden = find_golden(encoder.card)
    assert golden is not None
    assert len(golden.pooled) == 16
    drift = compare(encoder, golden)
    assert drift is not None
    assert drift.same


def test_drift_is_seen(trained: tuple[Encoder, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = trained[0]
    golden = make_golden(encoder)
    encoder.preparer = type(encoder.preparer)(
        encoder.preparer.facts.model_copy(update={"mean": (123.0, 117.0, 114.0)}), "x"
    )
    drift = compare(encoder, golden)
    assert drift is not None
    assert not drift.same


def test_other_weights_are_not_compared(trained: tuple[Encoder, Path]) -> None:
    golden = make_golden(trained[0])
    assert compare(load_encoder("squeezenet1-0.caffe", weights="random", seed=1), golden) is None


def test_random_weights_and_other_sizes_make_none(trained: tuple[Encoder, Path]) -> None:
    with pytest.raises(EvalfmError, match="random weights"):
        make_golden(load_encoder("light-cnn"))
    with pytest.raises(EvalfmError, match="own input size"):
        make_golden(load_encoder("squeezenet1-0.caffe", weights=trained[1], input_size=96))


def test_the_doctor_tells_cost_company_and_drift(trained: tuple[Encoder, Path], monkeypatch: Any) -> None:
    findings = {each.name: each for each in examine("squeezenet1-0.caffe", weights=str(trained[1]), golden=True)}
    assert findings["encoder squeezenet1-0.caffe"].said.startswith("pooled 512, maps 256×56×56")
    assert findings["batches"].fine
    assert "golden embedding written" in findings
    assert "0.7 million parameters" in findings["cost"].said
    # Iandola et al. give 0.837 G multiply-adds at 227² with the classifier; here 224² and without it.
    assert 1.2 < float(findings["cost"].said.split(" GFLOP")[0].split()[-1]) < 1.7
    true = Encoder.encode

    def drifting(self: Encoder, batch: torch.Tensor) -> Any:
        batch = batch + (batch[0] * 0.1 if len(batch) > 1 else 0)
        return true(self, batch + torch.rand(()) if len(batch) > 1 else batch)

    monkeypatch.setattr(Encoder, "encode", drifting)
    spoilt = {each.name: each for each in examine("squeezenet1-0.caffe", weights=str(trained[1]), input_size=64)}
    assert spoilt["batches"].fine is False


def test_the_doctor_reads_texts_or_says_what_is_missing(home: Path) -> None:
    findings = {each.name: each for each in examine("pixels")}
    assert "text tower" not in findings
    assert findings["golden embedding"].fine is None
