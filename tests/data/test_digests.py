from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from evalfm.data import images
from evalfm.data.digests import image_digests


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    (tmp_path / "root").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "root" / name).write_bytes(name.encode())
    return tmp_path / "root"


def test_digests_are_those_of_the_bytes_and_failures_say_why(root: Path) -> None:
    digests = image_digests(["a.png", "b.png", "a.png", "absent.png"], root)
    assert digests.by_locator == {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a.png", "b.png")}
    assert list(digests.failed) == ["absent.png"]
    assert digests.failed["absent.png"]


def test_files_are_read_once_until_they_change(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = images.image_digest

    def counted(locator: str, folder: Path) -> str:
        read.append(locator)
        return original(locator, folder)

    monkeypatch.setattr(images, "image_digest", counted)
    first = image_digests(["a.png", "b.png"], root)
    assert image_digests(["a.png", "b.png"], root) == first
    assert sorted(read) == ["a.png", "b.png"]
    # Same size, another time of change.
    (root / "a.png").write_bytes(b"A.png")
    os.utime(root / "a.png", ns=(1, 1))
    second = image_digests(["a.png", "b.png"], root)
    assert sorted(read) == ["a.png", "a.png", "b.png"]
    assert second.by_locator["a.png"] == hashlib.sha256(b"A.png").hexdigest()


def test_a_damaged_memory_is_read_anew(root: Path, tmp_path: Path) -> None:
    first = image_digests(["a.png"], root)
    (sidecar,) = (tmp_path / "home/cache/digests").iterdir()
    for content in ("{", "[]", '{"a.png": 3}'):
        sidecar.write_text(content)
        assert image_digests(["a.png"], root) == first
