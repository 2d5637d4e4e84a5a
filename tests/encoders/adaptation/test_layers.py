"""Every trainable parameter stands in exactly one group, and deeper ones learn faster."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.adaptation.layers import layer_groups, parameter_groups
from evalfm.encoders.adaptation.lora import add_lora
from evalfm.encoders.encoder import Encoder, RawFeatures
from evalfm.errors import EvalfmError

# Blocks, counted by hand from the architectures.
DEPTHS = {"vit": 3, "swin": 8, "resnet": 8, "convnext": 12, "dinov2": 3, "squeezenet": 8, "densenet": 58}
# What must stand in the first group, in the one before the last, and in the last.
PLACES = {
    "vit": (["cls_token", "pos_embed", "patch_embed.proj.weight"], ["blocks.2.mlp.fc2.weight"], ["norm.weight"]),
    "swin": (["patch_embed.proj.weight"], ["layers.3.blocks.1.mlp.fc1.bias"], ["norm.weight", "norm.bias"]),
    "resnet": (["conv1.weight", "bn1.bias"], ["layer4.1.conv2.weight", "layer4.1.bn1.weight"], []),
    "convnext": (["stem.0.weight"], ["stages.3.blocks.1.conv_dw.weight"], ["head.norm.weight"]),
    "dinov2": (["embeddings.cls_token", "embeddings.mask_token"], ["encoder.layer.2.norm1.bias"], ["layernorm.bias"]),
    "squeezenet": (["features.0.weight"], ["features.12.squeeze.weight"], []),
    "densenet": (
        ["features.conv0.weight"],
        ["features.denseblock4.denselayer16.conv1.weight"],
        ["features.norm5.weight"],
    ),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_every_parameter_stands_once_and_in_its_place(name: str, make: Callable[[str], Encoder]) -> None:
    encoder = make(name)
    groups = layer_groups(encoder)
    assert len(groups) == DEPTHS[name] + 2
    actual = [(key, id(each)) for group in groups for key, each in group]
    assert sorted(actual) == sorted((key, id(each)) for key, each in encoder.named_parameters())
    for expected, group in zip(PLACES[name], (groups[0], groups[-2], groups[-1]), strict=True):
        own = {key.removeprefix("model.") for key, _ in group}
        assert set(expected) <= own
        assert expected or not own
    assert all(groups[:-1])


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("vit", r"model\.blocks\.(\d+)\."),
        ("dinov2", r"model\.encoder\.layer\.(\d+)\."),
        ("resnet", r"model\.layer(\d+)\.(\d+)\."),
        ("convnext", r"model\.stages\.(\d+)\.blocks\.(\d+)\."),
        ("swin", r"model\.layers\.(\d+)\.blocks\.(\d+)\."),
        ("squeezenet", r"model\.features\.(3|4|5|7|8|9|10|12)\."),
        ("densenet", r"model\.features\.denseblock(\d+)\.denselayer(\d+)\."),
    ],
)
def test_groups_go_from_shallow_to_deep(name: str, pattern: str, make: Callable[[str], Encoder]) -> None:
    groups = layer_groups(make(name))
    orders = []
    for group in groups[1:-1]:
        indices = {tuple(map(int, match.groups())) for key, _ in group if (match := re.match(pattern, key))}
        assert len(indices) == 1
        orders.append(indices.pop())
    assert orders == sorted(set(orders))
    assert not any(re.match(pattern, key) for group in (groups[0], groups[-1]) for key, _ in group)


@pytest.mark.parametrize(
    ("kind", "arguments", "first", "last"),
    [
        ("ViT", {}, "embeddings.cls_token", "layernorm.weight"),
        ("SiglipVision", {}, "embeddings.position_embedding.weight", "post_layernorm.weight"),
        ("CLIPVision", {}, "embeddings.class_embedding", "post_layernorm.weight"),
        (
            "Swin",
            {"embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2]},
            "embeddings.norm.weight",
            "layernorm.weight",
        ),
    ],
)
def test_transformers_models(kind: str, arguments: dict[str, object], first: str, last: str) -> None:
    import transformers

    small = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{kind}Config")(
        image_size=56, patch_size=4 if arguments else 14, **(arguments or small)
    )
    encoder = Wrapped(getattr(transformers, f"{kind}Model")(config))
    groups = layer_groups(encoder)
    assert len(groups) == 5
    actual = [key for group in groups for key, _ in group]
    assert sorted(actual) == sorted(key for key, _ in encoder.named_parameters())
    assert f"model.{first}" in [key for key, _ in groups[0]]
    assert f"model.{last}" in [key for key, _ in groups[-1]]
    undecayed = {
        name for made in parameter_groups(encoder, 1, 1, 0.5) if not made["weight_decay"] for name in made["names"]
    }
    assert f"model.{first}" in undecayed
    # Token-like and position-like entries by the library's own names; matrices of blocks are decayed.
    assert {name for name, each in encoder.named_parameters() if each.ndim == 1} <= undecayed
    assert not any(re.search(r"(_proj|fc1|fc2|reduction|projection)\.weight", name) for name in undecayed)


class Wrapped(Encoder):
    """An encoder around any model, of which only the parameters are looked at."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(find_card("pixels"))
        self.model = model

    def _forward(self, batch: Tensor) -> RawFeatures:
        raise NotImplementedError


