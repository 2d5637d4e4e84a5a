"""Tiny DINOv2 checkpoints against transformers' own classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Backbone, Dinov2Config, Dinov2Model

from evalfm.encoders import load_encoder
from evalfm.encoders.registry import CARDS
from evalfm.errors import EvalfmError

ARGUMENTS = {
    "image_size": 56,
    "patch_size": 14,
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
}


def drawn() -> Dinov2Model:
    model = Dinov2Model(Dinov2Config(**ARGUMENTS)).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model


@pytest.fixture
def card(tmp_path: Path) -> str:
    content = yaml.safe_load((CARDS / "dinov2-base.yaml").read_text())
    content |= {
        "name": "tiny-dinov2",
        "arguments": ARGUMENTS,
        "parameters": sum(each.numel() for each in drawn().parameters()),
        "poolings": {"cls": 32, "mean": 32},
        "map_layers": [0, 1, 2, 3, 4],
        "map_channels": [32] * 5,
        "weights": {"source": "path"},
    }
    content["preprocessing"] |= {"input_size": [56, 56], "resize_to": 64}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def batch() -> Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def test_a_saved_folder_gives_the_librarys_own_features(card: str, tmp_path: Path) -> None:
    model = drawn()
    model.save_pretrained(tmp_path / "model")
    encoder = load_encoder(card, weights=tmp_path / "model")
    features = encoder.encode(batch())
    with torch.no_grad():
        output = model(pixel_values=batch())
    assert torch.allclose(features.pooled, output.pooler_output, atol=1e-6)
    assert torch.allclose(features.maps[-1].flatten(2).transpose(1, 2), output.last_hidden_state[:, 1:], atol=1e-6)
    # transformers' backbone normalises each stage and drops the CLS token by itself.
    backbone = Dinov2Backbone(Dinov2Config(**ARGUMENTS, out_indices=[1, 2, 3, 4, 5])).eval()
    assert backbone.load_state_dict(model.state_dict(), strict=False).missing_keys == []
    with torch.no_grad():
        expected = backbone(pixel_values=batch()).feature_maps
    assert len(features.maps) == len(expected) == 5
    for mine, theirs in zip(features.maps, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    mean = load_encoder(f"{card}@mean", weights=tmp_path / "model").encode(batch()).pooled
    assert torch.allclose(mean, output.last_hidden_state[:, 1:].mean(1), atol=1e-6)


def test_the_maps_rows_run_down_and_its_columns_across(card: str, tmp_path: Path) -> None:
    model = drawn()
    model.save_pretrained(tmp_path / "model")
    encoder = load_encoder(card, weights=tmp_path / "model", precision="float32")
    plain, marked = torch.zeros(1, 3, 56, 56), torch.zeros(1, 3, 56, 56)
    marked[:, :, 14:28, 42:56] = 0.1
    # After one block attention has spread little: the marked patch differs most.
    change = (encoder.encode(marked).maps[0] - encoder.encode(plain).maps[0]).norm(dim=1)[0]
    assert int(change.argmax()) == 1 * 4 + 3


LEGACY = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


@pytest.mark.parametrize("prefix", ["", "dinov2."])
def test_names_of_older_releases_load_tensor_for_tensor(card: str, tmp_path: Path, prefix: str) -> None:
    tensors = drawn().state_dict()
    renamed = {}
    for name, tensor in tensors.items():
        for new, old in LEGACY.items():
            name = name.replace(new, old)
        renamed[prefix + name] = tensor.contiguous()
    assert sum(".attention.query" in name for name in renamed) == 10
    save_file(renamed, tmp_path / "legacy.safetensors")
    loaded = load_encoder(card, weights=tmp_path / "legacy.safetensors").state_dict()
    assert set(loaded) == {f"model.{name}" for name in tensors}
    assert all(torch.equal(loaded[f"model.{name}"], tensor) for name, tensor in tensors.items())


def drop(tensors: dict[str, Tensor]) -> None:
    del tensors["encoder.layer.2.norm1.weight"]


def add(tensors: dict[str, Tensor]) -> None:
    tensors["encoder.layer.9.norm1.weight"] = torch.ones(32)


def reshape(tensors: dict[str, Tensor]) -> None:
    tensors["layernorm.weight"] = torch.ones(31)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop, r"missing: encoder\.layer\.2\.norm1\.weight"),
        (add, r"not known to the model: encoder\.layer\.9\.norm1\.weight"),
        (reshape, r"layernorm\.weight \[31\] instead of \[32\]"),
    ],
)
def test_what_the_library_would_draw_anew_is_refused(
    card: str, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in drawn().state_dict().items()}
    spoil(tensors)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(EvalfmError, match=said):
        load_encoder(card, weights=tmp_path / "wrong.safetensors")


def test_a_config_of_another_model_is_refused(card: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    drawn().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    with pytest.raises(EvalfmError, match="num_attention_heads 4 instead of 2"):
        load_encoder(card, weights=folder)


def test_initial_values_in_a_config_are_no_facts_of_a_trained_model(card: str, tmp_path: Path) -> None:
    model = drawn()
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    assert config["layerscale_value"] == 1.0
    path.write_text(json.dumps({**config, "layerscale_value": 1e-5, "initializer_range": 0.01}))
    encoder = load_encoder(card, weights=tmp_path / "model")
    with torch.no_grad():
        expected = model(pixel_values=batch()).pooler_output
    assert torch.allclose(encoder.encode(batch()).pooled, expected, atol=1e-6)
    named = yaml.safe_load(Path(card).read_text())
    named["arguments"] = {**named["arguments"], "layerscale_value": 0.5}
    Path(card).write_text(yaml.safe_dump(named))
    assert load_encoder(card, weights=tmp_path / "model").weights_digest == encoder.weights_digest
    path.write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    with pytest.raises(EvalfmError, match=r"layer_norm_eps 0[.]001 instead of"):
        load_encoder(card, weights=tmp_path / "model")


def test_a_model_saved_in_shards_is_read_whole(card: str, tmp_path: Path) -> None:
    model = drawn()
    model.save_pretrained(tmp_path / "model", max_shard_size="60KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 2
    encoder = load_encoder(card, weights=tmp_path / "model")
    with torch.no_grad():
        expected = model(pixel_values=batch()).pooler_output
    assert torch.allclose(encoder.encode(batch()).pooled, expected, atol=1e-6)


def test_another_size_interpolates_as_the_library_does_and_says_so(card: str, tmp_path: Path) -> None:
    model = drawn()
    model.save_pretrained(tmp_path / "model")
    encoder = load_encoder(card, weights=tmp_path / "model", input_size=84)
    larger = torch.randn(1, 3, 84, 84, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(pixel_values=larger).last_hidden_state
    features = encoder.encode(larger)
    assert torch.allclose(features.maps[-1].flatten(2).transpose(1, 2), expected[:, 1:], atol=1e-6)
    assert any("interpolates the positions" in str(each) for each in encoder.cautions)


def test_half_precision_weights_run_in_float32(card: str, tmp_path: Path) -> None:
    tensors = {name: tensor.half().contiguous() for name, tensor in drawn().state_dict().items()}
    save_file(tensors, tmp_path / "half.safetensors")
    encoder = load_encoder(card, weights=tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_an_unknown_class_is_refused(card: str, tmp_path: Path) -> None:
    for wrong in ("Dinov9Model", "Dinov2Config"):
        text = Path(card).read_text().replace("Dinov2Model", wrong)
        (tmp_path / "wrong.yaml").write_text(text)
        with pytest.raises(EvalfmError, match=f"no model class '{wrong}'"):
            load_encoder(str(tmp_path / "wrong.yaml"), weights="random")
