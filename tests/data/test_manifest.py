from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from evalfm.data.dataset_info import DatasetInfo, read_dataset_info
from evalfm.data.manifest import Manifest, find_folder, read_data
from evalfm.data.registered import register
from evalfm.errors import EvalfmError, UnknownNameError

INFO = DatasetInfo(
    name="toy",
    public_ids=True,
    label_source={"ptx": "radiologist", "heart": "radiologist"},
    mask_dialects={"heart": "file"},
    attributes=["sex", "age"],
)


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def toy(tmp_path: Path) -> Manifest:
    """Four images of 6 × 8 pixels, three patients, masks of the heart for two."""
    for number in range(4):
        write_png(tmp_path / f"images/{number}.png", np.full((6, 8), 40 * number + np.arange(8), np.uint8))
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 2:5] = 255
    write_png(tmp_path / "masks/0.png", mask)
    table = pd.DataFrame(
        {
            "id": ["007", "008", "009", "010"],
            "image": [f"images/{number}.png" for number in range(4)],
            "patient": [1, 2, 3, 3],
            "split": ["train", "val", "test", "test"],
            "ptx": [0, 1, None, 1],
            "heart_mask": ["masks/0.png", "-1", None, None],
            "sex": ["F", None, "M", "M"],
            "age": [1, 2, 3, 95],
        }
    )
    return Manifest(INFO, table, tmp_path)


def replaced(manifest: Manifest, info: dict[str, object] | None = None, **columns: object) -> Manifest:
    table = manifest.table.assign(**columns)
    return Manifest(manifest.info.model_copy(update=info or {}), table, manifest.folder)


def faults_of(manifest: Manifest) -> str:
    with pytest.raises(EvalfmError) as caught:
        manifest.validate()
    return str(caught.value)


# Reading and writing


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_round_trip_keeps_every_cell(toy: Manifest, kind: str) -> None:
    if kind == "csv":
        (toy.folder / "manifest.csv").touch()
    toy.write(toy.folder)
    again = read_data(toy.folder)
    assert (toy.folder / f"manifest.{kind}").is_file()
    assert again.table.columns.tolist() == toy.table.columns.tolist()
    assert again.table["id"].tolist() == ["007", "008", "009", "010"]
    assert again.patients.tolist() == ["1", "2", "3", "3"]
    assert again.table["sex"].tolist() == ["F", None, "M", "M"]
    assert np.array_equal(again.label("ptx"), [0, 1, np.nan, 1], equal_nan=True)
    assert again.split_hash() == toy.split_hash()
    assert yaml.safe_load((toy.folder / "dataset.yaml").read_text())["schema"] == 1
    assert again.info == INFO


def test_a_csv_by_hand_keeps_leading_zeros_and_words(toy: Manifest) -> None:
    (toy.folder / "dataset.yaml").write_text("schema: 1\nname: toy\npublic_ids: true\nattributes: [site, sex]\n")
    (toy.folder / "manifest.csv").write_text(
        "id, image ,patient,site,sex,dose\n001,images/0.png, 07,010,NA,1\n002,images/1.png,07 ,011,,2.5\n"
    )
    manifest = read_data(toy.folder)
    assert manifest.table["id"].tolist() == ["001", "002"]
    assert manifest.patients.tolist() == ["07", "07"]
    assert manifest.table["site"].tolist() == ["010", "011"]
    assert manifest.table["sex"].tolist() == ["NA", None]
    assert manifest.table["dose"].tolist() == [1.0, 2.5]
    assert manifest.where("dose > 2").tolist() == [False, True]


