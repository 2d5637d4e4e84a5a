"""Files of embeddings for use outside: what is written is what other programs read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from evalfm.errors import EvalfmError
from evalfm.features import embedding_writers
from evalfm.features.embedding_writers import (
    EmbeddingTable,
    Piece,
    ids_as_bytes,
    ids_from_bytes,
    read_facts,
    write_parquet,
    write_safetensors,
)
from evalfm.features.segment_format import ArrayLayout

IDS = [f"radiograph-{number}" for number in range(21)] + ["Schön", ""]
FACTS = {"kind": "embeddings", "encoder": "hög", "dim": 5}
HALF, WIDE = ArrayLayout((3, 3, 1), "<f2"), ArrayLayout((4, 1, 1), "<f4")


def features(rows: int = len(IDS)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    pooled = generator.normal(size=(rows, 5)).astype(np.float32)
    half = generator.normal(size=(rows, 3, 3, 1)).astype(np.float16)
    wide = (generator.normal(size=(rows, 4, 1, 1)) * 1e6).astype(np.float32)
    return pooled, half, wide


def in_pieces(arrays: tuple[np.ndarray, ...], size: int) -> Iterator[Piece]:
    """Pieces in one and the same memory, as the next one takes the place of the last."""
    buffers = [np.empty_like(each[:size]) for each in arrays]
    for first in range(0, len(arrays[0]), size):
        parts = [each[first : first + size] for each in arrays]
        for buffer, part in zip(buffers, parts, strict=True):
            buffer[: len(part)] = part
        count = len(parts[0])
        yield buffers[0][:count], tuple(buffer[:count] for buffer in buffers[1:])
        for buffer in buffers:
            buffer[:] = 0


@pytest.mark.parametrize("size", [1, 8, 100])
def test_parquet_holds_the_rows_of_all_pieces_in_their_order(tmp_path: Path, size: int) -> None:
    pooled, _, _ = features()
    path = tmp_path / "e.parquet"
    write_parquet(path, EmbeddingTable(IDS, 5, (), FACTS), in_pieces((pooled,), size))
    table = pd.read_parquet(path)
    assert table.columns.tolist() == ["id", "embedding"]
    assert table["id"].tolist() == IDS
    assert np.array_equal(np.stack(table["embedding"]), pooled)
    assert np.stack(table["embedding"]).dtype == np.float32
    file = pq.ParquetFile(path)
    assert file.num_row_groups == -(-len(IDS) // size)
    assert file.schema_arrow.field("embedding").type == pa.list_(pa.field("element", pa.float32(), nullable=False), 5)
    assert json.loads(file.schema_arrow.metadata[b"evalfm"]) == FACTS


@pytest.mark.parametrize("size", [1, 8, 100])
@pytest.mark.parametrize("layouts", [(HALF, WIDE), (WIDE, HALF)])
def test_safetensors_hold_pooled_maps_and_ids(tmp_path: Path, size: int, layouts: tuple[ArrayLayout, ...]) -> None:
    pooled, half, wide = features()
    maps = (half, wide) if layouts[0] is HALF else (wide, half)
    path = tmp_path / "e.safetensors"
    write_safetensors(path, EmbeddingTable(IDS, 5, layouts, FACTS), in_pieces((pooled, *maps), size))
    loaded = load_file(path)
    assert set(loaded) == {"pooled", "map_0", "map_1", "ids"}
    assert torch.equal(loaded["pooled"], torch.from_numpy(pooled))
    for number, expected in enumerate(maps):
        assert loaded[f"map_{number}"].dtype == torch.from_numpy(expected).dtype
        assert torch.equal(loaded[f"map_{number}"], torch.from_numpy(expected))
    assert ids_from_bytes(loaded["ids"].numpy()) == IDS
    with safe_open(path, framework="np") as file:
        assert np.array_equal(file.get_slice("pooled")[3:5], pooled[3:5])
        assert json.loads(file.metadata()["evalfm"]) == FACTS
    head = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    widths = {"F32": 4, "F16": 2, "U8": 1}
    begins = {name: each["data_offsets"][0] % widths[each["dtype"]] for name, each in head.items() if name[0] != "_"}
    assert set(begins.values()) == {0}, "each array begins at a multiple of its item"
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_no_row_is_a_file_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "e.parquet", EmbeddingTable([], 5, (), FACTS), iter(()))
    table = pd.read_parquet(tmp_path / "e.parquet")
    assert (table.columns.tolist(), len(table)) == (["id", "embedding"], 0)
    assert pq.read_schema(tmp_path / "e.parquet").field("embedding").type.list_size == 5
    write_safetensors(tmp_path / "e.safetensors", EmbeddingTable([], 5, (HALF,), FACTS), iter(()))
    loaded = load_file(tmp_path / "e.safetensors")
    assert {name: tuple(each.shape) for name, each in loaded.items()} == {
        "pooled": (0, 5),
        "map_0": (0, 3, 3, 1),
        "ids": (0, 1),
    }
    assert read_facts(tmp_path / "e.safetensors") == read_facts(tmp_path / "e.parquet") == FACTS


@pytest.mark.parametrize("write", [write_parquet, write_safetensors])
@pytest.mark.parametrize("rows", [22, 24])
def test_rows_that_are_not_as_many_as_ids_are_never_written_in_silence(tmp_path: Path, write: Any, rows: int) -> None:
    with pytest.raises(ValueError):
        write(tmp_path / "e", EmbeddingTable(IDS, 5, (), FACTS), in_pieces(features(rows)[:1], 8))


def test_what_half_precision_does_not_hold_is_not_rounded_in_silence(tmp_path: Path) -> None:
    pooled, half, _ = features()
    with pytest.raises(ValueError, match="does not fit"):
        write_safetensors(
            tmp_path / "e", EmbeddingTable(IDS, 5, (HALF,), FACTS), [(pooled, (half.astype(np.float32),))]
        )
    with pytest.raises(ValueError, match="does not fit"):
        write_safetensors(tmp_path / "e", EmbeddingTable(IDS, 5, (HALF,), FACTS), [(pooled, (half[:, :2],))])


def test_parquet_refuses_maps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no maps"):
        write_parquet(tmp_path / "e", EmbeddingTable(IDS, 5, (HALF,), FACTS), iter(()))


def test_ids_are_bytes_of_one_length() -> None:
    assert ids_as_bytes(IDS).shape == (23, 13)
    assert ids_from_bytes(ids_as_bytes(IDS)) == IDS
    with pytest.raises(EvalfmError, match="ends in a zero byte"):
        ids_as_bytes(["a", "b\0"])
    assert ids_from_bytes(ids_as_bytes(["a\0b", "c"])) == ["a\0b", "c"]


def test_a_piece_is_as_large_as_memory_shall_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_writers, "PIECE_BYTES", 1000)
    assert EmbeddingTable(IDS, 5, (), {}).piece_rows == 50
    assert EmbeddingTable(IDS, 5, (HALF, WIDE), {}).piece_rows == 1000 // (20 + 18 + 16)
    assert EmbeddingTable(IDS, 5000, (), {}).piece_rows == 1


def test_a_file_of_others_says_nothing(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a"]}).to_parquet(tmp_path / "o.parquet")
    (tmp_path / "o.safetensors").write_bytes(b"\xff" * 30)
    (tmp_path / "p.parquet").write_text("a")
    assert [read_facts(tmp_path / name) for name in ("o.parquet", "o.safetensors", "p.parquet")] == [None] * 3
