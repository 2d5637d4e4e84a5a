"""A choice of pooling, layers and variant is one name, whatever way it is said, and what is not there is refused."""

from __future__ import annotations

import json
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalfm.encoders import EncoderRef, find_card
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.choice import chosen, layer_shapes, layers_text, poolings_of
from evalfm.encoders.registry import card_names
from evalfm.errors import EvalfmError


@pytest.mark.parametrize("name", card_names())
def test_what_the_card_says_already_is_the_card_itself(name: str) -> None:
    card = find_card(name)
    words = [card.pooling, *(["layers-" + "-".join(map(str, card.map_layers))] if card.map_layers else [])]
    assert chosen(card, words) is card
    assert find_card(f"{name}@{words[0]}").feature_facts() == card.feature_facts()
    assert "pooled_layer" not in card.feature_facts()


@pytest.mark.parametrize("name", card_names())
def test_every_choice_is_another_encoder_with_a_valid_card_of_its_own(name: str) -> None:
    card = find_card(name)
    layers = sorted({min(shapes), max(shapes)} if (shapes := layer_shapes(card)) else {None})
    facts = {json.dumps(card.feature_facts())}
    count = 1
    for layer in layers:
        for pooling, dim in poolings_of(card, layer).items():
            words = [pooling, *([] if layer is None else [f"layers-{layer}"])]
            made = chosen(card, words)
            assert made.pooled_dim == dim
            # As a run keeps it, and as predict reads it.
            assert EncoderCard.model_validate(made.model_dump(mode="json", by_alias=True)) == made
            facts.add(json.dumps(made.feature_facts()))
            count += made.name != name
    assert len(facts) == count


def test_the_order_in_which_it_is_said_makes_no_other_encoder() -> None:
    for words in permutations(["cls-mean", "zero-prompt", "layers-9-3"]):
        made = find_card("@".join(["biomedclip", *words]))
        assert made.name == "biomedclip@cls-mean@zero-prompt@layers-3-9"
        assert (made.variant, made.map_layers, made.pooled_layer) == ("zero-prompt", (3, 9), 9)
        ref = EncoderRef.parse("@".join(["biomedclip", *words[:2]])).choosing(None, None)
        assert ref.label == "@".join(["biomedclip", *words[:2]])
    assert (
        EncoderRef.parse("biomedclip@zero-prompt").choosing("cls", "9").label == "biomedclip@cls@zero-prompt@layers-9"
    )


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        # The deepest layer named is the last: the card's own end.
        ("rad-dino@layers-3-11", ("cls", 768, None, (3, 11), (14, 14))),
        ("rad-dino@layers-3-9", ("cls", 768, 9, (3, 9), (14, 14))),
        ("rad-dino@cls-mean@layers-0", ("cls-mean", 1536, 0, (0,), (14,))),
        ("rad-dino@layers-last4", ("cls", 768, None, (8, 9, 10, 11), (14, 14, 14, 14))),
        # What is computed behind the last layer is that, whatever the maps are.
        ("ark-plus@layers-2", ("projector", 1376, None, (2,), (16,))),
        ("ark-plus@mean", ("mean", 1536, None, (0, 1, 2, 3), (4, 8, 16, 32))),
        ("ark-plus@mean@layers-2", ("mean", 768, 2, (2,), (16,))),
        ("ark-plus@mean@layers-last", ("mean", 1536, None, (3,), (32,))),
        ("siglip2-base@layers-5", ("map", 768, None, (5,), (16,))),
        ("siglip2-base@mean@layers-5", ("mean", 768, 5, (5,), (16,))),
        # A mean over cells is what the card calls gap; EfficientNet's end is wider than its last stage.
        ("resnet18@mean@layers-3", ("gap", 256, 3, (3,), (16,))),
        ("efficientnet-lite0@max", ("max", 1280, None, (1, 2, 3, 4), (4, 8, 16, 32))),
        ("efficientnet-lite0@max@layers-1-3", ("max", 112, 3, (1, 3), (4, 16))),
        ("swin-base@mean", ("mean", 1024, 3, (0, 1, 2, 3), (4, 8, 16, 32))),
        ("dinov3-vits16@cls-mean", ("cls-mean", 768, None, (1, 4, 6, 9, 11), (16,) * 5)),
    ],
)
def test_what_a_choice_takes(name: str, taken: tuple[object, ...]) -> None:
    card = find_card(name)
    assert (card.pooling, card.pooled_dim, card.pooled_layer, card.map_layers, card.map_strides) == taken
    assert card.golden is None


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("swin-base@cls", r"There is no pooling of swin-base 'cls', for it has no class token; it has head, mean\."),
        ("resnet18@cls-mean", r"resnet18 'cls-mean', for it has no class token; it has gap, max\."),
        ("rad-dino@max", r"rad-dino 'max', for it is no network of convolutions; it has cls, mean, cls-mean\."),
        ("hog@mean", r"hog 'mean', for it has no cells to average; it has grid\."),
        ("rad-dino@attentive", r"a head learns it .* take `evalfm probe --head attentive`"),
        ("rad-dino@meen", r"There is no pooling of rad-dino 'meen'\. Did you mean 'mean'"),
        ("biomedclip@zero", r"There is no pooling or variant of biomedclip 'zero'"),
        ("rad-dino@cls@mean", r"rad-dino@cls@mean names two poolings; keep one of them\."),
        ("rad-dino@layers-1@layers-2", r"names two layers; keep one of them\."),
        ("rad-dino@layers-12", r"rad-dino has no layer 12; it has blocks 0 to 11, counted from 0"),
        ("ark-plus@layers-2-4-5", r"ark-plus has no layer 4, 5; it has the layers 0, 1, 2, 3"),
        ("resnet18@layers-last5", r"resnet18 has no 5 layers but the layers 1, 2, 3, 4; name fewer\."),
        ("rad-dino@layers-deep", r"names no layers; write it as rad-dino@layers-3-6-9\."),
        ("rad-dino@layers-", r"names no layers"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(name: str, sentence: str) -> None:
    with pytest.raises(EvalfmError, match=sentence):
        find_card(name)


def test_a_choice_of_a_choice_is_refused() -> None:
    with pytest.raises(EvalfmError, match=r"rad-dino@mean is a choice already; choose from rad-dino\."):
        EncoderRef.parse(find_card("rad-dino@mean")).choosing("cls")
    assert chosen(find_card("rad-dino@mean"), []).name == "rad-dino@mean"


@pytest.mark.parametrize("given", ["", "3,", "a", "-1", "last0", "last4,5", "3.5", [], [-1], True, "3 to 9", "9" * 9])
def test_layers_that_are_none_are_refused(given: object) -> None:
    with pytest.raises(EvalfmError, match="are no layers; name some by their numbers"):
        layers_text(given)


@given(st.lists(st.integers(0, 11), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_layers_are_a_set_however_they_are_written(layers: list[int]) -> None:
    ref = EncoderRef.parse("vit-small")
    labels = {
        ref.choosing(layers=each).label for each in (layers, layers[::-1], sorted(set(layers)), str(layers)[1:-1])
    }
    assert len(labels) == 1
    assert find_card(labels.pop()).map_layers == tuple(sorted(set(layers)))
