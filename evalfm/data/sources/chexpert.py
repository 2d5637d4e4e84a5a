"""CheXpert: 224,316 radiographs of 65,240 patients with labels mined from reports, and radiologists' for a few."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evalfm.data.columns import as_text, read_table
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.sources._chexpert_labels import LABELS, observations
from evalfm.data.sources._contract import Imported, ImportOptions
from evalfm.data.sources._tables import ages, column, expect_file, sexes, with_files
from evalfm.data.splits import val_from_train
from evalfm.errors import EvalfmError

OPTIONS = frozenset({"blank", "uncertain"})
NAME = "chexpert"
RELEASES = ("", "CheXpert-v1.0", "CheXpert-v1.0-small")
PATIENT = r"(patient\d+)/(study\d+)/"


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``train.csv``, ``valid.csv`` and, if it is there, ``test.csv``, and the frontal films that they name.

    ``root`` is the folder of the tables or the one above. With ``test.csv`` the official parts stand; without it the
    radiologists' ``valid.csv`` is the test part and val is dealt by patient from train. Blank cells are negative by
    the set's convention, −1 is unknown; both can be chosen.

    Raises:
        EvalfmError: a file or column is missing, or a path names no patient and study.
    """
    train = expect_file(root, [f"{release}/train.csv".lstrip("/") for release in RELEASES])
    folder = train.parent
    prefix = "" if folder == root else f"{folder.name}/"
    parts = {"train": train, "valid": expect_file(folder, ["valid.csv"])}
    if (folder / "test.csv").is_file():
        parts["test"] = folder / "test.csv"
    blank, uncertain = options.blank or "negative", options.uncertain or "unknown"
    notes: list[str] = []
    tables = []
    for part, file in parts.items():
        native = read_table(file)
        path = as_text(column(native, "Path", file))
        keys = path.str.extract(PATIENT)
        if keys.isna().any(axis=None):
            line = int(keys.isna().any(axis=1).to_numpy().argmax()) + 2
            raise EvalfmError(f"{file}, line {line}: the path names no patient and study; take the original table.")
        # The first folder is the release's own name, whatever the folder is called here.
        image = prefix + path.str.split("/", n=1).str[1]
        tables.append(
            pd.DataFrame(
                {
                    "id": image.str.removeprefix(prefix).str.removesuffix(".jpg"),
                    "image": image,
                    "patient": keys[0],
                    "study": keys[0] + "/" + keys[1],
                    "split": part,
                    **observations(native, file, blank=blank, uncertain=uncertain),
                    "sex": sexes(column(native, "Sex", file).replace("Unknown", None), notes),
                    "age": ages(column(native, "Age", file), notes),
                    "view": as_text(column(native, "AP/PA", file)),
                    "_side": as_text(column(native, "Frontal/Lateral", file)),
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    frontal = table["_side"] == "Frontal"
    if not frontal.all():
        notes.append(f"{int((~frontal).sum())} of {len(table)} films are not frontal and were left out.")
    table = with_files(table[frontal].drop(columns="_side"), root, notes, "give the folder that holds train.csv")
    table["split"], rule = _split(table, options.seed)
    info = DatasetInfo(
        name=NAME,
        title="CheXpert",
        licence="Stanford University Dataset Research Use Agreement",
        citation="Irvin et al., CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels, AAAI 2019",
        label_source=dict.fromkeys(LABELS, "text-mined in train.csv, radiologist in valid.csv and test.csv"),
        attributes=["sex", "age", "view"],
        public_ids=True,
        blank=blank,
        uncertain=uncertain,
        split=rule,
        notes=notes,
    )
    return Imported(table, info)


def _split(table: pd.DataFrame, seed: int) -> tuple[pd.Series, SplitRule]:
    if (table["split"] == "test").any():
        named = table["split"].replace({"valid": "val"})
        return named.astype(object), SplitRule(rule="official", note="train.csv, valid.csv as val, test.csv")
    parts = table["split"].replace({"valid": "test"}).to_numpy(dtype=object)
    dealt = val_from_train(parts, table["patient"].to_numpy(dtype=object), name=NAME, seed=seed)
    note = "valid.csv is the test part; val is drawn by patient from train.csv"
    return pd.Series(dealt, dtype=object), SplitRule(rule="official", seed=seed, note=note)
