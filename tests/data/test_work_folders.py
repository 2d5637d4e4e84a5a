"""Folders put in the place of others, in one step or in two."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evalfm.data import work_folders
from evalfm.data.work_folders import (
    WRITING,
    adopt,
    is_gone,
    machine,
    process_start,
    recover,
    remove_stale,
    remove_unfinished,
    replace,
)


def make(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / content).write_text(content)
    return folder


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system whose C library exchanges no folders."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)


@pytest.fixture(params=["in one step", "in two steps"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in two steps":
        without_exchange(monkeypatch)


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

    def library(name: str | None) -> None:
        if len(meanwhile) == 3:
            meanwhile.pop(0)()

    plain = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target == final and len(meanwhile) == 2:
            meanwhile.pop(0)()
        return plain(self, target)

    # The system is asked for an exchange first, which its C library does not have.
    monkeypatch.setattr(ctypes, "CDLL", library)
    monkeypatch.setattr(Path, "rename", rename)
    replace(make(tmp_path / "work" / "1", "new"), final)
    assert [path.name for path in final.iterdir()] == ["new"]
    assert list((tmp_path / "work").iterdir()) == []
    assert len(meanwhile) == 1


def test_what_a_killed_replacement_moved_aside_comes_back_or_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_exchange(monkeypatch)
    plain = Path.rename
    for stop, expected in ((1, "old"), (2, "new")):
        here = tmp_path / str(stop)
        work, final = make(here / "work" / "1", "new"), make(here / "final", "old")
        done = 0

        def rename(self: Path, target: Path, stop: int = stop) -> Path:
            nonlocal done
            result, done = plain(self, target), done + 1
            if done == stop:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(Path, "rename", rename)
        # As a kill would: nothing is tidied up.
        monkeypatch.setattr(work_folders, "recover", lambda final, beside: None)
        with pytest.raises(KeyboardInterrupt):
            replace(work, final)
        monkeypatch.undo()
        without_exchange(monkeypatch)
        for _ in range(2):
            recover(final, here / "work")
            assert [path.name for path in final.iterdir()] == [expected]
            assert not list((here / "work").glob(".earlier*"))


DEAD = f"{WRITING}{machine()}-999999999-{'0' * 32}"


def age(folder: Path, days: float) -> None:
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (time.time() - days * 86400,) * 2)


@pytest.mark.skipif(os.name != "posix", reason="asks for the process by a signal")
def test_work_of_dead_processes_goes_at_once_and_what_may_be_adopted_after_a_week(tmp_path: Path) -> None:
    alone = make(tmp_path / DEAD, "a")
    fresh, old = make(tmp_path / f"training-1{DEAD}", "a"), make(tmp_path / f"training-2{DEAD}", "a")
    alike = make(tmp_path / f"notes{WRITING}my-thesis", "a")
    age(fresh, 6)
    age(old, 8)
    age(alike, 99)
    remove_stale(tmp_path)
    assert [folder.exists() for folder in (alone, fresh, old, alike)] == [False, True, False, True]
    own = adopt(tmp_path, "training-1")
    assert (own / "a").exists()
    remove_unfinished(tmp_path, "training-*")
    assert own.exists()
    finished = make(tmp_path / f"training-3{DEAD}", "a")
    remove_unfinished(tmp_path, "training-*")
    assert not finished.exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no proc(5)")
def test_a_process_is_known_by_its_number_and_its_start() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = process_start(process.pid)
    assert int(start) >= int(process_start(os.getpid()))
    assert not is_gone(process.pid, start)
    assert not is_gone(process.pid, "")
    assert is_gone(process.pid, str(int(start) + 1))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    # Its parent has not asked for its end yet.
    assert is_gone(process.pid, start)
    process.communicate()
    assert is_gone(process.pid, start)
    assert process_start(process.pid) == ""


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_a_process_is_not_gone_because_nobody_tells_when_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_folders, "PROCESSES", tmp_path)
    assert process_start(os.getpid()) == ""
    assert not is_gone(os.getpid(), "1")
    assert is_gone(2**30, "")

    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert not is_gone(2**30, "")
