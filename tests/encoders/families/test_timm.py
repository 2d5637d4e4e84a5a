"""Tiny checkpoints in the formats of EVA-X, SAM, MerMED-FM and DINOv3 against timm's own forwards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image as Pil
from safetensors.torch import save_file
from torch import Tensor

from evalfm.data.images import Image
from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.card import EncoderCard
from evalfm.errors import EvalfmError

from ..images import model_tensor


def drawn(architecture: str, **arguments: Any) -> Any:
    model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return model


def tiny(name: str, model: Any, size: int, arguments: dict[str, Any], **changes: Any) -> EncoderCard:
    """The built-in card with a model of two blocks of 48 channels; every other fact is its own."""
    content = find_card(name).model_dump(mode="json", by_alias=True)
    content |= {
        "arguments": content["arguments"] | arguments,
        "parameters": sum(each.numel() for each in model.parameters()),
        "map_layers": [0, 1],
        "map_channels": [48, 48],
        "map_strides": [16, 16],
    }
    content["poolings"] = {pooling: 256 if pooling == "gap" else 48 for pooling in content["poolings"]}
    content["preprocessing"] |= {"input_size": [size, size]}
    if content["preprocessing"]["resize_to"] is not None:
        content["preprocessing"]["resize_to"] = size
    content["weights"] |= {"source": "path"}
    return EncoderCard.model_validate(content | changes)


def batch(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.allclose(one, other, atol=1e-5, rtol=1e-5))


SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 2}


def eva_x() -> tuple[EncoderCard, Any, dict[str, Tensor]]:
    """The base model, whose names differ most from timm's."""
    arguments = {**SMALL, "patch_size": 16, "ref_feat_shape": (4, 4), "img_size": 64}
    model = drawn("eva02_base_patch14_224", **arguments)
    theirs = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("attn.q_proj.bias", "attn.q_bias").replace("attn.v_proj.bias", "attn.v_bias")
        name = name.replace("mlp.fc1_g.", "mlp.w1.").replace("mlp.fc1_x.", "mlp.w2.").replace("mlp.fc2.", "mlp.w3.")
        name = name.replace("mlp.norm.", "mlp.ffn_ln.").replace("attn.norm.", "attn.inner_attn_ln.")
        theirs[name.replace("fc_norm.", "norm.")] = tensor
    theirs |= {"mask_token": torch.zeros(1, 1, 48), "lm_head.weight": torch.zeros(7, 48)}
    card = tiny("eva-x-b", model, 64, {**arguments, "ref_feat_shape": [4, 4]})
    return card, model, theirs


def test_eva_x_is_read_as_its_authors_save_it(tmp_path: Path) -> None:
    card, model, theirs = eva_x()
    assert "blocks.0.mlp.w1.weight" in theirs
    content = {"module": theirs, "epoch": 900, "loss": np.float64(0.3)}
    torch.save(content, tmp_path / "eva_x_base.pt")
    encoder = load_encoder(card, weights=tmp_path / "eva_x_base.pt")
    loaded = encoder.state_dict()
    assert all(torch.equal(loaded[f"model.{name}"], each) for name, each in model.state_dict().items())
    features = encoder.encode(batch(64))
    with torch.no_grad():
        tokens = model.forward_features(batch(64))
        expected = model.fc_norm(tokens[:, 1:].mean(1))
        seen: list[Tensor] = []
        for block in model.blocks:
            block.register_forward_hook(lambda _module, _given, output: seen.append(output))
        model.forward_features(batch(64))
    assert same(features.pooled, expected)
    assert len(seen) == 2
    for mine, theirs_own in zip(features.maps, seen, strict=True):
        assert same(mine.flatten(2).transpose(1, 2), theirs_own[:, 1:])


@pytest.mark.parametrize("name", ["blocks.1.attn.q_proj.weight", "norm.weight", "pos_embed"])
def test_a_missing_tensor_of_eva_x_is_named(name: str, tmp_path: Path) -> None:
    card, _, theirs = eva_x()
    del theirs[name]
    torch.save({"module": theirs}, tmp_path / "eva.pt")
    wanted = name.replace("norm.weight", "fc_norm.weight") if name.startswith("norm") else name
    with pytest.raises(EvalfmError, match=f"missing: {wanted}"):
        load_encoder(card, weights=tmp_path / "eva.pt")


