"""docs/datasets.md has a section for every source, and its commands are ones that evalfm takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from evalfm.cli.app import app
from evalfm.data.sources import list_sources

PAGE = (Path(__file__).parents[3] / "docs/datasets.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def test_every_source_has_a_section_with_its_command() -> None:
    sections = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    told = {re.match(r"`([a-z0-9-]+)`", section)[1]: section for section in sections}  # type: ignore[index]
    assert sorted(told) == list_sources()
    for name, section in told.items():
        assert f"evalfm data import {name} --root" in section


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    _, *words = shlex.split(line)
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    context = command.make_context("evalfm", words, resilient_parsing=False)
    assert context.params
