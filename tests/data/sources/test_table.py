from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from evalfm.cards import validate
from evalfm.cli.app import app
from evalfm.data.checks import deep_faults
from evalfm.data.config import ImportOptions, TableMapping
from evalfm.data.manifest import Manifest
from evalfm.data.sources.table import import_source
from evalfm.errors import EvalfmError
from evalfm.tasks.cohort import resolve_task, select_cohort

from .published import write_picture

CSV = (
    "File,PID,Set,PTX,Grade,Ratio,Report,Sex,Age,Site\n"
    "a/1.png,007,training,1,2,0.5,free text,F,60,01\n"
    "a/2.png,7,VALID,-1,,0.25,more text,M,,02\n"
    "a/3.png,8,test,,0,,text,,5,01\n"
)
MAPPING = TableMapping(
    name="mine",
    image="File",
    patient="PID",
    split="Set",
    labels={"pneumothorax": "PTX", "grade": "Grade", "ratio": "Ratio"},
    label_kinds={"grade": "class", "ratio": "number"},
    label_source={"pneumothorax": "radiologist"},
    attributes={"sex": "Sex", "age": "Age", "site": "Site"},
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data/a").mkdir(parents=True)
    for number in (1, 2, 3):
        (tmp_path / f"data/a/{number}.png").touch()
    (tmp_path / "mine.csv").write_text(CSV)
    return tmp_path / "data"


def read(root: Path, mapping: TableMapping | None = None, **options: object) -> Manifest:
    if mapping is None:
        mapping = MAPPING.model_copy(update={"csv": root.parent / "mine.csv"})
    imported = import_source(root, ImportOptions(mapping=mapping, **options))  # type: ignore[arg-type]
    info = imported.info.model_copy(update={"root": str(root), "salt": "pepper"})
    return Manifest(info, imported.table, root)


def test_mapped_columns_enter_and_no_other(root: Path) -> None:
    data = read(root)
    data.validate()
    assert data.table.columns.tolist() == [
        "image", "id", "patient", "split", "pneumothorax", "grade", "ratio", "sex", "age", "site",
    ]  # fmt: skip
    assert data.table["id"].tolist() == ["a/1.png", "a/2.png", "a/3.png"]
    assert data.patients.tolist() == ["007", "7", "8"]
    assert data.splits.tolist() == ["train", "val", "test"]
    assert np.array_equal(data.label("grade"), [2, np.nan, 0], equal_nan=True)
    assert np.array_equal(data.label("ratio"), [0.5, 0.25, np.nan], equal_nan=True)
    assert data.table["site"].tolist() == ["01", "02", "01"]
    assert data.info.attributes == ["sex", "age", "site"]
    assert data.info.label_source == {
        "pneumothorax": "radiologist",
        "grade": "unstated",
        "ratio": "unstated",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, np.nan, np.nan]),
        ({"uncertain": "zero"}, [1, 0, np.nan]),
        ({"uncertain": "one"}, [1, 1, np.nan]),
        ({"blank": "negative"}, [1, np.nan, 0]),
        ({"blank": "negative", "uncertain": "one"}, [1, 1, 0]),
    ],
)
def test_blank_and_uncertain_labels(root: Path, options: dict[str, str], expected: list[float]) -> None:
    data = read(root, **options)
    assert np.array_equal(data.label("pneumothorax"), expected, equal_nan=True)
    # Numbers and classes have no uncertain value.
    assert np.array_equal(data.label("ratio"), [0.5, 0.25, np.nan], equal_nan=True)
    assert (data.info.blank, data.info.uncertain) == (
        options.get("blank", "unknown"),
        options.get("uncertain", "unknown"),
    )


