"""Every verb as a user types it: right, wrong, and with --json."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .typed import Shown, evalfm

pytestmark = pytest.mark.usefixtures("in_full")
ROOT = Path(__file__).resolve().parents[2]


def in_a_process(*arguments: object, cwd: Path) -> Shown:
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from evalfm.cli import main; main()"
    command = [sys.executable, "-c", code, str(ROOT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    return Shown(done.returncode, done.stdout, done.stderr)


def refused(asked: Shown, message: str) -> None:
    """One sentence with the remedy, exit 2, no traceback."""
    assert asked.returncode == 2, asked.stderr
    assert "Traceback" not in asked.stderr
    assert re.search(message, " ".join(asked.stderr.split())), asked.stderr


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: images and a CSV."""
    folder = tmp_path_factory.mktemp("films")
    generator = np.random.default_rng(0)
    lines = ["file,person,finding,sex"]
    for number in range(140):
        positive = number % 2
        pixels = generator.normal(80, 10, (48, 48))
        pixels[:24, :24] += 60 * positive * generator.random()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,p{number},{positive},{'FM'[number % 3 == 0]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def imported(radiographs: Path) -> Path:
    out = radiographs.parent / "imported"
    options = [
        "--name",
        "mine",
        "--csv",
        radiographs / "labels.csv",
        "--image",
        "file",
        "--patient",
        "person",
        "--label",
        "finding",
    ]
    asked = evalfm("data", "import", "table", "--root", radiographs, "--out", out, *options, "--attribute", "sex",
                   "--stratify", "finding")  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    assert "mine: 140 images, 140 patients" in asked.stdout
    return out


@pytest.fixture(scope="module")
def probed(imported: Path) -> Path:
    out = imported.parent / "runs"
    asked = evalfm("probe", "--encoder", "pixels", "--task", "finding", "--data", imported, "--out", out)
    assert asked.returncode == 0, asked.stderr
    assert "metadata (baseline)" in asked.stdout
    assert "Phantom" not in asked.stderr
    return out


def test_a_data_set_is_checked_split_shown_and_registered(imported: Path):
    assert "No fault found" in evalfm("data", "check", imported).stdout
    assert json.loads(evalfm("data", "check", imported, "--json").stdout)["rows"] == 140
    assert "140 images" in evalfm("data", "split", imported, "--stratify", "finding", "--force").stdout
    assert evalfm("data", "register", imported, "--name", "mine").returncode == 0
    assert "images: 140" in evalfm("show", "data", "mine").stdout
    assert "mine" in evalfm("ls", "data").stdout


def test_runs_are_listed_shown_and_applied(probed: Path, imported: Path):
    (table,) = json.loads(evalfm("ls", "runs", probed, "--json").stdout)
    assert table["task"] == "finding"
    run = table["lines"][0]["runs"][0]
    shown = evalfm("show", "run", run)
    assert "auroc" in shown.stdout
    assert json.loads(evalfm("show", "run", run, "--json").stdout)["config"]["data"]
    applied = evalfm("predict", run, "--data", imported, "--out", probed.parent / "predicted")
    assert "140 images" in applied.stdout, applied.stderr
    again = evalfm("predict", run, "--data", imported, "--out", probed.parent / "predicted")
    assert "holds these predictions already" in again.stdout, again.stderr


def test_json_of_a_probe_is_json_alone(imported: Path, probed: Path):
    asked = evalfm("probe", "--encoder", "pixels", "--task", "finding", "--data", imported, "--out", probed, "--json")
    assert json.loads(asked.stdout)[0]["lines"][0]["metrics"]["auroc"]["value"] is not None


def test_json_of_a_profiled_probe_has_the_seconds_of_each_stage(imported: Path, tmp_path: Path):
    arguments = [
        "--encoder",
        "pixels",
        "--task",
        "finding",
        "--data",
        imported,
        "--head",
        "linear",
        "--baselines",
        "none",
    ]
    asked = json.loads(evalfm("probe", *arguments, "--out", tmp_path, "--profile", "--json").stdout)
    assert asked["tables"][0]["lines"]
    assert {"head training", "prediction"} <= set(asked["seconds"])


@pytest.mark.parametrize("what", ["encoders", "tasks", "heads"])
def test_lists_are_tables_and_json(what: str):
    assert evalfm("ls", what).returncode == 0
    assert json.loads(evalfm("ls", what, "--json").stdout)


def test_cards_are_shown():
    shown = evalfm("show", "encoder", "rad-dino").stdout
    assert "518 × 518, shortest edge to 518, then the centre" in shown
    assert "take it with --pooling mean" in shown
    assert json.loads(evalfm("show", "encoder", "rad-dino", "--json").stdout)["name"] == "rad-dino"
    assert "pneumothorax" in evalfm("show", "task", "ptx-seg").stdout


def test_a_derived_card_is_written_read_again_and_never_written_over(tmp_path: Path) -> None:
    place = tmp_path / "mine.yaml"
    assert evalfm("show", "encoder", "timm:test_vit.r160_in1k", "--write-card", str(place)).returncode == 0
    written = json.loads(evalfm("show", "encoder", str(place), "--json").stdout)
    derived = json.loads(evalfm("show", "encoder", "timm:test_vit.r160_in1k", "--json").stdout)
    assert written == derived | {"name": "test_vit.r160_in1k"}
    for given, words in (
        (("timm:test_vit.r160_in1k", "--write-card", str(place)), "is there already"),
        (("timm:test_vit.r160_in1k", "--write-card", str(tmp_path / "mine.txt")), "A card is a YAML file"),
        (("medclip", "--write-card", str(tmp_path / "medclip.yaml")), "evalfm does not load that encoder"),
    ):
        refused = evalfm("show", "encoder", *given)
        assert refused.returncode == 2
        assert words in refused.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.yaml"]


def test_what_runs_here_stands_first_and_is_said() -> None:
    listed = json.loads(evalfm("ls", "encoders", "--json").stdout)
    assert listed["squeezenet1-0.caffe"]["runs_here"]
    assert not listed["ark-plus"]["runs_here"]
    shown = evalfm("ls", "encoders").stdout
    assert shown.index("squeezenet1-0.caffe") < shown.index("ark-plus")
    assert re.search(r"without a download, and stand first: .*hog.*squeezenet1-0\.caffe", shown)


def test_doctor_looks_at_the_machine_and_an_encoder():
    asked = evalfm("doctor", "--encoder", "hog", "--json")
    found = {finding["name"]: finding["fine"] for finding in json.loads(asked.stdout)}
    assert found["versions"] is True
    assert found["encoder hog"] is True
    assert asked.returncode == 0
    rough = evalfm("doctor", "--encoder", "hog", "--precision", "bfloat16", "--input-size", "64", "--device", "cpu")
    assert "pooled 576, maps 10×8×8" in rough.stdout
    assert "no precision 'float8'" in evalfm("doctor", "--encoder", "hog", "--precision", "float8").stdout
    broken = evalfm("doctor", "--encoder", "rad-dino")
    assert broken.returncode == 2
    assert "--weights" in broken.stdout


def test_doctor_says_what_features_of_an_older_format_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path))
    fine = {finding["name"]: finding for finding in json.loads(evalfm("doctor", "--json").stdout)}["features"]
    assert (fine["fine"], fine["said"]) == (True, "0.0 GiB of feature maps stored")
    (tmp_path / "cache" / "features" / ("a" * 32) / "1").mkdir(parents=True)
    old = {finding["name"]: finding for finding in json.loads(evalfm("doctor", "--json").stdout)}["features"]
    assert old["fine"] is None
    assert "1 encoder in an older format" in old["said"]
    assert old["remedy"] == f"`rm -r {tmp_path}/cache/features/*/1` frees their disk."


