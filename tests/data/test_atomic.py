"""Files are whole or not there, and what is no plain file is never replaced by one."""

from __future__ import annotations

import csv
import errno
import io
import os
import select
import socket
import stat
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data import atomic
from evalfm.data.atomic import check_writable_file, csv_text, harmless, new_file, write_atomically
from evalfm.errors import EvalfmError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and modes as POSIX has them")


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_with_its_folders(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a/b/c.txt", b"one")
    write_atomically(tmp_path / "a/b/c.txt", b"two")
    assert (tmp_path / "a/b/c.txt").read_bytes() == b"two"
    assert entries(tmp_path / "a/b") == ["c.txt"]


def test_a_name_may_be_as_long_as_a_name_can_be(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("ä" * 127), b"one")
    assert (tmp_path / ("ä" * 127)).read_bytes() == b"one"


def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new", b"")
        (tmp_path / "private").touch(mode=0o600)
        (tmp_path / "private").chmod(0o600)
        write_atomically(tmp_path / "private", b"secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("folder/target")
    (tmp_path / "link to link").symlink_to("link")
    write_atomically(tmp_path / "link to link", b"new")
    assert (tmp_path / "link to link").is_symlink()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder/target").read_bytes() == b"new"
    (tmp_path / "loose").symlink_to("folder/not yet")
    write_atomically(tmp_path / "loose", b"made")
    assert (tmp_path / "loose").is_symlink()
    assert (tmp_path / "folder/not yet").read_bytes() == b"made"
    assert entries(tmp_path / "folder") == ["not yet", "target"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "replace", full)
    with pytest.raises(EvalfmError, match=r"cannot be written.*No space left"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert entries(tmp_path) == ["a"]


def test_devices_are_written_to_and_stay_devices(tmp_path: Path) -> None:
    # A device of our own where we may make one: a faulty version would replace the machine's.
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.open("wb").close()
    except OSError:
        pytest.skip("no device can be made here")
    check_writable_file(device)
    write_atomically(device, b"content")
    assert stat.S_ISCHR(device.stat().st_mode)
    (tmp_path / "link").symlink_to(device)
    write_atomically(tmp_path / "link", b"content")
    assert stat.S_ISCHR(device.stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    assert entries(tmp_path) == ["link", "null"]


def test_a_pipe_is_written_to_where_somebody_reads_and_reported_where_nobody_does(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EvalfmError, match="cannot be written"):
        write_atomically(tmp_path / "pipe", b"content")
    content = os.urandom(300_000)
    got: list[bytes] = []
    handle = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)

    def read() -> None:
        # A pipe that nobody has opened to write yet reads as if it had ended.
        select.select([handle], [], [], 60)
        with os.fdopen(handle, "rb") as stream:
            got.append(stream.read())

    reader = threading.Thread(target=read)
    write = threading.Thread(target=write_atomically, args=(tmp_path / "pipe", content))
    write.start()
    reader.start()
    write.join(60)
    reader.join(60)
    assert got == [content]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_file_without_a_name_is_written_through(tmp_path: Path) -> None:
    # As /dev/stdout is, where it leads to a file that was removed.
    with (tmp_path / "gone").open("w+b") as stream:
        (tmp_path / "gone").unlink()
        write_atomically(Path(f"/dev/fd/{stream.fileno()}"), b"content")
        stream.seek(0)
        assert stream.read() == b"content"
    assert entries(tmp_path) == []


def test_folders_sockets_and_circles_are_refused_before_and_when_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    with socket.socket(socket.AF_UNIX) as made:
        place = os.getcwd()
        os.chdir(tmp_path)
        try:
            made.bind("socket")
        finally:
            os.chdir(place)
        for name in ("folder", "socket", "circle", "folder/../circle/x"):
            for ask in (check_writable_file, lambda path: write_atomically(path, b"")):
                with pytest.raises(EvalfmError, match="written"):
                    ask(tmp_path / name)
    assert entries(tmp_path) == ["circle", "folder", "socket"]


def test_a_file_that_could_not_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable_file(tmp_path / "new")
    (tmp_path / "loose").symlink_to("nowhere/file")
    for name in ("nowhere/file", "loose"):
        with pytest.raises(EvalfmError, match="folder that is there"):
            check_writable_file(tmp_path / name)
    # The superuser may write everywhere: what others are told.
    monkeypatch.setattr(atomic.os, "access", lambda *_: False)
    with pytest.raises(EvalfmError, match="no permission"):
        check_writable_file(tmp_path / "new")
    assert entries(tmp_path) == ["loose"]


RUN = [
    "=1+1",
    '=HYPERLINK("http://a","b")',
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    " =1",
    "\t=1",
    "\tx",
    "\rx",
    "\nx",
]
RUN += ['"=1"', "'=1", ' "=1', "\xa0=1", "＝1+1", "－a", "-x", "--", "+1-1", "-1.5.2", "=\n1", "\x00=1", "-0x1F"]
KEPT = [
    "-1.5",
    "+2",
    "-1e-05",
    "-.5",
    "1",
    "x=1",
    "a-b",
    "p@q",
    "",
    "-",
    "–",
    "0.5 [0.4, 0.6]",
    "‹x›",
    "é",
    " x",
    '"x"',
]


@pytest.mark.parametrize("text", RUN)
def test_what_would_be_run_gets_an_apostrophe_in_cells_and_headings(text: str) -> None:
    assert harmless(text) == f"'{text}"
    ((heading,), (cell,)) = csv.reader(io.StringIO(csv_text([text], [[text]]), newline=""))
    assert heading == cell == f"'{text}".replace("\r", "\n")


def test_no_cell_ends_its_row() -> None:
    text = csv_text(["a", "b"], [["x\r=1", "y"], ["x\r\n=1", "y"], ["x\n=1", "y"]])
    assert "\r" not in text
    assert list(csv.reader(io.StringIO(text, newline="")))[1:] == [["x\n=1", "y"]] * 3


@pytest.mark.parametrize("text", KEPT)
def test_numbers_and_plain_words_stay(text: str) -> None:
    assert harmless(text) == text


def test_every_digit_is_kept_and_what_is_unknown_is_empty() -> None:
    values = [-0.1, 1 / 3, -1e-300, 2**60, True, None, float("nan"), np.float64(-0.25), np.int64(-3), "-1.5"]
    read = pd.read_csv(io.StringIO(csv_text(list("abcdefghij"), [values])))
    assert read.iloc[0].tolist()[:5] == [-0.1, 1 / 3, -1e-300, 2**60, True]
    assert read.iloc[0][["f", "g"]].isna().all()
    assert read.iloc[0][["h", "i", "j"]].tolist() == [-0.25, -3, -1.5]


def test_a_formula_behind_letters_of_no_width_is_no_formula():
    # A spreadsheet takes the first of them at the start of a file for its byte order mark.
    for hidden in ("\ufeff", "\u200b", "\u2060 "):
        assert harmless(f"{hidden}=1+1") == f"'{hidden}=1+1"


def write_some(path: Path, content: bytes, error: Exception | None = None) -> None:
    """Write a large file, with an error in the middle of it."""
    before = path.read_bytes() if path.exists() else None
    with new_file(path) as place:
        place.write_bytes(content)
        assert (path.read_bytes() if path.exists() else None) == before
        if error is not None:
            raise error


def test_a_large_file_appears_whole_and_only_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with pytest.raises(ZeroDivisionError):
        write_some(path, b"half", ZeroDivisionError())
    assert (path.read_bytes(), entries(tmp_path)) == (b"old", ["large"])
    write_some(path, b"new")
    assert (path.read_bytes(), entries(tmp_path)) == (b"new", ["large"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_large_file_takes_the_place_of_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/target")
    with new_file(tmp_path / "link") as place:
        place.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder/target").read_bytes() == b"new"
    assert entries(tmp_path / "folder") == ["target"]


def test_a_disk_that_is_full_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EvalfmError, match=r"large cannot be written \(No space left on device\); free space"):
        write_some(tmp_path / "large", b"half", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert entries(tmp_path) == []
    with pytest.raises(EvalfmError, match="cannot be written"):
        write_some(tmp_path / "nowhere/large", b"")
