"""`evalfm benchmark`: everything that data sets can ask of an encoder, in one command and on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from evalfm.cards import CardModel, Option, group_of
from evalfm.cli.console import Bars, emit_json, print_rows
from evalfm.cli.options import configured, listed
from evalfm.cli.study_tables import LiveTable, duration, print_plan
from evalfm.config import MachineOptions
from evalfm.encoder_options import EncoderOptions

if TYPE_CHECKING:
    from evalfm.study.benchmark import BenchmarkResult
    from evalfm.study.benchmark_design import Benchmark
    from evalfm.study.plan import Plan

SOME_FAILED = 1
"""Exit status where a part failed: what did not fail is on the page."""
OUT = Path("runs/benchmark")


class BenchmarkOptions(CardModel):
    """On what encoders are measured."""

    data: Annotated[
        tuple[str, ...], Field(description="Folder or registered name; repeat for several. Without it the phantom.")
    ] = ()
    task: Annotated[
        str | None,
        Field(description="This task alone, a card or label column; several likewise. Without it all that fit."),
        Option(several=True),
    ] = None
    folds: Annotated[
        int | None,
        Field(
            ge=1,
            description="Folds by patient; 1: the data's own split. Without it 5 for fewer than 2,000 images.",
        ),
    ] = None
    limit: Annotated[int | None, Field(ge=1, description="At most so many images a task, for a first look.")] = None


@configured(BenchmarkOptions, EncoderOptions, MachineOptions)
def benchmark(
    encoders: Annotated[list[str], typer.Argument(help="An encoder: a name, card.yaml, file.py:build; or several.")],
    options: dict[str, Any],
    plan: Annotated[bool, typer.Option("--plan", help="Print what would run and its cost, and stop.")] = False,
    out: Annotated[Path, typer.Option(help="Where the runs, report.html and benchmark.json go.")] = OUT,
    force: Annotated[bool, typer.Option("--force", help="Run again what is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan or the findings as JSON.")] = False,
) -> None:
    """Say what an encoder is good for, and what to beware of, on data of yours.

    Every task that the data allow (labels with enough cases on both sides, masks, numbers) with all labels and with
    few, beside a constant, the metadata and the pixels; by subgroup; with a chest tube drawn in or painted out where
    the data have some; all on one page. What is left out is named with its reason. What fails leaves the rest (exit
    status 1); the same command goes on where it was stopped.

    Examples:

        evalfm benchmark squeezenet1-0.caffe

        evalfm benchmark my_encoder.yaml --weights my_weights.safetensors --data nih-cxr14 --data heart-masks --plan

        evalfm benchmark rad-dino dinov2-base --data build/mine --out runs/mine
    """
    from functools import partial

    from evalfm.probing.names import check_names, is_encoder_path, is_task

    asked, machine = group_of(BenchmarkOptions, {**options, "task": None}), group_of(MachineOptions, options)
    given = group_of(EncoderOptions, options).model_dump(exclude_unset=True)
    data = list(asked.data)
    names = listed(encoders, "ENCODER", is_encoder_path)
    tasks = listed(options.get("task"), "--task", partial(is_task, data=data[0] if data else None))
    # Before torch is imported, which takes seconds.
    check_names(names, data=data or [None])

    from evalfm.publishing import check_writable

    if not plan:
        check_writable(out)

    from evalfm.study.benchmark import run_benchmark
    from evalfm.study.benchmark_design import design, entries_of, plans_of, trials_of
    from evalfm.study.cohorts import Manifests

    bars = Bars()
    entries = entries_of(names, given)
    made = design(entries, data, tasks=tasks, folds=asked.folds, limit=asked.limit, manifests=Manifests(bars))
    plans = plans_of(made, machine, bars)
    if plan and json:
        trials, left_out = trials_of(made)
        tried = [{"what": each.name, "on": candidate.what} for each, candidate in trials]
        left = [vars(each) for each in (*made.left_out, *left_out)]
        emit_json({"parts": [each.to_json() for each in plans], "then": tried, "left_out": left, "notes": made.notes})
        return
    _print_plan(made, plans, on_stderr=not plan)
    if plan:
        return
    with LiveTable(", ".join(names)) as live:
        found = run_benchmark(made, out, live, machine=machine, force=force, watch=live)
    if json:
        emit_json(found.to_json())
    else:
        _print_found(found, made)
    if found.failed:
        raise typer.Exit(SOME_FAILED)


def _print_plan(made: Benchmark, plans: list[Plan], *, on_stderr: bool) -> None:
    from evalfm.study.benchmark_design import trials_of

    for each in plans:
        print_plan(each, on_stderr=on_stderr)
    trials, left_out = trials_of(made)
    said = [f"then: {trial.name}: {candidate.what}" for trial, candidate in trials]
    said += [f"left out: {each.what}: {each.reason}" for each in (*made.left_out, *left_out)]
    total = sum(each.seconds for each in plans)
    said.append(f"together: at most about {duration(total)} for the studies; baselines and what follows come on top")
    for line in (*made.notes, *said):
        typer.echo(f"  {line}", err=on_stderr)


def _print_found(found: BenchmarkResult, made: Benchmark) -> None:
    """What the encoder is good for, what to beware of, and where the page lies."""
    from evalfm.analysis.good_for import HEADER

    several = len({part.study.data for part in made.parts}) > 1
    rows = []
    for each in found.standings:
        task, *cells = each.cells
        rows.append([f"{task} on {each.cohort.partition(',')[0]}" if several else task, *cells])
    print_rows("What it is good for, against the baselines", list(HEADER), rows)
    for note in made.notes:
        typer.echo(f"  {note}")
    if found.beware:
        typer.echo("Beware:")
        for sentence in found.beware:
            typer.echo(f"  - {sentence}")
    if found.left_out:
        typer.echo(f"{len(found.left_out)} left out, each with its reason on the page (or with --plan).")
    for fault in found.failed:
        typer.echo(f"Failed: {fault.what}: {fault.reason}", err=True)
    where = "No run was made, so there is no page." if found.page is None else f"Page: {found.page}"
    typer.echo(where)