def test_a_phantom_is_made_and_probing_it_says_so_first_and_last(tmp_path: Path):
    made = evalfm("data", "make", "phantom", "--out", tmp_path / "p", "--images", "12", "--size", "64")
    assert "12 images" in made.stdout, made.stderr
    refused(evalfm("data", "make", "phantom", "--out", tmp_path / "q", "--dial", "tube=1"), "no dial 'tube'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "--encoder", "rad-dyno", "--task", "ptx-cls"], "Did you mean 'rad-dino'"),
        (["probe", "--encoder", "hog", "--task", "ptx-clss"], "Did you mean 'ptx-cls'"),
        (["probe", "--encoder", "hog", "--task", "ptx-cls", "--data", "no-such-set"], "no-such-set"),
        (["probe", "--encoder", "hog", "--task", "ptx-cls", "--head", "liner"], "linear"),
        (["probe", "--encoder", "hog", "--task", "ptx-cls", "--folds", "1"], "folds"),
        (["show", "run", "nowhere"], "no run"),
        (["ls", "runs", "nowhere"], "no run under nowhere"),
        (["data", "import", "nih", "--root", ".", "--out", "x"], "Did you mean 'nih-cxr14'"),
        (["data", "check", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_remedy(arguments: list[str], message: str, tmp_path: Path):
    refused(evalfm(*arguments, cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_shows_the_same(tmp_path: Path):
    for arguments in (["ls", "tasks", "--json"], ["show", "task", "ptx-clss"]):
        assert in_a_process(*arguments, cwd=tmp_path) == evalfm(*arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_help_has_worked_examples():
    for verb in (["probe"], ["predict"], ["doctor"], ["demo"], ["data", "import"], ["ls", "encoders"], ["show", "run"]):
        assert "evalfm " + " ".join(verb) in evalfm(*verb, "--help").stdout
