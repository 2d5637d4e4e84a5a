"""Rows are written while the caller goes on; what goes wrong is said, and what was committed stays."""

from __future__ import annotations

import errno
import os
import threading
import time

import numpy as np
import pytest

from evalfm.errors import EvalfmError
from evalfm.features import disk, segment, segment_writer
from evalfm.features.feature_arrays import FeatureArrays, MissingRowsError

posix = pytest.mark.skipif(os.name != "posix", reason="locks and forks of POSIX")


def row(number, values=5):
    return [f"{number}"], [(number, 1)], [np.full((1, values), number, np.float32)]


def stored(folder, count):
    rows = FeatureArrays(folder)
    there = [f"{number}" for number in range(count)]
    absent = set(rows.missing(there))
    kept = [number for number in range(count) if f"{number}" not in absent]
    if kept:
        assert rows.read([f"{number}" for number in kept])[0][:, 0].tolist() == kept
    return kept


@pytest.fixture
def slow_flush(monkeypatch):
    """Flushing waits until it is let go."""
    let_go = threading.Event()
    flush = segment.flush_file

    def wait(file):
        let_go.wait()
        flush(file)

    monkeypatch.setattr(segment, "flush_file", wait)
    return let_go


def test_appending_does_not_wait_for_the_disk(tmp_path, slow_flush):
    with FeatureArrays(tmp_path).writer() as writer:
        for number in range(20):
            writer.append(*row(number))
        assert stored(tmp_path, 20) == []
        slow_flush.set()
    assert stored(tmp_path, 20) == list(range(20))


def test_what_waits_is_bounded_in_bytes(tmp_path, monkeypatch, slow_flush):
    monkeypatch.setattr(segment_writer, "QUEUE_BYTES", 50)
    done = []

    def append(writer):
        for number in range(10):
            writer.append(*row(number))
            done.append(number)

    with FeatureArrays(tmp_path).writer() as writer:
        thread = threading.Thread(target=append, args=(writer,))
        thread.start()
        # The segment cannot be created before flushing goes on: one row is being written and two wait.
        time.sleep(0.2)
        assert len(done) <= 3
        slow_flush.set()
        thread.join()
    assert stored(tmp_path, 10) == list(range(10))


def test_rows_that_are_large_by_themselves_still_go_through(tmp_path, monkeypatch):
    monkeypatch.setattr(segment_writer, "QUEUE_BYTES", 1)
    monkeypatch.setattr(segment_writer, "AHEAD_BYTES", 1)
    monkeypatch.setattr(segment_writer, "COMMIT_BYTES", 1)
    with FeatureArrays(tmp_path).writer() as writer:
        for number in range(5):
            writer.append(*row(number))
    assert stored(tmp_path, 5) == list(range(5))


def test_rows_are_committed_by_bytes_by_seconds_and_on_demand(tmp_path, monkeypatch):
    with FeatureArrays(tmp_path).writer() as writer:
        writer.append(*row(0))
        time.sleep(0.1)
        assert stored(tmp_path, 3) == []
        writer.flush()
        assert stored(tmp_path, 3) == [0]
    monkeypatch.setattr(segment_writer, "COMMIT_SECONDS", 0.05)
    with FeatureArrays(tmp_path).writer() as writer:
        writer.append(*row(1))
        until = time.monotonic() + 10
        while stored(tmp_path, 3) != [0, 1] and time.monotonic() < until:
            time.sleep(0.02)
        assert stored(tmp_path, 3) == [0, 1]
    monkeypatch.setattr(segment_writer, "COMMIT_SECONDS", 1000.0)
    monkeypatch.setattr(segment_writer, "COMMIT_BYTES", 20)
    with FeatureArrays(tmp_path).writer() as writer:
        writer.append(*row(2))
        until = time.monotonic() + 10
        while stored(tmp_path, 3) != [0, 1, 2] and time.monotonic() < until:
            time.sleep(0.02)
        assert stored(tmp_path, 3) == [0, 1, 2]