def test_every_dtype_of_pandas_comes_to_one_form() -> None:
    table = pd.DataFrame(
        {
            "id": pd.Series(["a", "b", "c"], dtype="category"),
            "image": pd.Series(["a.png", "b.png", "c.png"], dtype="string"),
            "patient": [1.0, 2.0, np.nan],
            "ptx": pd.Series([True, None, False], dtype="boolean"),
            "tube": pd.Series([True, None, False], dtype=object),
            "age": ["61", None, "4.5"],
            "sex": pd.Series(["F", None, "M"], dtype="str"),
        }
    )
    manifest = Manifest(DatasetInfo(name="x", label_source={"ptx": "mask"}), table, Path())
    assert manifest.table["id"].tolist() == ["a", "b", "c"]
    assert manifest.table["patient"].tolist() == ["1", "2", None]
    for name, values in (("ptx", [1, np.nan, 0]), ("tube", [1, np.nan, 0]), ("age", [61, np.nan, 4.5])):
        assert manifest.table[name].dtype == np.float64
        assert np.array_equal(manifest.table[name], values, equal_nan=True)
    assert manifest.table["sex"].dtype == object
    assert manifest.table["sex"].tolist() == ["F", None, "M"]


def test_write_says_where_the_images_lie(toy: Manifest, tmp_path: Path) -> None:
    toy.write(toy.folder)
    assert read_dataset_info(toy.folder / "dataset.yaml").root == "."
    elsewhere = toy.write(tmp_path / "elsewhere" / "deep")
    assert elsewhere.info.root == str(toy.root)
    assert read_data(elsewhere.folder).root == toy.root


