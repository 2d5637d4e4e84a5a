from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_names, public_table, without_private
from evalfm.errors import EvalfmError

TABLE = pd.DataFrame(
    {
        "id": ["1.2.840.1", "1.2.840.2", "1.2.840.3"],
        "image": ["smith/a.png", "smith/b.png", "doe/c.png"],
        "patient": ["Smith", "Smith", "Doe"],
        "split": ["train", "train", "test"],
        "study_date": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"]),
        "report": ["free text of Smith", "more text", "text of Doe"],
        "sex": ["F", "F", None],
        "age": [95.0, 90.0, np.nan],
    }
)
PRIVATE = DatasetInfo(name="hospital", salt="pepper", attributes=["sex", "age"])


def manifest(info: DatasetInfo = PRIVATE, **columns: object) -> Manifest:
    return Manifest(info, TABLE.assign(**columns), Path())


def test_nothing_but_declared_attributes_leaves() -> None:
    public = public_table(manifest())
    assert public.columns.tolist() == ["id", "patient", "split", "sex", "age"]
    text = public.to_csv()
    for secret in ("1.2.840", "Smith", "Doe", "2020", ".png"):
        assert secret not in text
    assert public["sex"].tolist() == ["F", "F", None]
    assert np.array_equal(public["age"], [90, 90, np.nan], equal_nan=True)
    assert public["split"].tolist() == ["train", "train", "test"]


def test_names_are_salted_hashes_that_keep_patients_together() -> None:
    expected = hashlib.sha256(b"pepperSmith").hexdigest()[:16]
    private = manifest()
    public = public_table(private)
    assert public["patient"].tolist()[:2] == [expected, expected]
    assert public["patient"].nunique() == 2
    assert public["id"].nunique() == 3
    assert private.public_id(2) == public["id"].iloc[2]
    other = manifest(PRIVATE.model_copy(update={"salt": "salz"}))
    assert not set(public_table(other)["id"]) & set(public["id"])


def test_published_and_synthetic_names_stay() -> None:
    for key in ("public_ids", "synthetic"):
        info = DatasetInfo.model_validate({"name": "open", key: True})
        assert public_table(manifest(info))["patient"].tolist() == ["Smith", "Smith", "Doe"]


def test_without_salt_no_name_leaves() -> None:
    with pytest.raises(EvalfmError, match="needs `salt:`"):
        public_table(manifest(DatasetInfo(name="hospital")))
    with pytest.raises(EvalfmError, match="public_ids: true"):
        public_names(["a"], DatasetInfo(name="hospital"))


def test_rows_come_in_the_order_requested() -> None:
    public = public_table(manifest(), [2, 0])
    assert public["split"].tolist() == ["test", "train"]
    assert public["sex"].tolist() == [None, "F"]
    assert public.index.tolist() == [0, 1]


def test_unknown_patients_take_the_public_name_of_the_image() -> None:
    private = Manifest(PRIVATE, TABLE.drop(columns=["patient", "split"]), Path())
    public = public_table(private)
    assert public["patient"].tolist() == public["id"].tolist()
    assert public["split"].tolist() == [None, None, None]


@pytest.mark.parametrize("name", ["id", "image", "patient", "split", "study_date"])
def test_names_paths_and_dates_are_no_attributes(name: str) -> None:
    with pytest.raises(EvalfmError, match=f"'{name}'"):
        public_table(manifest(PRIVATE.model_copy(update={"attributes": [name]})))


def test_free_text_is_no_attribute() -> None:
    table = pd.DataFrame(
        {"id": [str(i) for i in range(101)], "image": "a.png", "report": [f"finding {i}" for i in range(101)]}
    )
    info = DatasetInfo(name="hospital", salt="x", attributes=["report"])
    with pytest.raises(EvalfmError, match="101 different texts"):
        public_table(Manifest(info, table, Path()))
    assert len(public_table(Manifest(info, table.head(100), Path()))) == 100


def test_an_age_in_words_does_not_leave() -> None:
    with pytest.raises(EvalfmError, match="'age' must hold numbers"):
        public_table(manifest(age=pd.Series(["95 years", None, "3"], dtype=object)))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("row 2: smith/a.png cannot be read", "row 2: … cannot be read"),
        ("the patient 'Smith' is in train and test", "the patient '…' is in train and test"),
        ("Smith, Doe: 3 of 4 rows", "…, …: 3 of 4 rows"),
        ("id 1.2.840.2.", "id …"),
        (r"C:\Users\anna\x and ~/images/y, ./z and ../z/w", "… and …, … and …"),
        (f"{Path.home()}/a b", "… b"),
        ("embeddings.parquet holds NaN; set.npz#train/1 too", "… holds NaN; … too"),
        (
            "CUDA out of memory: 2.5 GiB of 80.0, mean/sd, see evalfm ls heads",
            "CUDA out of memory: 2.5 GiB of 80.0, mean/sd, see evalfm ls heads",
        ),
    ],
)
def test_a_sentence_loses_places_files_and_names_alone(text: str, left: str) -> None:
    assert without_private(text, [manifest()]) == left