@pytest.mark.parametrize("name", ["sam-b", "medsam"])
def test_sam_is_its_image_encoder_and_the_neck_is_pooled(name: str, tmp_path: Path) -> None:
    arguments = {**SMALL, "img_size": 64, "global_attn_indexes": (1,)}
    model = drawn("samvit_base_patch16", **arguments)
    theirs = {f"image_encoder.{key.replace('mlp.fc', 'mlp.lin')}": each for key, each in model.state_dict().items()}
    theirs |= {
        "prompt_encoder.no_mask_embed.weight": torch.zeros(1, 256),
        "mask_decoder.iou_token.weight": torch.ones(1),
    }
    torch.save(theirs, tmp_path / "sam.pth")
    card = tiny(name, model, 64, {**arguments, "global_attn_indexes": [1]})
    features = load_encoder(card, weights=tmp_path / "sam.pth").encode(batch(64))
    with torch.no_grad():
        neck = model.forward_features(batch(64))
        _, blocks = model.forward_intermediates(batch(64), indices=[0, 1])
    assert neck.shape == (2, 256, 4, 4)
    assert same(features.pooled, neck.mean((2, 3)))
    assert all(same(*pair) for pair in zip(features.maps, blocks, strict=True))
    del theirs["image_encoder.neck.2.weight"]
    torch.save(theirs, tmp_path / "sam.pth")
    with pytest.raises(EvalfmError, match=r"missing: neck\.2\.weight"):
        load_encoder(card, weights=tmp_path / "sam.pth")


def test_sam_is_transformers_port_of_it_too(tmp_path: Path) -> None:
    """Another library's forward with the authors' names translated: windows, relative positions, neck."""
    arguments = {**SMALL, "img_size": 64, "global_attn_indexes": (1,), "window_size": 3}
    model = drawn("samvit_base_patch16", **arguments)
    torch.save(
        {f"image_encoder.{k.replace('mlp.fc', 'mlp.lin')}": v for k, v in model.state_dict().items()},
        tmp_path / "sam.pth",
    )
    encoder = load_encoder(
        tiny("sam-b", model, 64, {**arguments, "global_attn_indexes": [1]}), weights=tmp_path / "sam.pth"
    )
    config = transformers.SamVisionConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        window_size=3,
        global_attn_indexes=[1],
        mlp_dim=192,
    )
    other = transformers.SamVisionModel(config).eval()
    names = {"patch_embed.proj": "patch_embed.projection", "blocks.": "layers.", "norm1.": "layer_norm1."}
    names |= {"norm2.": "layer_norm2.", "mlp.fc": "mlp.lin", "neck.0.": "neck.conv1.", "neck.1.": "neck.layer_norm1."}
    names |= {"neck.2.": "neck.conv2.", "neck.3.": "neck.layer_norm2."}
    theirs = {}
    for name, tensor in model.state_dict().items():
        for ours, their in names.items():
            name = name.replace(ours, their)
        theirs[f"vision_encoder.{name}"] = tensor
    assert not any(other.load_state_dict(theirs))
    features = encoder.encode(batch(64))
    with torch.no_grad():
        output = other(pixel_values=batch(64), output_hidden_states=True)
    assert same(features.pooled, output.last_hidden_state.mean((2, 3)))
    for mine, hidden in zip(features.maps, output.hidden_states[1:], strict=True):
        assert same(mine, hidden.permute(0, 3, 1, 2))


def mermed(folder: Path, extra: object) -> tuple[EncoderCard, Any, Path]:
    arguments = {**SMALL, "img_size": 64}
    model = drawn("vit_base_patch16_224", **arguments)
    teacher = {f"module.backbone.{name}": each for name, each in model.state_dict().items()}
    teacher["module.head.mlp.0.weight"] = torch.zeros(3, 48)
    student = {name: each + 1 for name, each in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "args": extra}, folder / "mermed.pth")
    return tiny("mermed-fm", model, 64, arguments), model, folder / "mermed.pth"


def test_mermed_is_its_teacher(tmp_path: Path) -> None:
    card, model, path = mermed(tmp_path, argparse.Namespace(arch="vit_base", lr=1e-3))
    encoder = load_encoder(card, weights=path)
    features = encoder.encode(batch(64))
    with torch.no_grad():
        tokens = model.forward_features(batch(64))
    assert same(features.pooled, tokens[:, 0])
    assert same(features.maps[-1].flatten(2).transpose(1, 2), tokens[:, 1:])
    assert same(
        load_encoder(card.model_copy(update={"pooling": "mean"}), weights=path).encode(batch(64)).pooled,
        tokens[:, 1:].mean(1),
    )


class Foreign:
    """A class of the user's own, such as no card allows."""


