"""An encoder over a manifest: each image once, the same values however they were come by."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from evalfm.data.geometry import Geometry
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.features import map_costs, segment_writer
from evalfm.features.encoded import EncodedSource
from evalfm.features.feature_arrays import FeatureArrays
from evalfm.features.forward import automatic_batch_size
from evalfm.features.map_costs import DiskRates
from evalfm.features.memory import MemoryBudget
from evalfm.features.store import FeatureStore, estimate_bytes
from evalfm.features.tiers import pack

MAP_BYTES = 2 * (64 * 8 * 8 + 32 * 4 * 4)
ROW_BYTES = MAP_BYTES + 4 * 6
ROOM, NO_ROOM = 10**7, 0


@pytest.fixture
def open_source(tmp_path, make_encoder, make_radiographs):
    """Opens a source on radiographs numbered 0 … 9, each time as a new process would."""
    opened = []

    def open_(radiographs=None, encoder=None, budget=None, memory=ROOM, **keywords):
        radiographs = radiographs if radiographs is not None else make_radiographs(range(10))
        encoder = encoder if encoder is not None else make_encoder()
        store = FeatureStore(tmp_path / "store", budget)
        budget_of_memory = MemoryBudget({"host": memory})
        source = EncodedSource(encoder, radiographs, store, memory=budget_of_memory, **keywords)
        # For the tests to ask what was read and taken.
        source.images, source.budget = radiographs, budget_of_memory
        opened.append(source)
        return source

    yield open_
    for source in opened:
        source.close()


def assert_same(features, expected):
    torch.testing.assert_close(features.pooled, expected.pooled, rtol=0, atol=1e-5)
    for layer, reference in zip(features.maps, expected.maps, strict=True):
        torch.testing.assert_close(layer, reference, rtol=0, atol=0)


@pytest.mark.parametrize("maps", ["store", "stream"])
def test_features_are_those_of_the_encoder_in_the_order_asked(open_source, make_encoder, compute, maps):
    source = open_source(maps=maps, batch_size=3)
    rows = [7, 2, 2, 9, 0, 7]
    features = source.features(rows, maps=True)
    assert_same(features, compute(make_encoder(), source.images, rows))
    assert features.pooled.dtype == torch.float32
    assert [layer.dtype for layer in features.maps] == [torch.half] * 2
    assert source.encoded_images == 4
    assert source.encoder_calls == 2
    assert source.features(rows).maps == ()


WAYS = {
    "stored": {"maps": "store", "memory": NO_ROOM},
    "stored, in memory": {"maps": "store", "memory": ROOM},
    "stored, partly in memory": {"maps": "store", "memory": 4 * ROW_BYTES},
    "computed": {"maps": "stream", "memory": NO_ROOM},
    "computed, in memory": {"maps": "stream", "memory": ROOM},
    "computed, partly in memory": {"maps": "stream", "memory": 4 * ROW_BYTES},
    "computed from prepared images": {"maps": "stream", "memory": NO_ROOM, "cache_images": True},
}


@pytest.mark.parametrize("gain", [1.0, 50_000.0])
@pytest.mark.parametrize("way", WAYS)
def test_features_are_equal_to_the_bit_in_every_tier(open_source, make_encoder, compute, way, gain):
    source = open_source(encoder=make_encoder(gain=gain), batch_size=4, **WAYS[way])
    source.prefetch(range(10), maps=True)
    expected = compute(make_encoder(gain=gain), source.images, range(10))
    if gain > 1:
        # Where the greatest values leave half precision, an image keeps them all.
        results = make_encoder(gain=gain)
        whole = [results.encode(results.prepare(source.images.image(row))[0][None]) for row in range(10)]
        levels = zip(*(result.maps for result in whole), strict=True)
        expected_maps = [torch.cat([pack(each).float() for each in level]) for level in levels]
        assert float(expected_maps[0].max()) > 65504
    else:
        expected_maps = [level.float() for level in expected.maps]
    torch.testing.assert_close(source.features(range(10)).pooled, expected.pooled)
    pooled = source.features(range(10)).pooled
    for rows in ([3, 1, 9, 3], list(range(10)), [7], list(range(10))[::-1]):
        found = source.features(rows, maps=True)
        assert torch.equal(found.pooled, pooled[rows])
        for level, reference in zip(found.maps, expected_maps, strict=True):
            assert torch.equal(level.float(), reference[rows])
    assert not torch.equal(expected_maps[0], expected_maps[0].round())


def test_a_second_opening_makes_no_encoder_call(open_source):
    first = open_source(maps="store").features(range(10), maps=True)
    again = open_source(maps="store")
    features = again.features(range(10), maps=True)
    assert (again.encoder_calls, again.encoded_images, again.images.read) == (0, 0, [])
    assert torch.equal(features.pooled, first.pooled)
    assert torch.equal(features.maps[1], first.maps[1])


def test_more_rows_cost_those_rows_and_subsets_nothing(open_source, make_radiographs):
    open_source().features(range(10))
    more = open_source(make_radiographs([*range(5), 40, 41, *range(5, 10), 40]))
    more.features(range(13))
    assert more.encoded_images == 2
    assert sorted(more.images.read) == [5, 6]
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
    assert not list(tmp_path.glob("store/*/*/*/maps/*"))
    files = {path: path.read_bytes() for path in tmp_path.glob("store/*/*/*/pooled/*.data")}
    assert files
    with_maps = source.features(range(10), maps=True)
    assert source.encoded_images == 20
    assert torch.equal(with_maps.pooled, pooled)
    assert {path: path.read_bytes() for path in tmp_path.glob("store/*/*/*/pooled/*.data")} == files


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


@pytest.mark.parametrize("memory", [NO_ROOM, ROOM])
def test_a_flipped_byte_is_computed_again_with_a_warning(open_source, tmp_path, memory):
    before = open_source(maps="store", batch_size=2).features(range(10), maps=True)
    (path,) = tmp_path.glob("store/*/*/*/maps/*.data")
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(bytes(content))
    source = open_source(maps="store", batch_size=2, memory=memory)
    source.expect(range(10), maps=True)
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
    assert_same(features, compute(make_encoder(), source.images, range(10)))
    assert max(source.encoder.batches) <= batch_size
    assert source.encoder_calls == -(-10 // batch_size)
    # A run says it; of features that were all stored there is none to say.
    assert source.batch_size == batch_size
    again = open_source(maps="store", batch_size=batch_size)
    again.features(range(10), maps=True)
    assert again.batch_size is None


def test_the_automatic_batch_follows_the_input(make_encoder):
    encoder = make_encoder()
    encoder.input_size = (224, 224)
    assert automatic_batch_size(encoder) == 32
    encoder.input_size = (518, 518)
    assert automatic_batch_size(encoder) == 5


def test_an_image_that_cannot_be_read_keeps_the_rows_committed_before_it(open_source, make_radiographs, monkeypatch):
    monkeypatch.setattr(segment_writer, "COMMIT_BYTES", 1)
    source = open_source(make_radiographs(range(10), broken=frozenset({9})), batch_size=2)
    source.encoder.seconds = 0.05
    with pytest.raises(EvalfmError, match="row 9 is truncated"):
        source.features(range(10))
    mended = open_source(batch_size=2)
    mended.features(range(10))
    assert 2 <= mended.encoded_images < 10


def test_an_encoder_that_breaks_its_promise_is_refused(open_source, make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.pooled_dim = 7
    with pytest.raises(EvalfmError, match=r"counting gives \(6, 64, 32\) channels and declares \(7, 64, 32\)"):
        open_source(encoder=encoder).features([0])
    assert not list(tmp_path.glob("store/**/*.data"))


def test_the_automatic_policy_follows_the_budget(open_source):
    source = open_source(budget=10 * MAP_BYTES, memory=NO_ROOM)
    assert estimate_bytes(source, 10) == 10 * ROW_BYTES
    assert source.maps_policy == "store"
    poor = open_source(budget=10 * MAP_BYTES - 1, memory=NO_ROOM)
    assert poor.maps_policy == "stream"
    poor.features(range(10), maps=True)
    assert open_source(maps="store", memory=NO_ROOM).missing(range(10), maps=True) > 0
    source.features(range(10), maps=True)
    # What is stored already is used, whatever the budget is now.
    assert open_source(budget=0).maps_policy == "store"


@pytest.mark.parametrize(
    ("disk", "seconds", "policy"),
    [(1e4, 0.0, "stream"), (1e9, 0.02, "store"), (1e4, 2.0, "store")],
    ids=["slow disk", "slow encoder", "slower encoder"],
)
@pytest.mark.parametrize("memory", [NO_ROOM, ROOM])
def test_the_automatic_policy_takes_what_costs_less_time(
    open_source, make_encoder, monkeypatch, tmp_path, disk, seconds, policy, memory
):
    monkeypatch.setattr(map_costs, "NEGLIGIBLE_BYTES", 0)
    monkeypatch.setattr(map_costs, "disk_rates", lambda folder: DiskRates(disk, disk))
    monkeypatch.setattr("evalfm.features.running_encoder.seconds_per_image", lambda encoder: seconds)
    source = open_source(memory=memory)
    source.expect(range(10), maps=True, passes=20)
    assert source.maps_policy == policy
    assert source.map_costs.policy == policy
    assert source.map_costs.recompute >= seconds
    assert source.map_costs.read == MAP_BYTES / disk
    source.prefetch(range(10), maps=True)
    source.features(range(10), maps=True)
    assert bool(list(tmp_path.glob("store/*/*/*/maps/*.data"))) == (policy == "store")


def test_the_cost_is_that_of_the_running_pipeline(open_source, monkeypatch, make_encoder):
    monkeypatch.setattr(map_costs, "NEGLIGIBLE_BYTES", 0)
    monkeypatch.setattr("evalfm.features.running_encoder.seconds_per_image", lambda encoder: pytest.fail("no trial"))
    encoder = make_encoder()
    encoder.seconds = 0.02
    source = open_source(encoder=encoder, batch_size=2, memory=NO_ROOM)
    source.features(range(10))
    source.expect(range(10), maps=True)
    assert 0.01 <= source.map_costs.recompute < 0.2


@pytest.mark.parametrize("maps", ["store", "stream"])
def test_what_memory_holds_is_read_or_computed_once(open_source, monkeypatch, maps):
    open_source(maps=maps, memory=NO_ROOM).prefetch(range(10), maps=True)
    source = open_source(maps=maps)
    source.expect(range(10), maps=True)
    assert source.holds(range(10))
    for rows in (range(0, 4), range(2, 8), range(10), range(10)):
        source.features(rows, maps=True)
    assert source.encoded_images == (0 if maps == "store" else 10)
    monkeypatch.setattr(FeatureArrays, "read", lambda *_: pytest.fail("nothing is read twice"))
    source.features(range(10), maps=True)


def test_memory_is_given_back_and_taken_again(open_source):
    source = open_source(maps="stream")
    budget = source.budget
    source.prefetch(range(10), maps=True)
    assert budget.taken("host") >= 10 * ROW_BYTES
    before = source.features(range(10), maps=True)
    source.close()
    assert budget.taken("host") == 0
    after = source.features(range(10), maps=True)
    assert torch.equal(before.maps[0], after.maps[0])


def test_features_of_another_path_are_used_whole_and_said(open_source, make_encoder):
    on_gpu = open_source(encoder=make_encoder(device="cuda"))
    on_gpu.features(range(8))
    here = open_source()
    here.prefetch(range(10))
    assert (here.encoded_images, here.cautions) == (10, ())
    again = open_source(encoder=make_encoder(gain=2.0, device="cuda"))
    again.features(range(10), maps=True)
    there = open_source(encoder=make_encoder(gain=2.0), maps="store")
    assert there.missing(range(10)) == 0
    there.features(range(10))
    assert there.encoded_images == 0
    assert [caution.code for caution in there.cautions] == ["feature-path"]


def test_two_paths_are_never_mixed_without_a_word(open_source, make_encoder, make_radiographs):
    open_source(encoder=make_encoder(device="cuda")).features(range(10))
    source = open_source(make_radiographs(range(14)), maps="store", memory=NO_ROOM)
    source.features(range(10))
    assert source.encoded_images == 0
    # Four more: those of the first ten come from the own path from now on, like theirs.
    source.features(range(14))
    assert source.encoded_images == 14
    assert [caution.code for caution in source.cautions] == ["feature-path"] * 2
    assert "Features of two paths" in source.cautions[1].sentence


def test_streamed_maps_never_stand_beside_pooled_features_of_another_path(open_source, make_encoder):
    open_source(encoder=make_encoder(device="cuda")).features(range(10))
    source = open_source(maps="stream")
    source.prefetch(range(10), maps=True)
    source.features(range(10), maps=True)
    assert source.encoded_images == 10
    assert source.cautions == ()
    assert open_source().missing(range(10)) == 0


def test_maps_over_the_free_disk_are_refused_before_computing(open_source, monkeypatch):
    source = open_source(maps="store")
    monkeypatch.setattr(FeatureStore, "free_bytes", property(lambda self: 1000))
    with pytest.raises(EvalfmError, match=r"--maps stream"):
        source.features(range(10), maps=True)
    assert source.encoder_calls == 0


def test_streaming_decodes_once_when_radiographs_are_cached(open_source, tmp_path):
    expected = open_source(maps="stream", batch_size=4).features(range(10), maps=True)
    cached = open_source(maps="stream", batch_size=4, cache_images=True, memory=NO_ROOM)
    cached.prefetch(range(10), maps=True)
    cached.images.read.clear()
    for _ in range(2):
        features = cached.features(range(10), maps=True)
        for one, other in zip((features.pooled, *features.maps), (expected.pooled, *expected.maps), strict=True):
            assert torch.equal(one, other)
    assert cached.images.read == []
    assert not list(tmp_path.glob("store/*/*/*/maps/*.data"))
    # A later process decodes nothing either; images lie there in their stored depth.
    again = open_source(maps="stream", cache_images=True, memory=NO_ROOM)
    again.features(range(10), maps=True)
    assert again.images.read == []
    (path,) = tmp_path.glob("store/*/*/*/images/*.data")
    assert path.stat().st_size <= 10 * 16 * 16 * 2 + 4096


def test_streaming_keeps_decoded_images_in_memory_as_it_goes(open_source):
    source = open_source(maps="stream", batch_size=4)
    for _ in range(3):
        source.features(range(5), maps=True)
    # Nothing was said of rows to be expected, so their maps have no place in memory.
    assert (source.encoded_images, len(source.images.read)) == (15, 5)


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
    monkeypatch.setattr(again.images, "size", lambda row: pytest.fail("the store knows the size"))
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
