"""Members of archives: read once, bounded in memory, safe for threads and forked workers."""

from __future__ import annotations

import os
import signal
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evalfm.data import arrays
from evalfm.data.arrays import array_size, item, read_array
from evalfm.errors import EvalfmError

STACK: NDArray[np.uint16] = np.random.default_rng(0).integers(0, 65536, (5, 6, 8), dtype=np.uint16)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    np.savez_compressed(tmp_path / "set.npz", **{name: STACK + index for index, name in enumerate("abcd")})
    return tmp_path / "set.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_members_in_any_order(tmp_path: Path, save: Any, order: Any, dtype: str) -> None:
    save(tmp_path / "set.npz", images=np.asarray(STACK, dtype, order=order))
    stored = read_array(tmp_path / "set.npz", "images/3")
    np.testing.assert_array_equal(stored.values, STACK[3][None])
    assert stored.values.dtype == np.uint16
    assert stored.values.dtype.isnative


def test_names_with_slashes(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **{"train/images": STACK, "train/7": STACK[0]})
    np.testing.assert_array_equal(item(tmp_path / "set.npz", "train/images/2"), STACK[2])
    np.testing.assert_array_equal(item(tmp_path / "set.npz", "train/7"), STACK[0])


def whole(values: NDArray[Any]) -> NDArray[Any]:
    """The array that ``values`` are a view of."""
    while isinstance(values.base, np.ndarray):
        values = values.base
    return values


def test_what_lies_open_is_mapped_and_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", other=STACK, images=STACK)
    np.save(tmp_path / "stack.npy", STACK)
    for name, member in (("set.npz", "images/1"), ("stack.npy", "1")):
        values = item(tmp_path / name, member)
        np.testing.assert_array_equal(values, STACK[1])
        assert isinstance(whole(values), np.memmap)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The members of archives that are opened from here on, in order."""
    names: list[str] = []
    plain = zipfile.ZipFile.open

    def recorded(self: zipfile.ZipFile, info: zipfile.ZipInfo, *arguments: Any, **options: Any) -> Any:
        names.append(info.filename)
        return plain(self, info, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", recorded)
    return names


def test_memory_is_bounded_and_the_least_used_goes_first(
    packed: Path, monkeypatch: pytest.MonkeyPatch, unpacked: list[str]
) -> None:
    monkeypatch.setattr(arrays, "CACHE_BYTES", 2 * STACK.nbytes)
    for member in ("a/0", "b/0", "a/0", "c/0"):
        item(packed, member)
    unpacked.clear()
    for member in ("a/0", "c/0", "b/0"):
        item(packed, member)
    assert unpacked == ["b.npy"]


def test_a_member_larger_than_memory_allows_goes_to_disk(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CACHE_BYTES", STACK.nbytes - 1)
    values = item(packed, "b/4")
    np.testing.assert_array_equal(values, STACK[4] + 1)
    np.testing.assert_array_equal(read_array(packed, "b/0").values[0], STACK[0] + 1)
    # On disk, and under no name.
    assert isinstance(whole(values), np.memmap)


def test_a_member_larger_than_the_disk_is_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CACHE_BYTES", STACK.nbytes - 1)
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda _: _Disk(STACK.nbytes))
    with pytest.raises(EvalfmError, match=r"has no room; store the array uncompressed"):
        item(packed, "b/4")


class _Disk:
    def __init__(self, free: int) -> None:
        self.free = free


def test_the_size_needs_the_header_alone(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", a=np.tile(STACK, (1, 20, 20)))
    with zipfile.ZipFile(tmp_path / "set.npz") as archive:
        info = archive.getinfo("a.npy")
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[info.header_offset + info.compress_size] ^= 255
    (tmp_path / "set.npz").write_bytes(content)
    assert array_size(tmp_path / "set.npz", "a/1") == (120, 160)
    with pytest.raises(EvalfmError, match="damaged"):
        item(tmp_path / "set.npz", "a/1")


def test_threads_unpack_a_member_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array_size(packed, "d/0")
    plain, names_read = zipfile.ZipFile.open, list[str]()

    def slow(self: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
        names_read.append(info.filename)
        time.sleep(0.05)
        return plain(self, info)

    monkeypatch.setattr(zipfile.ZipFile, "open", slow)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda index: item(packed, f"d/{index % 5}"), range(200)))
    # The header had been read before.
    assert names_read == ["d.npy"]
    for index, values in enumerate(read):
        np.testing.assert_array_equal(values, STACK[index % 5] + 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_worker_forked_while_another_thread_reads_does_not_hang(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for member in "abd":
        array_size(packed, f"{member}/0")
    item(packed, "a/0")
    plain, reading, forked = zipfile.ZipFile.open, threading.Event(), threading.Event()

    def waiting(self: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
        if info.filename == "d.npy":
            reading.set()
            forked.wait(10)
        return plain(self, info)

    monkeypatch.setattr(zipfile.ZipFile, "open", waiting)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(item, packed, "d/0")
        assert reading.wait(10)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            right = (item(packed, "a/2") == STACK[2]).all() and (item(packed, "b/2") == STACK[2] + 1).all()
            os._exit(0 if right else 3)
        assert os.waitpid(child, 0)[1] == 0
        forked.set()
        np.testing.assert_array_equal(other.result(), STACK[0] + 3)


def test_an_edit_within_the_same_instant_is_seen_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=STACK)
    modified = path.stat().st_mtime_ns
    item(path, "images/0")
    np.savez_compressed(path, images=np.zeros_like(STACK))
    os.utime(path, ns=(modified, modified))
    assert not item(path, "images/0").any()
