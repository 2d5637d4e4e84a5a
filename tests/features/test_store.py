"""Keys, ways of computing and kinds lie apart in a store, which knows how large it may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evalfm.features.store import FeaturePaths, FeatureStore, old_format_folders

NAMES = ["a", "b", "c"]


def write(rows, names=NAMES):
    with rows.writer() as writer:
        writer.append(names, [(5, 7)] * len(names), [np.ones((len(names), 4), np.float32)])


def test_keys_and_ways_lie_apart_and_odd_ones_stay_inside_the_store(tmp_path):
    store = FeatureStore(tmp_path / "store")
    write(store.cache("a" * 64).pooled)
    assert store.cache("b" * 64).pooled.missing(["a"]) == ["a"]
    assert store.cache("a" * 64, "bfloat16-cuda").pooled.missing(["a"]) == ["a"]
    assert store.cache("a" * 64).maps.missing(["a"]) == ["a"]
    assert store.cache("a" * 64).pooled.missing(["a"]) == []
    write(store.cache("../../outside").pooled)
    write(store.cache("a" * 64, "../../outside").pooled)
    write(store.cache("a" * 64, "..").pooled)
    assert len(list((tmp_path / "store").iterdir())) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"store"}
    assert {path.name for path in (tmp_path / "store").glob("*/*")} == {"2"}


def test_paths_are_those_that_hold_rows(tmp_path):
    store = FeatureStore(tmp_path)
    assert store.paths("a" * 64) == ()
    write(store.cache("a" * 64, "float32-cpu").maps)
    write(store.cache("a" * 64, "bfloat16-compiled-cuda").pooled)
    (store.cache("a" * 64, "float32-mps").pooled.folder).mkdir(parents=True)
    assert store.paths("a" * 64) == ("bfloat16-compiled-cuda", "float32-cpu")


def test_the_budget_is_a_tenth_of_the_free_disk_and_never_more_than_20_gb(tmp_path, monkeypatch):
    free = {"bytes": 50_000_000_000}

    class Usage:
        @property
        def free(self):
            return free["bytes"]

    monkeypatch.setattr("evalfm.features.store.shutil.disk_usage", lambda path: Usage())
    assert FeatureStore(tmp_path / "not" / "yet").budget_bytes == 5_000_000_000
    free["bytes"] = 900_000_000_000
    assert FeatureStore(tmp_path).budget_bytes == 20_000_000_000
    assert FeatureStore(tmp_path, 7).budget_bytes == 7
    # What maps take already counts to what could be free, so a full store does not shrink its own budget.
    cache = FeatureStore(tmp_path).cache("c" * 64)
    write(cache.maps)
    write(cache.pooled)
    taken = sum(path.stat().st_size for path in tmp_path.glob("*/2/*/maps/*"))
    assert FeatureStore(tmp_path).map_bytes == taken > 0
    free["bytes"] = 1000
    assert FeatureStore(tmp_path).budget_bytes == int(0.1 * (1000 + taken))


def test_an_older_format_is_never_listed_and_said_once(tmp_path, monkeypatch):
    for key in ("a" * 32, "b" * 32):
        (tmp_path / key / "1" / "pooled" / "chunk").mkdir(parents=True)
    scanned = []
    listed = __import__("os").scandir

    def scan(folder):
        scanned.append(str(folder))
        return listed(folder)

    monkeypatch.setattr("os.scandir", scan)
    with pytest.warns(UserWarning, match=r"of 2 encoders in an older format.*rm -r .*/\*/1") as said:
        caches = [FeatureStore(tmp_path).cache(key) for key in ("a" * 64, "b" * 64)]
    assert len(said) == 1
    assert caches[0].pooled.missing(["a"]) == ["a"]
    assert old_format_folders(tmp_path) == 2
    assert FeatureStore(tmp_path).map_bytes == 0
    assert not [folder for folder in scanned if "/1" in folder]


KEY = "0" * 64
OWN, GPU = "float32-cpu", "float32-cuda"
ROWS = [f"{number:064x}" for number in range(6)]


@pytest.fixture
def store(tmp_path):
    """A store in which ``put`` leaves features of a path."""

    class Store(FeatureStore):
        def put(self, path: str, names: list[str], *, maps: bool = False) -> None:
            cache = self.cache(KEY, path)
            value = float(len(path))
            for arrays in (cache.pooled, cache.maps) if maps else (cache.pooled,):
                with arrays.writer() as writer:
                    writer.append(names, [(8, 8)] * len(names), [torch.full((len(names), 3), value)])

    return Store(tmp_path / "store")


def value(cache, names) -> set[float]:
    return set(cache.pooled.read(names)[0].flatten().tolist())


def test_the_own_path_goes_first(store):
    store.put(OWN, ROWS)
    store.put(GPU, ROWS)
    paths = FeaturePaths(store, KEY, OWN)
    assert value(paths.choose(ROWS), ROWS) == {float(len(OWN))}
    assert paths.cautions == ()


def test_another_path_that_holds_everything_is_used_and_said(store):
    store.put(OWN, ROWS[:3])
    store.put(GPU, ROWS)
    paths = FeaturePaths(store, KEY, OWN)
    assert value(paths.choose(ROWS), ROWS) == {float(len(GPU))}
    # And so for what the own path would hold, from now on.
    assert value(paths.choose(ROWS[:2]), ROWS[:2]) == {float(len(GPU))}
    (caution,) = paths.cautions
    assert caution.code == "feature-path"
    assert "float32-cuda were used in place of float32-cpu" in caution.sentence


def test_a_path_that_lacks_one_image_or_its_maps_is_not_used(store):
    store.put(GPU, ROWS[:5])
    assert FeaturePaths(store, KEY, OWN).choose(ROWS).pooled.missing(ROWS) == ROWS
    store.put(GPU, ROWS[5:])
    assert FeaturePaths(store, KEY, OWN).choose(ROWS).pooled.missing(ROWS) == []
    paths = FeaturePaths(store, KEY, OWN)
    assert paths.choose(ROWS, maps=True).pooled.missing(ROWS) == ROWS
    assert paths.missing_maps(ROWS) == 6
    store.put(GPU, ROWS[:4], maps=True)
    assert paths.missing_maps(ROWS) == 2
    assert paths.cautions == ()


@pytest.mark.parametrize(
    ("own", "other", "used"),
    [
        (OWN, "bfloat16-cuda", False),
        ("bfloat16-cuda", "bfloat16-autocast-cuda", False),
        ("bfloat16-cuda", "bfloat16-compiled-cuda", True),
        ("bfloat16-autocast-compiled-cuda", "bfloat16-autocast-cpu", True),
    ],
)
def test_paths_of_another_precision_are_none_of_ours(store, own, other, used):
    store.put(other, ROWS)
    assert (FeaturePaths(store, KEY, own).choose(ROWS).pooled.missing(ROWS) == []) == used


def test_what_is_computed_in_any_case_is_never_mixed_with_another_path(store):
    store.put(GPU, ROWS)
    paths = FeaturePaths(store, KEY, OWN)
    assert paths.choose(ROWS, computed=True).pooled.missing(ROWS) == ROWS
    assert paths.cautions == ()


@pytest.mark.parametrize("call", [{"computed": True}, {"maps": True}])
def test_a_change_of_the_path_is_said(store, call):
    store.put(GPU, ROWS)
    paths = FeaturePaths(store, KEY, OWN)
    assert paths.choose(ROWS).pooled.missing(ROWS) == []
    assert paths.choose(ROWS, **call).pooled.missing(ROWS) == ROWS
    # Both of them now, and the own path alone from now on.
    assert paths.choose(ROWS).pooled.missing(ROWS) == ROWS
    assert [caution.code for caution in paths.cautions] == ["feature-path"] * 2
    assert "Features of two paths were used" in paths.cautions[1].sentence
