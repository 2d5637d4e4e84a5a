"""Which masks a measured target needs, and how they reach a head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.masks import encode
from evalfm.probing.sides import measured_findings, read_measured
from evalfm.tasks.card import load_task
from evalfm.tasks.question import pose

CELLS = {"pneumothorax": slice(0, 1), "heart": slice(1, 3), "left_lung": slice(3, 6), "right_lung": slice(6, 10)}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """One film of 4×10, a band of columns a finding."""
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
    question = pose(load_task(task), manifest)
    assert measured_findings(question) == findings
    masks = read_measured(question, 0)
    assert [np.flatnonzero(mask[0]).tolist() for mask in masks] == [
        list(range(CELLS[finding].start, CELLS[finding].stop)) for finding in findings
    ]
