"""Training of many heads and learning rates at once: each batch of features is read once for all of them."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from evalfm.errors import EvalfmError
from evalfm.heads._pooled import at_edge, check_kind
from evalfm.heads.head import Context, Examples, Fit
from evalfm.heads.module import HeadModule, Layout, Statistics
from evalfm.heads.objectives import Objective
from evalfm.heads.reading import FeatureBatch, read_batches, to_device

if TYPE_CHECKING:
    from evalfm.heads.trained import Schedule, TrainedHead

CPU = torch.device("cpu")
TARGET_SHARE = 0.25
"""Of a GPU's free memory that the targets of train and val may take."""
CurveLine = dict[str, float | int | str]


@dataclass
class _Candidate:
    """One module with one learning rate, and its best state on val so far."""

    learning_rate: float
    module: HeadModule
    objective: Objective
    best: float = -math.inf
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    curve: list[CurveLine] = field(default_factory=list)

    def look(self, loss: float, score: float) -> None:
        """Record a score on val; keep the state if it is the best so far."""
        epoch = len(self.curve) + 1
        self.curve.append({"epoch": epoch, "train_loss": loss, self.objective.score_name: score})
        if math.isfinite(loss) and self.objective.better(score) > self.best:
            self.best, self.best_epoch = self.objective.better(score), epoch
            self.best_state = {name: value.clone() for name, value in self.module.state_dict().items()}

    def summary(self) -> CurveLine:
        """Rate, best epoch and its score, as a line of the selection path."""
        score = self.objective.better(self.best) if self.best_state else math.nan
        return {"learning_rate": self.learning_rate, "epoch": self.best_epoch, self.objective.score_name: score}


class HeadCandidates:
    """The learning rates of one head, trained as one: parameters are stacked, each batch of features is shared."""

    def __init__(
        self, head: TrainedHead, layout: Layout, objective: Objective, first: HeadModule, context: Context
    ) -> None:
        first = first.to(context.device)
        self.head, self.layout, self.objective = head, layout, objective
        self.candidates = [_Candidate(rate, copy.deepcopy(first), objective) for rate in head.learning_rates]
        self._optimiser = torch.optim.AdamW(
            [{"params": list(each.module.parameters())} for each in self.candidates],
            weight_decay=head.schedule.weight_decay,
            foreach=True,
        )
        self._losses: list[Tensor] = []

    @property
    def finished(self) -> bool:
        """Whether no candidate has improved on val within the schedule's patience."""
        return all(self._stalled(candidate) for candidate in self.candidates)

    def step(self, batch: FeatureBatch, target: Tensor, factor: float) -> None:
        """One optimiser step of every candidate, its learning rate times ``factor``; nothing waits for the device."""
        for settings, candidate in zip(self._optimiser.param_groups, self.candidates, strict=True):
            settings["lr"] = candidate.learning_rate * factor
            candidate.module.train()
        self._optimiser.zero_grad()
        loss = self.objective.loss(self.logits(batch), target)
        torch.autograd.backward(loss.sum())
        self._optimiser.step()
        self._losses.append(loss.detach())

    def look(self, scores: Tensor) -> None:
        """Record the val ``scores`` [L] with the candidates that have not stopped; the one wait for the device."""
        losses = torch.stack(self._losses).mean(dim=0)
        self._losses.clear()
        for candidate, loss, score in zip(self.candidates, losses.tolist(), scores.tolist(), strict=True):
            if not self._stalled(candidate):
                candidate.look(loss, score)

    def logits(self, batch: FeatureBatch) -> Tensor:
        """Logits of every candidate, [L, B, …]."""
        modules = [candidate.module for candidate in self.candidates]
        # One module alone runs faster as it is than as a stack of one.
        if len(modules) == 1 or not modules[0].stackable:
            return torch.stack([module(*batch) for module in modules])
        named = [dict(module.named_parameters()) for module in modules]
        stacked = {name: torch.stack([each[name] for each in named]) for name in named[0]}
        buffers = dict(modules[0].named_buffers())

        def one(parameters: dict[str, Tensor]) -> Tensor:
            answer: Tensor = functional_call(modules[0], (parameters, buffers), batch)
            return answer

        logits: Tensor = vmap(one)(stacked)
        return logits

    def eval(self) -> None:
        """Put every candidate into evaluation mode."""
        for candidate in self.candidates:
            candidate.module.eval()

    def _stalled(self, candidate: _Candidate) -> bool:
        return len(candidate.curve) - candidate.best_epoch >= self.head.schedule.patience


