"""Small checkpoints in the authors' own layout, of every card of the second round, beside plain forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.beside_library import beside_library
from evalfm.encoders.card import EncoderCard

from ..expected import EXPECTED
from ..expected.second import EXPECTED as SECOND
from .test_transformers_duals import drawn

NAMES = sorted(SECOND)

KNOWN = {
    "Dinov2Model": "encoder.layer.0.attention.attention.query.weight",
    "Dinov2WithRegistersModel": "embeddings.register_tokens",
    "SegformerModel": "segformer.encoder.block.0.0.attention.self.query.weight",
    "SiglipModel": "vision_model.encoder.layers.0.self_attn.q_proj.weight",
    "CLIPModel": "vision_model.encoder.layers.0.self_attn.q_proj.weight",
    "ViTModel": "encoder.layer.0.attention.attention.query.weight",
}
"""A name in the files that lie on the hub, by the class that reads them."""


def small(name: str) -> EncoderCard:
    """The built-in card with thin layers at a small native size; weights and every other fact are its own."""
    row = EXPECTED[name]
    content = find_card(name).model_dump(mode="json", by_alias=True) | row.narrow
    arguments, size = dict(content["arguments"]), row.small
    assert size is not None
    if "vision_config" in arguments:
        arguments["vision_config"] = {**arguments["vision_config"], "image_size": size}
        for tower in ("vision_config", "text_config"):
            given = find_card(name).arguments[tower].get("hidden_act")
            arguments[tower] = {**arguments[tower], **({"hidden_act": given} if given else {})}
    elif content["family"] == "timm" and content["architecture"] != "resnet101":
        arguments["img_size"] = size
    elif content["architecture"] != "SegformerModel" and content["family"] != "timm":
        arguments["image_size"] = size
    if name == "dinov2-giant":
        arguments["use_swiglu_ffn"] = True
    content["arguments"] = arguments
    content["preprocessing"] |= {"input_size": [size, size]}
    if content["preprocessing"]["resize_to"] is not None:
        content["preprocessing"]["resize_to"] = size
    if content["text_tower"] is not None:
        content["text_tower"]["dim"] = content["poolings"][content["text_tower"]["pooling"]]
    content["weights"] |= {"sha256": None}
    if content["family"] == "timm":
        # Not timm's own file, whose pixels would be compared at timm's size.
        content["weights"]["repository"] = content["weights"]["repository"] and "another/copy"
    return EncoderCard.model_validate(content)


Plain = tuple[Callable[[Tensor], tuple[Tensor, list[Tensor]]], int]
"""Embedding and maps of a batch by the library alone, and the parameters of the part that gives them."""


def as_grid(tokens: Tensor, prefix: int) -> Tensor:
    patches = tokens[:, prefix:]
    side = round(patches.shape[1] ** 0.5)
    return patches.transpose(1, 2).reshape(len(patches), -1, side, side)


def saved(card: EncoderCard, whole: Any, folder: Path) -> list[str]:
    """``whole`` as its library saves it, in a file of the name on the card; the names of its tensors."""
    whole.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    assert card.weights.file is not None
    if card.weights.file != "model.safetensors":
        if card.architecture == "CLIPModel":
            for tower, count in (("text", 77), ("vision", 17)):
                tensors[f"{tower}_model.embeddings.position_ids"] = torch.arange(count)[None]
        torch.save(tensors, folder / card.weights.file)
        (folder / "model.safetensors").unlink()
    return list(tensors)


def by_transformers(card: EncoderCard, folder: Path) -> Plain:
    kind = getattr(transformers, card.architecture)
    published = {
        "SegformerModel": transformers.SegformerForSemanticSegmentation,
        # Tuned on classes, the file holds a classifier and every name bears vit.; else there is a pooler.
        "ViTModel": transformers.ViTForImageClassification if card.name.endswith("in1k") else transformers.ViTModel,
    }.get(card.architecture, kind)
    whole = drawn(published(kind.config_class(**card.arguments)))
    if card.architecture == "SegformerModel":
        for module in whole.modules():
            if isinstance(module, nn.LayerNorm):
                # Its norms stand in the way of a signal where they are drawn about 0.
                nn.init.ones_(module.weight)
    names = saved(card, whole, folder)
    assert any(each.endswith(KNOWN[card.architecture]) for each in names), names[:20]
    vision = getattr(whole, "vision_model", getattr(whole, "vit", getattr(whole, "segformer", whole)))

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        output = vision(pixel_values=batch, output_hidden_states=True)
        if card.architecture == "SegformerModel":
            return output.last_hidden_state.mean((2, 3)), list(output.hidden_states)
        chosen = [output.hidden_states[1 + index] for index in card.map_layers]
        if card.architecture == "CLIPModel":
            return output.pooler_output, [as_grid(each, 1) for each in chosen]
        if card.architecture == "SiglipModel":
            return output.pooler_output, [as_grid(vision.post_layernorm(each), 0) for each in chosen]
        normed = [vision.layernorm(each) for each in chosen]
        # CLS, registers, then the patches.
        prefix = 1 + card.arguments.get("num_register_tokens", 0)
        return output.last_hidden_state[:, 0], [as_grid(each, prefix) for each in normed]

    parts = [vision] + ([whole.visual_projection] if card.architecture == "CLIPModel" else [])
    count = sum(each.numel() for part in parts for name, each in part.named_parameters() if "pooler" not in name)
    return run, count


def authors_names(tensors: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """timm's DINOv2 with registers under the names of the authors' code, blocks in four chunks, heads beside."""
    theirs = {}
    for name, tensor in tensors.items():
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            rest = rest.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
            name = f"blocks.{int(block) // (depth // 4)}.{block}.{rest}"
        theirs[f"backbone.{name}"] = tensor
    theirs["backbone.register_tokens"] = theirs.pop("backbone.reg_token")
    # They add a position to CLS at every pass, which timm has in the token.
    position = torch.full_like(theirs["backbone.cls_token"], 0.25)
    theirs["backbone.cls_token"] = theirs["backbone.cls_token"] - position
    theirs["backbone.pos_embed"] = torch.cat([position, theirs["backbone.pos_embed"]], dim=1)
    theirs["backbone.mask_token"] = torch.zeros(1, 48)
    return {**theirs, "dino_head.last_layer.weight_v": torch.zeros(2, 2), "ibot_head.mlp.0.weight": torch.zeros(2, 2)}


def by_timm(card: EncoderCard, folder: Path) -> Plain:
    """The model with its classifier is saved; the model without is run, block by block."""
    model = drawn(timm.create_model(card.architecture, pretrained=False, num_classes=0, **card.arguments))
    assert card.weights.file is not None
    if card.name == "chexfound":
        theirs = authors_names(dict(model.state_dict()), card.arguments["depth"])
        torch.save({"teacher": theirs}, folder / card.weights.file)
    else:
        classes = 1024 if card.name.startswith("pe-core") else 14
        whole = timm.create_model(card.architecture, pretrained=False, num_classes=classes, **card.arguments)
        whole.load_state_dict(model.state_dict(), strict=False)
        # Those of several teachers and of TIPS have no classifier.
        source = whole if card.weights.unexpected_keys else model
        save_file({name: each.contiguous() for name, each in source.state_dict().items()}, folder / card.weights.file)

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen: list[Tensor] = []
        places: Iterable[nn.Module] = (
            [model.layer1, model.layer2, model.layer3, model.layer4] if card.name == "resnet101" else model.blocks
        )
        hooks = [
            each.register_forward_hook(lambda _module, _given, output: seen.append(output.clone())) for each in places
        ]
        final = model.forward_features(batch)
        for hook in hooks:
            hook.remove()
        if card.name == "resnet101":
            return final.mean((2, 3)), seen
        norm = model.norm if card.map_norm == "final" else nn.Identity()
        prefix = {"chexfound": 5, "c-radio-b16": 8, "tipsv2-b14": 2}.get(card.name, 1)
        maps = [as_grid(norm(seen[index]), prefix) for index in card.map_layers]
        if card.name.startswith("medmae") and card.pooling == "head":
            return model.fc_norm(final[:, 1:].mean(1)), maps
        if card.name.startswith("pe-core"):
            return model.attn_pool(final), maps
        return final[:, 0], maps

    return run, sum(each.numel() for each in model.parameters())


def published(card: EncoderCard, folder: Path) -> Plain:
    torch.manual_seed(3)
    return {"timm": by_timm, "transformers": by_transformers}[card.family](card, folder)


def batch(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def close(one: Tensor, other: Tensor) -> bool:
    scale = float(other.abs().max())
    return one.shape == other.shape and scale > 0 and float((one - other).abs().max()) <= 1e-5 * scale


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_file_gives_the_librarys_own_embedding_and_maps(name: str, tmp_path: Path) -> None:
    card = small(name)
    plain, count = published(card, tmp_path)
    encoder = load_encoder(card.model_copy(update={"parameters": count}), weights=tmp_path)
    given = batch(encoder.input_size[0])
    with torch.no_grad():
        pooled, maps = plain(given)
    features = encoder.encode(given)
    assert close(features.pooled, pooled)
    assert len(features.maps) == len(maps)
    for mine, theirs in zip(features.maps, maps, strict=True):
        assert close(mine, theirs)
    assert not [each for each in encoder.cautions if each.code in ("input-changed", "renamed-weights")]
    found = beside_library(encoder)
    assert found.same, found
    assert found.missing == ()
