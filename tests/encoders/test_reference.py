"""A name of an encoder is parsed once, for every way that one can be named."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalfm import plugins
from evalfm.encoders import EncoderRef, find_card, load_encoder
from evalfm.encoders.reference import ALIASES, PREFIXES, find_alias
from evalfm.encoders.registry import card_names
from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.probing.session import TABLES

WINDOWS_CODE = r"C:\models\enc.py:build"


@pytest.mark.parametrize(
    ("given", "kind", "name", "path", "attribute", "modifiers"),
    [
        ("rad-dino", "card", "rad-dino", None, None, ()),
        ("biomedclip@cls@zero-prompt", "card", "biomedclip", None, None, ("cls", "zero-prompt")),
        ("random:resnet18", "random", "resnet18", None, None, ()),
        ("random:vit_base.tag@mean", "random", "vit_base.tag", None, None, ("mean",)),
        ("mine/card.yaml", "card-file", "", "mine/card.yaml", None, ()),
        ("card.yml@mean", "card-file", "", "card.yml", None, ("mean",)),
        ("me@home/card.yaml@mean", "card-file", "", "me@home/card.yaml", None, ("mean",)),
        (r"C:\models\card.yaml", "card-file", "", r"C:\models\card.yaml", None, ()),
        (r"C:\models\card.yaml@cls", "card-file", "", r"C:\models\card.yaml", None, ("cls",)),
        ("enc.py:build", "code", "", "enc.py", "build", ()),
        (WINDOWS_CODE, "code", "", r"C:\models\enc.py", "build", ()),
        ("precomputed:f.parquet", "precomputed", "precomputed", "f.parquet", None, ()),
        (r"precomputed:C:\f@1.parquet", "precomputed", "precomputed", r"C:\f@1.parquet", None, ()),
        ("precomputed:enc.py:build", "precomputed", "precomputed", "enc.py:build", None, ()),
        ("constant", "constant", "constant", None, None, ()),
        ("metadata", "metadata", "metadata", None, None, ()),
        (Path("mine") / "card.yaml", "card-file", "", str(Path("mine") / "card.yaml"), None, ()),
    ],
)
def test_every_form_of_a_name(
    given: str, kind: str, name: str, path: str | None, attribute: str | None, modifiers: tuple[str, ...]
) -> None:
    ref = EncoderRef.parse(given)
    assert (ref.kind, ref.name, ref.path, ref.attribute, ref.modifiers) == (kind, name, path, attribute, modifiers)
    assert ref.label == str(given)
    assert EncoderRef.parse(ref) is ref
    assert ref.is_table == (kind in ("precomputed", "constant", "metadata"))
    assert ref.is_code == (kind == "code")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("enc.py", r"'enc.py' names no function; say which builds the encoder: enc.py:build\."),
        ("enc.py:", r"'enc.py:' names no function"),
        ("enc.py:build@mean", r"names no function"),
        ("constant:1", r"'constant:1' says too much; the encoder is called constant\."),
        ("random:", r"'random:' does not say which; write it as random:resnet18\."),
        ("random", r"'random' does not say which"),
        (None, r"'None' is no encoder; give a name, a card or a function\."),
    ],
)
def test_a_name_that_says_too_little_or_too_much(given: str, sentence: str) -> None:
    with pytest.raises(EvalfmError, match=sentence):
        EncoderRef.parse(given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("rad-dyno", r"There is no encoder 'rad-dyno'\. Did you mean 'rad-dino'"),
        ("rand:resnet18", r"There is no kind of encoder 'rand:'\. Did you mean 'random:'"),
        ("precomputed", "does not say which file; write it as precomputed:embeddings.parquet"),
        ("precomputed:nowhere.csv", r"There is no file nowhere.csv; check --encoder\."),
        ("nowhere.py:build", r"There is no file nowhere.py; check --encoder\."),
        ("nowhere.yaml", "There is no file nowhere.yaml"),
        ("hog@mean", "There is no pooling of hog 'mean'"),
    ],
)
def test_what_is_not_there_is_refused_by_the_check(given: str, sentence: str) -> None:
    ref = EncoderRef.parse(given)
    with pytest.raises(EvalfmError, match=sentence):
        ref.check()


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.sampled_from("ab:@./\\~\0é ,"), max_size=12),
    st.sampled_from(["", "precomputed:", "constant", "hog@", "C:\\"]),
    st.sampled_from(["", ".yaml", ".yml@mean", ".py:build", ".py", "@mean"]),
)
def test_any_text_is_a_name_or_refused_in_a_sentence(text: str, before: str, after: str) -> None:
    name = before + text + after
    with suppress(EvalfmError):
        ref = EncoderRef.parse(name)
        assert ref.label == name
        ref.check()


def test_tables_and_code_have_no_card(tmp_path: Path) -> None:
    for name in ("constant", "precomputed:f.csv", "enc.py:build"):
        assert EncoderRef.parse(name).card() is None
        with pytest.raises(EvalfmError, match="has no card"):
            find_card(name)
    with pytest.raises(EvalfmError, match="constant is a table of features and has no card"):
        load_encoder("constant")


def test_objects_stand_for_themselves() -> None:
    card = find_card("pixels")
    encoder = load_encoder(card)
    assert (EncoderRef.parse(card).label, EncoderRef.parse(card).is_code) == ("pixels", False)
    assert find_card(card) is card
    assert (EncoderRef.parse(encoder).label, EncoderRef.parse(encoder).is_code) == ("pixels", True)
    assert find_card(encoder) is card
    assert load_encoder(EncoderRef.parse(encoder)) is encoder

    def build() -> object:
        return encoder

    assert (EncoderRef.parse(build).label, EncoderRef.parse(build).card()) == ("build", None)
    assert load_encoder(build) is encoder


def test_a_plugin_of_code_takes_no_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> object:
        return load_encoder("pixels")

    point = SimpleNamespace(name="theirs", value="package:build", module="package", dist=None, load=lambda: made)
    monkeypatch.setattr(plugins, "installed_points", lambda group: (point,) if group == "evalfm.encoders" else ())
    ref = EncoderRef.parse("theirs")
    assert (ref.kind, ref.is_code, ref.is_slow, ref.card()) == ("plug-in", True, True, None)
    assert find_card("theirs").name == "pixels"
    for refuse in (load_encoder, lambda name: EncoderRef.parse(name).check()):
        with pytest.raises(EvalfmError, match="theirs comes from code and takes no @mean; leave it out"):
            refuse("theirs@mean")


def test_every_prefix_is_served() -> None:
    assert {prefix.kind for prefix in PREFIXES.values() if prefix.is_table} == set(TABLES)
    assert {prefix.kind for prefix in PREFIXES.values() if prefix.card} == {"hf", "open_clip", "random", "timm"}
    for prefix in PREFIXES.values():
        ref = EncoderRef.parse(prefix.example)
        assert (ref.kind, ref.is_table) == (prefix.kind, prefix.is_table)
        if prefix.kind == "hf":
            # Its card is made of files that only the hub has.
            with pytest.raises(EvalfmError, match=r"config\.json of hf:facebook/dinov2-small .* cannot be reached"):
                ref.card()
        else:
            assert (ref.card() is None) == (prefix.card is None)


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_stands_for_what_there_is(name: str) -> None:
    alias = find_alias(name)
    assert alias is not None
    assert alias.name == name
    assert name not in card_names()
    card = find_card(alias.encoder)
    assert list(card.map_strides) == sorted(set(card.map_strides))
    assert load_head(alias.head, "segmentation").name == alias.head
    assert alias.adaptation == "scratch"


def test_the_two_unets_are_resnet34_and_efficientnet_b4_from_scratch() -> None:
    baselines = {name: find_alias(name) for name in ("unet-resnet34", "unet-efficientnet-b4")}
    parts = {name: alias and (alias.encoder, alias.head, alias.adaptation) for name, alias in baselines.items()}
    assert parts == {
        "unet-resnet34": ("resnet34", "unet", "scratch"),
        "unet-efficientnet-b4": ("efficientnet-b4", "unet", "scratch"),
    }
    assert find_alias("resnet34") is None


def test_what_the_alias_says_may_be_said_again_and_nothing_else() -> None:
    alias = find_alias("unet-resnet34")
    assert alias is not None
    expected = ("scratch", ("unet",))
    assert alias.applied(None, None) == expected
    assert alias.applied("scratch", ["unet"]) == expected
    assert alias.applied(None, []) == expected
    for adaptation, heads in (("full", None), ("frozen", ["unet"]), (None, ["linear"]), (None, ["unet", "linear"])):
        with pytest.raises(EvalfmError, match="say --encoder resnet34 to choose another head or adaptation"):
            alias.applied(adaptation, heads)
