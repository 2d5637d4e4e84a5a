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

M42 = "m42-health/CXformer"

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
    *((f"cxformer-{size}", "preprocessing.scaling", "equalize-image", M42) for size in ("s", "b")),
    *((f"cxformer-{size}", "preprocessing.input_size", (518, 518), M42) for size in ("s", "b")),
    *((f"cxformer-{size}", "arguments.num_register_tokens", 4, M42) for size in ("s", "b")),
    *((f"cxformer-{size}", "licence", "CC-BY-NC-4.0", M42) for size in ("s", "b")),
    ("cxformer-s", "weights.revision", "21777c302a43197b704c6c92591d9897efaaac3b", "a third party's loader"),
    *(
        (f"medmae-{name}", place, fact, "lambert-x/medical_mae, util/datasets.py; the hub's pages")
        for name in ("s", "b", "s-nih", "b-nih", "s-chexpert", "b-chexpert")
        for place, fact in {
            "preprocessing.mean": (0.5056,) * 3,
            "preprocessing.std": (0.252,) * 3,
            "preprocessing.resize_to": 256,
            "preprocessing.interpolation": "bicubic",
            "licence": "Apache-2.0",
        }.items()
    ),
    *(
        (f"medmae-{name}", "arguments.global_pool", "avg", "lambert-x/medical_mae, models_vit.py")
        for name in ("s-nih", "b-nih", "s-chexpert", "b-chexpert")
    ),
    ("segformer-b4", "arguments.depths", [3, 8, 27, 3], "a configuration derived from the repository"),
    ("segformer-b4", "arguments.hidden_sizes", [64, 128, 320, 512], "a configuration derived from the repository"),
    ("siglip2-so400m-512", "preprocessing.input_size", (512, 512), "the hub's page"),
    ("siglip2-so400m-512", "preprocessing.interpolation", "bilinear", "copies of the 384-pixel sibling"),
    ("chexfound", "weights.wrapper", ("teacher",), "a third party's loader"),
    ("chexfound", "weights.strip_prefix", "backbone.", "a third party's loader"),
    ("chexfound", "arguments.patch_size", 16, "config.yaml beside the weights"),
    ("chexfound", "prefix_tokens", 5, "config.yaml beside the weights: four registers"),
    *(
        (f"{loss}-{tower}", "weights.repository", f"StanfordAIMI/{name}", "the hub's collection")
        for loss, tower, name in (
            ("xraysiglip", "b16-512", "XraySigLIP__vit-b-16-siglip-512__webli"),
            ("xraysiglip", "b16-laion", "XraySigLIP__vit-b-16__laion2b-s34b-b88k"),
            ("xraysiglip", "l14-laion", "XraySigLIP__vit-l-14__laion2b-s32b-b82k"),
            ("xrayclip", "b16-512", "XrayCLIP__vit-b-16-siglip-512__webli"),
            ("xrayclip", "b16-laion", "XrayCLIP__vit-b-16__laion2b-s34b-b88k"),
            ("xrayclip", "l14-laion", "XrayCLIP__vit-l-14__laion2b-s32b-b82k"),
            ("xrayclip", "l16-512", "XrayCLIP__vit-l-16-siglip-384__webli"),
        )
    ),
    *(
        (name, f"arguments.{tower}.hidden_act", "gelu", "open_clip's configuration has no quick_gelu")
        for name in (
            *("clip-h14-laion2b", "clip-g14-laion2b", "xrayclip-b16-laion", "xrayclip-l14-laion"),
            *("xraysiglip-b16-laion", "xraysiglip-l14-laion"),
        )
        for tower in ("vision_config", "text_config")
    ),
    ("dinov2-giant", "arguments.use_swiglu_ffn", True, "facebookresearch/dinov2, vit_giant2"),
    ("dinov2-small", "weights.revision", "ed25f3a31f01632728cabb09d1542f84ab7b0056", "several third parties"),
    ("ark-plus", "poolings", {"projector": 1376, "mean": 1536}, "the Ark repository; Li 2025's code"),
]


UNPINNED = {
    *("convnext-base", "densenet121", "eva-x-b", "eva-x-s", "eva-x-ti", "medimageinsight", "unimed-clip-l14"),
    *("medmae-s", "medmae-b", "medmae-s-nih", "medmae-b-nih", "medmae-s-chexpert", "cxformer-b", "resnet101"),
    *("xraysiglip-b16-512", "xraysiglip-b16-laion", "xraysiglip-l14-laion", "vit-l16-in1k", "vit-h14-in21k"),
    *("pe-core-b16", "pe-core-l14", "c-radio-b16", "tipsv2-b14"),
}
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


FIVE = dict.fromkeys(("MIMIC-CXR", "CheXpert", "NIH ChestX-ray14", "PadChest", "BRAX"), "images")
WITH_TEXT = dict.fromkeys(("MIMIC-CXR", "CheXpert", "PadChest", "BIMCV", "CANDID-PTX"), "text")
SEEN: dict[str, dict[str, str]] = {
    "cxformer-s": {**FIVE, "LVD-142M": "images"},
    "cxformer-b": {**FIVE, "LVD-142M": "images"},
    "medmae-s": {"NIH ChestX-ray14": "images", "CheXpert": "images"},
    "medmae-b": {"NIH ChestX-ray14": "images", "CheXpert": "images", "MIMIC-CXR": "images"},
    "medmae-s-nih": {"NIH ChestX-ray14": "labels", "CheXpert": "images"},
    "medmae-b-nih": {"NIH ChestX-ray14": "labels", "CheXpert": "images", "MIMIC-CXR": "images"},
    "medmae-s-chexpert": {"NIH ChestX-ray14": "images", "CheXpert": "labels"},
    "medmae-b-chexpert": {"NIH ChestX-ray14": "images", "CheXpert": "labels", "MIMIC-CXR": "images"},
    "segformer-b4": {"ImageNet-1k": "labels", "ADE20K": "labels"},
    "siglip2-so400m-512": {"WebLI": "text"},
    "chexfound": dict.fromkeys(("MIMIC-CXR", "CheXpert", "PadChest", "BRAX"), "images"),
    **{
        f"xray{loss}-{tower}": WITH_TEXT
        for loss in ("clip", "siglip")
        for tower in ("b16-512", "b16-laion", "l14-laion")
    },
    "xrayclip-l16-512": WITH_TEXT,
    "clip-b16": {"WebImageText": "text"},
    "clip-h14-laion2b": {"LAION-2B": "text"},
    "clip-g14-laion2b": {"LAION-2B": "text"},
    **{f"vit-{size}-in21k": {"ImageNet-21k": "labels"} for size in ("b16", "l16", "h14")},
    **{f"vit-{size}-in1k": {"ImageNet-21k": "labels", "ImageNet-1k": "labels"} for size in ("b16", "l16")},
    "resnet101": {"ImageNet-1k": "labels"},
    **{f"dinov2-{size}": {"LVD-142M": "images"} for size in ("small", "giant", "reg-base")},
}
"""What each has seen, whatever it has from its base; where read stands on the cards."""


@pytest.mark.parametrize("name", SEEN)
def test_what_each_has_seen(name: str) -> None:
    assert {each.name: each.what for each in find_card(name).pretraining_data} == SEEN[name]


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
