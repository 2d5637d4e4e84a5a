"""VinDr-CXR: 18,000 radiographs as DICOM, boxes of three radiologists for training and of their consensus for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evalfm.data.columns import as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import Notes, column, expect_file, files_by_stem, header_columns, snake, with_places

TRAIN = ("annotations/annotations_train.csv", "annotations_train.csv", "train.csv")
TEST = ("annotations/annotations_test.csv", "annotations_test.csv")
SUFFIXES = (".dicom", ".dcm", ".png", ".jpg")


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``annotations_{train,test}.csv`` (or Kaggle's ``train.csv``) and ``{train,test}/<image_id>.dicom``.

    The tables have a row per reader and box. A finding is there in a training image if more than half of its readers
    boxed it; the test table is the readers' consensus. ``no_finding`` is where no class is there. Boxes do not enter.
    With the test table its split stands and val is drawn from train; else the split is by hash. Patients are unknown.

    Raises:
        EvalfmError: a file or column is missing, or no image is there.
    """
    train = expect_file(root, TRAIN)
    test = next((root / name for name in TEST if (root / name).is_file()), None)
    tables = {"train": read_table(train)} | ({} if test is None else {"test": read_table(test)})
    classes = sorted(
        {
            str(word)
            for native in tables.values()
            for word in as_text(column(native, "class_name", train)).dropna().unique()
        }
        - {"No finding"}
    )
    table = pd.concat([_images(native, split, classes, train) for split, native in tables.items()], ignore_index=True)
    notes = Notes()
    nameless = sum(int(as_text(column(native, "image_id", train)).isna().sum()) for native in tables.values())
    notes.tally(nameless, "rows name no image and were left out.")
    table = table.assign(image=table["id"].map(files_by_stem(root, ("train", "test"), SUFFIXES)))
    first = table["id"].iloc[0] if len(table) else "*"
    table = with_places(table, root, notes, f"train/{first}.dicom", "images of the tables have no file")
    image = table["image"]
    facts = header_columns(image, root, options.progress, notes) if image.str.endswith((".dicom", ".dcm")).any() else {}
    # The images are frontal, and their headers say no view.
    facts.pop("view", None)
    table = table.assign(**facts)
    labels = [snake(name) for name in classes]
    if test is None:
        table = table.drop(columns="split")
    source = "radiologists, majority of three in train, consensus in test"
    info = DatasetInfo(
        name="vindr-cxr",
        title="VinDr-CXR",
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        citation="Nguyen et al., VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations, 2022",
        label_source=dict.fromkeys([*labels, "no_finding"], source),
        attributes=[name for name in ("sex", "age") if name in facts],
        public_ids=True,
        split=None if test is None else SplitRule(rule="official", note="train/ and test/"),
        notes=notes,
    )
    return Imported(table, info, val_from_train=test is not None)


def _images(native: pd.DataFrame, split: str, classes: list[str], file: Path) -> pd.DataFrame:
    """A row per image: each class by the share of its readers, in the order of first appearance."""
    image = as_text(column(native, "image_id", file))
    word = as_text(column(native, "class_name", file))
    reader = as_text(native["rad_id"]) if "rad_id" in native else pd.Series("consensus", index=native.index)
    names = list(dict.fromkeys(image.dropna()))
    votes = pd.DataFrame({"image": image, "word": word, "reader": reader}).drop_duplicates()
    readers = votes.groupby("image")["reader"].nunique().reindex(names).to_numpy()
    columns: dict[str, object] = {"id": names, "split": split}
    any_finding = np.zeros(len(names), dtype=bool)
    for name in classes:
        count = votes[votes["word"] == name].groupby("image")["reader"].nunique().reindex(names).fillna(0).to_numpy()
        there = 2 * count > readers
        any_finding |= there
        columns[snake(name)] = there.astype(float)
    return pd.DataFrame({**columns, "no_finding": (~any_finding).astype(float)})
