"""Options that come from the fields of a configuration."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from evalfm.cards import CardModel, Option
from evalfm.cli.configured import configured
from evalfm.cli.options import Verbs
from evalfm.errors import EvalfmError


class Inner(CardModel):
    name: str = ""


class Config(CardModel):
    encoder: Annotated[tuple[str, ...], Field(description="Encoders.")]
    shots: Annotated[int | None, Field(ge=1, description="Images per class."), Option("Few labels")] = None
    sizes: Annotated[tuple[int, ...], Field(description="Sizes.")] = ()
    adaptation: Annotated[
        Literal["frozen", "lora"], Field(description="What is trained."), Option(names=("--adaptation", "-a"))
    ] = "frozen"
    recipe: Annotated[dict[str, Any], Field(description="Changes.")] = Field(default_factory=dict)
    labels: Annotated[
        dict[str, str], Field(description="Labels."), Option(names=("--label",), metavar="NAME[=COLUMN]", bare=True)
    ] = Field(default_factory=dict)
    mapping: Annotated[Inner | None, Field(description="YAML of columns.")] = None
    force: Annotated[bool, Field(description="Run again.")] = False
    inner: Annotated[str | None, Option(hidden=True)] = None


app = Verbs()


@app.command()
@configured(Config)
def probe(options: dict[str, Any], json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say what was given."""
    typer.echo(json.dumps({**options, "json": json_}, default=str))


@app.command()
def other() -> None:
    """Do nothing."""


def call(*words: str) -> Any:
    result = CliRunner().invoke(app, ["probe", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout) if result.exit_code == 0 else result.output


def test_only_what_was_given_is_passed_on() -> None:
    assert call("--encoder", "a,b", "--encoder", "a") == {"encoder": ["a", "b"], "json": False}


def test_each_type_has_its_option() -> None:
    given = call(
        "--encoder", "a", "-a", "lora", "--recipe", "epochs=1", "--recipe", "rank = 2", "--sizes", "1", "--sizes", "2",
        "--force", "--shots", "3", "--label", "a", "--label", "b=c", "--mapping", "m.yaml", "--json",
    )  # fmt: skip
    assert given == {
        "encoder": ["a"],
        "adaptation": "lora",
        "recipe": {"epochs": "1", "rank": "2"},
        "sizes": [1, 2],
        "labels": {"a": "a", "b": "c"},
        "mapping": "m.yaml",
        "force": True,
        "shots": 3,
        "json": True,
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--shots", "1", "--shots", "2"], "--shots takes one value and was given 2 times; give it once."),
        (["--recipe", "epochs"], "--recipe epochs is not NAME=VALUE; write it so."),
        (["--recipe", "=3"], "--recipe =3 is not NAME=VALUE; write it so."),
        (["--recipe", "epochs="], "--recipe epochs= is not NAME=VALUE; write it so."),
        (["--sizes", "1,x"], "--sizes takes whole numbers with commas between, such as 1,2,5, not '1,x'."),
        (["--recipe", "a=1", "--recipe", "a=2"], "--recipe a=2 is not NAME=VALUE, each name once; write it so."),
        (["--label", "a="], r"--label a= is not NAME\[=COLUMN\]; write it so."),
    ],
)
def test_what_cannot_be_read_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(EvalfmError, match=f"^{sentence}$"):
        call("--encoder", "a", *words)


def test_help_has_the_panel_the_default_and_the_choices() -> None:
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["probe", "--help"])
    said = " ".join(result.stdout.split())
    assert "─ Few labels ─" in said
    assert "Default: frozen." in said
    assert "<frozen|lora>" in said or "[frozen|lora]" in said
    assert "inner" not in said


def test_a_field_without_help_is_refused() -> None:
    class Silent(BaseModel):
        name: str = ""

    with pytest.raises(TypeError, match="name has no description"):
        configured(Silent)(probe)


def test_fields_can_be_left_out() -> None:
    narrow = Verbs()

    @narrow.command()
    @configured(Config, without=("encoder", "recipe"))
    def some(options: dict[str, Any]) -> None:
        """Say what was given."""
        typer.echo(json.dumps(options))

    @narrow.command()
    def other() -> None:
        """Do nothing."""

    runner = CliRunner()
    assert json.loads(runner.invoke(narrow, ["some", "--shots", "2"]).stdout) == {"shots": 2}
    assert runner.invoke(narrow, ["some", "--encoder", "a"]).exit_code == 2
