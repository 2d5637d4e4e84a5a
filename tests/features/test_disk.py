"""Files at the system's own level: what is there now, also where a file system shows what was there before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evalfm.features import disk
from evalfm.features.disk import names_in, status_of


def test_names_come_with_the_number_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    os.link(tmp_path / "one", tmp_path / "two")
    (tmp_path / "three").touch()
    found = names_in(tmp_path)
    assert found == {name: (tmp_path / name).stat().st_ino for name in ("one", "two", "three")}
    assert found["one"] == found["two"]
    assert names_in(tmp_path / "nowhere") == {}


def test_a_fresh_look_changes_the_folder_first_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a network file system, which lists a folder anew once this machine has changed it."""
    steps: list[str] = []
    scandir, unlink, open_file = os.scandir, os.unlink, disk.open_file

    def opened(path: Path, **keywords: bool) -> int:
        steps.append("open")
        return open_file(path, **keywords)

    def listed(path: Path):
        steps.append("list")
        return scandir(path)

    def removed(path: Path) -> None:
        steps.append("unlink")
        unlink(path)

    monkeypatch.setattr(disk, "open_file", opened)
    monkeypatch.setattr(os, "scandir", listed)
    monkeypatch.setattr(os, "unlink", removed)
    (tmp_path / "one").touch()
    assert list(names_in(tmp_path)) == ["one"]
    assert steps == ["list"]
    steps.clear()
    assert list(names_in(tmp_path, fresh=True)) == ["one"]
    assert steps == ["open", "unlink", "list"]
    steps.clear()
    assert status_of(tmp_path / "one").st_size == 0
    assert steps == []
    assert status_of(tmp_path / "one", fresh=True).st_size == 0
    assert steps == ["open"]


def test_a_folder_that_cannot_be_written_is_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise PermissionError

    (tmp_path / "one").touch()
    monkeypatch.setattr(disk, "open_file", refused)
    assert list(names_in(tmp_path, fresh=True)) == ["one"]
    assert names_in(tmp_path / "nowhere", fresh=True) == {}
