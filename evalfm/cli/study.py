"""`evalfm study`: a grid of probes from a YAML file, planned, run, resumed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from evalfm.cards import CardModel, Option, group_of, parse_yaml
from evalfm.cli.console import Bars, emit_json
from evalfm.cli.options import configured, listed
from evalfm.cli.study_tables import LiveTable, print_plan, print_results, results_json
from evalfm.config import MachineOptions, Shard
from evalfm.errors import EvalfmError
from evalfm.split_options import Text
from evalfm.study.config import Assumed
from evalfm.training.recipe import Adaptation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalfm.cli.console import Bars
    from evalfm.study import Study, StudyRuns
    from evalfm.study.cohorts import Manifests

IN_PLACE = ("limit", "where", "heads", "shots", "episodes", "queries", "strength", "seeds")
"""Options that stand in place of the study's keys of these names."""
SOME_FAILED = 1
"""Exit status where cells failed: what did not fail is on disk."""


class StudyOptions(CardModel):
    """What of a study is run, and what is changed in all of its cells."""

    data: Annotated[Text | None, Field(description="Folder or registered name, in place of the study's.")] = None
    encoder: Annotated[
        str | None,
        Field(
            description="Of the study's encoders only this one; one that is none of them is added beside them. Repeat "
            "for several, or commas between."
        ),
        Option(several=True),
    ] = None
    alone: Annotated[bool, Field(description="Of encoders those that --encoder names and no others.")] = False
    task: Annotated[str | None, Field(description="Only this task; several likewise."), Option(several=True)] = None
    adaptation: Annotated[
        tuple[Adaptation, ...],
        Field(description="Only this adaptation; several likewise."),
        Option(names=("--adaptation", "-a")),
    ] = ()
    weights: Annotated[
        Text | None,
        Field(description="random: a rehearsal without any weights; or the file of the one encoder that is added."),
    ] = None
    recipe: Annotated[dict[str, Any], Field(description="Change every recipe, e.g. epochs=1; repeat for several.")] = (
        Field(default_factory=dict)
    )
    limit: Annotated[int | None, Field(description="At most so many images.")] = None
    where: Annotated[str | None, Field(description="Rows of every cohort, in place of the study's.")] = None
    heads: Annotated[
        tuple[str, ...], Field(description="These heads, in place of the study's."), Option(names=("--head",))
    ] = ()
    shots: Annotated[tuple[int, ...], Field(description="In place of the study's, such as 1,5,20.")] = ()
    episodes: Annotated[int | None, Field(description="So many few-shot episodes of each number of shots.")] = None
    queries: Annotated[int | None, Field(description="Images of each class that an episode scores.")] = None
    strength: Annotated[float | None, Field(description="C of the linear head in episodes.")] = None
    seeds: Annotated[int | None, Field(description="In place of the study's.")] = None
    shard: Annotated[
        str | None,
        Field(description="Only the cells of shard K of N, e.g. 2/8; without it a later call gathers all."),
        Option(metavar="K/N"),
    ] = None
    offline: Annotated[
        bool, Field(description="Ask nothing of the hub; weights and data that lack are named before anything starts.")
    ] = False


@configured(StudyOptions, Assumed, MachineOptions)
def study(
    config: Annotated[str, typer.Argument(help="A study that ships with evalfm, or study.yaml.")],
    options: dict[str, Any],
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where runs and results go; runs/NAME by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run again what is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan or the results as JSON.")] = False,
) -> None:
    """Run a grid: encoders × tasks × heads × adaptations × shots × seeds.

    A plan is printed first: cells, time, disk, memory. A cell that fails is recorded and the rest goes on; exit status
    1 says that some did. The same command again goes on where it stopped. Results: OUT/results.parquet, one row a run
    and metric; OUT/failures.json. Shards, at once or one by one, on any machines with one OUT, write tables of their
    own; the command without --shard then finds every run and makes the whole.

    Examples:

        evalfm study demo

        evalfm study feature-quality --data build/siim --plan

        evalfm study feature-quality --encoder timm:vit_small_patch16_dinov3.lvd1689m --encoder mine.yaml --plan

        evalfm study feature-quality --data phantom --limit 60 --encoder resnet50 --weights random --recipe epochs=1

        evalfm study my-study.yaml --task ptx-seg --adaptation frozen --seeds 1 --out runs/first-look

        evalfm study my-study.yaml --devices all     (cells side by side, one process for each GPU)

        evalfm study my-study.yaml --executor ray --address auto     (on the workers of a Ray cluster)

        evalfm study my-study.yaml --shard $SLURM_ARRAY_TASK_ID/8    (in a batch system; then the same without --shard)

        evalfm study feature-quality --offline     (where there is no network, after `evalfm fetch`)

        evalfm study vlm-radiology --plan --images 12047 --speed 30 --workers 8     (images and a GPU that are not here)
    """
    from evalfm.probing.names import is_encoder_path, is_task
    from evalfm.study.config import check_study_names, load_study

    machine, assumed = group_of(MachineOptions, options), group_of(Assumed, options)
    if not plan and assumed != Assumed():
        raise EvalfmError("--images, --speed and --decode make a plan for what is not here; add --plan.")
    shard = Shard.parse(options["shard"]) if "shard" in options else None
    encoders = listed(options.get("encoder"), "--encoder", is_encoder_path)
    tasks = listed(options.get("task"), "--task", is_task)
    grid = load_study(config).on(options.get("data"))
    grid, named = _with_encoders(grid, encoders, options)
    grid = grid.only(named, tuple(tasks), options.get("adaptation", ()))
    offline = options.get("offline", False)
    if not offline or assumed.images is not None:
        # Before torch is imported, which takes seconds.
        check_study_names(grid, data=assumed.images is None)
    grid = _changed(grid, options)

    from evalfm.encoders.hub import switched_off
    from evalfm.study.cohorts import Manifests

    bars = Bars()
    manifests = Manifests(bars)
    if offline and assumed.images is None:
        from evalfm.study.needs import check_offline

        check_offline(grid, manifests)
    with switched_off() if offline else nullcontext():
        _run(grid, machine, assumed, manifests, bars, shard, plan=plan, out=out, force=force, json=json)


