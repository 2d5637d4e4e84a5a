"""The main job: an encoder turns images into features, heads learn on them, every result is a run on disk."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, overload

from evalfm.cards import takes
from evalfm.config import ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.profile import NO_TIMES, StageTimes
from evalfm.probing.crews import crew_for_cells
from evalfm.probing.executor import CrewExecutor
from evalfm.probing.existing import Known
from evalfm.probing.measure import Case, measure
from evalfm.probing.names import check_names
from evalfm.probing.warm import WarmEncoders
from evalfm.progress import SILENT, Progress
from evalfm.run import Run, remove_leftovers
from evalfm.workers.crew import Crew
from evalfm.workers.job import Fault


class SomeFailedError(EvalfmError):
    """Of several encoders, tasks or numbers of shots some could not be measured; what could is on disk.

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
        times: where seconds per stage are added; with ``profile`` and without these, a table is said at the end.
        options: the fields of ``ProbeConfig``, which are those of ``evalfm probe``; ``shots`` may be several numbers,
            each with every encoder and task.

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
    cases = _cases(encoder, task, data, test_data, options)
    cells = [case.config for case in cases]
    crew = crew_for_cells(cells[0], cells)
    if crew is not None:
        return _side_by_side(cases, crew, progress, times)
    config = cells[0]
    remove_leftovers(config.out)
    known = Known(config.force, _own(cells))
    measured = times or (StageTimes() if config.profile else NO_TIMES)
    # Numbers of shots follow each other, so that one encoder serves all of them.
    warm = WarmEncoders(1 if len(cases) > 1 else 0)
    runs: dict[Path, Run] = {}
    failures: dict[str, Fault] = {}
    for case in cases:
        try:
            runs |= {run.folder: run for run in measure(case, known, progress, measured, warm)}
        except Exception as error:
            if len(cases) == 1:
                raise
            # Text alone is kept: an error holds its frames, and these the encoder.
            failures[case.config.case] = Fault.of(error)
            progress.say(f"Failed: {case.config.case}: {error}")
    known.say(progress)
    if times is None and measured.measures:
        progress.say("\n".join(measured.table()))
    return _all_of(list(runs.values()), failures)


def _side_by_side(cases: Sequence[Case], crew: Crew, progress: Progress, times: StageTimes | None) -> list[Run]:
    """What ``probe`` gives, by workers that each measure one of ``cases``."""
    given = [each for case in cases for each in (case.encoder, case.data, case.test_data)]
    if any(isinstance(each, Encoder | Manifest) for each in given):
        raise EvalfmError(
            "Other processes cannot be sent an encoder or manifest that is an object; name both, or leave devices out."
        )
    cells = [case.config for case in cases]
    order = {cell.key: number for number, cell in enumerate(cells)}
    with crew:
        outcomes = sorted(
            CrewExecutor(crew, own=_own(cells)).run(cells, progress), key=lambda outcome: order[outcome.cell.key]
        )
    measured = times or (StageTimes() if cells[0].profile else NO_TIMES)
    for outcome in outcomes:
        measured.update(outcome.stages.to_json())
    if times is None and measured.measures:
        progress.say("\n".join(measured.table()))
    runs = {run.folder: run for outcome in outcomes for run in outcome.runs}
    return _all_of(list(runs.values()), {each.cell.case: each.failure for each in outcomes if each.failure})


def _own(cells: Sequence[ProbeConfig]) -> frozenset[str]:
    """What ``cells`` measure in their own right, which is no baseline of another, whichever comes first."""
    return frozenset[str]().union(*(cell.own_addresses for cell in cells))


def _all_of(runs: list[Run], failures: dict[str, Fault]) -> list[Run]:
    """The runs, where nothing failed.

    Raises:
        SomeFailedError: something did.
    """
    if failures:
        sentences = {
            label: fault.sentence if fault.trace is None else f"{fault.error}: {fault.sentence}"
            for label, fault in failures.items()
        }
        traces = {label: fault.trace for label, fault in failures.items() if fault.trace is not None}
        raise SomeFailedError(runs, sentences, traces)
    return runs


def _cases(
    encoder: str | Encoder | Sequence[str | Encoder] | ProbeConfig,
    task: str | Sequence[str] | None,
    data: str | Path | Manifest | None,
    test_data: str | Path | Manifest | None,
    options: dict[str, Any],
) -> list[Case]:
    if not isinstance(encoder, ProbeConfig):
        return _every(encoder, task, data, test_data, options)
    if task is not None or options:
        raise EvalfmError("A ProbeConfig holds every option; give none beside it.")
    data = encoder.data if data is None else data
    test_data = encoder.test_data if test_data is None else test_data
    check_names([encoder.encoder], [encoder.task], encoder.heads or (), [data, test_data])
    return [Case(encoder, encoder.encoder, data, test_data)]


def _every(
    encoder: str | Encoder | Sequence[str | Encoder],
    task: str | Sequence[str] | None,
    data: str | Path | Manifest | None,
    test_data: str | Path | Manifest | None,
    options: dict[str, Any],
) -> list[Case]:
    """Every encoder on every task at every number of shots.

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
    names: dict[str, Any] = {"data": data, "test_data": test_data}
    names = {key: each.info.name if isinstance(each, Manifest) else each for key, each in names.items()}
    shots = options.pop("shots", None)
    every = list(dict.fromkeys(shots)) if isinstance(shots, Sequence) and not isinstance(shots, str) else [shots]
    if not every:
        raise EvalfmError("No number of shots is given; say how many images of each class, such as --shots 1,5,20.")
    jobs = []
    for one_task, one, number in product(tasks, encoders, every):
        names |= {"encoder": EncoderRef.parse(one).label, "task": one_task, "shots": number}
        config = ProbeConfig.checked(**names, **options)
        # Where the name is an alias, the configuration has it written out.
        jobs.append(Case(config, config.encoder if isinstance(one, str) else one, data, test_data))
    return jobs
