"""`evalfm compare`: encoders compared on the same patients, with corrected paired tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalfm.cli.console import emit_json
from evalfm.cli.label_noise import noise_of, noise_rates, print_noise
from evalfm.errors import EvalfmError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalfm.analysis.compare import Heads
    from evalfm.analysis.pairing import AverageOver
    from evalfm.run import Run


GATE_FAILED = 1
"""Exit status where a gate fails."""


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    task: Annotated[str | None, typer.Option(help="This task only.")] = None,
    cohort: Annotated[
        str | None, typer.Option(help="Test cohorts whose words hold this only, such as \"view == 'PA'\" or 5 folds.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Runs of this head only; or best-by-val: of each encoder the line that is best on val. Baselines stay."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Compare by this one, such as accuracy or auroc[effusion]; else the task's first."),
    ] = None,
    margin: Annotated[float | None, typer.Option(help="Non-inferiority margin, on the metric's scale.")] = None,
    reference: Annotated[str | None, typer.Option(help="The encoder that --margin refers to.")] = None,
    average_over: Annotated[
        str,
        typer.Option(
            help="What counts once in a mean (Dice, MAE, accuracy, Brier score …): image or patient. Estimate, "
            "interval, rank, test and best set change together."
        ),
    ] = "image",
    external: Annotated[
        bool,
        typer.Option(
            "--external",
            help="Hold the order on A, the first folder, against B, the second; with one folder, runs made with "
            "--test-data are B.",
        ),
    ] = False,
    label_noise: Annotated[
        str | None,
        typer.Option(
            help="Compare again on labels that are wrong at this rate, such as .05, or .1/.02 for missed positives and "
            "false positives; several with commas between."
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=NUMBER",
            help="Exit with 1 unless every line reaches it, such as auroc=.9, or stays below for errors (mae=.03); "
            "auroc:low=.9 (mae:high=.03) for the end of the interval; repeat for several.",
        ),
    ] = None,
    no_worse_than: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="An earlier run: exit with 1 unless every line is worse than it by less than --margin, by the end of "
            "the paired interval.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which encoders are really better: paired differences to the best, corrected for every pair.

    Runs are compared with those that stand on the same test patients and labels: each test cohort of a task has a
    table of its own. Where several tasks share encoders, what they say together stands at the end.

    With --fail-under or --no-worse-than the exit status is 1 where a gate fails, 0 where all pass, and 2 where one
    matches no run.

    Examples:

        evalfm compare runs

        evalfm compare runs --task ptx-cls --margin 0.02 --reference rad-dino

        evalfm compare runs --task density --metric accuracy

        evalfm compare runs --head best-by-val --average-over patient

        evalfm compare runs-on-a runs-on-b --external

        evalfm compare runs --task ptx-cls --label-noise .05,.1/.02

        evalfm compare runs/new --head linear --fail-under auroc=.8 --no-worse-than runs/released/ptx-cls --margin .02
    """
    from evalfm.analysis.across import across_tasks
    from evalfm.analysis.compare import BEST_BY_VAL
    from evalfm.analysis.compare import compare as comparisons
    from evalfm.analysis.gates import Gate, gated_lines, joined
    from evalfm.analysis.gates import fail_under as held_under
    from evalfm.analysis.gates import no_worse_than as held_against
    from evalfm.cli.compare_tables import print_across, print_comparison, print_gates

    over = average_of(average_over)
    if external:
        refused = [cohort, margin, reference, fail_under, no_worse_than]
        _compare_external(runs, head, over, json, task=task, metric=metric, refused=refused)
        return
    gates = [Gate.parse(text) for text in fail_under or ()]
    if no_worse_than is not None and (margin is None or reference is not None):
        raise EvalfmError("--no-worse-than RUN takes --margin, by how much it may be worse, and no --reference.")
    earlier = [] if no_worse_than is None else runs_in([no_worse_than])
    chosen, heads = of_head(runs_in(runs), head)
    shown: dict[str, Any] = {"task": task, "cohort": cohort, "metric": metric, "average_over": over, "heads": heads}
    rates = noise_rates(label_noise)
    tables = comparisons(
        chosen,
        margin=margin if no_worse_than is None else None,
        reference=reference,
        **shown,
    )
    gated = None
    if gates or no_worse_than is not None:
        lines = gated_lines(chosen, **shown)
        found = [held_under(gates, lines, over)] if gates else []
        if no_worse_than is not None and margin is not None:
            mine = [run for run in earlier if head in (None, BEST_BY_VAL, run.head)]
            found.append(held_against(mine, no_worse_than, lines, margin, metric=metric, average_over=over))
        gated = joined(found)
    noise = noise_of(chosen, rates, task=task, cohort=cohort, metric=metric)
    together = across_tasks(tables)
    if json:
        emit_json(
            [
                *(table.to_json() for table in tables),
                *({"label_noise": each.to_json()} for each in noise),
                *([{"across_tasks": together.to_json()}] if together else []),
                *([{"gates": gated.to_json()}] if gated else []),
            ]
        )
    else:
        for table in tables:
            print_comparison(table)
        print_noise(noise)
        if together is not None:
            print_across(together)
    if gated is not None:
        print_gates(gated, on_stderr=json)
        if not gated.passed:
            raise typer.Exit(GATE_FAILED)


