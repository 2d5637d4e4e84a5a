"""Paths from users and files: one form, or one sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import yaml

from evalfm.data.manifest import Manifest, find_folder
from evalfm.data.registered import home_folder
from evalfm.errors import EvalfmError
from evalfm.paths import input_file, text_fault, user_path
from evalfm.publishing import check_writable

pytestmark = pytest.mark.skipif(os.name != "posix", reason="users, links and pipes as POSIX has them")


def test_a_home_is_written_in_full_and_a_relative_path_starts_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a/b") == tmp_path / "a/b"
    assert user_path("~/a", beside=Path("/elsewhere")) == tmp_path / "a"
    assert user_path("a/~b", beside=tmp_path) == tmp_path / "a/~b"
    assert user_path("./~nosuchuser") == Path("~nosuchuser")
    assert user_path(Path("a") / ".." / "b") == Path("a/../b")
    assert user_path("ä" * 127) == Path("ä" * 127)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("~nosuchuser/x", "a user who has no home here"),
        ("a\0b", "zero byte"),
        ("a\udcff", "not UTF-8"),
        ("\ud800b", "not UTF-8"),
        ("a" * 256, "more than 255 bytes"),
        ("ä" * 128, "more than 255 bytes"),
        ("/".join(["a" * 200] * 30), "cannot be reached"),
    ],
)
def test_what_is_no_path_is_told_in_a_short_sentence_with_its_name(text: str, said: str) -> None:
    with pytest.raises(EvalfmError, match=said) as caught:
        user_path(text, "--where")
    assert str(caught.value).startswith("--where ")
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()


def test_circles_and_closed_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(EvalfmError, match="cannot be reached"):
        user_path(tmp_path / "circle" / "x")

    def closed(*_: object, **__: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # The superuser enters every folder: what others meet.
    monkeypatch.setattr(Path, "stat", closed)
    for ask in (user_path, input_file):
        with pytest.raises(EvalfmError, match="cannot be reached \\(Permission denied\\)"):
            ask(tmp_path / "a")


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert input_file(tmp_path / "link") == tmp_path / "link"
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("", "is a folder"), ("pipe", "pipe or device"), ("no", "no file"), ("file/x", "no file")):
        with pytest.raises(EvalfmError, match=said):
            input_file(tmp_path / name)
    with pytest.raises(EvalfmError, match="pipe or device"):
        input_file(Path("/dev/zero"))


def test_text_of_any_language_is_text() -> None:
    assert text_fault("Röntgen/胸部/🩻.png") is None


@pytest.mark.parametrize("value", ["~nosuchuser/x", "a" * 300, "{file}", "/dev/null", "{circle}"])
def test_a_home_of_evalfm_that_cannot_be_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.setenv("EVALFM_HOME", value.format(file=tmp_path / "file", circle=tmp_path / "circle"))
    with pytest.raises(EvalfmError, match=r"^EVALFM_HOME "):
        home_folder()


def test_an_empty_home_of_evalfm_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EVALFM_HOME", "")
    assert home_folder() == tmp_path / ".evalfm"


@pytest.mark.parametrize("root", ["~nosuchuser", "~nosuchuser/films", "a\0b", "a" * 300, "circle"])
def test_a_root_that_cannot_be_is_told(tmp_path: Path, root: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "manifest.csv").write_text("id,image\na,a.png\n")
    facts = {"schema": 1, "name": "one", "root": root}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(facts))
    with pytest.raises(EvalfmError, match=r"[Rr]oot |is not"):
        Manifest.read(tmp_path)
    with pytest.raises(EvalfmError, match=r"^The root "):
        _ = Manifest.read(tmp_path, validate=False).root


def test_a_root_may_be_empty_or_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "a.png").touch()
    (tmp_path / "set" / "manifest.csv").write_text("id,image\na,a.png\n")
    for root, place in (("''", "set"), (".", "set"), ("..", "."), ("'~'", ".")):
        (tmp_path / "set" / "dataset.yaml").write_text(f"schema: 1\nname: one\nroot: {root}\n")
        found = Manifest.read(tmp_path / "set", validate=False).root
        assert found == (tmp_path / place).resolve()
    assert find_folder("~/set") == tmp_path / "set"


def test_a_folder_of_runs_is_asked_for_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loose").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "new" / "er")
    for name in ("file", "file/x", "loose", "pipe", "pipe/x"):
        with pytest.raises(EvalfmError, match=r"is (a file|no folder).*--csv"):
            check_writable(tmp_path / name, "--csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loose", "pipe"]
