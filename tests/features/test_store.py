"""Rows come back as they were written, or count as absent."""

from __future__ import annotations

import os
import time
import warnings

import numpy as np
import pytest
import torch

from evalfm.data.work_folders import STALE_SECONDS, WRITING, machine, remove_stale
from evalfm.errors import EvalfmError
from evalfm.features import chunks
from evalfm.features.chunks import ChunkWriter, chunk_name
from evalfm.features.store import FeatureStore, Rows, default_budget

SIZES = [(5, 7), (6, 8), (9, 9)]
NAMES = ["a", "b", "c"]


def values(seed=0, n=3):
    return np.random.default_rng(seed).random((n, 4), dtype=np.float32)


def write(rows, names=NAMES, seed=0):
    with rows.write(names) as writer:
        writer.append(SIZES[: len(names)], [values(seed, len(names))])


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def test_rows_come_back_in_the_order_asked_with_duplicates(tmp_path):
    rows = Rows(tmp_path)
    write(rows)
    write(rows, ["d", "e"], seed=1)
    expected = np.concatenate([values(0), values(1, 2)])
    assert rows.missing(["d", "x", "a", "x"]) == ["x"]
    (read,) = rows.read(["e", "a", "e", "c", "d"])
    np.testing.assert_array_equal(read.numpy(), expected[[4, 0, 4, 2, 3]])
    assert rows.size("b") == (6, 8)
    assert rows.size("x") is None


def test_arrays_are_memory_mapped_and_read_anew_by_another_process(tmp_path, monkeypatch):
    write(Rows(tmp_path))
    rows, loads, load = Rows(tmp_path), [], np.load

    def recorded(path, **options):
        loads.append(load(path, **options))
        return loads[-1]

    monkeypatch.setattr(np, "load", recorded)
    assert rows.missing(NAMES) == []
    assert torch.equal(rows.read(NAMES)[0], torch.from_numpy(values()))
    (array,) = loads
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


