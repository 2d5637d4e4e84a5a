"""`evalfm probe`: measure encoders on tasks."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Annotated, Any

import typer

from evalfm.cli.console import Bars, emit_json, print_notice, print_runs, table_json
from evalfm.cli.options import configured, listed
from evalfm.config import ProbeConfig

SOME_FAILED = 1
"""Exit status where some of several encoders and tasks failed: what did not fail is on disk."""


@configured(ProbeConfig)
def probe(
    options: dict[str, Any], json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False
) -> None:
    """Measure how well heads on an encoder's features predict the target of a task.

    Every choice is made on val, test is touched once, and each result is a run directory.

    Examples:

        evalfm probe --encoder rad-dino --task ptx-seg

        evalfm probe --encoder rad-dino,dinov2-base --task ptx-cls,cardiomegaly-cls --data build/nih

        evalfm probe --encoder random:resnet18 --task ptx-cls

        evalfm probe --encoder resnet50 --weights resnet50.safetensors --task cardiomegaly-cls --data nih --folds 5

        evalfm probe --encoder pixels --task sex --data build/nih --shots 1,5,20 --seeds 3

        evalfm probe --encoder rad-dino --task tb-cls --data shenzhen --shots 1,5,20 --episodes 100

        evalfm probe --encoder rad-dino --task ptx-seg --adaptation lora --recipe rank=16 --recipe epochs=10

        evalfm probe --encoder biomedclip --task ptx-cls --head zeroshot --threshold f1

        evalfm probe --encoder rad-dino,dinov2-base --task ptx-seg --devices all      (one process for each GPU)

        evalfm probe --encoder unet-resnet34 --task ptx-seg      (a supervised U-Net, --adaptation scratch)
    """
    from evalfm.probing.names import check_names, is_encoder_path, is_task

    data, test_data = options.get("data"), options.get("test_data")
    encoders = listed(options.pop("encoder"), "--encoder", is_encoder_path)
    tasks = listed(options.pop("task"), "--task", partial(is_task, data=data))
    training = {name: options.get(name) for name in ("adaptation", "recipe")}
    # Before torch is imported, which takes seconds.
    check_names(encoders, tasks, options.get("heads", ()), [data, test_data], aliases=True, **training)
    for encoder, shots in product(encoders, options.get("shots", [None])):
        ProbeConfig.checked(encoder=encoder, task=tasks[0], **{**options, "shots": shots})

    from evalfm.features.profile import StageTimes
    from evalfm.probing.probe import SomeFailedError
    from evalfm.probing.probe import probe as run

    bars = Bars()
    times = StageTimes() if options.get("profile") else None
    print_notice(data, bars)
    failed: SomeFailedError | None = None
    try:
        runs = run(encoders, tasks, progress=bars, times=times, **options)
    except SomeFailedError as error:
        if not error.runs and not error.traces:
            raise
        runs, failed = error.runs, error
    if json:
        from evalfm.analysis.table import task_tables

        tables = [table_json(table) for table in task_tables(runs)]
        emit_json(tables if times is None else {"tables": tables, "seconds": times.to_json()})
    else:
        print_runs(runs)
        for each in runs:
            typer.echo(str(each.folder))
        if times is not None:
            typer.echo("\n".join(times.table()))
    print_notice(data, bars)
    if failed is not None:
        for label, sentence in failed.failures.items():
            typer.echo(failed.traces.get(label, "") + f"Failed: {label}: {sentence}", err=True)
        raise typer.Exit(SOME_FAILED)
