"""Who is asked and what the truth is: cohorts, unknown labels, labels from masks, measured ratios, plain columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.tasks.card import load_task
from evalfm.tasks.question import pose, resolve_task


def dataset(folder: Path, columns: dict[str, object], **info: object) -> Manifest:
    """A manifest of as many 8×10 films as the columns have rows."""
    number = len(next(iter(columns.values())))  # type: ignore[call-overload]
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for row in range(number):
        Image.fromarray(generator.integers(0, 255, (8, 10), dtype=np.uint8)).save(folder / f"{row}.png")
    table = pd.DataFrame(
        {
            "id": [f"film{row}" for row in range(number)],
            "patient": [f"p{row}" for row in range(number)],
            "image": [f"{row}.png" for row in range(number)],
            "split": (["train", "val", "test"] * number)[:number],
            **columns,
        }
    )
    manifest = Manifest(DatasetInfo(name="test", public_ids=True, **info), table, folder)  # type: ignore[arg-type]
    manifest.write(folder)
    return Manifest.read(folder)


def rectangle(folder: Path, name: str, rows: slice, columns: slice) -> str:
    mask = np.zeros((8, 10), dtype=np.uint8)
    mask[rows, columns] = 255
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(folder / name)
    return name


def test_unknown_labels_leave_and_are_counted(tmp_path: Path):
    manifest = dataset(tmp_path, {"pneumothorax": [1, 0, None, 1]}, label_source={"pneumothorax": "radiologist"})
    question = pose(load_task("ptx-cls"), manifest)
    assert question.rows.tolist() == [0, 1, 3]
    assert question.target.tolist() == [1, 0, 1]
    assert question.positive.tolist() == [True, False, True]
    assert [(item.reason, item.images) for item in question.exclusions] == [("target unknown", 1)]
    assert question.label_source == {"pneumothorax": "radiologist"}


def test_lateral_films_are_outside_a_chest_task_and_unknown_views_stay(tmp_path: Path):
    manifest = dataset(
        tmp_path,
        {"pneumothorax": [1, 0, 1, 0], "view": ["PA", "lateral", None, "AP"]},
        label_source={"pneumothorax": "radiologist"},
        attributes=["view"],
    )
    question = pose(load_task("ptx-cls"), manifest)
    assert question.rows.tolist() == [0, 2, 3]
    assert question.exclusions[0].images == 1


def test_without_a_view_column_the_run_says_that_the_cohort_was_not_applied(tmp_path: Path):
    manifest = dataset(tmp_path, {"pneumothorax": [1, 0]}, label_source={"pneumothorax": "radiologist"})
    (note,) = pose(load_task("ptx-cls"), manifest).notes
    assert "no column view" in note


def test_where_keeps_a_part_and_counts_the_rest(tmp_path: Path):
    manifest = dataset(
        tmp_path,
        {"pneumothorax": [1, 0, 1], "sex": ["F", "M", "F"]},
        label_source={"pneumothorax": "radiologist"},
        attributes=["sex"],
    )
    question = pose(load_task("ptx-cls"), manifest, where="sex == 'F'")
    assert question.rows.tolist() == [0, 2]
    assert ("outside sex == 'F'", 1) in [(item.reason, item.images) for item in question.exclusions]


def test_a_label_comes_from_the_mask_where_no_column_gives_it(tmp_path: Path):
    names = [
        rectangle(tmp_path, "full.png", slice(1, 3), slice(2, 5)),
        rectangle(tmp_path, "empty.png", slice(0), slice(0)),
    ]
    manifest = dataset(tmp_path, {"pneumothorax_mask": [*names, None]}, mask_dialects={"pneumothorax": "file"})
    question = pose(load_task("ptx-cls"), manifest)
    assert question.target.tolist() == [1, 0]
    assert question.label_source == {"pneumothorax": "mask"}


def test_size_is_asked_of_positives_only_as_a_fraction_of_the_image(tmp_path: Path):
    names = [
        rectangle(tmp_path, "full.png", slice(1, 3), slice(2, 5)),
        rectangle(tmp_path, "empty.png", slice(0), slice(0)),
    ]
    manifest = dataset(tmp_path, {"pneumothorax_mask": names}, mask_dialects={"pneumothorax": "file"})
    question = pose(load_task("ptx-size"), manifest)
    assert question.target.tolist() == [6 / 80]
    assert "positives only" in question.exclusions[-1].reason


def test_ratio_is_measured_on_masks_only_where_no_column_gives_it(tmp_path: Path):
    heart = rectangle(tmp_path, "heart.png", slice(2, 4), slice(3, 7))
    left = rectangle(tmp_path, "left.png", slice(0, 6), slice(7, 10))
    right = rectangle(tmp_path, "right.png", slice(0, 6), slice(0, 3))
    masks = {"heart_mask": [heart] * 2, "left_lung_mask": [left] * 2, "right_lung_mask": [right] * 2}
    dialects = dict.fromkeys(("heart", "left_lung", "right_lung"), "file")
    measured = pose(load_task("ctr"), dataset(tmp_path, masks, mask_dialects=dialects))
    assert measured.target.tolist() == [0.4, 0.4]
    assert measured.label_source == {"ctr": "mask"}
    given = dataset(
        tmp_path / "given",
        {"ctr": [0.55, None]},
        label_source={"ctr": "radiologist"},
        label_kinds={"ctr": "number"},
    )
    question = pose(load_task("ctr"), given)
    assert (question.target.tolist(), question.label_source) == ([0.55], {"ctr": "radiologist"})


def test_masks_of_a_row_are_one_channel_per_finding(tmp_path: Path):
    name = rectangle(tmp_path, "full.png", slice(1, 3), slice(2, 5))
    manifest = dataset(tmp_path, {"heart_mask": [name, None]}, mask_dialects={"heart": "file"})
    question = pose(load_task("heart-seg"), manifest)
    assert question.rows.tolist() == [0]
    assert question.masks(0).shape == (1, 8, 10)
    assert question.masks(0).sum() == 6


def test_a_plain_column_becomes_a_task_by_its_values(tmp_path: Path):
    manifest = dataset(
        tmp_path,
        {"sex": ["F", "M", None] * 4, "score": list(range(12)), "grade": [0, 1, 2] * 4},
        label_source={"score": "x", "grade": "x"},
        label_kinds={"score": "number", "grade": "class"},
        attributes=["sex"],
    )
    assert resolve_task("score", manifest).kind == "regression"
    assert resolve_task("grade", manifest).kind == "multiclass"
    sex = pose(resolve_task("sex", manifest), manifest)
    assert (sex.task.kind, sex.class_names) == ("binary", ("sex_M",))
    assert sex.target.tolist() == [0, 1] * 4


def test_an_unknown_task_proposes_tasks_and_columns(tmp_path: Path):
    manifest = dataset(tmp_path, {"effusion": [1, 0]}, label_source={"effusion": "x"})
    with pytest.raises(UnknownNameError, match="'effusion'"):
        resolve_task("effusions", manifest)


@pytest.mark.parametrize("values", [[None, None]])
def test_a_label_unknown_throughout_is_refused(tmp_path: Path, values: list[object]):
    manifest = dataset(tmp_path, {"pneumothorax": values}, label_source={"pneumothorax": "x"})
    with pytest.raises(EvalfmError, match="no image left"):
        pose(load_task("ptx-cls"), manifest)


def test_an_absent_label_column_is_named(tmp_path: Path):
    manifest = dataset(tmp_path, {"pneumothoraks": [0, 1]}, label_source={"pneumothoraks": "x"})
    with pytest.raises(UnknownNameError, match="Did you mean 'pneumothoraks'"):
        pose(load_task("ptx-cls"), manifest)
