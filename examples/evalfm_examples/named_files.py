"""A data source: PNG files whose names say all, such as ``p017_1_F.png`` (patient, pneumothorax, sex)."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.sources import Imported
from evalfm.errors import EvalfmError

NAME = re.compile(r"(?P<patient>[A-Za-z0-9]+)_(?P<pneumothorax>[01])_(?P<sex>[FM])\.png")


def import_source(root: Path, options: ImportOptions) -> Imported:
    """One row per file under ``root``.

    Raises:
        EvalfmError: there is none, or a name is not of this form.
    """
    files = sorted(path.name for path in root.glob("*.png"))
    if not files:
        raise EvalfmError(f"There is no *.png in {root}; give the folder of the images.")
    rows = []
    for file in files:
        said = NAME.fullmatch(file)
        if said is None:
            raise EvalfmError(f"{root / file} is not called PATIENT_LABEL_SEX.png, such as p017_1_F.png; rename it.")
        rows.append({"id": Path(file).stem, "image": file, **said.groupdict()})
    table = pd.DataFrame(rows)
    table["pneumothorax"] = table["pneumothorax"].astype(float)
    info = DatasetInfo(
        name="named-files",
        licence="ours",
        label_source={"pneumothorax": "names of the files"},
        attributes=["sex"],
    )
    return Imported(table, info)
