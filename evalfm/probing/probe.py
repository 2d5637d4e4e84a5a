"""The main job: an encoder turns images into features, heads learn on them, every result is a run on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalfm.data.manifest import Manifest
from evalfm.encoders.aliases import find_alias
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.tunable import Tunable
from evalfm.probing.base_to_novel import as_base_to_novel
from evalfm.probing.cells import Adapted, Cell, run_cell
from evalfm.probing.floors import floor_cells
from evalfm.probing.loading import load_question
from evalfm.probing.opened import check_name, open_encoder
from evalfm.probing.parts import parts
from evalfm.probing.settings import EncoderSettings, Settings
from evalfm.probing.sides import Deal, as_learnt, refuse_shared_images
from evalfm.probing.texts import text_for
from evalfm.progress import SILENT, Progress
from evalfm.runs import Run, remove_leftovers
from evalfm.tasks.metrics.binary import THRESHOLD_RULE
from evalfm.tasks.prompts import LABELS
from evalfm.tasks.question import Question
from evalfm.training.tuning import check_tunable


@dataclass(frozen=True)
class Asked:
    """A question, and the question of the separate test data where there are any."""

    question: Question
    test: Question | None = None


def probe(
    encoder: str | Encoder,
    task: str,
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
    floors: str = "default",
    threshold: str = THRESHOLD_RULE,
    prompts: str | Path | None = None,
    adapt: str | None = None,
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
) -> list[Run]:
    """Measure how well heads on ``encoder``'s features answer ``task``.

    Args:
        encoder: a card's name or path, ``file.py:build``, ``precomputed:FILE``, a floor, or an ``Encoder``.
        task: a task card's name or path, or a label column of the data.
        data: a data set's folder, registered name or manifest; None takes the phantom.
        test_data: another data set, tested whole in place of the test split.
        adapt: what of the encoder is trained with each head: ``frozen`` (the default), ``lora``, ``full``, or
            ``scratch``: all of it from random weights.
        recipe: changes of the adaptation's ``Recipe``, such as ``{"epochs": 10}``.
        out: where runs go; a run that is there already is returned as it is unless ``force``.

    The other arguments are those of ``Settings`` and ``EncoderSettings``.

    Returns:
        The runs of the encoder, head by head and seed by seed, then those of the floors.

    Raises:
        EvalfmError: anything the caller can mend, in one sentence.
    """
    name = encoder if isinstance(encoder, str) else encoder.card.name
    alias = find_alias(name) if isinstance(encoder, str) else None
    if alias is not None:
        encoder = name = alias.encoder
        adapt, heads = alias.applied(adapt, heads)
        resize = resize or alias.resize
    adaptation = adapt or "frozen"
    settings = Settings.checked(
        task=task,
        data=None if data is None or isinstance(data, Manifest) else str(data),
        test_data=None if test_data is None or isinstance(test_data, Manifest) else str(test_data),
        heads=None if heads is None else tuple(heads),
        shots=shots,
        val_shots=val_shots,
        base_to_novel=base_to_novel,
        label_fraction=label_fraction,
        associate=associate,
        folds=folds,
        seeds=seeds,
        where=where,
        test_where=test_where,
        limit=limit,
        floors=floors,
        threshold=threshold,
        prompts=None if prompts is None else str(prompts),
        adaptation=adaptation,
        recipe=dict(recipe or {}),
    )
    encoder_settings = EncoderSettings.checked(
        name=name,
        weights=start_weights(str(weights), adaptation),
        input_size=input_size,
        resize=resize,
        device=device,
        precision=precision,
        maps=maps,
        batch_size=batch_size,
        workers=workers,
        processes=processes,
        cache_images=cache_images,
    )
    whole_recipe = settings.whole_recipe
    if whole_recipe is None and processes > 1:
        raise EvalfmError("A frozen encoder is not trained, so --processes would do nothing; leave it out.")
    check_name(encoder)
    remove_leftovers(Path(out))
    asked = ask(settings, data, test_data, progress)
    question, test = asked.question, asked.test
    chosen_heads = _heads(settings, question)
    if threshold != THRESHOLD_RULE and question.task.kind not in LABELS:
        raise EvalfmError(f"--threshold is for yes-or-no labels; {question.task.name} is {question.task.kind}.")
    loaded = [load_head(name, question.task.kind) for name in chosen_heads]
    posed = as_base_to_novel(question, loaded) if settings.base_to_novel else question
    deals = [Deal.of(posed, test, parts(posed, settings, subset_seed=seed)) for seed in range(settings.seeds)]
    opened = open_encoder(
        encoder,
        encoder_settings,
        question.manifest,
        None if test is None else test.manifest,
        progress,
        frozenset(question.task.target),
    )
    adapted = None
    if settings.adaptation != "frozen" and whole_recipe is not None:
        adapted = Adapted(settings.adaptation, whole_recipe, encoder_settings)
    text = text_for(loaded, opened, question, settings.prompts)
    cells = [Cell(opened, chosen_heads, adapted=adapted, text=text)]
    if not settings.base_to_novel:
        # There the constant answer is a metric of each run: no floor can name a class that it has not seen.
        cells += floor_cells(settings, encoder_settings, question, test, opened, progress)
    return [run for cell in cells for run in run_cell(cell, deals, settings, Path(out), force=force, progress=progress)]


def _heads(settings: Settings, question: Question) -> tuple[str, ...]:
    """The heads asked for, or the task's own as far as the adaptation can train them.

    Raises:
        EvalfmError: a head is unknown, does not serve the kind of task, or cannot be trained with the encoder.
    """
    asked = settings.heads or question.task.heads
    loaded = {name: load_head(name, question.task.kind) for name in asked}
    if settings.adaptation == "frozen":
        return asked
    if settings.heads is None:
        return tuple(name for name, head in loaded.items() if isinstance(head, Tunable))
    for head in loaded.values():
        check_tunable(head, settings.adaptation)
    return asked


def start_weights(weights: str, adaptation: str) -> str:
    """The weights that an adaptation starts from.

    Raises:
        EvalfmError: a training from scratch was given weights.
    """
    if adaptation != "scratch":
        return weights
    if weights not in ("hub", "random"):
        raise EvalfmError("--adapt scratch starts from random weights; leave --weights out, or say --adapt full.")
    return "random"


def ask(
    settings: Settings,
    data: str | Path | Manifest | None = None,
    test_data: str | Path | Manifest | None = None,
    progress: Progress = SILENT,
) -> Asked:
    """Read the data and pose the task to them, before anything is computed."""
    question = load_question(settings, data if data is not None else settings.data, progress)
    outside = test_data if test_data is not None else settings.test_data
    if outside is None:
        return Asked(question)
    test = load_question(settings, outside, progress)
    refuse_shared_images(question, test)
    return Asked(question, as_learnt(question, test))
