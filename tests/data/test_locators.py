from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from evalfm.data.locators import file_of, locator_faults


def test_what_is_there_passes(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    for name in ("a.png", "deep/er/b.png", "deep/set.npz"):
        (tmp_path / name).touch()
    (tmp_path / "deep/link.png").symlink_to(tmp_path / "a.png")
    good = ["a.png", "deep/er/b.png", "deep/set.npz#images/0", "deep/set.npz#images/1", "deep/link.png"]
    assert locator_faults(good, tmp_path) == {}
    assert file_of("deep/set.npz#images/0") == "deep/set.npz"


@pytest.mark.parametrize(
    ("locator", "reason"),
    [
        ("b.png", "is not there"),
        ("A.png", "is not there"),
        ("absent/a.png", "no folder 'absent'"),
        ("/a.png", "absolute"),
        ("C:/a.png", "absolute"),
        ("\\\\share\\a.png", "absolute"),
        ("../a.png", r"`\.\.` is not allowed"),
        ("deep/../a.png", r"`\.\.` is not allowed"),
        ("..\\a.png", r"`\.\.` is not allowed"),
        ("#images/0", "names no file"),
        ("a\0.png", "zero byte"),
        ("out/secret.png", "symbolic link"),
        ("secret.png", "symbolic link"),
        ("broken.png", "leads to no file"),
        ("circle.png", "leads to no file"),
        ("circle.png/a.png", "no folder"),
        ("folder.png", "not a file"),
        ("pipe.png", "not a file"),
        ("to-pipe.png", "leads to no file"),
        ("a" * 5000, "is not there"),
        ("a" * 5000 + "/a.png", "no folder"),
        ("\udcff.png", "not UTF-8"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, locator: str, reason: str) -> None:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "a.png").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.png").touch()
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "secret.png").symlink_to(tmp_path / "outside/secret.png")
    (root / "broken.png").symlink_to(root / "gone.png")
    (root / "circle.png").symlink_to("circle.png")
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    (root / "to-pipe.png").symlink_to("pipe.png")
    faults = locator_faults([locator], root)
    assert list(faults) == [locator]
    assert re.search(reason, faults[locator])
