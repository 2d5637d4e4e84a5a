from __future__ import annotations

import pytest

from evalfm.encoders.aliases import ALIASES, find_alias
from evalfm.encoders.registry import card_names, find_card
from evalfm.errors import EvalfmError
from evalfm.heads import load_head


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
    found = {name: find_alias(name) for name in ("unet-resnet34", "unet-efficientnet-b4")}
    parts = {name: alias and (alias.encoder, alias.head, alias.adaptation) for name, alias in found.items()}
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
