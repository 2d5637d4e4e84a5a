"""Real radiographs: none is another's copy, and planted copies are found."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pil

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest
from evalfm.data.overlap import find_overlap

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")


def changed(radiograph: np.ndarray, number: int) -> np.ndarray:
    """Another size, compression, polarity and gamma for each."""
    size = (224, 300, 512)[number % 3]
    small = np.asarray(Pil.fromarray(radiograph).resize((size, size), Pil.Resampling.BICUBIC)).clip(0, 1)
    small = small ** (0.7, 1.0, 1.5)[number % 3]
    stream = io.BytesIO()
    bytes_ = np.round((1 - small if number % 2 else small) * 255).astype(np.uint8)
    Pil.fromarray(bytes_).save(stream, "JPEG", quality=50)
    return np.asarray(Pil.open(stream))


def test_every_planted_copy_and_no_other_pair(tmp_path: Path) -> None:
    nih = import_data("nih-cxr14", SHARED / "nih-cxr14-starter", tmp_path / "nih")
    wingspan = import_data("wingspan-ctr", SHARED / "wingspan-ctr", tmp_path / "wingspan")
    assert (len(nih), len(wingspan)) == (621, 259)
    assert find_overlap(nih).pairs == ()
    assert find_overlap(wingspan).pairs == ()
    assert find_overlap(nih, wingspan).pairs == ()
    planted = np.random.default_rng(0).choice(621, 60, replace=False)
    folder = tmp_path / "copies"
    folder.mkdir()
    for number, row in enumerate(planted):
        radiograph = np.asarray(nih.image(int(row)).pixels).mean(0)
        Pil.fromarray(changed(radiograph, number)).save(folder / f"{number}.png")
    table = pd.DataFrame({"id": [f"c{n}" for n in range(60)], "image": [f"{n}.png" for n in range(60)]})
    copies = Manifest(DatasetInfo(name="copies", root=str(folder)), table, folder)
    found = find_overlap(copies, nih)
    assert [(pair.one, pair.other) for pair in found.pairs] == [(n, int(row)) for n, row in enumerate(planted)]
    assert [pair.inverted for pair in found.pairs] == [bool(n % 2) for n in range(60)]
