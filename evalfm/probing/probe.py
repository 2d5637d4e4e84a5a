"""``probe``: what evalfm is for, from images to runs.

An encoder (:mod:`evalfm.encoders.encoder`) turns every image of a data set into features, once; a store keeps them. A
task (:mod:`evalfm.tasks.task`) says what is asked of an image, of which images, and by which metrics it is judged.
Heads (:mod:`evalfm.heads.head`) learn the answer from features of the training images, choose what there is to choose
on val, and are measured on test, beside baselines that have not seen the disease. Every result is a run on disk
(:mod:`evalfm.run`), which comparisons, reports and bias pages read.

Here is what a call asks for and who does it; :mod:`evalfm.probing.measure` does it for one encoder on one task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalfm.cards import takes
from evalfm.config import ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.features.profile import NO_TIMES, StageTimes
from evalfm.probing.cases import Case, cases_of
from evalfm.probing.crews import crew_for_cells
from evalfm.probing.executor import CrewExecutor
from evalfm.probing.existing import Known
from evalfm.probing.measure import measure
from evalfm.probing.warm import WarmEncoders
from evalfm.progress import SILENT, Progress
from evalfm.publishing import remove_leftovers
from evalfm.run import Run
from evalfm.workers.job import Fault
from evalfm.workers.pool import Crew


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
    cases = cases_of(encoder, task, data, test_data, options)
    cells = [case.config for case in cases]
    measured = times or (StageTimes() if cells[0].profile else NO_TIMES)
    # What one case measures in its own right is no baseline of another, whichever comes first.
    known = Known(cells[0].force, frozenset[str]().union(*(cell.own_addresses for cell in cells)))
    crew = crew_for_cells(cells[0], cells)
    if crew is None:
        runs, failures = _one_by_one(cases, known, progress, measured)
    else:
        runs, failures = _side_by_side(cases, crew, known.own, progress, measured)
    known.say(progress)
    if times is None and measured.measures:
        progress.say("\n".join(measured.table()))
    if failures:
        raise SomeFailedError(runs, failures)
    return runs


class SomeFailedError(EvalfmError):
    """Of several encoders, tasks or numbers of shots some could not be measured; what could is on disk.

    Attributes:
        runs: of those that did not fail, as ``probe`` returns them.
        failures: why the others did, a sentence each, by encoder and task in words.
        traces: the traceback, by the same words, of what is no user's mistake.
    """

    def __init__(self, runs: list[Run], failures: Mapping[str, Fault]) -> None:
        self.runs = runs
        self.failures = {
            label: fault.sentence if fault.trace is None else f"{fault.error}: {fault.sentence}"
            for label, fault in failures.items()
        }
        self.traces = {label: fault.trace for label, fault in failures.items() if fault.trace is not None}
        sentences = "".join(f"\n  {label}: {sentence}" for label, sentence in self.failures.items())
        kept = f"; {len(runs)} runs of the others are kept" if runs else ""
        super().__init__(f"{len(failures)} could not be measured{kept}:{sentences}")


def _one_by_one(
    cases: Sequence[Case], known: Known, progress: Progress, times: StageTimes
) -> tuple[list[Run], dict[str, Fault]]:
    """The runs of ``cases``, made in this process, and why some of several have none."""
    remove_leftovers(cases[0].config.out)
    # Numbers of shots follow each other, so that one encoder serves all of them.
    warm = WarmEncoders(1 if len(cases) > 1 else 0)
    runs: dict[Path, Run] = {}
    failures: dict[str, Fault] = {}
    for case in cases:
        try:
            runs |= {run.folder: run for run in measure(case, known, progress, times, warm)}
        except Exception as error:
            if len(cases) == 1:
                raise
            # Text alone is kept: an error holds its frames, and these the encoder.
            failures[case.config.case] = Fault.of(error)
            progress.say(f"Failed: {case.config.case}: {error}")
    return list(runs.values()), failures


def _side_by_side(
    cases: Sequence[Case], crew: Crew, own: frozenset[str], progress: Progress, times: StageTimes
) -> tuple[list[Run], dict[str, Fault]]:
    """The same by workers, each of which measures one case at a time."""
    given = [each for case in cases for each in (case.encoder, case.data, case.test_data)]
    if any(isinstance(each, Encoder | Manifest) for each in given):
        raise EvalfmError(
            "Other processes cannot be sent an encoder or manifest that is an object; name both, or leave devices out."
        )
    cells = [case.config for case in cases]
    order = {cell.key: number for number, cell in enumerate(cells)}
    with crew:
        outcomes = sorted(CrewExecutor(crew, own=own).run(cells, progress), key=lambda each: order[each.cell.key])
    for outcome in outcomes:
        times.update(outcome.stages.to_json())
    runs = {run.folder: run for outcome in outcomes for run in outcome.runs}
    return list(runs.values()), {each.cell.case: each.failure for each in outcomes if each.failure}
