"""The plain model of every card's library, on a drawn checkpoint of the card in its published layout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.beside_library import beside_library
from evalfm.encoders.registry import CARDS

from .test_beside_library import parts

NAMES = sorted(path.name.removesuffix(".yaml") for path in CARDS.glob("*.yaml"))
DEEPER = ("efficientnet-b4", "resnet34", "resnet50", "resnet101")
"""What only has more layers than others here; the table of the long run holds these too."""
WITH_WEIGHTS = [
    name for name in NAMES if find_card(name).weights.source not in ("none", "package") and name not in DEEPER
]

NO_PIXELS = {
    *("ark-plus", "biovil-t", "chexzero", "curia", "curia-2", "cxr-clip-swint", "eva-x-b", "eva-x-s", "eva-x-ti"),
    *("medimageinsight", "medsam", "medsiglip", "mermed-fm", "sam-b", "unimed-clip-b16", "unimed-clip-l14"),
    *("xrv-densenet121-all", "chexfound", "cxformer-b", "cxformer-s", "medmae-b", "medmae-b-chexpert", "medmae-b-nih"),
    *("medmae-s", "medmae-s-chexpert", "medmae-s-nih"),
}
"""Their authors' preparation is code of their own, with no settings of a library beside the weights."""
NO_MAPS = {"cxr-clip-swint"}
"""Its stages before they are halved are inside of transformers' Swin."""
NO_TEXT = {"cxr-clip-swint", "medimageinsight"}
"""No library has their text towers; their own tests hold these against plain forwards."""


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


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_every_published_layout_is_its_library_in_all_that_can_be_compared(
    name: str, layouts: ModuleType, tmp_path: Path
) -> None:
    card = layouts.narrow(find_card(name))
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


def test_positions_are_said_to_be_interpolated_only_where_they_are(layouts: ModuleType, tmp_path: Path) -> None:
    """The card's own size is another than timm's, and the position of CLS goes into the token."""
    card = layouts.narrow(find_card("chexfound"))
    weights = layouts.layout(card, tmp_path)
    assert "input-changed" not in [each.code for each in load_encoder(card, weights=weights).cautions]
    smaller = load_encoder(card, weights=weights, input_size=256)
    assert any("interpolates the positions of chexfound" in each.sentence for each in smaller.cautions)
    assert smaller.encode(torch.zeros(1, 3, 256, 256)).maps[0].shape == (1, 48, 16, 16)


IN_FILES = {
    "dinov2-small": ["encoder.layer.0.attention.attention.query.weight"],
    "dinov2-giant": ["encoder.layer.0.mlp.weights_in.weight"],
    "cxformer-s": ["embeddings.register_tokens", "encoder.layer.0.attention.attention.query.weight"],
    "segformer-b4": ["segformer.encoder.block.0.0.attention.self.query.weight", "decode_head.classifier.weight"],
    "clip-b16": ["vision_model.encoder.layers.0.self_attn.q_proj.weight", "text_model.embeddings.position_ids"],
    "xraysiglip-b16-512": ["vision_model.head.attention.in_proj_weight"],
    "vit-b16-in21k": ["encoder.layer.0.attention.attention.query.weight", "pooler.dense.weight"],
    "vit-b16-in1k": ["vit.encoder.layer.0.attention.attention.query.weight", "classifier.weight"],
    "medmae-s-nih": ["fc_norm.weight", "head.weight"],
    "chexfound": ["backbone.blocks.3.4.mlp.w12.weight", "backbone.register_tokens", "dino_head.last_layer.weight_v"],
}
"""Names by which files on the hub are known, some of them older than today's libraries."""


@pytest.mark.parametrize("name", IN_FILES)
def test_the_checkpoints_bear_the_names_of_the_published_ones(name: str, layouts: ModuleType, tmp_path: Path) -> None:
    card = layouts.narrow(find_card(name))
    layouts.layout(card, tmp_path)
    file = tmp_path / card.weights.file
    tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    assert set(IN_FILES[name]) <= set(tensors.get("teacher", tensors))


@pytest.mark.parametrize(
    "name",
    [
        *("ark-plus", "biovil-t", "medimageinsight", "unimed-clip-b16", "cxr-clip-swint", "siglip2-base", "sam-b"),
        *("cxformer-s", "segformer-b4", "chexfound", "medmae-b-nih", "c-radio-b16"),
    ],
)
def test_a_changed_tensor_of_any_kind_of_model_shows(name: str, layouts: ModuleType, tmp_path: Path) -> None:
    card = layouts.narrow(find_card(name))
    weights = layouts.layout(card, tmp_path)
    encoder = load_encoder(card, weights=weights)
    with torch.no_grad():
        [each for each in encoder.parameters() if each.ndim > 1][-1].mul_(-1)
    assert not parts(beside_library(encoder))["embedding"]


@pytest.mark.parametrize("name", ["unimed-clip-b16", "biomedclip", "biovil-t", "pubmedclip", "medsiglip"])
def test_a_word_too_many_shows_in_the_text(
    name: str, layouts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = layouts.narrow(find_card(name))
    encoder = load_encoder(card, weights=layouts.layout(card, tmp_path))
    encode = encoder.encode_text
    monkeypatch.setattr(encoder, "encode_text", lambda texts: encode([f"{text} no" for text in texts]))
    found = parts(beside_library(encoder))
    assert found["embedding"]
    assert not found["text"]
