"""The contract on a toy encoder: what is sealed, what the base class does, what the key covers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalfm.cautions import Caution
from evalfm.data.images import Image
from evalfm.encoders import find_card
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.weights import tensor_digest
from evalfm.errors import EvalfmError


def toy_card(**changes: Any) -> EncoderCard:
    hog = find_card("hog")
    preprocessing = hog.preprocessing.model_copy(update={"input_size": (16, 24)})
    facts = {
        "name": "toy",
        "family": "own",
        "preprocessing": preprocessing,
        "size_multiple": 8,
        "poolings": {"cls": 4, "mean": 4, "own": 2},
        "pooling": "cls",
        "map_layers": (0, 1),
        "map_channels": (4, 4),
        "map_strides": (8, 8),
        "map_norm": "final",
        "prefix_tokens": 2,
    }
    return EncoderCard.model_validate({**hog.model_dump(by_alias=True), **facts, **changes})


class Toy(Encoder):
    """Two layers of tokens: 2 prefix tokens of -1, then 6 patches that count upwards, plus the mean."""

    def __init__(self, card: EncoderCard, state: EncoderState | None = None) -> None:
        super().__init__(card, state)
        self.gain = nn.Parameter(torch.ones(4))
        self.dropout = nn.Dropout(0.5)

    def _forward(self, batch: Tensor) -> RawFeatures:
        patches = torch.arange(6.0)[None, :, None].expand(len(batch), 6, 4) + batch.mean((1, 2, 3))[:, None, None]
        tokens = torch.cat([torch.full((len(batch), 2, 4), -1.0), patches], dim=1) * self.gain
        own = self.dropout(torch.ones(len(batch), 2))
        return RawFeatures(layers=(tokens, tokens + 100), final=10 * tokens, pooled={"own": own})

    def _final_norm(self, tokens: Tensor) -> Tensor:
        return 10 * tokens


def batch(count: int = 2) -> Tensor:
    return torch.zeros(count, 1, 16, 24)


def test_prefix_norm_and_grid_are_applied_by_the_base_class() -> None:
    features = Toy(toy_card()).encode(batch())
    assert torch.equal(features.maps[0][0, 0], torch.tensor([[0.0, 10, 20], [30, 40, 50]]))
    assert torch.equal(features.maps[1][1, 3], torch.tensor([[1000.0, 1010, 1020], [1030, 1040, 1050]]))
    plain = Toy(toy_card(map_norm="none")).encode(batch())
    assert torch.equal(plain.maps[0] * 10, features.maps[0])


@pytest.mark.parametrize(("pooling", "value", "size"), [("cls", -10.0, 4), ("mean", 25.0, 4), ("own", 1.0, 2)])
def test_the_named_pooling_is_the_one_given(pooling: str, value: float, size: int) -> None:
    encoder = Toy(toy_card(pooling=pooling))
    assert encoder.pooled_dim == size
    assert torch.equal(encoder.encode(batch()).pooled, torch.full((2, size), value))


@pytest.mark.parametrize("method", ["prepare", "forward", "encode"])
def test_a_subclass_cannot_forget_the_policies(method: str) -> None:
    with pytest.raises(TypeError, match=f"overrides {method}"):
        type("Bad", (Toy,), {method: lambda self, batch: batch})


def test_a_pooling_that_nobody_gives_is_refused() -> None:
    with pytest.raises(EvalfmError, match="no pooling 'max'"):
        Toy(toy_card(poolings={"max": 4}, pooling="max")).encode(batch())


def test_features_that_break_the_cards_promise_are_refused() -> None:
    with pytest.raises(EvalfmError, match=r"gives features .*\(2, 4\).* its card promises .*\(2, 5\)"):
        Toy(toy_card(poolings={"cls": 5})).encode(batch())
    with pytest.raises(EvalfmError, match="promises"):
        Toy(toy_card(map_channels=(4, 8))).encode(batch())
    with pytest.raises(EvalfmError, match="promises"):
        Toy(toy_card(map_strides=(4, 8))).encode(batch())


def test_an_unprepared_batch_is_refused() -> None:
    with pytest.raises(EvalfmError, match="pass images through prepare first"):
        Toy(toy_card()).encode(torch.zeros(2, 1, 24, 16))


def test_features_that_are_not_finite_are_refused() -> None:
    encoder = Toy(toy_card())
    with torch.no_grad():
        encoder.gain[2] = float("inf")
    with pytest.raises(EvalfmError, match="NaN or infinite"):
        encoder.encode(batch())


def test_encode_evaluates_and_leaves_the_modes_and_the_gradient_alone() -> None:
    encoder = Toy(toy_card(pooling="own")).train()
    encoder.dropout.eval()
    encoder.train()
    encoder.dropout.training = True
    assert torch.equal(encoder.encode(batch()).pooled, torch.ones(2, 2))
    assert encoder.training
    assert encoder.dropout.training
    assert not encoder.encode(batch()).pooled.requires_grad
    assert encoder(batch()).maps[0].requires_grad
    mixed = Toy(toy_card())
    mixed.dropout.eval()
    mixed.encode(batch())
    assert mixed.training
    assert not mixed.dropout.training


def test_forward_is_differentiable_down_to_the_weights() -> None:
    encoder = Toy(toy_card())
    encoder(batch(1)).pooled.sum().backward()
    assert encoder.gain.grad is not None
    assert torch.equal(encoder.gain.grad, torch.full((4,), -10.0))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_features_are_float32_in_every_precision(precision: Any) -> None:
    features = Toy(toy_card(), EncoderState(precision=precision)).encode(batch())
    assert features.pooled.dtype == torch.float32
    assert {each.dtype for each in features.maps} == {torch.float32}


class Cells(Encoder):
    """Gives maps whose border cells an unpadded stem has lost."""

    def _forward(self, batch: Tensor) -> RawFeatures:
        cells = torch.arange(4.0)[None, :].repeat(3, 1)[None, None]
        return RawFeatures(layers=(cells,), final=cells)


def test_lost_border_cells_are_repeated_so_that_the_map_covers_the_input() -> None:
    card = toy_card(
        poolings={"gap": 1},
        pooling="gap",
        map_layers=(0,),
        map_channels=(1,),
        map_strides=(4,),
        map_norm="none",
    )
    features = Cells(card).encode(batch(1))
    assert features.maps[0].shape == (1, 1, 4, 6)
    assert torch.equal(features.maps[0][0, 0, 0], torch.tensor([0.0, 0, 1, 2, 3, 3]))
    assert float(features.pooled) == 1.5


KEY_CHANGES: dict[str, tuple[dict[str, Any], EncoderState]] = {
    "layers": ({"map_layers": (0, 2)}, EncoderState()),
    "pooling": ({"pooling": "mean"}, EncoderState()),
    "prefix": ({"prefix_tokens": 1}, EncoderState()),
    "precision": ({}, EncoderState(precision="bfloat16")),
    "code": ({}, EncoderState(code_digest="ab")),
    "size": (
        {},
        EncoderState(preprocessing=toy_card().preprocessing.model_copy(update={"input_size": (24, 24)})),
    ),
    "resize": (
        {},
        EncoderState(preprocessing=toy_card().preprocessing.model_copy(update={"resize": "letterbox"})),
    ),
    "mean": ({}, EncoderState(preprocessing=toy_card().preprocessing.model_copy(update={"mean": (0.001,)}))),
}


def test_the_key_is_the_same_for_the_same_encoder() -> None:
    keys = {Toy(toy_card()).key for _ in range(3)}
    assert len(keys) == 1
    assert len(keys.pop()) == 64
    # Cautions and the file's own digest change no feature.
    assert Toy(toy_card(), EncoderState(cautions=(Caution("other", "x"),), weights_file="y")).key == Toy(toy_card()).key
    # Nor does what the card says about the encoder.
    assert Toy(toy_card(licence="other", unconfirmed=("A doubt.",))).key == Toy(toy_card()).key


@pytest.mark.parametrize("what", KEY_CHANGES)
def test_whatever_changes_features_changes_the_key(what: str) -> None:
    changes, state = KEY_CHANGES[what]
    assert Toy(toy_card(**changes), state).key != Toy(toy_card()).key


def test_other_weights_change_the_key() -> None:
    one, other = Toy(toy_card()), Toy(toy_card())
    with torch.no_grad():
        other.gain[3] += 1e-7
    assert one.weights_digest != other.weights_digest
    assert one.key != other.key
    before = one.key
    with torch.no_grad():
        one.gain[3] += 1e-7
    one.seal()
    assert one.key == other.key != before


def test_another_class_from_another_file_has_another_key() -> None:
    class Narrow(Cells):
        """The hook is the same, but the class is not: only files tell them apart."""

    card = toy_card(poolings={"gap": 1}, pooling="gap", map_layers=(), map_channels=(), map_strides=())
    assert Cells(card).key != Toy(card).key
    assert Narrow(card).weights_digest == Cells(card).weights_digest


def test_a_library_of_another_version_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Toy(toy_card()).key
    monkeypatch.setattr("evalfm.encoders.encoder.version", lambda name: "0.0")
    assert Toy(toy_card()).key != before


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.zeros(2, 3)},
        {"b": torch.ones(2, 3)},
        {"a": torch.ones(3, 2)},
        {"a": torch.ones(2, 3).double()},
        {"a": torch.ones(2, 3), "b": torch.ones(1)},
    ],
)
def test_the_digest_covers_names_shapes_types_and_values(changed: dict[str, Tensor]) -> None:
    assert tensor_digest(changed) != tensor_digest({"a": torch.ones(2, 3)})


def test_the_digest_ignores_order_and_strides() -> None:
    one = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True)}
    other = {"b": torch.tensor(True), "a": torch.arange(6.0).view(2, 3).T.contiguous().T}
    assert tensor_digest(one) == tensor_digest(other)


def test_prepare_gives_what_forward_takes() -> None:
    encoder = Toy(toy_card())
    pixels = np.full((1, 40, 30), 0.5, dtype=np.float32)
    tensor, geometry = encoder.prepare(Image(pixels=pixels, unit="unit-interval", bits=8, spacing_mm=None, rule="test"))
    assert geometry == encoder.geometry_of(40, 30)
    assert encoder.input_size == geometry.output == (16, 24)
    assert float(encoder.encode(tensor[None]).maps[0][0, 0, 0, 0]) == pytest.approx(5.0, rel=2e-5)


def test_the_code_of_a_user_is_in_the_key(tmp_path: Path) -> None:
    from evalfm.encoders import load_encoder

    text = (
        "from evalfm.encoders.encoder import Encoder, RawFeatures\n"
        "from evalfm.encoders import find_card\n"
        "class Mine(Encoder):\n"
        "    def _forward(self, batch):\n"
        "        return RawFeatures(pooled={'sum': GAIN * batch.sum((1, 2, 3))[:, None]})\n"
        "def build():\n"
        "    card = find_card('pixels').model_copy(update={'name': 'mine', 'family': 'own',\n"
        "        'poolings': {'sum': 1},\n"
        "        'pooling': 'sum', 'map_layers': (), 'map_channels': (), 'map_strides': ()})\n"
        "    return Mine(card)\n"
    )
    (tmp_path / "one.py").write_text(text.replace("GAIN", "1.0"))
    (tmp_path / "two.py").write_text(text.replace("GAIN", "2.0"))
    one, two = (load_encoder(f"{tmp_path / name}:build") for name in ("one.py", "two.py"))
    ones = torch.ones(1, 1, 256, 256)
    assert float(two.encode(ones).pooled) == 2 * float(one.encode(ones).pooled) == 2 * 256 * 256
    assert one.key != two.key
    with pytest.raises(EvalfmError, match="no function 'make'"):
        load_encoder(f"{tmp_path / 'one.py'}:make")
    with pytest.raises(EvalfmError, match="no file"):
        load_encoder(f"{tmp_path / 'none.py'}:build")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_among_many_is_seen(bad: float) -> None:
    class Given(Toy):
        tokens, final = torch.zeros(2, 8, 4), torch.zeros(2, 8, 4)

        def _forward(self, batch: Tensor) -> RawFeatures:
            return RawFeatures(layers=(self.tokens, self.tokens), final=self.final)

    encoder = Given(toy_card(map_norm="none"))
    # Finite values whose sum is none.
    encoder.final[:] = 3e38
    assert torch.isinf(encoder.encode(batch()).pooled.sum())
    encoder.tokens[1, 7, 3] = bad
    with pytest.raises(EvalfmError, match="NaN or infinite"):
        encoder.encode(batch())
    # Of both signs.
    encoder.tokens[0, 7, 3] = -bad
    with pytest.raises(EvalfmError, match="NaN or infinite"):
        encoder.encode(batch())
