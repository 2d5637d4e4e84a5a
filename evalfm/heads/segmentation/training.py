"""Training of many dense heads and learning rates at once: each batch of maps is fetched once for all."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from evalfm.errors import EvalfmError
from evalfm.heads._pooled import check_kind
from evalfm.heads.head import Context, DenseHead, Examples, Fit
from evalfm.heads.segmentation.losses import PooledDice, pixel_loss
from evalfm.heads.segmentation.targets import read_targets
from evalfm.heads.segmentation.trained import Decoder, MapLayout, Maps, Schedule, TrainedDenseHead


@dataclass
class _Candidate:
    """One decoder with one learning rate, and the best that val has seen of it."""

    learning_rate: float
    decoder: Decoder
    best: float = -math.inf
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    curve: list[dict[str, float | int | str]] = field(default_factory=list)

    def look(self, loss: float, dice: float) -> None:
        """Note a look at val; keep the state if it is the best so far."""
        epoch = len(self.curve) + 1
        self.curve.append({"epoch": epoch, "train_loss": loss, "val_dice": dice})
        if math.isfinite(loss) and dice > self.best:
            self.best, self.best_epoch = dice, epoch
            self.best_state = {name: value.clone() for name, value in self.decoder.state_dict().items()}


class _Bank:
    """The candidates of one head, run as one: their parameters are stacked, the maps are shared."""

    def __init__(self, head: TrainedDenseHead, layout: MapLayout, context: Context) -> None:
        seed = context.seed * 2**20 + zlib.crc32(head.name.encode()) % 2**20
        first = head.decoder(layout, torch.Generator().manual_seed(seed)).to(context.device)
        self.head = head
        self.candidates = [_Candidate(rate, copy.deepcopy(first)) for rate in head.learning_rates]
        self._optimiser = torch.optim.AdamW(
            [{"params": list(each.decoder.parameters())} for each in self.candidates],
            weight_decay=head.schedule.weight_decay,
            foreach=True,
        )
        self._losses: list[Tensor] = []

    @property
    def finished(self) -> bool:
        """Whether no candidate goes on making progress on val."""
        return all(self._stalled(candidate) for candidate in self.candidates)

    def step(self, maps: Maps, target: Tensor, factor: float) -> None:
        """One step of every candidate, its learning rate times ``factor``."""
        for group, candidate in zip(self._optimiser.param_groups, self.candidates, strict=True):
            group["lr"] = candidate.learning_rate * factor
        self._optimiser.zero_grad()
        loss = pixel_loss(self.logits(maps), target)
        torch.autograd.backward(loss.sum())
        self._optimiser.step()
        self._losses.append(loss.detach())

    def look(self, scores: Tensor) -> None:
        """Tell the candidates that still make progress their val ``scores`` [L]."""
        losses = torch.stack(self._losses).mean(dim=0)
        self._losses.clear()
        for candidate, loss, dice in zip(self.candidates, losses.tolist(), scores.tolist(), strict=True):
            if not self._stalled(candidate):
                candidate.look(loss, dice)

    def logits(self, maps: Maps) -> Tensor:
        """Of every candidate, [L, B, K, h, w]."""
        decoders = [candidate.decoder for candidate in self.candidates]
        named = [dict(decoder.named_parameters()) for decoder in decoders]
        stacked = {name: torch.stack([each[name] for each in named]) for name in named[0]}
        buffers = dict(decoders[0].named_buffers())

        def one(parameters: dict[str, Tensor]) -> Tensor:
            answer: Tensor = functional_call(decoders[0], (parameters, buffers), (maps,))
            return answer

        answers: Tensor = vmap(one)(stacked)
        return answers

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


def fit_dense(heads: Sequence[DenseHead], train: Examples, val: Examples, context: Context) -> list[Fit]:
    """Train every head at every learning rate of its grid in one pass over the maps; one Fit a head.

    AdamW on binary cross-entropy plus batch Dice; learning rate and epoch by the Dice of all val pixels
    together at its best threshold (ties: the earlier epoch, the smaller rate). The number of times maps are
    asked for does not depend on how many heads and rates there are. A head's result does not depend on its
    companions but for rounding.

    Raises:
        EvalfmError: no maps, no masks, no lesion in train or in val, or a kind that a head does not serve.
    """
    if not heads:
        return []
    trained = [head for head in heads if isinstance(head, TrainedDenseHead)]
    if len(trained) < len(heads) or len({head.schedule for head in trained}) > 1:
        raise EvalfmError("Heads fitted together must be trained dense heads of one schedule; fit them one by one.")
    for head in trained:
        check_kind(head, context)
    schedule = trained[0].schedule
    layout = MapLayout.of(train.source, len(context.class_names))
    train_target = read_targets(train, layout.grid, context.progress, "train")
    val_target = read_targets(val, layout.grid, context.progress, "val")
    _check_lesions(train_target, "train", context)
    _check_lesions(val_target, "val", context)
    generator = torch.Generator().manual_seed(context.seed)
    batches = _batches(train_target, schedule, generator)
    banks = [_Bank(head, layout, context) for head in trained]
    _prepare(banks, train, train_target, schedule, generator)
    plan = _Plan.of(schedule, len(train), len(val))
    total = plan.epochs * plan.steps
    step = 0
    for _ in context.progress.track(range(plan.epochs), "training dense heads", plan.epochs):
        going = [bank for bank in banks if not bank.finished]
        if not going:
            break
        for _ in range(plan.steps):
            positions = next(batches)
            maps = _fetch(train, positions, context.device)
            target = _as_fraction(train_target[positions], context.device)
            factor = _rate_factor(step, total, schedule.warm_up)
            for bank in going:
                bank.step(maps, target, factor)
            step += 1
        _look(going, val, val_target, schedule, context.device)
    return [_choose(bank, layout, context.device) for bank in banks]


def _check_lesions(target: Tensor, part: str, context: Context) -> None:
    if not bool(target.any()):
        names = ", ".join(context.class_names)
        raise EvalfmError(f"No image of {part} shows {names} within the encoder's view; enlarge {part}.")


def _shows_lesion(target: Tensor) -> Tensor:
    """Which films [N] have any lesion, bool (``any`` of bytes gives bytes, whose ``~`` is not a negation)."""
    return (target.flatten(1) > 0).any(dim=1)


def _batches(target: Tensor, schedule: Schedule, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions of train without end: each batch holds its share of images with a lesion and of the others.

    The share is that of train, at least ``positive_share``; each kind is dealt through all its images before
    any comes again.
    """
    positive = _shows_lesion(target)
    kinds = [torch.nonzero(positive)[:, 0], torch.nonzero(~positive)[:, 0]]
    size = min(schedule.batch_size, max(2, len(target)))
    share = max(schedule.positive_share, len(kinds[0]) / len(target))
    with_lesion = size if len(kinds[1]) == 0 else min(size - 1, max(1, round(size * share)))
    streams = [_deal(kind, generator) for kind in kinds]
    while True:
        wanted = (with_lesion, size - with_lesion)
        yield torch.tensor([next(stream) for stream, count in zip(streams, wanted, strict=True) for _ in range(count)])


