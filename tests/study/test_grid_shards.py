"""Shards of a study: every cell in one of them, at once in one folder, killed and run again, and the whole of all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

import evalfm
from evalfm.cli.app import app
from evalfm.config import MachineOptions, ProbeConfig, Shard
from evalfm.data.manifest import Manifest
from evalfm.encoders import load_encoder
from evalfm.errors import EvalfmError
from evalfm.probing.head_group import RunBuilder
from evalfm.study import Study, StudyRuns, make_plan, run_study
from evalfm.study.cohorts import Manifests
from evalfm.study.plan import check_study

COUNT = 3


def content_of(data: str, tiny: Path | None = None, **changes: object) -> dict[str, object]:
    """Six cells: pixels is an encoder of the study and a baseline of the others; with ``tiny`` random weights are."""
    small = {"name": "light-cnn", "input_size": 32}
    if tiny is not None:
        small = {"name": str(tiny), "weights": str(tiny.with_name("w.safetensors")), "input_size": 64}
    return {
        "schema": 2,
        "name": "shards",
        "title": "Shards",
        "data": data,
        "encoders": ["hog", "pixels", small],
        "tasks": ["square"],
        "label_fractions": [0.5, None],
        "baselines": "all",
        **changes,
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card with its file of weights beside it, small and learnt by nobody."""
    card = tmp_path_factory.mktemp("tiny") / "tiny.yaml"
    text = (Path(evalfm.__file__).parent / "encoders" / "cards" / "squeezenet1-0.caffe.yaml").read_text()
    card.write_text(text.replace("name: squeezenet1-0.caffe", "name: tiny"))
    state = load_encoder(str(card), weights="random").state_dict()
    tensors = {name.removeprefix("model."): value * 1.5 for name, value in state.items()}
    save_file(tensors, card.with_name("w.safetensors"))
    return card


@pytest.fixture(scope="module")
def study(squares: Manifest, tiny: Path) -> Study:
    return Study.model_validate(content_of(str(squares.folder), tiny))


@pytest.fixture(scope="module")
def plain(study: Study, tmp_path_factory: pytest.TempPathFactory) -> StudyRuns:
    return run_study(study, tmp_path_factory.mktemp("plain"))


def cells_of(study: Study, shard: Shard | None) -> list[ProbeConfig]:
    return check_study(study, Manifests())[0].of(shard).cells


def results_of(path: Path) -> pd.DataFrame:
    """All columns but the seconds, which no two calls share; rows by run and metric."""
    table = pd.read_parquet(path).drop(columns="seconds")
    return table.sort_values(["run", "metric"]).reset_index(drop=True)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("computed again")


def test_every_cell_is_in_one_shard(study: Study):
    every = [cell.key for cell in cells_of(study, None)]
    for count in (1, 2, 3, 7):
        parts = [cell.key for number in range(1, count + 1) for cell in cells_of(study, Shard(number, count))]
        assert sorted(parts) == sorted(every)


def test_what_else_there_is_its_order_and_the_machine_decide_nothing(study: Study, squares: Manifest):
    def placed(study: Study) -> dict[str, int]:
        return {
            cell.on(MachineOptions(workers=7, devices="cpu"), out=Path("x")).key: number
            for number in range(1, 6)
            for cell in cells_of(study, Shard(number, 5))
        }

    whole = placed(study)
    turned = study.changed(encoders=[study.encoders[2].model_dump(), "pixels", "hog"], baselines="default")
    whole_default = placed(study.changed(baselines="default"))
    assert placed(turned) == whole_default
    fewer = placed(study.changed(encoders=["pixels"], baselines="default"))
    assert fewer.items() <= whole_default.items()
    assert len(set(whole.values())) > 1


def test_another_spelling_of_the_folder_is_the_same_shard(squares: Manifest, monkeypatch: pytest.MonkeyPatch):
    folder = squares.folder
    spelt = [str(folder), f"{folder}/", f"{folder.parent}/./{folder.name}"]
    monkeypatch.chdir(folder)
    addresses = {ProbeConfig(encoder="hog", task="square", data=text).portable_key for text in [*spelt, "."]}
    keys = {ProbeConfig(encoder="hog", task="square", data=text).key for text in spelt}
    assert len(addresses) == 1
    assert len(keys) == 3
    assert ProbeConfig(encoder="hog", task="square", data="others").portable_key not in addresses


def test_shards_are_about_equal():
    held = [sum(Shard(number, 8).holds(f"cell {each}") for each in range(4000)) for number in range(1, 9)]
    assert sum(held) == 4000
    assert min(held) > 430
    assert max(held) < 570


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0/3", "no shard 0 of 3.*counts from 0"),
        ("4/3", "no shard 4 of 3"),
        ("1/0", "no 0 shards"),
        ("1/1000001", "no 1,000,001 shards"),
        ("1", "write K/N"),
        ("/3", "write K/N"),
        ("-1/3", "write K/N"),
        ("1/3/5", "write K/N"),
        ("١/3", "write K/N"),
        ("9" * 5000 + "/3", "write K/N"),
    ],
)
def test_what_is_no_shard_is_refused_in_a_sentence(text: str, said: str):
    with pytest.raises(EvalfmError, match=said) as refused:
        Shard.parse(text)
    assert len(str(refused.value)) < 400
    asked = CliRunner().invoke(app, ["study", "demo", f"--shard={text}"])
    assert isinstance(asked.exception, EvalfmError)
    assert str(asked.exception) == str(refused.value)