def test_an_exception_inside_keeps_what_was_committed_and_cuts_off_the_rest(tmp_path):
    def interrupted():
        with FeatureArrays(tmp_path).writer() as writer:
            writer.append(*row(0))
            writer.flush()
            writer.append(*row(1))
            (data,) = tmp_path.glob("*.data")
            while data.stat().st_size < 40:
                time.sleep(0.001)
            raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert threading.active_count() == threads
    assert stored(tmp_path, 2) == [0]
    (data,) = tmp_path.glob("*.data")
    assert data.stat().st_size == 20
    with FeatureArrays(tmp_path).writer() as writer:
        writer.append(*row(1))
    assert stored(tmp_path, 2) == [0, 1]
    assert [path.name for path in tmp_path.glob("*.data")] == [data.name]


def test_an_exception_before_anything_was_committed_leaves_nothing(tmp_path):
    def interrupted():
        with FeatureArrays(tmp_path / "rows").writer() as writer:
            writer.append(*row(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list((tmp_path / "rows").glob("*"))


def test_nothing_is_made_before_rows_are_appended(tmp_path):
    with FeatureArrays(tmp_path / "rows").writer() as writer:
        writer.append([], [], [np.zeros((0, 3), np.float32)])
        writer.flush()
    assert not (tmp_path / "rows").exists()


def test_a_full_segment_has_a_successor(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 100)
    monkeypatch.setattr(segment_writer, "TOGETHER_BYTES", 0)
    for _ in range(2):
        with FeatureArrays(tmp_path).writer() as writer:
            for number in range(22):
                writer.append(*row(number))
            writer.flush()
            assert len(writer.open_segments) == 1
    assert stored(tmp_path, 22) == list(range(22))
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("*.data"))
    # 22 rows of 20 bytes, twice: the second writer goes on with the one that is not full.
    assert sizes == [80] + [100] * 8
    assert not [path for path in tmp_path.glob("*.lock") if disk.FileLock.take(path) is None]


@posix
def test_an_error_in_the_background_is_said_by_the_next_call_or_on_leaving(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rows = FeatureArrays(tmp_path)
    with rows.writer() as writer:
        writer.append(*row(0))
    monkeypatch.setattr(segment, "write_at", full)
    sentence = r"cannot be written \(No space left on device\); free space there.*--maps stream"
    with pytest.raises(EvalfmError, match=sentence), rows.writer() as writer:
        writer.append(*row(1))
    writer = rows.writer()

    def append_until_told():
        for _ in range(10_000):
            writer.append(*row(1))
            time.sleep(0.001)

    for call in (append_until_told, writer.flush):
        with pytest.raises(EvalfmError, match=sentence):
            call()
    monkeypatch.undo()
    # It does not go on as if nothing had been.
    with pytest.raises(EvalfmError, match=sentence):
        writer.append(*row(1))
    with pytest.raises(EvalfmError, match=sentence):
        writer.__exit__(None, None, None)
    assert stored(tmp_path, 2) == [0]
    with rows.writer() as again:
        again.append(*row(1))
    assert stored(tmp_path, 2) == [0, 1]
    assert len(list(tmp_path.glob("*.index"))) == 1


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "rows").write_text("no folder")
    with pytest.raises(EvalfmError, match="cannot be written"), FeatureArrays(tmp_path / "rows").writer() as writer:
        writer.append(*row(0))


def test_a_store_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    with FeatureArrays(tmp_path).writer() as writer:
        for number in range(2):
            writer.append(*row(number))
    (data,) = tmp_path.glob("*.data")
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(bytes(content))
    opened = os.open

    def read_only(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    rows = FeatureArrays(tmp_path)
    assert rows.missing(["0", "1", "2"]) == ["2"]
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(MissingRowsError):
        rows.read(["0", "1"])
    assert rows.read(["1"])[0][0, 0] == 1
    with pytest.raises(EvalfmError, match="Read-only file system"), rows.writer() as writer:
        writer.append(*row(0))


@posix
def test_where_locks_belong_to_processes_two_writers_of_one_still_keep_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    for first in (0, 2):
        with FeatureArrays(tmp_path).writer() as one, FeatureArrays(tmp_path).writer() as other:
            one.append(*row(first))
            one.flush()
            other.append(*row(first + 1))
            other.flush()
    assert len(list(tmp_path.glob("*.index"))) == 2
    assert stored(tmp_path, 4) == [0, 1, 2, 3]


@posix
def test_where_locks_fail_each_writer_has_a_segment_of_its_own(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with FeatureArrays(tmp_path).writer() as writer:
        writer.append(*row(0))
    monkeypatch.setattr("fcntl.flock", no_locks)
    for number in (1, 2):
        with FeatureArrays(tmp_path).writer() as writer:
            writer.append(*row(number))
    assert len(list(tmp_path.glob("*.index"))) == 3
    monkeypatch.undo()
    # Whoever has locks does not know whether those that had none are at work.
    with FeatureArrays(tmp_path).writer() as writer:
        writer.append(*row(3))
    assert len(list(tmp_path.glob("*.index"))) == 3
    assert len(list(tmp_path.glob("*.lock"))) == 1
    assert stored(tmp_path, 4) == [0, 1, 2, 3]


def test_a_segment_of_another_machine_is_taken_over_only_where_its_writer_has_ended(tmp_path, monkeypatch):
    def session(name, number, end):
        monkeypatch.setattr(segment, "machine", lambda: name)
        with FeatureArrays(tmp_path).writer() as writer:
            writer.append(*row(number))
            writer.flush()
            if not end:
                for each in writer.open_segments:
                    each.abandon()

    session("aaaaaaaaaaaa", 0, True)
    session("bbbbbbbbbbbb", 1, False)
    assert len(list(tmp_path.glob("*.index"))) == 1
    session("aaaaaaaaaaaa", 2, True)
    assert len(list(tmp_path.glob("*.index"))) == 2
    session("bbbbbbbbbbbb", 3, True)
    assert len(list(tmp_path.glob("*.index"))) == 2
    assert stored(tmp_path, 4) == [0, 1, 2, 3]


def test_a_clock_that_is_wrong_changes_nothing(tmp_path, monkeypatch):
    for number, now in enumerate((4e9, 0.0, 2e9)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with FeatureArrays(tmp_path).writer() as writer:
            writer.append(*row(number))
        for path in tmp_path.iterdir():
            os.utime(path, (now, now))
    assert stored(tmp_path, 3) == [0, 1, 2]
    assert len(list(tmp_path.glob("*.index"))) == 1


def test_what_died_before_it_was_published_is_removed_and_the_living_are_not(tmp_path):
    for name in ("dead", "living"):
        for suffix in (".lock", ".data"):
            (tmp_path / f"{name}{suffix}").write_bytes(b"half")
    (tmp_path / ".writing-dead.index").write_bytes(b"half")
    lock = disk.FileLock.take(tmp_path / "living.lock")
    with FeatureArrays(tmp_path).writer() as writer:
        writer.append(*row(0))
    lock.release()
    left = {path.name for path in tmp_path.iterdir()}
    assert {"living.lock", "living.data"} < left
    assert not [name for name in left if "dead" in name]


def test_arrays_that_do_not_go_with_the_addresses_are_refused(tmp_path):
    with FeatureArrays(tmp_path).writer() as writer:
        with pytest.raises(ValueError, match="2 addresses, 1 sizes"):
            writer.append(["a", "b"], [(1, 1)], [np.zeros((2, 3), np.float32)])
        with pytest.raises(ValueError, match="rows"):
            writer.append(["a"], [(1, 1)], [np.zeros((2, 3), np.float32)])


@posix
def test_a_forked_process_cannot_write_and_does_not_disturb(tmp_path):
    with FeatureArrays(tmp_path).writer() as writer:
        writer.append(*row(0))
        writer.flush()
        process = os.fork()
        if process == 0:
            try:
                writer.append(*row(1))
            except RuntimeError:
                writer.__exit__(None, None, None)
                for each in writer.open_segments:
                    each.abandon()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
        # The lock is still held.
        with FeatureArrays(tmp_path).writer() as other:
            other.append(*row(2))
        writer.append(*row(3))
    assert len(list(tmp_path.glob("*.index"))) == 2
    assert stored(tmp_path, 4) == [0, 2, 3]
