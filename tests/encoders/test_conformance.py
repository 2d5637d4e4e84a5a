"""What every built-in encoder must do, and the facts of each as its authors publish them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch

from evalfm.data.images import Image
from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.choice import chosen, layer_shapes, poolings_of
from evalfm.encoders.encoder import Encoder, EncoderState
from evalfm.encoders.families import builder
from evalfm.encoders.registry import CARDS

from .expected import EXPECTED

NAMES = sorted(path.name.removesuffix(".yaml") for path in CARDS.glob("*.yaml"))


def loaded(card: EncoderCard, **options: Any) -> Encoder:
    weights = "hub" if card.weights.source == "none" else "random"
    return load_encoder(card, weights=weights, **options)


def laid_out(card: EncoderCard) -> Encoder:
    """The card's encoder without memory for its tensors."""
    with torch.device("meta"):
        return builder(card.family)(card, EncoderState(preprocessing=card.preprocessing), None).eval()


def opened_small(name: str, **options: Any) -> Encoder:
    """The card's encoder at a small input size, and narrow where the table says how, to spare time."""
    card = find_card(name).model_copy(update=EXPECTED[name].narrow)
    return loaded(card, input_size=EXPECTED[name].small, **options)


@pytest.fixture(scope="module", params=NAMES)
def small(request: pytest.FixtureRequest) -> Encoder:
    return opened_small(request.param)


def picture(height: int = 97, width: int = 120, seed: int = 0) -> Image:
    pixels = np.random.default_rng(seed).random((1, height, width), dtype=np.float32)
    return Image(pixels=pixels, unit="unit-interval", bits=8, spacing_mm=None, rule="test")


def prepared(encoder: Encoder, count: int) -> torch.Tensor:
    return torch.stack([encoder.prepare(picture(seed=seed))[0] for seed in range(count)])


