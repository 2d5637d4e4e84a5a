"""Training of many heads and learning rates at once: each batch of features is fetched once for all."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from evalfm.cautions import Caution
from evalfm.errors import EvalfmError
from evalfm.heads._pooled import check_kind
from evalfm.heads.head import Context, Examples, Fit
from evalfm.heads.module import HeadModule, Layout, Maps, Statistics
from evalfm.heads.objectives import Objective

if TYPE_CHECKING:
    from evalfm.heads.trained import Schedule, TrainedHead

Batch = tuple[Maps, Tensor]
Line = dict[str, float | int | str]


@dataclass
class _Candidate:
    """One readout with one learning rate, and the best that val has seen of it."""

    learning_rate: float
    module: HeadModule
    objective: Objective
    best: float = -math.inf
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    curve: list[Line] = field(default_factory=list)

    def look(self, loss: float, score: float) -> None:
        """Note a look at val; keep the state if it is the best so far."""
        epoch = len(self.curve) + 1
        self.curve.append({"epoch": epoch, "train_loss": loss, self.objective.score_name: score})
        if math.isfinite(loss) and self.objective.better(score) > self.best:
            self.best, self.best_epoch = self.objective.better(score), epoch
            self.best_state = {name: value.clone() for name, value in self.module.state_dict().items()}

    def summary(self) -> Line:
        """The candidate as a line of the path."""
        score = self.objective.better(self.best) if self.best_state else math.nan
        return {"learning_rate": self.learning_rate, "epoch": self.best_epoch, self.objective.score_name: score}


class _Bank:
    """The candidates of one head, run as one: their parameters are stacked, the features are shared."""

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
        """Whether no candidate goes on making progress on val."""
        return all(self._stalled(candidate) for candidate in self.candidates)

    def step(self, batch: Batch, target: Tensor, factor: float) -> None:
        """One step of every candidate, its learning rate times ``factor``."""
        for group, candidate in zip(self._optimiser.param_groups, self.candidates, strict=True):
            group["lr"] = candidate.learning_rate * factor
            candidate.module.train()
        self._optimiser.zero_grad()
        loss = self.objective.loss(self.logits(batch), target)
        torch.autograd.backward(loss.sum())
        self._optimiser.step()
        self._losses.append(loss.detach())

    def look(self, scores: Tensor) -> None:
        """Tell the candidates that still make progress their val ``scores`` [L]."""
        losses = torch.stack(self._losses).mean(dim=0)
        self._losses.clear()
        for candidate, loss, score in zip(self.candidates, losses.tolist(), scores.tolist(), strict=True):
            if not self._stalled(candidate):
                candidate.look(loss, score)

    def logits(self, batch: Batch) -> Tensor:
        """Of every candidate, [L, B, …]."""
        modules = [candidate.module for candidate in self.candidates]
        if not modules[0].stackable:
            return torch.stack([module(*batch) for module in modules])
        named = [dict(module.named_parameters()) for module in modules]
        stacked = {name: torch.stack([each[name] for each in named]) for name in named[0]}
        buffers = dict(modules[0].named_buffers())

        def one(parameters: dict[str, Tensor]) -> Tensor:
            answer: Tensor = functional_call(modules[0], (parameters, buffers), batch)
            return answer

        logits: Tensor = vmap(one)(stacked)
        return logits

    def tested(self) -> None:
        """Put every readout into evaluation mode."""
        for candidate in self.candidates:
            candidate.module.eval()

    def _stalled(self, candidate: _Candidate) -> bool:
        return len(candidate.curve) - candidate.best_epoch >= self.head.schedule.patience


@dataclass(frozen=True)
class _Plan:
    """How many epochs of how many steps."""

    epochs: int
    steps: int

    @classmethod
    def of(cls, schedule: Schedule, train: int, val: int) -> _Plan:
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
    plan = _Plan.of(schedule, train, val)
    steps = plan.epochs * plan.steps * min(schedule.batch_size, train)
    return steps, plan.epochs * val + min(schedule.statistics_images, train)


@dataclass(frozen=True)
class _Truth:
    """The truth of one part in the shape in which one or more heads answer."""

    train: Tensor
    val: Tensor


def fit_together(heads: Sequence[TrainedHead], train: Examples, val: Examples, context: Context) -> list[Fit]:
    """Train every head at every learning rate of its grid in one pass over the features; one Fit a head.

    AdamW on the objective of the task's kind; learning rate and epoch by its val score (ties: the earlier epoch,
    the smaller rate). The number of times features are asked for does not depend on how many heads and rates
    there are. A head's result does not depend on its companions but for rounding.

    Raises:
        EvalfmError: a head lacks what it reads, nothing can be learnt from train or chosen on val, or a kind that a
            head does not serve.
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
    truths: dict[tuple[int, int] | None, _Truth] = {}
    for layout, objective in zip(layouts, objectives, strict=True):
        if layout.grid not in truths:
            truths[layout.grid] = _read(objective, layout, train, val, context)
    first = truths[layouts[0].grid]
    generator = torch.Generator().manual_seed(context.seed)
    batches = deal_batches(objectives[0].positive(first.train), len(train), schedule, generator)
    with_maps = heads[0].reads_maps
    statistics = read_statistics(train, schedule, generator, maps=with_maps)
    banks = []
    for head, layout, objective in zip(heads, layouts, objectives, strict=True):
        module = start_readout(head, layout, objective, truths[layout.grid].train, statistics, context.seed)
        banks.append(_Bank(head, layout, objective, module, context))
    plan = _Plan.of(schedule, len(train), len(val))
    total = plan.epochs * plan.steps
    step = 0
    label = f"training {', '.join(head.name for head in heads)}"
    for _ in context.progress.track(range(plan.epochs), label, plan.epochs):
        going = [bank for bank in banks if not bank.finished]
        if not going:
            break
        dealt = list(islice(batches, plan.steps))
        for positions, batch in zip(dealt, fetched(train, dealt, with_maps, context.device), strict=True):
            factor = rate_factor(step, total, schedule.warm_up)
            for bank in going:
                target = truths[bank.layout.grid].train[positions].to(context.device)
                bank.step(batch, target, factor)
            step += 1
        _look(going, val, truths, schedule, with_maps, context.device)
    return [_choose(bank, context.device) for bank in banks]