def test_an_image_folder_with_metadata(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,secret\na/1.png,x\na/2.png,y\n")
    data = read(root, TableMapping())
    assert data.info.name == "data"
    assert data.table.columns.tolist() == ["image", "id"]
    assert data.table["image"].tolist() == ["a/1.png", "a/2.png"]
    assert not data.patients_known


def test_an_image_folder_with_a_folder_per_split(tmp_path: Path) -> None:
    for name, rows in (("train", "1.png,1\n2.png,0\n"), ("validation", "3.png,1\n"), ("test", "4.png,0\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.csv").write_text("file_name,label\n" + rows)
    (tmp_path / "other").mkdir()
    data = read(tmp_path, TableMapping(labels={"label": "label"}))
    assert dict(zip(data.table["image"], data.splits, strict=True)) == {
        "train/1.png": "train",
        "train/2.png": "train",
        "validation/3.png": "val",
        "test/4.png": "test",
    }
    by_image = dict(zip(data.table["image"], data.label("label"), strict=True))
    assert by_image["train/1.png"] == by_image["validation/3.png"] == 1


def test_paths_become_relative_where_they_lie_in_the_root(root: Path) -> None:
    (root / "metadata.csv").write_text(f"file_name\n{root}/a/1.png\n./a/2.png\n/elsewhere/a/3.png\n")
    data = read(root, TableMapping())
    assert data.table["image"].tolist() == ["a/1.png", "a/2.png", "/elsewhere/a/3.png"]
    with pytest.raises(EvalfmError, match=r"row 3: image '/elsewhere/a/3\.png' is absolute"):
        data.validate()


def test_masks_kept_columns_and_parquet(root: Path) -> None:
    table = pd.DataFrame({"path": ["a/1.png", "a/2.png"], "key": [1, 2], "rle": ["1 2", None], "note": ["x", "y"]})
    table.to_parquet(root.parent / "mine.parquet")
    mapping = TableMapping(
        csv=root.parent / "mine.parquet", image="path", id="key", masks={"tube": "rle"},
        mask_dialects={"tube": "absolute"}, keep=["note"],
    )  # fmt: skip
    data = read(root, mapping)
    data.validate()
    assert data.table["id"].tolist() == ["1", "2"]
    assert data.table["tube_mask"].tolist() == ["1 2", None]
    assert data.info.mask_dialects == {"tube": "absolute"}
    assert data.table["note"].tolist() == ["x", "y"]
    assert data.info.attributes == []


def test_words_as_labels_and_unknown_splits_are_named_by_the_checks(root: Path) -> None:
    text = CSV.replace("training,1", "training,yes").replace("VALID", "holdout")
    (root.parent / "mine.csv").write_text(text)
    with pytest.raises(EvalfmError) as caught:
        read(root).validate()
    assert "row 1: pneumothorax is 'yes'; write 0, 1 or nothing" in str(caught.value)
    assert "row 2: split is 'holdout'" in str(caught.value)


def test_mappings_that_do_not_fit_are_refused(root: Path) -> None:
    def mapped(**changes: object) -> Manifest:
        return read(root, MAPPING.model_copy(update={"csv": root.parent / "mine.csv", **changes}))

    with pytest.raises(EvalfmError, match=r"mine\.csv has no column 'Reports'. Did you mean 'Report'"):
        mapped(patient="Reports")
    with pytest.raises(EvalfmError, match="Two columns are mapped to 'patient'"):
        mapped(attributes={"patient": "Sex"})
    with pytest.raises(EvalfmError, match="cannot be named 'split'"):
        mapped(labels={"split": "PTX"})


def test_a_list_of_labels_keeps_their_names() -> None:
    mapping = TableMapping.model_validate({"labels": ["a", "b"], "attributes": ["sex"]})
    assert mapping.labels == {"a": "a", "b": "b"}
    assert mapping.attributes == {"sex": "sex"}


def noted(root: Path, mapping: TableMapping) -> tuple[Manifest, list[str]]:
    data = read(root, mapping)
    data.validate()
    return data, data.info.notes


def test_rows_without_a_file_are_refused_or_counted(root: Path) -> None:
    (root.parent / "mine.csv").write_text("file,y,m\na/1.png,1,a/1.png\na/9.png,0,\na/3.png,0,a/8.png\n../x.png,1,-1\n")
    mapping = TableMapping(csv=root.parent / "mine.csv", image="file", labels={"y": "y"}, masks={"heart": "m"})
    with pytest.raises(EvalfmError, match=r"row 2: image 'a/9\.png' is not there"):
        noted(root, mapping)
    skipping = mapping.model_copy(update={"skip_missing": True})
    # What leaves the root is no missing file.
    with pytest.raises(EvalfmError, match=r"has 1 fault .*\n  row 3: image '\.\./x\.png' leaves the root"):
        noted(root, skipping)
    (root.parent / "mine.csv").write_text("file,y,m\na/1.png,1,a/1.png\na/9.png,0,\na/3.png,0,a/8.png\n")
    data, notes = noted(root, skipping)
    assert data.table["image"].tolist() == ["a/1.png", "a/3.png"]
    assert data.label("y").tolist() == [1, 0]
    assert data.table["heart_mask"].tolist() == ["a/1.png", None]
    assert notes == [
        "1 of 3 rows have no image file and were left out.",
        "1 heart masks are not there and are unknown.",
    ]
    (root.parent / "mine.csv").write_text("file,y,m\nb/1.png,1,\nb/2.png,0,\n")
    with pytest.raises(EvalfmError, match=r"no b/1\.png in .*, which holds a, nor any other image of .*mine\.csv"):
        noted(root, skipping)


def test_words_for_unknown_are_empty_cells_when_requested(root: Path) -> None:
    (root.parent / "mine.csv").write_text("file,y,sex,bmi\na/1.png,1,F,22\na/2.png,NA,NA,NA\na/3.png,0,-9,-9\n")
    mapping = TableMapping(
        csv=root.parent / "mine.csv", image="file", labels={"y": "y"}, attributes={"sex": "sex", "bmi": "bmi"}
    )
    with pytest.raises(EvalfmError) as caught:
        noted(root, mapping)
    assert "has 2 faults" in str(caught.value)
    assert "row 2: bmi is 'NA'; leave the cell empty" in str(caught.value)
    assert "row 2: y is 'NA'; leave the cell empty, or say that the word means unknown (`--unknown NA`" in str(
        caught.value
    )
    data, notes = noted(root, mapping.model_copy(update={"unknown_words": ("NA", "-9")}))
    assert np.array_equal(data.label("y"), [1, np.nan, 0], equal_nan=True)
    assert data.table["sex"].tolist() == ["F", None, None]
    assert np.array_equal(data.label("bmi"), [22, np.nan, np.nan], equal_nan=True)
    assert notes == ["Cells that say NA, -9 were taken for empty ones."]


def test_words_are_levels_in_their_order(root: Path) -> None:
    (root.parent / "mine.csv").write_text("file,density,tb\na/1.png,G,yes\na/2.png,D,no\na/3.png,F,\n")
    mapping = TableMapping(
        csv=root.parent / "mine.csv", image="file", labels={"density": "density", "tb": "tb"},
        levels={"density": ["F", "G", "D"], "tb": ["no", "yes"]}, label_kinds={"tb": "binary"},
    )  # fmt: skip
    data, _ = noted(root, mapping)
    assert data.info.levels == {"density": ["F", "G", "D"]}
    assert data.info.label_kinds == {"density": "class"}
    assert np.array_equal(data.label("tb"), [1, 0, np.nan], equal_nan=True)
    card = resolve_task("density", data)
    assert card.kind == "ordinal"
    cohort = select_cohort(card, data)
    # By the alphabet D would be the lowest.
    assert cohort.class_names == ("F", "G", "D")
    assert cohort.target.tolist() == [1, 2, 0]
    with pytest.raises(EvalfmError, match=r"row 2: density is 'D'; write one of the levels F, G, or nothing"):
        noted(root, mapping.model_copy(update={"levels": {"density": ["F", "G"], "tb": ["no", "yes"]}}))


def test_two_levels_of_a_class_are_positive_in_their_order(root: Path) -> None:
    (root.parent / "mine.csv").write_text("file,tb\na/1.png,sick\na/2.png,healthy\na/3.png,sick\n")
    mapping = TableMapping(
        csv=root.parent / "mine.csv", image="file", labels={"tb": "tb"}, levels={"tb": ["sick", "healthy"]}
    )
    data, _ = noted(root, mapping)
    cohort = select_cohort(resolve_task("tb", data), data)
    assert (cohort.task.kind, cohort.class_names, cohort.target.tolist()) == ("binary", ("tb_healthy",), [0, 1, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"levels": {"y": ["a"]}}, "two or more different words"),
        ({"levels": {"y": ["a", "b", "c"]}, "label_kinds": {"y": "binary"}}, "must be two, the positive one last"),
        ({"levels": {"y": ["1", "2"]}, "label_kinds": {"y": "number"}}, "is not class"),
        ({"mask_values": {"heart": [1]}}, r"which masks does not; add it there \(--mask heart=COLUMN\)"),
        ({"masks": {"h": "m"}, "mask_values": {"h": [1]}, "mask_dialects": {"h": "coco"}}, "whose masks are no files"),
        ({"masks": {"h": "m"}, "mask_values": {"h": [1]}, "mask_unknown": {"h": [1]}}, "both the finding and unknown"),
        ({"class_folders": "y", "labels": ["z"]}, "class_folders reads no table"),
    ],
)
def test_a_mapping_that_contradicts_itself_is_refused(content: dict[str, object], message: str) -> None:
    with pytest.raises(EvalfmError, match=message):
        validate(TableMapping, content, "The mapping of columns")


