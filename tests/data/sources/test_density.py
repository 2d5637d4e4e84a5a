from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from evalfm.data.config import ImportOptions, TableMapping
from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest
from evalfm.data.sources.density import import_source
from evalfm.errors import EvalfmError
from evalfm.tasks.cohort import select_cohort
from evalfm.tasks.task import load_task
from tests.data.sources.published import drawn

HEADER = "study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,breast_density,split\n"
VIEWS = (("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"))
EXAMS = {f"exam{number}": ("ABCD"[number % 4], "test" if number < 3 else "training") for number in range(40)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty exams of four views, as DICOM by name; density D of the left breast of exam 0 only."""
    lines = []
    for exam, (density, split) in EXAMS.items():
        (tmp_path / "images" / exam).mkdir(parents=True)
        for side, view in VIEWS:
            name = f"{exam}x{side}{view}"
            (tmp_path / "images" / exam / f"{name}.dicom").touch()
            grade = "D" if (exam, side) == ("exam0", "L") else density
            lines.append(f"{exam},s,{name}, {side},{view.lower()},3518,2800,BI-RADS 2,DENSITY {grade},{split}")
    (tmp_path / "breast-level_annotations.csv").write_text(HEADER + "\n".join(lines) + "\n")
    return tmp_path


def read(root: Path, *, seed: int = 0, **options: object) -> Manifest:
    imported = import_source(root, ImportOptions(**options))  # type: ignore[arg-type]
    info = imported.info.model_copy(update={"root": str(root), "salt": "pepper"})
    return drawn(Manifest(info, imported.table, root), imported, seed)


def test_every_view_has_its_breasts_density(root: Path) -> None:
    data = read(root)
    data.validate()
    assert len(data) == 160
    assert data.table["density"].tolist()[:8] == ["D", "D", "A", "A", "B", "B", "B", "B"]
    assert data.table["laterality"].tolist()[:4] == ["L", "L", "R", "R"]
    assert data.table["view"].tolist()[:4] == ["CC", "MLO", "CC", "MLO"]
    assert data.label("birads").tolist()[0] == 2
    assert data.locator(1) == "images/exam0/exam0xLMLO.dicom"
    assert select_cohort(load_task("density"), data).class_names == ("A", "B", "C", "D")


def test_views_of_an_exam_never_cross_and_the_official_test_split_stays(root: Path) -> None:
    data = read(root)
    assert data.patient_column == "study"
    assert not data.patients_known
    by_exam = data.table.groupby("study")["split"]
    assert (by_exam.nunique() == 1).all()
    assert set(data.table["study"][data.splits == "test"]) == {"exam0", "exam1", "exam2"}
    assert set(data.splits) == {"train", "val", "test"}
    other = read(root, seed=7)
    assert (other.splits != data.splits).any()
    assert ((other.splits == "test") == (data.splits == "test")).all()


def test_the_import_draws_val_from_train_where_the_official_split_has_none(root: Path, tmp_path: Path) -> None:
    data = import_data("density", root, tmp_path / "out", seed=3)
    assert data.splits.tolist() == read(root, seed=3).splits.tolist()
    assert set(data.splits) == {"train", "val", "test"}
    another = import_data("density", root, tmp_path / "another", stratify="birads")
    assert another.info.split.rule == "stratified"


def test_png_copies_are_found_and_rows_without_a_file_counted(root: Path) -> None:
    for path in list(root.glob("images/*/*.dicom")):
        path.unlink()
    (root / "images/exam3/exam3xLCC.png").touch()
    (root / "images/exam4_exam4xRCC.png").touch()
    data = read(root)
    assert data.table["image"].tolist() == ["images/exam3/exam3xLCC.png", "images/exam4_exam4xRCC.png"]
    assert data.table["density"].tolist() == ["D", "A"]
    assert data.info.notes == ["158 of 160 rows have no image file and were left out."]


def test_of_two_files_of_an_image_the_first_by_its_path_counts(root: Path) -> None:
    (root / "images/exam0/other_exam0xLCC.png").touch()
    (root / "images/a_exam0xLMLO.png").touch()
    assert read(root).table["image"].tolist()[:2] == ["images/exam0/exam0xLCC.dicom", "images/a_exam0xLMLO.png"]


def test_unknown_words_and_missing_columns_are_named(root: Path) -> None:
    file = root / "breast-level_annotations.csv"
    text = file.read_text()
    file.write_text(text.replace("DENSITY C", "DENSITY E", 1))
    with pytest.raises(EvalfmError, match=r"holds 'DENSITY E' in the column 'breast_density', where DENSITY A to D"):
        read(root)
    file.write_text(text.replace(" L,", "X,", 1))
    with pytest.raises(EvalfmError, match="'X' in the column 'laterality'"):
        read(root)
    file.write_text(text.replace("training", "holdout", 1))
    with pytest.raises(EvalfmError, match="'holdout' in the column 'split'"):
        read(root)
    file.write_text(text.replace("DENSITY C", "", 1))
    assert read(root).table["density"].isna().sum() == 1
    file.write_text(text.replace("breast_density", "composition", 1))
    with pytest.raises(EvalfmError, match="no column 'breast_density'"):
        read(root)
    for path in root.glob("images/*/*.dicom"):
        path.unlink()
    file.write_text(text)
    with pytest.raises(EvalfmError, match=r"no images/exam0/exam0xLCC\.dicom in .* which holds breast-level"):
        read(root)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table as hospitals have them: ACR as numbers, sides in words."""
    rows = ["file,case,who,Side,view,ACR,age"]
    for number in range(24):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
        side, acr = ("Left", "right")[number % 2], 1 + number // 4 % 4
        rows.append(f"{number}.png,case{number // 2},p{number // 4},{side},mlo,{acr},{50 + number}")
    (tmp_path / "mine.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def mapping(root: Path, **changes: object) -> TableMapping:
    content = {
        "csv": root / "mine.csv",
        "name": "mine",
        "image": "file",
        "study": "case",
        "labels": {"density": "ACR"},
        "attributes": {"laterality": "Side", "age": "age"},
    }
    return TableMapping.model_validate(content | changes)


def test_any_table_with_side_and_view(table: Path) -> None:
    data = read(table, mapping=mapping(table))
    data.validate()
    assert data.table["density"].tolist()[::4] == ["A", "B", "C", "D", "A", "B"]
    assert data.table["laterality"].tolist()[:2] == ["L", "R"]
    assert set(data.table["view"]) == {"MLO"}
    assert data.info.attributes == ["laterality", "view", "age"]
    assert data.info.notes == ["24 densities are the numbers 1 to 4 in the table, which were taken for A to D."]


def test_exams_of_any_table_stay_whole(table: Path, tmp_path: Path) -> None:
    data = import_data("density", table, tmp_path / "out", mapping=mapping(table))
    assert (data.table.groupby("study")["split"].nunique() == 1).all()
    with pytest.raises(EvalfmError, match=r"name its column, --study COLUMN or --patient\."):
        read(table, mapping=mapping(table, study=None))
    both = read(table, mapping=mapping(table, patient="who"))
    assert both.patients_known
    text = (table / "mine.csv").read_text().replace("case1,p0", "case1,p9", 1)
    (table / "mine.csv").write_text(text)
    with pytest.raises(EvalfmError, match=r"exams of two patients \(1\)"):
        read(table, mapping=mapping(table, patient="who"))


def test_a_table_without_side_or_view_or_with_numbers_from_zero_is_refused(table: Path) -> None:
    with pytest.raises(EvalfmError, match="no column 'laterality'"):
        read(table, mapping=mapping(table, attributes={}))
    file = table / "mine.csv"
    text = file.read_text()
    file.write_text(text.replace(",mlo,1,", ",mlo,0,"))
    with pytest.raises(EvalfmError, match="holds '0' in the column"):
        read(table, mapping=mapping(table))
    file.write_text(text.replace("view", "projection"))
    with pytest.raises(EvalfmError, match="no column 'view'"):
        read(table, mapping=mapping(table))
