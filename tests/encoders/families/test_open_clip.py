"""Tiny checkpoints of BiomedCLIP, CheXzero and UniMed-CLIP against open_clip's own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel

from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.card import EncoderCard
from evalfm.errors import EvalfmError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "no", "pneumothorax", "a", "photo", "of", "heart"]
BERT = {
    "vocab_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
VISION = {"image_size": 64, "layers": 5, "width": 48, "patch_size": 16, "head_width": 24}
HF = {"hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "mlp", "context_length": 12}


def drawn(model: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return model.eval()


def tiny(name: str, arguments: dict[str, Any], dim: int, width: int, stride: int, parameters: int) -> EncoderCard:
    content = find_card(name).model_dump(mode="json", by_alias=True)
    size = arguments["vision_cfg"]["image_size"]
    content |= {
        "arguments": arguments,
        "parameters": parameters,
        "map_layers": [0, 1, 2, 3, 4],
        "map_channels": [width] * 5,
        "map_strides": [stride] * 5,
        "size_multiple": stride,
    }
    content["poolings"] = {pooling: dim if pooling == "projection" else width for pooling in content["poolings"]}
    content["text_tower"] |= {"dim": dim, "context_length": 12}
    content["preprocessing"] |= {"input_size": [size, size], "resize_to": size}
    content["weights"] |= {"source": "path"}
    return EncoderCard.model_validate(content)


def small_content() -> dict[str, Any]:
    """A card in UniMed-CLIP's layout of a small image tower and BERT, as plain values."""
    text = {**HF, "bert": BERT}
    arguments = {"embed_dim": 20, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": text}
    parameters = sum(each.numel() for each in openai().visual.parameters())
    card = tiny("unimed-clip-b16", arguments, 20, 48, 16, parameters)
    content = card.model_dump(mode="json", by_alias=True) | {"name": "small-clip"}
    content["text_tower"]["context_length"] = 24
    return content


def tokenizer(folder: Path) -> None:
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(folder / "tokenizer.json"))


def batch(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.allclose(one, other, atol=1e-5, rtol=1e-5))


def openai() -> CLIP:
    text = CLIPTextCfg(context_length=12, vocab_size=49408, width=32, heads=2, layers=2)
    model: CLIP = drawn(CLIP(20, CLIPVisionCfg(**VISION), text, quick_gelu=True))
    return model