def test_reading_what_is_not_there_names_the_remedy(toy: Manifest, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("id,image\n1,a.png\n")
    with pytest.raises(EvalfmError, match=r"no dataset\.yaml"):
        read_data(tmp_path)
    toy.write(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"")
    with pytest.raises(EvalfmError, match="holds both"):
        read_data(tmp_path)
    with pytest.raises(EvalfmError, match="cannot be read as Parquet"):
        read_data(tmp_path / "manifest.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvalfmError, match="holds neither"):
        read_data(tmp_path / "empty")
    with pytest.raises(EvalfmError, match="no folder or manifest"):
        read_data(tmp_path / "absent")
    with pytest.raises(EvalfmError, match="lacks the columns image"):
        Manifest(INFO, pd.DataFrame({"id": ["a"]}), tmp_path)


def test_a_registered_name_is_read_and_near_ones_proposed(
    toy: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    toy.write(toy.folder)
    register("toy-set", toy.folder)
    assert len(read_data("toy-set")) == 4
    assert find_folder("toy-set") == find_folder(str(toy.folder)) == toy.folder
    with pytest.raises(UnknownNameError, match="Did you mean 'toy-set'"):
        read_data("toy-sett")
    # A folder of that name that is no data set does not hide the registered one.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy-set").mkdir()
    assert len(read_data("toy-set")) == 4


# Validation


def test_a_sound_manifest_passes(toy: Manifest) -> None:
    toy.validate()


def test_all_faults_come_at_once_with_row_and_remedy(toy: Manifest) -> None:
    text = faults_of(
        replaced(
            toy,
            id=["007", "007", None, "010"],
            image=["images/0.png", "images/9.png", "/etc/passwd", "a/../../b.png"],
            split=["train", "vall", "train", "test"],
            ptx=[2, 1, None, 0],
            age=[-1, 121, 3, None],
        )
    )
    for line in (
        "row 2: id '007' is that of row 1 too; give every row an id of its own",
        "row 3: id is empty; give every row",
        "row 2: split is 'vall'; write train, val or test",
        "the patient '3' is in test and train; a patient belongs to one split",
        "row 1: ptx is 2; write 0, 1 or nothing",
        "row 1: age is -1; write years from 0 to 120",
        "row 2: age is 121; write years",
        "row 2: image 'images/9.png' is not there",
        "row 3: image '/etc/passwd' is absolute",
        "row 4: image 'a/../../b.png' leaves the root",
    ):
        assert line in text
    assert text.startswith("The data set 'toy' has 10 faults to fix:")


def test_the_list_of_faults_is_capped(toy: Manifest) -> None:
    table = pd.concat([toy.table] * 10, ignore_index=True).assign(id=[f"i{n}" for n in range(40)], ptx=np.arange(7, 47))
    text = faults_of(Manifest(INFO, table, toy.folder))
    assert "has 40 faults" in text
    assert text.count("ptx is ") == 20
    assert text.endswith("… and 20 more.")


def test_the_same_fault_of_many_rows_is_one_line(toy: Manifest) -> None:
    table = pd.concat([toy.table] * 10, ignore_index=True).assign(id=[f"i{n}" for n in range(40)], ptx=0.0)
    table.loc[[3, 8, 20, 21, 30], "ptx"] = 7.0
    table.loc[[4, 5], "ptx"] = 9.0
    table.loc[10:, "image"] = [f"gone/{n}.png" for n in range(30)]
    text = faults_of(Manifest(INFO, table, toy.folder))
    assert "has 37 faults" in text
    lines = text.splitlines()[1:]
    assert len(lines) == 4
    assert lines[0].startswith("  5 rows (4, 9, 21, 22, …), each of them: ptx is 7; ")
    assert [line[:18] for line in lines[1:3]] == ["  row 5: ptx is 9;", "  row 6: ptx is 9;"]
    assert lines[3].startswith("  30 rows (11, 12, 13, 14, …), the first: image 'gone/0.png' is not there")


BAD = (
    "leave the cell empty, or say that the word means unknown "
    "(`--unknown {0}` at the import, or `unknown_words: ['{0}']`"
)


@pytest.mark.parametrize(
    ("column", "values", "fault"),
    [
        ("ptx", ["1", "0", "NA", "1"], f"row 3: ptx is 'NA'; {BAD.format('NA')} in dataset.yaml)"),
        ("ptx", ["1", "0", "maybe", None], "row 3: ptx is 'maybe'; write 0, 1 or nothing, or declare"),
        ("ptx", [1, "inf", 0, 1], "row 2: ptx is 'inf'; write 0, 1 or nothing"),
        ("ptx", ["1", "0", [0, 1], "1"], "row 3: ptx is '[0, 1]'; write 0, 1 or nothing"),
        ("ptx", [1, 0, 10**400, 1], f"row 3: ptx is '{'1' + 58 * '0'}… (403 letters); write 0, 1"),
        ("ctr", ["0.5", "0,5", ".4", None], "row 2: ctr is '0,5'; write a finite number or nothing"),
        ("ctr", [0.5, np.inf, 0.4, None], "row 2: ctr is 'inf'; write a finite number or nothing"),
        ("age", ["61", "60", "sixty", "0"], "row 3: age is 'sixty'; write a number or nothing"),
        ("age", [61, 60, "n/a", 0], f"row 3: age is 'n/a'; {BAD.format('n/a')}"),
        ("age", [61, 60, 0x1F, "0x1F"], "row 4: age is '0x1F'; write a number or nothing"),
        ("slice", [1.0, 2.0, 3.0, np.inf], "row 4: slice is 'inf'; write a number or nothing"),
        ("grade", ["F", "G", "NA", "D"], f"row 3: grade is 'NA'; {BAD.format('NA')}"),
        ("grade", ["0", "1", "NULL", "2"], f"row 3: grade is 'NULL'; {BAD.format('NULL')}"),
        ("bmi", ["21", "23.5", "NaN", "30"], f"row 3: bmi is 'NaN'; {BAD.format('NaN')}"),
        ("split", ["train", "NA", "test", "val"], "row 2: split is 'NA'; write train, val or test"),
        ("split", ["train", "tset", "test", "val"], "row 2: split is 'tset'; write train, val or test"),
    ],
)
def test_one_bad_cell_is_named_and_no_good_one(toy: Manifest, column: str, values: list[object], fault: str) -> None:
    """A word made every good cell of its column a fault, and stood behind twenty of them itself."""
    info = INFO.model_copy(
        update={
            "label_source": INFO.label_source | {"ctr": "masks", "grade": "reader"},
            "label_kinds": INFO.label_kinds | {"ctr": "number", "grade": "class"},
            "attributes": [*INFO.attributes, "bmi"],
        }
    )
    columns = {"ctr": None, "grade": None, "bmi": None, "patient": ["a", "b", "c", "d"]} | {column: values}
    table = toy.table.assign(
        **{name: pd.Series(cells, dtype=object, index=range(4)) for name, cells in columns.items()}
    )
    text = faults_of(Manifest(info, table, toy.folder))
    assert "has 1 fault to fix" in text
    assert fault in text


def test_two_patients_called_na_are_not_one(toy: Manifest) -> None:
    patients = pd.Series(["NA", "b", "NA", "d"], dtype=object)
    table = toy.table.assign(patient=patients, split=["train", "val", "train", "test"])
    assert "row 3: patient is 'NA'; leave" in faults_of(Manifest(INFO, table, toy.folder))


def test_words_for_unknown_are_said_in_the_yaml(toy: Manifest) -> None:
    info = INFO.model_copy(update={"unknown_words": ["NA", "-9"]})
    manifest = Manifest(info, toy.table, toy.folder)
    manifest.write(toy.folder)
    table = toy.table.assign(ptx=["1", "NA", "0", "-9"])
    (toy.folder / "manifest.parquet").unlink()
    table.to_csv(toy.folder / "manifest.csv", index=False)
    assert np.array_equal(Manifest.read(toy.folder).label("ptx"), [1, np.nan, 0, np.nan], equal_nan=True)


def test_patients_that_differ_by_spaces_or_dots_are_one(toy: Manifest) -> None:
    patients = pd.Series(["3", " 1", "1 ", "2"], dtype=object)
    assert "the patient '1' is in test and val" in faults_of(replaced(toy, patient=patients))
    assert "the patient '1'" in faults_of(replaced(toy, patient=[3.0, 1.0, 1.0, np.nan]))


def test_a_row_without_patient_or_split_is_a_fault(toy: Manifest) -> None:
    text = faults_of(replaced(toy, patient=["1", "2", None, "3"], split=["train", None, "test", "test"]))
    assert "row 3: patient is empty" in text
    assert "row 2: split is empty" in text


def test_an_image_or_an_exam_in_two_splits_is_a_fault(toy: Manifest) -> None:
    table = toy.table.drop(columns="patient").assign(image="images/0.png")
    assert "the image 'images/0.png' is in test and train and val" in faults_of(Manifest(INFO, table, toy.folder))
    table = toy.table.drop(columns="patient").assign(study=["s", "s", "t", "t"])
    assert "the study 's' is in train and val" in faults_of(Manifest(INFO, table, toy.folder))


def test_declarations_and_columns_must_agree(toy: Manifest) -> None:
    text = faults_of(
        Manifest(
            INFO.model_copy(
                update={
                    "label_source": {"ptxx": "mask"},
                    "mask_dialects": {"lung": "file"},
                    "attributes": ["height", "patient", "heart_mask"],
                    "public_ids": False,
                }
            ),
            toy.table.assign(spacing_row_mm=[0.1, -1, 51, np.nan]),
            toy.folder,
        )
    )
    for line in (
        "needs `salt:`",
        "attribute 'height' has no column",
        "'patient' can be no attribute",
        "'heart_mask' can be no attribute",
        "the label 'ptxx' of dataset.yaml has no column; add it or remove it. Did you mean 'ptx'",
        "mask_dialects of dataset.yaml names 'lung'",
        "'heart_mask' needs its dialect",
        "row 2: spacing_row_mm is -1",
        "row 3: spacing_row_mm is 51",
        "spacing needs both columns",
    ):
        assert line in text


def test_no_rows_and_no_root_are_faults(toy: Manifest) -> None:
    assert "no rows" in faults_of(toy.select([]))
    assert "is not there; mount the disk" in faults_of(replaced(toy, {"root": "elsewhere"}))


def test_words_in_number_columns_are_named(toy: Manifest) -> None:
    words = pd.Series(["yes", None, "0", "1"], dtype=object)
    text = faults_of(replaced(toy, ptx=words, age=pd.Series(["061Y", "3", None, "4"], dtype=object)))
    assert "row 1: ptx is 'yes'" in text
    assert "row 1: age is '061Y'; write a number" in text


def test_labels_of_other_kinds(toy: Manifest) -> None:
    grades = {"label_kinds": {"ptx": "class"}}
    replaced(toy, grades, ptx=[0, 3, None, 2]).validate()
    assert "row 2: ptx is 1.5; number the classes" in faults_of(replaced(toy, grades, ptx=[0, 1.5, None, -1]))
    ratios = {"label_kinds": {"ptx": "number"}}
    replaced(toy, ratios, ptx=[0.3, 1.5, None, -1]).validate()
    assert "row 1: ptx is inf; write a finite" in faults_of(replaced(toy, ratios, ptx=[np.inf, 1.5, None, -1]))


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a right on Windows")
def test_a_link_out_of_the_root_is_refused(toy: Manifest, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write_png(outside / "secret.png", np.zeros((6, 8), np.uint8))
    (toy.root / "images/link.png").symlink_to(outside / "secret.png")
    (toy.root / "linked").symlink_to(outside)
    text = faults_of(replaced(toy, image=["images/0.png", "images/1.png", "images/link.png", "linked/secret.png"]))
    assert text.count("leaves the root through a symbolic link") == 2


def test_identical_bytes_in_two_splits_show_when_files_are_read(
    toy: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    toy.validate(deep=True)
    (toy.root / "images/3.png").write_bytes((toy.root / "images/2.png").read_bytes())
    toy.validate(deep=True)  # both are test
    (toy.root / "images/1.png").write_bytes((toy.root / "images/2.png").read_bytes())
    with pytest.raises(EvalfmError, match="'008', '009', '010' have identical bytes and are in test and val"):
        toy.validate(deep=True)


def test_masks_of_another_size_show_when_files_are_read(
    toy: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    write_png(toy.root / "masks/0.png", np.zeros((3, 4), np.uint8))
    with pytest.raises(EvalfmError, match=r"row 1: The heart mask of row 1 has 3 × 4 pixels, its image 6 × 8"):
        toy.validate(deep=True)


# Rows


def test_image_size_and_digest_of_a_row(toy: Manifest) -> None:
    image = toy.image(2)
    assert image.pixels.shape == (1, 6, 8)
    assert np.allclose(image.pixels[0, 0], (80 + np.arange(8)) / 255)
    assert toy.size(2) == (6, 8)
    assert toy.digest(0) != toy.digest(1)
    assert toy.digests([1, 0]).tolist() == [toy.digest(1), toy.digest(0)]


def test_a_mask_is_known_empty_or_unknown(toy: Manifest) -> None:
    mask = toy.mask(0, "heart")
    assert mask is not None
    assert mask.dtype == bool
    assert [tuple(place) for place in np.argwhere(mask)] == [(1, 2), (1, 3), (1, 4), (2, 2), (2, 3), (2, 4)]
    empty = toy.mask(1, "heart")
    assert empty is not None
    assert empty.shape == (6, 8)
    assert not empty.any()
    assert toy.mask(2, "heart") is None
    with pytest.raises(UnknownNameError, match=r"'hart'.*Did you mean 'heart'"):
        toy.mask(0, "hart")


def test_a_mask_of_declared_size_comes_onto_the_image_grid(toy: Manifest) -> None:
    small = np.zeros((3, 4), np.uint8)
    small[0, 1] = 255
    write_png(toy.root / "masks/0.png", small)
    mask = replaced(toy, {"mask_sizes": {"heart": (3, 4)}}).mask(0, "heart")
    assert mask is not None
    assert [tuple(place) for place in np.argwhere(mask)] == [(0, 2), (0, 3), (1, 2), (1, 3)]


def test_a_mask_of_another_ratio_is_sampled_at_the_centres_of_pixels(toy: Manifest) -> None:
    small = np.zeros((4, 6), np.uint8)
    small[1, 1] = 255
    write_png(toy.root / "masks/0.png", small)
    mask = replaced(toy, {"mask_sizes": {"heart": (4, 6)}}).mask(0, "heart")
    assert mask is not None
    # The centres of rows 1 and 2 of 6 lie at 1.0 and 1.67 of 4, those of columns 1 and 2 of 8 at 1.13 and 1.88 of 6.
    assert [tuple(place) for place in np.argwhere(mask)] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_run_length_masks_are_decoded_by_their_dialect(toy: Manifest) -> None:
    cells = pd.Series(["1 2 6 1", None, None, "-1"], dtype=object)
    absolute = replaced(toy, {"mask_dialects": {"heart": "absolute"}}, heart_mask=cells)
    mask = absolute.mask(0, "heart")
    assert mask is not None
    # Starts count from 1, along rows.
    assert [tuple(place) for place in np.argwhere(mask)] == [(0, 0), (0, 1), (0, 5)]
    empty = absolute.mask(3, "heart")
    assert empty is not None
    assert not empty.any()


def test_spacing_of_the_table_overrides_that_of_the_file(toy: Manifest) -> None:
    assert toy.spacing_mm(0) is None
    spaced = replaced(toy, spacing_row_mm=[0.2, np.nan, 0.3, 0.3], spacing_column_mm=[0.1, 0.1, 0.3, 0.3])
    assert spaced.spacing_mm(0) == (0.2, 0.1)
    assert spaced.spacing_mm(1) is None
    assert spaced.image(0).spacing_mm == (0.2, 0.1)


def test_labels_as_numbers(toy: Manifest) -> None:
    assert toy.labels == ["ptx"]
    assert toy.findings == ["heart"]
    with pytest.raises(UnknownNameError, match="Did you mean 'ptx'"):
        toy.label("pptx")
    with pytest.raises(EvalfmError, match="holds words"):
        toy.label("sex")


def test_the_patient_falls_back_to_the_exam_and_the_image(toy: Manifest) -> None:
    assert toy.patients_known
    without = Manifest(INFO, toy.table.drop(columns="patient"), toy.folder)
    assert not without.patients_known
    assert without.patients.tolist() == ["007", "008", "009", "010"]
    exams = replaced(without, study=["s", "s", "t", "u"])
    assert not exams.patients_known
    assert exams.patients.tolist() == ["s", "s", "t", "u"]
    assert replaced(toy, patient=["1", None, "3", "3"]).patients.tolist() == ["1", "008", "3", "3"]


def test_select_by_mask_and_by_position(toy: Manifest) -> None:
    assert toy.select(toy.where("sex == 'M'")).table["id"].tolist() == ["009", "010"]
    assert toy.select([3, 0]).table["id"].tolist() == ["010", "007"]
    assert toy.select([3, 0]).table.index.tolist() == [0, 1]
    with pytest.raises(ValueError, match="mask of 4 rows"):
        toy.select(np.array([True, False]))


def test_split_hash_sees_splits_and_patients_but_not_order(toy: Manifest) -> None:
    assert toy.select([3, 1, 2, 0]).split_hash() == toy.split_hash()
    assert replaced(toy, split=["val", "val", "test", "test"]).split_hash() != toy.split_hash()
    assert replaced(toy, patient=["1", "2", "3", "4"]).split_hash() != toy.split_hash()
    assert replaced(toy, ptx=[1, 1, 1, 1]).split_hash() == toy.split_hash()
    with pytest.raises(EvalfmError, match="has no split"):
        Manifest(INFO, toy.table.drop(columns="split"), toy.folder).split_hash()


def test_validation_of_a_large_manifest_is_quick(tmp_path: Path) -> None:
    number = 100_000
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    table = pd.DataFrame({"id": [f"{i:08d}" for i in range(number)], "image": "images/a.png"})
    table["patient"] = [str(i // 4) for i in range(number)]
    table["ptx"] = 0.0
    info = DatasetInfo(name="large", public_ids=True, label_source={"ptx": "mask"})
    start = time.perf_counter()
    Manifest(info, table, tmp_path).validate()
    assert time.perf_counter() - start < 8
