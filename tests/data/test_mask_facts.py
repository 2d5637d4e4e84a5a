"""Masks are decoded where they are needed and have changed, and nowhere else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfm.data.manifest import Manifest
from evalfm.data.mask_facts import fact_of, mask_facts
from evalfm.errors import EvalfmError
from evalfm.probing.cohort import load_cohort
from evalfm.probing.probe import probe
from evalfm.progress import SILENT
from evalfm.split_options import SplitOptions

from ..squares import SIDE, make_squares

PATIENTS = 12


@pytest.fixture
def data(tmp_path: Path, home: Path) -> Manifest:
    return make_squares(tmp_path / "images", patients=PATIENTS)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows whose mask was decoded."""
    rows: list[int] = []
    decode = Manifest.mask

    def counted(self: Manifest, row: int, finding: str) -> object:
        rows.append(row)
        return decode(self, row, finding)

    monkeypatch.setattr(Manifest, "mask", counted)
    return rows


def write_mask(data: Manifest, row: int, mask: np.ndarray) -> None:
    path = data.root / str(data.table["square_mask"].iat[row])
    before = path.stat()
    Image.fromarray(mask).save(path)
    # Coarse clocks would hide a change within one tick.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def test_facts_are_those_of_the_mask() -> None:
    mask = np.zeros((4, 10), dtype=bool)
    mask[1:3, 2:7] = True
    fact = fact_of(mask)
    assert (fact.pixels, fact.size, fact.first, fact.last, fact.extent) == (10, 40, 2, 6, 5)
    assert fact_of(mask & False).extent == 0
    assert fact_of(mask).digest != fact_of(mask[:, ::-1]).digest


def test_a_mask_is_decoded_once_and_again_when_it_changes(data: Manifest, decoded: list[int]) -> None:
    rows = range(len(data))
    first = mask_facts(data, ["square"], rows)
    assert sorted(decoded) == list(rows)
    assert [first.by_row[row].pixels / SIDE**2 for row in rows] == pytest.approx(data.table["size"].tolist())
    decoded.clear()
    assert mask_facts(Manifest.read(data.folder), ["square"], rows) == first
    assert decoded == []
    write_mask(data, 3, np.full((SIDE, SIDE), 255, dtype=np.uint8))
    assert mask_facts(data, ["square"], rows).by_row[3].pixels == SIDE**2
    assert decoded == [3]


def test_what_the_data_set_says_of_masks_and_its_images_count_too(data: Manifest, decoded: list[int]) -> None:
    rows = range(len(data))
    mask_facts(data, ["square"], rows)
    decoded.clear()
    said = data.info.model_copy(update={"mask_sizes": {"square": (SIDE, SIDE)}})
    mask_facts(Manifest(said, data.table, data.folder), ["square"], rows)
    assert sorted(decoded) == list(rows)
    mask_facts(data, ["square"], rows)
    decoded.clear()
    Image.fromarray(np.zeros((SIDE, SIDE + 2), dtype=np.uint8)).save(data.root / data.locator(5))
    with pytest.raises(EvalfmError, match=r"mask of row 6 has 64 × 64 pixels, its image 64 × 66"):
        mask_facts(data, ["square"], rows).known(5)
    assert decoded == [5]


@pytest.mark.parametrize("content", ["", "[]", '{"a": [1]}', '{"a": ["x", "y", "z", 1, 2, 3]}', "[" * 5000])
def test_a_damaged_memory_is_as_good_as_none(data: Manifest, home: Path, content: str) -> None:
    facts = mask_facts(data, ["square"], [0, 1])
    (sidecar,) = (home / "cache" / "masks").iterdir()
    assert "s0-0" not in sidecar.read_text(), "no names of files"
    sidecar.write_text(content)
    assert mask_facts(data, ["square"], [0, 1]) == facts


def test_facts_of_another_form_are_made_anew(data: Manifest, home: Path) -> None:
    first = mask_facts(data, ["square"], [0, 1, 2])
    (sidecar,) = (home / "cache" / "masks").iterdir()
    for damage in (["7", True], ["7", 1, 1, 1, 1, 1], []):
        kept = json.loads(sidecar.read_text())
        sidecar.write_text(json.dumps({name: [entry[0], *damage] for name, entry in kept.items()}))
        assert mask_facts(data, ["square"], [0, 1, 2]) == first


def test_classification_reads_no_mask_and_a_finished_run_none_again(
    data: Manifest, decoded: list[int], square_seg: str, tmp_path: Path
) -> None:
    bad = data.root / str(data.table["square_mask"].iat[1])
    whole = bad.read_bytes()
    bad.write_bytes(b"no image")
    load_cohort("square", SplitOptions(), data, SILENT)
    assert decoded == []
    with pytest.raises(EvalfmError, match=r"1 fault to fix:\s+row 2: s0-1-mask\.png cannot be read"):
        load_cohort(square_seg, SplitOptions(), data, SILENT)
    bad.write_bytes(whole)
    probe("pixels", square_seg, data=data, heads=["linear"], out=tmp_path / "runs")
    decoded.clear()
    with pytest.warns(UserWarning, match="3 runs are there already"):
        probe("pixels", square_seg, data=data, heads=["linear"], out=tmp_path / "runs")
    assert decoded == []


def test_an_unreadable_mask_of_another_finding_hinders_nothing_but_the_check(data: Manifest) -> None:
    table = data.table.assign(other_mask="nothing.png")
    (data.root / "nothing.png").write_bytes(b"no image")
    info = data.info.model_copy(update={"mask_dialects": {"square": "file", "other": "file"}})
    both = Manifest(info, table, data.folder)
    both.validate(deep=True, findings=["square"])
    with pytest.raises(EvalfmError, match=f"{len(data)} faults"):
        both.validate(deep=True)
