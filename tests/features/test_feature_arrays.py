"""Rows come back as they were written, or count as missing."""

from __future__ import annotations

import contextlib
import threading
import warnings

import numpy as np
import pytest
import torch

from evalfm.features import rows as stored_rows
from evalfm.features import segment_writer
from evalfm.features.feature_arrays import FeatureArrays, MissingRowsError

SIZES = [(5, 7), (6, 8), (9, 9)]
NAMES = ["a", "b", "c"]


def values(seed=0, n=3):
    return np.random.default_rng(seed).random((n, 4), dtype=np.float32)


def write(rows, names=NAMES, seed=0):
    with rows.writer() as writer:
        writer.append(names, SIZES[: len(names)], [values(seed, len(names))])


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_rows_come_back_in_the_order_asked_with_duplicates(tmp_path):
    rows = FeatureArrays(tmp_path)
    write(rows)
    write(rows, ["d", "e"], seed=1)
    expected = np.concatenate([values(0), values(1, 2)])
    assert rows.missing(["d", "x", "a", "x"]) == ["x"]
    (read,) = rows.read(["e", "a", "e", "c", "d"])
    np.testing.assert_array_equal(read.numpy(), expected[[4, 0, 4, 2, 3]])
    assert rows.size("b") == (6, 8)
    assert rows.size("x") is None
    assert rows.read([]) == ()


def test_what_another_process_commits_is_there_at_the_next_look(tmp_path):
    reader = FeatureArrays(tmp_path)
    assert reader.missing(NAMES) == NAMES
    write(FeatureArrays(tmp_path))
    assert reader.missing(NAMES) == []
    np.testing.assert_array_equal(reader.read(NAMES)[0].numpy(), values())


def test_sessions_go_on_with_one_segment(tmp_path):
    for number in range(5):
        write(FeatureArrays(tmp_path), [f"{number} {name}" for name in NAMES], seed=number)
    assert len(list(tmp_path.glob("*.index"))) == 1
    rows = FeatureArrays(tmp_path)
    for number in range(5):
        (read,) = rows.read([f"{number} {name}" for name in NAMES])
        np.testing.assert_array_equal(read.numpy(), values(number))


def test_a_writer_never_goes_on_with_a_segment_of_other_facts(tmp_path):
    write(FeatureArrays(tmp_path, facts={"torch": "2.0"}))
    write(FeatureArrays(tmp_path, facts={"torch": "2.1"}), ["d"])
    assert len(list(tmp_path.glob("*.index"))) == 2
    assert FeatureArrays(tmp_path).missing([*NAMES, "d"]) == []


@pytest.mark.parametrize("where", [0, 0.3, 0.999])
def test_a_flipped_byte_of_a_record_costs_that_row_alone_and_is_written_again(tmp_path, where):
    write(FeatureArrays(tmp_path))
    (path,) = tmp_path.glob("*.data")
    flip(path, int(where * path.stat().st_size))
    lost = NAMES[int(3 * where)]
    rows = FeatureArrays(tmp_path)
    assert rows.missing(NAMES) == []
    with pytest.warns(UserWarning, match="damaged") as said, pytest.raises(MissingRowsError) as error:
        rows.read(NAMES)
    assert len(said) == 1
    assert error.value.addresses == (lost,)
    assert rows.missing(NAMES) == [lost]
    kept = [name for name in NAMES if name != lost]
    with quiet():
        np.testing.assert_array_equal(rows.read(kept)[0], values()[[NAMES.index(name) for name in kept]])
    with rows.writer() as writer:
        writer.append([lost], [(1, 2)], [values()[NAMES.index(lost)][None]])
    for again in (rows, FeatureArrays(tmp_path)):
        with quiet():
            assert again.missing(NAMES) == []
            np.testing.assert_array_equal(again.read(NAMES)[0].numpy(), values())


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("arrays", [1, 2])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 1, 0, 3], [3, 3]])
def test_a_flipped_byte_is_noticed_however_rows_are_read(tmp_path, monkeypatch, small, arrays, order):
    if not small:
        monkeypatch.setattr(stored_rows, "SMALL_BYTES", 0)
    rows = FeatureArrays(tmp_path)
    with rows.writer() as writer:
        writer.append([f"{number}" for number in range(5)], [(1, 1)] * 5, [values(0, 5), values(1, 5)][:arrays])
    (path,) = tmp_path.glob("*.data")
    flip(path, 16 * arrays * 4 - 1)
    asked = [f"{number}" for number in order]
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(MissingRowsError) as error:
        FeatureArrays(tmp_path).read(asked)
    assert set(error.value.addresses) == {"3"}
    # Where float32 is asked for and float16 is stored, rows go through memory.
    halves = FeatureArrays(tmp_path / "half", half=True)
    with halves.writer() as writer:
        writer.append([f"{number}" for number in range(5)], [(1, 1)] * 5, [values(0, 5)])
    (path,) = (tmp_path / "half").glob("*.data")
    flip(path, 8 * 4 - 1)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(MissingRowsError):
        FeatureArrays(tmp_path / "half").read(asked, (torch.zeros(len(asked), 4),))