def test_levels_and_kinds_of_no_label_are_refused(root: Path) -> None:
    (root.parent / "mine.csv").write_text("file,tb\na/1.png,1\n")
    base = {"csv": root.parent / "mine.csv", "image": "file", "labels": {"tb": "tb"}}
    with pytest.raises(EvalfmError, match=r"no label of --levels 'tp'\. Did you mean 'tb'"):
        read(root, TableMapping(**base, levels={"tp": ["no", "yes"]}))
    with pytest.raises(EvalfmError, match="no label of --label-kind 'tp'"):
        read(root, TableMapping(**base, label_kinds={"tp": "class"}))


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_each_folder_is_a_class(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "s", "COVID/1.png", "NORMAL/b/2.JPG", "VIRAL/3.png", "VIRAL/notes.txt", ".git/4.png")
    data, notes = noted(root, TableMapping(class_folders="diagnosis"))
    assert data.table["image"].tolist() == ["COVID/1.png", "NORMAL/b/2.JPG", "VIRAL/3.png"]
    assert data.table["diagnosis"].tolist() == ["COVID", "NORMAL", "VIRAL"]
    assert data.info.label_kinds == {"diagnosis": "class"}
    assert data.info.label_source == {"diagnosis": "name of the folder"}
    assert notes == ["1 files in the folders are no images and were left out."]


