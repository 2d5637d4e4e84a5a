"""Facts of cards that were read in the authors' code and on the hub after the cards were first written."""

from __future__ import annotations

import re
from typing import Any

import pytest

from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.card import MAX_SIDE
from evalfm.encoders.registry import CARDS, find_absent
from evalfm.errors import EvalfmError

NUMPY = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "numpy.dtypes.Float64DType")
BIOMEDBERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"

# Card, where in it, the fact, where it was read.
FACTS: list[tuple[str, str, Any, str]] = [
    *(
        (name, place, fact, "UniMed-CLIP: app, configurations, README, hub listing")
        for name in ("unimed-clip-b16", "unimed-clip-l14")
        for place, fact in {
            "text_tower.context_length": 256,
            "arguments.text_cfg.context_length": 256,
            "arguments.text_cfg.bert": {"vocab_size": 30522},
            "text_tower.tokenizer_repository": BIOMEDBERT,
            "weights.pickle_globals": NUMPY,
            "weights.source": "hub",
        }.items()
    ),
    ("unimed-clip-b16", "weights.repository", "UzairK/unimed-clip-vit-b16", "hub listing"),
    ("unimed-clip-l14", "weights.repository", "UzairK/unimed_clip_vit_l14_base_text_encoder", "hub listing"),
    ("unimed-clip-l14", "weights.file", "unimed_clip_vit_l14_base_text_encoder.pt", "hub listing"),
    ("mermed-fm", "weights.wrapper", ("teacher",), "yangzhou12/MerMED, main_mermed.py"),
    ("mermed-fm", "weights.strip_prefix", "module.backbone.", "yangzhou12/MerMED, main_mermed.py"),
    ("mermed-fm", "preprocessing.mean", (0.50756656,) * 3, "yangzhou12/MerMED, main_mermed.py"),
    ("mermed-fm", "preprocessing.std", (0.31223216,) * 3, "yangzhou12/MerMED, main_mermed.py"),
    ("cxr-clip-swint", "weights.file", "swint_mcc.tar", "kakaobrain/cxr-clip"),
    ("cxr-clip-swint", "poolings.projection", 512, "kakaobrain/cxr-clip, configs/model/clip_swin_clinical.yaml"),
    ("cxr-clip-swint", "preprocessing.interpolation", "bilinear", "kakaobrain/cxr-clip, data_utils.py"),
    ("cxr-clip-swint", "text_tower.context_length", 256, "kakaobrain/cxr-clip, configs"),
    ("cxr-clip-swint", "text_tower.tokenizer_repository", "emilyalsentzer/Bio_ClinicalBERT", "kakaobrain/cxr-clip"),
    ("cxr-clip-swint", "text_tower.absent", "No {}", "kakaobrain/cxr-clip, evaluator.py"),
    ("chexzero", "preprocessing.first_interpolation", "lanczos", "CheXzero, data_process.py"),
    ("chexzero", "preprocessing.side_rounding", "down", "CheXzero, data_process.py"),
    ("chexzero", "preprocessing.cut_overshoot", False, "CheXzero, zero_shot.py"),
    ("chexzero", "text_tower.present", "{}", "CheXzero, zero_shot.py"),
    ("chexzero", "text_tower.absent", "no {}", "CheXzero, zero_shot.py"),
    ("rad-dino", "licence", "MIT", "the hub's page"),
    ("rad-dino", "preprocessing.mean", (0.5307,) * 3, "package rad-dino 0.1.1"),
    ("rad-dino", "preprocessing.std", (0.2583,) * 3, "package rad-dino 0.1.1"),
    ("rad-dino-maira-2", "weights.revision", "a6132efb9268859545e9f68be18a76a6473f174a", "the hub's tree page"),
    ("rad-dino-maira-2", "licence", "MSRLA", "the hub's tree page"),
    ("chexagent", "licence", "CC-BY-NC-4.0", "CheXagent's README"),
    ("chexagent", "preprocessing.input_size", (512, 512), "CheXagent's README"),
    ("chexagent", "text_tower.tokenizer", ("spiece.model",), "the hub's listing"),
    ("biomedclip", "weights.revision", "9f341de24bfb00180f1b847274256e9b65a3a32e", "the hub's tree page"),
    ("biomedclip", "text_tower.tokenizer", ("tokenizer.json",), "the hub's tree page"),
    ("biovil-t", "weights.revision", "692f09e9be1bfe5fdd5f3efdd0e1eca7d2c10b23", "the hub's tree page"),
    ("biovil-t", "text_tower.tokenizer", ("vocab.txt",), "the hub's tree page"),
    ("biovil-t", "text_tower.arguments.weights", "pytorch_model.bin", "the hub's tree page"),
    ("biovil-t", "licence", "MIT", "the hub's tree page"),
    *((name, "gated", True, "README") for name in ("curia", "curia-2")),
    *((name, "licence", "RAIL-M (research only)", "README") for name in ("curia", "curia-2")),
    *(
        (f"siglip2-{size}", place, fact, "copies of the repository")
        for size in ("base", "large", "so400m")
        for place, fact in {
            "preprocessing.interpolation": "bilinear",
            "text_tower.tokenizer": ("tokenizer.json",),
        }.items()
    ),
    *((f"eva-x-{size}", "preprocessing.mean", (0.49185243,) * 3, "hustvl/EVA-X") for size in ("ti", "s", "b")),
    *((f"eva-x-{size}", "preprocessing.std", (0.28509309,) * 3, "hustvl/EVA-X") for size in ("ti", "s", "b")),
    ("ark-plus", "poolings", {"projector": 1376, "mean": 1536}, "the Ark repository; Li 2025's code"),
]


