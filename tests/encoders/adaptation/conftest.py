"""Small encoders of every library, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from evalfm.encoders import find_card
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, EncoderState
from evalfm.encoders.families import builder

DRAWN = EncoderState(random_weights=True)


def build(card: EncoderCard, size: int, **fields: Any) -> Encoder:
    """The card's encoder with another input size and other facts, its weights drawn alike each time."""
    facts = {"input_size": (size, size), "resize": "squash", "resize_to": None}
    card = card.model_copy(update={"preprocessing": card.preprocessing.model_copy(update=facts), **fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = builder(card.family)(card, DRAWN, None).eval()
    with torch.no_grad():
        for each in encoder.parameters():
            # Branches that start at nothing would hide what is done to them.
            if each.ndim == 1 and float(each.abs().max()) < 1e-3:
                each.fill_(0.3)
    return encoder


def vit() -> Encoder:
    facts = {"map_layers": (0, 2), "map_channels": (192, 192), "map_strides": (16, 16)}
    return build(find_card("random:vit_tiny_patch16_224"), 64, arguments={"depth": 3, "img_size": 64}, **facts)


def swin() -> Encoder:
    arguments = {"depths": (2, 2, 2, 2), "embed_dim": 24, "num_heads": (1, 2, 2, 2), "img_size": 64}
    facts = {"map_channels": (24, 48, 96, 192), "poolings": {"head": 192}}
    return build(find_card("random:swin_tiny_patch4_window7_224"), 64, arguments=arguments, **facts)


def dinov2(**more: Any) -> Encoder:
    arguments = {"image_size": 56, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 3} | more
    arguments |= {"num_attention_heads": 2, "mlp_ratio": 2}
    facts = {"map_layers": (1, 2), "map_channels": (32, 32), "map_strides": (14, 14), "poolings": {"cls": 32}}
    return build(find_card("dinov2-base"), 56, arguments=arguments, **facts)


def torchvision_model(architecture: str, layers: tuple[int, ...], channels: tuple[int, ...]) -> Encoder:
    strides = (4, 32) if len(layers) == 2 else (4, 8, 16)
    facts = {"map_layers": layers, "map_channels": channels, "map_strides": strides, "poolings": {"gap": channels[-1]}}
    return build(find_card("squeezenet1-0.caffe"), 64, architecture=architecture, name=architecture, **facts)


MAKERS: dict[str, Callable[[], Encoder]] = {
    "vit": vit,
    "swin": swin,
    "resnet": lambda: build(find_card("random:resnet18"), 64),
    "convnext": lambda: build(find_card("random:convnext_atto"), 64),
    "dinov2": dinov2,
    "squeezenet": lambda: torchvision_model("squeezenet1_0", (5, 10, 12), (256, 512, 512)),
    "densenet": lambda: torchvision_model("densenet121", (4, 11), (256, 1024)),
    "pixels": lambda: build(find_card("pixels"), 64),
}


@pytest.fixture
def make() -> Callable[[str], Encoder]:
    """Makes a fresh encoder by its short name, the same each time."""
    return lambda name: MAKERS[name]()


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Draws a batch of the encoder's input size."""

    def drawn(encoder: Encoder, count: int = 2) -> Tensor:
        shape = (count, encoder.preparer.facts.channels, *encoder.input_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(1))

    return drawn
