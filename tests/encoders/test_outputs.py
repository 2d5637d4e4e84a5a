"""Every pooling of every depth against a plain forward of the library's own model, read by hooks on its blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.choice import chosen
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.families import builder
from evalfm.encoders.outputs import pool
from evalfm.errors import EvalfmError

from .test_conformance import EXPECTED

TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48, "patch_size": 8}


def small(name: str, **changes: Any) -> EncoderCard:
    """The card of ``name`` with four narrow blocks on 32 × 32 pixels."""
    card = find_card(name)
    facts = card.preprocessing.model_copy(update={"input_size": (32, 32), "resize_to": None, "resize": "squash"})
    column = {"map_layers": (0, 1, 3), "map_channels": (32,) * 3, "map_strides": (8,) * 3, "size_multiple": 8}
    text = {"text_tower": None, "variants": {}}
    return card.model_copy(update={"preprocessing": facts, **column, **text, **changes})


def dinov2() -> EncoderCard:
    arguments = {**TINY, "image_size": 32, "mlp_ratio": 2}
    del arguments["intermediate_size"]
    return small("rad-dino", arguments=arguments, poolings={"cls": 32, "mean": 32})


def registers() -> EncoderCard:
    card = dinov2()
    arguments = {**card.arguments, "num_register_tokens": 3}
    changes = {"architecture": "Dinov2WithRegistersModel", "prefix_tokens": 4, "arguments": arguments}
    return card.model_copy(update=changes)


def siglip() -> EncoderCard:
    vision = {**TINY, "image_size": 32}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    arguments = {"vision_config": vision, "text_config": {**text, "vocab_size": 8}}
    return small("siglip2-base", arguments=arguments, poolings={"map": 32, "mean": 32})


def clip() -> EncoderCard:
    card = siglip()
    changes = {"architecture": "CLIPModel", "map_norm": "none", "prefix_tokens": 1, "pooling": "cls"}
    arguments = {**card.arguments, "projection_dim": 24}
    return card.model_copy(
        update={**changes, "arguments": arguments, "poolings": {"cls": 32, "mean": 32, "projection": 24}}
    )


def opened(card: EncoderCard, *words: str) -> Encoder:
    """The card's encoder with drawn weights, none of which is neutral: a norm that is left out shows."""
    encoder = builder(card.family)(chosen(card, words), EncoderState(preprocessing=card.preprocessing), None).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0.1 if parameter.ndim == 1 else 0, 0.3, generator=generator)
    return encoder


