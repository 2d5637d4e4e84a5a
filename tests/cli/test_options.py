"""Options that take several names take commas, and no option is overwritten in silence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from evalfm.cards import CardModel, Option
from evalfm.cli.app import app
from evalfm.cli.options import OnceCommand, Verbs, configured, listed, listed_words
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.probing.names import is_encoder_path, is_task

ROOT = Path(__file__).resolve().parents[2]


def every_verb(command: object, name: str = "evalfm") -> Iterator[tuple[str, object]]:
    inside = getattr(command, "commands", None)
    if inside is None:
        yield name, command
    for each, verb in (inside or {}).items():
        yield from every_verb(verb, f"{name} {each}")


VERBS = dict(every_verb(typer.main.get_command(app)))


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_refuses_what_would_overwrite(name: str) -> None:
    verb = VERBS[name]
    assert isinstance(verb, OnceCommand)
    for option in verb.params:
        takes_value = option.param_type_name == "option" and not option.is_flag  # type: ignore[attr-defined]
        if not takes_value or option.name == "help":
            continue
        spelt = max(option.opts, key=len)
        value = "1"
        if option.multiple:  # type: ignore[attr-defined]
            continue
        with verb.make_context(name, [], resilient_parsing=True) as context:
            context.resilient_parsing = False
            with pytest.raises(EvalfmError, match=f"^{spelt} takes one value and was given 2 times; give it once"):
                verb.parse_args(context, [spelt, value, spelt, value])


def test_switches_may_be_said_twice_but_not_both_ways() -> None:
    assert CliRunner().invoke(app, ["ls", "tasks", "--json", "--json"]).exit_code == 0
    both = CliRunner().invoke(app, ["ls", "encoders", "--gated", "--open"])
    assert isinstance(both.exception, EvalfmError)
    assert "--gated takes one value" in str(both.exception)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a", "b"], ["a", "b"]),
        (["a,b", "c , d"], ["a", "b", "c", "d"]),
        (["a,b,", "b"], ["a", "b"]),
        (None, []),
    ],
)
def test_names_stand_with_commas_or_repeated_each_once(given: list[str] | None, names: list[str]) -> None:
    assert listed(given, "--encoder") == names


def test_an_option_without_a_name_is_refused() -> None:
    with pytest.raises(EvalfmError, match="--head was given without a name"):
        listed([","], "--head")
    with pytest.raises(UnknownNameError, match=r"'frozn'\. Did you mean 'frozen'"):
        listed_words(["lora,frozn"], "--adaptation", ["lora", "frozen"])


def test_commas_in_paths_that_are_there_and_in_columns_are_no_separators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squares: Manifest
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.parquet", "my,code.py", "card,one.yaml"):
        Path(name).touch()
    given = "hog,precomputed:a,b.parquet,my,code.py:build,card,one.yaml@cls,pixels,precomputed:no,no.csv"
    assert listed([given], "--encoder", is_encoder_path) == [
        *("hog", "precomputed:a,b.parquet", "my,code.py:build", "card,one.yaml@cls", "pixels"),
        *("precomputed:no", "no.csv"),
    ]
    # Drive letters and backslashes hold no comma and mean nothing here.
    assert listed([r"precomputed:C:\my\a.parquet,hog"], "--encoder", is_encoder_path) == [
        r"precomputed:C:\my\a.parquet",
        "hog",
    ]
    Manifest(squares.info, squares.table.assign(**{"Effusion, left": 1.0}), squares.folder).write(tmp_path / "set")
    asked = listed(["Effusion, left,square"], "--task", partial(is_task, data=str(tmp_path / "set")))
    assert asked == ["Effusion, left", "square"]


REFUSED = (
    ("probe", "--encoder", "hog", "--task", "ptx-cls", "--head", "liner"),
    ("probe", "--encoder", "random:resnet18,hgo", "--task", "ptx-cls"),
    ("probe", "--encoder", "hog", "--task", "ptx-csl"),
    ("probe", "--encoder", "hog", "--task", "ptx-cls", "--data", "nowhere"),
    ("probe", "--encoder", "hog", "--task", "ctr", "--head", "linear"),
    ("probe", "--encoder", "hog", "--task", "ptx-seg", "--adaptation", "lora", "--recipe", "epohcs=1"),
    ("probe", "--encoder", "hog", "--task", "ptx-cls", "--data", "a", "--data", "b"),
    ("probe", "--encoder", "precomputed:nowhere.csv", "--task", "ptx-cls"),
    ("probe", "--encoder", "nowhere.py:build", "--task", "ptx-cls"),
    ("embed", "--encoder", "hog,hgo", "--out", "{encoder}.parquet"),
    ("embed", "--encoder", "hog,hgo", "--similarity"),
    ("embed", "--encoder", "hog", "--data", "nowhere", "--out", "x.parquet"),
    ("embed", "--encoder", "hog", "--out", "x.csv"),
    ("probe", "--encoder", "hog", "--task", "ptx-cls", "--episodes", "3", "--shots", "one"),
    ("study", "data-scarcty"),
    ("study", "data-scarcity", "--head", "knn,linaer"),
    ("study", "data-scarcity", "--data", "nowhere"),
    ("study", "demoo"),
    ("study", "demo", "--encoder", "hgo"),
    ("study", "demo", "--adaptation", "frozn"),
    ("study", "demo", "--data", "nowhere"),
    ("study", "wrong.yaml"),
    ("predict", "nowhere", "--data", "nowhere"),
    ("counterfactual", "nowhere"),
    ("robustness", "nowhere"),
    ("show", "encoder", "hgo"),
    ("show", "task", "ptx-csl"),
    ("show", "data", "nowhere"),
    ("show", "run", "nowhere"),
    ("ls", "runs", "nowhere"),
    ("ls", "encoders", "--paradigm", "text"),
)
WRONG_STUDY = """
schema: 1
name: wrong
title: Names that nobody answers to
data: phantom
encoders: [hgo, hog]
tasks: [ptx-csl, {name: sex, heads: [liner]}]
heads: {binary: [knnn]}
supervised: [{encoder: resnet99, head: unett}]
"""
LIGHT = """
import json, sys
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
for arguments in json.loads(sys.stdin.read()):
    try:
        app(arguments)
        said = "was not refused"
    except EvalfmError as error:
        said = str(error)
    except SystemExit as error:
        said = f"exit {error.code}"
    heavy = [name for name in ("torch", "timm", "transformers", "peft", "matplotlib") if name in sys.modules]
    print(json.dumps([said, heavy]))
