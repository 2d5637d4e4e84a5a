"""Tiny checkpoints of CLIP, SigLIP, MAE, I-JEPA, Swin and Curia against the library's own forwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from evalfm.data.images import Image
from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError

VISION = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 20,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WORDS = ["<pad>", "<s>", "</s>", "no", "pneumothorax", "a", "photo", "of", "heart", "Heart"]


def tokenizer(folder: Path) -> None:
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    made.save(str(folder / "tokenizer.json"))


def drawn(model: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model.eval()


def tiny(name: str, **changes: Any) -> EncoderCard:
    """The built-in card with a small model; every other fact is its own."""
    content = find_card(name).model_dump(mode="json", by_alias=True)
    content |= {"map_layers": [0, 1, 2, 3, 4], "map_channels": [32] * 5, "map_strides": [16] * 5, "size_multiple": 16}
    content["preprocessing"] |= {"input_size": [64, 64]}
    if content["preprocessing"]["resize_to"] is not None:
        content["preprocessing"]["resize_to"] = 64
    content["weights"] |= {"source": "path"}
    return EncoderCard.model_validate(content | changes)


def clip_card() -> EncoderCard:
    content = find_card("clip-l14").text_tower
    assert content is not None
    tower = content.model_dump() | {"dim": 20, "context_length": 12, "arguments": {"pad_id": 2}}
    return tiny(
        "clip-l14",
        arguments={"projection_dim": 20, "vision_config": VISION, "text_config": TEXT},
        poolings={"cls": 32, "projection": 20, "mean": 32},
        text_tower=tower,
        parameters=sum(each.numel() for each in clip_model().vision_model.parameters()) + 32 * 20,
    )


def clip_model() -> Any:
    config = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=20)
    return drawn(transformers.CLIPModel(config))


def siglip_card(name: str = "medsiglip", **arguments: Any) -> EncoderCard:
    content = find_card(name).text_tower
    assert content is not None
    tower = content.model_dump() | {"dim": 32, "context_length": 12}
    tower["arguments"] = tower["arguments"] | {"pad_id": 0} | arguments
    return tiny(
        name,
        arguments={"vision_config": VISION, "text_config": {**TEXT, "projection_size": 32}},
        poolings={"map": 32, "mean": 32},
        text_tower=tower,
        parameters=sum(each.numel() for each in siglip_model().vision_model.parameters()),
    )


def siglip_model() -> Any:
    config = transformers.SiglipConfig(vision_config=VISION, text_config={**TEXT, "projection_size": 32})
    return drawn(transformers.SiglipModel(config))


def batch(channels: int = 3, size: int = 64) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def folder_of(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer(folder)
    return folder


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.allclose(one, other, atol=1e-5, rtol=1e-5))


def as_grid(tokens: Tensor) -> Tensor:
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def test_clip_gives_its_own_cls_projection_and_maps(tmp_path: Path) -> None:
    model = clip_model()
    weights = folder_of(model, tmp_path)
    encoder = load_encoder(clip_card(), weights=weights)
    features = encoder.encode(batch())
    with torch.no_grad():
        output = model.vision_model(pixel_values=batch(), output_hidden_states=True)
        projected = model.get_image_features(pixel_values=batch()).pooler_output
    assert same(features.pooled, output.pooler_output)
    for mine, theirs in zip(features.maps, output.hidden_states[1:], strict=True):
        assert same(mine, as_grid(theirs[:, 1:]))
    joint = load_encoder(clip_card().model_copy(update={"pooling": "projection"}), weights=weights)
    assert same(joint.encode(batch()).pooled, projected)
    assert not any("text" in name for name, _ in encoder.named_parameters())


def test_siglip_gives_its_own_head_and_normed_maps(tmp_path: Path) -> None:
    model = siglip_model()
    features = load_encoder(siglip_card(), weights=folder_of(model, tmp_path)).encode(batch())
    with torch.no_grad():
        output = model.vision_model(pixel_values=batch(), output_hidden_states=True)
        projected = model.get_image_features(pixel_values=batch()).pooler_output
        normed = [model.vision_model.post_layernorm(each) for each in output.hidden_states[1:]]
    assert same(features.pooled, projected)
    assert same(features.maps[-1], as_grid(output.last_hidden_state))
    for mine, theirs in zip(features.maps, normed, strict=True):
        assert same(mine, as_grid(theirs))


TEXTS = ["no pneumothorax", "a photo of heart"]


def test_clip_reads_text_as_the_library_does(tmp_path: Path) -> None:
    model = clip_model()
    encoder = load_encoder(clip_card(), weights=folder_of(model, tmp_path))
    ids = torch.tensor([[1, 3, 4, 2] + [2] * 8, [1, 5, 6, 7, 8, 2] + [2] * 6])
    with torch.no_grad():
        expected = model.get_text_features(input_ids=ids).pooler_output
    actual = encoder.encode_text(TEXTS)
    assert same(actual, expected)
    assert encoder.text_tower().logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    # Sentences of other lengths beside it change nothing.
    assert same(encoder.encode_text(TEXTS[:1]), expected[:1])
    assert sum(each.numel() for each in encoder.parameters()) == encoder.card.parameters


def test_siglip_sees_its_padding_and_lower_case(tmp_path: Path) -> None:
    model = siglip_model()
    encoder = load_encoder(siglip_card(), weights=folder_of(model, tmp_path))
    ids = torch.tensor([[1, 8, 2] + [0] * 9])
    with torch.no_grad():
        expected = model.get_text_features(input_ids=ids).pooler_output
    assert same(encoder.encode_text(["Heart"]), expected)
    assert same(encoder.encode_text(["heart!"]), expected)
    tower = encoder.text_tower()
    assert tower.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    assert tower.logit_bias == pytest.approx(float(model.logit_bias.detach()))
    cased = load_encoder(siglip_card(canonical=False), weights=tmp_path).encode_text(["Heart"])
    assert not same(cased, expected)


def test_texts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    encoder = load_encoder(clip_card(), weights=folder_of(clip_model(), tmp_path))
    with pytest.raises(EvalfmError, match=r"reads 12 tokens and the text that begins with 'a a a.* has 14"):
        encoder.encode_text(["a", " ".join(["a"] * 12)])
    with pytest.raises(EvalfmError, match="at least one sentence"):
        encoder.encode_text([])
    with pytest.raises(EvalfmError, match="none that is empty"):
        encoder.encode_text(["heart", " "])
    with pytest.raises(EvalfmError, match="reads no text"):
        load_encoder("light-cnn").encode_text(["heart"])


def test_a_missing_tokenizer_is_named_and_the_images_go_on(tmp_path: Path) -> None:
    folder_of(clip_model(), tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    encoder = load_encoder(clip_card(), weights=tmp_path)
    assert encoder.encode(batch()).pooled.shape == (2, 32)
    with pytest.raises(EvalfmError, match=r"tokenizer\.json.*a place beside model\.safetensors in"):
        encoder.encode_text(["heart"])
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(EvalfmError, match="is no tokenizer"):
        encoder.encode_text(["heart"])


def test_random_towers_are_drawn_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer(tmp_path)
    monkeypatch.setattr("evalfm.encoders.families._tokenizer.fetch_beside", lambda *_: tmp_path / "tokenizer.json")
    for card in (clip_card(), siglip_card()):
        one, other = (load_encoder(card, weights="random").encode_text(TEXTS) for _ in range(2))
        assert torch.equal(one, other)
        assert one.shape == (2, card.text_tower.dim if card.text_tower else 0)


def drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    return change


def rename(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name + "s"] = tensors.pop(name)

    return change


def cut(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name][:-1].clone()

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("text_model.final_layer_norm.weight"), r"missing: text_model\.final_layer_norm\.weight"),
        (drop("visual_projection.weight"), r"missing: visual_projection\.weight"),
        (rename("vision_model.post_layernorm.bias"), r"not known to the model: vision_model\.post_layernorm\.biass"),
        (cut("text_projection.weight"), r"of another shape: text_projection\.weight"),
    ],
)
def test_every_tensor_of_both_towers_counts(change: Any, said: str, tmp_path: Path) -> None:
    tensors = {name: each.contiguous() for name, each in clip_model().state_dict().items()}
    change(tensors)
    save_file(tensors, tmp_path / "clip.safetensors")
    with pytest.raises(EvalfmError, match=said):
        load_encoder(clip_card(), weights=tmp_path / "clip.safetensors")


def test_position_ids_of_old_releases_and_torch_files_are_read(tmp_path: Path) -> None:
    tensors = dict(clip_model().state_dict())
    tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    tokenizer(tmp_path)
    encoder = load_encoder(clip_card(), weights=tmp_path / "pytorch_model.bin")
    loaded = encoder.model["vision"].state_dict()
    assert all(torch.equal(tensors[f"vision_model.{name}"], each) for name, each in loaded.items())
    assert encoder.encode_text(TEXTS).shape == (2, 20)


def test_another_models_file_and_config_are_refused(tmp_path: Path) -> None:
    save_file({n: t.contiguous() for n, t in siglip_model().state_dict().items()}, tmp_path / "siglip.safetensors")
    with pytest.raises(EvalfmError, match="does not fit"):
        load_encoder(clip_card(), weights=tmp_path / "siglip.safetensors")
    other = transformers.CLIPConfig(
        vision_config={**VISION, "hidden_act": "gelu", "num_attention_heads": 4}, text_config=TEXT, projection_dim=20
    )
    (tmp_path / "gelu").mkdir()
    folder_of(drawn(transformers.CLIPModel(other)), tmp_path / "gelu")
    card = clip_card()
    with pytest.raises(EvalfmError, match=r"vision_config\.num_attention_heads 4 instead of 2"):
        load_encoder(card, weights=tmp_path / "gelu")


OLD_MAE = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "vit.layers.": "vit.encoder.layer.",
}


def test_mae_is_its_encoder_without_masking(tmp_path: Path) -> None:
    decoder = {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    }
    whole = drawn(transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**VISION, **decoder)))
    tensors = {}
    for name, tensor in whole.state_dict().items():
        for new, old in OLD_MAE.items():
            name = name.replace(new, old) if name.startswith("vit.") else name
        tensors[name] = tensor
    assert "vit.encoder.layer.0.attention.attention.query.weight" in tensors
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    plain = transformers.ViTModel(transformers.ViTConfig(**VISION), add_pooling_layer=False).eval()
    own = {name.removeprefix("vit."): each for name, each in whole.state_dict().items() if name.startswith("vit.")}
    assert plain.load_state_dict(own).missing_keys == []
    card = tiny(
        "mae-b16",
        arguments=VISION,
        poolings={"cls": 32, "mean": 32},
        parameters=sum(each.numel() for each in plain.parameters()),
    )
    features = load_encoder(card, weights=tmp_path / "pytorch_model.bin").encode(batch())
    with torch.no_grad():
        output = plain(pixel_values=batch(), output_hidden_states=True)
    assert same(features.pooled, output.last_hidden_state[:, 0])
    assert same(features.maps[1], as_grid(plain.layernorm(output.hidden_states[2])[:, 1:]))


def test_ijepa_is_the_mean_of_its_patches(tmp_path: Path) -> None:
    model = drawn(transformers.IJepaModel(transformers.IJepaConfig(**VISION), add_pooling_layer=False))
    model.save_pretrained(tmp_path)
    card = tiny(
        "ijepa-h14",
        arguments=VISION,
        poolings={"mean": 32},
        parameters=sum(each.numel() for each in model.parameters()),
    )
    features = load_encoder(card, weights=tmp_path).encode(batch())
    with torch.no_grad():
        output = model(pixel_values=batch())
    assert same(features.pooled, output.last_hidden_state.mean(1))
    assert same(features.maps[-1], as_grid(output.last_hidden_state))


SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 2,
}


def test_cxr_clip_projects_the_first_cell_and_maps_are_stages_before_they_are_halved(
    tmp_path: Path,
) -> None:
    model = drawn(transformers.SwinModel(transformers.SwinConfig(**SWIN), add_pooling_layer=False))
    wrapped = {f"image_encoder.image_encoder.{name}": each for name, each in model.state_dict().items()}
    projection = drawn(torch.nn.Linear(96, 20))
    wrapped |= {f"image_projection.projection.{name}": each for name, each in projection.state_dict().items()}
    wrapped |= {"logit_scale": torch.zeros(()), "text_encoder.x": torch.zeros(2)}
    wrapped |= {"text_projection.projection.weight": torch.zeros(20, 8)}
    torch.save({"model": wrapped, "epoch": 3}, tmp_path / "swint.tar")
    content = find_card("cxr-clip-swint").model_dump(mode="json", by_alias=True)
    content |= {
        "arguments": {**SWIN, "projection": 20},
        "parameters": sum(each.numel() for part in (model, projection) for each in part.parameters()),
        "poolings": {"projection": 20, "first": 96, "mean": 96},
        "map_channels": [12, 24, 48, 96],
        "size_multiple": 64,
        "text_tower": None,
    }
    content["preprocessing"] |= {"input_size": [64, 64], "resize_to": 64}
    card = EncoderCard.model_validate(content)
    features = load_encoder(card, weights=tmp_path / "swint.tar").encode(batch())
    backbone = transformers.SwinBackbone(
        transformers.SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
    ).eval()
    own = {f"swin.{name}": each for name, each in model.state_dict().items()}
    actual = backbone.load_state_dict(own, strict=False)
    assert actual.unexpected_keys == []
    assert all("hidden_states_norms" in name for name in actual.missing_keys)
    with torch.no_grad():
        last = model(pixel_values=batch()).last_hidden_state
        norms = backbone.hidden_states_norms
        for name in norms:
            norms[name] = torch.nn.Identity()
        stages = backbone(pixel_values=batch()).feature_maps
    with torch.no_grad():
        projected = projection(last[:, 0])
    assert same(features.pooled, projected / projected.norm(dim=1, keepdim=True))
    first = load_encoder(card.model_copy(update={"pooling": "first"}), weights=tmp_path / "swint.tar")
    assert same(first.encode(batch()).pooled, last[:, 0])
    del wrapped["image_projection.projection.bias"]
    torch.save({"model": wrapped}, tmp_path / "without.tar")
    with pytest.raises(EvalfmError, match="missing: bias"):
        load_encoder(card, weights=tmp_path / "without.tar")
    assert [tuple(each.shape[1:]) for each in features.maps] == [(12, 16, 16), (24, 8, 8), (48, 4, 4), (96, 2, 2)]
    for mine, theirs in zip(features.maps, stages, strict=True):
        assert same(mine, theirs)
    mean = load_encoder(card.model_copy(update={"pooling": "mean"}), weights=tmp_path / "swint.tar")
    assert same(mean.encode(batch()).pooled, last.mean(1))


@pytest.mark.parametrize(
    "lost", [None, "text_projection.projection.bias", "text_encoder.text_encoder.embeddings.LayerNorm.bias"]
)
def test_cxr_clip_reads_a_sentence_by_its_last_token(lost: str | None, tmp_path: Path) -> None:
    settings = {**TEXT, "vocab_size": 12, "max_position_embeddings": 32, "hidden_act": "gelu"}
    settings = {name: each for name, each in settings.items() if not name.endswith("token_id")}
    bert = drawn(transformers.BertModel(transformers.BertConfig(**settings)))
    projection = drawn(torch.nn.Linear(24, 20))
    swin = transformers.SwinModel(transformers.SwinConfig(**SWIN), add_pooling_layer=False)
    whole = {f"image_encoder.image_encoder.{name}": each for name, each in swin.state_dict().items()}
    whole |= {
        "image_projection.projection.weight": torch.zeros(20, 96),
        "image_projection.projection.bias": torch.zeros(20),
    }
    whole |= {f"text_encoder.text_encoder.{name}": each for name, each in bert.state_dict().items()}
    whole |= {f"text_projection.projection.{name}": each for name, each in projection.state_dict().items()}
    whole |= {"logit_scale": torch.tensor(2.5)}
    whole.pop(lost or "", None)
    torch.save({"model": whole}, tmp_path / "swint.tar")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "pneumo", "##thorax", "a", "heart"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    content = find_card("cxr-clip-swint").model_dump(mode="json", by_alias=True)
    content |= {"arguments": {**SWIN, "projection": 20}, "poolings": {"projection": 20, "first": 96, "mean": 96}}
    content |= {"map_channels": [12, 24, 48, 96], "size_multiple": 64}
    content["parameters"] = sum(each.numel() for each in swin.parameters()) + 97 * 20
    content["preprocessing"] |= {"input_size": [64, 64], "resize_to": 64}
    content["text_tower"] |= {"dim": 20, "arguments": {"bert": settings}}
    encoder = load_encoder(EncoderCard.model_validate(content), weights=tmp_path / "swint.tar")
    if lost is not None:
        with pytest.raises(EvalfmError, match=f"missing: .*{lost.rpartition('projection.')[2]}"):
            encoder.encode_text(["heart"])
        return
    # One sentence at a time, so that nothing fills them up.
    rows = [[2, 5, 6, 7, 3], [2, 9, 3]]
    with torch.no_grad():
        expected = [projection(bert(input_ids=torch.tensor([row])).last_hidden_state[0, -1]) for row in rows]
    assert same(encoder.encode_text(["No Pneumothorax", "heart"]), torch.stack(expected))
    assert encoder.text_tower().logit_scale == pytest.approx(float(torch.tensor(2.5).exp()))
    assert sum(each.numel() for each in encoder.parameters()) == encoder.card.parameters


def test_curia_takes_hounsfield_units_by_their_own_spread() -> None:
    card = find_card("curia")
    small = {"image_size": 64, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 2}
    card = card.model_copy(
        update={
            "arguments": {**small, "mlp_ratio": 2, "num_channels": 1},
            "poolings": {"cls": 32, "mean": 32},
            "map_channels": (32,) * 5,
        }
    )
    encoder: Encoder = load_encoder(card, weights="random", input_size=64)
    slice_ = np.random.default_rng(0).normal(-300, 400, (1, 64, 64)).astype(np.float32)
    tensor, _ = encoder.prepare(Image(pixels=slice_, unit="HU", bits=12, spacing_mm=None, rule="test"))
    expected = (slice_ - slice_.mean()) / slice_.std(ddof=1)
    assert np.abs(tensor.numpy() - expected).max() < 1e-4
    flat = np.full((1, 64, 64), -1000, dtype=np.float32)
    tensor, _ = encoder.prepare(Image(pixels=flat, unit="HU", bits=12, spacing_mm=None, rule="test"))
    assert torch.equal(tensor, torch.zeros_like(tensor))


def test_another_input_size_interpolates_positions_and_is_said(tmp_path: Path) -> None:
    model = siglip_model()
    encoder = load_encoder(siglip_card(), weights=folder_of(model, tmp_path), input_size=96)
    assert any("interpolates the positions of medsiglip, made for 64 pixels" in str(each) for each in encoder.cautions)
    with torch.no_grad():
        output = model.vision_model(pixel_values=batch(size=96), interpolate_pos_encoding=True)
    assert same(encoder.encode(batch(size=96)).pooled, output.pooler_output)
