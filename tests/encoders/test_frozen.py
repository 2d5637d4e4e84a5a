"""The frozen path: converted once and close to float32, compiled where asked, never of weights that have changed."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import PRECISIONS, Encoder, Features, RawFeatures, finite_flag
from evalfm.encoders.frozen import FeaturePath, automatic_precision, is_convolutional
from evalfm.errors import EvalfmError

NAMES = ["random:test_vit", "random:test_resnet", "random:resnet18"]


def noise(encoder: Encoder, images: int = 3) -> Tensor:
    shape = (images, encoder.preparer.facts.channels, *encoder.input_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_converted_weights_give_float32_features_close_to_float32(name: str, precision: str) -> None:
    exact = load_encoder(name, input_size=64 if name == "random:resnet18" else None)
    encoder = load_encoder(name, precision=precision, input_size=64 if name == "random:resnet18" else None)
    batch = noise(encoder)
    found, expected = encoder.encode(batch), exact.encode(batch)
    assert encoder.feature_path == FeaturePath(precision, False, "cpu")
    for one, other in zip((found.pooled, *found.maps), (expected.pooled, *expected.maps), strict=True):
        assert one.dtype == torch.float32
        assert not torch.equal(one, other)
        assert float(torch.cosine_similarity(one.flatten(1), other.flatten(1)).min()) > 0.999


def test_the_weights_the_digest_and_what_is_trained_stay_float32() -> None:
    exact, encoder = load_encoder("random:test_vit"), load_encoder("random:test_vit", precision="bfloat16")
    before, key = {name: value.clone() for name, value in encoder.state_dict().items()}, encoder.key
    encoder.encode(noise(encoder))
    assert encoder.weights_digest == exact.weights_digest
    encoder.seal()
    assert encoder.weights_digest == exact.weights_digest
    assert encoder.key == key != exact.key
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert {each.dtype for each in encoder.parameters()} == {torch.float32}
    encoder.requires_grad_(True)(noise(encoder)).pooled.sum().backward()
    gradients = [each.grad for each in encoder.parameters() if each.grad is not None]
    assert gradients
    assert {each.dtype for each in gradients} == {torch.float32}


def test_weights_that_change_are_converted_anew() -> None:
    encoder = load_encoder("random:test_vit", precision="bfloat16")
    batch = noise(encoder)
    before = encoder.encode(batch).pooled
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    after = encoder.encode(batch).pooled
    assert not torch.allclose(before, after, rtol=0.05)
    other = load_encoder("random:test_vit", precision="bfloat16", seed=1)
    encoder.load_state_dict(other.state_dict())
    assert torch.equal(encoder.encode(batch).pooled, other.encode(batch).pooled)


def test_copies_and_other_processes_convert_their_own_weights() -> None:
    encoder = load_encoder("random:test_vit", precision="bfloat16")
    batch = noise(encoder)
    expected = encoder.encode(batch).pooled
    twin = copy.deepcopy(encoder)
    twin.load_state_dict(load_encoder("random:test_vit", seed=1).state_dict())
    assert not torch.equal(twin.encode(batch).pooled, expected)
    assert torch.equal(encoder.encode(batch).pooled, expected)
    assert torch.equal(pickle.loads(pickle.dumps(encoder)).encode(batch).pooled, expected)
    twin.state = replace(twin.state, precision="float32")
    assert twin.feature_path.name == "float32-cpu"


class Own(Encoder):
    """Adds a plain tensor of float32, which no conversion of parameters reaches."""

    def __init__(self, card: Any, state: Any, gain: float = 1.0) -> None:
        super().__init__(card, state)
        self.layer = nn.Linear(4, 4, bias=False)
        nn.init.constant_(self.layer.weight, gain)
        self.norm = nn.BatchNorm1d(4)
        self.table = torch.ones(4)

    def _forward(self, batch: Tensor) -> RawFeatures:
        cells = batch.flatten(2).mean(2).repeat(1, 4)
        return RawFeatures(pooled={"own": self._last(self.norm(self.layer(cells)))})

    def _last(self, values: Tensor) -> Tensor:
        return values


class Plain(Own):
    def _last(self, values: Tensor) -> Tensor:
        return nn.functional.linear(values, torch.eye(4))


class Wrong(Own):
    """Gives something else in two bytes."""

    def _last(self, values: Tensor) -> Tensor:
        wrong = values.dtype != torch.float32 and not torch.is_autocast_enabled("cpu")
        return values * torch.tensor([-1.0, 1.0, -1.0, 1.0]) if wrong else values.float()


def own(kind: type[Own], precision: Any, **options: Any) -> Own:
    light = load_encoder("light-cnn")
    changes = {"name": "own", "poolings": {"own": 4}, "pooling": "own", "map_layers": ()}
    card = light.card.model_copy(update={**changes, "map_channels": (), "map_strides": ()})
    return kind(card, replace(light.state, precision=precision), **options).eval()


@pytest.mark.parametrize("kind", [Plain, Wrong])
def test_a_model_that_cannot_be_converted_keeps_its_weights_under_autocast(kind: type[Own]) -> None:
    encoder = own(kind, "bfloat16")
    assert encoder.feature_path.name == "bfloat16-autocast-cpu"
    batch = noise(encoder)
    with torch.no_grad():
        assert torch.equal(encoder.encode(batch).pooled, encoder(batch).pooled)


class Turned(Own):
    """Turns by angles in a buffer, as rotary positions are kept: in two bytes they would be others."""

    def __init__(self, card: Any, state: Any) -> None:
        super().__init__(card, state)
        self.register_buffer("angles", torch.tensor([1000.4, 2000.7, 3000.2, 4000.9]))

    def _last(self, values: Tensor) -> Tensor:
        return values * torch.cos(self.angles)


def test_tables_in_buffers_keep_their_digits() -> None:
    encoder, exact = own(Turned, "bfloat16"), own(Turned, "float32")
    assert encoder.feature_path.name == "bfloat16-cpu"
    batch = noise(encoder)
    assert float(torch.cosine_similarity(encoder.encode(batch).pooled, exact.encode(batch).pooled).min()) > 0.9999


def test_batch_norm_keeps_its_small_variances() -> None:
    encoder = own(Own, "float16")
    encoder.norm.running_var.fill_(1e-9)
    encoder.norm.eps = 1e-12
    exact = own(Own, "float32")
    exact.norm.running_var.fill_(1e-9)
    exact.norm.eps = 1e-12
    batch = noise(encoder) * 1e-3
    assert encoder.feature_path.name == "float16-cpu"
    found, expected = encoder.encode(batch).pooled, exact.encode(batch).pooled
    assert float(torch.cosine_similarity(found, expected).min()) > 0.999
    assert float(found.norm() / expected.norm()) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_features_are_those_of_the_model(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalfm.encoders.frozen.BACKEND", "eager")
    plain = load_encoder("random:test_vit", precision=precision)
    encoder = load_encoder("random:test_vit", precision=precision, compile=True)
    assert encoder.feature_path == FeaturePath(precision, True, "cpu")
    assert encoder.key == plain.key
    assert not [caution for caution in encoder.cautions if caution.code == "not-compiled"]
    for images in (4, 1, 3):
        batch = noise(encoder, images)
        found, expected = encoder.encode(batch), plain.encode(batch)
        assert torch.allclose(found.pooled, expected.pooled, atol=1e-5)
        assert [each.shape for each in found.maps] == [each.shape for each in expected.maps]


def test_one_compilation_serves_every_size_of_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    def backend(module: Any, given: Any) -> Any:
        compiled.append(len(given))
        return module.forward

    monkeypatch.setattr("evalfm.encoders.frozen.BACKEND", backend)
    encoder = load_encoder("random:test_vit", compile=True)
    once = len(compiled)
    assert once >= 1
    for images in (1, 2, 5, 7):
        encoder.encode(noise(encoder, images))
    assert len(compiled) == once


def test_where_compiling_fails_the_model_runs_as_it_is_and_a_caution_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(module: Any, given: Any) -> Any:
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr("evalfm.encoders.frozen.BACKEND", backend)
    encoder = load_encoder("random:test_vit", compile=True)
    (caution,) = [caution for caution in encoder.cautions if caution.code == "not-compiled"]
    assert "no compiler" in caution.sentence
    assert "\n" not in caution.sentence
    assert encoder.feature_path.name == "float32-cpu"
    batch = noise(encoder)
    assert torch.equal(encoder.encode(batch).pooled, load_encoder("random:test_vit").encode(batch).pooled)


def test_convolutions_run_channels_last_and_hooks_of_the_model_see_it() -> None:
    network = load_encoder("random:test_resnet", precision="bfloat16")
    assert is_convolutional(network)
    assert not is_convolutional(load_encoder("random:test_vit"))
    network.encode(noise(network))
    ran: list[bool] = []

    def look(module: nn.Module, given: Any) -> None:
        wide = [each for each in module.parameters() if each.ndim == 4 and each.shape[1] > 1 and each.shape[2] > 1]
        ran.append(all(each.is_contiguous(memory_format=torch.channels_last) for each in wide) and bool(wide))

    hook = network.model.layer1.register_forward_pre_hook(look)
    network.encode(noise(network))
    assert ran == [True]
    hook.remove()
    network.encode(noise(network))
    assert len(ran) == 1
    assert all(each.is_contiguous() for each in network.parameters())


def test_on_a_processor_float32_is_the_model_itself() -> None:
    network = load_encoder("random:test_resnet")
    batch = noise(network)
    with torch.no_grad():
        assert torch.equal(network.encode(batch).pooled, network(batch).pooled)


def test_auto_is_float16_for_convolutions_and_bfloat16_for_transformers_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, transformer = load_encoder("random:test_resnet"), load_encoder("random:test_vit")
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert automatic_precision(network, gpu) == "float16"
    assert automatic_precision(transformer, gpu) == "bfloat16"
    assert automatic_precision(network, torch.device("cpu")) == "float32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert automatic_precision(transformer, gpu) == "float32"
    assert load_encoder("random:test_vit", precision="auto").precision == "float32"
    assert set(PRECISIONS) == {"float32", "bfloat16", "float16"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_flag_sees_one_value_among_many_and_no_overflow_of_their_sum(bad: float) -> None:
    maps = torch.full((2, 3, 4, 4), 3e38)
    assert bool(finite_flag(Features(torch.zeros(2, 3), (maps,))))
    flag = finite_flag(Features(torch.zeros(2, 3), (maps, maps.index_put((torch.tensor(1),), torch.tensor(bad)))))
    assert flag.shape == ()
    assert flag.dtype == torch.bool
    assert not bool(flag)


def test_without_the_check_features_come_as_they_are() -> None:
    encoder = own(Own, "float32", gain=float("inf"))
    batch = noise(encoder)
    assert not bool(finite_flag(encoder.encode(batch, check=False)))
    with pytest.raises(EvalfmError, match="NaN or infinite features in float32"):
        encoder.encode(batch)


def test_a_formula_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", lambda *arguments, **options: pytest.fail("hog was given to the compiler"))
    encoder = load_encoder("hog", compile=True)
    (caution,) = [caution for caution in encoder.cautions if caution.code == "not-compiled"]
    assert "formula" in caution.sentence
    assert encoder.feature_path.name == "float32-cpu"
