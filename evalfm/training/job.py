"""One training of an encoder with a head, as a value that can be sent to another process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from evalfm.data.images import Image
from evalfm.encoders.encoder import Encoder
from evalfm.heads.head import Context, Examples
from evalfm.heads.module import HeadModule, Layout
from evalfm.heads.objectives import Objective
from evalfm.training.recipe import Recipe, Trained


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and how.

    Attributes:
        encoder: adapted already (LoRA added, random weights drawn, drop path set); it is trained in place.
        module: the head where it starts; trained in place.
        layout, objective: shape of the logits, and what is minimised.
        train, val: examples; no features are read from their source.
        load: reads the image of a row.
        names: the public id of every row of the manifest, for messages.
        folder: where checkpoints lie; the same for the same result.
        workers: how many decode images; by default one per core.
        processes: how many train together.
    """

    encoder: Encoder
    module: HeadModule
    layout: Layout
    objective: Objective
    adaptation: Trained
    recipe: Recipe
    train: Examples
    val: Examples
    context: Context
    load: Callable[[int], Image]
    names: tuple[str, ...]
    folder: Path
    workers: int | None = None
    processes: int = 1


class EncoderWithHead(nn.Module):
    """An encoder and a head's module as one model: model inputs in, logits out."""

    def __init__(self, encoder: Encoder, module: HeadModule) -> None:
        super().__init__()
        self.encoder = encoder
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, …] of prepared images [B, C, h, w]."""
        features = self.encoder(images)
        logits: Tensor = self.module(features.maps, features.pooled)
        return logits


def trained_tensors(model: EncoderWithHead, adaptation: Trained) -> dict[str, Tensor]:
    """The live parameters and buffers that training changes, by name: with LoRA its matrices and the head, else all."""
    if adaptation == "lora":
        named: dict[str, Tensor] = {name: each for name, each in model.named_parameters() if each.requires_grad}
        return named | {f"module.{name}": buffer for name, buffer in model.module.named_buffers()}
    return dict(model.state_dict(keep_vars=True))
