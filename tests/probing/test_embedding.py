"""Embeddings in files: the encoder's own values under the right ids, whole or not there, the same by shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from evalfm import embed, load_encoder, probe
from evalfm.config import EncoderConfig
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.phantom import make_phantom
from evalfm.data.privacy import public_names
from evalfm.errors import EvalfmError
from evalfm.features import embedding_writers
from evalfm.features.embedding_writers import ids_from_bytes, read_facts
from evalfm.features.tables import PrecomputedSource
from evalfm.probing.embed_config import EmbedConfig
from evalfm.probing.embedding import Embedded, fill, write
from evalfm.probing.session import open_session
from evalfm.progress import SILENT
from evalfm.workers.job import Told, Worker

from ..squares import make_squares

ENCODER = "random:test_vit"
CODE = """
import torch
from torch import nn

from evalfm.encoders import Encoder, EncoderCard, EncoderState, RawFeatures

def card(name, maps):
    return EncoderCard(
        name=name, summary="Filters.", family="own", architecture="a convolution", weights={"source": "none"},
        licence="ours", commercial_use="yes", parameters=648, poolings={"gap": 8}, pooling="gap",
        preprocessing={
            "input_size": (64, 64), "resize": "squash", "interpolation": "bilinear", "antialias": True, "channels": 1,
            "units": ("unit-interval",), "input_range": (0, 1), "mean": (0.5,), "std": (0.25,),
        },
        map_layers=(0,) * maps, map_channels=(8,) * maps, map_strides=(4,) * maps, paradigm="none", domain="none",
    )

class Filters(Encoder):
    def __init__(self, name, maps, gain):
        super().__init__(card(name, maps), EncoderState(random_weights=True))
        self.filters = nn.Conv2d(1, 8, 9, stride=4, padding=4, bias=False)
        nn.init.normal_(self.filters.weight, std=gain, generator=torch.Generator().manual_seed(0))

    def _forward(self, batch):
        maps = self.filters(batch).relu()
        return RawFeatures(layers=(maps,) * len(self.card.map_layers), final=maps)

def build():
    return Filters("filters", 1, 1.0)

def wide():
    return Filters("wide", 1, 1e5)

