"""An encoder over a manifest: each image once, the same values however they were come by."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from evalfm.data.geometry import Geometry
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.features import extraction, segment_writer
from evalfm.features.encoded import EncodedSource
from evalfm.features.extraction import chunk_rows
from evalfm.features.films import FilmMemory
from evalfm.features.forward import automatic_batch_size
from evalfm.features.packing import pack
from evalfm.features.store import FeatureStore, estimate_bytes


@pytest.fixture
def open_source(tmp_path, make_encoder, make_radiographs):
    """Opens a source on radiographs numbered 0 … 9, each time as a new process would."""

    def open_(radiographs=None, encoder=None, budget=None, **keywords):
        radiographs = radiographs if radiographs is not None else make_radiographs(range(10))
        encoder = encoder if encoder is not None else make_encoder()
        source = EncodedSource(encoder, radiographs, FeatureStore(tmp_path / "store", budget), **keywords)
        source.films = radiographs  # For the tests to ask what was read.
        return source

    return open_


def assert_same(features, expected):
    torch.testing.assert_close(features.pooled, expected.pooled, rtol=0, atol=1e-6)
    for layer, reference in zip(features.maps, expected.maps, strict=True):
        torch.testing.assert_close(layer, reference, rtol=0, atol=0)


@pytest.mark.parametrize("maps", ["store", "stream"])
def test_features_are_those_of_the_encoder_in_the_order_asked(open_source, make_encoder, compute, maps):
    source = open_source(maps=maps, batch_size=3)
    rows = [7, 2, 2, 9, 0, 7]
    features = source.features(rows, maps=True)
    assert_same(features, compute(make_encoder(), source.films, rows))
    assert features.pooled.dtype == torch.float32
    assert [layer.dtype for layer in features.maps] == [torch.float32] * 2
    assert source.encoded_images == 4
    assert source.encoder_calls == 2
    assert source.features(rows).maps == ()


def test_stored_and_streamed_maps_are_equal_to_the_bit(open_source, make_encoder):
    stored = open_source(maps="store", batch_size=4).features(range(10), maps=True)
    streamed = open_source(maps="stream", batch_size=4).features(range(10), maps=True)
    for one, other in zip((stored.pooled, *stored.maps), (streamed.pooled, *streamed.maps), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(stored.maps[0], stored.maps[0].round())


def test_a_second_opening_makes_no_encoder_call(open_source):
    first = open_source(maps="store").features(range(10), maps=True)
    again = open_source(maps="store")
    features = again.features(range(10), maps=True)
    assert (again.encoder_calls, again.encoded_images, again.films.read) == (0, 0, [])
    assert torch.equal(features.pooled, first.pooled)
    assert torch.equal(features.maps[1], first.maps[1])


def test_more_rows_cost_those_rows_and_subsets_nothing(open_source, make_radiographs):
    open_source().features(range(10))
    more = open_source(make_radiographs([*range(5), 40, 41, *range(5, 10), 40]))
    more.features(range(13))
    assert more.encoded_images == 2
    assert sorted(more.films.read) == [5, 6]
    subset = open_source(make_radiographs([9, 41, 3]))
    assert torch.equal(subset.features([1]).pooled, more.features([6]).pooled)
    assert subset.encoder_calls == 0


def test_identical_images_are_encoded_once(open_source, make_radiographs):
    source = open_source(make_radiographs([3, 3, 4, 3]))
    pooled = source.features(range(4)).pooled
    assert source.encoded_images == 2
    assert torch.equal(pooled[0], pooled[1])
    assert torch.equal(pooled[0], pooled[3])
    assert not torch.equal(pooled[0], pooled[2])


def test_pooled_alone_touches_no_maps_and_maps_later_leave_pooled_as_it_is(open_source, tmp_path):
    source = open_source(maps="store")
    pooled = source.features(range(10)).pooled
    assert not list(tmp_path.glob("store/*/2/*/maps"))
    files = {path: path.stat().st_ino for path in tmp_path.glob("store/*/2/*/pooled/*")}
    with_maps = source.features(range(10), maps=True)
    assert source.encoded_images == 20
    assert torch.equal(with_maps.pooled, pooled)
    assert {path: path.stat().st_ino for path in tmp_path.glob("store/*/2/*/pooled/*")} == files


def test_another_encoder_never_gets_these_features(open_source, make_encoder):
    one = open_source(encoder=make_encoder(gain=1.0)).features([0]).pooled
    two = open_source(encoder=make_encoder(gain=2.0)).features([0]).pooled
    torch.testing.assert_close(two, 2 * one)


def test_the_same_bytes_read_by_another_rule_are_other_images(open_source, make_radiographs):
    plain = open_source()
    plain.features([0])
    ruled = open_source(make_radiographs(range(10), info=SimpleNamespace(bits=12, unit=None)))
    ruled.features([0])
    assert ruled.encoded_images == 1
    assert ruled.key != plain.key == plain.encoder.key


def test_a_flipped_byte_is_computed_again_with_a_warning(open_source, tmp_path):
    before = open_source(maps="store", batch_size=2).features(range(10), maps=True)
    (path,) = tmp_path.glob("store/*/2/*/maps/*.data")
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(bytes(content))
    source = open_source(maps="store", batch_size=2)
    with pytest.warns(UserWarning, match="damaged"):
        after = source.features(range(10), maps=True)
    assert source.encoded_images == 1
    for one, other in zip(before.maps, after.maps, strict=True):
        assert torch.equal(one, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once_more = open_source(maps="store")
        once_more.features(range(10), maps=True)
    assert once_more.encoder_calls == 0


def test_maps_that_half_precision_cannot_hold_are_kept_whole(open_source, make_encoder, make_radiographs, tmp_path):
    encoder = make_encoder(gain=50_000.0)
    stored = open_source(encoder=encoder, maps="store").features(range(10), maps=True)
    streamed = open_source(encoder=encoder, maps="stream", batch_size=3).features(range(10), maps=True)
    assert all(bool(torch.isfinite(layer).all()) for layer in stored.maps)
    assert float(stored.maps[0].max()) > 65504
    for one, other in zip(stored.maps, streamed.maps, strict=True):
        assert torch.equal(one, other)
    maps = FeatureStore(tmp_path / "store").cache(encoder.key).maps
    dtypes = [[array.dtype for array in maps.layout([digest])] for digest in make_radiographs(range(10)).digests()]
    assert {dtype for row in dtypes for dtype in row} == {"<f4"}


def test_packing_an_image_does_not_depend_on_its_neighbours():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 2, 4, 4, generator=generator) * 100
    maps[1, 0, 0, 0] = -65505.0
    together = pack(maps)
    assert together.dtype == torch.float32
    assert torch.equal(together[[0, 2]], pack(maps[[0, 2]]).float())
    assert pack(maps[[0, 2]]).dtype == torch.float16
    assert torch.equal(together[1], maps[1])
    assert pack(torch.full((1, 1, 1, 1), 65504.0)).dtype == torch.float16


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_the_batch_size_changes_nothing(open_source, make_encoder, compute, batch_size):
    source = open_source(maps="store", batch_size=batch_size, workers=3)
    features = source.features(range(10), maps=True)
    assert_same(features, compute(make_encoder(), source.films, range(10)))
    assert max(source.encoder.batches) <= batch_size
    assert source.encoder_calls == -(-10 // batch_size)


def test_chunks_hold_whole_batches_of_bounded_size(make_encoder):
    assert chunk_rows(32, 0) == 256
    assert chunk_rows(48, 0) == 240
    assert chunk_rows(300, 0) == 300
    assert chunk_rows(8, 10_000_000) == 24
    assert chunk_rows(64, 10_000_000) == 64
    encoder = make_encoder()
    encoder.input_size = (224, 224)
    assert automatic_batch_size(encoder) == 32
    encoder.input_size = (518, 518)
    assert automatic_batch_size(encoder) == 5


def test_decoding_runs_ahead_by_a_bounded_number_of_batches(open_source, make_radiographs, make_encoder):
    radiographs = make_radiographs(range(60))
    ahead = []

    class Watching(make_encoder):
        def encode(self, batch):
            ahead.append(len(radiographs.read) - sum(self.batches))
            return super().encode(batch)

    source = open_source(radiographs, Watching(), batch_size=4, workers=2)
    source.encoder.seconds = 0.005
    source.features(range(60))
    assert max(ahead) <= 4 * (extraction.BATCHES_AHEAD + 1)
    assert len(radiographs.read) == 60


def test_an_image_that_cannot_be_read_keeps_the_rows_committed_before_it(
    open_source, make_radiographs, monkeypatch, tmp_path
):
    monkeypatch.setattr(segment_writer, "COMMIT_BYTES", 1)
    source = open_source(make_radiographs(range(10), broken=frozenset({9})), batch_size=2)
    source.encoder.seconds = 0.05
    with pytest.raises(EvalfmError, match="row 9 is truncated"):
        source.features(range(10))
    assert not list(tmp_path.rglob(".writing-*"))
    mended = open_source(batch_size=2)
    mended.features(range(10))
    assert 2 <= mended.encoded_images < 10


def test_an_encoder_that_breaks_its_promise_is_refused(open_source, make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.pooled_dim = 7
    with pytest.raises(EvalfmError, match=r"counting gives \(6, 64, 32\) channels and declares \(7, 64, 32\)"):
        open_source(encoder=encoder).features([0])
    assert not list(tmp_path.glob("store/*/*/*/*"))


def test_the_automatic_policy_follows_the_budget(open_source):
    bytes_per_image = 2 * (64 * 8 * 8 + 32 * 4 * 4)
    source = open_source(budget=10 * bytes_per_image)
    assert estimate_bytes(source, 10) == 10 * (bytes_per_image + 4 * 6)
    assert source.maps_policy == "store"
    poor = open_source(budget=10 * bytes_per_image - 1)
    assert poor.maps_policy == "stream"
    poor.features(range(10), maps=True)
    assert open_source(maps="store").missing(range(10), maps=True) > 0
    source.features(range(10), maps=True)
    # What is stored already is used, whatever the budget is now.
    assert open_source(budget=0).maps_policy == "store"


def test_maps_over_the_free_disk_are_refused_before_computing(open_source, monkeypatch):
    source = open_source(maps="store")
    monkeypatch.setattr(FeatureStore, "free_bytes", property(lambda self: 1000))
    with pytest.raises(EvalfmError, match=r"--maps stream"):
        source.features(range(10), maps=True)
    assert source.encoder_calls == 0


def test_streaming_decodes_once_when_radiographs_are_cached(open_source, tmp_path, monkeypatch):
    monkeypatch.setattr("evalfm.features.encoded.FILM_MEMORY_BYTES", 0)
    plain = open_source(maps="stream", batch_size=4)
    expected = plain.features(range(10), maps=True)
    plain.features(range(10), maps=True)
    assert len(plain.films.read) == 20
    cached = open_source(maps="stream", batch_size=4, cache_images=True)
    cached.prefetch(range(10), maps=True)
    cached.films.read.clear()
    for _ in range(2):
        features = cached.features(range(10), maps=True)
        for one, other in zip((features.pooled, *features.maps), (expected.pooled, *expected.maps), strict=True):
            assert torch.equal(one, other)
    assert cached.films.read == []
    assert not list(tmp_path.glob("store/*/2/*/maps"))


def test_the_memory_of_radiographs_is_bounded_and_drops_the_least_recently_used():
    memory = FilmMemory(3 * 40)
    radiographs = {name: torch.full((10,), float(number)) for number, name in enumerate("abcd")}
    for name in "abc":
        memory.put(name, radiographs[name])
    assert memory.get("a") is radiographs["a"]
    memory.put("d", radiographs["d"])
    assert [memory.get(name) is not None for name in "abcd"] == [True, False, True, True]
    memory.put("large", torch.zeros(31))
    assert memory.get("large") is None
    assert memory.get("d") is radiographs["d"]


def test_prefetch_leaves_nothing_to_compute(open_source):
    source = open_source(maps="store")
    source.prefetch(range(10), maps=True)
    calls = source.encoder_calls
    source.features(range(10), maps=True)
    assert source.encoder_calls == calls


def test_geometry_is_the_encoders_of_the_stored_size(open_source, monkeypatch):
    source = open_source()
    expected = Geometry.identity((23, 24)).resize((16, 16))
    assert source.geometry(3) == expected
    source.features(range(10))
    again = open_source()
    again.features([3])
    monkeypatch.setattr(again.films, "size", lambda row: pytest.fail("the store knows the size"))
    assert again.geometry(3) == expected


def test_no_rows_give_no_features(open_source):
    features = open_source().features([], maps=True)
    assert features.pooled.shape == (0, 6)
    assert [layer.shape for layer in features.maps] == [(0, 64, 8, 8), (0, 32, 4, 4)]


def test_what_cannot_be_is_said(open_source, make_encoder):
    with pytest.raises(UnknownNameError, match="Did you mean 'stream'"):
        open_source(maps="streaming")
    with pytest.raises(EvalfmError, match="batch size is 0"):
        open_source(batch_size=0)
    with pytest.raises(EvalfmError, match="no spatial maps"):
        open_source(encoder=make_encoder(channels=())).features([0], maps=True)
