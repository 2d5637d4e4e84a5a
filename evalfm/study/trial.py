"""What an encoder costs, by a trial on one blank image: operations, seconds, parameters, bytes of its features."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from evalfm.config import EncoderOptions
from evalfm.encoders import load_encoder
from evalfm.encoders.adaptation.lora import add_lora
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.cost import seconds_per_image
from evalfm.features.forward import automatic_batch_size
from evalfm.features.operations import operation_counter
from evalfm.features.prepared_images import image_bytes
from evalfm.features.source import FeatureSource
from evalfm.features.store import estimate_bytes
from evalfm.heads import load_head
from evalfm.heads.head import Context
from evalfm.heads.trainable import TrainableHead
from evalfm.heads.trained import TrainedHead

HEAD_BATCH = 8
"""Images of a head's trial."""


@dataclass(frozen=True)
class HeadFacts:
    """A trained head on one encoder.

    Attributes:
        flops: operations of one prediction for one image. seconds: of that on this machine.
        parameters: how many it has.
        activations: numbers that its modules give for one image.
        rates: learning rates trained together on a frozen encoder; 0 where nothing is trained in steps.
    """

    flops: float = 0.0
    seconds: float = 0.0
    parameters: int = 0
    activations: int = 0
    rates: int = 0


@dataclass(frozen=True)
class EncoderFacts:
    """One encoder at one input size.

    Attributes:
        flops: operations (two a multiplication with addition) of one forward pass of one image.
        seconds: of that pass on this machine.
        parameters: how many it has. lora_parameters: how many LoRA adds, by rank.
        batch_size: images of a call where features are extracted.
        pooled_bytes, map_bytes, prepared_bytes: of one image on disk: embedding, maps, prepared image.
        activations: numbers that its modules give for one image. largest: that the largest of them gives.
        pretrained: whether it has weights that were learned before, so that random ones are a baseline.
        heads: by head and kind of task.
        warning: why its weights cannot be had, or None.
    """

    flops: float
    seconds: float
    parameters: int
    batch_size: int
    pooled_bytes: int
    map_bytes: int
    prepared_bytes: int
    activations: int
    largest: int
    pretrained: bool
    heads: Mapping[tuple[str, str], HeadFacts] = field(default_factory=dict)
    lora_parameters: Mapping[int, int] = field(default_factory=dict)
    warning: str | None = None


@dataclass(frozen=True)
class Loaded:
    """An encoder for a trial: with its weights where they can be had, else with random ones and a warning."""

    encoder: Encoder
    warning: str | None = None


def load_for_trial(
    name: str, options: EncoderOptions, *, fetch: bool, device: str = "cpu", precision: str = "float32"
) -> Loaded:
    """Load the encoder ``name``; its speed does not depend on its weights.

    Args:
        fetch: load the weights themselves, which may download them; else they are drawn.

    Raises:
        EvalfmError: it cannot be built even so.
    """
    settings: dict[str, Any] = {"input_size": options.input_size, "resize": options.resize, "device": device}
    if not EncoderRef.parse(name).is_code:
        settings["precision"] = precision
    warning = None
    if fetch:
        try:
            return Loaded(load_encoder(name, weights=options.weights, **settings))
        except EvalfmError as error:
            warning = str(error)
    try:
        return Loaded(load_encoder(name, weights="random", **settings), warning)
    except EvalfmError:
        # What takes no weights has none to be drawn.
        return Loaded(load_encoder(name, **settings), warning)


def try_encoder(loaded: Loaded, heads: Iterable[tuple[str, str, int]], ranks: Iterable[int]) -> EncoderFacts:
    """Run one blank image through an encoder and through ``heads`` (name, kind, classes).

    Raises:
        EvalfmError: it gives other features than its card says.
    """
    encoder = loaded.encoder
    device = next((parameter.device for parameter in encoder.parameters()), torch.device("cpu"))
    blank = torch.zeros(1, encoder.preparer.facts.channels, *encoder.input_size, device=device)
    outputs = _outputs(encoder, lambda: encoder.encode(blank))
    counter = operation_counter()
    with counter:
        features = encoder.encode(blank)
    head_facts = {}
    for name, kind, classes in heads:
        head_facts[name, kind] = _try_head(encoder, features.maps, features.pooled, name, kind, classes)
    return EncoderFacts(
        flops=float(counter.get_total_flops()),
        seconds=seconds_per_image(encoder),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        batch_size=automatic_batch_size(encoder),
        pooled_bytes=estimate_bytes(_as_source(encoder), 1, maps=False),
        map_bytes=estimate_bytes(_as_source(encoder), 1) - estimate_bytes(_as_source(encoder), 1, maps=False),
        prepared_bytes=image_bytes(encoder.input_size),
        activations=sum(outputs),
        largest=max(outputs, default=blank.numel()),
        pretrained=encoder.card.weights.source != "none",
        heads=head_facts,
        lora_parameters={rank: _lora_parameters(encoder, rank) for rank in ranks},
        warning=loaded.warning,
    )


def _as_source(encoder: Encoder) -> FeatureSource:
    """An encoder declares its features as a source does, which is all that is read here."""
    return cast(FeatureSource, encoder)


def _timed(forward: Callable[[], Tensor]) -> float:
    """Seconds of a second pass, until its result is on the CPU."""
    forward().cpu()
    started = time.perf_counter()
    forward().cpu()
    return time.perf_counter() - started


def _outputs(model: nn.Module, forward: Callable[[], object]) -> list[int]:
    """Numbers that each module without children gives in a pass: what a backward pass keeps, roughly."""
    counted: list[int] = []

    def count(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            counted.append(output.numel())

    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return counted


@torch.no_grad()
def _try_head(
    encoder: Encoder, maps: tuple[Tensor, ...], pooled: Tensor, name: str, kind: str, classes: int
) -> HeadFacts:
    head = load_head(name, kind)
    if not isinstance(head, TrainableHead):
        return HeadFacts()
    context = Context(kind, tuple(f"class{number}" for number in range(classes)), device=pooled.device)
    layout = head.layout(_as_source(encoder), context)
    module = head.new_module(layout, torch.Generator()).to(pooled.device).eval()
    read = maps if head.reads_maps else ()
    counter = operation_counter()
    with counter:
        module(read, pooled)
    activations = sum(_outputs(module, lambda: module(read, pooled)))
    batch = tuple(level.expand(HEAD_BATCH, -1, -1, -1).contiguous() for level in read)
    several = pooled.expand(HEAD_BATCH, -1).contiguous()
    return HeadFacts(
        flops=float(counter.get_total_flops()),
        seconds=_timed(lambda: module(batch, several)) / HEAD_BATCH,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        activations=activations,
        rates=len(head.learning_rates) if isinstance(head, TrainedHead) else 0,
    )


def _lora_parameters(encoder: Encoder, rank: int) -> int:
    """How many parameters LoRA would train."""
    adapted = copy.deepcopy(encoder)
    add_lora(adapted, rank)
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
