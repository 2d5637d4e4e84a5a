"""The main job: an encoder turns images into features, heads learn on them, every result is a run on disk."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalfm.data.manifest import Manifest
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef, find_alias
from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.trainable import TrainableHead
from evalfm.probing.base_to_novel import as_base_to_novel
from evalfm.probing.baselines import baseline_cells
from evalfm.probing.existing import Known
from evalfm.probing.head_group import Cell, FineTuneConfig, run_cell
from evalfm.probing.labelled import SplitAssignment, as_learnt, refuse_shared_images
from evalfm.probing.loading import load_question
from evalfm.probing.names import check_names
from evalfm.probing.session import open_session
from evalfm.probing.settings import EncoderSettings, Settings
from evalfm.probing.splits import make_splits
from evalfm.probing.texts import text_for
from evalfm.progress import SILENT, Progress
from evalfm.run import Run, remove_leftovers
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.metrics.binary import THRESHOLD_RULE
from evalfm.tasks.prompts import LABELS
from evalfm.training.tuning import check_trainable


@dataclass(frozen=True)
class Asked:
    """A question, and the question of the separate test data where there are any."""

    cohort: Cohort
    test: Cohort | None = None


class SomeFailedError(EvalfmError):
    """Of several encoders or tasks some could not be measured; what could is on disk.

    Attributes:
        runs: of those that did not fail, as ``probe`` returns them.
        failures: why the others did, a sentence each, by encoder and task in words.
        traces: the traceback, by the same words, of what is no user's mistake.
    """

    def __init__(self, runs: list[Run], failures: dict[str, str], traces: dict[str, str]) -> None:
        told = "".join(f"\n  {label}: {sentence}" for label, sentence in failures.items())
        kept = f"; {len(runs)} runs of the others are kept" if runs else ""
        super().__init__(f"{len(failures)} could not be measured{kept}:{told}")
        self.runs = runs
        self.failures = failures
        self.traces = traces


def probe(
    encoder: str | Encoder | Sequence[str | Encoder],
    task: str | Sequence[str],
    *,
    data: str | Path | Manifest | None = None,
    test_data: str | Path | Manifest | None = None,
    heads: Sequence[str] | None = None,
    weights: str | Path = "hub",
    input_size: int | None = None,
    resize: str | None = None,
    shots: int | None = None,
    val_shots: int | None = None,
    base_to_novel: bool = False,
    label_fraction: float | None = None,
    associate: str | None = None,
    folds: int | None = None,
    seeds: int = 1,
    where: str | None = None,
    test_where: str | None = None,
    limit: int | None = None,
    baselines: str = "default",
    threshold: str = THRESHOLD_RULE,
    prompts: str | Path | None = None,
    adaptation: str | None = None,
    recipe: Mapping[str, object] | None = None,
    device: str = "auto",
    precision: str = "auto",
    maps: str = "auto",
    batch_size: int | None = None,
    workers: int = 2,
    processes: int = 1,
    cache_images: bool = False,
    out: str | Path = "runs",
    force: bool = False,
    progress: Progress = SILENT,
    known: Known | None = None,
) -> list[Run]:
    """Measure how well heads on ``encoder``'s features answer ``task``.

    Args:
        encoder: a card's name or path, ``file.py:build``, ``precomputed:FILE``, a baseline, an ``Encoder``; or several.
        task: a task card's name or path, or a label column of the data; or several, each asked of every encoder.
        data: a data set's folder, registered name or manifest; None takes the phantom.
        test_data: another data set, tested whole in place of the test split.
        adaptation: what of the encoder is trained with each head: ``frozen`` (the default), ``lora``, ``full``, or
            ``scratch``: all of it from random weights.
        recipe: changes of the adaptation's ``Recipe``, such as ``{"epochs": 10}``.
        out: where runs go; a run that is there already is returned as it is, and said so, unless ``force``.
        known: what earlier calls of one study have met, so that nothing is made, or said to be there, twice.

    The other arguments are those of ``Settings`` and ``EncoderSettings``.

    Returns:
        The runs of the encoder, head by head and seed by seed, then those of the baselines; of several, task by task
        and encoder by encoder, each run once.

    Raises:
        SomeFailedError: of several encoders or tasks some failed; the others were measured.
        EvalfmError: anything the caller can mend, in one sentence.
    """
    encoders: list[str | Encoder] = [encoder] if isinstance(encoder, str | Encoder) else list(encoder)
    tasks = [task] if isinstance(task, str) else list(task)
    if not encoders or not tasks:
        raise EvalfmError("Name at least one encoder and one task.")
    if len(encoders) > 1 and str(weights) not in ("hub", "random"):
        raise EvalfmError("--weights PATH is of one encoder; name one with --encoder.")
    if len(tasks) > 1 and prompts is not None:
        raise EvalfmError("--prompts is of one task; name one with --task.")
    check_names(encoders, tasks, heads or (), [data, test_data], adaptation=adaptation, recipe=recipe, aliases=True)
    shared = {
        "data": None if data is None or isinstance(data, Manifest) else str(data),
        "test_data": None if test_data is None or isinstance(test_data, Manifest) else str(test_data),
        "shots": shots,
        "val_shots": val_shots,
        "base_to_novel": base_to_novel,
        "label_fraction": label_fraction,
        "associate": associate,
        "folds": folds,
        "seeds": seeds,
        "where": where,
        "test_where": test_where,
        "limit": limit,
        "baselines": baselines,
        "threshold": threshold,
        "prompts": None if prompts is None else str(prompts),
        "recipe": dict(recipe or {}),
    }
    machine = {
        "input_size": input_size,
        "device": device,
        "precision": precision,
        "maps": maps,
        "batch_size": batch_size,
        "workers": workers,
        "processes": processes,
        "cache_images": cache_images,
    }
    jobs = [
        _job(one, each, None if heads is None else tuple(heads), adaptation, str(weights), resize, shared, machine)
        for each in tasks
        for one in encoders
    ]
    remove_leftovers(Path(out))
    known = known or Known(force)
    runs: dict[Path, Run] = {}
    failures: dict[str, str] = {}
    traces: dict[str, str] = {}
    for job in jobs:
        try:
            runs |= {run.folder: run for run in _measure(job, data, test_data, Path(out), known, progress)}
        except Exception as error:
            if len(jobs) == 1:
                raise
            # Text alone is kept: an error holds its frames, and these the encoder.
            failures[job.label] = str(error)
            if not isinstance(error, EvalfmError):
                failures[job.label] = f"{type(error).__name__}: {error}"
                traces[job.label] = "".join(traceback.format_exception(error))
            progress.say(f"Failed: {job.label}: {failures[job.label]}")
    known.tell(progress)
    if failures:
        raise SomeFailedError(list(runs.values()), failures, traces)
    return list(runs.values())


@dataclass(frozen=True)
class _Job:
    """One encoder on one task."""

    encoder: str | Encoder
    settings: Settings
    encoder_settings: EncoderSettings

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.encoder_settings.name} × {self.settings.task}"


def _job(
    encoder: str | Encoder,
    task: str,
    heads: tuple[str, ...] | None,
    adaptation: str | None,
    weights: str,
    resize: str | None,
    shared: Mapping[str, object],
    machine: Mapping[str, object],
) -> _Job:
    """The settings of one encoder and task, with what an alias says of them.

    Raises:
        EvalfmError: they do not go together.
    """
    alias = find_alias(encoder)
    if alias is not None:
        encoder = alias.encoder
        adaptation, heads = alias.applied(adaptation, heads)
        resize = resize or alias.resize
    adaptation = adaptation or "frozen"
    settings = Settings.checked(task=task, heads=heads, adaptation=adaptation, **shared)
    encoder_settings = EncoderSettings.checked(
        name=EncoderRef.parse(encoder).label,
        weights=start_weights(weights, adaptation),
        resize=resize,
        **machine,
    )
    if settings.whole_recipe is None and encoder_settings.processes > 1:
        raise EvalfmError("A frozen encoder is not trained, so --processes would do nothing; leave it out.")
    return _Job(encoder, settings, encoder_settings)


def _measure(
    job: _Job,
    data: str | Path | Manifest | None,
    test_data: str | Path | Manifest | None,
    out: Path,
    known: Known,
    progress: Progress,
) -> list[Run]:
    """The runs of one encoder on one task, and of its baselines."""
    settings, encoder_settings = job.settings, job.encoder_settings
    asked = ask(settings, data, test_data, progress)
    cohort, test = asked.cohort, asked.test
    chosen_heads = _heads(settings, cohort)
    if settings.threshold != THRESHOLD_RULE and cohort.task.kind not in LABELS:
        raise EvalfmError(f"--threshold is for yes-or-no labels; {cohort.task.name} is {cohort.task.kind}.")
    loaded = [load_head(name, cohort.task.kind) for name in chosen_heads]
    posed = as_base_to_novel(cohort, loaded) if settings.base_to_novel else cohort
    assignments = [
        SplitAssignment.of(posed, test, make_splits(posed, settings, subset_seed=seed))
        for seed in range(settings.seeds)
    ]
    session = open_session(
        job.encoder,
        encoder_settings,
        cohort.manifest,
        None if test is None else test.manifest,
        progress,
        frozenset(cohort.task.target),
    )
    adapted = None
    if settings.adaptation != "frozen" and settings.whole_recipe is not None:
        adapted = FineTuneConfig(settings.adaptation, settings.whole_recipe, encoder_settings)
    text = text_for(loaded, session, cohort, settings.prompts)
    cells = [Cell(session, chosen_heads, adapted=adapted, text=text)]
    if not settings.base_to_novel:
        # There the constant answer is a metric of each run: no baseline can name a class that it has not seen.
        cells += baseline_cells(settings, encoder_settings, cohort, test, session, progress)
    return [run for cell in cells for run in run_cell(cell, assignments, settings, out, known=known, progress=progress)]


def _heads(settings: Settings, cohort: Cohort) -> tuple[str, ...]:
    """The heads asked for, or the task's own as far as the adaptation can train them.

    Raises:
        EvalfmError: a head is unknown, does not serve the kind of task, or cannot be trained with the encoder.
    """
    asked = settings.heads or cohort.task.heads
    loaded = {name: load_head(name, cohort.task.kind) for name in asked}
    if settings.adaptation == "frozen":
        return asked
    if settings.heads is None:
        return tuple(name for name, head in loaded.items() if isinstance(head, TrainableHead))
    for head in loaded.values():
        check_trainable(head, settings.adaptation)
    return asked


def start_weights(weights: str, adaptation: str) -> str:
    """The weights that an adaptation starts from.

    Raises:
        EvalfmError: a training from scratch was given weights.
    """
    if adaptation != "scratch":
        return weights
    if weights not in ("hub", "random"):
        raise EvalfmError(
            "--adaptation scratch starts from random weights; leave --weights out, or take --adaptation full."
        )
    return "random"


def ask(
    settings: Settings,
    data: str | Path | Manifest | None = None,
    test_data: str | Path | Manifest | None = None,
    progress: Progress = SILENT,
) -> Asked:
    """Read the data and pose the task to them, before anything is computed."""
    cohort = load_question(settings, data if data is not None else settings.data, progress)
    outside = test_data if test_data is not None else settings.test_data
    if outside is None:
        return Asked(cohort)
    test = load_question(settings, outside, progress)
    refuse_shared_images(cohort, test)
    return Asked(cohort, as_learnt(cohort, test))
