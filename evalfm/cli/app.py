"""All verbs in one place; nothing heavy is imported before a verb runs."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import evalfm
from evalfm.cli.console import INTERRUPTED, tell_interrupt
from evalfm.cli.options import Verbs
from evalfm.errors import EvalfmError, shown
from evalfm.paths import text_fault, user_path

ORDER = (
    *(
        "demo",
        "probe",
        "study",
        "predict",
        "embed",
        "compare",
        "bias",
        "counterfactual",
        "robustness",
        "choose",
        "report",
        "export",
        "sample_size",
    ),
    *("fetch", "doctor", "convert", "ls", "show", "data"),
)
"""How the help lists the verbs; others follow."""
NO_VERBS = ("app",)


class _Verbs(TyperGroup):
    """All verbs; looks at every word of a call before one runs, and answers Ctrl-C, of which typer says no word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for word in args:
            fault = text_fault(word)
            if fault is not None:
                raise EvalfmError(f"The word {shown(word)} {fault}.")
            if not word or (word.startswith("--") and word.endswith("=")):
                raise EvalfmError(
                    f"{word or 'A word of the call'} is empty; leave it out, or see what should have filled it in."
                )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell_interrupt()
            raise SystemExit(INTERRUPTED) from None


def _with_paths(verb: Callable[..., Any]) -> Callable[..., Any]:
    """``verb`` with each path that it is given brought into one form, so that no option can be forgotten."""

    @wraps(verb)
    def with_paths(**given: Any) -> Any:
        return verb(**{name: _in_one_form(value) for name, value in given.items()})

    return with_paths


def _in_one_form(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_one_form(each) for each in value]
    return user_path(value) if isinstance(value, Path) else value


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


def _add_verbs() -> None:
    """Add every module of this folder that holds a function of its own name, or a group of verbs called ``app``."""
    names = [each.name for each in pkgutil.iter_modules([str(Path(__file__).parent)]) if each.name not in NO_VERBS]
    groups = [app]
    for name in sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        module = import_module(f"{__package__}.{name}")
        if isinstance(getattr(module, "app", None), Verbs):
            app.add_typer(module.app, name=name)
            groups.append(module.app)
        elif callable(getattr(module, name, None)):
            app.command(name.replace("_", "-"))(getattr(module, name))
    for command in (command for group in groups for command in group.registered_commands):
        if command.callback is not None:
            command.callback = _with_paths(command.callback)


_add_verbs()