@dataclass(frozen=True)
class StepPlan:
    """How many epochs of how many steps.

    >>> from evalfm.heads.trained import Schedule
    >>> StepPlan.of(Schedule(), train=160, val=32)
    StepPlan(epochs=20, steps=10)
    """

    epochs: int
    steps: int

    @classmethod
    def of(cls, schedule: Schedule, train: int, val: int) -> StepPlan:
        """Keep the steps within the schedule's bounds, and looks at val to a quarter of the work on train."""
        per_pass = math.ceil(train / schedule.batch_size)
        total = min(max(schedule.epochs * per_pass, schedule.least_steps), schedule.most_steps)
        looks = total // (4 * math.ceil(val / schedule.batch_size))
        epochs = max(1, min(schedule.epochs, looks))
        return cls(epochs, math.ceil(total / epochs))


def planned_reads(schedule: Schedule, train: int, val: int) -> tuple[int, int]:
    """Images whose features heads read that make progress to the end: in steps, and for looks at val and statistics.

    >>> from evalfm.heads.trained import Schedule
    >>> planned_reads(Schedule(), train=640, val=100)
    (12800, 2064)
    """
    plan = StepPlan.of(schedule, train, val)
    steps = plan.epochs * plan.steps * min(schedule.batch_size, train)
    return steps, plan.epochs * val + min(schedule.statistics_images, train)


@dataclass(frozen=True)
class SplitTargets:
    """Targets of train and val on the grid that one or more heads answer on, on the device where they fit it."""

    train: Tensor
    val: Tensor

    def placed(self, device: torch.device) -> SplitTargets:
        """The same on a GPU that has room for them, where every step takes its own without a copy."""
        if device.type != "cuda":
            return self
        if self.train.nbytes + self.val.nbytes > TARGET_SHARE * torch.cuda.mem_get_info(device)[0]:
            return self
        return SplitTargets(self.train.to(device), self.val.to(device))


def fit_together(heads: Sequence[TrainedHead], train: Examples, val: Examples, context: Context) -> list[Fit]:
    """Train every head at every learning rate of its grid in one pass over the features; one Fit a head.

    AdamW on the objective of the task's kind; learning rate and epoch are chosen by its val score (ties: the earlier
    epoch, the smaller rate). Features are read as often for many heads and rates as for one; a head's result depends on
    those beside it by rounding only.

    Raises:
        EvalfmError: a head lacks what it reads or does not serve the kind of task, or train or val hold nothing to
            learn from or to choose by.
    """
    if not heads:
        return []
    schedule = heads[0].schedule
    if len({head.schedule for head in heads}) > 1 or len({head.reads_maps for head in heads}) > 1:
        raise EvalfmError("Heads fitted together must read the same features on one schedule; fit them one by one.")
    for head in heads:
        check_kind(head, context)
    layouts = [head.layout(train.source, context) for head in heads]
    objectives = [head.objective(train, context) for head in heads]
    targets: dict[tuple[int, int] | None, SplitTargets] = {}
    for layout, objective in zip(layouts, objectives, strict=True):
        if layout.grid not in targets:
            targets[layout.grid] = _read(objective, layout, train, val, context)
    first = targets[layouts[0].grid]
    generator = torch.Generator().manual_seed(context.seed)
    batches = draw_batches(objectives[0].positive(first.train), len(train), schedule, generator)
    with_maps = heads[0].reads_maps
    statistics = read_statistics(train, schedule, generator, maps=with_maps, device=context.device)
    groups = []
    for head, layout, objective in zip(heads, layouts, objectives, strict=True):
        module = new_seeded_module(head, layout, objective, targets[layout.grid].train, statistics, context.seed)
        groups.append(HeadCandidates(head, layout, objective, module, context))
    targets = {grid: each.placed(context.device) for grid, each in targets.items()}
    plan = StepPlan.of(schedule, len(train), len(val))
    total = plan.epochs * plan.steps
    step = 0
    label = f"training {', '.join(head.name for head in heads)}"
    for _ in context.progress.track(range(plan.epochs), label, plan.epochs):
        going = [group for group in groups if not group.finished]
        if not going:
            break
        drawn = list(islice(batches, plan.steps))
        for positions, batch in zip(drawn, read_batches(train, drawn, with_maps, context.device), strict=True):
            factor = rate_factor(step, total, schedule.warm_up)
            for group in going:
                group.step(batch, _take(targets[group.layout.grid].train, positions, context.device), factor)
            step += 1
        _look(going, val, targets, schedule, with_maps, context.device)
    return [_choose(group, context.device) for group in groups]


