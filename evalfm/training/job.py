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
        readout: where the head starts; trained in place.
        layout, objective: how it answers and what is minimised.
        train, val: examples; their source is not asked.
        load: reads the image of a row. names: the public id of every row of the manifest, for messages.
        folder: where checkpoints lie; the same for the same result.
        workers: threads that decode.
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
    workers: int = 2
    processes: int = 1


class Together(nn.Module):
    """An encoder and a readout as one model: prepared films in, answers out."""

    def __init__(self, encoder: Encoder, module: HeadModule) -> None:
        super().__init__()
        self.encoder = encoder
        self.module = module

    def forward(self, films: Tensor) -> Tensor:
        """Films [B, C, h, w] to answers [B, …]."""
        features = self.encoder(films)
        answers: Tensor = self.module(features.maps, features.pooled)
        return answers


def trained_tensors(model: Together, adaptation: Trained) -> dict[str, Tensor]:
    """The live tensors that training changes, by name: with LoRA its matrices and the readout, else all."""
    if adaptation == "lora":
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        buffers = {f"readout.{name}": buffer for name, buffer in model.module.named_buffers()}
        return {**{name: parameter.data for name, parameter in named.items()}, **buffers}
    return {name: tensor.data for name, tensor in model.state_dict(keep_vars=True).items()}
