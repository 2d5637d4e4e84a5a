from __future__ import annotations

from typing import Any

import pytest

from evalfm.cards import read_yaml, validate
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.registry import CARDS
from evalfm.errors import EvalfmError


def facts(**changes: Any) -> dict[str, Any]:
    content = read_yaml(CARDS / "vit-small.yaml")
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        place = content
        for step in path:
            place = place[step]
        place[last] = value
    return content


def card(**changes: Any) -> EncoderCard:
    return validate(EncoderCard, facts(**changes), "card")


def test_an_unquoted_yes_of_yaml_means_yes() -> None:
    assert card(commercial_use=True).commercial_use == "yes"
    assert card(commercial_use=False).commercial_use == "no"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "blue"}, "colour"),
        ({"schema": 2}, "schema"),
        ({"pooling": "max"}, "max"),
        ({"map_strides": [16, 16]}, "same length"),
        ({"map_strides": [32, 16, 16, 16, 16]}, "shallow to deep"),
        ({"preprocessing__mean": [0.5]}, "one per channel"),
        ({"preprocessing__std": [0.5, 0.5, 0.0]}, "positive"),
        ({"preprocessing__resize_to": 200}, "resize_to"),
        ({"preprocessing__resize": "squash", "preprocessing__resize_to": 100}, "resize_to"),
        ({"preprocessing__units": ["HU"]}, "HU and raw"),
        ({"preprocessing__input_range": None}, "input_range"),
        ({"preprocessing__interpolation": "nearest"}, "nearest"),
        ({"preprocessing__input_size": [224, 220]}, "multiple"),
        ({"weights__revision": None}, "file and revision"),
        ({"weights__sha256": "abc"}, "sha256"),
        ({"weights__pickle_globals": ["os.system"]}, "reviewed"),
        ({"name": "../escape"}, "name"),
    ],
)
def test_a_wrong_card_is_refused_with_the_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(EvalfmError, match=said):
        card(**changes)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(EvalfmError, match=r"(?s)colour.*parameters|parameters.*colour"):
        card(colour="blue", parameters="many")


def test_the_dimension_goes_with_the_pooling() -> None:
    assert card(poolings={"cls": 384, "wide": 1000}, pooling="wide").pooled_dim == 1000


def test_a_card_survives_the_way_through_a_run() -> None:
    original = card()
    assert EncoderCard.model_validate(original.model_dump(mode="json", by_alias=True)) == original
