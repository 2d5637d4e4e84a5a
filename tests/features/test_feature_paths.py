"""Stored features of several paths: the own one, or another whole, and never two of them without a word."""

from __future__ import annotations

import pytest
import torch

from evalfm.features.feature_paths import FeaturePaths
from evalfm.features.store import FeatureStore

KEY = "0" * 64
OWN, GPU = "float32-cpu", "float32-cuda"
NAMES = [f"{number:064x}" for number in range(6)]


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
    store.put(OWN, NAMES)
    store.put(GPU, NAMES)
    paths = FeaturePaths(store, KEY, OWN)
    assert value(paths.choose(NAMES), NAMES) == {float(len(OWN))}
    assert paths.cautions == ()


def test_another_path_that_holds_everything_is_used_and_said(store):
    store.put(OWN, NAMES[:3])
    store.put(GPU, NAMES)
    paths = FeaturePaths(store, KEY, OWN)
    assert value(paths.choose(NAMES), NAMES) == {float(len(GPU))}
    # And so for what the own path would hold, from now on.
    assert value(paths.choose(NAMES[:2]), NAMES[:2]) == {float(len(GPU))}
    (caution,) = paths.cautions
    assert caution.code == "feature-path"
    assert "float32-cuda were used in place of float32-cpu" in caution.sentence


def test_a_path_that_lacks_one_image_or_its_maps_is_not_used(store):
    store.put(GPU, NAMES[:5])
    assert FeaturePaths(store, KEY, OWN).choose(NAMES).pooled.missing(NAMES) == NAMES
    store.put(GPU, NAMES[5:])
    assert FeaturePaths(store, KEY, OWN).choose(NAMES).pooled.missing(NAMES) == []
    paths = FeaturePaths(store, KEY, OWN)
    assert paths.choose(NAMES, maps=True).pooled.missing(NAMES) == NAMES
    assert paths.missing_maps(NAMES) == 6
    store.put(GPU, NAMES[:4], maps=True)
    assert paths.missing_maps(NAMES) == 2
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
    store.put(other, NAMES)
    assert (FeaturePaths(store, KEY, own).choose(NAMES).pooled.missing(NAMES) == []) == used


def test_what_is_computed_in_any_case_is_never_mixed_with_another_path(store):
    store.put(GPU, NAMES)
    paths = FeaturePaths(store, KEY, OWN)
    assert paths.choose(NAMES, computed=True).pooled.missing(NAMES) == NAMES
    assert paths.cautions == ()


@pytest.mark.parametrize("call", [{"computed": True}, {"maps": True}])
def test_a_change_of_the_path_is_said(store, call):
    store.put(GPU, NAMES)
    paths = FeaturePaths(store, KEY, OWN)
    assert paths.choose(NAMES).pooled.missing(NAMES) == []
    assert paths.choose(NAMES, **call).pooled.missing(NAMES) == NAMES
    # Both of them now, and the own path alone from now on.
    assert paths.choose(NAMES).pooled.missing(NAMES) == NAMES
    assert [caution.code for caution in paths.cautions] == ["feature-path"] * 2
    assert "Features of two paths were used" in paths.cautions[1].sentence