def new_seeded_module(
    head: TrainedHead, layout: Layout, objective: Objective, target: Tensor, statistics: Statistics, seed: int
) -> HeadModule:
    """A new module of ``head``, seeded by its name, with the statistics and the constant answer of train."""
    seeded = torch.Generator().manual_seed(seed * 2**20 + zlib.crc32(head.name.encode()) % 2**20)
    module = head.new_module(layout, seeded)
    module.standardise(statistics)
    module.init_bias(objective.start(target, head.schedule.positive_share))
    return module


def draw_batches(
    positive: Tensor | None, images: int, schedule: Schedule, generator: torch.Generator
) -> Iterator[Tensor]:
    """Positions of train, batch after batch without end; every image is drawn once before any is drawn again.

    Where ``positive`` [N] is given, each batch holds a fixed number of positive images: their share of train, and at
    least the schedule's ``positive_share``. Positive and other images are then drawn each in their own order.

    >>> from evalfm.heads.trained import Schedule
    >>> batches = draw_batches(None, 4, Schedule(batch_size=2), torch.Generator().manual_seed(0))
    >>> sorted(torch.cat([next(batches), next(batches)]).tolist())
    [0, 1, 2, 3]
    """
    size = min(schedule.batch_size, max(2, images))
    if positive is None:
        stream = _draw_positions(torch.arange(images), generator)
        while True:
            yield torch.tensor([next(stream) for _ in range(size)])
    kinds = [torch.nonzero(positive)[:, 0], torch.nonzero(~positive)[:, 0]]
    share = max(schedule.positive_share, len(kinds[0]) / images)
    with_lesion = size if len(kinds[1]) == 0 else min(size - 1, max(1, round(size * share)))
    streams = [_draw_positions(kind, generator) for kind in kinds]
    while True:
        wanted = (with_lesion, size - with_lesion)
        yield torch.tensor([next(stream) for stream, count in zip(streams, wanted, strict=True) for _ in range(count)])


def read_statistics(
    train: Examples,
    schedule: Schedule,
    generator: torch.Generator,
    *,
    maps: bool,
    device: torch.device = CPU,
) -> Statistics:
    """Mean and standard deviation of every channel over some train images, on the CPU.

    Each batch is reduced on ``device``; what it gives is pooled in float64 (Chan, Golub and LeVeque 1983). A channel
    that never moves is left unscaled: its standardised value is then 0, not noise blown up.
    """
    sample = torch.randperm(len(train), generator=generator)[: schedule.statistics_images]
    parts = torch.split(sample, schedule.batch_size)
    moments: list[_Moments] = []
    for levels, pooled in read_batches(train, parts, maps, device):
        of_batch = [_Moments.of(level) for level in (pooled[:, :, None, None], *levels)]
        moments = [before + new for before, new in zip(moments, of_batch, strict=True)] if moments else of_batch
    means = [each.mean.float() for each in moments]
    scales = [each.scale().float() for each in moments]
    return Statistics(means[0], scales[0], tuple(means[1:]), tuple(scales[1:]))


