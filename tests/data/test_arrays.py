"""Members of archives: read once, bounded in memory, safe for threads and forked workers."""

from __future__ import annotations

import os
import signal
import time
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


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_unpacked", arrays._Unpacked())


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


def test_what_lies_open_is_mapped_and_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", other=STACK, images=STACK)
    np.save(tmp_path / "stack.npy", STACK)
    for name, member in (("set.npz", "images/1"), ("stack.npy", "1")):
        np.testing.assert_array_equal(item(tmp_path / name, member), STACK[1])
    assert all(isinstance(array, np.memmap) for array in arrays._unpacked._arrays.values())
    assert arrays._unpacked._bytes() == 0


def test_memory_is_bounded_and_the_least_used_goes_first(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CACHE_BYTES", 2 * STACK.nbytes)
    for member in ("a/0", "b/0", "a/0", "c/0"):
        item(packed, member)
    assert [member.name for member in arrays._unpacked._arrays] == ["a", "c"]


def test_a_member_larger_than_memory_allows_goes_to_disk(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CACHE_BYTES", STACK.nbytes - 1)
    np.testing.assert_array_equal(item(packed, "b/4"), STACK[4] + 1)
    np.testing.assert_array_equal(read_array(packed, "b/0").values[0], STACK[0] + 1)
    # On disk, and under no name.
    assert arrays._unpacked._bytes() == 0


def test_a_member_larger_than_the_disk_is_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CACHE_BYTES", STACK.nbytes - 1)
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda _: _Disk(STACK.nbytes))
    with pytest.raises(EvalfmError, match=r"has no room; store the array uncompressed"):
        item(packed, "b/4")


class _Disk:
    def __init__(self, free: int) -> None:
        self.free = free


def test_the_size_needs_the_header_alone(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_load", None)
    assert array_size(packed, "a/1") == (6, 8)


def test_threads_unpack_a_member_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []
    load = arrays._load

    def slow(member: arrays._Member) -> NDArray[Any]:
        loads.append(member)
        time.sleep(0.05)
        return load(member)

    monkeypatch.setattr(arrays, "_load", slow)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: item(packed, f"d/{index % 5}"), range(200)))
    assert len(loads) == 1
    for index, values in enumerate(found):
        np.testing.assert_array_equal(values, STACK[index % 5] + 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_worker_forked_while_another_thread_reads_does_not_hang(packed: Path) -> None:
    # The cache that is registered for forks, not the fixture's.
    cache = arrays._Unpacked()
    os.register_at_fork(after_in_child=cache.renew_lock)
    arrays._unpacked = cache
    item(packed, "a/0")
    with cache._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            right = (item(packed, "a/2") == STACK[2]).all() and (item(packed, "b/2") == STACK[2] + 1).all()
            os._exit(0 if right else 3)
    assert os.waitpid(child, 0)[1] == 0


def test_an_edit_within_the_same_instant_is_seen_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=STACK)
    modified = path.stat().st_mtime_ns
    item(path, "images/0")
    np.savez_compressed(path, images=np.zeros_like(STACK))
    os.utime(path, ns=(modified, modified))
    assert not item(path, "images/0").any()
