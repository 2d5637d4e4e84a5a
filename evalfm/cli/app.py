"""All verbs in one place; nothing heavy is imported before a verb runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import evalfm
from evalfm.cli import (
    INTERRUPTED,
    bias,
    choose,
    compare,
    convert,
    counterfactual,
    data,
    demo,
    doctor,
    episodes,
    features,
    ls,
    predict,
    probe,
    report,
    show,
    study,
    tell_interrupt,
)
from evalfm.cli.options import Verbs


class _Verbs(TyperGroup):
    """Answers Ctrl-C itself: typer would exit without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell_interrupt()
            raise SystemExit(INTERRUPTED) from None


app = Verbs(
    cls=_Verbs,
    name="evalfm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="How good are the features of a radiology foundation model, for what, and which encoder to take?\n\n"
    "Start with: [bold]evalfm demo[/bold]",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"evalfm {evalfm.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Hold the options that stand before a verb."""


app.command("demo")(demo.demo)
app.command("probe")(probe.probe)
app.command("study")(study.study)
app.command("episodes")(episodes.episodes)
app.command("predict")(predict.predict)
app.command("compare")(compare.compare)
app.command("bias")(bias.bias)
app.command("counterfactual")(counterfactual.counterfactual)
app.command("choose")(choose.choose)
app.command("report")(report.report)
app.command("features")(features.features)
app.command("doctor")(doctor.doctor)
app.command("convert")(convert.convert)
app.add_typer(ls.app, name="ls")
app.add_typer(show.app, name="show")
app.add_typer(data.app, name="data")