def _run(
    grid: Study,
    machine: MachineOptions,
    assumed: Assumed,
    manifests: Manifests,
    bars: Bars,
    shard: Shard | None,
    *,
    plan: bool,
    out: Path | None,
    force: bool,
    json: bool,
) -> None:
    """Print the plan, run the cells, print the results."""
    from evalfm.study import make_plan, run_study

    planned = make_plan(grid, machine, assumed, manifests, bars, shard)
    if plan and json:
        emit_json(planned.to_json())
        return
    print_plan(planned, on_stderr=not plan)
    if plan:
        return
    folder = out or Path("runs") / grid.name
    given: dict[str, Any] = {"machine": machine, "manifests": manifests, "force": force, "shard": shard}
    with LiveTable(grid.title) as live:
        done: StudyRuns = run_study(grid, folder, live, watch=live, **given)
    if json:
        emit_json(results_json(done))
    else:
        print_results(grid.title, done)
    if done.failed:
        raise typer.Exit(SOME_FAILED)


def _with_encoders(grid: Study, encoders: Sequence[str], options: dict[str, Any]) -> tuple[Study, tuple[str, ...]]:
    """The study with what ``encoders`` add to it, and which of its encoders are run; none named keeps all.

    Raises:
        EvalfmError: an encoder is none of the study's and no other, or ``--alone`` says nothing.
    """
    from evalfm.probing.names import check_names

    own = [each.name for each in grid.encoders] + [each.encoder for each in grid.supervised]
    further = [name for name in encoders if name not in own]
    if options.get("alone") and not encoders:
        raise EvalfmError("--alone goes with --encoder, which says which encoders are run; add one, or leave it out.")
    check_names(further)
    weights = options.get("weights")
    file = None if weights in (None, "random", "hub") else weights
    if further or file is not None:
        grid = grid.with_encoders(further, file)
    if options.get("alone") or any(name in own for name in encoders):
        return grid, tuple(encoders)
    return grid, ()


def _changed(grid: Study, options: dict[str, Any]) -> Study:
    """The study with what the command line says of every cell."""
    from evalfm.encoders.reference import EncoderRef, find_alias

    changes: dict[str, Any] = {name: options[name] for name in IN_PLACE if name in options}
    weights, recipe = options.get("weights"), options.get("recipe")
    weights = weights if weights in ("random", "hub") else None
    supervised = [each.model_dump() for each in grid.supervised]
    if weights is not None:
        named = [each.name for each in grid.encoders if find_alias(each.name) is None]
        cards = {name: EncoderRef.parse(name).card() for name in named}
        changes["encoders"] = [
            # What takes no weights, as a classical descriptor, stays as it is.
            each.model_dump() | ({"weights": weights} if card and card.weights.source != "none" else {})
            for each in grid.encoders
            for card in [cards.get(each.name)]
        ]
        for plain, each in zip(supervised, grid.supervised, strict=True):
            # From scratch every weight is drawn already.
            plain |= {"weights": weights} if each.trained != "scratch" else {}
    if recipe:
        parsed = {name: parse_yaml(str(value), f"--recipe {name}") for name, value in recipe.items()}
        changes["adaptations"] = [
            each.model_dump() | {"recipe": each.recipe if each.name == "frozen" else {**each.recipe, **parsed}}
            for each in grid.adaptations
        ]
        for plain in supervised:
            plain["recipe"] = {**plain["recipe"], **parsed}
    changes["supervised"] = supervised
    return grid.changed(**changes)