def test_a_pickle_with_another_class_is_refused(tmp_path: Path) -> None:
    card, _, path = mermed(tmp_path, Foreign())
    with pytest.raises(EvalfmError, match=r"refused.*Foreign.*evalfm convert"):
        load_encoder(card, weights=path)
    strict = card.model_copy(update={"weights": card.weights.model_copy(update={"pickle_globals": ()})})
    _, _, path = mermed(tmp_path, argparse.Namespace(arch="vit_base"))
    with pytest.raises(EvalfmError, match=r"refused.*argparse\.Namespace"):
        load_encoder(strict, weights=path)


def test_dinov3_is_its_cls_token_and_drops_its_registers(tmp_path: Path) -> None:
    model = drawn("vit_small_patch16_dinov3", **SMALL, img_size=64)
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, tmp_path / "d.safetensors")
    card = tiny("dinov3-vits16", model, 64, {**SMALL, "img_size": 64})
    features = load_encoder(card, weights=tmp_path / "d.safetensors").encode(batch(64))
    with torch.no_grad():
        tokens = model.forward_features(batch(64))
    assert tokens.shape == (2, 5 + 16, 48)
    assert same(features.pooled, tokens[:, 0])
    assert same(features.maps[-1].flatten(2).transpose(1, 2), tokens[:, 5:])


@pytest.mark.parametrize("name", ["convnext-base", "swin-base"])
def test_hierarchical_models_give_timms_own_head_and_stages(name: str, tmp_path: Path) -> None:
    card = find_card(name)
    arguments: dict[str, Any] = {"depths": [1, 1, 1, 1]}
    arguments |= {"dims": [8, 16, 24, 32]} if name == "convnext-base" else {"embed_dim": 8, "num_heads": [1, 2, 2, 4]}
    widths = (8, 16, 24, 32) if name == "convnext-base" else (8, 16, 32, 64)
    model = drawn(card.architecture, **arguments)
    whole = timm.create_model(card.architecture, pretrained=False, **arguments)
    whole.load_state_dict(model.state_dict(), strict=False)
    save_file({key: each.contiguous() for key, each in whole.state_dict().items()}, tmp_path / "w.safetensors")
    card = card.model_copy(
        update={
            "arguments": arguments,
            "parameters": sum(each.numel() for each in model.parameters()),
            "map_channels": widths,
            "poolings": {"head": widths[-1]},
        }
    )
    features = load_encoder(card, weights=tmp_path / "w.safetensors").encode(batch(224))
    with torch.no_grad():
        expected = model(batch(224))
        _, stages = model.forward_intermediates(batch(224), output_fmt="NCHW")
    assert same(features.pooled, expected)
    assert all(same(*pair) for pair in zip(features.maps, stages, strict=True))


@pytest.mark.parametrize(("side", "said"), [(224, False), (128, True)])
def test_positions_of_another_grid_are_interpolated_and_told(side: int, said: bool, tmp_path: Path) -> None:
    model = drawn("vit_base_patch16_224", img_size=side, **SMALL)
    card = tiny("vit-base", drawn("vit_base_patch16_224", **SMALL), 224, SMALL, map_norm="final")
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    encoder = load_encoder(card, weights=tmp_path / "vit.safetensors")
    assert any("interpolates the positions in vit-base's file" in str(each) for each in encoder.cautions) == said
    assert encoder.encode(batch(224)).maps[0].shape == (2, 48, 14, 14)


