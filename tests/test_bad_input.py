"""What bad input gets, end to end: one clear sentence that names the culprit and the remedy, and no half run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pydicom
import pytest
import timm
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian
from safetensors.torch import save_file
from torch import Tensor

from evalfm import cli
from evalfm.analysis.table import task_tables
from evalfm.encoders import find_card
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.probing.predict import predict
from evalfm.probing.probe import probe
from evalfm.run import Run, find_runs

from .dicoms import dicom_header

pytestmark = pytest.mark.usefixtures("in_full")
SIDE = 48
PATIENTS = 40
ROOT = Path(__file__).resolve().parents[1]
SEGMENTATION = "name: square-seg\nschema: 1\nkind: segmentation\ntitle: Where is the square?\ntarget: [square]\n"


@dataclass
class Radiographs:
    """A data set as a user has it: a folder of PNGs, manifest.csv and dataset.yaml, to be spoilt."""

    folder: Path
    table: pd.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)

    def spoil(self, row: int, column: str, value: object) -> None:
        self.table.loc[row, column] = value

    def save(self) -> Path:
        self.table.to_csv(self.folder / "manifest.csv", index=False)
        (self.folder / "dataset.yaml").write_text(yaml.safe_dump(self.facts))
        return self.folder

    def rows_of(self, split: str, square: int | None = None) -> list[int]:
        inside = self.table["split"] == split
        return self.table.index[inside if square is None else inside & (self.table["square"] == square)].tolist()

    def image(self, row: int) -> Path:
        return self.folder / str(self.table["image"].iat[row])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Radiographs:
    """Forty radiographs of 48×48 by forty patients, every second with a bright square: 12 train, 8 val, 20 test."""
    generator = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("films")
    lines = []
    for patient in range(PATIENTS):
        square = patient % 2
        pixels = generator.normal(90, 18, (SIDE, SIDE))
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        if square:
            top, left = generator.integers(2, SIDE - 18, 2)
            mask[top : top + 14, left : left + 14] = True
            pixels[mask] += 90
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"f{patient}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"m{patient}.png")
        split = "train" if patient < 12 else "val" if patient < 20 else "test"
        lines.append(
            [f"f{patient}", f"p{patient}", f"f{patient}.png", split, square, f"m{patient}.png", "", patient % 3]
        )
    columns = ["id", "patient", "image", "split", "square", "square_mask", "blank", "grade"]
    facts = {
        "schema": 1,
        "name": "films",
        "public_ids": True,
        "label_source": {"square": "mask", "blank": "nobody", "grade": "reader"},
        "label_kinds": {"grade": "class"},
        "mask_dialects": {"square": "file"},
    }
    radiographs = Radiographs(folder, pd.DataFrame(lines, columns=columns), facts)
    radiographs.save()
    return radiographs


@pytest.fixture
def radiographs(whole: Radiographs, tmp_path: Path) -> Radiographs:
    """A copy to spoil."""
    shutil.copytree(whole.folder, tmp_path / "films")
    return Radiographs(tmp_path / "films", whole.table.copy(), json.loads(json.dumps(whole.facts)))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def left_behind(folder: Path) -> list[Path]:
    """Files and run folders under ``folder``; an empty .work is none."""
    return [path for path in folder.rglob("*") if path.is_file() or path.parent.name == ".work"]


def refusal(
    radiographs: Radiographs | Path,
    out: Path,
    *named: str,
    encoder: str | Encoder = "pixels",
    task: str = "square",
    **asked: Any,
) -> str:
    """The sentence that ``probe`` refuses with: it holds every ``named`` text, and nothing is left under ``out``."""
    folder = radiographs.save() if isinstance(radiographs, Radiographs) else radiographs
    asked = {"heads": ["linear"], "baselines": "none", **asked}
    with pytest.raises(EvalfmError) as caught:
        probe(encoder, task, data=folder, out=out, **asked)
    message = str(caught.value)
    for text in named:
        assert text in message, message
    assert re.search(r"[.?]$", message.strip()) or "to fix:" in message, message
    assert not out.is_dir() or (find_runs(out) == [] and left_behind(out) == [])
    return message


def only_run(radiographs: Radiographs, out: Path, task: str = "square", **asked: Any) -> Run:
    (run,) = probe(
        "pixels", task, data=radiographs.save(), out=out, **{"heads": ["linear"], "baselines": "none", **asked}
    )
    return run


def refused_by_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Standard error of the command, which must exit with 2."""
    monkeypatch.setattr(sys, "argv", ["evalfm", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = " ".join(capsys.readouterr().err.split())
    assert caught.value.code == 2, error
    assert "Traceback" not in error
    return error


def test_the_radiographs_unspoilt_are_probed(radiographs: Radiographs, out: Path):
    assert only_run(radiographs, out).metrics["auroc"].value is not None
    assert only_run(radiographs, out, task="grade").metrics["accuracy"].value is not None


class TestNames:
    def test_encoder(self, radiographs: Radiographs, out: Path):
        refusal(radiographs, out, "no encoder 'pixel'", "Did you mean 'pixels'?", encoder="pixel")
        refusal(radiographs, out, "'quite-other'", "Known: ", "hog", encoder="quite-other")
        refusal(radiographs, out, "no-such-card.yaml", "check the path", encoder="no-such-card.yaml")

    def test_task_and_label_column(self, radiographs: Radiographs, out: Path):
        refusal(radiographs, out, "no task or label column 'squaer'", "Did you mean 'square'?", task="squaer")
        refusal(radiographs, out, "'ptx-clss'", "Did you mean 'ptx-cls'", task="ptx-clss")

    def test_a_task_whose_label_the_data_lack(self, radiographs: Radiographs, out: Path):
        refusal(radiographs, out, "'cardiomegaly'", "Known: ", "square", task="cardiomegaly-cls")

    def test_head_before_weights_are_fetched(self, radiographs: Radiographs, out: Path):
        refusal(radiographs, out, "no head 'liner'", "Did you mean 'linear'?", heads=["liner"], encoder="rad-dino")
        refusal(radiographs, out, "'ridge' does not serve binary", "take 'attentive' or 'biomed-dpt'", heads=["ridge"])

    def test_columns_of_conditions(self, radiographs: Radiographs, out: Path):
        refusal(radiographs, out, "no column 'gradde'", "Did you mean 'grade'?", where="gradde == 1")
        refusal(radiographs, out, "no column 'gradde'", "Did you mean 'grade'?", test_where="gradde == 1")

    def test_labels_that_dataset_yaml_declares(self, radiographs: Radiographs, out: Path):
        radiographs.facts["label_source"]["sqare"] = "mask"
        refusal(radiographs, out, "'sqare'", "add it or remove it", "Did you mean 'square'")

    def test_data(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        refusal(tmp_path / "nowhere", out, "nowhere", "check the path")
        (radiographs.folder / "manifest.csv").unlink()
        refusal(radiographs.folder, out, "neither manifest.parquet nor manifest.csv", "evalfm data import")


def whole_png(radiographs: Radiographs, row: int, pixels: NDArray[Any]) -> None:
    Image.fromarray(pixels).save(radiographs.image(row))


def stored(radiographs: Radiographs, row: int, pixels: NDArray[Any]) -> None:
    np.save(radiographs.folder / "odd.npy", pixels)
    radiographs.spoil(row, "image", "odd.npy")


def dicom(radiographs: Radiographs, row: int, *, pixels: bool, syntax: str = ExplicitVRLittleEndian) -> None:
    dataset = dicom_header(syntax)
    if pixels:
        dataset.Rows = dataset.Columns = SIDE
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.add_new("PixelData", "OB", encapsulate([bytes(SIDE * SIDE)]))
        dataset["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(
        radiographs.folder / "odd.dcm", dataset, implicit_vr=False, little_endian=True, enforce_file_format=True
    )
    radiographs.spoil(row, "image", "odd.dcm")


def noise() -> NDArray[np.float32]:
    return np.random.default_rng(3).random((SIDE, SIDE), dtype=np.float32)


class TestImages:
    def test_missing(self, radiographs: Radiographs, out: Path):
        radiographs.image(4).unlink()
        radiographs.image(20).unlink()
        message = refusal(
            radiographs, out, "2 faults to fix", "row 5: image 'f4.png' is not there", "row 21: image 'f20.png'"
        )
        assert "to fix" in message

    def test_truncated(self, radiographs: Radiographs, out: Path, home: Path):
        content = radiographs.image(6).read_bytes()
        radiographs.image(6).write_bytes(content[: len(content) // 2])
        refusal(radiographs, out, "Row 7", "f6.png", "export it again or take it out of the table")
        assert not list((home / "cache" / "features").rglob("*.data")), "nothing of the batch it belongs to is kept"

    def test_empty_file(self, radiographs: Radiographs, out: Path):
        radiographs.image(6).write_bytes(b"")
        refusal(radiographs, out, "row 7", "f6.png", "take it out of the table")

    @pytest.mark.parametrize("value", [0, 117])
    def test_all_one_value(self, radiographs: Radiographs, out: Path, value: int):
        whole_png(radiographs, 9, np.full((SIDE, SIDE), value, dtype=np.uint8))
        refusal(radiographs, out, "Row 10", "all pixels", "replace the file or drop the row", "evalfm data check")

    def test_all_one_value_where_the_input_is_padded(self, radiographs: Radiographs, out: Path):
        whole_png(radiographs, 9, np.full((SIDE, SIDE // 2), 117, dtype=np.uint8))
        radiographs.spoil(9, "square_mask", None)
        refusal(radiographs, out, "Row 10", "all pixels", encoder="hog", resize="letterbox")

    def test_all_one_colour(self, radiographs: Radiographs, out: Path):
        whole_png(radiographs, 9, np.broadcast_to(np.uint8([10, 20, 30]), (SIDE, SIDE, 3)).copy())
        refusal(radiographs, out, "Row 10", "all pixels")

    def test_all_one_value_for_masks(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        whole_png(radiographs, 9, np.zeros((SIDE, SIDE), dtype=np.uint8))
        (tmp_path / "seg.yaml").write_text(SEGMENTATION)
        refusal(radiographs, out, "Row 10", "all pixels", task=str(tmp_path / "seg.yaml"), maps="stream")

    def test_all_one_value_outside_of_the_cohort_does_no_harm(self, radiographs: Radiographs, out: Path):
        whole_png(radiographs, 9, np.zeros((SIDE, SIDE), dtype=np.uint8))
        assert only_run(radiographs, out, where="id != 'f9'").metrics["auroc"].value is not None

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_pixels_that_are_no_numbers(self, radiographs: Radiographs, out: Path, value: float):
        pixels = noise()
        pixels[3, 5] = value
        stored(radiographs, 9, pixels)
        refusal(radiographs, out, "Row 10", "odd.npy", "NaN or infinite pixels", "fix it or take it out")

    def test_dicom_without_pixels(self, radiographs: Radiographs, out: Path):
        dicom(radiographs, 9, pixels=False)
        radiographs.spoil(9, "square_mask", None)
        refusal(radiographs, out, "row 10", "odd.dcm", "without pixels", "take it out of the table")

    def test_dicom_of_an_unknown_transfer_syntax(self, radiographs: Radiographs, out: Path):
        dicom(radiographs, 9, pixels=True, syntax="1.2.3.4.5.6")
        refusal(radiographs, out, "Row 10", "odd.dcm", "transfer syntax that cannot be read", "convert it")

    def test_a_mask_of_another_size(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        Image.fromarray(np.eye(30, dtype=np.uint8) * 255).save(radiographs.folder / "m9.png")
        (tmp_path / "seg.yaml").write_text(SEGMENTATION)
        task = str(tmp_path / "seg.yaml")
        refusal(radiographs, out, "row 10", "square mask", "30 × 30", "48 × 48", "mask_sizes", task=task)

    def test_a_missing_mask(self, radiographs: Radiographs, out: Path):
        (radiographs.folder / "m9.png").unlink()
        refusal(radiographs, out, "row 10: square_mask 'm9.png' is not there")


class TestLocators:
    @pytest.mark.parametrize("locator", ["../f9.png", "a/../../f9.png", "/etc/hostname", "C:\\f9.png"])
    def test_a_path_that_leaves_the_folder(self, radiographs: Radiographs, out: Path, locator: str):
        shutil.copy(radiographs.image(9), radiographs.folder.parent / "f9.png")
        radiographs.spoil(9, "image", locator)
        message = refusal(radiographs, out, "row 10: image", repr(locator))
        assert re.search("leaves the root|is absolute; write it relative", message)

    def test_a_link_that_leaves_the_folder(self, radiographs: Radiographs, out: Path):
        elsewhere = radiographs.folder.parent / "elsewhere.png"
        radiographs.image(9).rename(elsewhere)
        radiographs.image(9).symlink_to(elsewhere)
        refusal(radiographs, out, "row 10: image 'f9.png' leaves the root through a symbolic link")

    def test_a_mask_that_leaves_the_folder(self, radiographs: Radiographs, out: Path):
        radiographs.spoil(9, "square_mask", "../m9.png")
        refusal(radiographs, out, "row 10: square_mask '../m9.png' leaves the root")


class TestLabels:
    def test_absent(self, radiographs: Radiographs, out: Path):
        radiographs.table = radiographs.table.drop(columns=["square", "square_mask"])
        radiographs.facts |= {"label_source": {"grade": "reader"}, "mask_dialects": {}}
        refusal(radiographs, out, "no task or label column 'square'", "grade")

    def test_unknown_throughout(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        refusal(radiographs, out, "'blank' is unknown throughout", "fill it in", task="blank")
        card = "name: blank-cls\nschema: 1\nkind: binary\ntitle: What is blank?\ntarget: [blank]\n"
        (tmp_path / "blank.yaml").write_text(card)
        refusal(
            radiographs,
            out,
            "blank-cls has no image left",
            "40 target unknown",
            "--where",
            task=str(tmp_path / "blank.yaml"),
        )

    def test_neither_0_nor_1(self, radiographs: Radiographs, out: Path):
        radiographs.spoil(9, "square", 7)
        refusal(radiographs, out, "row 10: square is 7", "write 0, 1 or nothing")

    def test_a_manifest_of_no_rows(self, radiographs: Radiographs, out: Path):
        radiographs.table = radiographs.table.iloc[:0]
        refusal(radiographs, out, "'films'", "no rows", "import the data again")
        (radiographs.folder / "manifest.csv").write_text("")
        refusal(radiographs.folder, out, "manifest.csv", "check the file")

    def test_a_condition_that_keeps_nothing(self, radiographs: Radiographs, out: Path):
        refusal(radiographs, out, "no image left", "40 outside grade == 9", "--where", where="grade == 9")


class TestSplits:
    def test_a_patient_in_two(self, radiographs: Radiographs, out: Path):
        radiographs.spoil(radiographs.rows_of("test")[0], "patient", "p0")
        refusal(radiographs, out, "the patient 'p0' is in test and train", "split again by patient")

    def test_the_same_bytes_in_two(self, radiographs: Radiographs, out: Path):
        train, test = radiographs.rows_of("train")[0], radiographs.rows_of("test")[1]
        shutil.copy(radiographs.image(train), radiographs.image(test))
        names = f"'{radiographs.table['id'][train]}', '{radiographs.table['id'][test]}'"
        refusal(radiographs, out, names, "identical bytes", "test and train", "put them into one split")

    def test_the_same_bytes_in_separate_test_data(self, radiographs: Radiographs, whole: Radiographs, out: Path):
        refusal(radiographs, out, "40 image(s) of the test data films", "take them out of one", test_data=whole.folder)

    def test_no_split(self, radiographs: Radiographs, out: Path):
        radiographs.table = radiographs.table.drop(columns="split")
        refusal(radiographs, out, "has no split", "evalfm data split", "--folds")

    def test_a_split_of_another_name(self, radiographs: Radiographs, out: Path):
        radiographs.spoil(9, "split", "dev")
        refusal(radiographs, out, "row 10: split is 'dev'", "write train, val or test")

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_no_image_in(self, radiographs: Radiographs, out: Path, split: str):
        radiographs.table = radiographs.table[radiographs.table["split"] != split].reset_index(drop=True)
        refusal(radiographs, out, f"No image is left in {split}", "take more data")

    def test_no_image_in_val(self, radiographs: Radiographs, out: Path):
        radiographs.table = radiographs.table[radiographs.table["split"] != "val"].reset_index(drop=True)
        refusal(
            radiographs, out, "films has no val split", f"`evalfm data split {radiographs.folder} --val-from-train`"
        )


class TestOneClass:
    @pytest.mark.parametrize("value", [0, 1])
    def test_in_test_makes_the_metric_null_with_the_reason(self, radiographs: Radiographs, out: Path, value: int):
        radiographs.table.loc[radiographs.rows_of("test"), "square"] = value
        for head in ("linear", "knn"):
            run = only_run(radiographs, out, heads=[head])
            found = run.metrics["auroc"]
            assert found.value is None
            assert found.reason is not None
            assert "class" in found.reason or "positive" in found.reason or "negative" in found.reason
            undefined = "sensitivity" if value == 0 else "specificity"
            assert run.metrics[undefined].value is None
            assert run.metrics[undefined].reason

    @pytest.mark.parametrize("split", ["train", "val"])
    @pytest.mark.parametrize("head", ["linear", "knn"])
    def test_in_train_or_val_is_refused_before_anything_is_computed(
        self, radiographs: Radiographs, out: Path, home: Path, split: str, head: str
    ):
        radiographs.table.loc[radiographs.rows_of(split), "square"] = 0
        refusal(radiographs, out, f"In {split} 'square' has one class only", "evalfm data split", heads=[head])
        assert not (home / "cache" / "features").exists()

    def test_in_a_fold(self, radiographs: Radiographs, out: Path):
        radiographs.table["square"] = 0
        radiographs.table.loc[:1, "square"] = 1
        refusal(radiographs, out, "Class 1 has 2 patients, fewer than 5 folds", "take fewer", folds=5)
        refusal(radiographs, out, "val of fold 1", "'square' has one class only", "fewer folds", folds=2)
        refusal(radiographs, out, "50 folds need at least 50 patients", "take fewer folds", folds=50)

    def test_of_several_in_a_fold(self, radiographs: Radiographs, out: Path):
        radiographs.table["grade"] = [0, 1] * (PATIENTS // 2)
        radiographs.table.loc[:1, "grade"] = 2
        refusal(radiographs, out, "Class 2 has 2 patients, fewer than 5 folds", "take fewer", task="grade", folds=5)
        run = only_run(radiographs, out, task="grade", folds=2)
        tested = run.predictions().query("split == 'test'").groupby("fold")["target"]
        assert [set(targets) for _, targets in tested] == [{0, 1, 2}, {0, 1, 2}], "each fold tests every class"

    def test_of_masks(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        (tmp_path / "seg.yaml").write_text(SEGMENTATION)
        task = str(tmp_path / "seg.yaml")
        for row in radiographs.rows_of("val"):
            radiographs.spoil(row, "square_mask", "-1")
        refusal(
            radiographs,
            out,
            "In val no image has a mask of square that holds anything",
            "take another split",
            task=task,
        )

    def test_masks_all_empty_in_test(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        (tmp_path / "seg.yaml").write_text(SEGMENTATION)
        for row in radiographs.rows_of("test"):
            radiographs.spoil(row, "square_mask", "-1")
        (run,) = probe(
            "constant",
            str(tmp_path / "seg.yaml"),
            data=radiographs.save(),
            heads=["mean-mask"],
            baselines="none",
            out=out,
        )
        assert run.metrics["dice_positive"].value is None
        assert run.metrics["dice_positive"].reason


class TestTaskCards:
    @pytest.mark.parametrize(
        ("line", "named"),
        [
            ("target: []", "each need at least one name"),
            ("target: [square, grade]", "a binary task has one target, not 2"),
            ("target: [square]\nheads: []", "each need at least one name"),
            ("target: [square]\nkind: binery", "Input should be 'binary'"),
        ],
    )
    def test_that_cannot_be_asked(self, radiographs: Radiographs, out: Path, tmp_path: Path, line: str, named: str):
        kind = "" if "kind" in line else "kind: binary\n"
        (tmp_path / "task.yaml").write_text(f"name: odd\nschema: 1\n{kind}title: What?\n{line}\n")
        refusal(radiographs, out, "task.yaml", named, task=str(tmp_path / "task.yaml"))

    def test_of_several_findings_have_a_table_by_finding(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        radiographs.table["again_mask"] = radiographs.table["square_mask"]
        radiographs.facts["mask_dialects"]["again"] = "file"
        (tmp_path / "two.yaml").write_text(SEGMENTATION.replace("[square]", "[square, again]"))
        asked: dict[str, Any] = {"heads": ["mean-mask"], "baselines": "none", "out": out}
        runs = probe("constant", str(tmp_path / "two.yaml"), data=radiographs.save(), **asked)
        (table,) = task_tables(runs)
        assert table.metric_names[:2] == ("dice_positive_square", "dice_positive_again")

    def test_of_a_metric_that_is_none(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        card = "name: odd\nschema: 1\nkind: binary\ntitle: What?\ntarget: [square]\nmetrics: [aurocc]\n"
        (tmp_path / "task.yaml").write_text(card)
        refusal(radiographs, out, "no metric of binary tasks 'aurocc'", "'auroc'", task=str(tmp_path / "task.yaml"))


class TestFewImages:
    def test_more_shots_than_images(self, radiographs: Radiographs, out: Path):
        refusal(radiographs, out, "7 shots of class 0", "has 6 images", "take fewer", shots=7)

    def test_impossible_numbers(self, radiographs: Radiographs, out: Path):
        refusal(radiographs, out, "shots", "greater than or equal to 1", shots=0)
        refusal(radiographs, out, "folds", "greater than or equal to 2", folds=1)
        refusal(radiographs, out, "label_fraction", "less than or equal to 1", label_fraction=1.5)
        refusal(radiographs, out, "shots and label_fraction", "give one", shots=2, label_fraction=0.5)


class TestYaml:
    def test_one_that_would_construct_an_object(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        made = tmp_path / "made"
        evil = f"!!python/object/apply:os.mkdir [{made}]\n"
        radiographs.save()
        for name in ("card.yaml", "task.yaml"):
            (tmp_path / name).write_text(f"name: {evil}")
        refusal(radiographs, out, "card.yaml", "not plain YAML", "fix the file", encoder=str(tmp_path / "card.yaml"))
        refusal(radiographs, out, "task.yaml", "not plain YAML", "fix the file", task=str(tmp_path / "task.yaml"))
        (radiographs.folder / "dataset.yaml").write_text(f"schema: 1\nname: films\ntitle: {evil}")
        refusal(radiographs.folder, out, "dataset.yaml", "not plain YAML", "fix the file")
        assert not made.exists()

    @pytest.mark.parametrize("text", ["name: [", "- a\n- b\n", "name: 2024-02-31\n", "name: \x07\n", ""])
    def test_one_that_is_none(self, radiographs: Radiographs, out: Path, text: str):
        radiographs.save()
        (radiographs.folder / "dataset.yaml").write_text(text)
        refusal(radiographs.folder, out, "dataset.yaml")

    def test_keys_that_no_card_has(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        (tmp_path / "task.yaml").write_text(SEGMENTATION + "colour: red\n")
        refusal(radiographs, out, "task.yaml", "colour", task=str(tmp_path / "task.yaml"))
        radiographs.facts["colour"] = "red"
        refusal(radiographs, out, "dataset.yaml", "colour")


@dataclass(frozen=True)
class Weights:
    """A tiny ViT's card that asks for a file, and its tensors; ``path`` is where the file shall lie."""

    card: str
    tensors: dict[str, Tensor]
    path: Path

    def save(self) -> str:
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, self.path)
        return str(self.path)


@pytest.fixture(scope="module")
def tiny() -> tuple[dict[str, Any], dict[str, Tensor]]:
    card = find_card("random:test_vit")
    content = card.model_dump(mode="json", by_alias=True) | {"name": "tiny"}
    content["weights"] = {"source": "path", "unexpected_keys": ["head.*"]}
    model = timm.create_model("test_vit", pretrained=False)
    return content, dict(model.state_dict())


@pytest.fixture
def weights(tiny: tuple[dict[str, Any], dict[str, Tensor]], tmp_path: Path) -> Weights:
    content, tensors = tiny
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    copied = {name: tensor.clone() for name, tensor in tensors.items()}
    return Weights(str(tmp_path / "tiny.yaml"), copied, tmp_path / "tiny.safetensors")


QKV = "blocks.1.attn.qkv.weight"


def missing(tensors: dict[str, Tensor]) -> None:
    del tensors[QKV]


def renamed(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.1.attn.qvk.weight"] = tensors.pop(QKV)


def reshaped(tensors: dict[str, Tensor]) -> None:
    tensors[QKV] = tensors[QKV][:-3]


def spoilt(tensors: dict[str, Tensor]) -> None:
    tensors[QKV][5, 5] = float("nan")


def other_architecture(tensors: dict[str, Tensor]) -> None:
    tensors.clear()
    tensors.update(timm.create_model("test_resnet", pretrained=False).state_dict())


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


class TestWeights:
    def test_whole_ones_are_taken(self, radiographs: Radiographs, weights: Weights, out: Path):
        (run,) = probe(
            weights.card,
            "square",
            data=radiographs.save(),
            weights=weights.save(),
            heads=["linear"],
            baselines="none",
            out=out,
        )
        assert run.record.provenance.weights_digest is not None

    @pytest.mark.parametrize(
        ("spoil", "named"),
        [
            (missing, [f"missing: {QKV}", "give the weights that the card names"]),
            (renamed, [f"missing: {QKV}", "not known to the model: blocks.1.attn.qvk.weight"]),
            (reshaped, [f"of another shape: {QKV}", "instead of"]),
            (spoilt, [f"NaN or infinite values in {QKV}", "fetch the file again"]),
            (other_architecture, ["does not fit the encoder", "missing: blocks.0", "give the weights"]),
        ],
    )
    def test_one_wrong_tensor(
        self,
        radiographs: Radiographs,
        weights: Weights,
        out: Path,
        spoil: Callable[[dict[str, Tensor]], None],
        named: list[str],
    ):
        spoil(weights.tensors)
        refusal(radiographs, out, "tiny.safetensors", *named, encoder=weights.card, weights=weights.save())

    @pytest.mark.parametrize("kept", [0, 5, 2000, -100])
    def test_cut_short(self, radiographs: Radiographs, weights: Weights, out: Path, kept: int):
        weights.save()
        weights.path.write_bytes(weights.path.read_bytes()[:kept])
        message = refusal(radiographs, out, "tiny.safetensors", encoder=weights.card, weights=str(weights.path))
        assert "incomplete" in message
        assert "fetch it again" in message

    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_torch_file_cut_short(self, radiographs: Radiographs, weights: Weights, out: Path, legacy: bool):
        path = weights.path.with_suffix(".pt")
        torch.save(weights.tensors, path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(path.read_bytes()[:-5000])
        refusal(radiographs, out, "tiny.pt", "incomplete", "fetch it again", encoder=weights.card, weights=str(path))

    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_pickle_that_would_execute(
        self, radiographs: Radiographs, weights: Weights, out: Path, legacy: bool, tmp_path: Path
    ):
        path, made = weights.path.with_suffix(".pt"), tmp_path / "made"
        torch.save(weights.tensors | {"more": Evil(made)}, path, _use_new_zipfile_serialization=not legacy)
        named = ["tiny.pt was refused", "mkdir", "could run code", "safetensors"]
        refusal(radiographs, out, *named, encoder=weights.card, weights=str(path))
        assert not made.exists()

    def test_none_there(self, radiographs: Radiographs, weights: Weights, out: Path):
        refusal(
            radiographs, out, "tiny.safetensors", "check --weights", encoder=weights.card, weights=str(weights.path)
        )
        refusal(radiographs, out, "tiny are on no hub", "--weights PATH", encoder=weights.card)

    def test_no_network(self, radiographs: Radiographs, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        refusal(radiographs, out, "rad-dino", "hub cannot be reached", "--weights PATH", "pixels", encoder="rad-dino")
        assert not (tmp_path / "hub").exists()


class TestOut:
    def test_a_file_stands_there(self, radiographs: Radiographs, out: Path, home: Path):
        out.write_text("mine")
        refusal(radiographs, out, str(out), "is a file", "--out")
        refusal(radiographs, out / "deeper", str(out), "is a file", "--out")
        assert out.read_text() == "mine"
        assert not (home / "cache" / "features").exists(), "nothing is computed first"

    def test_read_only(self, radiographs: Radiographs, out: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
        out.mkdir()
        may = os.access
        # Permissions do not bind root.
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != out and may(path, mode))
        refusal(radiographs, out, str(out), "read-only", "--out")
        assert not (home / "cache" / "features").exists(), "nothing is computed first"

    def test_runs_that_are_there_can_be_read_where_nothing_can_be_written(
        self, radiographs: Radiographs, out: Path, monkeypatch: pytest.MonkeyPatch
    ):
        run = only_run(radiographs, out)
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert only_run(radiographs, out).folder == run.folder

    def test_predict_asks_before_it_computes(self, radiographs: Radiographs, out: Path, tmp_path: Path):
        run = only_run(radiographs, out)
        (tmp_path / "file").write_text("mine")
        with pytest.raises(EvalfmError, match=r"is a file.*--out"):
            predict(run, radiographs.folder, out=tmp_path / "file" / "predicted")


class TestCommandLine:
    def test_every_mistake_is_status_2_and_no_traceback(
        self, radiographs: Radiographs, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        whole_png(radiographs, 9, np.zeros((SIDE, SIDE), dtype=np.uint8))
        asked = ["probe", "--encoder", "pixels", "--task", "square", "--data", radiographs.save(), "--out", out]
        assert "Row 10" in refused_by_cli(monkeypatch, capsys, *asked)
        assert "no column 'gradde'" in refused_by_cli(monkeypatch, capsys, *asked, "--where", "gradde > 0")
        assert "take fewer" in refused_by_cli(monkeypatch, capsys, *asked, "--shots", 99)
        assert not out.exists() or left_behind(out) == []

    def test_in_a_process_of_its_own(self, radiographs: Radiographs, out: Path):
        radiographs.image(3).write_bytes(b"no picture")
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from evalfm.cli import main; main()"
        arguments = ["probe", "--encoder", "pixels", "--task", "square", "--data", radiographs.save(), "--out", out]
        asked = subprocess.run(
            [sys.executable, "-c", code, str(ROOT), *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert asked.returncode == 2, asked.stderr
        assert re.search(r"^Error: .*\n +row 4: f3\.png", asked.stderr, re.MULTILINE)
        assert "Traceback" not in asked.stderr
        assert not out.exists() or left_behind(out) == []