def flat():
    return Filters("flat", 0, 1.0)
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Encoders that a user has written: one with a map, one whose map half precision does not hold, one without."""
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_phantom(tmp_path_factory.mktemp("phantom") / "data", n=100, size=64)


@pytest.fixture
def hidden(tmp_path: Path) -> Manifest:
    """A data set whose ids must not leave."""
    return make_squares(tmp_path / "hidden", patients=12, public_ids=False, salt="pepper", name="hidden")


def written(made: Embedded) -> tuple[list[str], np.ndarray]:
    """Ids and pooled features of a file of either kind."""
    if made.file.suffix == ".parquet":
        table = pd.read_parquet(made.file)
        return table["id"].tolist(), np.stack(table["embedding"])
    arrays = load_file(made.file)
    return ids_from_bytes(arrays["ids"].numpy()), arrays["pooled"].numpy()


def direct(name: str, manifest: Manifest, rows: list[int], *, maps: bool = False) -> Any:
    session = open_session(name, EncoderConfig(), manifest, None, SILENT)
    return session.source.features(rows, maps=maps)


@pytest.mark.parametrize("suffix", ["parquet", "safetensors"])
def test_a_file_holds_the_encoders_own_features_in_the_order_of_the_table(
    squares: Manifest, home: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_writers, "PIECE_BYTES", 4 * 64 * 7)
    (made,) = embed(ENCODER, squares, out=tmp_path / f"e.{suffix}")
    assert (made.images, made.dim, made.encoded_images, made.existing) == (80, 64, 80, False)
    ids, pooled = written(made)
    assert ids == squares.table["id"].tolist()
    assert np.array_equal(pooled, direct(ENCODER, squares, list(range(80))).pooled.numpy())
    source = PrecomputedSource(squares, made.file)
    assert torch.equal(source.features(list(range(80))).pooled, torch.from_numpy(pooled))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("suffix", ["parquet", "safetensors"])
def test_a_probe_on_the_file_gives_what_the_encoder_gives(
    phantom: Manifest, home: Path, tmp_path: Path, suffix: str
) -> None:
    (made,) = embed("hog", phantom, out=tmp_path / f"e.{suffix}")
    options: dict[str, Any] = {"data": phantom, "heads": "linear", "baselines": "none", "folds": 2, "out": tmp_path}
    (own,) = probe("hog", "ptx-cls", **options)
    (again,) = probe(f"precomputed:{made.file}", "ptx-cls", **options)
    assert own.metrics["auroc"].value is not None
    assert again.metrics["auroc"] == own.metrics["auroc"]


def test_maps_are_those_of_the_encoder(squares: Manifest, home: Path, tmp_path: Path) -> None:
    (made,) = embed(ENCODER, squares, out=tmp_path / "e.safetensors", maps=True, limit=9)
    arrays = load_file(made.file)
    place = {name: row for row, name in enumerate(squares.table["id"])}
    rows = [place[name] for name in ids_from_bytes(arrays["ids"].numpy())]
    assert rows == sorted(rows)
    assert len(rows) == 9
    expected = direct(ENCODER, squares, rows, maps=True)
    assert len(expected.maps) == len(made.maps) == 5
    for number, level in enumerate(expected.maps):
        assert arrays[f"map_{number}"].dtype == torch.float16
        assert torch.equal(arrays[f"map_{number}"], level)
        assert made.maps[number] == tuple(level.shape[1:])
    facts = read_facts(made.file)
    assert facts is not None
    assert [each["stride"] for each in facts["maps"]] == [16] * 5


def test_neither_label_nor_split_nor_patient_is_needed(squares: Manifest, home: Path, tmp_path: Path) -> None:
    info = DatasetInfo(name="bare", public_ids=True, root=str(squares.root))
    bare = Manifest(info, squares.table[["id", "image"]], tmp_path)
    (made,) = embed("pixels", bare, out=tmp_path / "e.parquet", limit=6)
    assert made.images == 6


def test_rows_are_chosen_and_the_few_are_among_the_many(squares: Manifest, home: Path, tmp_path: Path) -> None:
    chosen = squares.table["id"][squares.where("sex == 'F'")].tolist()
    (made,) = embed("pixels", squares, out=tmp_path / "f.parquet", where="sex == 'F'")
    assert written(made)[0] == chosen
    five = written(embed("pixels", squares, out=tmp_path / "5.parquet", where="sex == 'F'", limit=5)[0])[0]
    nine = written(embed("pixels", squares, out=tmp_path / "9.parquet", where="sex == 'F'", limit=9)[0])[0]
    assert (len(five), len(nine)) == (5, 9)
    assert set(five) < set(nine) < set(chosen)
    assert five != chosen[:5], "not the first, which may all be of one kind"
    with pytest.raises(EvalfmError, match="No image of squares satisfies"):
        embed("pixels", squares, out=tmp_path / "n.parquet", where="age > 300")
    assert not (tmp_path / "n.parquet").exists()


@pytest.mark.parametrize("suffix", ["parquet", "safetensors"])
def test_ids_leave_as_hashes_and_are_joined_again_by_their_owner(
    hidden: Manifest, home: Path, tmp_path: Path, suffix: str
) -> None:
    (made,) = embed("pixels", hidden, out=tmp_path / f"e.{suffix}")
    own = hidden.table["id"].tolist()
    ids, pooled = written(made)
    assert made.ids == "hashed"
    assert ids == public_names(own, hidden.info).tolist()
    content = made.file.read_bytes()
    assert not any(name.encode() in content for name in own)
    assert b"pepper" not in content
    order = list(reversed(range(len(hidden))))
    turned = PrecomputedSource(hidden.select(order), made.file)
    assert np.array_equal(turned.features(list(range(len(order)))).pooled.numpy(), pooled[order])
    other = Manifest(hidden.info.model_copy(update={"salt": "thyme"}), hidden.table, hidden.folder)
    with pytest.raises(EvalfmError, match=f"lacks {len(own)} of {len(own)} images"):
        PrecomputedSource(other, made.file)
    (plain,) = embed("pixels", hidden, out=tmp_path / f"p.{suffix}", plain_ids=True)
    assert (plain.ids, written(plain)[0]) == ("plain", own)
    assert np.array_equal(PrecomputedSource(hidden, plain.file).features(order).pooled.numpy(), pooled[order])


def test_a_file_says_what_it_is_of_and_no_path(hidden: Manifest, phantom: Manifest, home: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(CODE)
    (made,) = embed(ENCODER, phantom, out=tmp_path / "e.parquet", limit=8)
    facts = read_facts(made.file)
    assert facts is not None
    assert (facts["synthetic"], facts["random_weights"], facts["ids"]) == (True, True, "public")
    assert [each["code"] for each in facts["cautions"]] == ["synthetic", "random-weights"]
    assert facts["feature_path"] == "float32-cpu"
    assert [each.code for each in made.cautions] == ["synthetic", "random-weights"]
    (own,) = embed(f"{code}:build", hidden, out=tmp_path / "{encoder}.safetensors")
    assert own.file == tmp_path / "mine-build.safetensors"
    facts = read_facts(own.file)
    assert facts is not None
    assert (facts["synthetic"], facts["random_weights"], facts["encoder"]) == (False, True, "filters")
    assert (facts["images"], facts["images_of_data"], facts["data"]) == (len(hidden), len(hidden), "hidden")
    for file in (made.file, own.file):
        content = file.read_bytes()
        assert str(tmp_path).encode() not in content
        assert b"mine.py" not in content


def test_shards_hold_each_image_once_and_the_whole_is_made_of_them(
    squares: Manifest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"maps": True, "limit": 30}
    parts = [
        embed(ENCODER, squares, out=tmp_path / "e.safetensors", shard=f"{number}/3", **options)[0]
        for number in (1, 2, 3)
    ]
    assert [part.file.name for part in parts] == [f"e-{number}-of-3.safetensors" for number in (1, 2, 3)]
    assert not (tmp_path / "e.safetensors").exists()
    assert sum(part.encoded_images for part in parts) == sum(part.images for part in parts) == 30
    assert min(part.images for part in parts) > 0
    (whole,) = embed(ENCODER, squares, out=tmp_path / "e.safetensors", **options)
    assert (whole.images, whole.encoded_images) == (30, 0)
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "elsewhere"))
    (alone,) = embed(ENCODER, squares, out=tmp_path / "alone.safetensors", **options)
    assert alone.encoded_images == 30
    one, other = load_file(whole.file), load_file(alone.file)
    assert set(one) == set(other) == {"pooled", "ids", *(f"map_{number}" for number in range(5))}
    for name, array in one.items():
        assert array.numpy().tobytes() == other[name].numpy().tobytes()
    rows = {name: row for part in parts for name, row in zip(*written(part), strict=True)}
    ids, pooled = written(whole)
    assert np.array_equal(np.stack([rows[name] for name in ids]), pooled)


def test_an_image_is_in_the_same_shard_whatever_its_row_and_id(squares: Manifest, home: Path, tmp_path: Path) -> None:
    turned = squares.select(list(reversed(range(len(squares)))))
    renamed = Manifest(squares.info, turned.table.assign(id=[f"n{name}" for name in turned.table["id"]]), turned.folder)
    (one,) = embed("pixels", squares, out=tmp_path / "a.parquet", shard="1/2")
    (other,) = embed("pixels", renamed, out=tmp_path / "b.parquet", shard="1/2")
    assert 0 < one.images < len(squares)
    assert [f"n{name}" for name in reversed(written(one)[0])] == written(other)[0]
    assert other.encoded_images == 0


@pytest.mark.parametrize("suffix", ["parquet", "safetensors"])
def test_a_shard_without_an_image_is_an_empty_file(squares: Manifest, home: Path, tmp_path: Path, suffix: str) -> None:
    maps = suffix == "safetensors"
    made = [
        embed(ENCODER, squares, out=tmp_path / f"e.{suffix}", shard=f"{number}/9", limit=2, maps=maps)[0]
        for number in range(1, 10)
    ]
    (empty, *_) = [each for each in made if not each.images]
    assert (empty.encoded_images, sum(each.images for each in made)) == (0, 2)
    (full, *_) = [each for each in made if each.images]
    assert empty.maps == full.maps
    if maps:
        shapes = [{name: (each.dtype, each.shape[1:]) for name, each in load_file(file.file).items() if name != "ids"}
                  for file in (empty, full)]  # fmt: skip
        assert shapes[0] == shapes[1]
    else:
        assert pd.read_parquet(empty.file).columns.tolist() == ["id", "embedding"]


def test_what_is_there_is_returned_if_it_is_the_same_and_never_replaced_in_silence(
    squares: Manifest, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e.safetensors"
    (first,) = embed(ENCODER, squares, out=out, limit=8)
    content, made = out.read_bytes(), os.stat(out).st_mtime_ns
    (again,) = embed(ENCODER, squares, out=out, limit=8)
    assert (again.existing, again.images, again.key, again.dim) == (True, 8, first.key, 64)
    for changed in (
        {"limit": 9},
        {"limit": 8, "maps": True},
        {"limit": 8, "input_size": 96},
        {"limit": 8, "where": "sex == 'F'"},
    ):
        with pytest.raises(EvalfmError, match="holds other embeddings"):
            embed(ENCODER, squares, out=out, **changed)
    with pytest.raises(EvalfmError, match="holds other embeddings"):
        embed("hog", squares, out=out, limit=8)
    assert (out.read_bytes(), os.stat(out).st_mtime_ns) == (content, made)
    (forced,) = embed("hog", squares, out=out, limit=8, force=True)
    assert (forced.existing, forced.dim, written(forced)[1].shape) == (False, 576, (8, 576))


def test_another_image_under_the_same_id_is_other_embeddings(home: Path, tmp_path: Path) -> None:
    one, other = make_squares(tmp_path / "one", patients=6), make_squares(tmp_path / "other", patients=6, seed=1)
    embed("pixels", one, out=tmp_path / "e.parquet")
    with pytest.raises(EvalfmError, match="holds other embeddings"):
        embed("pixels", other, out=tmp_path / "e.parquet")


def test_the_disk_of_the_file_is_asked_before_the_encoder_runs(
    squares: Manifest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evalfm.probing import embedder

    monkeypatch.setattr(embedder, "disk_usage", lambda _: type("Usage", (), {"free": 80 * 4 * 576 - 1})())
    with pytest.raises(EvalfmError, match="name a file on another disk"):
        embed("hog", squares, out=tmp_path / "e.parquet")
    assert not list(home.rglob("*.data"))
    monkeypatch.setattr(embedder, "disk_usage", lambda _: type("Usage", (), {"free": 80 * 4 * 576})())
    assert embed("hog", squares, out=tmp_path / "e.parquet")[0].images == 80


def test_an_encoder_from_code_is_told_to_have_no_maps_before_it_runs(
    squares: Manifest, home: Path, tmp_path: Path, code: Path
) -> None:
    with pytest.raises(EvalfmError, match="flat has no feature maps; leave --maps out"):
        embed(f"{code}:flat", squares, out=tmp_path / "e.safetensors", maps=True)
    assert not (tmp_path / "e.safetensors").exists()
    assert not list(home.rglob("*.data"))
    assert embed(f"{code}:flat", squares, out=tmp_path / "e.safetensors", limit=3)[0].dim == 8


def test_maps_that_half_precision_does_not_hold_stay_whole(
    squares: Manifest, home: Path, tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_writers, "PIECE_BYTES", 1)
    (made,) = embed(f"{code}:wide", squares, out=tmp_path / "e.safetensors", maps=True, limit=5)
    arrays = load_file(made.file)
    place = {name: row for row, name in enumerate(squares.table["id"])}
    rows = [place[name] for name in ids_from_bytes(arrays["ids"].numpy())]
    (level,) = direct(f"{code}:wide", squares, rows, maps=True).maps
    assert arrays["map_0"].dtype == level.dtype == torch.float32
    assert level.max() > 65504
    assert torch.equal(arrays["map_0"], level)


def test_an_encoder_may_be_an_object(squares: Manifest, home: Path, tmp_path: Path) -> None:
    (made,) = embed(load_encoder("hog"), squares, out=tmp_path / "{encoder}.parquet", limit=4)
    (named,) = embed("hog", squares, out=tmp_path / "named.parquet", limit=4)
    assert (made.file.name, made.key, named.encoded_images) == ("hog.parquet", named.key, 0)


def test_several_encoders_have_a_file_each(squares: Manifest, home: Path, tmp_path: Path) -> None:
    made = embed(["hog", "pixels"], squares, out=tmp_path / "{encoder}.parquet", limit=4)
    assert [(each.encoder, each.file.name, each.images) for each in made] == [
        ("hog", "hog.parquet", 4),
        ("pixels", "pixels.parquet", 4),
    ]


def test_another_process_fills_the_store_from_json_alone(squares: Manifest, home: Path, tmp_path: Path) -> None:
    told: list[object] = []
    worker = Worker("cpu", Told(told.append))
    config = EmbedConfig(encoder=ENCODER, data=str(squares.folder), out=tmp_path / "e.safetensors", maps=True, limit=12)
    content = json.loads(config.model_dump_json())
    first = fill(worker, config={**content, "shard": "1/2"})
    assert 0 < first["images"] < 12
    assert fill(worker, config=content) == {"images": 12 - first["images"]}
    assert fill(worker, config=content) == {"images": 0}
    assert json.loads(json.dumps(first)) == first
    assert told
    assert not (tmp_path / "e.safetensors").exists()
    (made,) = embed(ENCODER, squares.folder, out=tmp_path / "e.safetensors", maps=True, limit=12)
    assert (made.images, made.encoded_images) == (12, 0)


def test_another_process_writes_the_file_from_json_alone(squares: Manifest, home: Path, tmp_path: Path) -> None:
    worker = Worker("cpu", Told(lambda message: None))
    config = EmbedConfig(encoder=ENCODER, data=str(squares.folder), out=tmp_path / "e.parquet", limit=5, devices="all")
    content = json.loads(config.model_dump_json())
    assert write(worker, config=content) == {"images": 5, "existing": False}
    before = (tmp_path / "e.parquet").read_bytes()
    assert write(worker, config=content) == {"images": 0, "existing": True}
    assert fill(worker, config=content) == {"images": 0}
    assert (tmp_path / "e.parquet").read_bytes() == before


def test_workers_write_what_one_process_writes(squares: Manifest, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "{encoder}.safetensors"
    options: dict[str, Any] = {"maps": True, "limit": 10, "workers": 1}
    made = embed([ENCODER, "hog"], squares.folder, out=out, devices="cpu,cpu", **options)
    assert [(each.encoder, each.images, each.existing) for each in made] == [(ENCODER, 10, False), ("hog", 10, False)]
    assert [each.encoded_images for each in made] == [10, 10], "no image is encoded twice"
    for one, name in zip(made, (ENCODER, "hog"), strict=True):
        (alone,) = embed(name, squares, out=tmp_path / "alone.safetensors", force=True, **options)
        assert alone.encoded_images == 0
        arrays, others = load_file(one.file), load_file(alone.file)
        assert len(arrays) == len(others) == 2 + len(one.maps)
        assert all(torch.equal(array, others[key]) for key, array in arrays.items())
    again = embed([ENCODER, "hog"], squares.folder, out=out, devices="cpu,cpu", **options)
    assert [(each.existing, each.encoded_images) for each in again] == [(True, 0), (True, 0)]
    with pytest.raises(EvalfmError, match=r"There is no file .*gone\.py"):
        embed(f"{tmp_path}/gone.py:build", squares.folder, out=out, devices="cpu,cpu", **options)
    with pytest.raises(EvalfmError, match="name both, or leave devices out"):
        embed("hog", squares, out=tmp_path / "o.parquet", devices="cpu,cpu")


def test_a_fault_of_a_worker_is_the_callers(squares: Manifest, home: Path, tmp_path: Path, code: Path) -> None:
    options: dict[str, Any] = {"maps": True, "devices": "cpu,cpu", "limit": 3}
    with pytest.raises(EvalfmError, match=r"^flat has no feature maps; leave --maps out"):
        embed(f"{code}:flat", squares.folder, out=tmp_path / "e.safetensors", **options)
    assert not (tmp_path / "e.safetensors").exists()


KILLED = """
import os, signal, sys
from evalfm.features import embedding_writers
from evalfm.features.embedding_writers import WRITERS
from evalfm.probing.embedding import embed