def test_all_shards_then_the_plain_call_compute_nothing_and_equal_a_plain_run(
    study: Study, plain: StudyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Backwards: what a plain run meets first comes last here.
    parts = [run_study(study, tmp_path, shard=Shard(number, COUNT)) for number in (3, 2, 1)]
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == [
        f"results-{number}-of-3.parquet" for number in (1, 2, 3)
    ]
    assert {run.folder for part in parts for run in part} == {
        tmp_path / run.folder.relative_to(plain.folder) for run in plain
    }
    tables = [results_of(part.results) for part in parts]
    monkeypatch.setattr(RunBuilder, "run", refuse)
    whole = run_study(study, tmp_path)
    assert [each.failure for each in whole.failed] == []
    expected = results_of(plain.results)
    pd.testing.assert_frame_equal(results_of(whole.results), expected)
    # Each shard's table says of its runs what the whole says.
    together = pd.concat(tables).drop_duplicates(["run", "metric"]).sort_values(["run", "metric"])
    pd.testing.assert_frame_equal(together.reset_index(drop=True), expected, check_dtype=False)
    for run in plain:
        other = tmp_path / run.folder.relative_to(plain.folder) / "predictions.parquet"
        pd.testing.assert_frame_equal(pd.read_parquet(other), run.predictions())


def test_an_encoder_of_the_study_is_no_baseline_whichever_cell_comes_first(plain: StudyRuns):
    pixels = [run for run in plain if run.encoder == "pixels"]
    assert len(pixels) >= 4
    assert not any(run.is_baseline for run in pixels)
    assert {run.encoder for run in plain if run.is_baseline} == {"constant", "metadata", "tiny"}


def test_a_shard_of_no_cell_has_empty_tables(study: Study, tmp_path: Path):
    empty = next(number for number in range(1, 1000) if not cells_of(study, Shard(number, 999)))
    done = run_study(study, tmp_path, shard=Shard(empty, 999))
    assert len(done) == len(pd.read_parquet(done.results)) == 0
    assert json.loads(done.failures.read_text()) == []
    planned = make_plan(study, shard=Shard(empty, 999))
    assert (len(planned.cells), planned.every) == (0, 6)


def test_a_plan_says_which_shard_it_is_of(squares: Manifest, tmp_path: Path):
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(content_of(str(squares.folder), encoders=["hog", "pixels"])))
    keys = []
    for number in (1, 2):
        arguments = ["study", str(config), "--plan", "--json", "--shard", f"{number}/2"]
        told = json.loads(CliRunner().invoke(app, arguments).stdout)
        assert told["shard"] == {"number": number, "of": 2}
        assert told["total"]["cells_of_all_shards"] == 4
        keys += [cell["key"] for cell in told["cells"]]
    assert len(keys) == len(set(keys)) == 4
    shown = CliRunner().invoke(app, ["study", str(config), "--plan", "--shard", "2/2"], env={"COLUMNS": "200"})
    assert f"shard 2/2: {len(told['cells'])} of 4 cells" in shown.stdout


def child(config: Path, out: Path, *options: str, home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "EVALFM_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "evalfm", "study", str(config), "--out", str(out), *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]


def test_shards_at_once_and_one_that_is_killed_on_the_command_line(
    squares: Manifest, tiny: Path, plain: StudyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Three cells: by one share of the labels; the six of ``plain`` hold them too.
    content = content_of(str(squares.folder), tiny, label_fractions=[None])
    config, out = tmp_path / "mine.yaml", tmp_path / "runs"
    config.write_text(yaml.safe_dump(content))
    study = Study.model_validate(content)
    held = [len(cells_of(study, Shard(each, 2))) for each in (1, 2)]
    fuller = 1 + held.index(max(held))
    others = [child(config, out, "--shard", f"{each}/2", home=tmp_path / "home") for each in (1, 2)]
    killed = others[fuller - 1]
    started = time.monotonic()
    while killed.poll() is None and not list(out.glob("*/*/*/run.json")) and time.monotonic() - started < 300:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    told = [each.communicate(timeout=600)[0] for each in others]
    assert others[2 - fuller].returncode == 0, told[2 - fuller]
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    again = CliRunner().invoke(app, ["study", str(config), "--out", str(out), "--shard", f"{fuller}/2"])
    assert again.exit_code == 0, again.output
    assert again.output.count("shard") >= 1
    whole = CliRunner().invoke(app, ["study", str(config), "--out", str(out), "--json"])
    assert whole.exit_code == 0, whole.output
    assert "runs are there already" in whole.output
    found, expected = results_of(out / "results.parquet"), results_of(plain.results)
    expected = expected[expected["run"].isin(found["run"])].reset_index(drop=True)
    assert {run.encoder for run in plain} == set(expected["encoder"])
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert not list(out.glob(".work/*"))


def test_what_a_shard_could_not_do_stands_in_its_own_list(squares: Manifest, tmp_path: Path):
    wrong = {"name": "resnet50", "weights": str(tmp_path / "nowhere.safetensors"), "input_size": 32}
    study = Study.model_validate(content_of(str(squares.folder), encoders=["hog", wrong], baselines="none"))
    parts = [run_study(study, tmp_path / "runs", shard=Shard(number, 2)) for number in (1, 2)]
    assert sum(len(part.failed) for part in parts) == 2
    for part in parts:
        listed = json.loads(part.failures.read_text())
        assert len(listed) == len(part.failed)
    assert not (tmp_path / "runs" / "failures.json").exists()
