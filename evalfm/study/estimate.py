"""What a cell will cost: passes of the encoder, seconds, disk and memory, from its sizes and its encoder's facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from evalfm.config import ProbeConfig, SubsetOptions
from evalfm.heads import load_head
from evalfm.heads.trained import Schedule, TrainedHead
from evalfm.heads.training import planned_reads
from evalfm.study.cohorts import Sizes
from evalfm.study.trial import EncoderFacts, HeadFacts
from evalfm.training.recipe import Recipe

FORWARD_AND_BACKWARD = 3
"""A training step costs three forward passes: one forward, two back."""
STATE_BYTES = 16
"""Of a parameter that is trained, in float32: value, gradient and the two moments of AdamW."""
LIVE = 3
"""Outputs of the largest module that a pass without gradient holds at once."""
SAVED_COPIES = 5
"""Of the trained tensors on disk while training: weights, their average, the two moments, the best so far."""


@dataclass(frozen=True)
class Rates:
    """How fast a machine is.

    Attributes:
        seconds: of one forward pass of one image.
        speed: operations a second of a machine that is not at hand; None takes the heads' trials.
        decode_seconds: of reading and resizing one image by one worker.
        score_seconds: of scoring the mask of one image on its own grid.
        workers: that decode.
        activation_bytes: of one number that a module gives: 2 in half precision, else 4.
    """

    seconds: float
    decode_seconds: float
    score_seconds: float
    workers: int
    activation_bytes: int = 4
    speed: float | None = None

    def of_head(self, known: HeadFacts) -> float:
        """Seconds of one prediction of a head for one image."""
        return known.seconds if self.speed is None else known.flops / self.speed


@dataclass(frozen=True)
class StoredFeatures:
    """What of a cell's images the feature store holds already, or what becomes of the rest.

    Attributes:
        missing: images without pooled features. missing_maps: without maps. missing_prepared: without a prepared image.
        policy: ``store`` or ``stream``: what becomes of maps.
        held: whether memory holds the maps of all, so that none is computed twice.
    """

    missing: int
    missing_maps: int
    missing_prepared: int
    policy: str
    held: bool = False


@dataclass(frozen=True)
class CellEstimate:
    """The cost of one cell.

    Attributes:
        images: that it uses. passes: how often the encoder sees them, in words.
        forwards: forward passes of one image, a training step counting three. decoded, scored: images.
        seconds: all of it.
        disk_bytes: that stay: features, maps, prepared images, trained encoders, by name.
        work_bytes: of checkpoints while it trains, removed at its end.
        memory_bytes: of model and batch, roughly.
    """

    images: int
    passes: str
    forwards: float
    decoded: float
    scored: float
    seconds: float
    disk_bytes: dict[str, float] = field(default_factory=dict)
    work_bytes: float = 0.0
    memory_bytes: float = 0.0


@dataclass(frozen=True)
class Steps:
    """A training: images seen in steps, and without gradient: in looks at val, and for mean and deviation."""

    trained: int
    looked: int

    def __add__(self, other: Steps) -> Steps:
        return Steps(self.trained + other.trained, self.looked + other.looked)


def head_steps(schedule: Schedule, sizes: Sizes) -> Steps:
    """Of heads on frozen features that make progress on val to the end; fewer where they stop early."""
    return Steps(*planned_reads(schedule, sizes.train, sizes.val))


def encoder_steps(recipe: Recipe, sizes: Sizes) -> Steps:
    """Of an encoder with its head that make progress on val to the end; fewer where they stop early."""
    batch = min(recipe.batch_size, sizes.train)
    steps = max(math.ceil(sizes.train / batch), math.ceil(recipe.least_steps / recipe.epochs))
    return Steps(recipe.epochs * steps * batch, (recipe.epochs + 1) * sizes.val)


def estimate_cell(
    cell: ProbeConfig,
    kind: str,
    splits: Sequence[Sizes],
    images: int,
    facts: EncoderFacts,
    stored: StoredFeatures,
    rates: Rates,
) -> CellEstimate:
    """The cost of ``cell`` on ``splits`` (one training, or one per fold) with ``images`` in all."""
    if cell.adaptation == "frozen":
        return _frozen(cell, kind, splits, images, facts, stored, rates)
    return _trained(cell, kind, splits, images, facts, stored, rates)


def _frozen(
    cell: ProbeConfig,
    kind: str,
    splits: Sequence[Sizes],
    images: int,
    facts: EncoderFacts,
    stored: StoredFeatures,
    rates: Rates,
) -> CellEstimate:
    heads = {name: load_head(name, kind) for name in cell.heads or ()}
    reads_maps = any("maps" in head.needs for head in heads.values())
    streamed = reads_maps and stored.policy == "stream"
    extracted = max(stored.missing, stored.missing_maps) if reads_maps and not streamed else stored.missing
    fits = _fits(cell, all(head.deterministic for head in heads.values()))
    train = {name: head for name, head in heads.items() if isinstance(head, TrainedHead)}
    steps, head_seconds, head_bytes = Steps(0, 0), 0.0, 0.0
    for name, head in train.items():
        of_head = _sum(head_steps(head.schedule, split) for split in splits)
        # Heads on one schedule share their batches.
        steps = max(steps, of_head, key=lambda each: each.trained)
        known = facts.heads.get((name, kind), HeadFacts())
        work = FORWARD_AND_BACKWARD * of_head.trained + of_head.looked
        head_seconds += rates.of_head(known) * known.rates * work * fits
        kept = known.activations * rates.activation_bytes * head.schedule.batch_size
        head_bytes += float((known.parameters * STATE_BYTES + kept) * known.rates)
    scored = sum(split.val + split.test for split in splits)
    seen = (steps.trained + steps.looked + _predicted(splits, kind)) * fits if streamed else 0
    if streamed and stored.held:
        seen = images - extracted
    copies = copies_of(cell, facts)
    forwards = float(extracted + seen) * copies
    decoded = float(extracted + (stored.missing_prepared if cell.cache_images else seen)) * copies
    dense = sum(len(heads) * scored * fits for _ in [0] if kind == "segmentation") * copies
    disk = {"features": float(stored.missing * facts.pooled_bytes) * copies}
    if reads_maps and not streamed:
        disk["maps"] = float(stored.missing_maps * facts.map_bytes) * copies
    if streamed and cell.cache_images:
        disk["prepared images"] = float(stored.missing_prepared * facts.prepared_bytes) * copies
    passes = f"{extracted:,} once" if extracted else "stored by then"
    if streamed and stored.held:
        passes = f"{images:,} once, maps stay in memory"
    elif streamed:
        passes += f"; at most {seen:,} for heads that read maps"
    if copies > 1:
        passes += "; random weights likewise"
    return CellEstimate(
        images=images,
        passes=passes,
        forwards=forwards,
        decoded=decoded,
        scored=dense,
        seconds=_seconds(forwards, decoded, dense, head_seconds * copies, rates),
        disk_bytes=disk,
        memory_bytes=facts.parameters * 4
        + head_bytes
        + float(LIVE * facts.largest * rates.activation_bytes * (cell.batch_size or facts.batch_size)),
    )


def _trained(
    cell: ProbeConfig,
    kind: str,
    splits: Sequence[Sizes],
    images: int,
    facts: EncoderFacts,
    stored: StoredFeatures,
    rates: Rates,
) -> CellEstimate:
    recipe, fits = cell.whole_recipe, cell.seeds * (cell.episodes or 1)
    assert recipe is not None
    (name,) = cell.heads or ()
    head, known = load_head(name, kind), facts.heads.get((name, kind), HeadFacts())
    steps = _sum(encoder_steps(recipe, split) for split in splits)
    scored = sum(split.val + split.test for split in splits)
    predicted = _predicted(splits, kind)
    trained = FORWARD_AND_BACKWARD * steps.trained + steps.looked + predicted
    forwards, decoded = float(trained * fits), float((steps.trained + steps.looked + predicted) * fits)
    head_seconds = rates.of_head(known) * trained * fits
    disk: dict[str, float] = {}
    if recipe.probe_start:
        # The head is fitted on frozen features first.
        reads_maps = "maps" in head.needs
        streamed = reads_maps and stored.policy == "stream"
        extracted = max(stored.missing, stored.missing_maps) if reads_maps and not streamed else stored.missing
        start = Steps(0, 0)
        if isinstance(head, TrainedHead):
            start = _sum(head_steps(head.schedule, split) for split in splits)
            work = FORWARD_AND_BACKWARD * start.trained + start.looked
            head_seconds += rates.of_head(known) * known.rates * work * cell.seeds
        again = (start.trained + start.looked) * cell.seeds if streamed else 0
        if streamed and stored.held:
            again = images - extracted
        forwards, decoded = forwards + extracted + again, decoded + extracted + again
        disk["features"] = float(stored.missing * facts.pooled_bytes)
        if reads_maps and not streamed:
            disk["maps"] = float(stored.missing_maps * facts.map_bytes)
    changed = facts.lora_parameters.get(recipe.rank, 0) if cell.adaptation == "lora" else facts.parameters
    if not cell.episodes:
        # Of an episode the scores alone are kept.
        disk["trained encoders"] = 4.0 * changed * cell.seeds * len(splits)
    dense = float(scored * cell.seeds if kind == "segmentation" else 0)
    own = facts.parameters * 4 + (changed + known.parameters) * (STATE_BYTES - 4) + known.parameters * 4
    average = (changed + known.parameters) * 4 if recipe.ema else 0
    # Every process has the whole model and its share of the batch; this is one of them.
    batch = math.ceil(min(recipe.batch_size, max(split.train for split in splits)))
    return CellEstimate(
        images=images,
        passes=f"at most {recipe.epochs} epochs of {steps.trained // recipe.epochs:,} images, forward and back"
        + (f", episodes: {cell.episodes}" if cell.episodes else "")
        + (f", {cell.seeds} seeds" if cell.seeds > 1 else ""),
        forwards=forwards,
        decoded=decoded,
        scored=dense,
        seconds=_seconds(forwards, decoded, dense, head_seconds, rates),
        disk_bytes=disk,
        work_bytes=4.0 * SAVED_COPIES * (changed + known.parameters),
        memory_bytes=own + average + float((facts.activations + known.activations) * rates.activation_bytes * batch),
    )


def copies_of(cell: ProbeConfig, facts: EncoderFacts) -> int:
    """How many encoders a cell runs: with the baseline of random weights two."""
    return 2 if cell.baselines == "all" and facts.pretrained and cell.weights != "random" else 1


def _predicted(splits: Sequence[Sizes], kind: str) -> int:
    """Passes when all is trained: val and test, and for masks val once before, to choose the threshold."""
    return sum((2 if kind == "segmentation" else 1) * split.val + split.test for split in splits)


def _fits(cell: ProbeConfig, deterministic: bool) -> int:
    """How often a cell is fitted: once a seed, but once in all where a seed changes nothing."""
    return 1 if deterministic and cell.subset == SubsetOptions() else cell.seeds


def _seconds(forwards: float, decoded: float, scored: float, head_seconds: float, rates: Rates) -> float:
    waiting = decoded * rates.decode_seconds / rates.workers
    return forwards * rates.seconds + waiting + scored * rates.score_seconds + head_seconds


def _sum(steps: Iterable[Steps]) -> Steps:
    return sum(steps, Steps(0, 0))
