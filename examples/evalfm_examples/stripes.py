"""An encoder as code: a class with one hook, and a function that builds it."""

import torch
from torch import nn

from evalfm.encoders import Encoder, EncoderCard, EncoderState, RawFeatures

CARD = EncoderCard(
    name="stripes",
    summary="Eight fixed filters of 9 × 9 pixels.",
    family="own",
    architecture="one convolution",
    weights={"source": "none"},
    licence="ours",
    commercial_use="yes",
    parameters=8 * 81,
    preprocessing={
        "input_size": (64, 64), "resize": "squash", "interpolation": "bilinear", "antialias": True, "channels": 1,
        "units": ("unit-interval",), "input_range": (0, 1), "mean": (0.5,), "std": (0.25,),
    },
    poolings={"gap": 8},
    pooling="gap",
    map_layers=(0,), map_channels=(8,), map_strides=(4,),
    paradigm="none",
    domain="none",
)  # fmt: skip


class Stripes(Encoder):
    """Eight fixed filters, their mean over the image as pooled embedding."""

    def __init__(self) -> None:
        super().__init__(CARD, EncoderState(random_weights=True))
        self.filters = nn.Conv2d(1, 8, 9, stride=4, padding=4, bias=False)
        nn.init.normal_(self.filters.weight, generator=torch.Generator().manual_seed(0))

    def _forward(self, batch: torch.Tensor) -> RawFeatures:
        maps = self.filters(batch).relu()
        return RawFeatures(layers=(maps,), final=maps)


def build() -> Encoder:
    """What the entry point names."""
    return Stripes()
