"""What a cell costs: images × passes × seconds of one pass, which one blank image has tried.

How often an image goes through the encoder is asked of what trains: the head's schedule or the encoder's recipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from evalfm.config import ProbeConfig
from evalfm.encoder_options import EncoderOptions
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.cost import operation_counter, seconds_per_image
from evalfm.features.forward import automatic_batch_size, device_of
from evalfm.features.source import FeatureSource
from evalfm.features.store import estimate_bytes
from evalfm.heads import load_head
from evalfm.heads.head import Context, Head
from evalfm.heads.trained import TrainableHead, TrainedHead
from evalfm.heads.training import planned_reads
from evalfm.probing.head_group import PREDICTIONS
from evalfm.split_options import SubsetOptions
from evalfm.study.cohorts import Sizes
from evalfm.tasks.kinds import kind_of
from evalfm.training.recipe import EpochPlan, Recipe

FORWARD_AND_BACKWARD = 3
"""A training step costs three forward passes: one forward, two back."""
SCORE_SECONDS = 0.03
"""Of scoring the mask of one image of 1024² with its surface distances; one core."""
STATE_BYTES = 16
"""Of a parameter that is trained, in float32: value, gradient and the two moments of AdamW."""
LIVE = 3
"""Outputs of the largest module that a pass without gradient holds at once."""
SAVED_COPIES = 5
"""Of the trained weights on disk while training: themselves, their average, the two moments, the best so far."""
HEAD_BATCH = 8
"""Images of a head's trial."""


@dataclass(frozen=True)
class EncoderFacts:
    """One encoder at one input size, on the machine of the plan.

    Attributes:
        seconds: of a forward pass of one image.
        parameters: how many it has.
        batch_size: images of a call where features are extracted.
        pooled_bytes, map_bytes: of one image on disk.
        activations: bytes that its modules give for one image. largest: that the largest of them gives.
        pretrained: whether it has weights that were learned before, so that random ones are a baseline.
        heads: seconds of one prediction for one image of heads that are trained in steps, by name and kind of task.
    """

    seconds: float
    parameters: int
    batch_size: int
    pooled_bytes: int
    map_bytes: int
    activations: int
    largest: int
    pretrained: bool
    heads: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Missing:
    """What of a cell's images is not stored by then.

    Attributes:
        pooled, maps: images without pooled features, and without maps that shall be stored.
        keeps: where maps are kept: ``store``, ``memory`` (one pass) or ``stream`` (a pass for every read); ``store``
            too where no head reads maps.
    """

    pooled: int
    maps: int = 0
    keeps: Literal["store", "memory", "stream"] = "store"


@dataclass(frozen=True)
class CellEstimate:
    """The cost of one cell.

    Attributes:
        images: that it uses. passes: how often the encoder sees them, in words.
        forwards: forward passes of one image, a training step counting three. decoded, scored: images.
        seconds: all of it.
        disk_bytes: that stay: features, maps, trained encoders, by name.
        work_bytes: of checkpoints while it trains, removed at its end.
        memory_bytes: of model and batch, roughly.
    """

    images: int
    passes: str
    forwards: int
    decoded: int
    scored: int
    seconds: float
    disk_bytes: dict[str, float]
    work_bytes: float
    memory_bytes: float


