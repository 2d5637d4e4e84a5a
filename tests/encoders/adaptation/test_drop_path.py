"""Blocks are dropped in training only, at the stated rates, without moving the mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from evalfm.encoders.adaptation.drop_path import set_drop_path
from evalfm.encoders.adaptation.lora import set_training
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError

DEPTHS = {"vit": 3, "swin": 8, "resnet": 8, "convnext": 12, "dinov2": 3}


def rates_in(model: nn.Module) -> list[float]:
    """Rates as they stand in the model's own drop-path layers, in order."""
    return [float(each.drop_prob) for each in model.modules() if type(each).__name__.endswith("DropPath")]


@pytest.mark.parametrize("name", DEPTHS)
def test_only_training_is_random(name: str, make: Callable[[str], Encoder], draw: Callable[..., Tensor]) -> None:
    encoder = make(name)
    batch = draw(encoder)
    before, names = encoder.encode(batch), list(encoder.state_dict())
    rates = set_drop_path(encoder, 0.4)
    assert len(rates) == DEPTHS[name]
    assert rates == pytest.approx([0.4 * index / (DEPTHS[name] - 1) for index in range(DEPTHS[name])])
    assert sorted({each for each in rates_in(encoder) if each}) == pytest.approx(list(rates[1:]))
    assert not encoder.training
    assert torch.equal(encoder(batch).pooled, before.pooled)
    assert list(encoder.state_dict()) == names
    set_training(encoder, "lora")
    torch.manual_seed(0)
    drawn = [encoder(batch).pooled for _ in range(8)]
    assert any(not torch.allclose(each, drawn[0]) for each in drawn)


@pytest.mark.parametrize(("architecture", "name"), [("vit_tiny_patch16_224", "vit"), ("resnet18", "resnet")])
def test_the_rates_are_timms_own(architecture: str, name: str, make: Callable[[str], Encoder]) -> None:
    more = {"depth": 3, "img_size": 64} if name == "vit" else {}
    built = timm.create_model(architecture, drop_path_rate=0.3, **more)
    encoder = make(name)
    set_drop_path(encoder, 0.3)
    assert [each for each in rates_in(encoder) if each] == pytest.approx([each for each in rates_in(built) if each])


@pytest.mark.parametrize("name", ["vit", "resnet", "dinov2"])
def test_a_branch_is_dropped_at_its_rate_per_image_and_its_mean_stays(
    name: str, make: Callable[[str], Encoder]
) -> None:
    encoder = make(name)
    set_drop_path(encoder, 0.4)
    encoder.train()
    last = [each for each in encoder.modules() if type(each).__name__ == "DropPath"][-1]
    torch.manual_seed(0)
    branch = last(torch.full((4000, 2, 3), 3.0))
    assert bool(((branch == 0) | torch.isclose(branch, torch.tensor(3.0 / 0.6))).all())
    assert bool((branch == branch[:, :1, :1]).all())
    assert float((branch[:, 0, 0] == 0).float().mean()) == pytest.approx(0.4, abs=0.03)
    assert float(branch.mean()) == pytest.approx(3, abs=0.15)


def test_a_resnet_block_without_its_branch_is_its_shortcut(make: Callable[[str], Encoder]) -> None:
    encoder = make("resnet")
    set_drop_path(encoder, 0.999999)
    block = encoder.model.layer4[1].train()
    torch.manual_seed(0)
    shown = torch.rand(2, 512, 2, 2)
    assert torch.allclose(block(shown), shown)


def test_transformers_own_layers_take_a_new_rate(draw: Callable[..., Tensor]) -> None:
    from transformers import SwinConfig, SwinModel

    encoder = _wrapped(
        SwinModel(SwinConfig(image_size=56, embed_dim=16, depths=[1, 2], num_heads=[1, 2], drop_path_rate=0.7))
    )
    assert set_drop_path(encoder, 0.2) == pytest.approx((0, 0.1, 0.2))
    assert rates_in(encoder) == pytest.approx([0.1, 0.2])


def test_torchvisions_own_layers_take_a_new_rate() -> None:
    import torchvision

    model = torchvision.models.efficientnet_b0(weights=None).features
    encoder = _wrapped(model)
    rates = set_drop_path(encoder, 0.3)
    own = [each.p for each in model.modules() if type(each).__name__ == "StochasticDepth"]
    assert own == pytest.approx([0.3 * index / (len(own) - 1) for index in range(len(own))])
    assert len(own) == len(rates) == 16


@pytest.mark.parametrize("name", ["vit", "resnet", "dinov2"])
def test_rate_0_leaves_the_model_alone(name: str, make: Callable[[str], Encoder]) -> None:
    encoder = make(name)
    before = str(encoder)
    set_drop_path(encoder, 0)
    assert str(encoder) == before


def test_rate_0_takes_back_what_the_architecture_brings(
    make: Callable[[str], Encoder], draw: Callable[..., Tensor]
) -> None:
    encoder = make("swin")
    assert max(rates_in(encoder)) == pytest.approx(0.1)
    assert set(set_drop_path(encoder, 0)) == {0.0}
    assert set(rates_in(encoder)) == {0.0}
    encoder.train()
    batch = draw(encoder)
    assert torch.equal(encoder(batch).pooled, encoder(batch).pooled)


def test_a_later_rate_replaces_an_earlier_one(make: Callable[[str], Encoder]) -> None:
    encoder = make("vit")
    set_drop_path(encoder, 0.4)
    set_drop_path(encoder, 0.2)
    assert max(rates_in(encoder)) == pytest.approx(0.2)
    set_drop_path(encoder, 0)
    assert set(rates_in(encoder)) == {0.0}


@pytest.mark.parametrize("name", ["squeezenet", "densenet", "pixels"])
def test_an_encoder_without_such_places_is_refused(name: str, make: Callable[[str], Encoder]) -> None:
    encoder = make(name)
    with pytest.raises(EvalfmError, match="no residual blocks that can be dropped"):
        set_drop_path(encoder, 0.1)
    assert set_drop_path(encoder, 0) == ()


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_that_are_none_are_refused(rate: float, make: Callable[[str], Encoder]) -> None:
    with pytest.raises(EvalfmError, match=r"not in \[0, 1\)"):
        set_drop_path(make("vit"), rate)


def _wrapped(model: nn.Module) -> Encoder:
    """An encoder around any model, of which only the modules are looked at."""
    from evalfm.encoders import find_card
    from evalfm.encoders.encoder import RawFeatures

    class Own(Encoder):
        def __init__(self) -> None:
            super().__init__(find_card("pixels"))
            self.model = model

        def _forward(self, batch: Tensor) -> RawFeatures:
            raise NotImplementedError

    return Own()
