"""`evalfm ls`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalfm.cli.compare import runs_in
from evalfm.cli.console import (
    emit_json,
    in_letters,
    print_metrics,
    print_operating_points,
    print_rows,
    print_task,
    table_json,
)
from evalfm.cli.options import Verbs
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.plugins import load_all

if TYPE_CHECKING:
    from evalfm.cards import CardModel
    from evalfm.encoders.card import EncoderCard
    from evalfm.plugins import PlugIn

app = Verbs(help="List encoders, tasks, heads, metrics, data sets or runs.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def encoders(
    paradigm: Annotated[str | None, typer.Option(help="image-only, image-text or label-supervised.")] = None,
    domain: Annotated[str | None, typer.Option(help="Part of the domain, such as chest.")] = None,
    licence: Annotated[str | None, typer.Option(help="Part of the licence, such as MIT.")] = None,
    commercial: Annotated[str | None, typer.Option(help="yes, no or ask.")] = None,
    gated: Annotated[bool | None, typer.Option("--gated/--open", help="Behind a licence to accept, or not.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Only those that read sentences too.")] = False,
    min_parameters: Annotated[str | None, typer.Option(help="Such as 20M.")] = None,
    max_parameters: Annotated[str | None, typer.Option(help="Such as 100M or 1.2B.")] = None,
    json: Json = False,
) -> None:
    """List the encoders of the catalogue, and the baselines.

    Examples:

        evalfm ls encoders

        evalfm ls encoders --domain chest --commercial yes --max-parameters 100M
    """
    from evalfm.encoders.card import EncoderCard
    from evalfm.encoders.catalogue import Wanted, catalogue, parameters_of, shown_size
    from evalfm.encoders.reference import ALIASES
    from evalfm.encoders.registry import PREFIXES, encoder_plugins
    from evalfm.encoders.weight_sources import runs_here

    for word, value, known in (
        ("paradigm", paradigm, ("image-only", "image-text", "label-supervised", "none")),
        ("answer about commercial use", commercial, ("yes", "no", "ask")),
    ):
        if value is not None and value not in known:
            raise UnknownNameError(word, value, known)
    least, most = (None if bound is None else parameters_of(bound) for bound in (min_parameters, max_parameters))
    cards = catalogue(Wanted(paradigm, domain, licence, commercial, gated, text, least, most))
    here = {name: isinstance(card, EncoderCard) and runs_here(card) for name, card in cards.items()}
    if json:
        described = _described(cards, encoder_plugins())
        emit_json({name: each | {"runs_here": here[name]} for name, each in described.items()})
        return
    rows = []
    for name, card in sorted(cards.items(), key=lambda each: not here[each[0]]):
        loaded = isinstance(card, EncoderCard)
        rows.append(
            [
                name,
                card.paradigm,
                card.domain,
                shown_size(card.parameters) if isinstance(card, EncoderCard) else "–",
                str(card.pooled_dim or "–"),
                "×".join(map(str, card.preprocessing.input_size)) if isinstance(card, EncoderCard) else "–",
                "yes" if loaded and getattr(card, "text_tower", None) else "–",
                _weights(card, here=here[name]) if isinstance(card, EncoderCard) else "precomputed",
                card.licence,
                card.commercial_use,
            ]
        )
    columns = ["name", "paradigm", "domain", "size", "dim", "input", "text", "weights", "licence", "commercial use"]
    print_rows("Encoders", columns, rows)
    ready = ", ".join(name for name, each in here.items() if each)
    typer.echo(f"Run here and now, without a download, and stand first: {ready or 'none of these'}.")
    _say_plugins(encoder_plugins())
    variants = [f"{name}@{each}" for name, card in cards.items() for each in getattr(card, "variants", {})]
    if variants:
        typer.echo(f"Variants of the forward pass: {', '.join(variants)}.")
    also = [*(prefix.example for prefix in PREFIXES.values()), "card.yaml", "file.py:build"]
    typer.echo(f"Also: {', '.join(also)}.")
    baselines = [f"{each.name} ({each.encoder}, head {each.head}, {each.adaptation})" for each in ALIASES.values()]
    typer.echo(f"Supervised baselines in one word: {', '.join(baselines)}.")


@app.command()
def tasks(json: Json = False) -> None:
    """List the tasks; any label column of a data set is one too.

    Example:

        evalfm ls tasks
    """
    from evalfm.tasks.task import list_tasks, task_plugins

    cards = list_tasks()
    if json:
        emit_json(_described(cards, task_plugins()))
        return
    rows = [[name, card.kind, card.primary, ", ".join(card.heads), card.title] for name, card in cards.items()]
    print_rows("Tasks", ["name", "kind", "primary metric", "heads", "question"], rows)
    _say_plugins(task_plugins())


@app.command()
def heads(json: Json = False) -> None:
    """List the heads, what they serve and what they read.

    Example:

        evalfm ls heads
    """
    from evalfm.heads.registry import head_plugins, list_heads

    known = list_heads()
    if json:
        listed = [
            {"name": head.name, "kinds": sorted(head.kinds), "needs": sorted(head.needs), "summary": head.summary}
            for head in known
        ]
        emit_json([head | _origin(str(head["name"]), head_plugins()) for head in listed])
        return
    rows = [[head.name, ", ".join(sorted(head.kinds)), ", ".join(sorted(head.needs)), head.summary] for head in known]
    print_rows("Heads", ["name", "kinds", "needs", "what it is"], rows)
    _say_plugins(head_plugins())


@app.command()
def metrics(json: Json = False) -> None:
    """List the metrics, the kinds of task that have them, and which values are good.

    Example:

        evalfm ls metrics
    """
    from evalfm.metrics.registry import list_metrics, metric_plugins

    known = list_metrics()
    if json:
        listed = [
            {
                "name": metric.name,
                "kinds": list(metric.kinds),
                "of_class": list(metric.of_class),
                "unit": metric.unit,
                "better": metric.better,
                "paired": metric.contrast is not None,
            }
            for metric in known
        ]
        emit_json([metric | _origin(str(metric["name"]), metric_plugins()) for metric in listed])
        return
    rows = [
        [
            metric.name,
            ", ".join(metric.kinds),
            ", ".join(metric.of_class),
            metric.unit or "–",
            metric.direction,
            "yes" if metric.contrast is not None else "–",
        ]
        for metric in known
    ]
    print_rows("Metrics", ["name", "kinds of task", "of each class", "unit", "better", "compared in pairs"], rows)
    _say_plugins(metric_plugins())


@app.command()
def data(json: Json = False) -> None:
    """List the registered data sets and the sources that can be imported.

    Example:

        evalfm ls data
    """
    from evalfm.data.registered import registered
    from evalfm.data.sources import list_sources, source_plugins

    known, sources = registered(), list_sources()
    if json:
        emit_json({"registered": {name: str(folder) for name, folder in known.items()}, "sources": sources})
        return
    if known:
        print_rows("Registered data sets", ["name", "folder"], [[name, str(folder)] for name, folder in known.items()])
    else:
        typer.echo("No data set is registered; `evalfm data register NAME FOLDER` gives one a name.")
    print_rows("Sources for `evalfm data import`", ["name"], [[name] for name in sources])
    _say_plugins(source_plugins())
    typer.echo("Without --data a task runs on the phantom (400 synthetic images).")


@app.command()
def runs(
    out: Annotated[Path, typer.Argument(help="Folder of runs.")] = Path("runs"),
    metrics: Annotated[
        str | None, typer.Option(help="Names such as ppv,npv in place of the task's first ones, or all.")
    ] = None,
    json: Json = False,
) -> None:
    """Show the results of the runs under a folder: a table a task and test cohort.

    Examples:

        evalfm ls runs runs/

        evalfm ls runs runs/ --metrics all
    """

    if not out.is_dir():
        raise EvalfmError(f"There is no run under {out}; make one with `evalfm probe` or name another folder.")

    from evalfm.analysis.table import every_metric, task_tables, with_metrics

    tables = task_tables(runs_in([out], with_predictions=False, episodes=True))
    names = [each.strip() for each in (metrics or "").split(",") if each.strip()]
    if names:
        tables = [with_metrics(each, every_metric(each) if names == ["all"] else names) for each in tables]
    if json:
        emit_json([table_json(table) for table in tables])
        return
    for table in tables:
        if len(names) > 1 or names == ["all"]:
            print_metrics(table)
        else:
            print_task(table)
            print_operating_points(table)


def _weights(card: EncoderCard, *, here: bool) -> str:
    """Where the weights come from, and whether they are here where that is not said by itself."""
    from evalfm.encoders.weight_sources import weights_word

    word = weights_word(card)
    return f"{word}, cached" if here and word in ("hub", "gated") else word


def _origin(name: str, plugins: Mapping[str, PlugIn[Any]]) -> dict[str, str]:
    """Where ``name`` comes from, if from another package."""
    return {"plugin": plugins[name].origin} if name in plugins and not plugins[name].fault else {}


def _described(cards: Mapping[str, CardModel], plugins: Mapping[str, PlugIn[Any]]) -> dict[str, Any]:
    """Every card as plain values."""
    return {name: card.model_dump(mode="json", by_alias=True) | _origin(name, plugins) for name, card in cards.items()}


def _say_plugins(plugins: Mapping[str, PlugIn[Any]]) -> None:
    """Say where each plug-in comes from, and of a broken one why it cannot be used."""

    working, broken = load_all(plugins)
    for name in working:
        typer.echo(in_letters(f"Plugged in: {name}, by {plugins[name].origin}."))
    for reason in broken.values():
        typer.echo(in_letters(f"Broken: {reason}"))