def chexzero_card(**changes: Any) -> EncoderCard:
    arguments = {
        "embed_dim": 20,
        "quick_gelu": True,
        "vision_cfg": VISION,
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    return tiny(
        "chexzero",
        arguments | changes,
        20,
        48,
        16,
        sum(each.numel() for each in openai().visual.parameters()),
    )


def test_chexzero_is_openais_clip_under_its_own_names(tmp_path: Path) -> None:
    model = openai()
    tensors = dict(model.state_dict()) | {"input_resolution": torch.tensor(64), "vocab_size": torch.tensor(49408)}
    torch.save(tensors, tmp_path / "best.pt")
    encoder = load_encoder(chexzero_card(), weights=tmp_path / "best.pt")
    features = encoder.encode(batch(64))
    seen: list[Tensor] = []
    for block in model.visual.transformer.resblocks:
        block.register_forward_hook(lambda _module, _given, output: seen.append(output))
    with torch.no_grad():
        expected = model.encode_image(batch(64))
        ids = open_clip.tokenizer.SimpleTokenizer()(["no pneumothorax", "heart"], context_length=12)
        texts = model.encode_text(ids)
    assert same(features.pooled, expected)
    for mine, theirs in zip(features.maps, seen, strict=True):
        assert same(mine.flatten(2).transpose(1, 2), theirs[:, 1:])
    assert same(encoder.encode_text(["no pneumothorax", "heart"]), texts)
    assert encoder.text_tower().logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    assert sum(each.numel() for each in encoder.parameters()) == encoder.card.parameters


@pytest.mark.parametrize("name", ["ln_final.weight", "visual.proj", "token_embedding.weight"])
def test_a_missing_tensor_of_either_tower_is_named(name: str, tmp_path: Path) -> None:
    tensors = dict(openai().state_dict())
    del tensors[name]
    torch.save(tensors, tmp_path / "best.pt")
    with pytest.raises(EvalfmError, match=f"missing: {name}"):
        load_encoder(chexzero_card(), weights=tmp_path / "best.pt")


def bert_text(model: Any, prefix: str, output: Any) -> dict[str, Tensor]:
    """A BERT without pooler and its projection, as open_clip saves them."""
    tensors = {f"{prefix}transformer.{name}": each for name, each in model.state_dict().items()}
    return tensors | {f"{prefix}proj.{name}": each for name, each in output.state_dict().items()}


def bert_parts(dim: int) -> tuple[Any, Any]:
    hidden = (32 + dim) // 2
    projection = torch.nn.Sequential(
        torch.nn.Linear(32, hidden, bias=False), torch.nn.GELU(), torch.nn.Linear(hidden, dim, bias=False)
    )
    return drawn(BertModel(BertConfig(**BERT), add_pooling_layer=False)), drawn(projection)


def expected_texts(bert: Any, projection: Any) -> Tensor:
    ids = torch.tensor([[2, 4, 5, 3] + [0] * 8, [2, 9, 3] + [0] * 9])
    with torch.no_grad():
        hidden = bert(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
        actual: Tensor = projection(hidden[:, 0])
    return actual


def biomedclip(folder: Path) -> tuple[EncoderCard, Any, Any, Any]:
    import timm

    trunk = drawn(timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0))
    head = drawn(torch.nn.Linear(192, 20, bias=False))
    bert, projection = bert_parts(20)
    tensors = {f"visual.trunk.{name}": each for name, each in trunk.state_dict().items()}
    tensors |= {"visual.head.proj.weight": head.weight.detach(), "logit_scale": torch.tensor(4.0)}
    tensors |= bert_text(bert, "text.", projection)
    torch.save(tensors, folder / "open_clip_pytorch_model.bin")
    tokenizer(folder)
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    arguments = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": {**HF, "bert": BERT}}
    parameters = sum(each.numel() for each in trunk.parameters()) + 192 * 20
    return tiny("biomedclip", arguments, 20, 192, 16, parameters), (trunk, head), bert, projection


def test_biomedclip_is_a_trunk_a_projection_and_a_bert(tmp_path: Path) -> None:
    card, (trunk, head), bert, projection = biomedclip(tmp_path)
    encoder = load_encoder(card, weights=tmp_path)
    features = encoder.encode(batch(224))
    with torch.no_grad():
        tokens = trunk.forward_features(batch(224))
        blocks = trunk.get_intermediate_layers(batch(224), n=[0, 1, 2, 3, 4], reshape=True, norm=True)
        expected = head(tokens[:, 0])
    assert same(features.pooled, expected)
    assert all(same(*pair) for pair in zip(features.maps, blocks, strict=True))
    cls = load_encoder(card.model_copy(update={"pooling": "cls"}), weights=tmp_path)
    assert same(cls.encode(batch(224)).pooled, tokens[:, 0])
    assert same(encoder.encode_text(["no pneumothorax", "heart"]), expected_texts(bert, projection))
    assert encoder.text_tower().logit_scale == pytest.approx(54.598, abs=1e-2)


def test_a_config_of_another_model_is_refused_and_old_names_are_known(tmp_path: Path) -> None:
    card, *_ = biomedclip(tmp_path)
    text = {"context_length": 12, "proj": "mlp", "pooler_type": "cls_last_hidden_state_pooler", "hf_model_name": "x"}
    config = {"model_cfg": {"embed_dim": 20, "vision_cfg": card.arguments["vision_cfg"], "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    load_encoder(card, weights=tmp_path)
    config["model_cfg"]["quick_gelu"] = True
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(EvalfmError, match="quick_gelu True instead of False"):
        load_encoder(card, weights=tmp_path)
    (tmp_path / "open_clip_config.json").write_text("[]")
    with pytest.raises(EvalfmError, match="no configuration of open_clip"):
        load_encoder(card, weights=tmp_path)


def test_unimed_is_wrapped_and_its_text_renamed(tmp_path: Path) -> None:
    model = openai()
    bert, projection = bert_parts(20)
    tensors = {f"module.{name}": each for name, each in model.state_dict().items() if name.startswith("visual.")}
    tensors |= bert_text(bert, "module.text_encoder.", projection) | {"module.logit_scale": torch.tensor(4.0)}
    # The published file holds numpy's numbers beside the tensors.
    torch.save({"epoch": 10, "loss": np.float64(0.5), "state_dict": tensors}, tmp_path / "unimed.pt")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    arguments = {"embed_dim": 20, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": {**HF, "bert": BERT}}
    parameters = sum(each.numel() for each in model.visual.parameters())
    encoder = load_encoder(tiny("unimed-clip-b16", arguments, 20, 48, 16, parameters), weights=tmp_path / "unimed.pt")
    with torch.no_grad():
        expected = model.encode_image(batch(64))
    assert same(encoder.encode(batch(64)).pooled, expected)
    assert same(encoder.encode_text(["no pneumothorax", "heart"]), expected_texts(bert, projection))


def test_the_native_size_is_the_only_one() -> None:
    with pytest.raises(EvalfmError, match="chexzero takes 224 x 224 pixels only"):
        load_encoder("chexzero", weights="random", input_size=256)