def estimate_cell(
    cell: ProbeConfig,
    kind: str,
    splits: Sequence[Sizes],
    images: int,
    facts: EncoderFacts,
    missing: Missing,
    read_seconds: float,
) -> CellEstimate:
    """The cost of ``cell`` on ``splits`` (one training, or one per fold) with ``images`` in all.

    ``read_seconds`` are those of reading an image, shared by the workers.
    """
    heads = {name: load_head(name, kind) for name in cell.heads or ()}
    recipe, fits, copies = cell.whole_recipe, _fits(cell, heads.values()), copies_of(cell, facts)
    seconds_of = {name: facts.heads.get((name, kind), 0.0) for name in heads}
    disk: dict[str, float] = {}
    forwards = decoded = scored = 0
    head_seconds = checkpoints = 0.0
    memory = float(facts.parameters * 4 + LIVE * facts.largest * (cell.batch_size or facts.batch_size))
    if recipe is None or recipe.probe_start:
        # A trained encoder may start at the head that was fitted on frozen features.
        passes, first, again, head_seconds = _on_frozen(heads, splits, images, missing, seconds_of)
        passes += f"; at most {again * fits:,} for heads that read maps" if again else ""
        passes += "; random weights likewise" if copies > 1 else ""
        forwards = decoded = (first + again * fits) * copies
        head_seconds *= fits * copies
        stored = {"features": missing.pooled * facts.pooled_bytes, "maps": missing.maps * facts.map_bytes}
        disk |= {name: float(count * copies) for name, count in stored.items() if count}
    if recipe is not None:
        steps, looks, batch_size = _in_training(recipe, splits)
        trainings = cell.seeds * (cell.episodes or 1)
        work = (FORWARD_AND_BACKWARD * steps + looks) * trainings
        forwards, decoded = forwards + work, decoded + (steps + looks) * trainings
        head_seconds += sum(seconds_of.values()) * work
        passes = f"at most {recipe.epochs} epochs of {steps // recipe.epochs:,} images, forward and back"
        passes += f", episodes: {cell.episodes}" if cell.episodes else ""
        passes += f", {cell.seeds} seeds" if cell.seeds > 1 else ""
        # What LoRA adds is a few hundredths and is not counted.
        learned = 0 if cell.adaptation == "lora" else facts.parameters
        state = learned * (STATE_BYTES + (4 if recipe.ema else 0)) + (facts.parameters - learned) * 4
        memory = float(state + facts.activations * batch_size)
        checkpoints = 4.0 * SAVED_COPIES * learned
        if learned and not cell.episodes:
            # Of an episode the scores alone are kept.
            disk["trained encoders"] = 4.0 * learned * cell.seeds * len(splits)
    if kind_of(kind).pixelwise:
        scored = len(heads) * fits * copies * sum(part.val + part.test for part in splits)
    seconds = forwards * facts.seconds + decoded * read_seconds + scored * SCORE_SECONDS + head_seconds
    return CellEstimate(images, passes, forwards, decoded, scored, seconds, disk, checkpoints, memory)


def _on_frozen(
    heads: Mapping[str, Head], splits: Sequence[Sizes], images: int, missing: Missing, seconds: Mapping[str, float]
) -> tuple[str, int, int, float]:
    """Passes of a frozen encoder in words, those that are made once, those of each fit, and seconds of its heads."""
    by_schedule, head_seconds = {}, 0.0
    for name, head in heads.items():
        if not isinstance(head, TrainedHead):
            continue
        reads = [planned_reads(head.schedule, part.train, max(1, part.val)) for part in splits]
        work = sum(FORWARD_AND_BACKWARD * steps + looks for steps, looks in reads)
        head_seconds += seconds.get(name, 0.0) * len(head.learning_rates) * work
        if head.reads_maps:
            # Heads on one schedule share their batches.
            by_schedule[head.schedule] = sum(map(sum, reads))
    first = max(missing.pooled, missing.maps)
    if missing.keeps == "memory":
        return f"{images:,} once, maps stay in memory", images, 0, head_seconds
    again = 0
    if missing.keeps == "stream":
        again = sum(by_schedule.values()) + PREDICTIONS * sum(part.val + part.test for part in splits)
    return f"{first:,} once" if first else "stored by then", first, again, head_seconds


def _in_training(recipe: Recipe, splits: Sequence[Sizes]) -> tuple[int, int, int]:
    """Images of an encoder's training in steps, and in looks and predictions; and those of a step."""
    plans = [EpochPlan.of(recipe, part.train) for part in splits]
    looks = sum((plan.looks + 1) * part.val + part.test for plan, part in zip(plans, splits, strict=True))
    return sum(plan.total * plan.batch_size for plan in plans), looks, max(plan.batch_size for plan in plans)


def copies_of(cell: ProbeConfig, facts: EncoderFacts) -> int:
    """How many encoders a cell runs: frozen and with the baseline of random weights two."""
    drawn = cell.adaptation != "frozen" or cell.weights == "random" or not facts.pretrained
    return 2 if cell.baselines == "all" and not drawn else 1


