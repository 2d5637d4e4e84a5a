"""The plain model of every card's library, on a drawn checkpoint of the card in its published layout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.beside_library import beside_library
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.registry import CARDS

from .test_beside_library import parts

NAMES = sorted(path.name.removesuffix(".yaml") for path in CARDS.glob("*.yaml"))
WITH_WEIGHTS = [name for name in NAMES if find_card(name).weights.source not in ("none", "package")]

VIT = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 48}
BERT = {"vocab_size": 13, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TIMM: dict[str, dict[str, Any]] = {
    "convnext_base": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "swin_base_patch4_window7_224": {"depths": [1, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 2, 2, 4]},
}
PORTS: dict[str, dict[str, Any]] = {
    "ark-plus": {"projector": 11, "embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 3},
    "medimageinsight": {
        "projection": 12,
        "embed_dims": [8, 16, 32, 64],
        "num_heads": [1, 2, 4, 8],
        "depths": [1, 1, 2, 1],
        "window_size": 4,
    },
    "biovil-t": {"layers": [1, 1, 1, 1]},
}

NO_PIXELS = {
    *("ark-plus", "biovil-t", "chexzero", "curia", "curia-2", "cxr-clip-swint", "eva-x-b", "eva-x-s", "eva-x-ti"),
    *("medimageinsight", "medsam", "medsiglip", "mermed-fm", "sam-b", "unimed-clip-b16", "unimed-clip-l14"),
    "xrv-densenet121-all",
}
"""Their authors' preparation is code of their own, with no settings of a library beside the weights."""
NO_MAPS = {"cxr-clip-swint"}
"""Its stages before they are halved are inside of transformers' Swin."""
NO_TEXT = {"medimageinsight"}
"""No library has its text tower."""