embedding_writers.PIECE_BYTES = 4 * 576 * 8
write = WRITERS["." + sys.argv[3]]

def dying(path, table, pieces):
    def some():
        for number, piece in enumerate(pieces):
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield piece
    write(path, table, some())

WRITERS["." + sys.argv[3]] = dying
embed("hog", sys.argv[1], out=sys.argv[2])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("suffix", ["parquet", "safetensors"])
def test_a_kill_leaves_no_half_file_and_the_same_call_goes_on(
    squares: Manifest, home: Path, tmp_path: Path, suffix: str, compare: Callable[[Embedded], None]
) -> None:
    out = tmp_path / "out" / f"e.{suffix}"
    out.parent.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(squares.folder), str(out), suffix])
    assert killed.returncode == -9
    assert not out.exists()
    assert len(list(out.parent.iterdir())) == 1, "what was begun lies in a work folder"
    (made,) = embed("hog", squares, out=out)
    assert made.encoded_images == 0
    assert list(out.parent.iterdir()) == [out]
    compare(made)


@pytest.fixture
def compare(squares: Manifest) -> Callable[[Embedded], None]:
    def same(made: Embedded) -> None:
        ids, pooled = written(made)
        assert ids == squares.table["id"].tolist()
        assert np.array_equal(pooled, direct("hog", squares, list(range(len(squares)))).pooled.numpy())

    return same