def start_readout(
    head: TrainedHead, layout: Layout, objective: Objective, target: Tensor, statistics: Statistics, seed: int
) -> HeadModule:
    """A fresh readout of ``head``, seeded by its name, with the statistics and the first answer of train."""
    seeded = torch.Generator().manual_seed(seed * 2**20 + zlib.crc32(head.name.encode()) % 2**20)
    module = head.new_module(layout, seeded)
    module.standardise(statistics)
    module.init_bias(objective.start(target, head.schedule.positive_share))
    return module


def deal_batches(
    positive: Tensor | None, images: int, schedule: Schedule, generator: torch.Generator
) -> Iterator[Tensor]:
    """Positions of train without end; each image is dealt once before any comes again.

    Where ``positive`` [N] is given, each batch holds its share of positive images and of the others: the share is
    that of train, at least ``positive_share``; each kind is then dealt by itself.
    """
    size = min(schedule.batch_size, max(2, images))
    if positive is None:
        stream = _deal(torch.arange(images), generator)
        while True:
            yield torch.tensor([next(stream) for _ in range(size)])
    kinds = [torch.nonzero(positive)[:, 0], torch.nonzero(~positive)[:, 0]]
    share = max(schedule.positive_share, len(kinds[0]) / images)
    with_lesion = size if len(kinds[1]) == 0 else min(size - 1, max(1, round(size * share)))
    streams = [_deal(kind, generator) for kind in kinds]
    while True:
        wanted = (with_lesion, size - with_lesion)
        yield torch.tensor([next(stream) for stream, count in zip(streams, wanted, strict=True) for _ in range(count)])


