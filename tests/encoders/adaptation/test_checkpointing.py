"""Recomputed blocks give the same features, gradients and statistics, and really are recomputed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evalfm.encoders.adaptation.checkpointing import activation_checkpointing
from evalfm.encoders.adaptation.drop_path import set_drop_path
from evalfm.encoders.adaptation.lora import add_lora, set_training
from evalfm.encoders.blocks import blocks
from evalfm.encoders.encoder import Encoder

NAMES = ["vit", "swin", "resnet", "convnext", "dinov2", "squeezenet", "densenet"]


def step(encoder: Encoder, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients after a pass forward and back, from the same random numbers each time."""
    torch.manual_seed(7)
    features = encoder(batch)
    loss = features.pooled.square().mean() + sum(each.tanh().mean() for each in features.maps)
    loss.backward()
    return loss.detach(), {name: each.grad for name, each in encoder.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_statistics_are_the_same(
    name: str, make: Callable[[str], Encoder], draw: Callable[..., Tensor]
) -> None:
    plain, thrifty = make(name), make(name)
    for encoder in (plain, thrifty):
        if name not in ("squeezenet", "densenet"):
            set_drop_path(encoder, 0.3)
        set_training(encoder, "full")
    assert activation_checkpointing(thrifty)
    batch = draw(plain, 3)
    expected, gradients = step(plain, batch)
    actual, others = step(thrifty, batch)
    assert torch.equal(expected, actual)
    assert set(gradients) == set(others)
    assert max(float(each.abs().max()) for each in gradients.values()) > 0
    for parameter, gradient in gradients.items():
        assert torch.allclose(gradient, others[parameter], rtol=1e-5, atol=1e-7), parameter
    # Running statistics moved once, not once more on the way back.
    before, after = plain.state_dict(), thrifty.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[each], after[each]) for each in before)
    if name in ("resnet", "densenet"):
        assert any(int(each) == 1 for key, each in after.items() if key.endswith("num_batches_tracked"))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_run_twice_and_remember_less(
    name: str, make: Callable[[str], Encoder], draw: Callable[..., Tensor]
) -> None:
    kept, runs = [], []
    for recomputed in (False, True):
        encoder = make(name)
        if recomputed:
            activation_checkpointing(encoder)
        counts: list[int] = []
        leaf = next(
            module
            for module in blocks(encoder)[0][1].modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        )
        leaf.register_forward_pre_hook(lambda module, inputs, counts=counts: counts.append(1))
        batch = draw(encoder)
        # Storage, not tensors: several that are remembered may be views of one.
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = encoder(batch).pooled.square().sum()
        weights = {each.untyped_storage().data_ptr() for each in encoder.parameters()}
        kept.append(sum(size for pointer, size in saved.items() if pointer not in weights))
        loss.backward()
        runs.append(len(counts))
    assert runs == [1, 2]
    assert kept[1] < 0.75 * kept[0]


def test_frozen_layers_before_lora_do_not_stop_it(make: Callable[[str], Encoder], draw: Callable[..., Tensor]) -> None:
    plain, thrifty = make("vit"), make("vit")
    gradients = []
    for encoder in (plain, thrifty):
        add_lora(encoder, rank=2)
        with torch.no_grad():
            for name, each in encoder.named_parameters():
                if "lora_B" in name:
                    each.fill_(0.01)
        set_training(encoder, "lora")
        if encoder is thrifty:
            activation_checkpointing(encoder)
        gradients.append(step(encoder, draw(encoder))[1])
    assert set(gradients[0]) == set(gradients[1])
    assert all("lora_" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert float(gradient.abs().max()) > 0
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-5, atol=1e-8)


def test_a_copy_runs_its_own_weights(make: Callable[[str], Encoder], draw: Callable[..., Tensor]) -> None:
    encoder = make("vit")
    activation_checkpointing(encoder)
    batch = draw(encoder)
    twin = copy.deepcopy(encoder)
    before = encoder(batch).pooled
    with torch.no_grad():
        for each in twin.parameters():
            each.mul_(1.5)
    assert torch.equal(encoder(batch).pooled, before)
    assert not torch.allclose(twin(batch).pooled, before)


def test_without_gradient_the_features_are_the_same(
    make: Callable[[str], Encoder], draw: Callable[..., Tensor]
) -> None:
    encoder = make("dinov2")
    expected = encoder.encode(draw(encoder))
    activation_checkpointing(encoder)
    actual = encoder.encode(draw(encoder))
    assert torch.equal(expected.pooled, actual.pooled)
    assert all(torch.equal(one, other) for one, other in zip(expected.maps, actual.maps, strict=True))


def test_mixed_precision_is_repeated_too(make: Callable[[str], Encoder], draw: Callable[..., Tensor]) -> None:
    gradients = []
    for recomputed in (False, True):
        encoder = make("vit")
        if recomputed:
            activation_checkpointing(encoder)
        with torch.autocast("cpu", torch.bfloat16):
            loss = encoder(draw(encoder)).pooled.square().mean()
        loss.backward()
        gradients.append({name: each.grad for name, each in encoder.named_parameters()})
    for name, each in gradients[0].items():
        assert (each is None) == (gradients[1][name] is None)
        assert each is None or torch.equal(each, gradients[1][name])


def test_twice_is_as_once(make: Callable[[str], Encoder]) -> None:
    encoder = make("vit")
    activation_checkpointing(encoder)
    kinds = [type(each) for each in encoder.modules()]
    assert activation_checkpointing(encoder)
    assert [type(each) for each in encoder.modules()] == kinds


def test_an_encoder_without_blocks_says_so(make: Callable[[str], Encoder]) -> None:
    assert activation_checkpointing(make("pixels")) is False