def batch(encoder: Encoder) -> Tensor:
    shape = (2, encoder.preparer.facts.channels, *encoder.input_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def hooked(model: nn.Module, blocks: list[nn.Module], pixels: Tensor) -> list[Tensor]:
    """What each of ``blocks`` gives in one plain forward of ``model``."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in blocks]
    with torch.no_grad():
        model(pixels)
    for handle in handles:
        handle.remove()
    assert len(kept) == len(blocks)
    return kept


def parts(encoder: Encoder) -> tuple[nn.Module, list[nn.Module], Callable[[Tensor], Tensor]]:
    """The library's model, its blocks, and the norm that its family puts behind tokens of any block."""
    model: Any = encoder.model
    if isinstance(model, nn.ModuleDict):
        # CLIP norms its class token alone, and that at the end.
        return model["vision"], list(model["vision"].encoder.layers), nn.Identity()
    if hasattr(model, "post_layernorm"):
        return model, list(model.encoder.layers), model.post_layernorm
    return (
        model,
        list(next(each for each in (getattr(model, "layer", None), model.encoder.layer) if each)),
        model.layernorm,
    )


COLUMNS = {"dinov2": (dinov2, 1), "registers": (registers, 4), "siglip": (siglip, 0), "clip": (clip, 1)}


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("family", COLUMNS)
def test_each_pooling_of_a_column_of_blocks(family: str, layer: int) -> None:
    make, prefix = COLUMNS[family]
    encoder = opened(make(), f"layers-{layer}")
    model, blocks, norm = parts(encoder)
    assert len(blocks) == 4
    pixels = batch(encoder)
    tokens = norm(hooked(model, blocks, pixels)[layer]).detach()
    expected = {"mean": tokens[:, prefix:].mean(1)}
    if prefix:
        cls = tokens[:, 0]
        if family == "clip" and layer == 3:
            cls = encoder.model["vision"].post_layernorm(cls).detach()
        expected |= {"cls": cls, "cls-mean": torch.cat([cls, expected["mean"]], 1)}
    own = encoder.encode(pixels).maps
    assert torch.allclose(own[-1].flatten(2).transpose(1, 2), tokens[:, prefix:], atol=1e-5)
    for pooling, theirs in expected.items():
        mine = opened(make(), pooling, f"layers-{layer}").encode(pixels).pooled
        assert torch.allclose(mine, theirs, atol=1e-5, rtol=1e-5), pooling
        # No other token or block would have done.
        others = [each for name, each in expected.items() if each.shape == theirs.shape and name != pooling]
        assert not any(torch.allclose(mine, each, atol=1e-3) for each in others)


def narrow(name: str) -> EncoderCard:
    return find_card(name).model_copy(update=EXPECTED[name].narrow)


@pytest.mark.parametrize(
    "make", [dinov2, clip, *(partial(narrow, name) for name in ("dinov3-vits16", "chexzero", "swin-base"))]
)
def test_of_several_layers_the_deepest_is_pooled(make: Callable[[], EncoderCard]) -> None:
    card = make()
    pooling = "cls-mean" if card.prefix_tokens else "mean"
    both, deep, shallow = (opened(card, pooling, f"layers-{each}") for each in ("0-2", "2", "0"))
    pixels = batch(both)
    assert torch.equal(both.encode(pixels).pooled, deep.encode(pixels).pooled)
    other = shallow.encode(pixels).pooled
    assert other.shape != (2, both.pooled_dim) or not torch.allclose(other, both.encode(pixels).pooled, atol=1e-3)


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_what_is_computed_behind_the_last_block_stays_whatever_the_maps_are(family: str) -> None:
    pooling = {"siglip": "map", "clip": "projection"}[family]
    encoder = opened(COLUMNS[family][0](), pooling, "layers-1")
    model: Any = encoder.model
    pixels = batch(encoder)
    with torch.no_grad():
        if family == "siglip":
            theirs = model(pixels).pooler_output
        else:
            theirs = model["projection"](model["vision"](pixels).pooler_output)
    features = encoder.encode(pixels)
    assert torch.allclose(features.pooled, theirs, atol=1e-6)
    assert len(features.maps) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("random:test_vit", []),
        ("random:vit_tiny_patch16_224", []),
        ("dinov3-vits16", ["layers-3"]),
        ("dinov3-vits16", ["layers-11"]),
        ("biomedclip", []),
        ("chexzero", []),
        ("chexzero", ["layers-4"]),
        ("dinov2-base", ["layers-4"]),
        ("clip-l14", ["layers-1-2"]),
    ],
)
def test_both_side_by_side_are_each_of_them_exactly(name: str, words: list[str]) -> None:
    base = find_card(name)
    facts = EXPECTED.get(name)
    base = base.model_copy(update=facts.narrow) if facts is not None else base
    size = None if facts is None else facts.small
    features = {}
    for pooling in ("cls", "mean", "cls-mean"):
        card = chosen(base, [pooling, *words])
        weights = "hub" if base.weights.source == "none" else "random"
        encoder = load_encoder(card, weights=weights, input_size=size)
        features[pooling] = encoder.encode(batch(encoder)).pooled
        assert not torch.allclose(features[pooling][0], features[pooling][1], atol=1e-6)
    assert torch.equal(features["cls-mean"], torch.cat([features["cls"], features["mean"]], dim=1))
    assert not torch.allclose(features["cls"], features["mean"], atol=1e-4)


