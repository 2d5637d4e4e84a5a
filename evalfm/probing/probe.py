"""The main job: an encoder turns images into features, heads learn on them, every result is a run on disk."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from evalfm.cards import takes
from evalfm.config import THRESHOLD_RULE, ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.profile import NO_TIMES, StageTimes
from evalfm.heads import load_head
from evalfm.heads.trainable import TrainableHead
from evalfm.probing.base_to_novel import as_base_to_novel
from evalfm.probing.cohort import load_cohort, matching_test
from evalfm.probing.existing import Known
from evalfm.probing.head_group import HeadGroup, run_group
from evalfm.probing.labelled import SplitAssignment
from evalfm.probing.names import check_names
from evalfm.probing.session import EncoderSession, metadata_columns, open_session
from evalfm.probing.splits import make_splits
from evalfm.probing.texts import reads_text, text_for
from evalfm.progress import SILENT, Progress
from evalfm.run import Run, remove_leftovers
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.prompts import LABELS
from evalfm.training.tuning import check_trainable

MASK_BASELINES = ("all-empty", "mean-mask")


class SomeFailedError(EvalfmError):
    """Of several encoders or tasks some could not be measured; what could is on disk.

    Attributes:
        runs: of those that did not fail, as ``probe`` returns them.
        failures: why the others did, a sentence each, by encoder and task in words.
        traces: the traceback, by the same words, of what is no user's mistake.
    """

    def __init__(self, runs: list[Run], failures: dict[str, str], traces: dict[str, str]) -> None:
        sentences = "".join(f"\n  {label}: {sentence}" for label, sentence in failures.items())
        kept = f"; {len(runs)} runs of the others are kept" if runs else ""
        super().__init__(f"{len(failures)} could not be measured{kept}:{sentences}")
        self.runs = runs
        self.failures = failures
        self.traces = traces


@overload
def probe(
    encoder: ProbeConfig,
    task: None = None,
    *,
    data: Manifest | None = None,
    test_data: Manifest | None = None,
    progress: Progress = SILENT,
    known: Known | None = None,
    times: StageTimes | None = None,
) -> list[Run]: ...


@overload
def probe(
    encoder: str | Encoder | Sequence[str | Encoder],
    task: str | Sequence[str],
    *,
    data: str | Path | Manifest | None = None,
    test_data: str | Path | Manifest | None = None,
    progress: Progress = SILENT,
    known: Known | None = None,
    times: StageTimes | None = None,
    **options: Any,
) -> list[Run]: ...


@takes(ProbeConfig)
def probe(
    encoder: str | Encoder | Sequence[str | Encoder] | ProbeConfig,
    task: str | Sequence[str] | None = None,
    *,
    data: str | Path | Manifest | None = None,
    test_data: str | Path | Manifest | None = None,
    progress: Progress = SILENT,
    known: Known | None = None,
    times: StageTimes | None = None,
    **options: Any,
) -> list[Run]:
    """Measure how well heads on an encoder's features predict the target of a task.

    Args:
        encoder: a card's name or path, ``file.py:build``, ``precomputed:FILE``, an ``Encoder``, or several of these;
            or a whole ``ProbeConfig``, beside which nothing else is said but manifests that were read already.
        task: a task card's name or path, or a label column of the data; or several, each with every encoder.
        data: a data set's folder, registered name or manifest; None takes the phantom.
        test_data: another data set, tested whole in place of the test split.
        progress: where long work is shown.
        known: what earlier calls of one study have met, so that nothing is made, or said to be there, twice.
        times: where seconds per stage are added; with ``profile`` and without these, a table is said at the end.
        options: the fields of ``ProbeConfig``, which are those of ``evalfm probe``.

    Returns:
        The runs of the encoder, head by head and seed by seed, then those of the baselines; of several, task by task
        and encoder by encoder, each run once. A run that is there already is returned as it is, and said so, unless
        ``force``.

    Raises:
        SomeFailedError: of several encoders or tasks some failed; the others were measured.
        EvalfmError: anything the caller can fix, in one sentence.

    >>> from evalfm.data.phantom import make_phantom
    >>> data = make_phantom("small", n=100, size=64)
    >>> (run,) = probe("pixels", "ptx-cls", data=data, heads="linear", baselines="none", out="runs")
    >>> run.encoder, run.head, run.metrics["auroc"].unit
    ('pixels', 'linear', 'patients')
    """
    if isinstance(encoder, ProbeConfig):
        if task is not None or options:
            raise EvalfmError("A ProbeConfig holds every option; give none beside it.")
        data = encoder.data if data is None else data
        test_data = encoder.test_data if test_data is None else test_data
        check_names([encoder.encoder], [encoder.task], encoder.heads or (), [data, test_data])
        jobs = [_Job(encoder, encoder.encoder, data, test_data)]
    else:
        jobs = _jobs(encoder, task, data, test_data, options)
    config = jobs[0].config
    remove_leftovers(config.out)
    known = known or Known(config.force)
    measured = times or (StageTimes() if config.profile else NO_TIMES)
    runs: dict[Path, Run] = {}
    failures: dict[str, str] = {}
    traces: dict[str, str] = {}
    for job in jobs:
        try:
            runs |= {run.folder: run for run in _measure(job, known, progress, measured)}
        except Exception as error:
            if len(jobs) == 1:
                raise
            # Text alone is kept: an error holds its frames, and these the encoder.
            label = job.config.label
            failures[label] = str(error)
            if not isinstance(error, EvalfmError):
                failures[label] = f"{type(error).__name__}: {error}"
                traces[label] = "".join(traceback.format_exception(error))
            progress.say(f"Failed: {label}: {failures[label]}")
    known.say(progress)
    if times is None and measured.measures:
        progress.say("\n".join(measured.table()))
    if failures:
        raise SomeFailedError(list(runs.values()), failures, traces)
    return list(runs.values())


@dataclass(frozen=True)
class _Job:
    """One encoder on one task, with the objects that stand for names of its configuration."""

    config: ProbeConfig
    encoder: str | Encoder
    data: str | Path | Manifest | None
    test_data: str | Path | Manifest | None


def _jobs(
    encoder: str | Encoder | Sequence[str | Encoder],
    task: str | Sequence[str] | None,
    data: str | Path | Manifest | None,
    test_data: str | Path | Manifest | None,
    options: dict[str, Any],
) -> list[_Job]:
    """Every encoder on every task.

    Raises:
        EvalfmError: a name is unknown, or options are not valid or do not go together.
    """
    encoders = [encoder] if isinstance(encoder, str | Encoder) else list(encoder)
    tasks = [task] if isinstance(task, str) else list(task or ())
    if not encoders or not tasks:
        raise EvalfmError("Name at least one encoder and one task.")
    if len(encoders) > 1 and str(options.get("weights", "hub")) not in ("hub", "random"):
        raise EvalfmError("--weights PATH is of one encoder; name one with --encoder.")
    if len(tasks) > 1 and options.get("prompts") is not None:
        raise EvalfmError("--prompts is of one task; name one with --task.")
    heads, adaptation = options.get("heads") or (), options.get("adaptation")
    named = [heads] if isinstance(heads, str) else heads
    check_names(
        encoders, tasks, named, [data, test_data], adaptation=adaptation, recipe=options.get("recipe"), aliases=True
    )
    names = {"data": data, "test_data": test_data}
    names = {key: each.info.name if isinstance(each, Manifest) else each for key, each in names.items()}
    jobs = []
    for one_task in tasks:
        for one in encoders:
            config = ProbeConfig.checked(encoder=EncoderRef.parse(one).label, task=one_task, **names, **options)
            # Where the name is an alias, the configuration has it written out.
            jobs.append(_Job(config, config.encoder if isinstance(one, str) else one, data, test_data))
    return jobs


def _measure(job: _Job, known: Known, progress: Progress, times: StageTimes) -> list[Run]:
    """The runs of one encoder on one task, and of its baselines."""
    config = job.config
    cohort = load_cohort(config.task, config, job.data, progress)
    test = None
    if job.test_data is not None:
        test = matching_test(cohort, load_cohort(config.task, config, job.test_data, progress))
    names = _heads(config, cohort)
    if config.threshold != THRESHOLD_RULE and cohort.task.kind not in LABELS:
        raise EvalfmError(f"--threshold is for yes-or-no labels; {cohort.task.name} is {cohort.task.kind}.")
    heads = [load_head(name, cohort.task.kind) for name in names]
    tested = as_base_to_novel(cohort, heads) if config.base_to_novel else cohort
    assignments = [
        SplitAssignment.of(tested, test, make_splits(tested, config, subset_seed=seed)) for seed in range(config.seeds)
    ]
    with ExitStack() as opened:

        def session_of(encoder: str | Encoder, of: ProbeConfig) -> EncoderSession:
            """The encoder on the images of both cohorts; the targets are hidden from the metadata."""
            tested = None if test is None else test.manifest
            hidden = frozenset(cohort.task.target)
            session = open_session(encoder, of, cohort.manifest, tested, progress, hidden, times)
            opened.callback(session.close)
            return session

        session = session_of(job.encoder, config)
        groups = [HeadGroup(session, names, config, text=text_for(heads, session, cohort, config.prompts))]
        if not config.base_to_novel:
            # There the constant answer is a metric of each run: no baseline can name a class that it has not seen.
            groups += _baselines(config, cohort, session, session_of, known)
        runs = []
        for group in groups:
            runs += run_group(group, assignments, known=known, progress=progress)
            # Its workers and memory serve no other group.
            group.session.close()
        return runs


def _heads(config: ProbeConfig, cohort: Cohort) -> tuple[str, ...]:
    """The heads of the call, or the task's own as far as the adaptation can train them.

    Raises:
        EvalfmError: a head is unknown, does not serve the kind of task, or cannot be trained with the encoder.
    """
    names = config.heads or cohort.task.heads
    loaded = {name: load_head(name, cohort.task.kind) for name in names}
    if config.adaptation == "frozen":
        return names
    if config.heads is None:
        return tuple(name for name, head in loaded.items() if isinstance(head, TrainableHead))
    for head in loaded.values():
        check_trainable(head, config.adaptation)
    return names


def _baselines(
    config: ProbeConfig,
    cohort: Cohort,
    session: EncoderSession,
    session_of: Callable[[str, ProbeConfig], EncoderSession],
    known: Known,
) -> list[HeadGroup]:
    """The baselines of ``cohort``: the constant, the metadata and the pixels; for masks two fixed masks.

    With ``baselines="all"`` the encoder's own architecture with random weights comes too. What another cell of the
    study measures in its own right is left to that.
    """
    if config.baselines == "none":
        return []
    frozen = config.model_copy(update={"adaptation": "frozen", "recipe": {}})
    as_its_card_says = {"weights": "hub", "input_size": None, "resize": None}

    def baseline(name: str, heads: tuple[str, ...], **changes: object) -> list[HeadGroup]:
        own = frozen.model_copy(update={"encoder": name, **changes})
        heads = tuple(head for head in heads if own.result_address(head) not in known.own)
        return [HeadGroup(session_of(name, own), heads, own, baseline=True)] if heads else []

    groups: list[HeadGroup] = []
    if cohort.task.kind == "segmentation":
        groups += baseline("constant", MASK_BASELINES, **as_its_card_says)
    else:
        columns = metadata_columns(cohort.manifest, frozenset(cohort.task.target))
        names = ["constant", *(["metadata"] if columns else []), "pixels"]
        simplest = cohort.task.heads[:1]
        for name in names:
            groups += baseline(name, simplest, **as_its_card_says) if name != session.name else []
    pretrained = session.card.get("weights", {}).get("source", "none") != "none" and not session.random_weights
    named = config.heads or cohort.task.heads
    # Random sentences place images by chance: this baseline is for heads that learn on the features.
    heads = tuple(name for name in named if not reads_text(load_head(name, cohort.task.kind)))
    if config.baselines == "all" and pretrained and heads:
        groups += baseline(config.encoder, heads, weights="random")
    return groups
