"""An index is read up to its last whole block, whatever a kill or a bad disk made of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from evalfm.features import segment_format
from evalfm.features.segment_format import (
    ENTRY,
    ArrayLayout,
    Block,
    BlockKind,
    Damage,
    IndexReader,
    end_block,
    facts_block,
    keys_of,
    record_bytes,
    rows_blocks,
    void_block,
)

MACHINE = "0123456789ab"
LAYOUT = (ArrayLayout((3, 2, 2), "<f2"), ArrayLayout((5,), "<f4"))


def rows(count, first=0):
    entries = np.zeros(count, ENTRY)
    entries["offset"] = first + np.arange(count)
    return rows_blocks(LAYOUT, entries, MACHINE)


def read(path):
    return list(IndexReader(path).read())


def offsets(blocks):
    return [row for block in blocks if isinstance(block, Block) for row in block.entries["offset"].tolist()]


def test_an_entry_is_a_line_and_blocks_are_whole_lines():
    assert ENTRY.itemsize == segment_format.LINE
    assert record_bytes(LAYOUT) == 44
    for block in (facts_block({"a": "é" * 50}, MACHINE), rows(3), end_block(MACHINE)):
        assert len(block) % segment_format.LINE == 0


def test_blocks_come_back(tmp_path):
    path = tmp_path / "index"
    path.write_bytes(facts_block({"path": "float32-cpu"}, MACHINE) + rows(3) + end_block(MACHINE))
    facts, block, end = read(path)
    assert (facts.kind, facts.text) == (BlockKind.FACTS, '{"path": "float32-cpu"}')
    assert (block.kind, block.layout, block.machine) == (BlockKind.ROWS, LAYOUT, MACHINE)
    assert offsets([block]) == [0, 1, 2]
    assert (end.kind, end.stop) == (BlockKind.END, path.stat().st_size)


def test_many_rows_are_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(segment_format, "MOST_ROWS", 4)
    path = tmp_path / "index"
    path.write_bytes(rows(10))
    assert [len(block.entries) for block in read(path)] == [4, 4, 2]


def test_an_index_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(segment_format, "PIECE_BYTES", 640)
    path = tmp_path / "index"
    path.write_bytes(b"".join(rows(3, 3 * number) for number in range(20)))
    assert offsets(read(path)) == list(range(60))


@pytest.mark.parametrize("piece", [16 << 20, 640])
def test_every_prefix_gives_the_whole_blocks_in_it_and_the_rest_later(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(segment_format, "PIECE_BYTES", piece)
    path = tmp_path / "index"
    blocks = [facts_block({}, MACHINE), rows(2), rows(1, 2), end_block(MACHINE)]
    content, borders = b"".join(blocks), np.cumsum([len(block) for block in blocks])
    for cut in range(0, len(content) + 1, 17):
        path.write_bytes(content[:cut])
        reader = IndexReader(path)
        found = list(reader.read())
        assert len(found) == np.searchsorted(borders, cut, side="right")
        assert all(isinstance(block, Block) for block in found)
        path.write_bytes(content)
        assert offsets([*found, *reader.read()]) == [0, 1, 2]


@pytest.mark.parametrize("piece", [16 << 20, 256])
def test_every_flipped_bit_costs_its_block_alone(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(segment_format, "PIECE_BYTES", piece)
    path = tmp_path / "index"
    before, block, after = rows(2), rows(2, 2), rows(2, 4)
    for position in range(0, len(block), 3):
        spoilt = bytearray(before + block + after)
        spoilt[len(before) + position] ^= 1 << position % 8
        path.write_bytes(bytes(spoilt))
        found = read(path)
        assert offsets(found) == [0, 1, 4, 5]
        (damage,) = (each for each in found if isinstance(each, Damage))
        assert damage == Damage(len(before), len(before) + len(block))
        # Once it is marked it is passed over in silence.
        mark = void_block(damage, MACHINE)
        spoilt[damage.start : damage.start + len(mark)] = mark
        path.write_bytes(bytes(spoilt))
        assert [each.kind for each in read(path)] == [BlockKind.ROWS, BlockKind.VOID, BlockKind.ROWS]


def test_a_hole_of_zeros_is_damage_where_blocks_follow_and_a_torn_end_where_none_does(tmp_path):
    path = tmp_path / "index"
    path.write_bytes(rows(1) + bytes(640))
    assert offsets(read(path)) == [0]
    path.write_bytes(rows(1) + bytes(640) + rows(1, 1))
    assert offsets(read(path)) == [0, 1]
    assert sum(isinstance(block, Damage) for block in read(path)) == 1


def test_addresses_are_their_own_keys_or_are_hashed():
    digests = ["0123456789abcdef" * 4, "ff" * 32]
    names = ["a", "", "0123456789ABCDEF" * 4, " " * 64, "0 " * 32, "é" * 64]
    together, alone = keys_of(digests + names), [keys_of([name])[0] for name in digests + names]
    assert together.tobytes()[:64].hex() == "".join(digests)
    assert np.array_equal(together, np.array(alone))
    assert len({key.tobytes() for key in together}) == len(digests + names)
    assert np.array_equal(keys_of(["0 " * 32, " " * 64]), np.array([alone[6], alone[5]]))
    assert keys_of([]).shape == (0, 4)
