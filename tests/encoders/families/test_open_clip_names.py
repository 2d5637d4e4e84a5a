"""Names of open_clip's list and repositories with its configuration, against its own models and transforms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image as Pil
from safetensors.torch import save_file

from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.beside_library import beside_library
from evalfm.errors import EvalfmError

from ...cli.typed import evalfm
from ..images import drawn, model_tensor

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION: dict[str, Any] = {"image_size": 64, "layers": 6, "width": 48, "patch_size": 16, "head_width": 24}
TIMM_VIT = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": TEXT},
    "resnet": {
        "embed_dim": 20,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "timm": {"embed_dim": 20, "vision_cfg": TIMM_VIT, "text_cfg": TEXT},
    "custom": {"embed_dim": 20, "vision_cfg": TIMM_VIT, "text_cfg": TEXT, "custom_text": True},
    "convnext": {
        "embed_dim": 20,
        "vision_cfg": {"image_size": 96, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
    "elsewhere": {
        "embed_dim": 20,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "hf_tokenizer_name": "nobody/nothing", "pool_type": "last"},
        "custom_text": True,
    },
}
TAGS = {
    "plain": {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "interpolation": "bicubic", "resize_mode": "shortest"},
    "squashed": {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear", "resize_mode": "squash"},
    "quick": {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "longest"},
}


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of few tensors among those that open_clip knows."""
    for name, config in CONFIGS.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, f"small-{name}", config)
        tags = {tag: {**cfg, "hf_hub": "org/small/", "quick_gelu": tag == "quick"} for tag, cfg in TAGS.items()}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, f"small-{name}", tags)


def plain(name: str, tag: str, file: Path) -> tuple[Any, Any]:
    """open_clip's own model with weights that are not its first, saved to ``file``, and its own transform."""
    settings = TAGS[tag]
    model: Any = open_clip.create_model(f"small-{name}", force_quick_gelu=tag == "quick").eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15, generator=generator)
        model.logit_scale.fill_(2.0)
        for key, buffer in model.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
    save_file({key: each.contiguous() for key, each in model.state_dict().items()}, file)
    transform: Any = open_clip.image_transform(
        model.visual.image_size,
        is_train=False,
        mean=settings["mean"],
        std=settings["std"],
        interpolation=settings["interpolation"],
        resize_mode=settings["resize_mode"],
    )
    return model, transform