def test_classes_lie_in_folders_of_splits(tmp_path: Path) -> None:
    names = [
        f"{split}/{name}/{split}{name}.png" for split in ("train", "val", "test") for name in ("NORMAL", "PNEUMONIA")
    ]
    root = folder_of(tmp_path / "s", *names)
    mapping = TableMapping(
        class_folders="pneumonia", label_kinds={"pneumonia": "binary"}, levels={"pneumonia": ["NORMAL", "PNEUMONIA"]}
    )
    data, _ = noted(root, mapping)
    assert dict(zip(data.table["image"], data.splits, strict=True)) == {name: name.split("/")[0] for name in names}
    assert data.label("pneumonia").tolist() == [float("PNEUMONIA" in name) for name in data.table["image"]]
    folder_of(root, "extra/5.png")
    with pytest.raises(EvalfmError, match="holds test/ and extra/ side by side"):
        read(root, mapping)


def test_folders_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "s", "images/1.png", "notes/2.txt")
    with pytest.raises(EvalfmError, match=r"holds images, notes, has images in fewer than two folders"):
        read(root, TableMapping(class_folders="y"))
    with pytest.raises(
        EvalfmError, match=r"holds images, notes; give the table with --csv, or, .* --class-folders NAME"
    ):
        read(root, TableMapping())


