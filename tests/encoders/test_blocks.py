"""Variants of the forward pass: Biomed-DPT's zero vectors, on tiny checkpoints of two libraries."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evalfm.encoders import find_card, list_cards, load_encoder
from evalfm.encoders.blocks import apply_variant
from evalfm.encoders.card import EncoderCard, Variant
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError

from .families import test_open_clip as open_clips
from .families import test_transformers_duals as duals

NAME = "zero-prompt"


def taken(card: EncoderCard, name: str = NAME) -> EncoderCard:
    return card.model_copy(update={"variant": name, "name": f"{card.name}@{name}"})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Encoder, Any]:
    """BiomedCLIP in small: plain, with the variant, and its trunk and projection."""
    folder = tmp_path_factory.mktemp("biomedclip")
    card, parts, _, _ = open_clips.biomedclip(folder)
    return load_encoder(card, weights=folder), load_encoder(taken(card), weights=folder), parts


def with_noise(batch: Tensor, first: int, last: int, patch: int = 16) -> Tensor:
    """Other pixels in the patches from ``first`` to before ``last`` of the first row."""
    other = batch.clone()
    other[:, :, :patch, first * patch : last * patch] = torch.randn(
        other[:, :, :patch, first * patch : last * patch].shape, generator=torch.Generator().manual_seed(9)
    )
    return other


def test_zeros_stand_for_the_first_patches_before_every_block(pair: tuple[Encoder, Encoder, Any]) -> None:
    _, changed, (trunk, head) = pair
    batch = open_clips.batch(224)
    with torch.no_grad():
        tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(batch)))
        assert tokens.shape[1] == 197
        for block in trunk.blocks:
            tokens = torch.cat([tokens[:, :1], torch.zeros_like(tokens[:, 1:5]), tokens[:, 5:]], dim=1)
            tokens = block(tokens)
        expected = head(trunk.norm(tokens)[:, 0])
    assert len(trunk.blocks) == 12
    assert open_clips.same(changed.encode(batch).pooled, expected)


def test_the_first_four_patches_are_not_seen_and_the_fifth_is(pair: tuple[Encoder, Encoder, Any]) -> None:
    plain, changed, _ = pair
    batch = open_clips.batch(224)
    pooled = changed.encode(batch).pooled
    assert torch.equal(changed.encode(with_noise(batch, 0, 4)).pooled, pooled)
    assert float((changed.encode(with_noise(batch, 4, 5)).pooled - pooled).abs().max()) > 1e-5
    assert float((plain.encode(with_noise(batch, 0, 4)).pooled - plain.encode(batch).pooled).abs().max()) > 1e-5
    assert float((plain.encode(batch).pooled - pooled).abs().max()) > 1e-4


def test_a_copy_of_the_encoder_keeps_the_variant(pair: tuple[Encoder, Encoder, Any]) -> None:
    _, changed, _ = pair
    batch = open_clips.batch(224)
    assert torch.equal(copy.deepcopy(changed).encode(batch).pooled, changed.encode(batch).pooled)


def test_the_variant_is_part_of_the_key_and_of_nothing_else(pair: tuple[Encoder, Encoder, Any]) -> None:
    plain, changed, _ = pair
    assert plain.key != changed.key
    assert plain.weights_digest == changed.weights_digest
    assert {*changed.card.feature_facts()} - {*plain.card.feature_facts()} == {"variant"}
    longer = {"variants": {NAME: Variant(summary="Longer.", zero_tokens=5)}}
    assert changed.card.model_copy(update=longer).feature_facts() != changed.card.feature_facts()
    reworded = {"variants": {NAME: Variant(summary="Other words.", zero_tokens=4)}}
    assert changed.card.model_copy(update=reworded).feature_facts() == changed.card.feature_facts()
    assert open_clips.same(plain.encode_text(["no heart"]), changed.encode_text(["no heart"]))


def test_no_card_decides_by_variants_it_does_not_take() -> None:
    deciding = {
        *("schema", "name", "family", "architecture", "arguments", "parameters", "preprocessing", "size_multiple"),
        *("fixed_input_size", "poolings", "pooling", "map_layers", "map_channels", "map_strides", "map_norm"),
        "prefix_tokens",
    }
    # One more key would give every stored feature another address.
    assert all(set(card.feature_facts()) == deciding for card in list_cards().values())


def test_the_name_asks_for_it() -> None:
    card = find_card("biomedclip@zero-prompt")
    assert (card.name, card.variant, card.pooling) == ("biomedclip@zero-prompt", NAME, "projection")
    assert find_card("biomedclip").variant is None
    both = find_card("biomedclip@cls@zero-prompt")
    assert (both.pooling, both.variant) == ("cls", NAME)
    with pytest.raises(EvalfmError, match=r"no pooling or variant of biomedclip 'zero-promt'.*'zero-prompt'"):
        find_card("biomedclip@zero-promt")
    assert EncoderCard.model_validate(card.model_dump(mode="json", by_alias=True)) == card


def test_other_image_text_encoders_may_offer_it(tmp_path: Path) -> None:
    weights = duals.folder_of(duals.clip_model(), tmp_path)
    card = duals.clip_card().model_copy(update={"variants": {NAME: Variant(summary="Zeros.", zero_tokens=4)}})
    changed, plain = (load_encoder(each, weights=weights) for each in (taken(card), card))
    batch = duals.batch()
    assert torch.equal(changed.encode(with_noise(batch, 0, 4)).pooled, changed.encode(batch).pooled)
    assert not duals.same(changed.encode(batch).pooled, plain.encode(batch).pooled)


def test_where_there_are_no_tokens_to_overwrite_it_is_refused(tmp_path: Path) -> None:
    card = duals.clip_card().model_copy(update={"variants": {NAME: Variant(summary="Zeros.", zero_tokens=99)}})
    encoder = load_encoder(taken(card), weights=duals.folder_of(duals.clip_model(), tmp_path))
    with pytest.raises(EvalfmError, match="pass no 100 tokens on"):
        encoder.encode(duals.batch())
    maps = find_card("resnet18").model_copy(update={"variants": {NAME: Variant(summary="Zeros.", zero_tokens=4)}})
    with pytest.raises(EvalfmError, match="pass no 4 tokens on"):
        load_encoder(taken(maps), weights="random").encode(torch.zeros(1, 3, 224, 224))
    pixels = find_card("pixels").model_copy(update={"variants": {NAME: Variant(summary="Zeros.", zero_tokens=4)}})
    with pytest.raises(EvalfmError, match="has no blocks of a transformer"):
        load_encoder(taken(pixels))


def test_a_card_is_checked() -> None:
    content = find_card("biomedclip").model_dump(mode="json", by_alias=True)
    with pytest.raises(ValueError, match="variant 'other' is not among variants"):
        EncoderCard.model_validate(content | {"variant": "other"})
    with pytest.raises(ValueError, match="same name"):
        EncoderCard.model_validate(content | {"variants": {"cls": {"summary": "x", "zero_tokens": 4}}})
    plain = load_encoder("pixels")
    apply_variant(plain)
    assert not plain._forward_pre_hooks