@pytest.mark.parametrize(
    ("name", "tag", "strides"),
    [
        ("vit", "plain", (16,) * 5),
        ("vit", "quick", (16,) * 5),
        ("resnet", "squashed", (4, 8, 16, 32)),
        ("timm", "plain", (16,) * 5),
        ("custom", "squashed", (16,) * 5),
        ("convnext", "quick", (4, 8, 16, 32)),
        ("elsewhere", "plain", (16,) * 5),
    ],
)
def test_a_name_of_the_list_is_open_clips_own_model(
    name: str, tag: str, strides: tuple[int, ...], tmp_path: Path
) -> None:
    model, transform = plain(name, tag, tmp_path / "w.safetensors")
    encoder = load_encoder(f"open_clip:small-{name}/{tag}", weights=tmp_path / "w.safetensors")
    card = encoder.card
    assert (card.poolings, card.map_strides, card.paradigm) == ({"projection": 20}, strides, "image-text")
    for height, width in ((120, 171), (190, 97)):
        picture = drawn(height, width)
        levels = Pil.fromarray(np.rint(picture.pixels[0] * 255).astype(np.uint8)).convert("RGB")
        theirs = transform(levels)
        own, _ = model_tensor(encoder.preparer, picture)
        level = torch.tensor(encoder.preparer.facts.std)[:, None, None] * 255
        assert float(((own - theirs) * level).square().mean().sqrt()) < 1.0
        with torch.no_grad():
            expected = model.encode_image(theirs[None])
            stages = model.visual.forward_intermediates(theirs[None], intermediates_only=True)["image_intermediates"]
        features = encoder.encode(theirs[None])
        assert float((features.pooled - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
        if card.map_norm == "none":
            assert all(torch.equal(mine, stages[at]) for mine, at in zip(features.maps, card.map_layers, strict=True))
    if name in ("elsewhere", "resnet"):
        found = beside_library(encoder)
        assert {each.part for each in found.parts if each.same} >= {"embedding"}
        assert found.same, found
    if name == "elsewhere":
        assert card.text_tower is None
        assert any("Its texts are not read" in sentence for sentence in card.unconfirmed)
        return
    texts = ["no pneumothorax", "a photo of a heart"]
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(f"small-{name}")(texts))
    assert torch.allclose(encoder.encode_text(texts), expected, atol=1e-5)
    assert encoder.text_tower().logit_scale == pytest.approx(float(torch.tensor(2.0).exp()))


def test_quick_gelu_goes_by_the_tag_and_changes_features(tmp_path: Path) -> None:
    plain("vit", "quick", tmp_path / "w.safetensors")
    batch = torch.rand(1, 3, 64, 64)
    quick, slow = (
        load_encoder(f"open_clip:small-vit/{tag}", weights=tmp_path / "w.safetensors").encode(batch).pooled
        for tag in ("quick", "plain")
    )
    assert not torch.allclose(quick, slow, atol=1e-4)
    assert find_card("open_clip:ViT-B-32/openai").arguments["quick_gelu"] is True
    assert find_card("open_clip:ViT-B-32/laion2b_s34b_b79k").arguments["quick_gelu"] is False


COMMIT = "b" * 40


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache of a hub with one repository in it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--org--small"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    snapshot = place / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


def test_a_repository_with_its_configuration(repository: Path, tmp_path: Path) -> None:
    model, transform = plain("vit", "plain", repository / "open_clip_model.safetensors")
    prepared = {name: TAGS["plain"][name] for name in ("mean", "std", "interpolation", "resize_mode")}
    content = {"model_cfg": CONFIGS["vit"], "preprocess_cfg": prepared}
    (repository / "open_clip_config.json").write_text(json.dumps(content))
    (repository / "README.md").write_text("---\nlicense: mit\n---\n")
    encoder = load_encoder("open_clip:hf-hub:org/small")
    assert (encoder.card.weights.revision, encoder.card.licence) == (COMMIT, "mit")
    levels = Pil.fromarray(np.rint(drawn(120, 171).pixels[0] * 255).astype(np.uint8)).convert("RGB")
    with torch.no_grad():
        expected = model.encode_image(transform(levels)[None])
    assert torch.allclose(encoder.encode(transform(levels)[None]).pooled, expected, atol=1e-5)
    found = beside_library(encoder)
    assert found.same, found
    assert {each.part for each in found.parts} >= {"pixels", "embedding", "text"}
    assert find_card(f"open_clip:hf-hub:org/small@{COMMIT}").weights == encoder.card.weights
    # The list's own tag lies in the same repository.
    assert load_encoder("open_clip:small-vit/plain").weights_digest == encoder.weights_digest
    card = tmp_path / "mine.yaml"
    assert evalfm("show", "encoder", "open_clip:hf-hub:org/small", "--write-card", str(card)).returncode == 0
    again = load_encoder(str(card))
    picture = drawn(99, 120)
    mine, theirs = (each.encode(each.prepare(picture)[0][None]) for each in (encoder, again))
    assert torch.equal(mine.pooled, theirs.pooled)
    assert all(torch.equal(*pair) for pair in zip(mine.maps, theirs.maps, strict=True))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("open_clip:ViT-B-32/openay", "Did you mean 'ViT-B-32/openai'"),
        ("open_clip:ViT-B-32", "There is no open_clip model with a tag 'ViT-B-32'. Did you mean"),
        ("open_clip:", "does not say which; write it as open_clip:ViT-B-32/laion2b_s34b_b79k"),
        ("open_clip:hf-hub:org/none", r"open_clip_config\.json of open_clip:hf-hub:org/none .* cannot be reached"),
        ("open_clip:hf-hub:nothing", "names no repository"),
    ],
)
def test_a_name_that_open_clip_does_not_have(name: str, words: str, repository: Path) -> None:
    with pytest.raises(EvalfmError, match=words):
        find_card(name)


def test_a_damaged_configuration_is_a_sentence(repository: Path) -> None:
    for content, words in (
        ({"model_cfg": {"embed_dim": 3}}, "is no configuration of open_clip"),
        ({"model_cfg": {**CONFIGS["vit"], "vision_cfg": {"layers": "many"}}}, "open_clip cannot build"),
        ([], "is no configuration of open_clip|holds no"),
    ):
        (repository / "open_clip_config.json").write_text(json.dumps(content))
        with pytest.raises(EvalfmError, match=words):
            find_card("open_clip:hf-hub:org/small")
