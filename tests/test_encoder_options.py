"""Pooling and layers are said anywhere an encoder is, and become part of its name there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalfm.config import EncoderConfig, ProbeConfig
from evalfm.encoder_options import EncoderOptions, in_name
from evalfm.encoders import find_card, load_encoder
from evalfm.errors import EvalfmError
from evalfm.probing.embed_config import EmbedConfig, plan_files
from evalfm.probing.probe import probe


def named(**options: Any) -> str:
    return ProbeConfig(task="ptx-cls", **options).encoder


def test_a_choice_is_part_of_the_name_and_a_default_is_none() -> None:
    assert named(encoder="rad-dino", pooling="mean", layers="9,3") == "rad-dino@mean@layers-3-9"
    assert named(encoder="rad-dino@mean", layers=9) == "rad-dino@mean@layers-9"
    assert named(encoder="ark-plus", pooling="projector", layers=[0, 1, 2, 3]) == "ark-plus"
    plain, said = (ProbeConfig(encoder="rad-dino", task="sex", pooling=each) for each in (None, "cls"))
    assert (plain.key, plain) == (said.key, said)
    other = ProbeConfig(encoder="rad-dino", task="sex", pooling="mean")
    assert other.pooling is None
    assert other.key == ProbeConfig(encoder="rad-dino@mean", task="sex").key != plain.key
    assert in_name({"encoder": "rad-dino"}) == {"encoder": "rad-dino"}
    # It is a function of its JSON, so that a cell of a study means the same elsewhere.
    assert ProbeConfig.model_validate_json(other.model_dump_json()) == other


def test_a_name_that_a_library_must_look_up_is_put_in_order_where_it_is_loaded() -> None:
    name = named(encoder="random:test_vit", pooling="head", layers="1,4")
    assert name == "random:test_vit@head@layers-1-4"
    assert find_card(name).name == "random:test_vit@layers-1-4"


def test_attentive_is_the_head_of_that_name() -> None:
    said = ProbeConfig(encoder="rad-dino", task="sex", pooling="attentive")
    assert said == ProbeConfig(encoder="rad-dino", task="sex", heads="attentive")
    with pytest.raises(EvalfmError, match="--pooling attentive stands for --head attentive; leave one of the two out"):
        ProbeConfig(encoder="rad-dino", task="sex", pooling="attentive", heads=["linear"])
    with pytest.raises(EvalfmError, match="take `evalfm probe --head attentive`"):
        EmbedConfig(encoder="rad-dino", pooling="attentive")


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        ("precomputed:a.parquet", r"precomputed:a.parquet is a table of features, whose pooling was chosen; leave"),
        ("constant", r"constant is a table of features, whose pooling was chosen; leave --{} out\."),
        ("mine.py:build", r"mine.py:build is an encoder from code, which decides its own pooling; leave --{} out\."),
    ],
)
@pytest.mark.parametrize(("option", "value"), [("pooling", "mean"), ("layers", "last")])
def test_who_decides_by_himself_refuses_it(encoder: str, sentence: str, option: str, value: str) -> None:
    for config in (ProbeConfig, EmbedConfig):
        more = {"task": "sex"} if config is ProbeConfig else {}
        with pytest.raises(EvalfmError, match=sentence.format(option)):
            config(encoder=encoder, **more, **{option: value})


def test_an_encoder_that_is_an_object_keeps_its_own(tmp_path: Path) -> None:
    made = load_encoder("pixels")
    for option in ({"pooling": "dct"}, {"layers": "last"}):
        with pytest.raises(EvalfmError, match="is an encoder from code, which decides its own pooling"):
            probe(made, "ptx-cls", out=tmp_path, **option)
        with pytest.raises(EvalfmError, match="is an encoder from code, which decides its own pooling"):
            load_encoder(made, **option)
    card = find_card("resnet18")
    assert load_encoder(card, weights="random", pooling="max", layers=3).card.name == "resnet18@max@layers-3"


def test_files_of_embeddings_are_named_by_the_choice(tmp_path: Path) -> None:
    out = tmp_path / "{encoder}.parquet"
    (plan,) = plan_files(["rad-dino"], None, {"out": out, "pooling": "cls-mean", "layers": "last"})
    assert plan.file.name == "rad-dino@cls-mean@layers-11.parquet"
    assert plan.encoder.label == plan.config.encoder == "rad-dino@cls-mean@layers-11"
    with pytest.raises(EvalfmError, match="There is no pooling of swin-base 'cls'"):
        plan_files(["rad-dino", "swin-base"], None, {"out": out, "pooling": "cls"})


def test_layers_are_text_in_every_form() -> None:
    for given in ("3,6", [3, 6], (3, 6), " 3 , 6 "):
        assert EncoderOptions(layers=given).layers == "3,6"
    assert EncoderConfig().layers is None