@pytest.mark.parametrize("name", ["chexzero", "biomedclip"])
def test_the_class_token_of_open_clip_is_what_its_projection_takes(name: str) -> None:
    card = find_card(name).model_copy(update=EXPECTED[name].narrow)
    encoder = opened(card, "cls")
    model: Any = encoder.model
    pixels = batch(encoder)
    cls = encoder.encode(pixels).pooled
    with torch.no_grad():
        projected = cls @ model.proj if name == "chexzero" else model.head(cls)
        assert torch.allclose(projected, model(pixels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [3, 7, 11])
def test_tokens_of_timm_are_those_of_its_blocks_normed_without_registers(layer: int) -> None:
    card = find_card("dinov3-vits16").model_copy(update=EXPECTED["dinov3-vits16"].narrow)
    encoder = opened(card, "cls-mean", f"layers-{layer}")
    model: Any = encoder.model
    pixels = batch(encoder)
    tokens = model.norm(hooked(model, list(model.blocks), pixels)[layer]).detach()
    theirs = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=1)
    assert torch.allclose(encoder.encode(pixels).pooled, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_cells_of_a_swin_are_those_of_its_stage_and_its_head_stays(layer: int) -> None:
    card = find_card("swin-base").model_copy(update=EXPECTED["swin-base"].narrow)
    encoder = opened(card, "mean", f"layers-{layer}")
    model: Any = encoder.model
    pixels = batch(encoder)
    cells = hooked(model, list(model.layers), pixels)[layer]
    assert torch.allclose(encoder.encode(pixels).pooled, cells.mean((1, 2)), atol=1e-4, rtol=1e-4)
    head = opened(card, f"layers-{layer}").encode(pixels)
    with torch.no_grad():
        assert torch.allclose(
            head.pooled, model.forward_head(model.forward_features(pixels), pre_logits=True), atol=1e-5
        )
    assert torch.allclose(head.maps[0], cells.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [1, 3, 4])
def test_cells_of_a_resnet_are_averaged_or_their_largest_taken(layer: int) -> None:
    card = find_card("resnet18")
    encoder = load_encoder(card, weights="random", layers=[layer])
    model: Any = encoder.model
    pixels = batch(encoder)
    stages = hooked(model, [model.layer1, model.layer2, model.layer3, model.layer4], pixels)
    mean, most = stages[layer - 1].mean((2, 3)), stages[layer - 1].amax((2, 3))
    assert torch.allclose(encoder.encode(pixels).pooled, mean, atol=1e-6)
    found = load_encoder(card, weights="random", pooling="max", layers=[layer]).encode(pixels).pooled
    assert torch.allclose(found, most, atol=1e-6)
    assert not torch.allclose(mean, most, atol=1e-2)


def test_borders_that_a_map_is_filled_with_are_no_part_of_the_mean() -> None:
    encoder = load_encoder("squeezenet1-0.caffe", weights="random", pooling="mean", layers="5")
    features: Any = encoder.model["features"]
    pixels = batch(encoder)
    with torch.no_grad():
        cells = features[:6](pixels)
    pooled = encoder.encode(pixels)
    assert pooled.maps[0].shape[2:] != cells.shape[2:]
    assert torch.allclose(pooled.pooled, cells.mean((2, 3)), atol=1e-5)


def test_a_pooling_that_the_model_does_not_give_is_an_error_of_the_card() -> None:
    card = find_card("resnet18").model_copy(update={"pooling": "cls", "poolings": {"cls": 512}})
    with pytest.raises(EvalfmError, match=r"resnet18 has no pooling 'cls'; fix the card's poolings\."):
        pool(RawFeatures(final=torch.zeros(1, 512, 2, 2)), card, nn.Identity())
