"""Tables as features: joined by id, every fault named, no value from elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.features import tables
from evalfm.features.tables import ConstantSource, MetadataSource, PrecomputedSource


@dataclass
class Table:
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    def size(self, row: int) -> tuple[int, int]:
        return 10 + row, 20


@pytest.fixture
def manifest():
    table = pd.DataFrame(
        {
            "id": ["p", "q", "r", "s"],
            "sex": ["M", None, "F", "M"],
            "age": [61.0, np.nan, 34.0, 90.0],
            "report": ["a", "b", "c", "d"],
        }
    )
    return Table(table)


def test_the_constant_knows_nothing(manifest):
    source = ConstantSource(manifest)
    assert source.pooled_dim == 1
    assert source.features([3, 0]).pooled.tolist() == [[0.0], [0.0]]
    assert source.key == ConstantSource(Table(manifest.table.iloc[:2])).key
    assert source.geometry(2).source == source.geometry(2).output == (12, 20)


def test_metadata_are_levels_and_numbers_with_unknown_told_apart(manifest):
    source = MetadataSource(manifest, ["sex", "age"])
    assert source.feature_names == ("sex=F", "sex=M", "sex unknown", "age", "age unknown")
    np.testing.assert_array_equal(
        source.features([0, 1, 2, 3, 0]).pooled.numpy(),
        [[0, 1, 0, 61, 0], [0, 0, 1, 0, 1], [1, 0, 0, 34, 0], [0, 1, 0, 90, 0], [0, 1, 0, 61, 0]],
    )


def test_metadata_levels_can_be_those_of_other_data(manifest):
    source = MetadataSource(manifest, ["sex"], levels={"sex": ("M", "X")})
    assert source.feature_names == ("sex=M", "sex=X", "sex unknown")
    np.testing.assert_array_equal(source.features([0, 2]).pooled.numpy(), [[1, 0, 0], [0, 0, 1]])


def test_metadata_key_follows_values_and_columns(manifest):
    key = MetadataSource(manifest, ["sex", "age"]).key
    assert MetadataSource(manifest, ["sex", "age"]).key == key
    assert MetadataSource(manifest, ["age", "sex"]).key != key
    other = manifest.table.copy()
    other.loc[0, "age"] = 62.0
    assert MetadataSource(Table(other), ["sex", "age"]).key != key


def test_metadata_refuses_what_is_no_attribute(manifest):
    with pytest.raises(UnknownNameError, match="Did you mean 'age'"):
        MetadataSource(manifest, ["agee"])
    with pytest.raises(EvalfmError, match="at least one column"):
        MetadataSource(manifest, [])
    texts = Table(pd.DataFrame({"id": range(65), "report": [f"text {n}" for n in range(65)]}))
    with pytest.raises(EvalfmError, match="65 different values"):
        MetadataSource(texts, ["report"])


def embeddings(path, ids, features):
    if path.suffix == ".npz":
        np.savez(path, ids=np.array(ids), features=features)
        return path
    table = pd.DataFrame(features, columns=[f"f{n}" for n in range(features.shape[1])])
    table.insert(1, "id", ids)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_embeddings_are_joined_by_id(tmp_path, manifest, suffix):
    features = np.arange(15, dtype=np.float32).reshape(5, 3)
    path = embeddings(tmp_path / f"e{suffix}", ["s", "other", "p", "r", "q"], features)
    source = PrecomputedSource(manifest, path)
    np.testing.assert_array_equal(source.features(range(4)).pooled.numpy(), features[[2, 4, 3, 0]])
    np.testing.assert_array_equal(source.features([1, 1]).pooled.numpy(), features[[4, 4]])
    features[2, 0] += 1
    assert PrecomputedSource(manifest, embeddings(path, ["s", "other", "p", "r", "q"], features)).key != source.key


def test_a_label_under_another_name_and_in_another_order_is_found(tmp_path):
    ids = [f"{number:02d}" for number in range(24)]
    label = np.random.default_rng(0).integers(0, 2, 24)
    manifest = Table(pd.DataFrame({"id": ids, "effusion": label}))
    order = np.random.default_rng(1).permutation(24)
    features = np.column_stack([np.random.default_rng(2).normal(size=24), label])[order].astype(np.float32)
    path = embeddings(tmp_path / "e.csv", [ids[row] for row in order], features)
    with pytest.raises(EvalfmError, match=r"a feature \('f1'\) that equals the column 'effusion'"):
        PrecomputedSource(manifest, path)


def test_the_order_of_the_manifest_is_not_in_the_key(tmp_path, manifest):
    path = embeddings(tmp_path / "e.csv", ["p", "q", "r", "s"], np.eye(4, dtype=np.float32))
    turned = Table(manifest.table.iloc[::-1].reset_index(drop=True))
    assert PrecomputedSource(manifest, path).key == PrecomputedSource(turned, path).key
    assert MetadataSource(manifest, ["sex"]).key == MetadataSource(turned, ["sex"]).key


def test_numbers_as_ids_keep_their_zeros(tmp_path):
    manifest = Table(pd.DataFrame({"id": ["007", "010"]}))
    path = tmp_path / "e.csv"
    path.write_text("id,f\n010,1\n007,2\n")
    np.testing.assert_array_equal(PrecomputedSource(manifest, path).features([0, 1]).pooled, [[2], [1]])


def test_all_faults_of_embeddings_are_named_at_once(tmp_path, manifest):
    features = np.ones((4, 2), np.float32)
    features[1, 0] = np.nan
    path = embeddings(tmp_path / "e.csv", ["p", "q", "p", "x"], features)
    with pytest.raises(EvalfmError) as raised:
        PrecomputedSource(manifest, path)
    assert "repeats 1 ids (p)" in str(raised.value)
    assert "lacks 2 of 4 images (r, s)" in str(raised.value)
    assert "infinite features for 1 images (q)" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "There is no file"),
        ("e.txt", b"id,f\n", "no table of embeddings"),
        ("e.csv", b"name,f\np,1\n", "no column 'id'"),
        ("e.csv", b"id\np\n", "no column beside 'id'"),
        ("e.csv", b"id,f,g\np,1,one\n", r"no numbers \(g\)"),
        ("e.csv", b"", "cannot be read"),
        ("e.parquet", b"PAR1 not really", "cannot be read"),
        ("e.npz", b"no archive", "cannot be read"),
    ],
)
def test_files_that_hold_no_embeddings_are_refused(tmp_path, manifest, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EvalfmError, match=message):
        PrecomputedSource(manifest, path)


def test_arrays_of_the_wrong_shape_or_kind_are_refused(tmp_path, manifest):
    path = tmp_path / "e.npz"
    np.savez(path, features=np.ones((2, 2)))
    with pytest.raises(EvalfmError, match="no array 'ids'"):
        PrecomputedSource(manifest, path)
    np.savez(path, ids=np.array(["p"]), features=np.ones((2, 2)))
    with pytest.raises(EvalfmError, match="for 1 ids"):
        PrecomputedSource(manifest, path)
    np.savez(path, ids=np.array(["p", object()], dtype=object), features=np.ones((2, 2)))
    with pytest.raises(EvalfmError, match="cannot be read"):
        PrecomputedSource(manifest, path)


def test_tables_have_no_maps(manifest):
    source = ConstantSource(manifest)
    assert (source.map_channels, source.map_strides) == ((), ())
    with pytest.raises(EvalfmError, match="no spatial maps"):
        source.features([0], maps=True)


def test_the_key_is_of_every_value_by_id_however_many_are_hashed_at_once(tmp_path, monkeypatch):
    ids = [f"i{row:02d}" for row in np.random.default_rng(1).permutation(20)]
    manifest = Table(pd.DataFrame({"id": ids}))
    features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    path = embeddings(tmp_path / "e.npz", ids, features)
    by_id = features[np.argsort(ids)]
    expected = hashlib.sha256(b"precomputed\n0\n1\n2\n(20, 3)\n" + by_id.tobytes()).hexdigest()
    for rows in (1, 7, 20, 8192):
        monkeypatch.setattr(tables, "HASHED_ROWS", rows)
        assert PrecomputedSource(manifest, path).key == expected


@pytest.mark.parametrize("broken", [[np.inf, -np.inf], [np.nan, 1], [3e38, np.inf]])
def test_no_feature_that_is_not_finite_hides_behind_another(tmp_path, manifest, broken):
    features = np.full((4, 2), 3e38, np.float32)
    path = embeddings(tmp_path / "e.npz", ["p", "q", "r", "s"], features)
    assert np.isfinite(PrecomputedSource(manifest, path).features(range(4)).pooled.numpy()).all()
    features[2] = broken
    with pytest.raises(EvalfmError, match=r"infinite features for 1 images \(r\), row 3"):
        PrecomputedSource(manifest, embeddings(path, ["p", "q", "r", "s"], features))


def test_a_label_that_is_known_of_some_alone_is_found_among_its_own_rows(tmp_path):
    ids = [f"{number:03d}" for number in range(200)]
    label = np.random.default_rng(0).integers(0, 2, 200).astype(float)
    label[::3] = np.nan
    features = np.random.default_rng(2).normal(size=(200, 3)).astype(np.float32)
    features[1::3, 1], features[2::3, 1] = label[1::3], label[2::3]
    path = embeddings(tmp_path / "e.parquet", ids, features)
    manifest = Table(pd.DataFrame({"id": ids, "effusion": label}))
    with pytest.raises(EvalfmError, match=r"a feature \('f1'\) that equals the column 'effusion'"):
        PrecomputedSource(manifest, path)
    # Equal on the first 64 known rows alone.
    features[199, 1] = 0.5
    assert PrecomputedSource(manifest, embeddings(path, ids, features)).pooled_dim == 3