"""


def test_wrong_names_are_told_without_torch(tmp_path: Path) -> None:
    import json

    (tmp_path / "wrong.yaml").write_text(WRONG_STUDY)
    environment = {"PYTHONPATH": str(ROOT), "EVALFM_HOME": str(tmp_path / "home")}
    asked = subprocess.run(
        [sys.executable, "-c", LIGHT],
        input=json.dumps(REFUSED),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    told = dict(zip(REFUSED, answers, strict=True))
    assert {arguments: heavy for arguments, (_, heavy) in told.items() if heavy} == {}
    unclear = ("exit", "was not refused")
    assert [arguments for arguments, (said, _) in told.items() if said.startswith(unclear)] == []
    assert "Did you mean 'linear'?" in told[REFUSED[0]][0]
    wrong = told["study", "wrong.yaml"][0]
    assert all(f"'{name}'" in wrong for name in ("hgo", "ptx-csl", "liner", "knnn", "resnet99", "unett"))
    assert not (tmp_path / "home").exists(), "no phantom was drawn"


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


verbs = Verbs()


@verbs.command()
@configured(Config)
def probe(options: dict[str, Any], json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say what was given."""
    typer.echo(json.dumps({**options, "json": json_}, default=str))


@verbs.command()
def other() -> None:
    """Do nothing."""


def call(*words: str) -> Any:
    result = CliRunner().invoke(verbs, ["probe", *words])
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
    result = CliRunner(env={"COLUMNS": "100"}).invoke(verbs, ["probe", "--help"])
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
