"""`evalfm study`: a grid of probes from a YAML file, planned, run, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalfm.cli.options import listed, listed_words
from evalfm.cli.probe import AdaptationName, Maps, Precision

if TYPE_CHECKING:
    from evalfm.study import Study, StudyRuns

SOME_FAILED = 1
"""Exit status where cells failed: what did not fail is on disk."""


def study(
    config: Annotated[str, typer.Argument(help="A study that ships with evalfm, or study.yaml.")],
    data: Annotated[str | None, typer.Option(help="Folder or registered name, in place of the study's.")] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="Only this encoder; repeat for several, or commas between.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; several likewise.")] = None,
    adaptation: Annotated[
        list[str] | None,
        typer.Option(help="Only this adaptation; several likewise.", metavar=f"[{'|'.join(AdaptationName)}]"),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="random: a rehearsal without any weights.")] = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="Change every recipe, e.g. epochs=1; repeat for several.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many images.")] = None,
    seeds: Annotated[int | None, typer.Option(help="In place of the study's.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
    images: Annotated[int | None, typer.Option(help="Plan for so many images that are not here.", min=10)] = None,
    speed: Annotated[
        float | None, typer.Option(help="Plan for a machine that keeps up so many TFLOP/s.", min=0.001)
    ] = None,
    decode: Annotated[float | None, typer.Option(help="Plan with so many ms to read a film.", min=0)] = None,
    maps: Annotated[Maps, typer.Option(help="Keep maps on disk, or run the encoder in every epoch.")] = Maps.auto,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass.")] = None,
    workers: Annotated[int, typer.Option(help="Threads that decode images.")] = 2,
    processes: Annotated[int, typer.Option(help="How many processes (GPUs) train an encoder.")] = 1,
    cache_images: Annotated[
        bool, typer.Option("--cache-images", help="Keep prepared films on disk for maps made in every epoch.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Of the encoder's forward pass.")] = Precision.auto,
    out: Annotated[Path | None, typer.Option(help="Where runs and results go; runs/NAME by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run again what is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan or the tables as JSON.")] = False,
) -> None:
    """Run a grid: encoders × tasks × heads × adaptations × shots × seeds.

    A plan is printed first: cells, time, disk, memory. A cell that fails is recorded and the rest goes on; exit status
    1 says that some did. The same command again goes on where it stopped. Results: OUT/results.parquet, one row a run
    and metric; OUT/failures.json.

    Examples:

        evalfm study demo

        evalfm study feature-quality --data build/siim --plan

        evalfm study feature-quality --data phantom --limit 60 --encoder resnet50 --weights random --recipe epochs=1

        evalfm study my-study.yaml --task ptx-seg --adaptation frozen --seeds 1 --out runs/first-look

        evalfm study vlm-radiology --plan --images 12047 --speed 30 --workers 8     (films and a GPU that are not here)
    """
    from evalfm.errors import EvalfmError
    from evalfm.probing.names import is_encoder_path, is_task
    from evalfm.study.config import check_study_names, load_study

    if not plan and (images is not None or speed is not None or decode is not None):
        raise EvalfmError("--images, --speed and --decode make a plan for what is not here; add --plan.")
    only = (
        listed(encoder, "--encoder", is_encoder_path),
        listed(task, "--task", is_task),
        listed_words(adaptation, "--adaptation", AdaptationName),
    )
    asked = load_study(config).on(data).only(*map(tuple, only))
    # Before torch is imported, which takes seconds.
    check_study_names(asked, data=images is None)
    asked = _changed(asked, weights, recipe, limit, seeds)

    from evalfm.cli.console import Bars, emit_json
    from evalfm.cli.study_tables import LiveTable, print_plan, print_results, results_json
    from evalfm.study import Assumed, Machine, make_plan, run_study
    from evalfm.study.cohorts import Manifests

    machine = Machine(
        device=device,
        precision=precision.value,
        maps=maps.value,
        batch_size=batch_size,
        workers=workers,
        processes=processes,
        cache_images=cache_images,
        force=force,
    )
    bars = Bars()
    manifests = Manifests(bars)
    assumed = Assumed(images, speed, None if decode is None else decode / 1e3)
    planned = make_plan(asked, machine, assumed, manifests, bars)
    if plan and json:
        emit_json(planned.to_json())
        return
    print_plan(planned, on_stderr=not plan)
    if plan:
        return
    folder = out or Path("runs") / asked.name
    with LiveTable(asked.title) as live:
        done: StudyRuns = run_study(asked, folder, live, machine=machine, manifests=manifests, watch=live)
    if json:
        emit_json(results_json(done))
    else:
        print_results(asked.title, done)
    if done.failed:
        raise typer.Exit(SOME_FAILED)


def _changed(
    asked: Study, weights: str | None, recipe: list[str] | None, limit: int | None, seeds: int | None
) -> Study:
    """The study with what the command line says of every cell."""
    from evalfm.cards import parse_yaml
    from evalfm.encoders.reference import EncoderRef, find_alias
    from evalfm.errors import EvalfmError
    from evalfm.training.recipe import parse_changes

    changes: dict[str, Any] = {}
    if weights not in (None, "random", "hub"):
        raise EvalfmError(
            "--weights of a study is random or hub; the file of one encoder's weights stands in its YAML."
        )
    supervised = [each.model_dump() for each in asked.supervised]
    if weights is not None:
        cards = {
            each.name: EncoderRef.parse(each.name).card() for each in asked.encoders if find_alias(each.name) is None
        }
        changes["encoders"] = [
            # What takes no weights, as a classical descriptor, stays as it is.
            each.model_dump() | ({"weights": weights} if card and card.weights.source != "none" else {})
            for each in asked.encoders
            for card in [cards.get(each.name)]
        ]
        for plain, each in zip(supervised, asked.supervised, strict=True):
            # From scratch every weight is drawn already.
            plain |= {"weights": weights} if each.trained != "scratch" else {}
    if recipe:
        parsed = {name: parse_yaml(str(value), f"--recipe {name}") for name, value in parse_changes(recipe).items()}
        changes["adaptations"] = [
            each.model_dump() | {"recipe": each.recipe if each.name == "frozen" else {**each.recipe, **parsed}}
            for each in asked.adaptations
        ]
        for plain in supervised:
            plain["recipe"] = {**plain["recipe"], **parsed}
    changes["supervised"] = supervised
    if limit is not None:
        changes["limit"] = limit
    if seeds is not None:
        changes["seeds"] = seeds
    return asked.changed(**changes)