def _fits(cell: ProbeConfig, heads: Iterable[Head]) -> int:
    """How often a cell is fitted: once a seed, but once in all where a seed changes nothing."""
    fixed = cell.adaptation == "frozen" and all(head.deterministic for head in heads)
    return 1 if fixed and cell.subset == SubsetOptions() else cell.seeds


def load_for_trial(
    name: str, options: EncoderOptions, *, fetch: bool, device: str = "cpu", precision: str = "float32"
) -> tuple[Encoder, str | None]:
    """The encoder ``name``, and why its weights cannot be had or None; its speed does not depend on them.

    Args:
        fetch: load the weights themselves, which may download them; else they are drawn.

    Raises:
        EvalfmError: it cannot be built even so.
    """
    settings: dict[str, Any] = {"input_size": options.input_size, "resize": options.resize, "device": device}
    if not EncoderRef.parse(name).is_code:
        settings["precision"] = precision
    faults: list[EvalfmError] = []
    # What takes no weights has none to be drawn.
    for weights in (options.weights if fetch else "random", "random", "hub"):
        try:
            return load_encoder(name, weights=weights, **settings), str(faults[0]) if fetch and faults else None
        except EvalfmError as error:
            faults.append(error)
    raise faults[-1]


@torch.no_grad()
def try_encoder(
    encoder: Encoder, heads: Iterable[tuple[str, str, int]], speed: float | None = None, number_bytes: int = 4
) -> EncoderFacts:
    """Run one blank image through an encoder and through ``heads`` (name, kind, classes).

    Args:
        speed: operations a second of a machine that is not at hand; None takes the time of the trial.
        number_bytes: of one number that a module gives: 2 in half precision.

    Raises:
        EvalfmError: it gives other features than its card says.
    """
    blank = torch.zeros(1, encoder.preparer.facts.channels, *encoder.input_size, device=device_of(encoder))
    features = encoder.encode(blank)
    # It declares its features as a source does, which is all that is read here.
    source, known = cast(FeatureSource, encoder), {}
    for name, kind, classes in heads:
        head = load_head(name, kind)
        if isinstance(head, TrainableHead):
            context = Context(kind, tuple(f"class{number}" for number in range(classes)), device=blank.device)
            module = head.new_module(head.layout(source, context), torch.Generator()).to(blank.device).eval()
            read = features.maps if head.reads_maps else ()
            known[name, kind] = _seconds_of_head(module, read, features.pooled, speed)
    outputs = _outputs(lambda: encoder.encode(blank))
    counted = 0.0 if speed is None else _operations(lambda: encoder.encode(blank)) / speed
    pooled = estimate_bytes(source, 1, maps=False)
    return EncoderFacts(
        # What computes without counted operations (a classical descriptor) is as fast as here.
        seconds=counted or seconds_per_image(encoder),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        batch_size=automatic_batch_size(encoder),
        pooled_bytes=pooled,
        map_bytes=estimate_bytes(source, 1) - pooled,
        activations=sum(outputs) * number_bytes,
        largest=max(outputs, default=blank.numel()) * number_bytes,
        pretrained=encoder.card.weights.source != "none",
        heads=known,
    )


def _seconds_of_head(module: nn.Module, maps: Sequence[Tensor], pooled: Tensor, speed: float | None) -> float:
    levels = tuple(level.expand(HEAD_BATCH, -1, -1, -1).contiguous() for level in maps)
    several = pooled.expand(HEAD_BATCH, -1).contiguous()
    operations = _operations(lambda: module(levels, several))
    if speed is not None:
        return operations / speed / HEAD_BATCH
    started = time.perf_counter()
    # The result is waited for: a GPU returns before it has computed.
    module(levels, several).cpu()
    return (time.perf_counter() - started) / HEAD_BATCH


def _operations(forward: Callable[[], object]) -> float:
    counter = operation_counter()
    with counter:
        forward()
    return float(counter.get_total_flops())


def _outputs(forward: Callable[[], object]) -> list[int]:
    """Numbers that each module without children gives in a pass: what a backward pass keeps, roughly."""
    counted: list[int] = []

    def count(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and not any(True for _ in module.children()):
            counted.append(output.numel())

    handle = register_module_forward_hook(count)
    try:
        forward()
    finally:
        handle.remove()
    return counted
