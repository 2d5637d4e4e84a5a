"""Single images of a run: the most wrong first, and found again by their owner alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import PIL.Image
import pytest
from typer.testing import CliRunner

from evalfm.analysis.images import image_errors, located
from evalfm.cli.app import app
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_names
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.probing.predict import LOCAL_IDS, predict
from evalfm.probing.probe import probe
from tests.analysis.made import binary_table, make_run


def who(rows: int) -> pd.DataFrame:
    names = [f"i{row:05}" for row in range(rows)]
    return pd.DataFrame({"id": names, "patient": [name.replace("i", "p") for name in names]})


def test_of_a_question_the_farthest_beyond_its_threshold_comes_first(tmp_path: Path) -> None:
    table = binary_table(pd.Series([0.9, 0.2, 0.7, 0.1]).to_numpy(), pd.Series([1, 1, 0, 0]).to_numpy())
    found = image_errors(make_run(tmp_path, table.assign(threshold=[0.5, 0.5, 0.5, 0.5])))
    assert found["id"].tolist() == ["i00001", "i00002", "i00000", "i00003"]
    assert found["failure"].tolist() == ["missed", "false positive", "", ""]
    assert found["error"].tolist() == pytest.approx([0.3, 0.2, -0.4, -0.4])


def test_thresholds_of_folds_are_each_images_own(tmp_path: Path) -> None:
    table = binary_table(pd.Series([0.4, 0.4, 0.4, 0.4]).to_numpy(), pd.Series([1, 1, 0, 0]).to_numpy())
    found = image_errors(make_run(tmp_path, table.assign(threshold=[0.3, 0.5, 0.3, 0.5], fold=[0, 1, 0, 1])))
    assert dict(zip(found["id"], found["failure"], strict=True)) == {
        "i00000": "",
        "i00001": "missed",
        "i00002": "false positive",
        "i00003": "",
    }


def test_of_classes_it_says_for_what_an_image_was_taken(tmp_path: Path) -> None:
    table = who(4).assign(
        target=[0.0, 1, 2, 0],
        score_a=[0.7, 0.6, 0.1, 0.2],
        score_b=[0.2, 0.3, 0.1, 0.5],
        score_c=[0.1, 0.1, 0.8, 0.3],
    )
    found = image_errors(make_run(tmp_path, table, kind="multiclass", classes=("a", "b", "c")))
    assert found["id"].tolist()[:2] == ["i00001", "i00003"]
    assert found["failure"].tolist() == ["taken for a", "taken for b", "", ""]
    assert found["error"].tolist() == pytest.approx([0.3, 0.3, -0.5, -0.7])


def test_of_masks_lesions_and_false_alarms_are_asked_apart(tmp_path: Path) -> None:
    table = who(4).assign(
        dice_ptx=[0.9, 0.0, 1.0, 0.0],
        area_true_ptx=[0.1, 0.2, 0.0, 0.0],
        area_predicted_ptx=[0.1, 0.0, 0.0, 0.05],
        prediction_rle_ptx="",
        threshold=0.5,
        height=8,
        width=8,
    )
    run = make_run(tmp_path, table, kind="segmentation")
    found = image_errors(run)
    assert found[found["asked"] == "ptx"]["id"].tolist() == ["i00001", "i00000"]
    assert found[found["asked"] == "ptx, not there"]["id"].tolist() == ["i00003", "i00002"]
    assert found[found["id"] == "i00001"]["failure"].tolist() == ["missed"]
    assert found[found["id"] == "i00003"]["failure"].tolist() == ["false positive"]
    assert len(image_errors(run, "ptx")) == 4


def test_of_values_it_is_the_absolute_error(tmp_path: Path) -> None:
    table = who(3).assign(target=[0.4, 0.5, 0.6], prediction=[0.5, 0.5, 0.3])
    found = image_errors(make_run(tmp_path, table, kind="regression"))
    assert found["id"].tolist() == ["i00002", "i00000", "i00001"]
    assert found["error"].tolist() == pytest.approx([0.3, 0.1, 0.0])


def test_a_value_is_asked_by_its_task_and_not_by_the_masks_it_comes_of(tmp_path: Path) -> None:
    table = who(2).assign(target=[0.4, 0.5], prediction=[0.5, 0.5])
    run = make_run(tmp_path, table, kind="regression", task="ptx-size", classes=("pneumothorax",))
    assert len(image_errors(run, "ptx-size")) == 2
    with pytest.raises(UnknownNameError, match="Known: ptx-size"):
        image_errors(run, "pneumothorax")


def test_a_label_that_is_none_is_refused(tmp_path: Path) -> None:
    table = binary_table(pd.Series([0.9, 0.2]).to_numpy(), pd.Series([1, 0]).to_numpy())
    with pytest.raises(UnknownNameError, match="effusion"):
        image_errors(make_run(tmp_path, table), "effusion")


@pytest.fixture
def secret(tmp_path: Path) -> Manifest:
    table = pd.DataFrame({"id": [f"case-{row}" for row in range(4)], "image": [f"{row}.png" for row in range(4)]})
    (tmp_path / "ours").mkdir()
    for name in table["image"]:
        PIL.Image.new("L", (8, 8)).save(tmp_path / "ours" / name)
    info = DatasetInfo(name="ours", salt="pepper", label_source={})
    return Manifest(info, table, tmp_path / "ours").write(tmp_path / "ours")


def test_the_owner_finds_hashed_ids_again_and_another_set_does_not(secret: Manifest, tmp_path: Path) -> None:
    hashed = public_names(["case-3", "case-1"], secret.info).tolist()
    found = located(secret, hashed)
    assert found["local_id"].tolist() == ["case-3", "case-1"]
    assert [Path(each).name for each in found["image"]] == ["3.png", "1.png"]
    with pytest.raises(EvalfmError, match="no image with the id i00001;"):
        located(secret, [hashed[0], "i00001"])
    salted = Manifest(secret.info.model_copy(update={"salt": "other"}), secret.table, secret.folder)
    with pytest.raises(EvalfmError, match="nor 1 more"):
        located(salted, hashed)


def test_the_verb(secret: Manifest, tmp_path: Path) -> None:
    table = binary_table(pd.Series([0.9, 0.2, 0.7, 0.1]).to_numpy(), pd.Series([1, 1, 0, 0]).to_numpy())
    table["id"] = public_names(secret.table["id"], secret.info)
    run = make_run(tmp_path / "runs", table)
    verb = ["show", "image", str(run.folder)]
    plain = CliRunner().invoke(app, [*verb, "--worst", "1"])
    assert plain.exit_code == 0, plain.output
    assert "missed" in plain.output
    assert "case-" not in plain.output
    out = tmp_path / "worst.csv"
    done = CliRunner().invoke(app, [*verb, "--worst", "2", "--data", str(secret.folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    with open(out, newline="") as stream:
        assert [line["local_id"] for line in csv.DictReader(stream)] == ["case-1", "case-2"]
    one = CliRunner().invoke(app, [*verb, table["id"][3], "--json"])
    assert table["id"][3] in one.output
    assert one.output.count('"id"') == 1
    for words in (["nobody"], [table["id"][0], "--worst", "3"], ["--label", "effusion"]):
        refused = CliRunner().invoke(app, [*verb, *words])
        assert isinstance(refused.exception, EvalfmError), refused.output


def test_predict_says_whose_the_ids_are_only_where_it_is_asked(squares: Manifest, tmp_path: Path) -> None:
    (run,) = probe("pixels", "square", data=squares, heads=["linear"], baselines="none", out=tmp_path / "runs")
    hidden = predict(run, squares, out=tmp_path / "p")
    assert not (hidden.folder / LOCAL_IDS).exists()
    again = predict(run, squares, out=tmp_path / "p", local_ids=True)
    written = pd.read_csv(again.folder / LOCAL_IDS, dtype=str)
    assert written["id"].tolist() == again.table["id"].tolist()
    own = squares.table.set_index(public_names(squares.table["id"], squares.info))["id"]
    assert written["local_id"].tolist() == own.loc[written["id"]].tolist()
    assert all(Path(each).is_file() for each in written["image"])
