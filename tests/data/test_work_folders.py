"""Folders put in the place of others, in one step or in two."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evalfm.data import work_folders
from evalfm.data.work_folders import replace


def make(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / content).write_text(content)
    return folder


@pytest.fixture(params=["in one step", "in two steps"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in two steps":
        monkeypatch.setattr(work_folders, "_exchanged", lambda one, other: False)


@pytest.mark.usefixtures("steps")
def test_a_folder_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    work, final = make(tmp_path / "work" / "1", "new"), make(tmp_path / "final", "old")
    replace(work, final)
    assert [path.name for path in final.iterdir()] == ["new"]
    assert list((tmp_path / "work").iterdir()) == []


def test_two_steps_cope_with_a_folder_that_vanishes_or_comes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = make(tmp_path / "final", "old")
    meanwhile = [lambda: shutil.rmtree(final), lambda: make(final, "of another process"), lambda: None]

    def not_exchanged(one: Path, other: Path) -> bool:
        if len(meanwhile) == 3:
            meanwhile.pop(0)()
        return False

    plain = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target == final and len(meanwhile) == 2:
            meanwhile.pop(0)()
        return plain(self, target)

    monkeypatch.setattr(work_folders, "_exchanged", not_exchanged)
    monkeypatch.setattr(Path, "rename", rename)
    replace(make(tmp_path / "work" / "1", "new"), final)
    assert [path.name for path in final.iterdir()] == ["new"]
    assert list((tmp_path / "work").iterdir()) == []
    assert len(meanwhile) == 1