def test_maps_of_labels_are_read_by_their_values(root: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 16)).astype(np.uint8)
    maps = np.zeros((20, 16), np.uint8)
    maps[2:10, 2:6], maps[2:10, 8:14] = 1, 2
    for number in (1, 2, 3):
        Image.fromarray(image).save(root / f"a/{number}.png")
        Image.fromarray(maps + np.uint8(253) * ((maps == 2) & (number == 2))).save(root / f"a/{number}_m.png")
    (root.parent / "mine.csv").write_text("file,m\na/1.png,a/1_m.png\na/2.png,a/2_m.png\na/3.png,-1\n")
    base = {"csv": root.parent / "mine.csv", "image": "file", "masks": {"heart": "m", "lungs": "m"}}
    values = {"heart": [1], "lungs": [2]}
    data = read(root, TableMapping(**base, mask_values=values))
    assert "row 2: Mask a/2_m.png holds 255 beside smaller values" in "\n".join(map(str, deep_faults(data)))
    data, notes = noted(root, TableMapping(**base, mask_values=values, mask_unknown={"heart": [255], "lungs": [255]}))
    assert notes == [
        f"1 of 2 {name} masks hold pixels that nobody judged (255) and were made unknown."
        for name in ("heart", "lungs")
    ]
    data.validate(deep=True)
    assert data.table["heart_mask"].tolist() == ["a/1_m.png", None, "-1"]
    for finding, area in (("heart", 32), ("lungs", 48)):
        mask = data.mask(0, finding)
        assert mask is not None
        assert mask.sum() == area
    with pytest.raises(EvalfmError, match="No heart mask holds 7, only 0, 1, 2, 255; correct mask_values"):
        read(root, TableMapping(**base, mask_values={"heart": [7]}))


def test_the_command_line_says_it_all(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    for number in range(8):
        write_picture(root / f"{number}.png", seed=number)
    rows = "".join(
        f"{number}.png,p{number},{'FGD'[number % 3]},{'NA' if number == 3 else number % 2}\n" for number in range(9)
    )
    (tmp_path / "t.csv").write_text("file,pid,density,ptx\n" + rows)
    line = ["data", "import", "table", "--root", str(root), "--csv", str(tmp_path / "t.csv"), "--image", "file"]
    line += ["--patient", "pid", "--label", "density", "--label", "ptx", "--out", str(tmp_path / "out")]
    more = ["--levels", "density=F, G,D", "--unknown", "NA", "--skip-missing"]
    done = CliRunner().invoke(app, line + more, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "1 of 9 rows have no image file and were left out." in done.output
    data = Manifest.read(tmp_path / "out")
    assert data.info.levels == {"density": ["F", "G", "D"]}
    assert np.isnan(data.label("ptx")[3])
    for wrong, message in (
        (["--levels", "density"], "--levels density is not LABEL=LOW,…,HIGH"),
        (["--label-kind", "ptx=words"], "label_kinds"),
        (["--mask", "h=m", "--mask-values", "h=one"], "mask_values"),
    ):
        done = CliRunner().invoke(app, [*line, "--force", *wrong], env={"COLUMNS": "200"})
        assert isinstance(done.exception, EvalfmError)
        assert message in str(done.exception)
