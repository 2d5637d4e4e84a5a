"""Few-shot sets as CoOp lays them out: a folder of images and a ``split_X.json``, such as the eleven of BiomedCoOp."""

from __future__ import annotations

from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from evalfm.cards import read_json
from evalfm.data.columns import SPLITS
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.locators import locator_faults
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import Notes, choose_subset, with_files
from evalfm.errors import EvalfmError

OPTIONS = frozenset({"subset"})
LABEL = "label"
LOOKED_AT = 200
DERIVED = {
    "btmri": ["btmri"],
    "busi": ["busi"],
    "chmnist": ["kather-2016"],
    "covid_19": ["covid-qu-ex"],
    "ctkidney": ["ctkidney"],
    "dermamnist": ["ham10000"],
    "kneexray": ["oai"],
    "kvasir": ["kvasir"],
    "lungcolon": ["lc25000"],
    "octmnist": ["kermany-oct"],
    "retina": ["retina"],
}
"""Where the images of BiomedCoOp's sets come from, by the X of ``split_X.json``."""


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``split_X.json`` = ``{"train": [[path, label, class], …], "val": …, "test": …}`` in ``root``.

    ``subset`` names one of several files. Paths start in ``X/`` (as in BiomedCoOp), ``images/`` or ``root``.
    ``label`` holds the words for the classes; numbers and words must agree. The layout knows no patients.

    Raises:
        EvalfmError: the file is absent or of another form, no image is there, or a class has two words.
    """
    files = [path for path in sorted(root.glob("split_*.json")) if root.is_dir() and path.is_file()]
    file = choose_subset(root, files, options.subset, "split_X.json")
    rows = _rows(file)
    notes = Notes()
    rows["image"] = _locators(rows["path"], root, file)
    rows = with_files(rows, root, notes, "unpack the images beside the split file")
    again = rows.duplicated(["image", "split", "label"])
    notes.tally(again, "rows say what an earlier row said of the same image and were left out.")
    rows = rows[~again].reset_index(drop=True)
    name = file.stem.removeprefix("split_")
    known = DERIVED.get(name.lower())
    table = pd.DataFrame({"id": rows["path"], "image": rows["image"], "split": rows["split"], LABEL: rows["word"]})
    info = DatasetInfo(
        name=name,
        title=f"{name}, split of BiomedCoOp" if known else name,
        licence="that of the original set",
        citation="Koleilat et al., BiomedCoOp: Learning to Prompt for Biomedical Vision-Language Models, CVPR 2025"
        if known
        else "",
        label_source={LABEL: "as published"},
        label_kinds={LABEL: "class"},
        derived_from=known or [],
        public_ids=known is not None,
        split=SplitRule(rule="source", note=f"{file.name}, by image; whose image is whose it does not say"),
        notes=notes,
    )
    return Imported(table, info)


def _rows(file: Path) -> pd.DataFrame:
    """``path, label, word, split`` of every image in the file's order."""
    content = read_json(file)
    absent = [split for split in SPLITS if not isinstance(content, dict) or not isinstance(content.get(split), list)]
    if absent:
        raise EvalfmError(f"{file} has no list {absent[0]!r}; a CoOp split holds train, val and test.")
    rows = [(*_row(item, file), split) for split in SPLITS for item in content[split]]
    if not rows:
        raise EvalfmError(f"{file} lists no image; fetch it again.")
    table = pd.DataFrame(rows, columns=["path", "label", "word", "split"])
    pairs = table[["label", "word"]].drop_duplicates()
    for one, other in (("label", "word"), ("word", "label")):
        if pairs[one].duplicated().any():
            what = pairs[one][pairs[one].duplicated()].tolist()[0]
            both = pairs[other][pairs[one] == what].tolist()
            raise EvalfmError(f"{file} calls class {what!r} both {both[0]!r} and {both[1]!r}; correct it.")
    return table


def _row(item: Any, file: Path) -> tuple[str, int, str]:
    match item:
        case [str(path), int(label), str(word)] if not isinstance(label, bool):
            return PurePosixPath(path.replace("\\", "/")).as_posix(), label, word.strip()
    raise EvalfmError(f"{file} holds {str(item)[:60]!r} where [path, label, class] is expected; fetch it again.")


def _locators(paths: pd.Series, root: Path, file: Path) -> pd.Series:
    """Paths from the folder in which the first image that is there is found."""
    name = file.stem.removeprefix("split_")
    for folder in (name, "images", "", name.lower()):
        prefix = f"{folder}/" if folder else ""
        looked = [prefix + path for path in islice(paths, LOOKED_AT)]
        if len(locator_faults(looked, root)) < len(set(looked)):
            return prefix + paths
    return f"{name}/" + paths
