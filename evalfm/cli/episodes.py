"""`evalfm episodes`: few-shot episodes, many small trainings solved at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalfm.cards import group_of
from evalfm.cli.configured import configured
from evalfm.cli.options import listed
from evalfm.config import ComputeOptions
from evalfm.probing.few_shot.config import FINE_TUNE, EpisodeConfig, EpisodeOptions

if TYPE_CHECKING:
    from evalfm.episodes import EpisodeRun
    from evalfm.study.episode_plan import EpisodePlan
    from evalfm.study.episodes import EpisodeStudy

SOME_FAILED = 1
"""Exit status where an encoder failed: what did not fail is on disk."""


@configured(EpisodeConfig, without=("encoder", "task", "input_size", "resize"))
def episodes(
    options: dict[str, Any],
    config: Annotated[str | None, typer.Argument(help="Episodes that ship with evalfm, or episodes.yaml.")] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="As for probe; repeat for several, or commas between. With CONFIG: only these."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="As for probe; several likewise. With CONFIG: only these.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what it will cost and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan or the results as JSON.")] = False,
) -> None:
    """Learn a task from a few images of each class, many times over: macro AUROC, mean ± sd over episodes.

    An episode draws its support from train and its queries from test; the draw is fixed by the seed and stored with
    the result. Methods: linear, prototypes and knn on stored features (all three by default), zeroshot by sentences,
    fine-tune of the whole encoder (5 episodes by default; its cost is printed first).

    Examples:

        evalfm episodes --encoder hog --task ptx-cls

        evalfm episodes --encoder rad-dino,biomedclip --task tb-cls --data shenzhen --shots 1,5,20

        evalfm episodes --encoder biomedclip --task ptx-cls --method zeroshot,linear,fine-tune --plan

        evalfm episodes data-scarcity --data phantom --encoder hog
    """
    from functools import partial

    from evalfm.probing.names import is_encoder_path, is_task

    data = options.get("data")
    encoders = listed(encoder, "--encoder", is_encoder_path)
    tasks = listed(task, "--task", partial(is_task, data=data))
    # Before torch is imported, which takes seconds.
    _check(config, encoders, tasks, data)

    from evalfm.cli.console import Bars, emit_json
    from evalfm.cli.phantom_notice import print_notice
    from evalfm.study.cohorts import Manifests
    from evalfm.study.episode_plan import plan_episodes
    from evalfm.study.episodes import draw_cohorts, run_episode_study

    study = _study(config, encoders, tasks, options)
    bars = Bars()
    print_notice(study.data, bars)
    machine = group_of(ComputeOptions, options)
    cohorts = draw_cohorts(study, Manifests(bars), bars)
    if plan or FINE_TUNE in study.methods:
        planned = plan_episodes(study, cohorts, machine, bars)
        if plan and json:
            emit_json(planned.to_json())
        else:
            _print_plan(planned, on_stderr=not plan)
    if plan:
        return
    runs: list[EpisodeRun] = []
    failed = []
    out, force = (options.get(name, EpisodeConfig.model_fields[name].default) for name in ("out", "force"))
    for outcome in run_episode_study(study, out, bars, machine=machine, cohorts=cohorts, force=force):
        runs += outcome.runs
        for reason in outcome.cell.left_out:
            bars.say(f"left out: {reason}")
        if outcome.failure is not None:
            failed.append(f"{outcome.cell.encoder.name} × {outcome.cell.task.name}: {outcome.failure}")
    if json:
        emit_json({"results": [_plain(run) for run in runs], "failures": failed})
    else:
        _print_results(runs)
        for run in runs:
            typer.echo(str(run.folder))
        for sentence in failed:
            typer.echo(f"Failed: {sentence}")
    print_notice(study.data, bars)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _check(config: str | None, encoders: Sequence[str], tasks: Sequence[str], data: str | None) -> None:
    """Look up every name of the command line and of the configuration.

    Raises:
        EvalfmError: one is unknown, or none is given.
    """
    from evalfm.cards import read_yaml
    from evalfm.errors import EvalfmError, UnknownNameError
    from evalfm.probing.names import check_names, name_faults, raise_all
    from evalfm.study.config import episodes_file, task_faults

    if config is None:
        if not encoders or not tasks:
            raise EvalfmError("Name --encoder and --task, or a configuration such as data-scarcity.")
        check_names(encoders, tasks, data=[data])
        return
    content = read_yaml(episodes_file(config))
    known = {kind: _entries(content.get(f"{kind}s")) for kind in ("encoder", "task")}
    for kind, names in (("encoder", encoders), ("task", tasks)):
        for name in names:
            if name not in known[kind]:
                raise UnknownNameError(f"{kind} of {content.get('name')}", name, known[kind])
    faults: list[EvalfmError] = []
    for name in tasks or known["task"]:
        where = data or known["task"][name] or content.get("data")
        faults += task_faults(name, where if isinstance(where, str) else None)
    raise_all(name_faults(encoders or known["encoder"], before=faults))


def _entries(content: object) -> dict[str, object]:
    """Names in a list of a configuration, each with data of its own if it has any; what is no name is refused later."""
    entries = content if isinstance(content, list) else []
    named = [each if isinstance(each, dict) else {"name": each} for each in entries]
    return {each["name"]: each.get("data") for each in named if isinstance(each.get("name"), str)}


def _study(config: str | None, encoders: Sequence[str], tasks: Sequence[str], options: dict[str, Any]) -> EpisodeStudy:
    """What the command line names: some of a configuration, or a small one of its own."""
    from evalfm.cards import parse_yaml, validate
    from evalfm.errors import EvalfmError
    from evalfm.study.episodes import EpisodeStudy, load_episodes, takes_weights

    data, weights, prompts = (options.get(name) for name in ("data", "weights", "prompts"))
    if config is not None:
        study = load_episodes(config).on(data).only(encoders, tasks)
    else:
        content: dict[str, Any] = {"name": "call", "title": "Few-shot episodes", "data": data or "phantom"}
        study = validate(EpisodeStudy, content | {"schema": 1, "encoders": encoders, "tasks": tasks}, "The call")
    changes = {name: options[name] for name in EpisodeOptions.model_fields if name in options}
    if "recipe" in changes:
        changes["recipe"] = {name: parse_yaml(text, f"--recipe {name}") for name, text in changes["recipe"].items()}
    if weights is not None:
        if weights not in ("hub", "random") and len(study.encoders) > 1:
            raise EvalfmError("--weights PATH is of one encoder; name one with --encoder.")
        takes = {each.name: takes_weights(each.name) for each in study.encoders}
        if not any(takes.values()):
            raise EvalfmError(f"{', '.join(takes)} takes no weights; leave --weights out.")
        changes["encoders"] = [
            each.model_dump() | ({"weights": weights} if takes[each.name] else {}) for each in study.encoders
        ]
    if prompts is not None:
        if len(study.tasks) > 1:
            raise EvalfmError("--prompts is of one task; name one with --task.")
        changes["tasks"] = [each.model_dump() | {"prompts": prompts} for each in study.tasks]
    return study.by(changes.pop("methods"), **changes) if "methods" in changes else study.changed(**changes)


def _print_plan(plan: EpisodePlan, *, on_stderr: bool) -> None:
    from evalfm.cli.console import print_rows
    from evalfm.cli.study_tables import duration, size

    rows = []
    for each in plan.costs:
        cost = each.estimate
        figures = ["–"] * 3 if cost is None else [cost.passes, duration(cost.seconds), size(cost.memory_bytes)]
        shots = "all" if each.shots is None else str(each.shots)
        rows.append([each.encoder, each.task, each.data, each.method, shots, str(each.episodes), *figures])
    header = ["encoder", "task", "data", "method", "shots", "episodes", "passes of the encoder", "time", "memory"]
    print_rows(f"Plan: {plan.study.title}", header, rows, on_stderr=on_stderr)
    lines = [f"about {duration(plan.seconds)} in all"]
    lines += [f"left out: {reason}" for reason in plan.left_out]
    lines += [f"warning: {sentence}" for sentence in plan.warnings]
    lines += [f"assumed: {sentence}" for sentence in plan.assumptions]
    for line in lines:
        typer.echo(f"  {line}", err=on_stderr)


def _print_results(runs: Sequence[EpisodeRun]) -> None:
    """One table for each task and data set: a row for each encoder and method, a column for each number of shots."""
    from evalfm.analysis.few_shot import few_shot_tables
    from evalfm.cli.console import print_rows

    for table in few_shot_tables(runs):
        print_rows(table.title, table.header, table.rows)
        for line in table.cautions:
            typer.echo(f"  {line}")
        typer.echo()


def _plain(run: EpisodeRun) -> dict[str, Any]:
    return {"folder": str(run.folder)} | run.record.model_dump(mode="json", by_alias=True)
