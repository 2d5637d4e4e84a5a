"""The cohort and the truth of a task: conditions, unknown labels, labels from masks, measured ratios, plain columns."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.tasks.cohort import resolve_task, select_cohort
from evalfm.tasks.task import load_task
from evalfm.tasks.truth import parts_of


def dataset(folder: Path, columns: dict[str, object], **info: object) -> Manifest:
    """A manifest of as many 8×10 images as the columns have rows."""
    number = len(next(iter(columns.values())))  # type: ignore[call-overload]
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for row in range(number):
        Image.fromarray(generator.integers(0, 255, (8, 10), dtype=np.uint8)).save(folder / f"{row}.png")
    table = pd.DataFrame(
        {
            "id": [f"image{row}" for row in range(number)],
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


def test_rows_come_by_id_and_one_long_id_makes_no_other_longer() -> None:
    ids = [f"i{row * 7 % 200}" for row in range(200)]
    ids[5] = "j" * 100_000
    table = pd.DataFrame({"id": ids, "image": [f"{row}.png" for row in range(200)], "edema": [0.0, 1.0] * 100})
    manifest = Manifest(DatasetInfo(name="long", public_ids=True), table, Path())
    tracemalloc.start()
    rows = select_cohort(resolve_task("edema", manifest), manifest).rows
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [ids[row] for row in rows] == sorted(ids)
    assert peak < 10_000_000


def test_unknown_labels_leave_and_are_counted(tmp_path: Path):
    manifest = dataset(tmp_path, {"pneumothorax": [1, 0, None, 1]}, label_source={"pneumothorax": "radiologist"})
    cohort = select_cohort(load_task("ptx-cls"), manifest)
    assert cohort.rows.tolist() == [0, 1, 3]
    assert cohort.target.tolist() == [1, 0, 1]
    assert cohort.positive.tolist() == [True, False, True]
    assert [(item.reason, item.images) for item in cohort.exclusions] == [("target unknown", 1)]
    assert cohort.label_source == {"pneumothorax": "radiologist"}


def test_lateral_images_are_outside_a_chest_task_and_unknown_views_stay(tmp_path: Path):
    manifest = dataset(
        tmp_path,
        {"pneumothorax": [1, 0, 1, 0], "view": ["PA", "lateral", None, "AP"]},
        label_source={"pneumothorax": "radiologist"},
        attributes=["view"],
    )
    cohort = select_cohort(load_task("ptx-cls"), manifest)
    assert cohort.rows.tolist() == [0, 2, 3]
    assert cohort.exclusions[0].images == 1


def test_without_a_view_column_the_run_says_that_the_cohort_was_not_applied(tmp_path: Path):
    manifest = dataset(tmp_path, {"pneumothorax": [1, 0]}, label_source={"pneumothorax": "radiologist"})
    (caution,) = select_cohort(load_task("ptx-cls"), manifest).cautions
    assert "no column view" in caution.sentence


def test_where_keeps_a_part_and_counts_the_rest(tmp_path: Path):
    manifest = dataset(
        tmp_path,
        {"pneumothorax": [1, 0, 1], "sex": ["F", "M", "F"]},
        label_source={"pneumothorax": "radiologist"},
        attributes=["sex"],
    )
    cohort = select_cohort(load_task("ptx-cls"), manifest, where="sex == 'F'")
    assert cohort.rows.tolist() == [0, 2]
    assert ("outside sex == 'F'", 1) in [(item.reason, item.images) for item in cohort.exclusions]


def test_a_label_comes_from_the_mask_where_no_column_gives_it(tmp_path: Path):
    names = [
        rectangle(tmp_path, "full.png", slice(1, 3), slice(2, 5)),
        rectangle(tmp_path, "empty.png", slice(0), slice(0)),
    ]
    manifest = dataset(tmp_path, {"pneumothorax_mask": [*names, None]}, mask_dialects={"pneumothorax": "file"})
    cohort = select_cohort(load_task("ptx-cls"), manifest)
    assert cohort.target.tolist() == [1, 0]
    assert cohort.label_source == {"pneumothorax": "mask"}


def test_size_is_asked_of_positives_only_as_a_fraction_of_the_image(tmp_path: Path):
    names = [
        rectangle(tmp_path, "full.png", slice(1, 3), slice(2, 5)),
        rectangle(tmp_path, "empty.png", slice(0), slice(0)),
    ]
    manifest = dataset(tmp_path, {"pneumothorax_mask": names}, mask_dialects={"pneumothorax": "file"})
    cohort = select_cohort(load_task("ptx-size"), manifest)
    assert cohort.target.tolist() == [6 / 80]
    assert "positives only" in cohort.exclusions[-1].reason


def test_ratio_is_measured_on_masks_only_where_no_column_gives_it(tmp_path: Path):
    heart = rectangle(tmp_path, "heart.png", slice(2, 4), slice(3, 7))
    left = rectangle(tmp_path, "left.png", slice(0, 6), slice(7, 10))
    right = rectangle(tmp_path, "right.png", slice(0, 6), slice(0, 3))
    masks = {"heart_mask": [heart] * 2, "left_lung_mask": [left] * 2, "right_lung_mask": [right] * 2}
    dialects = dict.fromkeys(("heart", "left_lung", "right_lung"), "file")
    measured = select_cohort(load_task("ctr"), dataset(tmp_path, masks, mask_dialects=dialects))
    assert measured.target.tolist() == [0.4, 0.4]
    assert measured.label_source == {"ctr": "mask"}
    given = dataset(
        tmp_path / "given",
        {"ctr": [0.55, None]},
        label_source={"ctr": "radiologist"},
        label_kinds={"ctr": "number"},
    )
    cohort = select_cohort(load_task("ctr"), given)
    assert (cohort.target.tolist(), cohort.label_source) == ([0.55], {"ctr": "radiologist"})


def test_size_in_the_lungs_is_of_both_lungs_and_what_the_air_took_of_them(tmp_path: Path):
    collapsed = rectangle(tmp_path, "collapsed.png", slice(4, 8), slice(0, 3))
    whole = rectangle(tmp_path, "whole.png", slice(0, 8), slice(0, 3))
    other = rectangle(tmp_path, "other.png", slice(0, 8), slice(7, 10))
    air = rectangle(tmp_path, "air.png", slice(0, 4), slice(0, 3))
    none = rectangle(tmp_path, "none.png", slice(0), slice(0))
    columns = {
        "pneumothorax_mask": [air, air, none, air, air, None],
        "right_lung_mask": [collapsed, whole, whole, none, None, whole],
        "left_lung_mask": [other, other, other, none, other, other],
    }
    dialects = dict.fromkeys(("pneumothorax", "right_lung", "left_lung"), "file")
    manifest = dataset(tmp_path, columns, mask_dialects=dialects)
    cohort = select_cohort(load_task("ptx-size-lung"), manifest)
    # 12 pixels of air of the 48 of both lungs, whether the mask of the lung ends at the air or holds it.
    assert (cohort.rows.tolist(), cohort.target.tolist()) == ([0, 1], [0.25, 0.25])
    left = [(item.reason.split(" (")[0], item.images) for item in cohort.exclusions if item.images]
    assert left[-2:] == [("target unknown", 3), ("no lesion", 1)]


def test_lungs_are_both_sides_together_or_their_own_mask(tmp_path: Path):
    right = rectangle(tmp_path, "right.png", slice(0, 8), slice(0, 3))
    left = rectangle(tmp_path, "left.png", slice(2, 8), slice(7, 10))
    lungs_apart = {"right_lung_mask": [right, right], "left_lung_mask": [left, None]}
    both = dataset(tmp_path, lungs_apart, mask_dialects=dict.fromkeys(("right_lung", "left_lung"), "file"))
    cohort = select_cohort(load_task("lung-seg"), both)
    assert cohort.rows.tolist() == [0]
    assert cohort.class_names == ("lungs",)
    assert cohort.masks(0).shape == (1, 8, 10)
    assert cohort.masks(0).sum() == 24 + 18
    own = dataset(
        tmp_path / "own",
        {"lungs_mask": [rectangle(tmp_path / "own", "lungs.png", slice(0, 1), slice(0, 1))] * 2},
        mask_dialects={"lungs": "file"},
        label_source={"lungs": "pseudo"},
    )
    cohort = select_cohort(load_task("lung-seg"), own)
    assert (cohort.masks(1).sum(), cohort.label_source) == (1, {"lungs": "pseudo"})
    with pytest.raises(UnknownNameError, match="'lungs_mask'"):
        select_cohort(load_task("lung-seg"), dataset(tmp_path / "none", {"pneumothorax": [0]}))


def test_masks_that_a_model_made_say_so_in_every_task_on_them(tmp_path: Path):
    names = {side: rectangle(tmp_path, f"{side}.png", slice(0, 4), slice(0, 3)) for side in ("heart", "lungs")}
    manifest = dataset(
        tmp_path,
        {f"{side}_mask": [name] * 2 for side, name in names.items()},
        mask_dialects=dict.fromkeys(names, "file"),
        label_source={"heart": "pseudo", "lungs": "radiologist"},
    )
    assert select_cohort(load_task("heart-seg"), manifest).label_source == {"heart": "pseudo"}
    assert select_cohort(load_task("ctr"), manifest).label_source == {"ctr": "pseudo, radiologist"}


def test_density_is_ordered_by_its_letters_and_asks_no_frontal_view(tmp_path: Path):
    columns = {"density": ["B", "A", None, "D"], "view": ["CC", "L", "MLO", "CC"]}
    manifest = dataset(tmp_path, columns, label_source={"density": "radiologist"}, label_kinds={"density": "class"})
    cohort = select_cohort(load_task("density"), manifest)
    assert cohort.rows.tolist() == [0, 1, 3]
    assert (cohort.class_names, cohort.target.tolist()) == (("A", "B", "D"), [1, 0, 2])


def test_of_several_findings_each_is_asked_where_it_is_known(tmp_path: Path):
    names = load_task("nih14").target
    columns = {name: [float(number % 2), None, None] for number, name in enumerate(names)}
    columns["hernia"] = [1.0, 1.0, None]
    manifest = dataset(tmp_path, columns, label_source=dict.fromkeys(names, "text-mined"))
    cohort = select_cohort(load_task("nih14"), manifest)
    assert (cohort.rows.tolist(), cohort.class_names, cohort.target.shape) == ([0, 1], names, (2, 14))
    assert np.flatnonzero(~np.isnan(cohort.target[1])).tolist() == [names.index("hernia")]


def test_masks_of_a_row_are_one_channel_per_finding(tmp_path: Path):
    name = rectangle(tmp_path, "full.png", slice(1, 3), slice(2, 5))
    manifest = dataset(tmp_path, {"heart_mask": [name, None]}, mask_dialects={"heart": "file"})
    cohort = select_cohort(load_task("heart-seg"), manifest)
    assert cohort.rows.tolist() == [0]
    assert cohort.masks(0).shape == (1, 8, 10)
    assert cohort.masks(0).sum() == 6


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
    sex = select_cohort(resolve_task("sex", manifest), manifest)
    assert (sex.task.kind, sex.class_names) == ("binary", ("sex_M",))
    assert dict(zip(sex.rows.tolist(), sex.target.tolist(), strict=True)) == {
        row: row % 3 for row in range(11) if row % 3 < 2
    }


def test_an_unknown_task_proposes_tasks_and_columns(tmp_path: Path):
    manifest = dataset(tmp_path, {"effusion": [1, 0]}, label_source={"effusion": "x"})
    with pytest.raises(UnknownNameError, match="'effusion'"):
        resolve_task("effusions", manifest)


@pytest.mark.parametrize("values", [[None, None]])
def test_a_label_unknown_throughout_is_refused(tmp_path: Path, values: list[object]):
    manifest = dataset(tmp_path, {"pneumothorax": values}, label_source={"pneumothorax": "x"})
    with pytest.raises(EvalfmError, match="no image left"):
        select_cohort(load_task("ptx-cls"), manifest)


def test_an_absent_label_column_is_named(tmp_path: Path):
    manifest = dataset(tmp_path, {"pneumothoraks": [0, 1]}, label_source={"pneumothoraks": "x"})
    with pytest.raises(UnknownNameError, match="Did you mean 'pneumothoraks'"):
        select_cohort(load_task("ptx-cls"), manifest)


@pytest.mark.parametrize(
    ("values", "levels", "kind", "names", "title"),
    [
        ([1, 2], None, "binary", ("g_2",), "g: 2 or 1?"),
        ([1, 2], ["2", "1"], "binary", ("g_1",), "g: 1 or 2?"),
        (["high", "low"], ["low", "high"], "binary", ("g_high",), "g: high or low?"),
        ([0, 1], None, "binary", ("g",), "g: yes or no?"),
        (list(range(12)), None, "multiclass", tuple(map(str, range(12))), "g: which class?"),
        (
            ["mild", "none", "severe"],
            ["none", "mild", "severe"],
            "ordinal",
            ("none", "mild", "severe"),
            "g: which level?",
        ),
        ([1, 2, 3], ["3", "1", "2"], "ordinal", ("3", "1", "2"), "g: which level?"),
    ],
)
def test_a_label_declared_as_classes_is_asked_as_classes(
    tmp_path: Path, values: list[object], levels: list[str] | None, kind: str, names: tuple[str, ...], title: str
) -> None:
    manifest = dataset(
        tmp_path,
        {"g": [*values, None]},
        label_source={"g": "reader"},
        label_kinds={"g": "class"},
        levels={} if levels is None else {"g": levels},
    )
    cohort = select_cohort(resolve_task("g", manifest), manifest)
    assert (cohort.task.kind, cohort.class_names, cohort.task.title) == (kind, names, title)
    codes = dict(zip(cohort.rows.tolist(), cohort.target.tolist(), strict=True))
    order = (
        list(names) if kind != "binary" else sorted(map(str, values), key=(levels or sorted(map(str, values))).index)
    )
    assert codes == {row: order.index(str(value)) for row, value in enumerate(values)}


def test_the_lungs_are_their_own_mask_before_that_of_both_lungs():
    each = ["left_lung_mask", "right_lung_mask"]
    assert parts_of("lungs", each) == ("left_lung", "right_lung")
    assert parts_of("lungs", [*each, "lungs_mask"]) == ("lungs",)
    assert parts_of("lungs", each[:1]) == ("lungs",)
    assert parts_of("heart", each) == ("heart",)


def test_the_order_of_the_table_changes_nothing(tmp_path: Path):
    manifest = dataset(tmp_path, {"pneumothorax": [1, 0, 0, 1, 1]})
    turned = manifest.select([3, 0, 4, 2, 1])
    first, second = (select_cohort(load_task("ptx-cls"), each) for each in (manifest, turned))
    assert second.rows.tolist() == [1, 4, 3, 0, 2]
    assert second.target.tolist() == first.target.tolist() == [1, 0, 0, 1, 1]