def _deal(positions: Tensor, generator: torch.Generator) -> Iterator[int]:
    while len(positions):
        yield from positions[torch.randperm(len(positions), generator=generator)].tolist()


def _fetch(examples: Examples, positions: Tensor, device: torch.device) -> Maps:
    maps = examples.source.features(examples.rows[positions.numpy()].tolist(), maps=True).maps
    return tuple(level.to(device, torch.float32) for level in maps)


def _as_fraction(target: Tensor, device: torch.device) -> Tensor:
    return target.to(device, torch.float32) / 255


def _prepare(
    banks: Sequence[_Bank],
    train: Examples,
    target: Tensor,
    schedule: Schedule,
    generator: torch.Generator,
) -> None:
    """Give every decoder the statistics of the maps and the share of foreground its batches will show."""
    sample = torch.randperm(len(train), generator=generator)[: schedule.statistics_images]
    sums: list[tuple[Tensor, Tensor, int]] = []
    for part in torch.split(sample, schedule.batch_size):
        for index, level in enumerate(_fetch(train, part, torch.device("cpu"))):
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
    # A channel that never moves is left unscaled: its standardised value is then 0, not noise blown up.
    scales = [
        torch.where(scale > 1e-5 * mean.abs() + 1e-12, scale, 1.0) for scale, mean in zip(scales, means, strict=True)
    ]
    positive = _shows_lesion(target)
    share = max(schedule.positive_share, float(positive.float().mean()))
    fraction = target[positive].double().mean((0, 2, 3)) / 255 * share
    for candidate in (candidate for bank in banks for candidate in bank.candidates):
        candidate.decoder.standardise([mean.float() for mean in means], [scale.float() for scale in scales])
        candidate.decoder.start_at(fraction)


def _rate_factor(step: int, total: int, warm_up: float) -> float:
    """Rise linearly over ``warm_up`` of the steps, then fall as half a cosine."""
    rising = max(1, round(total * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


@torch.no_grad()
def _look(banks: Sequence[_Bank], val: Examples, target: Tensor, schedule: Schedule, device: torch.device) -> None:
    """Show every bank its pooled-pixel Dice on val, maps fetched once for all."""
    tallies = [PooledDice(len(bank.candidates), target.shape[1]) for bank in banks]
    for positions in torch.split(torch.arange(len(val)), schedule.batch_size):
        maps = _fetch(val, positions, device)
        truth = _as_fraction(target[positions], device)
        for bank, tally in zip(banks, tallies, strict=True):
            tally.add(bank.logits(maps), truth)
    for bank, tally in zip(banks, tallies, strict=True):
        bank.look(tally.score())


def _choose(bank: _Bank, layout: MapLayout, device: torch.device) -> Fit:
    """Give the head its best candidate on val and tell how it was chosen."""
    best = max(bank.candidates, key=lambda candidate: (candidate.best, -candidate.learning_rate))
    if not best.best_state:
        raise EvalfmError(
            f"The head {bank.head.name!r} diverged at every learning rate; lower the rates or check the maps for NaN."
        )
    best.decoder.load_state_dict(best.best_state)
    bank.head.keep(best.decoder, layout, device)
    rates = [candidate.learning_rate for candidate in bank.candidates]
    notes = []
    if len(rates) > 1 and best.learning_rate in (rates[0], rates[-1]):
        notes.append(f"The best learning rate, {best.learning_rate:.3g}, lies at the edge of the grid.")
    path: tuple[dict[str, float | int | str], ...] = tuple(
        {"learning_rate": each.learning_rate, "epoch": each.best_epoch, "val_dice": each.best}
        for each in bank.candidates
    )
    chosen: dict[str, float | int | str] = {"learning_rate": best.learning_rate, "epoch": best.best_epoch}
    return Fit(chosen, path, tuple(best.curve), tuple(notes))
