"""`evalfm probe`: measure encoders on tasks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evalfm.cli.options import listed

SOME_FAILED = 1
"""Exit status where some of several encoders and tasks failed: what did not fail is on disk."""


class Resize(StrEnum):
    """Resize policies."""

    squash = "squash"
    crop = "shortest-edge-crop"
    letterbox = "letterbox"


class Precision(StrEnum):
    """Number formats of the encoder's forward pass."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class AdaptationName(StrEnum):
    """What of the encoder is trained."""

    frozen = "frozen"
    lora = "lora"
    full = "full"
    scratch = "scratch"


class Maps(StrEnum):
    """What becomes of feature maps."""

    auto = "auto"
    store = "store"
    stream = "stream"


class Baselines(StrEnum):
    """Which baselines run beside the encoder."""

    default = "default"
    none = "none"
    all = "all"


def probe(
    encoder: Annotated[
        list[str],
        typer.Option(
            help="A card's name, card.yaml, file.py:build, or precomputed:FILE; repeat for several, or commas between."
        ),
    ],
    task: Annotated[
        list[str], typer.Option(help="A task's name, task.yaml, or a label column of the data; several likewise.")
    ],
    data: Annotated[str | None, typer.Option(help="Folder or registered name; else the phantom.")] = None,
    test_data: Annotated[str | None, typer.Option(help="Another data set, tested whole.")] = None,
    head: Annotated[list[str] | None, typer.Option(help="Head; several likewise.")] = None,
    adaptation: Annotated[
        AdaptationName | None, typer.Option(help="Train the encoder too: with LoRA, whole, or from random weights.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of LoRA; short for --recipe rank=…")] = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="Change the recipe of --adaptation, e.g. epochs=10; repeat for several.")
    ] = None,
    weights: Annotated[str, typer.Option(help="hub, random, or the path of a checkpoint.")] = "hub",
    shots: Annotated[int | None, typer.Option(help="Training images per class.")] = None,
    val_shots: Annotated[
        int | None, typer.Option(help="With --shots, at most so many val images per class, never more than shots.")
    ] = None,
    base_to_novel: Annotated[
        bool, typer.Option("--base-to-novel", help="Text heads: learn on half of the classes, try on both halves.")
    ] = False,
    label_fraction: Annotated[float | None, typer.Option(help="Fraction of the training patients.")] = None,
    associate: Annotated[
        str | None,
        typer.Option(help="Tie a column to the label in train, e.g. chest_tube=0.5; test has them independent."),
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Out-of-fold predictions by patient.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of subsets and initialisation, never of the split.")] = 1,
    where: Annotated[str | None, typer.Option(help="Keep a part of the cohort, e.g. \"view == 'PA'\".")] = None,
    test_where: Annotated[str | None, typer.Option(help="Deal the patients of matching images to test.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many images.")] = None,
    baselines: Annotated[Baselines, typer.Option(help="Baselines beside the encoder.")] = Baselines.default,
    threshold: Annotated[
        str, typer.Option(help="How val cuts yes-or-no scores: youden, f1, sensitivity=.9 or specificity=.9.")
    ] = "youden",
    prompts: Annotated[
        Path | None, typer.Option(help="YAML or JSON of sentences for text heads, in place of the task's own.")
    ] = None,
    input_size: Annotated[int | None, typer.Option(help="Override the card's input size, in pixels.")] = None,
    resize: Annotated[Resize | None, typer.Option(help="Override the card's resize policy.")] = None,
    maps: Annotated[Maps, typer.Option(help="Keep maps on disk, or run the encoder in every epoch.")] = Maps.auto,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass.")] = None,
    workers: Annotated[int, typer.Option(help="Threads that decode images.")] = 2,
    processes: Annotated[int, typer.Option(help="How many processes (GPUs) train together, with --adaptation.")] = 1,
    cache_images: Annotated[
        bool, typer.Option("--cache-images", help="Keep prepared films on disk for maps made in every epoch.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Of the encoder's forward pass.")] = Precision.auto,
    out: Annotated[Path, typer.Option(help="Where runs are written.")] = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Run again what is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Measure how well heads on an encoder's features answer a task.

    Every choice is made on val, test is touched once, and each result is a run directory.

    Examples:

        evalfm probe --encoder rad-dino --task ptx-seg

        evalfm probe --encoder rad-dino,dinov2-base --task ptx-cls,cardiomegaly-cls --data build/nih

        evalfm probe --encoder random:resnet18 --task ptx-cls

        evalfm probe --encoder resnet50 --weights resnet50.safetensors --task cardiomegaly-cls --data nih --folds 5

        evalfm probe --encoder pixels --task sex --data build/nih --shots 16 --seeds 3

        evalfm probe --encoder rad-dino --task ptx-seg --adaptation lora --rank 16 --recipe epochs=10

        evalfm probe --encoder biomedclip --task ptx-cls --head zeroshot --threshold f1

        evalfm probe --encoder unet-resnet34 --task ptx-seg      (a supervised U-Net, --adaptation scratch)
    """
    from functools import partial

    from evalfm.probing.names import check_names, is_encoder_path, is_task
    from evalfm.training.recipe import parse_changes

    encoders = listed(encoder, "--encoder", is_encoder_path)
    tasks = listed(task, "--task", partial(is_task, data=data))
    heads = listed(head, "--head")
    how = None if adaptation is None else adaptation.value
    changes = parse_changes([*(recipe or []), *([] if rank is None else [f"rank={rank}"])])
    # Before torch is imported, which takes seconds.
    check_names(encoders, tasks, heads, [data, test_data], adaptation=how, recipe=changes, aliases=True)

    from evalfm.cli.console import Bars, emit_json, print_runs, table_json
    from evalfm.cli.phantom_notice import print_notice
    from evalfm.probing.probe import SomeFailedError
    from evalfm.probing.probe import probe as run

    bars = Bars()
    print_notice(data, bars)
    measure = partial(
        run,
        encoders,
        tasks,
        data=data,
        test_data=test_data,
        heads=heads or None,
        adaptation=how,
        recipe=changes,
        weights=weights,
        input_size=input_size,
        resize=None if resize is None else resize.value,
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
        baselines=baselines.value,
        threshold=threshold,
        prompts=prompts,
        device=device,
        precision=precision.value,
        maps=maps.value,
        batch_size=batch_size,
        workers=workers,
        processes=processes,
        cache_images=cache_images,
        out=out,
        force=force,
        progress=bars,
    )
    failed: SomeFailedError | None = None
    try:
        runs = measure()
    except SomeFailedError as error:
        if not error.runs and not error.traces:
            raise
        runs, failed = error.runs, error
    if json:
        from evalfm.analysis.table import task_tables

        emit_json([table_json(table) for table in task_tables(runs)])
    else:
        print_runs(runs)
        for made in runs:
            typer.echo(str(made.folder))
    print_notice(data, bars)
    if failed is not None:
        for label, sentence in failed.failures.items():
            typer.echo(failed.traces.get(label, "") + f"Failed: {label}: {sentence}", err=True)
        raise typer.Exit(SOME_FAILED)