@pytest.fixture(scope="module")
def layouts() -> ModuleType:
    """The long run, whose layouts this short one shares."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "acceptance" / "verify_layouts.py"
    specification = importlib.util.spec_from_file_location("verify_layouts", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def small(name: str, layouts: ModuleType) -> EncoderCard:
    """The card with a narrow model of as many blocks as it has maps; every other fact is its own."""
    content = find_card(name).model_dump(mode="json", by_alias=True)
    arguments, tower, facts = content["arguments"], content["text_tower"] or {}, content["preprocessing"]
    count, stride = len(content["map_layers"]), content["map_strides"][0]
    evenly = content["map_strides"] == [stride] * count
    widths: dict[str, int] = {}
    side = facts["input_size"][0]
    if content["family"] == "transformers" and "vision_config" in arguments:
        side = 4 * stride
        arguments["vision_config"] |= VIT | {"image_size": side}
        arguments["text_config"] |= VIT | {"num_hidden_layers": 2}
        if "vocab_size" in arguments["text_config"]:
            arguments["text_config"] |= {"vocab_size": 64, "projection_size": 32}
        if "projection_dim" in arguments:
            arguments["projection_dim"] = 20
        widths = {pooling: 20 if pooling == "projection" else 32 for pooling in content["poolings"]}
    elif content["family"] == "transformers" and evenly:
        # A model trained at another size than the card's interpolates its positions.
        side, other = 4 * stride, arguments["image_size"] != side
        shape = {key: value for key, value in VIT.items() if key in arguments}
        arguments |= shape | {"image_size": side + 2 * stride * other}
        widths = dict.fromkeys(content["poolings"], 32)
    elif content["family"] == "transformers":
        side, stages = 64, [12, 24, 48, 96]
        arguments |= {"image_size": 64, "embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}
        arguments |= {"window_size": 2, "projection": 20}
        content |= {"map_channels": stages, "size_multiple": 64}
        widths = {pooling: 20 if pooling == "projection" else 96 for pooling in content["poolings"]}
    elif content["family"] == "open_clip":
        if "timm_model_name" in arguments["vision_cfg"]:
            arguments["vision_cfg"]["timm_model_name"] = "vit_tiny_patch16_224"
        else:
            side = 2 * stride
            arguments["vision_cfg"] |= {"image_size": side, "layers": count, "width": 48, "head_width": 24}
        arguments["embed_dim"] = 20
        if "bert" in arguments["text_cfg"]:
            arguments["text_cfg"]["bert"] = BERT
        else:
            arguments["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2}
        widths = {pooling: 20 if pooling == "projection" else 192 for pooling in content["poolings"]}
    elif content["family"] == "ports":
        arguments |= PORTS[name]
        side = {"ark-plus": 96, "medimageinsight": 64, "biovil-t": 64}[name]
        content["size_multiple"] = min(content["size_multiple"], 96)
        if name != "biovil-t":
            content["map_channels"] = [8, 16, 32, 64]
            widths = {pooling: arguments.get(pooling, 64) for pooling in content["poolings"]}
        elif "bert" in tower["arguments"]:
            tower["arguments"]["bert"] = BERT
        if "width" in tower.get("arguments", {}):
            tower["arguments"] = {"width": 16, "heads": 2, "layers": 2}
    elif evenly and content["family"] == "timm":
        arguments |= {"embed_dim": 48, "depth": count, "num_heads": 2}
        if "samvit" in content["architecture"]:
            side = 64
            arguments |= {"img_size": side, "global_attn_indexes": [1, 4]}
        widths = {pooling: 256 if pooling == "gap" else 48 for pooling in content["poolings"]}
    elif content["architecture"] in TIMM:
        arguments |= TIMM[content["architecture"]]
        stages = arguments.get("dims", [8, 16, 32, 64])
        content |= {"map_channels": stages}
        widths = dict.fromkeys(content["poolings"], stages[-1])
    if evenly and content["family"] != "torchvision":
        content["map_layers"] = list(range(count))
        content["map_channels"] = [widths.get("cls" if name == "biomedclip" else "", 48)] * count
        if content["family"] == "transformers":
            content["map_channels"] = [32] * count
    if facts["resize_to"] is not None:
        facts["resize_to"] = round(facts["resize_to"] * side / facts["input_size"][0])
    facts["input_size"] = [side, side]
    content["poolings"] |= widths
    if tower:
        tower["dim"] = content["poolings"][tower["pooling"]]
    made: EncoderCard = layouts.with_arguments(find_card(name), **content)
    return made


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_every_published_layout_is_its_library_in_all_that_can_be_compared(
    name: str, layouts: ModuleType, tmp_path: Path
) -> None:
    card = small(name, layouts)
    found = layouts.verified(card, tmp_path)
    assert found.same, found
    assert (found.missing, found.unexpected) == ((), ())
    seen = parts(found)
    assert ("pixels" in seen) == (name not in NO_PIXELS)
    assert sum(part.startswith("map ") for part in seen) == (0 if name in NO_MAPS else len(card.map_layers))
    reads = card.text_tower is not None and name not in NO_TEXT
    if card.text_tower is not None and card.text_tower.tokenizer == ("spiece.model",):
        reads = importlib.util.find_spec("sentencepiece") is not None
    assert ("text" in seen) == reads
    assert all(each.difference < 2e-5 for each in found.parts if each.part != "pixels"), found


@pytest.mark.parametrize(
    "name", ["ark-plus", "biovil-t", "medimageinsight", "unimed-clip-b16", "cxr-clip-swint", "siglip2-base", "sam-b"]
)
def test_a_changed_tensor_of_any_kind_of_model_shows(name: str, layouts: ModuleType, tmp_path: Path) -> None:
    card = small(name, layouts)
    weights = layouts.layout(card, tmp_path)
    encoder = load_encoder(card, weights=weights)
    with torch.no_grad():
        [each for each in encoder.parameters() if each.ndim > 1][-1].mul_(-1)
    assert not parts(beside_library(encoder))["embedding"]


@pytest.mark.parametrize("name", ["unimed-clip-b16", "biomedclip", "biovil-t", "pubmedclip", "medsiglip"])
def test_a_word_too_many_shows_in_the_text(
    name: str, layouts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = small(name, layouts)
    encoder = load_encoder(card, weights=layouts.layout(card, tmp_path))
    encode = encoder.encode_text
    monkeypatch.setattr(encoder, "encode_text", lambda texts: encode([f"{text} no" for text in texts]))
    found = parts(beside_library(encoder))
    assert found["embedding"]
    assert not found["text"]
