"""MedMNIST and any 2-D set in its layout: one NPZ with images and labels of train, val and test."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.arrays import read_npy_header
from evalfm.data.columns import SPLITS
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo, LabelKind, SplitRule
from evalfm.data.digests import image_digests
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import SHOWN, choose_subset
from evalfm.data.stored import decoding, reason
from evalfm.errors import EvalfmError

OPTIONS = frozenset({"subset"})
PRECEDENCE = ("test", "train", "val")
CITATION = (
    "Yang et al., MedMNIST v2: A large-scale lightweight benchmark for 2D and 3D biomedical image classification, "
    "Scientific Data 2023"
)
ORGANS = ("bladder", "femur_left", "femur_right", "heart", "kidney_left", "kidney_right", "liver", "lung_left",
          "lung_right", "pancreas", "spleen")  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """What the makers say of one of their sets, whose numbers mean nothing without it.

    Attributes:
        labels: the column, or columns of several labels.
        classes: names of the values 0, 1, … of one column; empty where they are 0 and 1, or grades.
        positive: the value that means the label is there; BreastMNIST has 0 for malignant.
        derived_from: sets whose images these are.
        licence: of the set.
    """

    labels: tuple[str, ...]
    classes: tuple[str, ...] = ()
    positive: Literal[0, 1] = 1
    derived_from: tuple[str, ...] = ()
    licence: str = "CC BY 4.0"


KNOWN = {
    "bloodmnist": _Known(("cell",), ("basophil", "eosinophil", "erythroblast", "immature_granulocyte", "lymphocyte",
                                     "monocyte", "neutrophil", "platelet")),
    "breastmnist": _Known(("malignant",), positive=0, derived_from=("busi",)),
    "chestmnist": _Known(("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia",
                          "pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural_thickening",
                          "hernia"), derived_from=("nih-cxr14",)),
    "dermamnist": _Known(("lesion",), ("actinic_keratosis", "basal_cell_carcinoma", "benign_keratosis",
                                       "dermatofibroma", "melanoma", "melanocytic_nevus", "vascular_lesion"),
                         derived_from=("ham10000",), licence="CC BY-NC 4.0"),
    "octmnist": _Known(("retina",), ("choroidal_neovascularization", "diabetic_macular_edema", "drusen", "normal"),
                       derived_from=("kermany-oct",)),
    "organamnist": _Known(("organ",), ORGANS, derived_from=("lits",)),
    "organcmnist": _Known(("organ",), ORGANS, derived_from=("lits",)),
    "organsmnist": _Known(("organ",), ORGANS, derived_from=("lits",)),
    "pathmnist": _Known(("tissue",), ("adipose", "background", "debris", "lymphocytes", "mucus", "smooth_muscle",
                                      "normal_mucosa", "cancer_stroma", "adenocarcinoma"),
                        derived_from=("nct-crc",)),
    "pneumoniamnist": _Known(("pneumonia",), derived_from=("kermany-cxr",)),
    "retinamnist": _Known(("retinopathy_grade",), derived_from=("deepdrid",)),
    "tissuemnist": _Known(("kidney_cell",), ("collecting_duct", "distal_tubule", "glomerular_endothelium",
                                             "interstitial_endothelium", "leukocyte", "podocyte",
                                             "proximal_tubule", "thick_ascending_limb"), derived_from=("bbbc051",)),
}  # fmt: skip
"""The twelve 2-D sets of MedMNIST, by the name of their file without its size."""


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``{train,val,test}_{images,labels}`` of an NPZ in ``root``; ``subset`` names it where there are several.

    Images stay in the file, under locators such as ``pneumoniamnist.npz#train_images/17``. Labels [N] or [N, 1] are
    one column, [N, K] are K labels of their own. A set that MedMNIST does not have gets ``label`` or ``label_0``,
    ``label_1``, …. The layout knows no patients, and the official split is by image. An image that the file has in two
    splits stays in one, test before train before val, so that nobody chooses on what was trained on.

    Raises:
        EvalfmError: there is no such file, an array lacks or has another length than its labels, or it is 3-D.
    """
    file = choose_subset(root, sorted(root.glob("*.npz")), options.subset, "pneumoniamnist.npz")
    shapes, labels = _read(file)
    name = re.sub(r"_\d+$", "", file.stem.lower())
    known = KNOWN.get(name)
    places = [(split, number) for split in SPLITS for number in range(shapes[split][0])]
    values = np.concatenate([labels[split] for split in SPLITS])
    columns, kinds = _columns(values, known, file)
    table = pd.DataFrame(
        {
            "id": [f"{split}_{number}" for split, number in places],
            "image": [f"{file.name}#{split}_images/{number}" for split, number in places],
            "split": [split for split, _ in places],
            **columns,
        }
    )
    kept = _in_one_split(table, root, options)
    lost = table.loc[~kept, "split"].value_counts()
    counts = ", ".join(f"{count} of {split}" for split, count in lost.items())
    info = DatasetInfo(
        name=file.stem,
        title=f"MedMNIST v2: {file.stem}" if known else file.stem,
        licence=known.licence if known else "unknown",
        citation=CITATION if known else "",
        label_source=dict.fromkeys(columns, "text-mined" if name == "chestmnist" else "as published"),
        label_kinds=kinds,
        derived_from=list(known.derived_from) if known else [],
        redistributable_images=known is not None,
        public_ids=known is not None,
        split=SplitRule(rule="source", note="split of the file, by image; whose image is whose it does not say"),
        notes=[
            f"Images of {' × '.join(map(str, shapes['train'][1:]))} pixels.",
            *([f"The file has images in two splits with identical bytes; left out: {counts}."] if counts else []),
        ],
    )
    return Imported(table[kept].reset_index(drop=True), info)


