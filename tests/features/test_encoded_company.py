"""Several processes that extract one store at once: they divide the images, and none is encoded twice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evalfm.data.manifest import read_data
from evalfm.data.phantom import make_phantom
from evalfm.errors import EvalfmError
from evalfm.features import extraction_plan, leases
from evalfm.features.addresses import Addresses
from evalfm.features.encoded import ATTEMPTS, EncodedSource
from evalfm.features.leases import LeaseFolder, Leases, bucket_of, lease_name
from evalfm.features.memory import MemoryBudget
from evalfm.features.segment import INDEX, segment_names
from evalfm.features.segment_format import Block, BlockKind, IndexReader
from evalfm.features.segment_writer import SegmentWriter
from evalfm.features.store import FeatureStore
from evalfm.progress import Silent

IMAGES = 200
ROOM = 10**8
LOOKS = 150
"""At a second between two, more than twice what makes a holder count as dead."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "radiographs"
    make_phantom(folder, n=IMAGES, size=64)
    return folder


class Company:
    """Processes that begin together once all of them are ready."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.children: list[subprocess.Popen[str]] = []

    def add(self, first: int = 0, last: int = IMAGES, *, maps: str = "", memory: int = ROOM, seconds: float = 0.02):
        asked = {"rows": list(range(first, last)), "maps": maps, "memory": memory, "seconds": seconds}
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        child = Path(__file__).with_name("company_child.py")
        self.children.append(
            subprocess.Popen(
                [sys.executable, str(child), str(self.folder), str(self.data), json.dumps(asked)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return self.children[-1]

    def go(self) -> None:
        for child in self.children:
            assert child.stdout.readline() == "ready\n"
        for child in self.children:
            child.stdin.write("go\n")
            child.stdin.flush()

    def told(self) -> list[dict[str, Any]]:
        outputs = [child.communicate(timeout=120)[0] for child in self.children]
        assert [child.returncode for child in self.children] == [0] * len(self.children)
        return [json.loads(output.splitlines()[-1]) for output in outputs]

    def stored(self, kind: str) -> Counter[bytes]:
        """How often each address stands in the indexes of all segments."""
        found: Counter[bytes] = Counter()
        (folder,) = self.folder.glob(f"*/*/*/{kind}")
        for name in segment_names(folder):
            for block in IndexReader(folder / f"{name}{INDEX}").read():
                assert isinstance(block, Block)
                if block.kind == BlockKind.ROWS:
                    found.update(entry.tobytes() for entry in block.entries["address"])
        return found

    def once(self, kind: str) -> bool:
        stored = self.stored(kind)
        return len(stored) == IMAGES and set(stored.values()) == {1}

    def leftovers(self) -> list[str]:
        return [path.name for path in self.folder.glob("*/*/*/leases/*")]


@pytest.fixture
def company(tmp_path: Path, data: Path):
    company = Company(tmp_path, data)
    yield company
    for child in company.children:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


@pytest.fixture
def alone(company, make_encoder):
    """What a process gets that comes later; it must find everything in the store."""

    def later(first: int = 0, last: int = IMAGES, *, maps: str = "", memory: int = ROOM) -> str:
        store, budget = FeatureStore(company.folder), MemoryBudget({"host": memory})
        manifest = read_data(company.data)
        with EncodedSource(make_encoder(), manifest, store, maps=maps or "auto", batch_size=4, memory=budget) as source:
            features = source.features(range(first, last), maps=bool(maps))
            assert source.encoded_images == (IMAGES if maps == "stream" else 0)
        arrays = [each.float().numpy().tobytes() for each in (features.pooled, *features.maps)]
        return hashlib.sha256(b"".join(arrays)).hexdigest()

    return later


def test_two_processes_divide_the_images_and_each_gets_all(company, alone):
    for _ in range(2):
        company.add()
    company.go()
    one, two = company.told()
    assert one["encoded"] + two["encoded"] == IMAGES
    assert [one["here"], two["here"]] == [one["encoded"], two["encoded"]]
    assert min(one["encoded"], two["encoded"]) >= IMAGES // 5
    assert company.once("pooled")
    assert one["digest"] == two["digest"] == alone()
    assert company.leftovers() == []


def test_different_rows_of_one_cohort_are_encoded_once_too(company, alone):
    company.add(0, 140)
    company.add(60, 200)
    company.go()
    one, two = company.told()
    assert one["encoded"] + two["encoded"] == IMAGES
    assert company.once("pooled")
    assert alone(0, 140) == one["digest"]
    assert alone(60, 200) == two["digest"]


def test_pooled_features_beside_stored_maps(company, alone):
    company.add()
    company.add(maps="store", memory=0)
    company.go()
    pooled, maps = company.told()
    # Maps of all images by one, and pooled features with them where the other had not been there.
    assert maps["encoded"] == IMAGES
    assert pooled["encoded"] <= IMAGES
    assert company.once("pooled")
    assert company.once("maps")
    assert [alone(), alone(maps="store", memory=0)] == [pooled["digest"], maps["digest"]]


def test_maps_in_two_memories_stand_beside_the_pooled_features_of_the_store(company, alone):
    for _ in range(2):
        company.add(maps="stream", seconds=0.01)
    company.go()
    told = company.told()
    assert [each["encoded"] for each in told] == [IMAGES, IMAGES]
    assert company.once("pooled")
    assert told[0]["digest"] == told[1]["digest"] == alone(maps="stream")


@pytest.mark.skipif(os.name != "posix", reason="kills are those of POSIX")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_who_remains_does_the_work_of_who_was_killed(company, alone, kind):
    dies, lives = company.add(seconds=0.05), company.add(seconds=0.05)
    company.go()
    for line in dies.stdout:
        if int(line) >= 40:
            break
    dies.send_signal(kind)
    encoded_by_dead = 40 + len(dies.communicate()[0].split()) * 4
    assert dies.returncode != 0
    company.children.remove(dies)
    (told,) = company.told()
    # No row that was committed was encoded again, and what the dead had not committed was.
    assert company.once("pooled")
    assert IMAGES - encoded_by_dead <= told["encoded"] < IMAGES
    assert alone() == told["digest"]
    assert company.leftovers() == []
    assert lives.returncode == 0


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def source(tmp_path, make_encoder, make_radiographs, monkeypatch):
    monkeypatch.setattr(extraction_plan, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(extraction_plan, "LOOKING_SHARE", 1.0)
    store, memory, heard = FeatureStore(tmp_path), MemoryBudget({"host": ROOM}), Heard()
    images = make_radiographs(range(10))
    source = EncodedSource(make_encoder(), images, store, batch_size=2, progress=heard, memory=memory)
    # For the tests to ask what was said, and to take leases themselves.
    source.images, source.said, source.leases = images, heard.said, store.cache(source.encoder.key).leases
    with source:
        yield source


def buckets(source: EncodedSource, rows: range) -> dict[int, int]:
    return {bucket_of(address): 1 for address in Addresses(source.images).of(rows)}


def test_other_threads_are_served_while_one_waits_and_waiting_is_no_attempt(source):
    others = Leases(source.leases)
    others.claim(buckets(source, range(5, 10)), 100)
    got: list[torch.Tensor] = []
    thread = threading.Thread(daemon=True, target=lambda: got.append(source.features(range(10), maps=True).pooled))
    thread.start()
    # Here the other thread computes or waits; both end, because it never waits with the lock.
    first = source.features(range(5)).pooled
    for _ in range(3 * ATTEMPTS):
        assert thread.is_alive()
        assert torch.equal(source.features(range(5)).pooled, first)
    others.release(list(buckets(source, range(7, 10))))
    others.close()
    thread.join(60)
    assert torch.equal(got[0][:5], first)
    assert torch.equal(got[0], source.features(range(10)).pooled)
    assert source.encoded_images == 10
    assert source.said.count("counting: waiting for 5 images that another process encodes.") <= 1


def test_it_is_said_once_that_another_process_is_waited_for(source):
    others = Leases(source.leases)
    others.claim(buckets(source, range(4, 10)), 100)
    thread = threading.Thread(daemon=True, target=lambda: source.prefetch(range(10)))
    thread.start()
    for row in range(4, 10):
        while not source.said or source.missing(range(10)) > 10 - row:
            time.sleep(0.005)
        others.release(list(buckets(source, range(row, row + 1))))
    thread.join(60)
    others.close()
    assert not thread.is_alive()
    assert source.encoded_images == 10
    assert len(source.said) == 1
    assert source.said[0].endswith("images that another process encodes.")


@pytest.mark.parametrize("beats", [False, True])
def test_a_dead_process_of_another_machine_is_succeeded_and_a_living_one_waited_for(source, monkeypatch, beats):
    folder = source.leases.path
    folder.mkdir(parents=True)
    owner = folder / "there.owner"
    owner.write_text(f"{'0' * 12} 1 - there 0\n")
    for bucket in buckets(source, range(10)):
        os.link(owner, folder / lease_name(bucket, 0))
    seconds = iter(range(10**6))
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    looks = 0
    is_any_free = LeaseFolder.is_any_free

    def looked(self, wanted):
        nonlocal looks
        looks += 1
        if beats and looks == LOOKS:
            for path in folder.iterdir():
                path.unlink()
        elif beats:
            owner.write_text(f"{'0' * 12} 1 - there {looks}\n")
        return is_any_free(self, wanted)

    monkeypatch.setattr(LeaseFolder, "is_any_free", looked)
    source.prefetch(range(10))
    assert source.encoded_images == 10
    assert looks == LOOKS if beats else 20 < looks <= 62
    assert not folder.exists()


def test_a_store_that_keeps_nothing_is_given_up_after_a_few_attempts(source, monkeypatch):
    monkeypatch.setattr(SegmentWriter, "append", lambda *_, **__: None)
    with pytest.raises(EvalfmError, match="does not keep what is written"):
        source.features(range(10))
    assert source.encoded_images == ATTEMPTS * 10


def test_an_interrupted_extraction_leaves_no_lease(source, monkeypatch):
    encode, calls = source.encoder.encode, []

    def interrupted(*arguments, **keywords):
        calls.append(len(source.leases.held()))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(*arguments, **keywords)

    monkeypatch.setattr(source.encoder, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source.features(range(10))
    assert calls[-1] > 0
    assert source.leases.held() == {}
    monkeypatch.undo()
    source.features(range(10))


def test_a_store_without_hard_links_is_said_once_and_works(source, monkeypatch):
    def refuses(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "link", refuses)
    source.features(range(5))
    source.features(range(10))
    assert source.encoded_images == 10
    assert [said for said in source.said if "without hard links" in said] == source.said
    assert len(source.said) == 1
