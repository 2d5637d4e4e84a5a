"""The training of an encoder with a head: epochs of steps, each followed by a validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from evalfm.encoders.adaptation.layers import parameter_groups
from evalfm.encoders.adaptation.lora import set_training
from evalfm.errors import EvalfmError
from evalfm.features.readers import ImageReader
from evalfm.heads.trained import Schedule
from evalfm.heads.training import draw_batches, rate_factor
from evalfm.training.augmentation import Augmentation, Augmenter
from evalfm.training.average import MovingAverage
from evalfm.training.checkpoint import CheckpointWriter, CurveLine, TrainingState, in_memory, read_state
from evalfm.training.distributed import Distributed
from evalfm.training.job import EncoderWithHead, ImageBatches, TrainingBatch, TrainingJob, trained_tensors
from evalfm.training.masks import InputMasks
from evalfm.training.recipe import EpochPlan
from evalfm.training.tensorboard import BOARD, Board


def train(job: TrainingJob, processes: Distributed, micro_batch: int, say: Callable[[str], None]) -> TrainingState:
    """Train to the end, from the last checkpoint in the job's folder if there is one; the state at the end.

    The best tensors of the state are on the CPU; the other tensors are the model's own. Of several processes the main
    one has the best tensors, and leaves them in the folder too.

    Raises:
        EvalfmError: the loss is not finite, or images cannot be read.
        torch.OutOfMemoryError: a step does not fit; the caller starts again from the checkpoint with less.
    """
    devices = [processes.device.index or 0] if processes.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), ExitStack() as stack:
        return _Training(job, processes, micro_batch, say, stack).run()


class _Training:
    """The moving parts of one training."""

    def __init__(
        self, job: TrainingJob, processes: Distributed, micro_batch: int, say: Callable[[str], None], stack: ExitStack
    ) -> None:
        self.job, self.processes, self.micro_batch, self.say = job, processes, micro_batch, say
        recipe = job.recipe
        model = EncoderWithHead(job.encoder, job.module)
        groups = parameter_groups(job.encoder, recipe.learning_rate, recipe.weight_decay, recipe.layer_decay)
        groups += _head_groups(job)
        for group in groups:
            group["initial_lr"] = group["lr"]
        optimiser = torch.optim.AdamW(groups)
        self.bare = model
        self.model, self.optimiser = processes.prepare(model, optimiser)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.tensors = trained_tensors(model, job.adaptation)
        self.average = MovingAverage(self.tensors, recipe.ema)
        self.board = stack.enter_context(Board(job.folder / BOARD if processes.is_main else None))
        self.train, self.val = self._open(stack)
        self.plan = EpochPlan.of(recipe, len(job.train), processes.size)
        self.state = TrainingState()
        self.checkpoints = stack.enter_context(CheckpointWriter(job.folder))

    def run(self) -> TrainingState:
        """From where the last checkpoint stands to the end."""
        last = read_state(self.job.folder)
        if last is not None and last.done:
            return last
        if last is None:
            self._validate(math.nan)
        else:
            self._restore(last)
        while not self.state.done:
            loss = self._epoch()
            self.state.epoch += 1
            self._validate(loss)
            stale = self.state.epoch - self.state.best_epoch >= self.job.recipe.patience
            self.state.done = stale or self.state.epoch >= self.plan.epochs
            if self.processes.is_main and not self.state.done:
                self.checkpoints.offer(self._copy)
        if self.processes.is_main:
            # Several processes leave the result to the one that started them.
            self.checkpoints.finish(self._result(), always=self.processes.size > 1)
        self.processes.wait()
        self.state.tensors = dict(self.tensors)
        return self.state

    def _open(self, stack: ExitStack) -> tuple[ImageBatches, ImageBatches]:
        """Train and val, whose images are decoded once and kept as far as memory goes."""
        job, facts, device = self.job, self.job.encoder.preparer.facts, self.processes.device
        grid, progress = job.layout.grid, job.context.progress
        augmenter = _augmenter(job)
        masks = None
        if grid is not None and augmenter is not None and augmenter.augmentation.moves:
            # A moved image has other masks than the image itself, but the same label.
            masks = stack.enter_context(InputMasks(job.train, facts.input_size))
        train = job.objective.read(job.train if masks is None else masks.examples, grid, progress, "train")
        val = job.objective.read(job.val, grid, progress, "val")
        job.objective.check(train, "train")
        job.objective.check(val, "val")
        self.positive = job.objective.positive(train)
        reader = stack.enter_context(
            ImageReader(
                job.encoder.preparer,
                job.manifest,
                workers=job.workers,
                pin=device.type == "cuda",
                keep=True,
                progress=progress,
            )
        )
        return (
            ImageBatches(job.train, reader, facts, train, device, augmenter, masks, grid),
            ImageBatches(job.val, reader, facts, val, device),
        )

    def _epoch(self) -> float:
        """One pass of steps; the mean loss.

        Raises:
            EvalfmError: a loss or gradient is not finite; the model is not to be used.
        """
        job, processes, epoch = self.job, self.processes, self.state.epoch
        # All that is drawn in an epoch follows from its number, so that a resumed one draws the same.
        torch.manual_seed(_mixed(job.context.seed, epoch, processes.rank))
        generator = torch.Generator().manual_seed(_mixed(job.context.seed, epoch, -1))
        schedule = Schedule(batch_size=self.plan.batch_size, positive_share=job.recipe.positive_share)
        drawn = draw_batches(self.positive, len(job.train), schedule, generator)
        batches = [positions.tolist() for positions in islice(drawn, self.plan.steps)]
        held = job.adaptation == "lora" or job.recipe.batch_norm == "held"
        set_training(job.encoder, "lora" if held else job.adaptation)
        job.module.train()
        log = StepLog(lambda losses: processes.total(losses) / processes.size)
        mine = self.train.read([processes.share(positions) for positions in batches], epoch)
        shown = job.context.progress.track(zip(batches, mine, strict=True), f"epoch {epoch + 1}", self.plan.steps)
        try:
            for step, (positions, batch) in enumerate(shown):
                factor = rate_factor(epoch * self.plan.steps + step, self.plan.total, job.recipe.warm_up)
                for group in self.optimiser.param_groups:
                    group["lr"] = group["initial_lr"] * factor
                log.add(*self._step(batch), positions)
            log.check()
        except NotFiniteError as error:
            ids = job.manifest.table["id"]
            names = ", ".join(str(ids.iloc[int(job.train.rows[position])]) for position in error.batch)
            raise EvalfmError(
                f"Training stopped in epoch {epoch + 1}: {error.what} is not finite in the batch of {names}; check "
                "these images, or lower the rate (--recipe learning_rate=…) or take --precision float32."
            ) from None
        return sum(log.losses) / len(log.losses)

    def _step(self, batch: TrainingBatch) -> tuple[Tensor, Tensor | None]:
        """One optimiser step over all micro-batches and processes: this process's loss, and the gradient's norm.

        Both stay on the device. Where loss scaling left the step out, there is no norm.
        """
        self.optimiser.zero_grad()
        summed = torch.zeros((), device=self.processes.device)
        count = 0
        for images, target in batch.micro_batches(self.micro_batch):
            count += len(images)
            with self.processes.gathering(self.model, count == len(batch)):
                logits = self.model(images).float()[None]
                loss = self.job.objective.loss(logits, target, self.processes.total)[0] * (len(images) / len(batch))
                self.processes.backward(loss)
            summed += loss.detach()
        norm = self.processes.clip(self.parameters, self.job.recipe.clip)
        self.optimiser.step()
        if self.processes.step_was_skipped:
            return summed, None
        self.average.update()
        return summed, norm

    @torch.no_grad()
    def _validate(self, loss: float) -> None:
        """Score val with the averaged weights; keep them if they are the best so far."""
        job, state = self.job, self.state
        job.encoder.eval()
        job.module.eval()
        tally = job.objective.tally(1)
        positions = self.processes.share(range(len(job.val)))
        size = self.micro_batch
        parts = [positions[start : start + size] for start in range(0, len(positions), size)]
        with self.average.shown():
            for batch in self.val.read(parts):
                for images, target in batch.micro_batches(size):
                    tally.add(self.bare(images).float()[None], target)
            tally.merge(self.processes.total, self.processes.device)
            score = float(tally.score()[0])
            better = job.objective.better(score)
            if better > state.best:
                state.best, state.best_epoch = better, state.epoch
                if self.processes.is_main:
                    state.best_tensors = in_memory(self.tensors)
        line: CurveLine = {"epoch": state.epoch, "train_loss": loss, job.objective.score_name: score}
        state.curve.append(line)
        self.board.add(line, self.optimiser.param_groups[-1]["lr"])
        place = "start" if state.epoch == 0 else f"epoch {state.epoch} of {self.plan.epochs}, train loss {loss:.4f}"
        best = "" if state.best_epoch == state.epoch else f" (best {job.objective.better(state.best):.4f})"
        if self.processes.is_main:
            self.say(f"{job.adaptation}: {place}, {job.objective.score_name} {score:.4f}{best}")

    def _copy(self) -> TrainingState:
        """The state as it is now, which the training does not change any more."""
        state = self.state
        # What was scored is in memory already if it was the best.
        scored = state.best_tensors if state.best_epoch == state.epoch else None
        average = self.average.tensors
        return TrainingState(
            epoch=state.epoch,
            tensors=scored if scored is not None and not average else in_memory(self.tensors),
            average=scored if scored is not None and average else in_memory(average),
            steps=self.average.steps,
            optimiser=in_memory(self.optimiser.state_dict()),
            scaler=in_memory(self.processes.scaler_state()),
            best=state.best,
            best_epoch=state.best_epoch,
            best_tensors=state.best_tensors,
            curve=list(state.curve),
        )

    def _result(self) -> TrainingState:
        """What the file of a finished training holds."""
        state = self.state
        return TrainingState(
            epoch=state.epoch,
            best=state.best,
            best_epoch=state.best_epoch,
            best_tensors=state.best_tensors,
            curve=state.curve,
            done=True,
        )

    @torch.no_grad()
    def _restore(self, state: TrainingState) -> None:
        self.state = state
        for name, value in state.tensors.items():
            self.tensors[name].copy_(value)
        for name, value in state.average.items():
            self.average.tensors[name].copy_(value)
        self.average.steps = state.steps
        self.optimiser.load_state_dict(state.optimiser)
        self.processes.load_scaler(state.scaler)
        # Held by the optimiser and the model by now.
        state.tensors, state.average, state.optimiser = {}, {}, {}
        if self.processes.is_main:
            self.say(f"{self.job.adaptation}: going on after epoch {state.epoch}")


def _augmenter(job: TrainingJob) -> Augmenter | None:
    """How the recipe changes images; None where it leaves them as they are."""
    recipe, facts = job.recipe, job.encoder.preparer.facts
    if not recipe.augment:
        return None
    bounds = Augmentation(
        rotation_degrees=recipe.rotation_degrees,
        scale=(1 - recipe.scale, 1 + recipe.scale),
        translation=recipe.translation,
        brightness=recipe.brightness,
        contrast=recipe.contrast,
        flip=recipe.flip,
    )
    return Augmenter(bounds, job.context.seed, facts.bounded, facts.pad_value)


def _head_groups(job: TrainingJob) -> list[dict[str, object]]:
    """The head's parameters: weight decay on matrices only."""
    parameters = list(job.module.parameters())
    rate = job.recipe.head_learning_rate
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups: list[dict[str, object]] = [
        {"params": decayed, "lr": rate, "weight_decay": job.recipe.weight_decay},
        {"params": others, "lr": rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _mixed(seed: int, epoch: int, rank: int) -> int:
    return ((seed * 1_000_003 + epoch) * 4_099 + rank + 1) % 2**63


CHECK_STEPS = 50
"""So many steps are looked at together: one wait for the device."""


class NotFiniteError(Exception):
    """A loss or gradient of a step is not finite.

    Attributes:
        what: ``the loss`` or ``the gradient``.
        batch: the examples of the first such step.
    """

    def __init__(self, what: str, batch: Sequence[int]) -> None:
        super().__init__(f"{what} is not finite")
        self.what, self.batch = what, batch


@dataclass
class StepLog:
    """Losses and gradient norms of one epoch.

    Attributes:
        mean: of a loss [n] over the processes.
        losses: those that were looked at, in order.

    >>> log = StepLog()
    >>> log.add(torch.tensor(0.5), torch.tensor(1.0), [3, 4])
    >>> log.check()
    >>> log.losses
    [0.5]
    """

    mean: Callable[[Tensor], Tensor] = lambda losses: losses
    losses: list[float] = field(default_factory=list)
    _waiting: list[tuple[Tensor, Tensor | None, Sequence[int]]] = field(default_factory=list)

    def add(self, loss: Tensor, norm: Tensor | None, batch: Sequence[int]) -> None:
        """Note a step: its 0-dimensional loss and gradient norm (None: the step was left out), and its examples.

        Raises:
            NotFiniteError: as ``check``, after every ``CHECK_STEPS`` steps.
        """
        self._waiting.append((loss, norm, batch))
        if len(self._waiting) >= CHECK_STEPS:
            self.check()

    def check(self) -> None:
        """Look at all steps since the last look.

        Raises:
            NotFiniteError: a loss or gradient was not finite; nothing that the model became may be kept.
        """
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        losses = self.mean(torch.stack([loss for loss, _, _ in waiting]))
        norms = torch.stack([torch.zeros_like(loss) if norm is None else norm for loss, norm, _ in waiting])
        for (_, _, batch), loss, norm in zip(waiting, *torch.stack([losses, norms]).tolist(), strict=True):
            for what, value in (("the loss", loss), ("the gradient", norm)):
                if not math.isfinite(value):
                    raise NotFiniteError(what, batch)
            self.losses.append(loss)
