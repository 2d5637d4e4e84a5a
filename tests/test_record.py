"""Records as models: those of schema 1 are read as ever, those of a newer schema are named, and no torch is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from evalfm.cautions import Caution
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.predictions import PREDICTIONS
from evalfm.record import SCHEMA, Record
from evalfm.run import MARK, RECORD, Run, find_runs

from .analysis.made import binary_table, make_run, signal

OLD = Path(__file__).parent / "schema_one"
"""Records that evalfm 0.1 wrote (a run on random weights in two folds), shortened."""


def old_run(folder: Path, **changes: Any) -> Path:
    """A run of schema 1, with ``changes`` of its record."""
    folder.mkdir(parents=True)
    content = json.loads((OLD / "run.json").read_text(encoding="utf-8")) | changes
    (folder / RECORD).write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_run_of_schema_1_is_read_with_the_codes_of_its_notes(tmp_path: Path) -> None:
    written = json.loads((OLD / "run.json").read_text(encoding="utf-8"))
    assert (written["schema"], written["config"]["floor"]) == (1, False)
    run = Run.read(old_run(tmp_path / "run"))
    assert run.record.schema_version == SCHEMA
    assert (run.is_baseline, run.seed, run.record.config.threshold, run.record.data.folds) == (False, 0, "f1", 2)
    assert run.record.data.splits.test.images == written["data"]["parts"]["test"]["images"]
    assert run.metrics["auroc"].value == written["metrics"]["auroc"]["value"]
    assert run.metrics["auroc"].percentile == tuple(written["metrics"]["auroc"]["percentile"])
    assert run.record.cautions == [
        Caution("synthetic", "Synthetic data: these figures say nothing about patients."),
        Caution("random-weights", "Random weights: the encoder has learnt nothing."),
        Caution("grid-edge", "The best C for 'pneumothorax', 100, lies at the upper edge of the grid.", 0),
        Caution("grid-edge", "The best C for 'pneumothorax', 1e-06, lies at the lower edge of the grid.", 1),
    ]
    # As they were: the fold in front, and what the encoder said twice once.
    assert [str(each) for each in run.record.cautions] == [note for note in written["notes"] if ":mobile" not in note]


@pytest.mark.parametrize(
    ("note", "code"),
    [
        (
            "Patients unknown: images of one patient may stand on both sides, intervals are over images.",
            "patients-unknown",
        ),
        ("Contamination: rad-dino was pre-trained on images of nih-cxr14 (nih).", "contamination"),
        ("Trained from random weights on this task's own images: a supervised baseline.", "trained-from-random"),
        ("Unconfirmed: the crop of the paper.", "unconfirmed-card"),
        ("No commit of the weights of x is pinned; SHA-256 of the file read: ab.", "unpinned-weights"),
        ("The weights of x are another file than the one its card pins.", "other-weights"),
        ("The input is 448 x 448 instead of 224 x 224.", "input-changed"),
        ("One class only in train or in val, so no score is given: mass.", "single-class"),
        ("The best learning rate, 0.1, lies at the edge of the grid.", "grid-edge"),
        ("3 of 8 features are constant on train and were dropped.", "constant-features"),
        ("random:x has random weights: it has learnt nothing.", "random-weights"),
        ("Something that no version wrote.", "other"),
    ],
)
def test_every_note_of_schema_1_has_its_code(tmp_path: Path, note: str, code: str) -> None:
    (caution,) = Run.read(old_run(tmp_path / "run", notes=[note])).record.cautions
    assert (caution.code, caution.sentence) == (code, note)


def test_templates_of_schema_1_are_read(tmp_path: Path) -> None:
    alone = {"template": "a film of {}", "value": 0.6, "low": None, "high": None, "n": 9, "unit": "patients"}
    spread = {"least": 0.6, "most": 0.7, "sd": 0.1}
    prompts = {"source": "card", "metric": "auroc", "by_template": [alone], "spread": spread}
    record = Run.read(old_run(tmp_path / "run", prompts=prompts)).record
    assert record.prompts is not None
    assert record.prompts.by_template[0].estimate.value == 0.6
    assert record.prompts.source == "card"


def test_old_and_new_runs_stand_in_one_table(tmp_path: Path) -> None:
    old_run(tmp_path / "runs" / "old")
    target = pd.Series([0, 1] * 30).to_numpy()
    make_run(tmp_path / "runs", binary_table(signal(target, 1.0, 1), target), task="ptx-cls")
    done = CliRunner().invoke(app, ["ls", "runs", str(tmp_path / "runs")], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.exception
    assert "random:mobilenetv3_small_050" in done.stdout
    assert "one" in done.stdout
    assert len(find_runs(tmp_path / "runs")) == 2


def test_a_newer_schema_is_named_with_the_remedy_and_stops_no_other_run(tmp_path: Path) -> None:
    newer = old_run(tmp_path / "newer", schema=SCHEMA + 1)
    with pytest.raises(EvalfmError) as caught:
        Run.read(newer)
    assert str(caught.value) == (
        f"{newer / RECORD} is of schema {SCHEMA + 1}, newer than this evalfm reads ({SCHEMA}); upgrade evalfm."
    )
    old_run(tmp_path / "old")
    said: list[str] = []
    assert [run.folder.name for run in find_runs(tmp_path, say=said.append)] == ["old"]
    assert len(said) == 1


def test_keys_of_a_newer_version_are_ignored_and_unknown_ones_are_never_written(
    tmp_path: Path,
) -> None:
    target = pd.Series([0, 1] * 30).to_numpy()
    run = make_run(tmp_path, binary_table(signal(target, 1.0, 1), target))
    content = json.loads((run.folder / RECORD).read_text(encoding="utf-8"))
    content["data"]["new"] = {"a": [1]}
    content["more"] = 3
    content["cautions"] = [{"code": "of-tomorrow", "sentence": "Mind this.", "fold": None}]
    (run.folder / RECORD).write_text(json.dumps(content), encoding="utf-8")
    record = Run.read(run.folder).record
    assert record.cautions == [Caution("other", "Mind this.")]
    assert record.metrics == run.metrics
    # A key that is misspelt where a record is made is no key of tomorrow.
    with pytest.raises(ValidationError, match="splitz"):
        type(record.data)(**record.data.as_written(), splitz={})


def test_what_is_written_is_read_back_whole(tmp_path: Path) -> None:
    target = pd.Series([0, 1] * 30).to_numpy()
    run = make_run(tmp_path, binary_table(signal(target, 1.0, 1), target))
    assert Record.model_validate(run.record.model_dump(by_alias=True)) == run.record
    text = (run.folder / RECORD).read_text(encoding="utf-8")
    assert json.loads(text) == run.record.model_dump(mode="json", by_alias=True)


def test_the_mark_of_predictions_holds_the_cautions_with_codes(tmp_path: Path) -> None:
    target = pd.Series([0, 1] * 30).to_numpy()
    cautions = [Caution("synthetic", "Synthetic data: x."), Caution("grid-edge", "The best C lies at the edge.")]
    run = make_run(tmp_path, binary_table(signal(target, 1.0, 1), target), cautions=cautions)
    mark = pd.read_parquet(run.folder / PREDICTIONS).attrs[MARK]
    assert mark["cautions"] == [{"code": "synthetic", "sentence": "Synthetic data: x.", "fold": None}]


@pytest.mark.parametrize(
    "code",
    [
        "from evalfm.run import find_runs; assert find_runs('runs')",
        "from evalfm.run import find_runs; run, = find_runs('runs'); run.predictions(); run.metrics['auroc']",
        "from evalfm.cli.app import app; app(['ls', 'runs', 'runs'], standalone_mode=False)",
        "import pathlib; run, = pathlib.Path('runs').glob('*/*/*')\n"
        "from evalfm.cli.app import app; app(['show', 'run', str(run)], standalone_mode=False)",
        "from evalfm.cli.app import app; app(['compare', 'runs'], standalone_mode=False)",
        "from evalfm.cli.app import app; app(['report', 'runs'], standalone_mode=False)",
    ],
    ids=["find_runs", "Run", "ls runs", "show run", "compare", "report"],
)
def test_a_finished_run_is_read_without_torch(tmp_path: Path, code: str) -> None:
    target = pd.Series([0, 1] * 30).to_numpy()
    make_run(tmp_path / "runs", binary_table(signal(target, 1.0, 1), target))
    script = f"import sys\n{code}\nassert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (("metrics", "auroc", "n"), -1, "n is -1, which counts nothing"),
        (("exclusions",), [{"reason": "none", "images": -2}], "images is -2, which counts nothing"),
        (("data", "folds"), 400, "there are 400 folds of 60 test images"),
        (("data", "class_names"), ["a", "a"], "class_names names a class twice"),
        (("data", "splits", "test", "images"), 1.5, "data.splits.test.images"),
        (("metrics", "auroc", "value"), 1e300, "metrics.auroc.value is a number without bounds"),
        (("config", "baseline"), "no", "config.baseline"),
        (("config", "associate"), "tube", "is no association"),
    ],
)
def test_a_fault_is_named_with_the_run(tmp_path: Path, place: tuple[str, ...], value: Any, fault: str) -> None:
    target = pd.Series([0, 1] * 30).to_numpy()
    run = make_run(tmp_path, binary_table(signal(target, 1.0, 1), target))
    content = json.loads((run.folder / RECORD).read_text(encoding="utf-8"))
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (run.folder / RECORD).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(EvalfmError) as caught:
        Run.read(run.folder)
    assert fault in str(caught.value)
    assert str(run.folder) in str(caught.value)