UNPINNED = {"convnext-base", "densenet121", "eva-x-b", "eva-x-s", "eva-x-ti", "medimageinsight", "unimed-clip-l14"}
"""Cards of the hub whose commit nobody could confirm and whose SHA-256 is not known; nothing is to be added."""


def test_every_other_card_of_the_hub_pins_a_commit_or_a_digest() -> None:
    cards = [find_card(path.name.removesuffix(".yaml")) for path in sorted(CARDS.glob("*.yaml"))]
    facts = {card.name: card.weights for card in cards if card.weights.source == "hub"}
    loose = {name for name, each in facts.items() if each.revision == "main" and each.sha256 is None}
    assert loose == UNPINNED
    for name, each in facts.items():
        assert name in loose or each.sha256 or re.fullmatch("[0-9a-f]{40}", each.revision or ""), name
    for card in cards:
        tower = card.text_tower
        if tower is not None and tower.tokenizer_repository is not None:
            assert re.fullmatch("[0-9a-f]{40}", tower.tokenizer_revision or ""), card.name


@pytest.mark.parametrize(("name", "place", "fact", "source"), FACTS)
def test_the_card_says_what_was_read(name: str, place: str, fact: Any, source: str) -> None:
    value: Any = find_card(name)
    for step in place.split("."):
        value = value[step] if isinstance(value, dict) else getattr(value, step)
    assert value == fact, source


def test_eva_x_has_seen_the_reports_of_mimic() -> None:
    """The target of its masked modelling was a network taught with them."""
    sets = {each.name: each.what for each in find_card("eva-x-b").pretraining_data}
    assert sets == {"NIH ChestX-ray14": "images", "CheXpert": "images", "MIMIC-CXR": "text"}


@pytest.mark.parametrize("name", ["rad-dino", "rad-dino-maira-2"])
def test_what_pre_training_started_from_is_told(name: str) -> None:
    assert any("started from dinov2-base" in sentence for sentence in find_card(name).confirmed)


def test_a_third_partys_radimagenet_is_told() -> None:
    card = find_absent("radimagenet-r50")
    assert card is not None
    assert any("ResNet50.pt" in sentence for sentence in card.unconfirmed)


@pytest.mark.parametrize(("name", "dim"), [("ark-plus", 1376), ("ark-plus@mean", 1536), ("ark-plus@projector", 1376)])
def test_both_embeddings_of_ark_can_be_chosen(name: str, dim: int) -> None:
    assert find_card(name).pooled_dim == dim


@pytest.mark.parametrize("size", [1_000_000, MAX_SIDE + 32, (224, 1_000_000)])
def test_an_input_too_large_for_any_machine_is_refused(size: Any) -> None:
    with pytest.raises(EvalfmError, match=r"8192 pixels along a side.*made for 224 x 224, lower --input-size"):
        load_encoder("resnet18", weights="random", input_size=size)
    card = find_card("resnet18").model_dump(mode="json", by_alias=True)
    card["preprocessing"]["input_size"] = [1_000_000, 1_000_000]
    with pytest.raises(ValueError, match="between 1 and 8,192 pixels"):
        type(find_card("resnet18")).model_validate(card)