def read_statistics(train: Examples, schedule: Schedule, generator: torch.Generator, *, maps: bool) -> Statistics:
    """Mean and standard deviation of every channel over some train images.

    A channel that never moves is left unscaled: its standardised value is then 0, not noise blown up.
    """
    sample = torch.randperm(len(train), generator=generator)[: schedule.statistics_images]
    sums: list[tuple[Tensor, Tensor, int]] = []
    for part in torch.split(sample, schedule.batch_size):
        levels, pooled = _fetch(train, part, maps, torch.device("cpu"))
        for index, level in enumerate((pooled[:, :, None, None], *levels)):
            exact = level.double()
            total, square, count = exact.sum((0, 2, 3)), exact.square().sum((0, 2, 3)), level[:, 0].numel()
            if index < len(sums):
                before = sums[index]
                sums[index] = (before[0] + total, before[1] + square, before[2] + count)
            else:
                sums.append((total, square, count))
    means = [total / count for total, _, count in sums]
    scales = [
        (square / count - mean.square()).clamp_min(0).sqrt()
        for (_, square, count), mean in zip(sums, means, strict=True)
    ]
    scales = [
        torch.where(scale > 1e-5 * mean.abs() + 1e-12, scale, 1.0).float()
        for scale, mean in zip(scales, means, strict=True)
    ]
    single = [mean.float() for mean in means]
    return Statistics(single[0], scales[0], tuple(single[1:]), tuple(scales[1:]))


def rate_factor(step: int, total: int, warm_up: float) -> float:
    """Rise linearly over ``warm_up`` of the steps, then fall as half a cosine."""
    rising = max(1, round(total * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _read(objective: Objective, layout: Layout, train: Examples, val: Examples, context: Context) -> _Truth:
    truth = _Truth(
        objective.read(train, layout.grid, context.progress, "train"),
        objective.read(val, layout.grid, context.progress, "val"),
    )
    objective.check(truth.train, "train")
    objective.check(truth.val, "val")
    return truth


def _deal(positions: Tensor, generator: torch.Generator) -> Iterator[int]:
    while len(positions):
        yield from positions[torch.randperm(len(positions), generator=generator)].tolist()


def _fetch(examples: Examples, positions: Tensor, maps: bool, device: torch.device) -> Batch:
    features = examples.source.features(examples.rows[positions.numpy()].tolist(), maps=maps)
    # As they are kept first, in half the bytes; to float32 there.
    maps_there = tuple(level.to(device, non_blocking=True).float() for level in features.maps)
    return maps_there, features.pooled.to(device, torch.float32)


def fetched(examples: Examples, dealt: Sequence[Tensor], maps: bool, device: torch.device) -> Iterator[Batch]:
    """The features at each of ``dealt``, in order, the next ones read by a thread while these are used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_fetch, examples, dealt[0], maps, device)
        for positions in dealt[1:]:
            batch = waiting.result()
            waiting = pool.submit(_fetch, examples, positions, maps, device)
            yield batch
        yield waiting.result()


@torch.no_grad()
def _look(
    banks: Sequence[_Bank],
    val: Examples,
    truths: dict[tuple[int, int] | None, _Truth],
    schedule: Schedule,
    maps: bool,
    device: torch.device,
) -> None:
    """Show every bank its score on val, features fetched once for all."""
    tallies = [bank.objective.tally(len(bank.candidates)) for bank in banks]
    for bank in banks:
        bank.tested()
    dealt = torch.split(torch.arange(len(val)), schedule.batch_size)
    for positions, batch in zip(dealt, fetched(val, dealt, maps, device), strict=True):
        for bank, tally in zip(banks, tallies, strict=True):
            tally.add(bank.logits(batch), truths[bank.layout.grid].val[positions].to(device))
    for bank, tally in zip(banks, tallies, strict=True):
        bank.look(tally.score())


def _choose(bank: _Bank, device: torch.device) -> Fit:
    """Give the head its best candidate on val and tell how it was chosen."""
    best = max(bank.candidates, key=lambda candidate: (candidate.best, -candidate.learning_rate))
    if not best.best_state:
        raise EvalfmError(
            f"The head {bank.head.name!r} diverged at every learning rate; "
            "lower the rates or check the features for NaN."
        )
    best.module.load_state_dict(best.best_state)
    bank.head.set_module(best.module, bank.layout, bank.objective, device)
    rates = [candidate.learning_rate for candidate in bank.candidates]
    cautions = []
    if len(rates) > 1 and best.learning_rate in (rates[0], rates[-1]):
        words = f"The best learning rate, {best.learning_rate:.3g}, lies at the edge of the grid."
        cautions.append(Caution("grid-edge", words))
    chosen: Line = {"learning_rate": best.learning_rate, "epoch": best.best_epoch}
    return Fit(chosen, tuple(each.summary() for each in bank.candidates), tuple(best.curve), tuple(cautions))
