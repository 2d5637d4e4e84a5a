"""An encoder beside its library's plain model: the same where it is the same, and not where anything is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

from evalfm.doctor import LIBRARY
from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.beside_library import Beside, as_table, beside_library
from evalfm.encoders.encoder import Encoder, Features
from evalfm.errors import EvalfmError

from ..cli.typed import evalfm
from .families.test_transformers_duals import clip_card, clip_model, siglip_card, siglip_model, tiny, tokenizer

DINO = {"image_size": 64, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2}
PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 64},
    "do_center_crop": True,
    "crop_size": {"height": 64, "width": 64},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
}


def dinov2(folder: Path) -> Encoder:
    """A tiny checkpoint in the published layout: weights, config.json and preprocessor_config.json."""
    torch.manual_seed(2)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**DINO, mlp_ratio=2)).eval()
    model.save_pretrained(folder)
    card = tiny(
        "rad-dino",
        arguments={**DINO, "mlp_ratio": 2},
        poolings={"cls": 32, "mean": 32},
        parameters=sum(each.numel() for each in model.parameters()),
    )
    facts = card.preprocessing
    settings = PROCESSOR | {"image_mean": list(facts.mean), "image_std": list(facts.std)}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return load_encoder(card, weights=folder)


def parts(found: Beside) -> dict[str, bool]:
    return {each.part: each.same for each in found.parts}


def test_a_published_folder_is_the_library_in_pixels_embedding_and_every_map(tmp_path: Path) -> None:
    found = beside_library(dinov2(tmp_path))
    assert found.same
    assert parts(found) == dict.fromkeys(["pixels", "embedding", *(f"map {number}" for number in range(1, 6))], True)
    assert found.built == "Dinov2Model.from_pretrained of the folder"
    assert all(each.difference < 1e-5 for each in found.parts[1:])
    assert not found.left_out


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"mean": (0.1, 0.5, 0.9)}, {"pixels"}),
        ({"resize_to": 80}, {"pixels"}),
        ({"interpolation": "nearest", "antialias": False}, {"pixels"}),
        ({"map_layers": (0, 1, 2, 3, 3)}, set[str]()),
    ],
)
def test_a_wrong_fact_of_the_card_shows(change: dict[str, Any], wrong: set[str], tmp_path: Path) -> None:
    right = dinov2(tmp_path)
    content = right.card.model_dump(mode="json", by_alias=True)
    place = content if "map_layers" in change else content["preprocessing"]
    place |= change
    found = beside_library(load_encoder(type(right.card).model_validate(content), weights=tmp_path))
    assert {part for part, same in parts(found).items() if not same} >= wrong
    assert found.same == (not wrong)


def spoilt(monkeypatch: pytest.MonkeyPatch, change: Callable[[Features], Features]) -> None:
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, batch, check=True: change(encode(self, batch, check)))


def test_a_spoilt_forward_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dinov2(tmp_path)
    with torch.no_grad():
        other.model.encoder.layer[2].mlp.fc1.weight.mul_(1.3)
    assert not parts(beside_library(other))["embedding"]
    spoilt(monkeypatch, lambda found: Features(found.pooled, (*found.maps[:-1], found.maps[-1].transpose(2, 3))))
    found = beside_library(dinov2(tmp_path))
    assert not found.same
    assert parts(found) == dict.fromkeys(parts(found), True) | {"map 5": False}


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_both_towers_of_the_duals(name: str, tmp_path: Path) -> None:
    model, card, pad = (
        (clip_model(), clip_card(), "</s>") if name == "clip" else (siglip_model(), siglip_card(), "<pad>")
    )
    model.save_pretrained(tmp_path)
    tokenizer(tmp_path)
    file = str(tmp_path / "tokenizer.json")
    transformers.PreTrainedTokenizerFast(tokenizer_file=file, pad_token=pad).save_pretrained(tmp_path)
    found = beside_library(load_encoder(card, weights=tmp_path))
    assert found.same, found
    assert set(parts(found)) == {"embedding", "text", *(f"map {number}" for number in range(1, 6))}
    assert found.left_out == ("No preparation of these weights by their library is at hand.",)


def test_open_clip_builds_its_own_model_from_its_own_configuration(tmp_path: Path) -> None:
    from .families.test_open_clip import batch, chexzero_card, openai

    model = openai()
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    config = {
        "model_cfg": {
            "embed_dim": 20,
            "quick_gelu": True,
            "vision_cfg": {**chexzero_card().arguments["vision_cfg"]},
            "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    encoder = load_encoder(chexzero_card(), weights=tmp_path)
    own, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    size = encoder.input_size[0]
    assert torch.allclose(encoder.encode(batch(size)).pooled, own.eval().encode_image(batch(size)), atol=1e-5)
    found = beside_library(encoder)
    # CheXzero's statistics are its authors', not those of this configuration: the pixels differ, the model does not.
    assert parts(found)["embedding"]
    assert parts(found)["text"]
    assert not parts(found)["pixels"]


def test_timm_by_its_own_filter_and_transform(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model("test_vit.r160_in1k", pretrained=False)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    found = beside_library(load_encoder("timm:test_vit.r160_in1k", weights=tmp_path / "w.safetensors"))
    assert found.same
    assert found.missing == ()
    assert found.unexpected == ()
    assert "pixels" in parts(found)
    assert "map 5" in parts(found)


def test_weights_of_others_are_not_held_to_timms_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit.r160_in1k", pretrained=False).state_dict(), tmp_path / "w.safetensors")
    content = find_card("timm:test_vit.r160_in1k").model_dump(mode="json", by_alias=True)
    content |= {"name": "theirs", "parameters": 302_144}
    content["preprocessing"] |= {"input_size": [96, 96], "resize_to": 96}
    content["arguments"] = {"img_size": 96}
    content["weights"] |= {"repository": "theirs/vit"}
    encoder = load_encoder(type(find_card("hog")).model_validate(content), weights=tmp_path / "w.safetensors")
    found = beside_library(encoder)
    assert found.same
    assert "pixels" not in parts(found)
    assert found.left_out == ("No preparation of these weights by their library is at hand.",)


def test_what_cannot_be_compared_is_a_sentence() -> None:
    for name, options, words in (
        ("hog", {}, "no trained weights"),
        ("random:test_vit", {}, "no trained weights"),
        ("resnet18", {"weights": "random"}, "no weights of a file"),
        ("squeezenet1-0.caffe", {"input_size": 96}, "card's own input size"),
    ):
        with pytest.raises(EvalfmError, match=words):
            beside_library(load_encoder(name, **options))


def test_the_embedded_network_and_the_table_to_send_back() -> None:
    encoder = load_encoder("squeezenet1-0.caffe")
    found = beside_library(encoder)
    assert found.same
    table = as_table(encoder, found)
    assert table.startswith(
        "| squeezenet1-0.caffe | cosine | largest difference |\n|---|---|---|\n| embedding | 1.000000 |"
    )
    assert encoder.state.weights_file is not None
    assert encoder.state.weights_file in table


def test_doctor_says_it_and_the_exit_status_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("doctor", "--verify", "--device", "cpu", "--encoder")
    fine = evalfm(*asked, "squeezenet1-0.caffe")
    assert fine.returncode == 0
    assert f"{LIBRARY}: the same" in fine.stdout
    assert "| embedding | 1.000000 |" in fine.stdout
    none = evalfm(*asked, "hog")
    assert none.returncode == 2
    assert "not compared: hog has no trained weights" in none.stdout
    assert evalfm("doctor", "--verify").returncode == 2
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit.r160_in1k").state_dict(), tmp_path / "w.safetensors")
    asked = (*asked, "timm:test_vit.r160_in1k", "--weights", str(tmp_path / "w.safetensors"))
    assert evalfm(*asked).returncode == 0
    spoilt(monkeypatch, lambda found: Features(found.pooled.flip(1), found.maps))
    other = evalfm(*asked)
    assert other.returncode == 1
    assert "NOT the same" in other.stdout


def test_a_pooling_that_no_library_gives_is_said_and_the_rest_compared(tmp_path: Path) -> None:
    card = dinov2(tmp_path).card
    for choice in ({"pooling": "cls-mean", "layers": "0,4"}, {"pooling": "mean", "layers": "1,3"}):
        found = beside_library(load_encoder(card, weights=tmp_path, **choice))
        assert parts(found) == {"pixels": True, "map 1": True, "map 2": True}
        assert found.left_out == (f"The library has no such pooling; hold {card.name} itself against it too.",)
    mean = beside_library(load_encoder(card, weights=tmp_path, pooling="mean"))
    assert parts(mean)["embedding"]
