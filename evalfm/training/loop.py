"""The training of an encoder with a head: epochs of steps, each epoch with a look at val and a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from evalfm.encoders.adaptation.layers import parameter_groups
from evalfm.encoders.adaptation.lora import set_training
from evalfm.errors import EvalfmError
from evalfm.heads.trained import Schedule
from evalfm.heads.training import deal_batches, rate_factor
from evalfm.training.augmentation import Augment, Augmentation, augmenter
from evalfm.training.average import MovingAverage
from evalfm.training.checkpoint import Line, State, forget_best, read_state, write_best, write_state
from evalfm.training.films import Batch, FilmReader
from evalfm.training.job import Job, Together, trained_tensors
from evalfm.training.team import Team
from evalfm.training.tensorboard import BOARD, Board


def train(job: Job, team: Team, micro_batch: int, say: Callable[[str], None]) -> None:
    """Train to the end, from the last checkpoint in the job's folder if there is one; the result is the checkpoint.

    Raises:
        EvalfmError: the loss is not finite, or films cannot be read.
        torch.OutOfMemoryError: a step does not fit; the caller starts again from the checkpoint with less.
    """
    with torch.random.fork_rng(devices=_cuda(team)), ExitStack() as stack:
        _Training(job, team, micro_batch, say, stack).run()


class _Training:
    """The moving parts of one training."""

    def __init__(self, job: Job, team: Team, micro_batch: int, say: Callable[[str], None], stack: ExitStack) -> None:
        self.job, self.team, self.micro_batch, self.say = job, team, micro_batch, say
        recipe = job.recipe
        model = Together(job.encoder, job.module)
        groups = parameter_groups(job.encoder, recipe.learning_rate, recipe.weight_decay, recipe.layer_decay)
        groups += _readout_groups(job)
        for group in groups:
            group["initial_lr"] = group["lr"]
        optimiser = torch.optim.AdamW(groups)
        self.bare = model
        self.model, self.optimiser = team.prepare(model, optimiser)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.tensors = trained_tensors(model, job.adaptation)
        self.average = MovingAverage(self.tensors, recipe.ema)
        self.board = stack.enter_context(Board(job.folder / BOARD if team.leads else None))
        self._read_truth(stack)
        self.plan = _Plan.of(job, team)
        self.state = State(0, {}, {}, 0, {}, {}, -math.inf, 0)

    def run(self) -> None:
        """From where the last checkpoint stands to the end."""
        found = read_state(self.job.folder)
        if found is None:
            self._look(math.nan)
            self._save()
        else:
            self._restore(found)
        while not self.state.done:
            loss = self._epoch()
            self.state.epoch += 1
            self._look(loss)
            stale = self.state.epoch - self.state.best_epoch >= self.job.recipe.patience
            self.state.done = stale or self.state.epoch >= self.plan.epochs
            self._save()

    def _read_truth(self, stack: ExitStack) -> None:
        job = self.job
        masks = job.layout.grid is not None
        train = job.objective.read(job.train, job.layout.grid, job.context.progress, "train")
        val = job.objective.read(job.val, job.layout.grid, job.context.progress, "val")
        job.objective.check(train, "train")
        job.objective.check(val, "val")
        self.positive = job.objective.positive(train)

        def reader(examples: object, target: Tensor | None) -> FilmReader:
            return stack.enter_context(
                FilmReader(
                    examples,  # type: ignore[arg-type]
                    job.encoder.preparer,
                    job.load,
                    target=target,
                    grid=job.layout.grid,
                    workers=job.workers,
                    pin=self.team.device.type == "cuda",
                )
            )

        # An augmented film has other masks than the film itself, but the same label.
        self.train_films = reader(job.train, None if masks and job.recipe.augment else train)
        self.val_films = reader(job.val, val)

    def _epoch(self) -> float:
        """One pass of steps; the mean loss."""
        job, team, epoch = self.job, self.team, self.state.epoch
        # All that is drawn in an epoch follows from its number, so that a resumed one draws the same.
        torch.manual_seed(_mixed(job.context.seed, epoch, team.rank))
        generator = torch.Generator().manual_seed(_mixed(job.context.seed, epoch, -1))
        dealt = deal_batches(self.positive, len(job.train), self.plan.schedule(job), generator)
        whole = [positions.tolist() for positions in islice(dealt, self.plan.steps)]
        held = job.adaptation == "lora" or job.recipe.batch_norm == "held"
        set_training(job.encoder, "lora" if held else job.adaptation)
        job.module.train()
        losses = []
        mine = self.train_films.batches([team.share(positions) for positions in whole], self._augment(epoch))
        shown = job.context.progress.track(zip(whole, mine, strict=True), f"epoch {epoch + 1}", self.plan.steps)
        for step, (positions, batch) in enumerate(shown):
            factor = rate_factor(epoch * self.plan.steps + step, self.plan.total, job.recipe.warm_up)
            for group in self.optimiser.param_groups:
                group["lr"] = group["initial_lr"] * factor
            losses.append(self._step(batch, positions))
        return sum(losses) / len(losses)

    def _step(self, batch: Batch, whole: Sequence[int]) -> float:
        """One optimiser step over all micro-batches and processes; its loss."""
        self.optimiser.zero_grad()
        micro = list(torch.split(torch.arange(len(batch.positions)), self.micro_batch))
        summed = torch.zeros((), device=self.team.device)
        for number, part in enumerate(micro):
            films = batch.films[part].to(self.team.device, non_blocking=True)
            target = batch.target[part].to(self.team.device, non_blocking=True)
            with self.team.gathering(self.model, number == len(micro) - 1):
                answers = self.model(films).float()[None]
                loss = self.job.objective.loss(answers, target, self.team.total)[0] * (len(part) / len(batch.positions))
                self.team.backward(loss)
            summed += loss.detach()
        with torch.no_grad():
            value = float(self.team.total(summed)) / self.team.size
        if not math.isfinite(value):
            raise EvalfmError(self._broken("the loss", whole))
        norm = self.team.clip(self.parameters, self.job.recipe.clip)
        self.optimiser.step()
        if self.team.step_was_skipped:
            return value
        if not math.isfinite(norm):
            raise EvalfmError(self._broken("the gradient", whole))
        self.average.update()
        return value

    def _broken(self, what: str, whole: Sequence[int]) -> str:
        names = ", ".join(self.job.names[int(self.job.train.rows[position])] for position in whole)
        return (
            f"Training stopped in epoch {self.state.epoch + 1}: {what} is not finite in the batch of {names}; check "
            "these films, or lower the rate (--recipe learning_rate=…) or take --precision float32."
        )

    @torch.no_grad()
    def _look(self, loss: float) -> None:
        """Score val with the averaged weights; keep them if they are the best so far."""
        job, state = self.job, self.state
        job.encoder.eval()
        job.module.eval()
        tally = job.objective.tally(1)
        positions = self.team.share(range(len(job.val)))
        size = self.micro_batch
        dealt = [positions[start : start + size] for start in range(0, len(positions), size)]
        with self.average.shown():
            for batch in self.val_films.batches(dealt):
                answers = self.bare(batch.films.to(self.team.device)).float()[None]
                tally.add(answers, batch.target.to(self.team.device))
            tally.merge(self.team.total, self.team.device)
            score = float(tally.score()[0])
            better = job.objective.better(score)
            if better > state.best:
                state.best, state.best_epoch = better, state.epoch
                if self.team.leads:
                    tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.tensors.items()}
                    write_best(job.folder, state.epoch, tensors)
        line: Line = {"epoch": state.epoch, "train_loss": loss, job.objective.score_name: score}
        state.curve.append(line)
        self.board.add(line, self.optimiser.param_groups[-1]["lr"])
        told = "start" if state.epoch == 0 else f"epoch {state.epoch} of {self.plan.epochs}, train loss {loss:.4f}"
        best = "" if state.best_epoch == state.epoch else f" (best {job.objective.better(state.best):.4f})"
        if self.team.leads:
            self.say(f"{job.adaptation}: {told}, {job.objective.score_name} {score:.4f}{best}")

    def _save(self) -> None:
        state = self.state
        state.tensors = {name: tensor.detach().cpu() for name, tensor in self.tensors.items()}
        state.average = {name: tensor.detach().cpu() for name, tensor in self.average.tensors.items()}
        state.steps, state.optimiser = self.average.steps, self.optimiser.state_dict()
        state.scaler = self.team.scaler_state()
        if self.team.leads:
            write_state(self.job.folder, state)
            forget_best(self.job.folder, state.best_epoch)
        self.team.wait()

    @torch.no_grad()
    def _restore(self, state: State) -> None:
        for name, value in state.tensors.items():
            self.tensors[name].copy_(value)
        for name, value in state.average.items():
            self.average.tensors[name].copy_(value)
        self.average.steps = state.steps
        self.optimiser.load_state_dict(state.optimiser)
        self.team.load_scaler(state.scaler)
        self.state = state
        if self.team.leads and not state.done:
            self.say(f"{self.job.adaptation}: going on after epoch {state.epoch}")

    def _augment(self, epoch: int) -> Callable[[int], Augment | None]:
        job, recipe = self.job, self.job.recipe
        if not recipe.augment:
            return lambda position: None
        bounds = Augmentation(
            rotation_degrees=recipe.rotation_degrees,
            scale=(1 - recipe.scale, 1 + recipe.scale),
            translation=recipe.translation,
            brightness=recipe.brightness,
            contrast=recipe.contrast,
            flip=recipe.flip,
        )
        facts = job.encoder.preparer.facts
        grey = facts.bounded

        def change(position: int) -> Augment | None:
            row = int(job.train.rows[position])
            return augmenter(bounds, job.context.seed, epoch, row, is_unit_interval=grey, pad_value=facts.pad_value)

        return change


@dataclass(frozen=True)
class _Plan:
    """How many epochs of how many steps, of how many images each."""

    epochs: int
    steps: int
    batch_size: int

    @classmethod
    def of(cls, job: Job, team: Team) -> _Plan:
        """Every process takes the same number of images of a batch.

        Raises:
            EvalfmError: the batch cannot be shared evenly.
        """
        recipe, images = job.recipe, len(job.train)
        if recipe.batch_size % team.size:
            raise EvalfmError(
                f"A batch of {recipe.batch_size} cannot be shared by {team.size} processes; "
                f"say --recipe batch_size={team.size * math.ceil(recipe.batch_size / team.size)}."
            )
        size = min(recipe.batch_size, max(team.size, images // team.size * team.size))
        steps = max(math.ceil(images / size), math.ceil(recipe.least_steps / recipe.epochs))
        return cls(recipe.epochs, steps, size)

    @property
    def total(self) -> int:
        """Steps of all epochs."""
        return self.epochs * self.steps

    def schedule(self, job: Job) -> Schedule:
        """As ``deal_batches`` reads it."""
        return Schedule(batch_size=self.batch_size, positive_share=job.recipe.positive_share)


def _readout_groups(job: Job) -> list[dict[str, object]]:
    """The head's parameters: weight decay on matrices only."""
    named = list(job.module.parameters())
    rate = job.recipe.head_learning_rate
    decayed = [parameter for parameter in named if parameter.ndim > 1]
    others = [parameter for parameter in named if parameter.ndim <= 1]
    groups: list[dict[str, object]] = [
        {"params": decayed, "lr": rate, "weight_decay": job.recipe.weight_decay},
        {"params": others, "lr": rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _mixed(seed: int, epoch: int, rank: int) -> int:
    return ((seed * 1_000_003 + epoch) * 4_099 + rank + 1) % 2**63


def _cuda(team: Team) -> Iterator[int] | list[int]:
    return [team.device.index or 0] if team.device.type == "cuda" else []
