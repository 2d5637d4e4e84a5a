"""Every YAML and JSON that comes from outside: plain values within bounds, or one sentence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evalfm.cards import MAX_DEPTH, CardModel, parse_json, parse_yaml, read_yaml, validate
from evalfm.cli.app import app
from evalfm.data.dataset_info import read_dataset_info
from evalfm.encoders import find_card
from evalfm.errors import EvalfmError
from evalfm.study.config import load_study
from evalfm.tasks.task import load_task

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "values, those that aliases repeat counted"),
        ("a: &a {x: 1}\nb:\n" + "".join(f"  k{i}: &k{i} {{<<: [*a, *a]}}\n" for i in range(80_000)), "aliases repeat"),
        ("a: &a [*a]", "alias [*]a"),
        ("[" * 5000, "nesting|deep"),
        ("a: " + "{a: " * 200, "deep"),
        ("\n".join(" " * level + "a:" for level in range(200)), "deep"),
        ("? " * 20_000, "deep"),
        ("a: " + "9" * 5000, "too large"),
        ("a: 0x" + "f" * 50_000, "too large"),
        ("a: " + ":".join(["59"] * 20_000), "too large"),
        ("a: 9223372036854775808", "line 1: the number 9223372036854775808"),
        ("a: " + ":".join(["59"] * 3000) + ".5", ""),
        ("a: 1\nb: 2\na: 3", "line 3: the key a stands twice"),
        ("a:\n  b: {c: 1, c: 2}", "line 2: the key c stands twice"),
        ("1: a", "the key 1 is no text"),
        ("no: a", "the key no is no text; put it in quotes"),
        ("? [a, b]\n: c", "the key is no text"),
        ("!!str {a: 1}: 2", "the key is no text"),
        ("a: !!python/object/apply:os.system [true]", "tag tag:yaml.org,2002:python"),
        ("a: !mine b", "the tag !mine is not read"),
        ("a: !!set {b, c}", "is not read"),
        ("a: !!binary aGk=", "is not read"),
        ("a: !!int ''", ""),
        ("a: !!bool perhaps", ""),
        ("a: !!int [1]", ""),
        ("--- a\n--- b", "another document"),
        ("a: [", ""),
    ],
)
def test_what_is_not_plain_or_out_of_bounds_is_said_at_once(text: str, said: str) -> None:
    start = time.process_time()
    with pytest.raises(EvalfmError, match=f"c[.]yaml is not plain YAML.*({said})"):
        parse_yaml(text, "c.yaml")
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 9223372036854775807\nb: 1.5\nc: yes\nd: ~\ne: [1, x]", {"a": 2**63 - 1, "b": 1.5, "c": True, "d": None}),
        ("a: 2024-02-30\nb: 2024-02-28\nc: =", {"a": "2024-02-30", "b": "2024-02-28", "c": "="}),
        ("a: !!str 5\nb: !!int '7'", {"a": "5", "b": 7}),
        ("a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, x: 3}", {"b": {"x": 1, "y": 2}, "c": {"x": 3, "y": 2}}),
        # One merged mapping merged again: keys that it overrides do not stand twice.
        ("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}", {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_plain_values_are_read_as_they_stand(text: str, value: dict[str, Any]) -> None:
    content = parse_yaml(text, "c.yaml")
    assert {name: content[name] for name in value} == value


def test_what_is_no_file_of_yaml_is_said(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path, "no file"),
        (tmp_path / "absent", "There is no file"),
        (Path("/dev/zero"), "no file"),
    ):
        with pytest.raises(EvalfmError, match=said):
            read_yaml(path)
    path = tmp_path / "c.yaml"
    for content, said in (
        (b"a: \xff", "as text"),
        (b"- a", "mapping"),
        (b"#" * 2_000_001, "longer than the 2,000,000"),
    ):
        path.write_bytes(content)
        with pytest.raises(EvalfmError, match=said):
            read_yaml(path)
    with pytest.raises(EvalfmError, match="as text"):
        read_yaml(Path("a\0b"))


@pytest.mark.parametrize(
    "read",
    [
        lambda path: find_card(str(path)),
        lambda path: load_task(str(path)),
        read_dataset_info,
        lambda path: load_study(str(path)),
    ],
)
def test_every_reader_of_yaml_has_the_bounds(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("arguments:\n  " + BOMB.replace("\n", "\n  "))
    with pytest.raises(EvalfmError, match="values, those that aliases repeat counted"):
        read(path)


def test_the_command_line_says_it_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("arguments:\n  " + BOMB.replace("\n", "\n  "))
    result = CliRunner().invoke(app, ["show", "encoder", str(path), "--json"])
    assert isinstance(result.exception, EvalfmError)
    assert "repeat counted" in str(result.exception)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "too deep"),
        ('{"a":' * 100_000, "too deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "too deep"),
        ("1" * 5000, "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_json_that_is_too_deep_or_none_is_said(text: str | bytes, said: str) -> None:
    with pytest.raises(EvalfmError, match=f"c[.]json is {said}"):
        parse_json(text, "c.json")


def test_json_is_read_as_it_stands() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(f'{{"a": [1, {{"b": null}}], "c": {deep[1:-1]}}}', "c.json")["a"] == [1, {"b": None}]


class Card(CardModel):
    std: float


@pytest.mark.parametrize("value", [".inf", ".nan", "-.inf"])
def test_a_number_that_is_not_finite_is_no_fact(value: str) -> None:
    with pytest.raises(EvalfmError, match=r"std.*finite"):
        validate(Card, parse_yaml(f"std: {value}", "c.yaml"), "c.yaml")


def test_whole_number_keys_of_foreign_files_are_read_as_their_text() -> None:
    text = "labels: {&n 0: none, 1: mild, -2: x}\nalias: *n\nplain: [{0: a}]"
    assert parse_yaml(text, "info.yaml", number_keys=True) == {
        "labels": {"0": "none", "1": "mild", "-2": "x"},
        "alias": 0,
        "plain": [{"0": "a"}],
    }
    with pytest.raises(EvalfmError, match="the key 0 is no text; put it in quotes"):
        parse_yaml(text, "info.yaml")
    for refused, said in (
        ("a: {0: x, '0': y}", "the key 0 stands twice"),
        ("a: {0x1: x}", "the key 0x1 is no text"),
        ("a: {010: x}", "the key 010 is no text"),
        ("a: {1.5: x}", "the key 1.5 is no text"),
        ("a: {yes: x}", "the key yes is no text"),
        (BOMB, "aliases repeat counted"),
    ):
        with pytest.raises(EvalfmError, match=said):
            parse_yaml(refused, "info.yaml", number_keys=True)
