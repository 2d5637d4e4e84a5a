"""Which masks a measured target needs, and how they reach a head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.masks import encode
from evalfm.errors import EvalfmError
from evalfm.probing.cohort import with_classes_of
from evalfm.probing.labelled import measured_findings, read_measured
from evalfm.tasks.cohort import select_cohort
from evalfm.tasks.task import TaskCard, load_task, with_defaults

CELLS = {"pneumothorax": slice(0, 1), "heart": slice(1, 3), "left_lung": slice(3, 6), "right_lung": slice(6, 10)}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """One radiograph of 4×10, a band of columns a finding."""
    np.save(tmp_path / "film.npy", np.zeros((4, 10), dtype=np.uint8))
    table: dict[str, object] = {"id": ["a"], "image": ["film.npy"], "split": ["train"]}
    for finding, columns in CELLS.items():
        mask = np.zeros((4, 10), dtype=bool)
        mask[:, columns] = True
        table[f"{finding}_mask"] = [encode("relative", mask)]
    dialects = dict.fromkeys(CELLS, "relative")
    return Manifest(DatasetInfo(name="t", public_ids=True, mask_dialects=dialects), pd.DataFrame(table), tmp_path)


@pytest.mark.parametrize(
    ("task", "findings"),
    [
        ("ptx-size", ("pneumothorax",)),
        ("ptx-size-lung", ("pneumothorax", "left_lung", "right_lung")),
        ("ctr", ("heart", "left_lung", "right_lung")),
    ],
)
def test_the_masks_of_a_measure_come_first_to_last(manifest: Manifest, task: str, findings: tuple[str, ...]) -> None:
    cohort = select_cohort(load_task(task), manifest)
    assert measured_findings(cohort) == findings
    masks = read_measured(cohort, 0)
    assert [np.flatnonzero(mask[0]).tolist() for mask in masks] == [
        list(range(CELLS[finding].start, CELLS[finding].stop)) for finding in findings
    ]


def labelled(tmp_path: Path, name: str, values: list[object]) -> Manifest:
    np.save(tmp_path / "film.npy", np.zeros((4, 10), dtype=np.uint8))
    rows = [f"{name}{number}" for number in range(len(values))]
    table = pd.DataFrame({"id": rows, "image": "film.npy", "split": "train", "density": values})
    return Manifest(DatasetInfo(name=name, public_ids=True), table, tmp_path)


def graded(kind: str) -> TaskCard:
    content = {"schema": 1, "name": "grade", "kind": kind, "title": "?", "target": ["density"]}
    return TaskCard.model_validate(with_defaults(content))


def test_classes_of_test_data_keep_the_numbers_that_were_learnt(tmp_path: Path) -> None:
    train = select_cohort(graded("ordinal"), labelled(tmp_path, "one", ["A", "B", "C", "D"]))
    test = select_cohort(graded("ordinal"), labelled(tmp_path, "two", ["D", "B", "C"]))
    # By its own levels B would be 0, which is A where it was learnt.
    assert test.target.ravel().tolist() == [2, 0, 1]
    found = with_classes_of(train, test)
    assert found.target.ravel().tolist() == [3, 1, 2]
    assert found.class_names == ("A", "B", "C", "D")
    assert with_classes_of(train, train) is train
    more = select_cohort(graded("ordinal"), labelled(tmp_path, "three", ["A", "E"]))
    with pytest.raises(
        EvalfmError, match="The test data three hold A, E and one A, B, C, D; give both the same levels"
    ):
        with_classes_of(train, more)
    with pytest.raises(EvalfmError, match="grade is multiclass on the test data two and ordinal on one"):
        with_classes_of(train, select_cohort(graded("multiclass"), labelled(tmp_path, "two", ["D", "B", "C"])))


def test_words_and_numbers_of_a_binary_label_go_together_but_other_words_do_not(tmp_path: Path) -> None:
    words = select_cohort(graded("binary"), labelled(tmp_path, "words", ["fatty", "dense", "fatty"]))
    numbers = select_cohort(graded("binary"), labelled(tmp_path, "numbers", [0, 1, 0]))
    assert with_classes_of(words, numbers).class_names == words.class_names
    assert with_classes_of(words, numbers).target.ravel().tolist() == [0, 1, 0]
    assert with_classes_of(numbers, words).class_names == numbers.class_names
    with pytest.raises(EvalfmError, match="give both the same levels"):
        with_classes_of(words, select_cohort(graded("binary"), labelled(tmp_path, "one-sided", ["dense", "dense"])))
    # A 1 of levels 1 and 2 is the lower one, a 1 of 0 and 1 the higher.
    levels = labelled(tmp_path, "levels", [1, 2, 1])
    declared = {"label_source": {"density": "reader"}, "label_kinds": {"density": "class"}}
    levels = Manifest(levels.info.model_copy(update=declared), levels.table, tmp_path)
    higher = select_cohort(graded("binary"), levels)
    assert (higher.class_names, higher.target.ravel().tolist()) == (("density_2",), [0, 1, 0])
    with pytest.raises(EvalfmError, match="give both the same levels"):
        with_classes_of(higher, numbers)