def test_a_plain_chain_goes_by_its_layers() -> None:
    import torchvision

    encoder = Wrapped(torchvision.models.vgg11(weights=None).features)
    groups = layer_groups(encoder)
    assert [[key for key, _ in group] for group in groups[1:-1]] == [
        [f"model.{index}.weight", f"model.{index}.bias"] for index in (0, 3, 6, 8, 11, 13, 16, 18)
    ]
    assert groups[0] == groups[-1] == []


def test_register_tokens_and_a_norm_before_the_blocks_are_shallow() -> None:
    encoder = load_encoder("random:vit_small_patch14_reg4_dinov2", input_size=56)
    groups = layer_groups(encoder)
    assert "model.reg_token" in [key for key, _ in groups[0]]
    clip = layer_groups(load_encoder("random:vit_base_patch32_clip_224"))
    assert "model.norm_pre.weight" in [key for key, _ in clip[0]]
    assert [key for key, _ in clip[-1]] == ["model.norm.weight", "model.norm.bias"]


def test_what_timm_does_not_match_stands_where_it_was_built(make: Callable[[str], Encoder]) -> None:
    encoder = make("vit")
    matcher = {"stem": r"^patch_embed", "blocks": [(r"^blocks\.(\d+)", None)]}
    encoder.model.group_matcher = lambda coarse: matcher
    groups = layer_groups(encoder)
    assert {"model.cls_token", "model.pos_embed"} <= {key for key, _ in groups[0]}
    assert [key for key, _ in groups[-1]] == ["model.norm.weight", "model.norm.bias"]


def test_what_lies_between_two_blocks_goes_with_the_next(make: Callable[[str], Encoder]) -> None:
    places = {key: index for index, group in enumerate(layer_groups(make("densenet"))) for key, _ in group}
    first = places["model.features.denseblock2.denselayer1.conv1.weight"]
    assert places["model.features.transition1.conv.weight"] == first == 7
    assert places["model.features.denseblock1.denselayer6.conv1.weight"] == 6


def test_frozen_parameters_stand_nowhere(make: Callable[[str], Encoder]) -> None:
    encoder = make("vit")
    add_lora(encoder)
    groups = layer_groups(encoder)
    assert [len(group) for group in groups] == [0, 4, 4, 4, 0]
    assert sum(len(made["params"]) for made in parameter_groups(encoder, 1, 0.1, 0.5)) == 12
    for each in encoder.parameters():
        each.requires_grad_(False)
    with pytest.raises(EvalfmError, match="no trainable parameters"):
        parameter_groups(encoder, 1, 0.1, 0.5)


def mae_layer(name: str, depth: int) -> int:
    """The layer of a ViT's parameter as in MAE's lr_decay.py (get_layer_id_for_vit), written out again."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks") else depth + 1


def test_rates_and_decay_of_a_vit_are_those_of_mae(make: Callable[[str], Encoder]) -> None:
    encoder = make("vit")
    made = parameter_groups(encoder, learning_rate=0.004, weight_decay=0.05, layer_decay=0.65)
    seen = {}
    for group in made:
        assert len(group["params"]) == len(group["names"])
        for name, each in zip(group["names"], group["params"], strict=True):
            assert encoder.get_parameter(name) is each
            seen[name.removeprefix("model.")] = (group["lr"], group["weight_decay"])
    for name, each in encoder.model.named_parameters():
        rate = 0.004 * 0.65 ** (4 - mae_layer(name, 3))
        decay = 0.0 if each.ndim == 1 or name in ("cls_token", "pos_embed") else 0.05
        assert seen.pop(name) == pytest.approx((rate, decay)), name
    assert not seen
    assert seen == {}


@pytest.mark.parametrize("name", DEPTHS)
def test_adamw_takes_them_and_decay_1_is_one_rate(name: str, make: Callable[[str], Encoder]) -> None:
    encoder = make(name)
    groups = parameter_groups(encoder, 0.1, 0.05, 1)
    assert {group["lr"] for group in groups} == {0.1}
    optimiser = torch.optim.AdamW(groups)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(encoder.parameters()))
    for group in groups:
        for key, each in zip(group["names"], group["params"], strict=True):
            assert group["weight_decay"] == 0 or each.ndim >= 2
            assert group["weight_decay"] == 0 or key.endswith("weight")
    lowered = parameter_groups(encoder, 0.1, 0.05, 0.5)
    rates = sorted({group["lr"] for group in lowered})
    above = 0 if PLACES[name][2] else 1
    assert rates[-1] == pytest.approx(0.1 * 0.5**above)
    assert rates[0] == pytest.approx(0.1 * 0.5 ** (DEPTHS[name] + 1))


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.1])
def test_decays_that_are_none_are_refused(decay: float, make: Callable[[str], Encoder]) -> None:
    with pytest.raises(EvalfmError, match="layer decay"):
        parameter_groups(make("vit"), 0.1, 0.05, decay)
