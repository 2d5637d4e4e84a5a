"""docs/datasets.md has a section for every source, and its commands are ones that evalfm takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.data.sources import list_sources

PAGE = (Path(__file__).parents[3] / "docs/datasets.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def test_every_source_has_a_section_with_its_command() -> None:
    sections = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    section_of = {re.match(r"`([a-z0-9-]+)`", section)[1]: section for section in sections}  # type: ignore[index]
    assert sorted(section_of) == list_sources()
    for name, section in section_of.items():
        assert f"evalfm data import {name} --root" in section


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    _, *words = shlex.split(line)
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    context = command.make_context("evalfm", words, resilient_parsing=False)
    assert context.params


def test_the_mapping_file_of_the_page_reads_the_table_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = re.sub(r"^```\n.*?^```\n", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    table, mapping = (block.replace("\n    ", "\n").strip() for block in re.findall(r"(?:\n    .+)+", texts))
    (tmp_path / "reads.csv").write_text(table + "\n")
    (tmp_path / "map.yaml").write_text(mapping + "\n")
    organs = np.zeros((12, 10), np.uint8)
    organs[4:8, 3:6], organs[1:9, 0:2], organs[1:9, 8:10] = 1, 2, 3
    (tmp_path / "images/a").mkdir(parents=True)
    for number in (1, 2, 3, 4):
        image = np.random.default_rng(number).integers(0, 256, (12, 10)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/a/{number}.png")
    for number in (1, 2, 4):
        labels = organs.copy()
        labels[:2] = 255 if number == 2 else labels[:2]
        Image.fromarray(labels).save(tmp_path / f"images/a/{number}_seg.png")
    (line,) = (each for each in COMMANDS if "--mapping map.yaml" in each)
    done = CliRunner().invoke(app, shlex.split(line)[1:], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    data = Manifest.read(tmp_path / "build/reads")
    assert data.table["image"].tolist() == ["a/1.png", "a/2.png", "a/3.png", "a/4.png"]
    assert data.splits.tolist() == ["train", "train", "val", "test"]
    assert np.array_equal(data.label("pneumothorax"), [1, 0, np.nan, 1], equal_nan=True)
    assert data.table["density"].tolist() == ["F", "G", "D", "G"]
    assert data.info.levels == {"density": ["F", "G", "D"]}
    assert data.table["heart_mask"].tolist() == ["a/1_seg.png", None, None, "a/4_seg.png"]
    for finding, area in (("heart", 12), ("lungs", 32)):
        mask = data.mask(3, finding)
        assert mask is not None
        assert mask.sum() == area
    assert np.array_equal(data.table["age"], pd.Series([61, 61, 44, np.nan]), equal_nan=True)
    assert data.info.attributes == ["sex", "age"]
    assert data.info.notes == [
        "Cells that say NA were taken for empty ones.",
        "1 of 5 rows have no image file and were left out.",
        "1 of 3 heart masks hold pixels that nobody judged (255) and were made unknown.",
        "1 of 3 lungs masks hold pixels that nobody judged (255) and were made unknown.",
    ]
