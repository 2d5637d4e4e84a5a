"""CheXpert: 224,316 radiographs of 65,240 patients with labels mined from reports, and radiologists' for a few."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evalfm.data.columns import as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import BlankRule, DatasetInfo, SplitRule, UncertainRule
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import Notes, ages, binary_labels, column, expect_file, sexes, snake, with_files
from evalfm.errors import EvalfmError

OPTIONS = frozenset({"blank", "uncertain"})
RELEASES = ("", "CheXpert-v1.0", "CheXpert-v1.0-small")
PATIENT = r"(patient\d+)/(study\d+)/"
RELEASE = r"^(?:.*/)?(?=[^/]+/patient\d+/study\d+/)"
"""All that stands before ``train/patient…``."""
SIDE = r"(frontal|lateral)[^/]*$"
UNTOLD = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
"""Columns that the table of the test split may lack."""


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``train.csv``, ``valid.csv`` and, if it is there, ``test.csv``, and the frontal images that they name.

    ``root`` is the folder of the tables or the one above. Paths begin with the release's name
    (``CheXpert-v1.0/train/patient…``) or with the split (``test/patient…``). With ``test.csv`` its split stands;
    without it the radiologists' ``valid.csv`` is the test split and val is drawn by patient from train. Blank cells are
    negative by the set's convention, −1 is unknown; both can be chosen.

    Raises:
        EvalfmError: a file or column is missing, a path names no patient and study, or ``test.csv`` has no image here.
    """
    train = expect_file(root, [f"{release}/train.csv".lstrip("/") for release in RELEASES])
    folder = train.parent
    prefix = "" if folder == root else f"{folder.name}/"
    files = {"train": train, "valid": expect_file(folder, ["valid.csv"])}
    if (folder / "test.csv").is_file():
        files["test"] = folder / "test.csv"
    blank, uncertain = options.blank or "negative", options.uncertain or "unknown"
    notes = Notes()
    tables = []
    for split, file in files.items():
        native = read_table(file)
        path = as_text(column(native, "Path", file))
        keys = path.str.extract(PATIENT)
        if keys.isna().any(axis=None):
            line = int(keys.isna().any(axis=1).to_numpy().argmax()) + 2
            raise EvalfmError(f"{file}, line {line}: the path names no patient and study; take the original table.")
        # A path may begin with the release's own name, whatever the folder is called here.
        image = prefix + path.str.replace(RELEASE, "", regex=True)
        untold = [name for name in UNTOLD if name not in native] if split == "test" else []
        facts = native.reindex(columns=[*native, *untold])
        tables.append(
            pd.DataFrame(
                {
                    "id": image.str.removeprefix(prefix).str.removesuffix(".jpg"),
                    "image": image,
                    "patient": keys[0],
                    "study": keys[0] + "/" + keys[1],
                    "split": split,
                    **observations(native, file, blank=blank, uncertain=uncertain),
                    "sex": column(facts, "Sex", file).replace("Unknown", None),
                    "age": column(facts, "Age", file),
                    "view": as_text(column(facts, "AP/PA", file)),
                    "_side": as_text(column(facts, "Frontal/Lateral", file)),
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    # The radiologists' table of the test split may not say the view; the file's name does.
    side = table["_side"].where(table["_side"].notna(), table["image"].str.extract(SIDE)[0].str.capitalize())
    frontal = side == "Frontal"
    notes.tally(~frontal, f"of {len(table)} images are not frontal and were left out.")
    table = with_files(table[frontal].drop(columns="_side"), root, notes, "give the folder that holds train.csv")
    if "test" in files and not (table["split"] == "test").any():
        first = f", such as {tables[-1]['image'].iloc[0]}" if len(tables[-1]) else ""
        raise EvalfmError(
            f"No image of {files['test']} is in {root}{first}; put the images there, or move the table away so that "
            "valid.csv is the test split."
        )
    # Notes count the images that enter.
    table = table.assign(sex=sexes(table["sex"], notes), age=ages(table["age"], notes))
    meaning = "val" if "test" in files else "test"
    table["split"] = table["split"].replace({"valid": meaning}).astype(object)
    info = DatasetInfo(
        name="chexpert",
        title="CheXpert",
        licence="Stanford University Dataset Research Use Agreement",
        citation="Irvin et al., CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels, AAAI 2019",
        label_source=dict.fromkeys(LABELS, "text-mined in train.csv, radiologist in valid.csv and test.csv"),
        attributes=["sex", "age", "view"],
        public_ids=True,
        blank=blank,
        uncertain=uncertain,
        split=SplitRule(
            rule="official", note=f"train.csv, valid.csv as {meaning}{', test.csv' if 'test' in files else ''}"
        ),
        notes=notes,
    )
    return Imported(table, info, val_from_train="test" not in files)


OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""``Support Devices`` are devices of any kind: no label of a chest tube."""

LABELS = tuple(snake(name) for name in OBSERVATIONS)


def observations(
    native: pd.DataFrame, file: Path, *, blank: BlankRule, uncertain: UncertainRule
) -> dict[str, pd.Series]:
    """Label → 0, 1 or NaN per row of ``native``.

    Raises:
        EvalfmError: an observation has no column.
    """
    return {
        snake(name): binary_labels(column(native, name, file), blank=blank, uncertain=uncertain)
        for name in OBSERVATIONS
    }
