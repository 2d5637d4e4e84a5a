"""The fourteen observations of the CheXpert labeller, as CheXpert and MIMIC-CXR write them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evalfm.data.dataset_info import BlankRule, UncertainRule
from evalfm.data.sources._tables import binary_labels, column, snake

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
