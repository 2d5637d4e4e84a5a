"""Fine-tuning of an encoder with a head: where it starts, the training, and the best validation checkpoint."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.data.manifest import Manifest
from evalfm.encoders.adaptation.drop_path import set_drop_path
from evalfm.encoders.adaptation.lora import add_lora, lora_state
from evalfm.encoders.encoder import Encoder, Precision
from evalfm.errors import EvalfmError
from evalfm.features.source import FeatureSource
from evalfm.heads.head import Context, Examples, Fit, Head
from evalfm.heads.module import HeadModule, Layout
from evalfm.heads.objectives import Objective
from evalfm.heads.trained import Schedule, TrainableHead
from evalfm.heads.training import read_statistics
from evalfm.training.checkpoint import TrainingState
from evalfm.training.job import EncoderWithHead, TrainingJob, trained_tensors
from evalfm.training.launch import run_job, sendable
from evalfm.training.recipe import Recipe, Trained


@dataclass(frozen=True)
class FineTuned:
    """An encoder and a head after their training.

    Attributes:
        encoder: the trained one, in evaluation mode.
        tensors: what of it was trained, for encoder.safetensors.
        fit: what was chosen on val, and the learning curve.
    """

    encoder: Encoder
    tensors: dict[str, Tensor]
    fit: Fit


@dataclass(frozen=True)
class FineTuneConfig:
    """How an encoder is trained with a head: all that decides the result beside data and seed."""

    adaptation: Trained
    recipe: Recipe


@dataclass(frozen=True)
class TrainingData:
    """What is trained on and chosen by.

    Attributes:
        train, val: examples whose source gives the features of the encoder that is to be trained.
        manifest: of their rows.
        source_of: makes a feature source of a trained encoder, for what the head still chooses on val.
    """

    train: Examples
    val: Examples
    manifest: Manifest
    source_of: Callable[[Encoder], FeatureSource]


@dataclass(frozen=True)
class TrainingEnvironment:
    """With what a training runs, which does not decide its result.

    Attributes:
        folder: where checkpoints lie; the same for the same result, and kept when the process dies.
        precision: in which the encoder runs.
        workers: processes that decode images; by default one per core.
        processes: how many train together.
    """

    folder: Path
    device: torch.device
    precision: Precision
    workers: int | None = None
    processes: int = 1


def check_trainable(head: Head, adaptation: str) -> None:
    """Refuse a head that cannot be trained with its encoder.

    Raises:
        EvalfmError: it cannot.
    """
    if not isinstance(head, TrainableHead):
        raise EvalfmError(
            f"The head {head.name!r} is not trained by gradient, so --adaptation {adaptation} cannot train it; "
            "take linear or another trained head (`evalfm ls heads`)."
        )


def tune(
    encoder: Encoder,
    head: Head,
    data: TrainingData,
    context: Context,
    config: FineTuneConfig,
    environment: TrainingEnvironment,
) -> FineTuned:
    """Train a copy of ``encoder`` with ``head``; the head predicts by the result from now on.

    Args:
        encoder: with the weights to start from; it is left as it is.
        head: one that is trained by gradient.
        data: examples of train and val.
        context: of the head, with the seed, and the progress that is shown.
        config: adaptation and recipe.
        environment: device, processes and the folder of the checkpoints.

    Raises:
        EvalfmError: the head cannot be trained so, or the training stops.
    """
    adaptation, recipe, progress = config.adaptation, config.recipe, context.progress
    check_trainable(head, adaptation)
    assert isinstance(head, TrainableHead)
    train, val = head.usable(data.train), head.usable(data.val)
    chosen: dict[str, float | int | str] = {}
    if recipe.probe_start:
        probed = head.fit(train, val, context)
        chosen |= {f"probe_{name}": value for name, value in probed.chosen.items()}
    objective = head.objective(train, context)
    objective.smooth(recipe.label_smoothing)
    layout = head.layout(train.source, context)
    module = _start(head, layout, objective, train, context, recipe)
    adapted = copy.deepcopy(encoder)
    adapted.state = replace(adapted.state, precision=environment.precision)
    cautions = _adapt(adapted, adaptation, recipe, context.seed)
    job = TrainingJob(
        encoder=adapted,
        module=module.to(environment.device),
        layout=layout,
        objective=objective,
        adaptation=adaptation,
        recipe=recipe,
        train=train,
        val=val,
        context=context,
        manifest=data.manifest,
        folder=environment.folder,
        workers=environment.workers,
        processes=environment.processes,
    )
    if environment.processes > 1:
        job = sendable(job)
    state, more = run_job(job, environment.device, environment.precision, progress)
    cautions += more
    _take_best(job, state)
    adapted.eval()
    adapted.seal()
    head.set_module(module, layout, objective, environment.device)
    source = data.source_of(adapted)
    seen = [replace(examples, source=source) for examples in (train, val)]
    cautions += head.after_training(seen[0], seen[1], context)
    trained = lora_state(adapted) if adaptation == "lora" else adapted.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in trained.items()}
    return FineTuned(
        adapted, tensors, Fit({**chosen, "epoch": state.best_epoch}, (), tuple(state.curve), tuple(cautions))
    )


def forget(folder: Path) -> None:
    """Remove the checkpoints of a training whose run is published."""
    shutil.rmtree(folder, ignore_errors=True)


def _start(
    head: TrainableHead, layout: Layout, objective: Objective, train: Examples, context: Context, recipe: Recipe
) -> HeadModule:
    """Where the head starts: as fitted on frozen features, or fresh."""
    if recipe.probe_start:
        generator = torch.Generator().manual_seed(context.seed)
        statistics = read_statistics(train, Schedule(), generator, maps=head.reads_maps)
        return copy.deepcopy(head.fitted(statistics, objective)).float()
    module = head.new_module(layout, torch.Generator().manual_seed(context.seed))
    target = objective.read(train, layout.grid, context.progress, "train")
    objective.check(target, "train")
    module.init_bias(objective.start(target, recipe.positive_share))
    return module


def _adapt(encoder: Encoder, adaptation: Trained, recipe: Recipe, seed: int) -> list[Caution]:
    """Make what shall be trained trainable; cautions that the run must repeat."""
    cautions: list[Caution] = []
    encoder.requires_grad_(True)
    if adaptation == "lora":
        cautions += add_lora(encoder, recipe.rank, recipe.alpha, seed).cautions
    elif not any(True for _ in encoder.parameters()):
        raise EvalfmError(f"{encoder.card.name} has no weights, so there is nothing to train; take another encoder.")
    # With 0 too, which switches off what a library puts in of itself.
    set_drop_path(encoder, recipe.drop_path)
    return cautions


@torch.no_grad()
def _take_best(job: TrainingJob, state: TrainingState) -> None:
    """Put the best validation checkpoint into the model."""
    live = trained_tensors(EncoderWithHead(job.encoder, job.module), job.adaptation)
    for name, value in state.best_tensors.items():
        live[name].copy_(value)
