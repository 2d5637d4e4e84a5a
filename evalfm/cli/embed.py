"""`evalfm embed`: embeddings and feature maps for use outside, and how alike encoders see the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalfm.cli.console import Bars, emit_json, print_notice, print_rows
from evalfm.cli.options import configured, listed
from evalfm.errors import EvalfmError
from evalfm.probing.embed_config import EmbedConfig, plan_files

if TYPE_CHECKING:
    from evalfm.probing.embedding import Embedded


@configured(EmbedConfig)
def embed(
    options: dict[str, Any],
    similarity: Annotated[
        bool,
        typer.Option(
            "--similarity",
            help="Write no embeddings: effective rank of each encoder's, and how alike each two see the same images.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write what encoders make of every image of a data set to a file, for use outside; no labels are needed.

    Parquet holds the columns id and embedding, one row an image in the order of the table; safetensors the arrays
    pooled, ids and, with --maps, map_0, map_1 …. Ids are salted hashes unless the data set's are public. After a break
    the same command goes on where it stopped. Shards, at once or one by one, write FILE-K-of-N; the command without
    --shard then computes nothing and writes the whole.

    Examples:

        evalfm embed --encoder rad-dino --data build/nih --out features.parquet

        evalfm embed --encoder rad-dino,dinov2-base --data build/nih --out 'features-{encoder}.safetensors' --maps

        evalfm embed --encoder rad-dino --data build/nih --out features.parquet --shard $SLURM_ARRAY_TASK_ID/8

        evalfm embed --encoder hog,random:resnet18 --similarity     (tables alone; with --out, features.json for report)
    """
    from evalfm.probing.names import is_encoder_path

    encoders = listed(options.pop("encoder"), "--encoder", is_encoder_path)
    data = options.pop("data", None)
    if similarity:
        _similarity(encoders, data, options, json=json)
        return
    # Before torch is imported, which takes seconds.
    plan_files(encoders, data, options)

    from evalfm.features.profile import StageTimes
    from evalfm.probing.embedding import embed as run

    bars = Bars()
    print_notice(data, bars)
    times = StageTimes() if options.get("profile") else None
    made = run(encoders, data, progress=bars, times=times, **options)
    if json:
        files = {"files": [each.to_json() for each in made]}
        emit_json(files | {"seconds": times.to_json()} if times is not None else files)
        return
    for each in made:
        _print(each)
    if times is not None:
        typer.echo("\n".join(times.table()))


def _print(made: Embedded) -> None:
    """Two or three lines of one file."""
    state = "there already" if made.existing else f"{made.encoded_images:,} encoded now"
    typer.echo(f"{made.encoder}: {made.file}")
    typer.echo(f"  {made.images:,} images × {made.dim:,} values, {state}")
    if made.maps:
        typer.echo("  maps " + ", ".join("×".join(map(str, shape)) for shape in made.maps))
    if made.ids == "hashed":
        typer.echo("  Ids are salted hashes, which precomputed:FILE joins; --plain-ids writes the data set's own.")
    for caution in made.cautions:
        typer.echo(f"  {caution}")


def _similarity(encoders: list[str], data: str | None, options: dict[str, Any], *, json: bool) -> None:
    """Print the tables of effective rank and likeness; with --out they are kept for a report."""
    from evalfm.probing.names import check_names

    for name in ("maps", "shard", "plain_ids", "force", "executor", "address"):
        if options.pop(name, None):
            flag = f"--{name.replace('_', '-')}"
            raise EvalfmError(
                f"--similarity writes no embeddings, so {flag} would do nothing; leave one of the two out."
            )
    if options.get("devices") == "all" or "," in options.get("devices", ""):
        raise EvalfmError("--similarity runs in one process; name one device, or leave --devices out.")
    out, profile = options.pop("out", None), options.pop("profile", False)
    if out is not None and out.suffix in (".parquet", ".safetensors"):
        raise EvalfmError(f"With --similarity, --out is a folder for features.json and not {out}; name a folder.")
    check_names(encoders, data=[data])

    from evalfm.analysis.report.section import quality_tables
    from evalfm.features.profile import NO_TIMES, StageTimes
    from evalfm.probing.feature_quality import FEATURES, IMAGES, feature_quality

    bars = Bars()
    print_notice(data, bars)
    times = StageTimes() if profile else NO_TIMES
    images = options.pop("limit", IMAGES)
    content = feature_quality(encoders, data, images=images, out=out, progress=bars, times=times, **options)
    if json:
        emit_json(content | {"seconds": times.to_json()} if profile else content)
        return
    found = quality_tables(0, content)
    for heading, table in found.tables:
        print_rows(heading, table.header, table.texts)
    typer.echo(found.words)
    for caution in found.cautions:
        typer.echo(f"  {caution}")
    if out is not None:
        typer.echo(f"Wrote {out / FEATURES}")
    if profile:
        typer.echo("\n".join(times.table()))