def test_a_row_damaged_twice_is_still_mended(tmp_path):
    for generation in range(3):
        rows = FeatureArrays(tmp_path)
        if generation:
            with pytest.warns(UserWarning, match="damaged"), pytest.raises(MissingRowsError):
                rows.read(["a"])
        with rows.writer() as writer:
            writer.append(["a"], SIZES[:1], [values(n=1)])
        (path,) = tmp_path.glob("*.data")
        if generation < 2:
            flip(path, path.stat().st_size - 1)
    with quiet():
        np.testing.assert_array_equal(FeatureArrays(tmp_path).read(["a"])[0].numpy(), values(n=1))


@pytest.mark.parametrize("where", [3, 70, 150, 300])
def test_a_flipped_byte_of_the_index_costs_its_block_alone_and_is_said_once(tmp_path, where):
    write(FeatureArrays(tmp_path), ["first"])
    (path,) = tmp_path.glob("*.index")
    start = path.stat().st_size
    write(FeatureArrays(tmp_path))
    write(FeatureArrays(tmp_path), ["last"])
    flip(path, start + where)
    rows = FeatureArrays(tmp_path)
    with pytest.warns(UserWarning, match="damaged") as said:
        assert rows.missing(["first", *NAMES, "last"]) == NAMES
    assert len(said) == 1
    with quiet():
        assert FeatureArrays(tmp_path).missing(["first", *NAMES, "last"]) == NAMES
        write(rows)
        assert FeatureArrays(tmp_path).missing(["first", *NAMES, "last"]) == []
        np.testing.assert_array_equal(FeatureArrays(tmp_path).read(NAMES)[0].numpy(), values())


def test_data_that_is_cut_off_or_gone_is_noticed(tmp_path):
    write(FeatureArrays(tmp_path))
    (path,) = tmp_path.glob("*.data")
    path.write_bytes(path.read_bytes()[:-8])
    rows = FeatureArrays(tmp_path)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(MissingRowsError) as error:
        rows.read(NAMES)
    assert error.value.addresses == ("c",)
    np.testing.assert_array_equal(rows.read(["a", "b"])[0].numpy(), values()[:2])
    path.unlink()
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(MissingRowsError):
        rows.read(["a"])
    write(rows)
    assert FeatureArrays(tmp_path).missing(NAMES) == []


def test_a_store_removed_meanwhile_is_empty(tmp_path):
    rows = FeatureArrays(tmp_path)
    write(rows)
    assert rows.missing(NAMES) == []
    for path in tmp_path.iterdir():
        path.unlink()
    with quiet():
        assert rows.missing([*NAMES, "d"]) == [*NAMES, "d"]
        write(rows)
        assert rows.missing(NAMES) == []


def test_of_two_writers_of_the_same_rows_the_first_seen_counts(tmp_path):
    first, second = FeatureArrays(tmp_path), FeatureArrays(tmp_path)
    with first.writer() as one, second.writer() as two:
        one.append(NAMES, SIZES, [values(0)])
        two.append(NAMES, SIZES, [values(1)])
        one.flush()
        assert first.missing(NAMES) == []
        two.flush()
    assert len(list(tmp_path.glob("*.index"))) == 2
    np.testing.assert_array_equal(first.read(NAMES)[0].numpy(), values(0))
    read = FeatureArrays(tmp_path).read(NAMES)[0].numpy()
    assert any(np.array_equal(read, values(seed)) for seed in (0, 1))


def test_a_checksum_is_looked_at_once_and_never_for_rows_of_ours(tmp_path, monkeypatch):
    looked = []
    crc32 = stored_rows.zlib.crc32

    class Counting:
        @staticmethod
        def crc32(content, start=0):
            looked.append(len(content))
            return crc32(content, start)

    own = FeatureArrays(tmp_path)
    write(own)
    monkeypatch.setattr(stored_rows, "zlib", Counting)
    own.read(NAMES)
    assert looked == []
    other = FeatureArrays(tmp_path)
    for _ in range(2):
        other.read(NAMES)
        assert looked == [16] * 3
    # What is appended to a segment that was there before is ours, what was there is not.
    third = FeatureArrays(tmp_path)
    write(third, ["d"])
    third.read(["d", "a"])
    assert looked == [16] * 4


