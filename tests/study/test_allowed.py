"""Which tasks a data set can answer, and why the others are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data.manifest import Manifest
from evalfm.study.allowed import FEWEST, allowed_tasks

from ..squares import make_squares


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_squares(tmp_path_factory.mktemp("hundred"), patients=100)


def with_columns(manifest: Manifest, folder: Path, columns: dict[str, object], **info: object) -> Manifest:
    source = {**manifest.info.label_source, **dict.fromkeys(columns, "made up")}
    facts = {"label_source": source, "root": str(manifest.root), **info}
    Manifest(manifest.info.model_copy(update=facts), manifest.table.assign(**columns), folder).write(folder)
    return Manifest.read(folder)


def reasons(manifest: Manifest, cards: list[str], folds: int | None = 5) -> dict[str, str]:
    return {each.what: each.reason for each in allowed_tasks(cards, manifest, folds)[1]}


def test_labels_numbers_and_masks_with_enough_cases_are_allowed(hundred: Manifest, square_seg: str) -> None:
    found, left_out = allowed_tasks([square_seg], hundred, 5)
    assert [(each.name, each.kind) for each in found] == [(square_seg, "segmentation"), ("size", "regression")]
    assert left_out == [], "an attribute is no task, and the label that a card asks is not asked twice"
    labels, _ = allowed_tasks([], hundred, 5)
    assert [(each.name, each.kind, each.head) for each in labels] == [
        ("square", "binary", "linear"),
        ("size", "regression", "ridge"),
    ]
    assert labels[0].images == len(hundred)
    assert labels[0].patients == 100
    assert labels[1].scarcest is None
    alone, _ = allowed_tasks([square_seg], hundred, 5, columns=False)
    assert [each.name for each in alone] == [square_seg]


def test_what_the_data_lack_is_named(hundred: Manifest) -> None:
    assert reasons(hundred, ["ptx-cls", "heart-seg", "ctr"]) == {
        "ptx-cls on squares": "squares holds no pneumothorax",
        "heart-seg on squares": "squares holds no heart_mask",
        "ctr on squares": "squares holds no heart_mask",
    }


@pytest.mark.parametrize("side", [0, 1])
def test_too_few_on_one_side_are_counted_in_patients(hundred: Manifest, tmp_path: Path, side: int) -> None:
    rare = np.zeros(len(hundred))
    patients = hundred.patients
    # Two images of each of so many patients: images must not be taken for patients.
    twice = [name for name in dict.fromkeys(patients) if (patients == name).sum() == 2][: FEWEST["test"] - 1]
    rare[np.isin(patients, twice)] = 1
    assert rare.sum() > FEWEST["test"]
    found = with_columns(hundred, tmp_path, {"rare": rare if side else 1 - rare})
    said = reasons(found, [])["rare on squares"]
    assert f"patients {'with' if side else 'without'} the finding" in said
    assert "fewer than" in said


def test_val_and_train_count_too(hundred: Manifest, tmp_path: Path) -> None:
    split = hundred.table["split"].to_numpy()
    patients = pd.Series(hundred.patients)
    first = ~patients.duplicated().to_numpy()
    for where, others in (("val", ("train", "test")), ("train", ("val", "test"))):
        rare = np.zeros(len(hundred))
        for other in others:
            rare[np.flatnonzero(first & (split == other))[: FEWEST[other]]] = 1
        rare[np.flatnonzero(first & (split == where))[: FEWEST[where] - 1]] = 1
        made = with_columns(hundred, tmp_path / where, {"rare": rare})
        count = FEWEST[where] - 1
        assert reasons(made, [], None)["rare on squares"] == (
            f"{count} patients with the finding in {where}, fewer than {FEWEST[where]}"
        )
        enough = rare.copy()
        enough[np.flatnonzero(first & (split == where))[FEWEST[where] - 1]] = 1
        made = with_columns(hundred, tmp_path / f"{where}-enough", {"rare": enough})
        assert "rare on squares" not in reasons(made, [], None)


def test_every_class_must_have_enough(hundred: Manifest, tmp_path: Path) -> None:
    place = np.arange(len(hundred))
    grade = np.where(place % 2 == 0, "A", "B").astype(object)
    grade[:12] = "C"
    kinds = {**hundred.info.label_kinds, "grade": "class"}
    made = with_columns(hundred, tmp_path, {"grade": grade}, label_kinds=kinds)
    assert "patients of C in train, fewer than 10" in reasons(made, [])["grade on squares"]


def test_the_scarcest_class_is_that_of_the_smallest_train(hundred: Manifest) -> None:
    (square, _), _ = allowed_tasks([], hundred, 5)
    (on_split, _), _ = allowed_tasks([], hundred, None)
    train = hundred.table[hundred.table["split"] == "train"]["square"]
    assert on_split.scarcest == train.value_counts().min()
    assert square.scarcest is not None
    assert 0 < square.scarcest < hundred.table["square"].value_counts().min()
