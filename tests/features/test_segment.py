"""A segment names no row before its bytes are on the disk, and is written by one writer at a time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from evalfm.features import disk, segment, segment_format
from evalfm.features.segment import Extent, open_segment
from evalfm.features.segment_format import ENTRY, ArrayLayout

LAYOUT = (ArrayLayout((4,), "<f4"),)
FACTS = {"path": "float32-cpu"}


def append(opened, count=1):
    content = np.arange(4 * count, dtype=np.float32)
    entries = np.zeros(count, ENTRY)
    entries["offset"] = opened.append([disk.raw(content)]) + 16 * np.arange(count)
    return {LAYOUT: entries}


@pytest.mark.skipif(sys.platform != "linux", reason="the calls of Linux")
def test_bytes_are_on_the_disk_before_anything_names_them(tmp_path, monkeypatch):
    calls, files = [], {}
    opened = os.open

    def open_(path, flags, *arguments, **options):
        file = opened(path, flags, *arguments, **options)
        files[file] = "folder" if Path(path).is_dir() else Path(path).suffix
        return file

    monkeypatch.setattr(os, "open", open_)

    def tap(name):
        call = getattr(os, name)

        def tapped(*arguments):
            calls.append(name if name == "rename" else f"{name} {files[arguments[0]]}")
            return call(*arguments)

        monkeypatch.setattr(os, name, tapped)

    for name in ("pwritev", "fdatasync", "fsync", "rename"):
        tap(name)
    written = open_segment(tmp_path, FACTS, {})
    created = ["pwritev .index", "fdatasync .index", "rename", "fsync folder"]
    assert calls == created
    rows = append(written)
    written.commit(rows)
    committed = ["pwritev .data", "fdatasync .data", "pwritev .index", "fdatasync .index"]
    assert calls == created + committed
    written.close()
    assert calls == [*created, *committed, "pwritev .index", "fdatasync .index"]


def test_one_writer_at_a_time_and_the_next_goes_on(tmp_path):
    first = open_segment(tmp_path, FACTS, {})
    second = open_segment(tmp_path, FACTS, {})
    assert first.name != second.name
    first.commit(append(first))
    second.commit(append(second, 3))
    first.close()
    third = open_segment(tmp_path, FACTS, {})
    assert (third.name, third.start) == (first.name, 16)
    third.close()
    second.close()
    assert sorted(open_segment(tmp_path, FACTS, {}).name for _ in range(2)) == sorted([first.name, second.name])


def test_what_is_known_of_a_segment_is_not_read_again(tmp_path, monkeypatch):
    first = open_segment(tmp_path, FACTS, {})
    first.commit(append(first))
    first.close()
    again = open_segment(tmp_path, FACTS, {})
    index = (tmp_path / f"{first.name}.index").stat().st_size
    known = Extent(index, 16, "", True, '{"path": "float32-cpu"}')
    again.close()
    monkeypatch.setattr(segment_format, "read_at", lambda *_: pytest.fail("read"))
    assert open_segment(tmp_path, FACTS, {first.name: known}).start == 16


def test_a_segment_whose_data_were_cut_off_gets_no_more_rows(tmp_path):
    first = open_segment(tmp_path, FACTS, {})
    first.commit(append(first, 2))
    first.close()
    with (tmp_path / f"{first.name}.data").open("r+b") as file:
        file.truncate(20)
    assert open_segment(tmp_path, FACTS, {}).name != first.name


def test_a_full_segment_gets_no_more_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 32)
    first = open_segment(tmp_path, FACTS, {})
    first.commit(append(first, 2))
    first.close()
    assert open_segment(tmp_path, FACTS, {}).name != first.name


def test_a_lock_is_held_by_one_and_let_go(tmp_path):
    path = tmp_path / "lock"
    assert disk.FileLock.take(path) is None
    lock = disk.FileLock.take(path, new=True)
    assert lock is not None
    assert disk.FileLock.take(path) is None
    lock.release()
    again = disk.FileLock.take(path)
    assert again is not None
    # Letting go twice takes nothing from the next.
    lock.release()
    assert disk.FileLock.take(path) is None
    again.release()