@dataclass(frozen=True)
class _Moments:
    """Mean [C] and sum of squared deviations [C] of ``count`` values a channel, float64."""

    mean: Tensor
    squares: Tensor
    count: int

    @classmethod
    def of(cls, level: Tensor) -> _Moments:
        count = level[:, 0].numel()
        variance, mean = torch.var_mean(level.float(), dim=(0, 2, 3), correction=0)
        return cls(mean.cpu().double(), variance.cpu().double() * count, count)

    def __add__(self, other: _Moments) -> _Moments:
        count = self.count + other.count
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart.square() * (self.count * other.count / count)
        return _Moments(self.mean + apart * (other.count / count), squares, count)

    def scale(self) -> Tensor:
        deviation = (self.squares / self.count).sqrt()
        return torch.where(deviation > 1e-5 * self.mean.abs() + 1e-12, deviation, 1.0)


def rate_factor(step: int, total: int, warm_up: float) -> float:
    """Factor of the learning rate: rises linearly over ``warm_up`` of the steps, then falls as half a cosine.

    >>> [round(rate_factor(step, 10, 0.2), 2) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.04]
    """
    rising = max(1, round(total * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _read(objective: Objective, layout: Layout, train: Examples, val: Examples, context: Context) -> SplitTargets:
    targets = SplitTargets(
        objective.read(train, layout.grid, context.progress, "train"),
        objective.read(val, layout.grid, context.progress, "val"),
    )
    objective.check(targets.train, "train")
    objective.check(targets.val, "val")
    return targets


def _draw_positions(positions: Tensor, generator: torch.Generator) -> Iterator[int]:
    while len(positions):
        yield from positions[torch.randperm(len(positions), generator=generator)].tolist()


def _take(target: Tensor, positions: Tensor, device: torch.device) -> Tensor:
    """The targets at ``positions``, on ``device``."""
    return to_device(target[to_device(positions, target.device)], device)


@torch.no_grad()
def _look(
    groups: Sequence[HeadCandidates],
    val: Examples,
    targets: dict[tuple[int, int] | None, SplitTargets],
    schedule: Schedule,
    maps: bool,
    device: torch.device,
) -> None:
    """Score every head on val; features are read once for all of them."""
    tallies = [group.objective.tally(len(group.candidates)) for group in groups]
    for group in groups:
        group.eval()
    parts = torch.split(torch.arange(len(val)), schedule.batch_size)
    for positions, batch in zip(parts, read_batches(val, parts, maps, device), strict=True):
        for group, tally in zip(groups, tallies, strict=True):
            tally.add(group.logits(batch), _take(targets[group.layout.grid].val, positions, device))
    for group, tally in zip(groups, tallies, strict=True):
        group.look(tally.score())


def _choose(group: HeadCandidates, device: torch.device) -> Fit:
    """Give the head its best candidate on val; how it was chosen."""
    best = max(group.candidates, key=lambda candidate: (candidate.best, -candidate.learning_rate))
    if not best.best_state:
        raise EvalfmError(
            f"The head {group.head.name!r} diverged at every learning rate; "
            "lower the rates or check the features for NaN."
        )
    best.module.load_state_dict(best.best_state)
    group.head.set_module(best.module, group.layout, group.objective, device)
    rates = [candidate.learning_rate for candidate in group.candidates]
    cautions = at_edge("learning rate", rates, rates.index(best.learning_rate))
    chosen: CurveLine = {"learning_rate": best.learning_rate, "epoch": best.best_epoch}
    return Fit(chosen, tuple(each.summary() for each in group.candidates), tuple(best.curve), tuple(cautions))