def test_a_patch_embedding_of_another_size_is_refused_not_resampled(tmp_path: Path) -> None:
    card = tiny("vit-base", drawn("vit_base_patch16_224", **SMALL), 224, SMALL, map_norm="final")
    save_file(drawn("vit_base_patch32_224", **SMALL).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(EvalfmError, match=r"patch_embed\.proj\.weight \[48, 3, 32, 32\] instead of \[48, 3, 16, 16\]"):
        load_encoder(card, weights=tmp_path / "vit.safetensors")


def test_the_mean_over_cells_of_a_model_with_channels_last(tmp_path: Path) -> None:
    small = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
    model = drawn("swin_tiny_patch4_window7_224", **small)
    content = find_card("swin-base").model_dump(mode="json", by_alias=True)
    content |= {
        "architecture": "swin_tiny_patch4_window7_224",
        "arguments": small,
        "parameters": sum(each.numel() for each in model.parameters()),
        "poolings": {"gap": 96},
        "pooling": "gap",
        "map_channels": [12, 24, 48, 96],
    }
    content["weights"] |= {"source": "path"}
    save_file(model.state_dict(), tmp_path / "swin.safetensors")
    encoder = load_encoder(EncoderCard.model_validate(content), weights=tmp_path / "swin.safetensors")
    with torch.no_grad():
        expected = model.forward_features(batch(224))
    assert expected.shape == (2, 7, 7, 96)
    assert same(encoder.encode(batch(224)).pooled, expected.mean((1, 2)))


PUBLISHED = [
    *("resnet10t.c3_in1k", "resnet18.a1_in1k", "mobilenetv3_small_050.lamb_in1k", "tf_efficientnet_lite0.in1k"),
    *("efficientnet_b0.ra_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "deit_tiny_patch16_224.fb_in1k"),
    *("deit_tiny_distilled_patch16_224.fb_in1k", "convnext_atto.d2_in1k", "convnextv2_atto.fcmae_ft_in1k"),
    *("regnetx_002.pycls_in1k", "regnety_002.pycls_in1k", "edgenext_xx_small.in1k", "pvt_v2_b0.in1k"),
    *("ghostnet_100.in1k", "lcnet_050.ra2_in1k", "mnasnet_small.lamb_in1k", "eva02_tiny_patch14_224.mim_in22k"),
    *("xcit_nano_12_p8_224.fb_in1k", "swin_tiny_patch4_window7_224.ms_in1k", "test_vit.r160_in1k"),
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_any_published_name_is_timms_own_forward_with_its_own_data_configuration(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = timm.create_model(name, pretrained=False).eval()
    save_file({key: each.contiguous() for key, each in whole.state_dict().items()}, tmp_path / "w.safetensors")
    encoder = load_encoder(f"timm:{name}", weights=tmp_path / "w.safetensors")
    assert not encoder.random_weights
    plain = timm.create_model(name, pretrained=False, num_classes=0).eval()
    plain.load_state_dict({key: each for key, each in whole.state_dict().items() if key in plain.state_dict()})
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain), is_training=False)
    grey = np.random.default_rng(0).integers(0, 256, (37, 53)).astype(np.uint8)
    # Wide for one half of the names, tall for the other.
    shape = (480, 350) if PUBLISHED.index(name) % 2 else (350, 500)
    picture = Pil.fromarray(grey).resize(shape, Pil.Resampling.BICUBIC)
    expected_input = transform(picture.convert("RGB"))
    own = Image(np.asarray(picture, dtype=np.float32)[None] / 255, "unit-interval", 8, None, "drawn")
    tensor, _ = model_tensor(encoder.preparer, own)
    # An 8-bit library rounds to whole levels after each axis.
    level = 1 / 255 / torch.tensor(encoder.preparer.facts.std)[:, None, None]
    assert float(((tensor - expected_input) / level).abs().max()) < 2.5
    with torch.no_grad():
        expected = plain(expected_input[None])
        stages = plain.forward_intermediates(expected_input[None], output_fmt="NCHW", intermediates_only=True)
    features = encoder.encode(expected_input[None])
    scale = float(expected.abs().max())
    assert float((features.pooled - expected).abs().max()) <= 1e-5 * max(1.0, scale)
    last = stages[encoder.card.map_layers[-1]]
    assert features.maps[-1].shape[1:] == (*encoder.card.map_channels[-1:], *last.shape[2:])


def test_published_weights_lie_where_timm_would_fetch_them() -> None:
    card = find_card("timm:resnet50")
    assert (card.weights.source, card.weights.repository) == ("hub", "timm/resnet50.a1_in1k")
    assert (card.weights.revision, card.weights.unexpected_keys) == ("main", ("fc.*",))
    assert (card.paradigm, card.licence, card.commercial_use) == ("label-supervised", "apache-2.0", "yes")
    assert find_card("timm:vit_base_patch16_clip_224.openai").paradigm == "image-text"
    assert find_card("timm:vit_small_patch14_dinov2.lvd142m").paradigm == "image-only"
    assert find_card("timm:vit_small_patch14_dinov2.lvd142m").poolings == {"head": 384}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:resnet5", "Did you mean 'resnet50'"),
        ("timm:resnet50.no_such_tag", "no timm model with published weights"),
        ("random:resnet50.no_such_tag", "no timm model with published weights"),
        ("timm:", "does not say which"),
        ("timm:coat_tiny.in1k", "ends in several lists of tokens; choose another model"),
    ],
)
def test_a_name_that_timm_does_not_have(name: str, words: str) -> None:
    with pytest.raises(EvalfmError, match=words):
        find_card(name)


def test_tokens_before_the_patches_that_timm_does_not_give_are_one_sentence() -> None:
    card = "random:xcit_nano_12_p16_224"
    for pooling in ("cls", "mean", "cls-mean"):
        with pytest.raises(EvalfmError, match=f"leave --pooling {pooling} out"):
            load_encoder(card, pooling=pooling, layers="3").encode(torch.zeros(1, 3, 224, 224))
    assert load_encoder(card, layers="3").encode(torch.zeros(1, 3, 224, 224)).maps[0].shape == (1, 128, 14, 14)