@pytest.mark.parametrize("file", ["0.npy", "index.json"])
@pytest.mark.parametrize("where", [0, 0.3, 0.999])
def test_a_flipped_byte_is_noticed_anywhere_and_the_chunk_can_be_written_again(tmp_path, file, where):
    write(Rows(tmp_path))
    write(Rows(tmp_path), ["d", "e"], seed=1)
    path = tmp_path / chunk_name(NAMES) / file
    flip(path, int(where * path.stat().st_size))
    rows = Rows(tmp_path)
    with pytest.warns(UserWarning, match="damaged"):
        assert rows.missing([*NAMES, "d"]) == NAMES
    assert not path.exists()
    write(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows.missing([*NAMES, "d"]) == []
    np.testing.assert_array_equal(rows.read(NAMES)[0].numpy(), values(0))


def test_a_truncated_or_absent_array_is_noticed(tmp_path):
    write(Rows(tmp_path))
    path = tmp_path / chunk_name(NAMES) / "0.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.warns(UserWarning, match="damaged"):
        assert Rows(tmp_path).missing(["a"]) == ["a"]
    write(Rows(tmp_path))
    path.unlink()
    with pytest.warns(UserWarning, match="damaged"):
        assert Rows(tmp_path).missing(["a"]) == ["a"]


def test_a_damaged_chunk_replaced_by_another_process_is_not_removed(tmp_path):
    write(Rows(tmp_path))
    folder = tmp_path / chunk_name(NAMES)
    old = folder.stat().st_ino
    folder.rename(tmp_path / "elsewhere")
    write(Rows(tmp_path), seed=3)
    chunks.discard(folder, old)
    assert folder.is_dir()
    chunks.discard(folder, folder.stat().st_ino)
    assert not folder.exists()


def test_of_two_writers_of_the_same_rows_the_first_wins(tmp_path):
    first, second = Rows(tmp_path), Rows(tmp_path)
    with first.write(NAMES) as one, second.write(NAMES) as two:
        one.append(SIZES, [values(0)])
        two.append(SIZES, [values(1)])
    # The second context was closed first, so its rows are the ones that both see.
    for rows in (first, second):
        np.testing.assert_array_equal(rows.read(NAMES)[0].numpy(), values(1))
    assert [path.name for path in tmp_path.iterdir()] == [chunk_name(NAMES)]


def test_an_error_while_writing_leaves_nothing(tmp_path):
    rows = Rows(tmp_path)

    def interrupted():
        with rows.write(NAMES) as writer:
            writer.append(SIZES, [values(0)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with ChunkWriter(tmp_path, NAMES) as writer:
        writer.append(SIZES[:2], [values(0)[:2]])
        with pytest.raises(ValueError, match="2 of 3"):
            writer.publish()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "rows").write_text("no folder")
    with pytest.raises(EvalfmError, match="cannot be written"):
        write(Rows(tmp_path / "rows"))


def test_temporary_folders_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path):
    living = ChunkWriter(tmp_path, ["living"])
    process = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(process, 0)
    here = machine()
    dead = tmp_path / f"{WRITING}{here}-{process}-{'0' * 32}"
    far, far_and_old = (tmp_path / f"{WRITING}{'e' * 12}-1-{number:032x}" for number in range(2))
    for folder in (dead, far, far_and_old):
        folder.mkdir()
        (folder / "0.npy").write_bytes(b"half")
    for path in (far_and_old / "0.npy", far_and_old):
        os.utime(path, (time.time() - 2 * STALE_SECONDS,) * 2)
    remove_stale(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert far.name in left
    (kept,) = left - {far.name}
    assert f"{WRITING}{here}-{os.getpid()}-" in kept
    assert Rows(tmp_path).missing(["living"]) == ["living"]
    living.append(SIZES[:1], [values(n=1)])
    living.publish()
    assert Rows(tmp_path).missing(["living"]) == []


def test_half_precision_widens_when_a_later_batch_does_not_fit(tmp_path):
    rows = Rows(tmp_path)
    small = np.linspace(-3, 3, 24, dtype=np.float16).reshape(2, 3, 4)
    large = np.full((1, 3, 4), 1e6, np.float32)
    with rows.write(NAMES) as writer:
        writer.append(SIZES[:2], [small])
        writer.append(SIZES[2:], [large])
    assert rows.missing(NAMES) == []
    array = np.load(tmp_path / chunk_name(NAMES) / "0.npy")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.concatenate([small.astype(np.float32), large]))
    fitting = Rows(tmp_path / "fitting")
    with fitting.write(NAMES[:2]) as writer:
        writer.append(SIZES[:2], [small])
    fitting.missing(NAMES[:2])
    assert np.load(tmp_path / "fitting" / chunk_name(NAMES[:2]) / "0.npy").dtype == np.float16


def test_keys_lie_apart_and_odd_keys_stay_inside_the_store(tmp_path):
    store = FeatureStore(tmp_path)
    write(store.shelf("a" * 64).pooled)
    assert store.shelf("b" * 64).pooled.missing(["a"]) == ["a"]
    assert store.shelf("a" * 64).maps.missing(["a"]) == ["a"]
    write(store.shelf("../../outside").pooled)
    assert len(list(tmp_path.iterdir())) == 2
    assert not (tmp_path.parent / "outside").exists()


def test_the_budget_is_a_tenth_of_the_free_disk_and_never_more_than_20_gb(tmp_path, monkeypatch):
    free = {"bytes": 50_000_000_000}

    class Usage:
        @property
        def free(self):
            return free["bytes"]

    monkeypatch.setattr("evalfm.features.store.shutil.disk_usage", lambda path: Usage())
    assert default_budget(tmp_path / "not" / "yet") == 5_000_000_000
    free["bytes"] = 900_000_000_000
    assert default_budget(tmp_path) == 20_000_000_000
    assert FeatureStore(tmp_path).budget_bytes == 20_000_000_000
    assert FeatureStore(tmp_path, 7).budget_bytes == 7
    # What maps take already counts to what could be free, so a full store does not shrink its own budget.
    shelf = FeatureStore(tmp_path).shelf("c" * 64)
    write(shelf.maps)
    write(shelf.pooled)
    taken = sum(path.stat().st_size for path in tmp_path.glob("*/*/maps/*/*"))
    assert FeatureStore(tmp_path).map_bytes == taken > 0
    free["bytes"] = 1000
    assert default_budget(tmp_path) == int(0.1 * (1000 + taken))


def test_reading_gives_float32_copies(tmp_path):
    rows = Rows(tmp_path)
    write(rows)
    (read,) = rows.read(["a"])
    assert read.dtype == torch.float32
    read += 1
    np.testing.assert_array_equal(rows.read(["a"])[0].numpy(), values(0)[:1])