def _in_one_split(table: pd.DataFrame, root: Path, options: ImportOptions) -> NDArray[np.bool_]:
    """[N] False for images whose bytes stand in a split that goes before theirs: test, then train, then val."""
    digests = image_digests(table["image"].tolist(), root, progress=options.progress).by_locator
    place = table["split"].map({split: number for number, split in enumerate(PRECEDENCE)})
    # What cannot be read has no digest; the check of the manifest names it.
    alike = table["image"].map(digests).fillna(table["id"])
    return np.asarray(place == place.groupby(alike).transform("min"), dtype=bool)


def _read(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, NDArray[np.float64]]]:
    """Shapes of the images and labels [N, K] per split; the images' pixels are not read."""
    with (
        decoding(lambda error: EvalfmError(f"{file} cannot be read as NPZ ({reason(error)}); fetch it again.")),
        zipfile.ZipFile(file) as archive,
        np.load(file, allow_pickle=False) as arrays,
    ):
        held = set(arrays.files)
        absent = [f"{split}_{what}" for split in SPLITS for what in ("images", "labels")
                  if f"{split}_{what}" not in held]  # fmt: skip
        if absent:
            raise EvalfmError(
                f"{file} has no array {absent[0]!r}, it holds {', '.join(sorted(held)[:SHOWN]) or 'none'}; "
                "give a file in the layout of MedMNIST."
            )
        shapes: dict[str, tuple[int, ...]] = {}
        for split in SPLITS:
            with archive.open(f"{split}_images.npy") as stream:
                shapes[split] = read_npy_header(stream)[0]
        labels = {split: np.asarray(arrays[f"{split}_labels"]) for split in SPLITS}
    for split in SPLITS:
        _check(file, split, shapes[split], labels[split])
    return shapes, {split: values.reshape(len(values), -1).astype(np.float64) for split, values in labels.items()}


def _check(file: Path, split: str, shape: tuple[int, ...], labels: NDArray[np.generic]) -> None:
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))):
        raise EvalfmError(
            f"{file} holds {split}_images of shape {list(shape)}; only 2-D images [N, H, W] or [N, H, W, 3] are read."
        )
    if labels.dtype.kind not in "buif" or labels.ndim not in (1, 2) or len(labels) != shape[0]:
        raise EvalfmError(
            f"{file} holds {shape[0]} {split} images and {split}_labels of shape {list(labels.shape)} and type "
            f"{labels.dtype}; there must be a row of numbers for each image."
        )
    if (np.nan_to_num(labels.astype(np.float64)) % 1 != 0).any() or (labels.astype(np.float64) < 0).any():
        raise EvalfmError(f"{file} holds {split}_labels that are no class numbers from 0; use the source `table`.")


def _columns(
    values: NDArray[np.float64], known: _Known | None, file: Path
) -> tuple[dict[str, object], dict[str, LabelKind]]:
    """Label columns and the kinds of those that are not binary, from values [N, K]."""
    number = values.shape[1]
    names = known.labels if known else ("label",) if number == 1 else tuple(f"label_{k}" for k in range(number))
    other = "rename the file if it is another set"
    if len(names) != number:
        raise EvalfmError(f"{file} holds {number} labels an image where {file.stem} has {len(names)}; {other}.")
    top = int(np.nanmax(values))
    if known is not None and known.classes:
        if top >= len(known.classes):
            raise EvalfmError(f"{file} holds class {top} where {file.stem} has {len(known.classes)} classes; {other}.")
        words = [None if np.isnan(value) else known.classes[int(value)] for value in values[:, 0]]
        return {names[0]: pd.Series(words, dtype=object)}, {names[0]: "class"}
    if number == 1 and top > 1:
        return {names[0]: values[:, 0]}, {names[0]: "class"}
    if top > 1:
        raise EvalfmError(f"{file} holds {number} labels an image with values up to {top}, where 0 and 1 are expected.")
    turned = values if known is None or known.positive == 1 else 1 - values
    return {name: turned[:, column] for column, name in enumerate(names)}, {}