def _compare_external(
    folders: Sequence[Path],
    head: str | None,
    over: AverageOver,
    json: bool,
    *,
    task: str | None,
    metric: str | None,
    refused: Sequence[object],
) -> None:
    from evalfm.analysis.external import by_test_data, external_validation
    from evalfm.cli.compare_tables import print_external

    if any(each is not None for each in refused):
        raise EvalfmError("--external takes no --cohort, --margin, --reference or gates; leave them out.")
    if len(folders) > 2:
        raise EvalfmError(f"--external takes one folder or two, A and B, not {len(folders)}.")
    if len(folders) == 2:
        on_a, on_b = runs_in(folders[:1]), runs_in(folders[1:])
    else:
        on_a, on_b = by_test_data(runs_in(folders))
    every, heads = of_head([*on_a, *on_b], head)
    kept = {run.folder for run in every}
    on_a, on_b = ([run for run in runs if run.folder in kept] for runs in (on_a, on_b))
    found = external_validation(on_a, on_b, task=task, metric=metric, average_over=over, heads=heads)
    if json:
        emit_json([each.to_json() for each in found])
        return
    for each in found:
        print_external(each)


def average_of(name: str) -> AverageOver:
    """What is averaged over.

    Raises:
        UnknownNameError: neither image nor patient.
    """
    if name == "patient":
        return "patient"
    if name != "image":
        raise UnknownNameError("unit to average over", name, ["image", "patient"])
    return "image"


def of_task(runs: Sequence[Run], task: str | None) -> list[Run]:
    """Runs of this task; all without one.

    Raises:
        UnknownNameError: no run is of the task.
    """
    tasks = sorted({run.task for run in runs})
    if task is not None and task not in tasks:
        raise UnknownNameError("task among these runs", task, tasks)
    return [run for run in runs if task in (None, run.task)]


def of_head(runs: Sequence[Run], head: str | None) -> tuple[list[Run], Heads]:
    """Runs of this head and baselines, and whether one line of each encoder is wanted.

    Raises:
        UnknownNameError: no run has the head.
    """
    from evalfm.analysis.compare import BEST_BY_VAL

    if head is None:
        return list(runs), "all"
    if head == BEST_BY_VAL:
        return list(runs), "best-by-val"
    heads = sorted({run.head for run in runs})
    if head not in heads:
        raise UnknownNameError("head among these runs", head, [*heads, BEST_BY_VAL])
    return [run for run in runs if run.head == head or run.is_baseline], "all"


def runs_in(folders: Sequence[Path], *, with_predictions: bool = True, episodes: bool = False) -> list[Run]:
    """Every run below ``folders``, each once; one that is damaged is left out, which is said on standard error.

    Those of few-shot ``episodes``, which have no predictions, are left out likewise unless they are wanted.

    Raises:
        EvalfmError: a folder is not there, there is no run that can be read, or a folder is a damaged run itself.
    """
    from evalfm.run import find_runs

    for folder in folders:
        if not folder.is_dir():
            raise EvalfmError(f"There is no folder {folder}; name runs or folders that hold them.")
    left_out: dict[str, None] = {}

    def say(sentence: str) -> None:
        if sentence not in left_out:
            typer.echo(sentence, err=True)
        left_out[sentence] = None

    by_folder = {
        run.folder.resolve(): run
        for folder in folders
        for run in find_runs(folder, with_predictions=with_predictions, say=say)
    }
    if not by_folder:
        named = ", ".join(map(str, folders))
        if left_out:
            raise EvalfmError(f"No run in {named} can be read, {len(left_out)} left out; copy them again, whole.")
        raise EvalfmError(f"There is no run in {named}; make some with `evalfm probe`.")
    found = [run for run in by_folder.values() if episodes or run.record.episodes is None]
    if len(found) < len(by_folder):
        count = len(by_folder) - len(found)
        sentence = (
            f"{count} {'run' if count == 1 else 'runs'} of few-shot episodes: they share images, so that nothing is "
            "tested between them; `evalfm report` and `evalfm ls runs` show them"
        )
        if not found:
            raise EvalfmError(f"There is but {sentence}.")
        typer.echo(f"Left out: {sentence}.", err=True)
    return found