def test_every_card_is_in_the_table() -> None:
    assert sorted(EXPECTED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_is_what_its_authors_publish(name: str) -> None:
    facts = EXPECTED[name]
    card = find_card(name)
    # The largest are laid out without memory: shapes and counts are all that is asked here.
    encoder = laid_out(card) if facts.meta else loaded(card)
    batch = torch.zeros(1, facts.channels, facts.size, facts.size, device="meta" if facts.meta else "cpu")
    assert sum(each.numel() for each in encoder.parameters()) == facts.parameters == card.parameters
    assert encoder.input_size == (facts.size, facts.size)
    with torch.no_grad():
        features = encoder(batch)
    assert features.pooled.shape == (1, facts.pooled)
    assert card.pooling == facts.pooling
    assert card.prefix_tokens == facts.prefix_tokens
    assert [tuple(each.shape) for each in features.maps] == [(1, wide, rows, rows) for wide, rows in facts.maps]
    assert encoder.map_channels == tuple(channels for channels, _ in facts.maps)
    assert encoder.map_strides == tuple(facts.size // rows for _, rows in facts.maps)
    tower = card.text_tower
    assert (tower and (tower.dim, tower.context_length)) == facts.text


@pytest.mark.parametrize("name", NAMES)
def test_every_card_tells_its_licence_and_its_doubts(name: str) -> None:
    card = find_card(name)
    assert card.licence
    assert card.summary.endswith(".")
    assert card.paradigm == "none" or (card.paper and card.pretraining_data and card.unconfirmed)
    assert card.weights.revision != "main" or any("commit" in sentence for sentence in card.unconfirmed)
    assert all(sentence.endswith(".") for sentence in card.unconfirmed)


def test_a_batch_changes_nothing(small: Encoder) -> None:
    batch = prepared(small, 3)
    together = small.encode(batch)
    for index in range(3):
        alone = small.encode(batch[index : index + 1])
        scale = float(together.pooled.abs().max())
        assert torch.allclose(alone.pooled[0], together.pooled[index], atol=1e-5 * scale, rtol=1e-4)
        for mine, theirs in zip(alone.maps, together.maps, strict=True):
            assert torch.allclose(mine[0], theirs[index], atol=1e-5 * float(theirs.abs().max()), rtol=1e-4)


def test_the_same_radiograph_gives_the_same_features(small: Encoder) -> None:
    batch = prepared(small, 2)
    one, other = small.encode(batch), small.encode(batch.clone())
    assert torch.equal(one.pooled, other.pooled)
    assert all(torch.equal(*pair) for pair in zip(one.maps, other.maps, strict=True))


def test_other_radiographs_give_other_features(small: Encoder) -> None:
    features = small.encode(prepared(small, 2))
    # A drawn CLS token without a last norm is as small as 1e-6.
    scale = min(1.0, float(features.pooled.abs().max()))
    assert not torch.allclose(features.pooled[0], features.pooled[1], atol=1e-6 * scale)
    assert all(not torch.allclose(each[0], each[1], atol=1e-6) for each in features.maps)


def test_maps_cover_the_input(small: Encoder) -> None:
    features = small.encode(prepared(small, 1))
    for each, channels, stride in zip(features.maps, small.map_channels, small.map_strides, strict=True):
        assert each.shape[1] == channels
        assert each.shape[2:] == tuple(-(-side // stride) for side in small.input_size)
        assert each.dtype == torch.float32
        assert not each.requires_grad
    assert features.pooled.dtype == torch.float32


def test_gradients_reach_the_input(small: Encoder) -> None:
    batch = prepared(small, 1).requires_grad_()
    features = small(batch)
    (features.pooled.sum() + sum(each.sum() for each in features.maps)).backward()
    assert batch.grad is not None
    assert float(batch.grad.abs().max()) > 0


def test_every_pooling_of_every_depth_has_the_dimension_that_is_said(small: Encoder) -> None:
    card, batch = small.card, prepared(small, 1)
    shapes = layer_shapes(card)
    for layer in sorted({min(shapes), max(shapes)}):
        for pooling, dim in poolings_of(card, layer).items():
            small.card = chosen(card, [pooling, f"layers-{layer}"])
            try:
                # Dimensions of the embedding and shapes of the maps are checked against the card that was chosen.
                features = small(batch)
                assert features.pooled.shape == (1, dim)
                assert [each.shape[1] for each in features.maps] == [shapes[layer][0]]
            finally:
                small.card = card


def test_encoding_leaves_the_encoder_as_it_was(small: Encoder) -> None:
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    batch = prepared(small, 2).requires_grad_()
    small.zero_grad()
    small.train()
    features = small.encode(batch)
    # Even where training is on, batch norms keep their statistics and nothing can be learnt through encode.
    assert all(module.training for module in small.modules())
    small.eval()
    after = small.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(each.requires_grad for each in (features.pooled, *features.maps))
    assert all(parameter.grad is None for parameter in small.parameters())


def test_gradients_reach_the_weights_unless_they_are_frozen(small: Encoder) -> None:
    parameters = list(small.parameters())
    batch = prepared(small, 1).requires_grad_()
    try:
        features = small(batch)
        (features.pooled.sum() + sum(each.sum() for each in features.maps)).backward()
        reached = [parameter for parameter in parameters if parameter.grad is not None]
        # An encoder may hold tensors that only other poolings use.
        assert len(reached) >= 0.9 * len(parameters)
        for parameter in parameters:
            parameter.grad = None
            parameter.requires_grad_(False)
        small(batch).pooled.sum().backward()
        assert all(parameter.grad is None for parameter in parameters)
    finally:
        for parameter in parameters:
            parameter.grad = None
            parameter.requires_grad_()


def test_bfloat16_is_close_to_float32(small: Encoder) -> None:
    precise = small.encode(prepared(small, 2)).pooled
    rough = opened_small(small.card.name, precision="bfloat16")
    coarse = rough.encode(prepared(rough, 2)).pooled
    assert coarse.dtype == torch.float32
    assert rough.key != small.key
    assert float(torch.cosine_similarity(precise, coarse).min()) > 0.99


def test_keys_tell_encoders_apart() -> None:
    names = ["pixels", "hog", "squeezenet1-0.caffe"]
    assert len({loaded(find_card(name)).key for name in names}) == 3


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "efficientnet-b4", "densenet121"])
def test_pooled_and_maps_are_what_timm_itself_gives(name: str) -> None:
    card = find_card(name)
    encoder: Any = opened_small(name)
    # timm names the module whose output each of its maps is.
    named = [each["module"] for each in timm.create_model(card.architecture).feature_info]
    seen: list[torch.Tensor] = []
    for index in card.map_layers:
        hook = lambda module, given, output: seen.append(output.clone())  # noqa: E731
        encoder.model.get_submodule(named[index]).register_forward_hook(hook)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # Statistics of a drawn network would leave little of the signal at depth.
    batch = prepared(encoder, 4)
    with torch.no_grad():
        encoder.model.train()(batch)
        seen.clear()
        expected = encoder.model.eval()(batch)
    maps = list(seen)
    features = encoder.encode(batch)
    assert torch.allclose(features.pooled, expected, atol=1e-5)
    for mine, theirs in zip(features.maps, maps, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4 * float(theirs.abs().max()))
    assert float(features.pooled.std(0).max()) > 1e-3
