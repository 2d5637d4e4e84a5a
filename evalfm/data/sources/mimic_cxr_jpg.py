"""MIMIC-CXR-JPG: 377,110 radiographs of 65,379 patients with labels mined from reports; credentialed access."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evalfm.data.columns import as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import Notes, column, expect_file, only_words, with_files
from evalfm.data.sources.chexpert import LABELS, observations
from evalfm.errors import EvalfmError

OPTIONS = frozenset({"blank", "uncertain", "subset"})
VERSIONS = ("2.0.0", "2.1.0")
LABELLERS = ("chexpert", "negbio")
FRONTAL = ("PA", "AP")
SPLIT_WORDS = {"train": "train", "validate": "val", "test": "test"}


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``mimic-cxr-2.x.0-{chexpert,metadata,split}.csv[.gz]`` and ``files/p10/p10000032/s50414267/<dicom_id>.jpg``.

    PA and AP images enter. ``subset`` chooses the labeller, ``chexpert`` or ``negbio``. A study without a row of labels
    has unknown ones. The official split is followed where its table is there. Blank cells are negative by the set's
    convention, −1 is unknown; both can be chosen.

    Raises:
        EvalfmError: a file or column is missing, or a study has two rows of labels.
    """
    labeller = options.subset or LABELLERS[0]
    if labeller not in LABELLERS:
        raise EvalfmError(f"MIMIC-CXR-JPG has no labels of {labeller!r}; --subset is {' or '.join(LABELLERS)}.")
    meta_file, label_file = (expect_file(root, _names(kind)) for kind in ("metadata", labeller))
    meta, native = read_table(meta_file), read_table(label_file)
    blank, uncertain = options.blank or "negative", options.uncertain or "unknown"
    studies = _key(native, label_file)
    if studies.duplicated().any():
        raise EvalfmError(f"{label_file} has two rows for the study {studies[studies.duplicated()].iloc[0]}; keep one.")
    labels = pd.DataFrame(observations(native, label_file, blank=blank, uncertain=uncertain)).set_index(studies)
    notes = Notes()
    subject, study, image = (as_text(column(meta, name, meta_file)) for name in ("subject_id", "study_id", "dicom_id"))
    wanted = _key(meta, meta_file)
    unlabelled = ~wanted.isin(labels.index)
    table = pd.DataFrame(
        {
            "id": image,
            "image": "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + image + ".jpg",
            "patient": subject,
            "study": study,
            "view": as_text(column(meta, "ViewPosition", meta_file)),
            "_unlabelled": unlabelled,
            **{name: labels[name].reindex(wanted).to_numpy() for name in LABELS},
        }
    )
    split_file = next((root / name for name in _names("split") if (root / name).is_file()), None)
    if split_file is not None:
        table["split"] = _split(image, split_file)
    frontal = table["view"].isin(FRONTAL)
    notes.tally(~frontal, f"of {len(table)} images are not PA or AP and were left out.")
    table = with_files(table[frontal], root, notes, "give the folder that holds files/")
    notes.tally(table["_unlabelled"], "images are of studies without labels, which are unknown.")
    info = DatasetInfo(
        name="mimic-cxr-jpg",
        title="MIMIC-CXR-JPG",
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        citation="Johnson et al., MIMIC-CXR-JPG, a large public database of labeled chest radiographs, 2019",
        label_source=dict.fromkeys(LABELS, f"text-mined ({labeller})"),
        derived_from=["mimic-cxr"],
        attributes=["view"],
        blank=blank,
        uncertain=uncertain,
        split=None if split_file is None else SplitRule(rule="official", note=split_file.name),
        notes=notes,
    )
    return Imported(table.drop(columns="_unlabelled"), info)


def _names(kind: str) -> list[str]:
    return [f"mimic-cxr-{version}-{kind}.csv{suffix}" for version in VERSIONS for suffix in (".gz", "")]


def _key(table: pd.DataFrame, file: Path) -> pd.Series:
    return as_text(column(table, "subject_id", file)) + "/" + as_text(column(table, "study_id", file))


def _split(image: pd.Series, file: Path) -> pd.Series:
    native = read_table(file)
    word = only_words(column(native, "split", file), SPLIT_WORDS.get, "train, validate or test", file)
    split = image.map(dict(zip(as_text(column(native, "dicom_id", file)), word, strict=True)))
    if split.isna().any():
        raise EvalfmError(
            f"{file} names no split for {int(split.isna().sum())} images; take the table of this version."
        )
    return split.astype(object)
