"""One training of an encoder with a head, as a value that can be sent to another process, and its images in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from evalfm.data.manifest import Manifest
from evalfm.encoders.card import Preprocessing
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.model_input import model_input
from evalfm.features.readers import ImageReader, PreparedBatch
from evalfm.heads.head import Context, Examples
from evalfm.heads.module import HeadModule, Layout
from evalfm.heads.objectives import Objective
from evalfm.training.augmentation import Augmenter
from evalfm.training.masks import InputMasks
from evalfm.training.recipe import Recipe, Trained


@dataclass(frozen=True)
class TrainingJob:
    """What is trained, on what, and how.

    Attributes:
        encoder: adapted already (LoRA added, random weights drawn, drop path set); it is trained in place.
        module: the head where it starts; trained in place.
        layout, objective: shape of the logits, and what is minimised.
        train, val: examples; no features are read from their source.
        manifest: whose rows the examples are.
        folder: where checkpoints lie; the same for the same result.
        workers: processes that decode images, for each that trains; by default one per core.
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
    manifest: Manifest
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


@dataclass(frozen=True)
class ImageBatches:
    """Gives the examples of one split in batches, as the encoder takes them.

    Attributes:
        examples: whose images are read.
        reader: reads and keeps the images; it may be shared.
        facts: the encoder's preprocessing.
        target: the truth of all examples without augmentation, as the objective reads it, [N, …].
        device: where the batches go.
        augmenter: changes the images; None leaves them as they are.
        masks: of the examples, where images and masks are moved together.
        grid: of the masks as the objective reads them.
    """

    examples: Examples
    reader: ImageReader
    facts: Preprocessing
    target: Tensor
    device: torch.device
    augmenter: Augmenter | None = None
    masks: InputMasks | None = None
    grid: tuple[int, int] | None = None

    def read(self, parts: Sequence[Sequence[int]], epoch: int = 0) -> Iterator[TrainingBatch]:
        """The examples at each of ``parts`` (positions), in order, read ahead; changed as ``epoch`` has it.

        Raises:
            EvalfmError: an image cannot be read.
        """
        rows = [[int(self.examples.rows[position]) for position in part] for part in parts]
        for part, prepared in zip(parts, self.reader.batches(rows), strict=True):
            yield TrainingBatch(self, tuple(part), prepared, epoch)


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Images of some examples in main memory, ready for the device.

    Attributes:
        positions: [B] which of the examples they are.
        prepared: their images.
        epoch: decides, with seed and row, how they are changed.
    """

    batches: ImageBatches
    positions: tuple[int, ...]
    prepared: PreparedBatch
    epoch: int

    def __len__(self) -> int:
        return len(self.positions)

    def micro_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts of at most ``size`` examples on the device: model inputs [b, C, h, w] and their truth [b, …].

        What an image becomes does not depend on the part that it is in. Nothing waits for the device.
        """
        for start in range(0, len(self), size):
            part = range(start, min(start + size, len(self)))
            if self.batches.augmenter is None or self.batches.device.type != "cpu":
                yield self._on_device(slice(part.start, part.stop))
            else:
                # One by one an image stays in a processor's cache, which takes half the time.
                changed = [self._on_device(slice(each, each + 1)) for each in part]
                images, target = (torch.cat(each) for each in zip(*changed, strict=True))
                yield images, target

    def _on_device(self, part: slice) -> tuple[Tensor, Tensor]:
        batches, device = self.batches, self.batches.device
        pixels = self.prepared.pixels[part].to(device, non_blocking=True)
        positions, rows = list(self.positions[part]), list(self.prepared.rows[part])
        if batches.augmenter is None:
            return model_input(pixels, batches.facts), self._sent(batches.target[positions])
        change = batches.augmenter.draw(self.epoch, rows, self.prepared.geometries[part], device)
        images = model_input(pixels, batches.facts, change.images)
        if batches.masks is None or batches.grid is None:
            return images, self._sent(batches.target[positions])
        fractions = batches.masks.stack(rows, pin=device.type == "cuda").to(device, non_blocking=True)
        return images, change.masks(fractions.float() / 255, batches.grid)

    def _sent(self, target: Tensor) -> Tensor:
        device = self.batches.device
        return (target.pin_memory() if device.type == "cuda" else target).to(device, non_blocking=True)
