"""Leases: one holder for each bucket, whoever races for it, and none of the dead for long."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from evalfm.data.work_folders import machine, process_start
from evalfm.features import leases
from evalfm.features.leases import BUCKETS, LeaseFolder, Leases, bucket_of, lease_name, sharing_of

NOBODY = 2**30
"""No process has such a number."""
ALL = dict.fromkeys(range(10), 1)


@pytest.fixture
def folder(tmp_path: Path) -> LeaseFolder:
    return LeaseFolder(tmp_path / "leases")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Seconds that pass when a test says so."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def leave(folder: LeaseFolder, who: str, names: list[str]) -> Path:
    """Leases as another process has left them; the file of their holder."""
    folder.path.mkdir(parents=True, exist_ok=True)
    owner = folder.path / f"{len(list(folder.path.iterdir()))}.owner"
    owner.write_text(f"{who} another 000000000000\n")
    for name in names:
        os.link(owner, folder.path / name)
    return owner


def names(folder: LeaseFolder) -> list[str]:
    return sorted(path.name for path in folder.path.glob("*.[0-9]*"))


def wait(folder: LeaseFolder, clock: SimpleNamespace, seconds: float) -> bool:
    """Look every half second, as whoever waits does; whether a bucket could be taken in the end."""
    for _ in range(int(2 * seconds)):
        clock.now += 0.5
        folder.is_any_free([1])
    return folder.is_any_free([1])


def test_buckets_are_taken_in_order_until_there_is_enough(folder: LeaseFolder) -> None:
    with Leases(folder) as one, Leases(folder) as two:
        assert one.claim({7: 3, 2: 3, 5: 3}, 4) == [7, 2]
        assert one.claim({7: 3, 2: 3, 5: 3}, 1) == [5]
        assert two.claim({7: 3, 2: 3, 5: 3, 9: 1}, 100) == [9]
        assert not folder.is_any_free([7, 9])
        assert folder.is_any_free([7, 8])
        one.release([2, 5, 400])
        assert two.claim({7: 3, 2: 3, 5: 3}, 100) == [2, 5]
        assert two.claim({7: 3}, 1) == []
    assert not folder.path.exists()


def test_few_images_make_few_files_and_none_are_left(folder: LeaseFolder) -> None:
    with Leases(folder) as held:
        assert not folder.path.exists()
        held.claim(dict.fromkeys(map(bucket_of, "abc"), 1), 100)
        assert len(list(folder.path.iterdir())) == 4
    assert not folder.path.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_gives_all_leases_back(folder: LeaseFolder, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with Leases(folder) as held:
            held.claim(ALL, 100)
            assert len(folder.held()) == len(ALL)
            raise error

    with pytest.raises(error):
        interrupted()
    assert folder.held() == {}


def test_an_interrupt_amid_a_claim_leaves_no_lease(folder: LeaseFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def interrupted(source: Path, target: Path) -> None:
        link(source, target)
        if len(folder.held()) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", interrupted)
    with Leases(folder) as others, Leases(folder) as held:
        others.claim({50: 1}, 1)
        with pytest.raises(KeyboardInterrupt):
            held.claim(ALL, 100)
        assert len(folder.held()) == 3
        held.close()
        assert folder.held().keys() == {50}
    assert not folder.path.exists()


def test_who_was_taken_for_dead_goes_on_under_a_new_name(folder: LeaseFolder) -> None:
    with Leases(folder) as held:
        held.claim({1: 1}, 1)
        for path in folder.path.iterdir():
            path.unlink()
        folder.path.rmdir()
        assert held.claim({2: 1}, 1) == [2]
        assert names(folder) == ["0002.0"]
    assert not folder.path.exists()


def test_a_dead_process_of_this_machine_is_succeeded_at_once(folder: LeaseFolder) -> None:
    leave(folder, f"{machine()} {NOBODY} -", [lease_name(3, 0), lease_name(4, 2)])
    assert folder.is_any_free([3])
    with Leases(folder) as held, Leases(folder) as late:
        assert held.claim({3: 1, 4: 1}, 2) == [3, 4]
        assert names(folder) == ["0003.0", "0003.1", "0004.2", "0004.3"]
        assert late.claim({3: 1, 4: 1}, 2) == []
        held.release([3])
        assert names(folder) == ["0004.2", "0004.3"]
        assert late.claim({3: 1}, 2) == [3]
        assert names(folder) == ["0003.0", "0004.2", "0004.3"]
    assert not folder.path.exists()


@pytest.mark.skipif(not process_start(os.getpid()), reason="this system does not tell when a process began")
def test_a_number_that_was_given_to_another_process_is_no_sign_of_life(folder: LeaseFolder) -> None:
    leave(folder, f"{machine()} {os.getpid()} {process_start(os.getpid())}", [lease_name(1, 0)])
    assert not folder.is_any_free([1])
    leave(folder, f"{machine()} {os.getpid()} 1", [lease_name(2, 0)])
    assert folder.is_any_free([2])


@pytest.mark.skipif(os.name != "posix", reason="kills are those of POSIX")
def test_a_killed_process_is_dead_before_its_parent_asks_for_it(folder: LeaseFolder) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    leave(folder, f"{machine()} {process.pid} {process_start(process.pid) or '-'}", [lease_name(1, 0)])
    assert not folder.is_any_free([1])
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        if process_start(process.pid):
            assert folder.is_any_free([1])
    finally:
        process.wait()
    assert folder.is_any_free([1])


@pytest.mark.parametrize(
    "who",
    [f"{'0' * 12} {os.getpid()} -", f"{machine()} {os.getpid()} -", "", "garbage"],
    ids=["elsewhere", "here", "nothing", "garbage"],
)
def test_who_stands_still_is_dead_after_a_minute_of_the_one_who_waits(
    folder: LeaseFolder, clock: SimpleNamespace, who: str
) -> None:
    owner = leave(folder, who.replace(" -", f" {process_start(os.getpid()) or '-'}"), [lease_name(1, 0)])
    assert not wait(folder, clock, 59)
    owner.write_text("another beat")
    assert not wait(folder, clock, 59)
    assert wait(folder, clock, 2)


def test_a_beating_heart_is_waited_for(folder: LeaseFolder, clock: SimpleNamespace) -> None:
    owner = leave(folder, f"{'0' * 12} {NOBODY} -", [lease_name(1, 0)])
    for beat in range(30):
        assert not wait(folder, clock, 20)
        owner.write_text(f"{'0' * 12} {NOBODY} - another {beat:012d}\n")
    assert Leases(folder).claim({1: 1}, 1) == []


def test_time_in_which_nobody_could_look_does_not_count(folder: LeaseFolder, clock: SimpleNamespace) -> None:
    leave(folder, f"{'0' * 12} 1 -", [lease_name(1, 0)])
    assert not folder.is_any_free([1])
    clock.now += 3600
    assert not folder.is_any_free([1])
    assert wait(folder, clock, 60)


def test_the_heart_beats_as_long_as_leases_are_open(folder: LeaseFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    with Leases(folder) as held:
        held.claim({1: 1}, 1)
        lease = folder.path / lease_name(1, 0)
        first = lease.read_bytes()
        deadline = time.monotonic() + 30
        while len({first, lease.read_bytes()}) == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        beat = lease.read_bytes()
    assert beat != first
    assert len(beat) == len(first)
    assert beat.split()[:4] == first.split()[:4]
    for thread in threading.enumerate():
        if thread.name == "evalfm-leases":
            thread.join(30)
            assert not thread.is_alive()


class LateView(LeaseFolder):
    """Shows what there was before something happened: the names, or whether the holder of one is dead."""

    def __init__(self, path: Path, happens, after: str = "held") -> None:
        super().__init__(path)
        self.happens, self.after = happens, after

    def held(self, **keywords):
        seen = super().held(**keywords)
        self.seen("held")
        return seen

    def is_free(self, *arguments):
        free = super().is_free(*arguments)
        self.seen("is_free")
        return free

    def seen(self, what: str) -> None:
        if what == self.after:
            happens, self.happens = self.happens, None
            if happens is not None:
                happens()


@pytest.mark.parametrize("after", ["held", "is_free"])
def test_who_saw_a_dead_holder_too_late_does_not_join_the_new_one(folder: LeaseFolder, after: str) -> None:
    """Between its look and its lease another took the bucket over and gave it back, and a third began anew."""
    leave(folder, f"{machine()} {NOBODY} -", [lease_name(1, 0)])
    third = Leases(folder)

    def happens() -> None:
        with Leases(folder) as second:
            assert second.claim({1: 1}, 1) == [1]
        assert third.claim({1: 1}, 1) == [1]
        assert names(folder) == ["0001.0"]

    with third, Leases(LateView(folder.path, happens, after)) as first:
        assert first.claim({1: 1}, 1) == []
        assert names(folder) == ["0001.0"]


def test_who_saw_nobody_too_early_does_not_join_a_higher_generation(folder: LeaseFolder) -> None:
    other = Leases(folder)

    def happens() -> None:
        owner = leave(folder, f"{machine()} {NOBODY} -", [lease_name(1, 0)])
        assert other.claim({1: 1}, 1) == [1]
        (folder.path / lease_name(1, 0)).unlink()
        owner.unlink()
        assert names(folder) == ["0001.1"]

    with other, Leases(LateView(folder.path, happens)) as first:
        assert first.claim({1: 1}, 1) == []
        assert names(folder) == ["0001.1"]


def test_who_was_taken_for_dead_does_not_give_back_what_is_anothers(folder: LeaseFolder) -> None:
    with Leases(folder) as slow, Leases(folder) as other:
        slow.claim({1: 1}, 1)
        (folder.path / lease_name(1, 0)).unlink()
        assert other.claim({1: 1}, 1) == [1]
        slow.release([1])
        assert names(folder) == ["0001.0"]


def test_leases_that_the_dead_have_left_are_tidied_up_with_the_own(folder: LeaseFolder) -> None:
    leave(folder, f"{machine()} {NOBODY} -", [lease_name(bucket, 0) for bucket in range(20, 40)])
    kept = leave(folder, f"{'0' * 12} 1 -", [lease_name(50, 0)])
    with Leases(folder) as held:
        held.claim({1: 1}, 1)
    assert sorted(folder.path.iterdir()) == [folder.path / lease_name(50, 0), kept]


def test_a_lease_that_was_made_although_the_answer_was_lost_is_ones_own(
    folder: LeaseFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def lost(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    with Leases(folder) as held:
        monkeypatch.setattr(os, "link", lost)
        assert held.claim({1: 1}, 1) == [1]


def test_where_there_are_no_hard_links_everybody_gets_everything(
    folder: LeaseFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "link", refuses)
    with Leases(folder) as one, Leases(folder) as two:
        assert one.claim(ALL, 4) == two.claim(ALL, 4) == [0, 1, 2, 3]
        assert not folder.divides
        assert folder.is_any_free([1])
    assert not folder.path.exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), Leases(LeaseFolder(tmp_path / "file" / "leases")) as held:
        held.claim({1: 1}, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_gives_nothing_back(folder: LeaseFolder) -> None:
    with Leases(folder) as held:
        held.claim({1: 1}, 1)
        child = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("leases_child.py")), "fork", str(folder.path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert child.stdout.split() == ["kept"]


@pytest.mark.skipif(os.name != "posix", reason="the children end as if they were killed")
def test_of_many_that_race_one_gets_each_bucket_also_after_a_death(folder: LeaseFolder) -> None:
    """Eight processes of two threads each; whoever holds a bucket makes a file of its own that nobody else may meet."""
    (folder.path.parent / "holding").mkdir(parents=True)
    leave(folder, f"{machine()} {NOBODY} -", [lease_name(bucket, 0) for bucket in range(8)])
    children = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("leases_child.py")), "race", str(folder.path), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    told = [json.loads(child.communicate(timeout=120)[0]) for child in children]
    assert [each["met"] for each in told] == [[]] * 8
    assert sum(each["held"] for each in told) > 100
    # Half of them died holding some, and others took these over.
    assert sum(each["died"] for each in told) == 4
    assert sum(each["generations"] for each in told) > 0
    with Leases(folder) as last:
        assert len(last.claim(dict.fromkeys(range(8), 1), BUCKETS)) == 8


def test_equal_images_share_a_bucket_and_frames_of_a_file_few() -> None:
    assert bucket_of("a" * 64) == bucket_of("a" * 64)
    assert 450 < len({bucket_of(f"{number:064x}") for number in range(5000)}) <= BUCKETS
    assert sharing_of("address", "one/film.png") == sharing_of("address", "another.png")
    frames = [sharing_of(f"frame {number}", f"ct.dcm#{number}") for number in range(96)]
    assert len(set(frames)) == 3
    assert frames[:32] == [frames[0]] * 32
    items = {sharing_of(f"item {number}", f"set.npz#train_images/{number}") for number in range(64)}
    assert len(items) == 2
    assert items.isdisjoint(
        {sharing_of("item", "set.npz#test_images/3"), sharing_of("item", "other.npz#train_images/3")}
    )
    assert sharing_of("a", "set.npz#one") != sharing_of("b", "set.npz#two")
