"""A small convolutional network for small images, whose weights are always drawn: a baseline to train from scratch."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, RawFeatures, Settings
from evalfm.encoders.weights import Checkpoint
from evalfm.errors import EvalfmError, UnknownNameError

WIDTHS = (32, 64, 128, 256)
SMALLEST = 28


class LightCNN(Encoder):
    """Four blocks of a 3×3 convolution, batch norm and ReLU, with 2×2 maximum pooling after the first three.

    Blocks of 32, 64, 128 and 256 channels; layers 0 and 1 are the first two after pooling (strides 2 and 4), 2 the
    third after pooling and 3 the last (both stride 8). Odd sides are pooled with a last half-filled cell, so that
    every map covers the image.

    Raises:
        EvalfmError: the input is smaller than 28 pixels.
    """

    def __init__(self, card: EncoderCard, settings: Settings | None = None) -> None:
        super().__init__(card, settings)
        if min(self.input_size) < SMALLEST:
            raise EvalfmError(f"{card.name} takes images of {SMALLEST} pixels or more; raise --input-size.")
        widths = (self.preparer.facts.channels, *WIDTHS)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True) if outputs != WIDTHS[-1] else nn.Identity(),
            )
            for inputs, outputs in pairwise(widths)
        )

    def _forward(self, batch: Tensor) -> RawFeatures:
        layers = []
        for block in self.blocks:
            batch = block(batch)
            layers.append(batch)
        return RawFeatures(layers=tuple(layers[index] for index in self.card.map_layers), final=batch)


KINDS: dict[str, type[Encoder]] = {"light-cnn": LightCNN}


def build(card: EncoderCard, settings: Settings, checkpoint: Checkpoint | None) -> Encoder:
    """The network that the card's architecture names, its weights drawn from torch's generator."""
    if card.architecture not in KINDS:
        raise UnknownNameError("small network", card.architecture, KINDS)
    return KINDS[card.architecture](card, settings)
