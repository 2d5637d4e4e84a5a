"""LoRA starts at nothing, trains nothing but itself, and comes back from its tensors alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from evalfm.encoders import load_encoder
from evalfm.encoders.adaptation.lora import ALPHA, add_lora, load_lora, lora_state, set_training
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, RawFeatures
from evalfm.encoders.weights import tensor_digest
from evalfm.errors import EvalfmError

# Counted by hand from the architectures: qkv and proj of 3 blocks; of 8 blocks; query, key, value and output
# of 3; ResNet-18's 17 convolutions and 3 shortcuts; 26 of SqueezeNet less its classifier's; DenseNet's stem,
# 2 x 58 and 3 transitions; ConvNeXt's stem, 3 downsamplings and 2 x 12 pointwise ones.
TARGETS = {"vit": 6, "swin": 16, "dinov2": 12, "resnet": 20, "squeezenet": 25, "densenet": 120, "convnext": 28}


def without_lora(encoder: Encoder) -> dict[str, Tensor]:
    """The state dict under the names that the encoder has without LoRA."""
    return {
        name.replace(".base_layer.", "."): each for name, each in encoder.state_dict().items() if "lora_" not in name
    }


def train(encoder: Encoder, batch: Tensor, steps: int = 3) -> None:
    """Real steps of AdamW, with a weight decay that would move whatever it is given."""
    trained = [each for each in encoder.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        features = encoder(batch)
        (features.pooled.square().mean() + sum(each.square().mean() for each in features.maps)).backward()
        optimiser.step()


@pytest.mark.parametrize("name", TARGETS)
def test_it_starts_at_nothing_and_learns(
    name: str, make: Callable[[str], Encoder], draw: Callable[..., Tensor]
) -> None:
    encoder = make(name)
    batch = draw(encoder)
    before = encoder.encode(batch)
    report = add_lora(encoder, rank=4)
    after = encoder.encode(batch)
    assert torch.equal(before.pooled, after.pooled)
    assert all(torch.equal(one, other) for one, other in zip(before.maps, after.maps, strict=True))
    assert len(report.targets) == TARGETS[name]
    trained = {key: each for key, each in encoder.named_parameters() if each.requires_grad}
    assert len(trained) == 2 * TARGETS[name]
    assert all("lora_A" in key or "lora_B" in key for key in trained)
    assert {each.dtype for each in trained.values()} == {torch.float32}
    assert report.parameters == sum(each.numel() for each in trained.values())
    set_training(encoder, "lora")
    train(encoder, batch)
    # Each place takes part: its B has left zero.
    assert all(bool(each.detach().any()) for key, each in trained.items() if "lora_B" in key)
    assert not torch.allclose(encoder.encode(batch).pooled, before.pooled, atol=1e-4)


@pytest.mark.parametrize("name", ["random:resnet18", "vit", "swin", "dinov2", "densenet"])
def test_training_changes_no_other_entry(
    name: str, make: Callable[[str], Encoder], draw: Callable[..., Tensor]
) -> None:
    encoder = load_encoder(name) if ":" in name else make(name)
    before = copy.deepcopy(encoder.state_dict())
    add_lora(encoder)
    set_training(encoder, "lora")
    train(encoder, draw(encoder), steps=2)
    after = without_lora(encoder)
    assert list(after) == list(before)
    assert all(torch.equal(after[key], each) for key, each in before.items())
    assert tensor_digest(after) == tensor_digest(before)
    if name == "random:resnet18":
        assert sum("running_mean" in key for key in before) == 20


def test_without_set_training_batch_norm_would_move(
    make: Callable[[str], Encoder], draw: Callable[..., Tensor]
) -> None:
    encoder = make("resnet")
    before = tensor_digest(encoder.state_dict())
    add_lora(encoder)
    encoder.train()
    train(encoder, draw(encoder), steps=1)
    assert tensor_digest(without_lora(encoder)) != before


def test_modes_of_training(make: Callable[[str], Encoder], draw: Callable[..., Tensor]) -> None:
    encoder = make("resnet")
    norms = [each for each in encoder.modules() if isinstance(each, nn.BatchNorm2d)]
    set_training(encoder, "lora")
    assert encoder.training
    assert not any(each.training for each in norms)
    encoder.encode(draw(encoder))
    assert encoder.training
    assert not any(each.training for each in norms)
    for adaptation in ("full", "scratch"):
        set_training(encoder, adaptation)  # type: ignore[arg-type]
        assert all(each.training for each in encoder.modules())


def test_depthwise_convolutions_are_left_out_by_name(make: Callable[[str], Encoder]) -> None:
    report = add_lora(make("convnext"))
    skipped = [name for name, why in report.skipped if "depthwise" in why]
    assert len(skipped) == 12
    assert all(name.endswith("conv_dw") for name in skipped)
    assert not any("conv_dw" in name for name in report.targets)
    assert any("model.stages.0.blocks.0.conv_dw" in str(each) and "7 more" in str(each) for each in report.cautions)
    assert report.kind == "convolution"


def test_a_linear_layer_over_cells_counts_as_a_convolution() -> None:
    report = add_lora(load_encoder("random:convnext_femto", input_size=64), rank=2)
    with_linear = add_lora(load_encoder("random:convnext_nano_ols", input_size=64), rank=2)
    for each in (report, with_linear):
        assert sum(name.endswith(("mlp.fc1", "mlp.fc2")) for name in each.targets) == 2 * 12 + 4 * (each is with_linear)


def test_a_layer_whose_weights_are_used_uncalled_is_no_target() -> None:
    # timm's BEiT takes qkv.weight without calling qkv: LoRA there would never run.
    report = add_lora(load_encoder("random:beit_base_patch16_224"), rank=1)
    assert all(name.endswith("attn.proj") for name in report.targets)
    assert {name.rpartition(".")[2] for name, _ in report.skipped} == {"qkv"}
    assert len(report.skipped) == len(report.targets) == 12


def test_the_change_is_alpha_over_rank_times_b_a(make: Callable[[str], Encoder]) -> None:
    encoder, plain = make("vit"), make("vit")
    add_lora(encoder, rank=3, alpha=12)
    tensors = lora_state(encoder)
    place = "model.blocks.1.attn.proj"
    first, second = tensors[f"{place}.lora_A.weight"], torch.randn(192, 3)
    load_lora(encoder, tensors | {f"{place}.lora_B.weight": second})
    shown = torch.randn(5, 192)
    weight = plain.get_submodule(place).weight + 12 / 3 * second @ first
    expected = shown @ weight.T + plain.get_submodule(place).bias
    assert torch.allclose(encoder.get_submodule(place)(shown), expected, atol=1e-4)


def test_it_is_drawn_from_its_seed_alone(make: Callable[[str], Encoder]) -> None:
    states = []
    for seed, outside in ((1, 5), (1, 6), (2, 5)):
        encoder = make("vit")
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        add_lora(encoder, seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        states.append(lora_state(encoder))
    assert tensor_digest(states[0]) == tensor_digest(states[1])
    assert tensor_digest(states[0]) != tensor_digest(states[2])
    # Each place has a draw of its own.
    own = [each for key, each in states[0].items() if key.endswith("qkv.lora_A.weight")]
    assert not torch.equal(own[0], own[1])
    # Kaiming uniform with a = sqrt(5): within 1 / sqrt(inputs).
    assert 0.9 / 192**0.5 < float(own[0].abs().max()) <= 1 / 192**0.5


@pytest.mark.parametrize("name", ["vit", "resnet", "dinov2"])
def test_it_comes_back_from_its_tensors(name: str, make: Callable[[str], Encoder], draw: Callable[..., Tensor]) -> None:
    encoder = make(name)
    batch = draw(encoder)
    add_lora(encoder, rank=3, alpha=7.5, seed=4)
    set_training(encoder, "lora")
    train(encoder, batch)
    tensors = lora_state(encoder)
    assert sum(each.numel() for each in tensors.values()) < 0.2 * sum(each.numel() for each in encoder.parameters())
    fresh = make(name)
    before = torch.get_rng_state()
    load_lora(fresh, tensors)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(fresh.encode(batch).pooled, encoder.encode(batch).pooled)
    assert tensor_digest(lora_state(fresh)) == tensor_digest(tensors)
    # And into an encoder that has it already, as after an epoch that was not the best.
    train(fresh, batch, steps=1)
    assert tensor_digest(lora_state(fresh)) != tensor_digest(tensors)
    load_lora(fresh, tensors)
    assert tensor_digest(lora_state(fresh)) == tensor_digest(tensors)


def test_its_tensors_do_not_follow_the_training(make: Callable[[str], Encoder], draw: Callable[..., Tensor]) -> None:
    encoder = make("vit")
    add_lora(encoder)
    taken = lora_state(encoder)
    digest = tensor_digest(taken)
    train(encoder, draw(encoder), steps=1)
    assert tensor_digest(taken) == digest


def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace("blocks.1", "blocks.7"): each for key, each in tensors.items()}


def halve(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: each[:, :5] if "lora_A" in key else each for key, each in tensors.items()}


def lose(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: each for key, each in tensors.items() if key != "model.blocks.1.attn.qkv.lora_B.weight"}


def misplace(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace("blocks.1.attn.qkv", "blocks.1.norm1"): each for key, each in tensors.items()}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (rename, "there is no layer model.blocks.7"),
        (halve, "takes the shapes"),
        (lose, "not the tensors of one LoRA"),
        (misplace, "model.blocks.1.norm1 is a LayerNorm"),
        (lambda tensors: {key: each for key, each in tensors.items() if key != ALPHA}, "not the tensors of one LoRA"),
        (lambda tensors: tensors | {"head.weight": torch.ones(1)}, "not the tensors of one LoRA"),
        (lambda tensors: {}, "not the tensors of one LoRA"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_and_nothing_is_changed(
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str, make: Callable[[str], Encoder]
) -> None:
    encoder = make("vit")
    add_lora(encoder)
    tensors = spoil(lora_state(encoder))
    fresh = make("vit")
    with pytest.raises(EvalfmError, match=said):
        load_lora(fresh, tensors)
    assert list(fresh.state_dict()) == list(make("vit").state_dict())
    assert all(each.requires_grad for each in fresh.parameters())


def test_another_lora_is_not_overwritten(make: Callable[[str], Encoder]) -> None:
    encoder, other = make("vit"), make("vit")
    add_lora(encoder, rank=2)
    add_lora(other, rank=2, alpha=1)
    with pytest.raises(EvalfmError, match="another LoRA already"):
        load_lora(other, lora_state(encoder))
    with pytest.raises(EvalfmError, match="has LoRA already"):
        add_lora(encoder)


@pytest.mark.parametrize("name", ["pixels", "mixer"])
def test_an_encoder_with_nothing_to_adapt_is_refused(name: str, make: Callable[[str], Encoder]) -> None:
    encoder = load_encoder("random:mixer_s32_224") if name == "mixer" else make(name)
    names = list(encoder.state_dict())
    with pytest.raises(EvalfmError, match=f"{encoder.card.name} has no attention or convolutions"):
        add_lora(encoder)
    assert list(encoder.state_dict()) == names
    with pytest.raises(EvalfmError, match="has no LoRA"):
        lora_state(encoder)


@pytest.mark.parametrize(("rank", "alpha"), [(0, None), (-1, 1.0), (4, 0.0), (4, -2.0)])
def test_ranks_and_alphas_that_are_none_are_refused(
    rank: int, alpha: float | None, make: Callable[[str], Encoder]
) -> None:
    with pytest.raises(EvalfmError, match="positive alpha"):
        add_lora(make("vit"), rank=rank, alpha=alpha)


class Dilated(Encoder):
    """Two plain convolutions, and three whose kernels peft's A would not follow."""

    def __init__(self, card: EncoderCard) -> None:
        super().__init__(card)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.dilated = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.mirrored = nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.unused = nn.Conv2d(16, 16, 3, padding=1)

    def _forward(self, batch: Tensor) -> RawFeatures:
        final = self.grouped(self.mirrored(self.dilated(self.second(self.first(batch)))))
        return RawFeatures(layers=(final,), final=final)


def test_convolutions_that_peft_cannot_follow_are_left_out(make: Callable[[str], Encoder]) -> None:
    facts = {"poolings": {"gap": 16}, "pooling": "gap", "map_channels": (16,), "map_strides": (2,)}
    encoder = Dilated(make("pixels").card.model_copy(update=facts))
    report = add_lora(encoder)
    assert report.targets == ("first", "second")
    assert dict(report.skipped).keys() == {"dilated", "mirrored", "grouped", "unused"}
    assert "do not pass" in dict(report.skipped)["unused"]
