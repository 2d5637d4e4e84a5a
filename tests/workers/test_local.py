import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalfm.errors import EvalfmError
from evalfm.workers import local
from evalfm.workers.cores import usable_cores
from evalfm.workers.job import Advanced, Job, Lost, Message, Raised, Returned, Said
from evalfm.workers.local import LocalCrew

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


@pytest.fixture(scope="module")
def crew() -> Iterator[LocalCrew]:
    sys.path.insert(0, str(ROOT))
    with LocalCrew(("cpu", "cpu")) as made:
        yield made
    sys.path.remove(str(ROOT))


def job(function: str, **arguments: object) -> Job:
    return Job(f"tests.workers.jobs:{function}", arguments, "a job")


def hear(crew: LocalCrew, worker: int) -> list[Message]:
    """What the worker says until its job or itself ends."""
    heard: list[Message] = []
    late = time.monotonic() + 60
    while time.monotonic() < late:
        for number, message in crew.listen(0.2):
            assert number == worker
            heard.append(message)
            if isinstance(message, Returned | Raised | Lost):
                return heard
    raise AssertionError(f"nothing more than {heard}")


def there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_process_has_its_device_and_its_share_of_the_machine(
    crew: LocalCrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = []
    for worker in (0, 1):
        crew.send(worker, job("facts"))
        (end,) = hear(crew, worker)
        assert isinstance(end, Returned)
        facts.append(end.value)
    assert {each["pid"] for each in facts} == set(crew.process_ids)
    assert [each["device"] for each in facts] == ["cpu", "cpu"]
    assert [each["EVALFM_PROCESSES_HERE"] for each in facts] == ["2", "2"]
    assert crew.names == ("CPU process 1", "CPU process 2")
    share = str(max(1, usable_cores() // 2))
    assert [each["OMP_NUM_THREADS"] for each in facts] == [os.environ.get("OMP_NUM_THREADS", share)] * 2


def test_what_a_job_leaves_is_there_for_the_next(crew: LocalCrew) -> None:
    counts = []
    for _ in range(2):
        crew.send(1, job("count"))
        counts.append(hear(crew, 1)[-1])
    assert counts == [Returned(1), Returned(2)]


def test_words_warnings_and_bars_come_as_they_are_said(crew: LocalCrew) -> None:
    crew.send(0, job("talk", items=3))
    assert hear(crew, 0) == [
        Said("one line"),
        Said("Warning: take care"),
        Advanced("work", 0, 3),
        Advanced("work", 3, 3, ended=True),
        Returned(None),
    ]


def test_a_fault_leaves_the_worker_there(crew: LocalCrew) -> None:
    crew.send(0, job("refuse"))
    (end,) = hear(crew, 0)
    assert isinstance(end, Raised)
    assert end.fault.sentence == "This is wrong; do that."
    crew.send(0, job("echo", value=1))
    assert hear(crew, 0) == [Returned(1)]


def test_a_killed_worker_is_heard_of_and_another_takes_its_place(crew: LocalCrew, tmp_path: Path) -> None:
    before = crew.process_ids
    crew.send(0, job("die_until", file=str(tmp_path / "x"), times=1))
    assert hear(crew, 0) == [Lost("was killed (SIGKILL), perhaps for want of memory")]
    crew.restart(0)
    crew.send(0, job("die_until", file=str(tmp_path / "x"), times=1))
    assert hear(crew, 0) == [Returned("alive")]
    assert len(set(before) & set(crew.process_ids)) == 1


def test_what_another_says_while_a_worker_starts_anew_is_kept(crew: LocalCrew, tmp_path: Path) -> None:
    crew.send(0, job("die_until", file=str(tmp_path / "x"), times=1))
    assert isinstance(hear(crew, 0)[-1], Lost)
    crew.send(1, job("echo", value="said meanwhile"))
    crew.restart(0)
    assert hear(crew, 1) == [Returned("said meanwhile")]
    crew.send(0, job("echo", value=2))
    assert hear(crew, 0) == [Returned(2)]


def test_what_the_user_says_of_threads_and_the_working_folder_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with LocalCrew(("cpu",), together=2, folder=tmp_path) as crew:
        crew.send(0, job("facts"))
        (end,) = hear(crew, 0)
    assert isinstance(end, Returned)
    assert (end.value["OMP_NUM_THREADS"], end.value["folder"]) == ("3", str(tmp_path.resolve()))


def test_on_leaving_a_job_gives_back_what_it_holds_and_no_process_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    with LocalCrew(("cpu",)) as crew:
        crew.send(0, job("hold", file=str(tmp_path / "held")))
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        (process,) = crew.process_ids
    assert not (tmp_path / "held").exists()
    assert not there(process)


def test_workers_of_a_killed_process_end_by_themselves(tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from evalfm.workers.job import Job
from evalfm.workers.local import LocalCrew
with LocalCrew(("cpu",)) as crew:
    crew.send(0, Job("tests.workers.jobs:hold", {{"file": {str(tmp_path / "held")!r}}}, "a job"))
    print(crew.process_ids[0], flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
        late = time.monotonic() + 30
        while there(worker) and time.monotonic() < late:
            time.sleep(0.05)
        assert not there(worker)
    assert not (tmp_path / "held").exists()


def test_a_process_that_cannot_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "START", "raise SystemExit('no such library')")
    with (
        pytest.raises(EvalfmError, match=r"A worker process ended with status 1 \(no such library\); leave --devices"),
        LocalCrew(("cpu",)),
    ):
        pass