@pytest.mark.parametrize("small", [True, False])
def test_each_row_keeps_its_dtype_and_reads_are_as_wide_as_needed(tmp_path, monkeypatch, small):
    if not small:
        monkeypatch.setattr(stored_rows, "SMALL_BYTES", 0)
    monkeypatch.setattr(stored_rows, "SPAN_BYTES", 100)
    rows = FeatureArrays(tmp_path, half=True)
    generator = np.random.default_rng(0)
    shallow, deep = generator.random((3, 2, 4, 4), np.float32), generator.random((3, 5, 2, 2), np.float32)
    shallow[1, 0, 0, 0] = -65505.0
    with rows.writer() as writer:
        writer.append(NAMES, SIZES, [shallow, deep])
    for reader in (rows, FeatureArrays(tmp_path)):
        assert [array.dtype for array in reader.layout(["a", "c"])] == ["<f2", "<f2"]
        assert [array.dtype for array in reader.layout(["a", "b"])] == ["<f4", "<f2"]
        halves = reader.read(["c", "a"])
        assert [layer.dtype for layer in halves] == [torch.float16, torch.float16]
        np.testing.assert_array_equal(halves[0].numpy(), shallow[[2, 0]].astype(np.float16))
        np.testing.assert_array_equal(halves[1].numpy(), deep[[2, 0]].astype(np.float16))
        mixed = reader.read(["a", "b", "c"])
        assert [layer.dtype for layer in mixed] == [torch.float32, torch.float16]
        np.testing.assert_array_equal(mixed[0][1].numpy(), shallow[1])
        np.testing.assert_array_equal(mixed[0][[0, 2]].numpy(), shallow[[0, 2]].astype(np.float16).astype(np.float32))


def test_pooled_embeddings_are_never_rounded(tmp_path):
    rows = FeatureArrays(tmp_path)
    write(rows)
    assert rows.read(["a"])[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_come_back_in_their_stored_depth(tmp_path, dtype):
    rows = FeatureArrays(tmp_path)
    grey = (np.random.default_rng(0).random((2, 1, 6, 5)) * 255).astype(dtype)
    colour = (np.random.default_rng(1).random((1, 3, 6, 5)) * 255).astype(np.uint8)
    with rows.writer() as writer:
        writer.append(["a", "b"], SIZES[:2], [grey])
        writer.append(["c"], SIZES[2:], [colour])
    each = rows.read_each(["c", "b", "a", "b"])
    np.testing.assert_array_equal(each[0][0].numpy(), colour[0])
    for (image,), number in zip(each[1:], (1, 0, 1), strict=True):
        assert image.numpy().dtype == dtype
        np.testing.assert_array_equal(image.numpy(), grey[number])
    with pytest.raises(ValueError, match="not one tensor"):
        rows.read(["a", "c"])


def test_rows_are_read_into_memory_that_is_brought(tmp_path):
    rows = FeatureArrays(tmp_path, half=True)
    with rows.writer() as writer:
        writer.append(NAMES, SIZES, [values()])
    half, wide = torch.zeros(2, 4, dtype=torch.float16), torch.zeros(2, 4)
    (read,) = rows.read(["b", "a"], (half,))
    assert read is half
    np.testing.assert_array_equal(half.numpy(), values()[[1, 0]].astype(np.float16))
    rows.read(["b", "a"], (wide,))
    np.testing.assert_array_equal(wide.numpy(), half.float().numpy())
    for wrong in ((torch.zeros(3, 4),), (torch.zeros(2, 4, dtype=torch.int16),), (wide, wide), (torch.zeros(4, 2).T,)):
        with pytest.raises(ValueError, match="shall be read into"):
            rows.read(["b", "a"], wrong)
    full = FeatureArrays(tmp_path / "full")
    write(full)
    with pytest.raises(ValueError, match="shall be read into"):
        full.read(["b", "a"], (half,))


@pytest.mark.parametrize("length", [3, 40_000])
def test_many_rows_in_any_order_come_through_spans_and_threads(tmp_path, monkeypatch, length):
    monkeypatch.setattr(stored_rows, "THREADED_BYTES", 0)
    monkeypatch.setattr(stored_rows, "SPAN_BYTES", 400_000)
    generator = np.random.default_rng(0)
    arrays = [generator.random((60, length), np.float32), generator.integers(0, 9, (60, 2, 2)).astype(np.uint8)]
    names = [f"{number}" for number in range(60)]
    rows = FeatureArrays(tmp_path)
    with rows.writer() as writer:
        for first in range(0, 60, 7):
            some = slice(first, first + 7)
            writer.append(names[some], [(1, 1)] * len(names[some]), [array[some] for array in arrays])
    for order in (np.arange(60), np.arange(60)[::-1], generator.integers(0, 60, 90)):
        read = FeatureArrays(tmp_path).read([names[number] for number in order])
        for tensor, array in zip(read, arrays, strict=True):
            np.testing.assert_array_equal(tensor.numpy(), array[order])


def test_a_reader_beside_a_writer_meets_whole_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(segment_writer, "COMMIT_BYTES", 1)
    count, stop, wrong = 150, threading.Event(), []

    def read():
        rows = FeatureArrays(tmp_path)
        names = [f"{number}" for number in range(count)]
        while True:
            last = stop.is_set()
            absent = set(rows.missing(names))
            there = [number for number in range(count) if names[number] not in absent]
            if there and not (rows.read([names[number] for number in there])[0] == torch.tensor(there)[:, None]).all():
                wrong.append(there)
            if last:
                wrong.extend(absent)
                return

    reader = threading.Thread(target=read)
    reader.start()
    with FeatureArrays(tmp_path).writer() as writer:
        for number in range(count):
            writer.append([f"{number}"], [(1, 1)], [np.full((1, 5), number, np.float32)])
    stop.set()
    reader.join()
    assert wrong == []
