"""The way to a cluster where there is none, or none that answers."""

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalfm.errors import EvalfmError
from evalfm.workers import ray_cluster
from evalfm.workers.ray_cluster import NONE_RUNS, Need, connection, most_cores, the_ray
from evalfm.workers.ray_crew import RayCrew

ROOT = Path(__file__).parents[2]
with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install ".[ray]"'
)
QUIET = """
import signal, sys
from evalfm.workers.job import Job, Returned
from evalfm.workers.ray_crew import RayCrew
with RayCrew(address=sys.argv[1] or None, devices=("cpu",), cpus=1) as crew:
    crew.send(0, Job("tests.workers.jobs:variable", {"name": "RAY_USAGE_STATS_ENABLED"}, "a job"))
    while not (heard := crew.listen(1)):
        pass
    print(heard[-1][1])
    import ray
    print(ray.available_resources()["object_store_memory"])
print(ray.is_initialized())
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where somebody takes calls and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_a_node_holds_as_many_workers_as_the_scarcest_thing_allows() -> None:
    node = {"CPU": 16.0, "GPU": 2.0, "memory": 64.0}
    assert Need(1).room(node) == 16
    assert Need(3).room(node) == 5
    assert Need(1, gpus=1).room(node) == 2
    assert Need(10, gpus=1).room(node) == 1
    assert Need(1, memory_bytes=20).room(node) == 3
    assert Need(1, gpus=1).room({"CPU": 8.0}) == 0
    assert Need(1).room({"GPU": 1.0}) == 0


def test_cores_are_shared_out_and_each_node_keeps_one() -> None:
    assert most_cores([{"CPU": 64.0}, {"CPU": 64.0}], 2) == 63
    assert most_cores([{"CPU": 64.0}, {"CPU": 64.0}], 3) == 31
    assert most_cores([{"CPU": 64.0, "GPU": 8.0}, {"CPU": 33.0, "GPU": 8.0}], 16, gpus=1) == 4
    assert most_cores([{"CPU": 2.0}, {"CPU": 2.0}], 2) == 1
    assert most_cores([{"CPU": 1.0}], 1) == 1
    # Where the GPU's node has few cores, the other one's are of no use.
    assert most_cores([{"CPU": 5.0, "GPU": 1.0}, {"CPU": 64.0}], 1, gpus=1) == 4
    # A head that does no work, as many clusters have it.
    assert most_cores([{}, {"CPU": 9.0}], 2) == 4
    assert most_cores([{"CPU": 16.0, "memory": 10.0}], 2, memory_bytes=8) == 1
    assert most_cores([], 1) == 1


def test_what_is_asked_is_said_in_words() -> None:
    assert str(Need(1)) == "1 core"
    assert str(Need(4, 1)) == "4 cores and 1 GPU"
    assert str(Need(4, 1, 2**31)) == "4 cores, 1 GPU and 2 GiB of memory"


def test_without_ray_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EvalfmError, match=r'Ray is not installed .*pip install "evalfm\[ray\]"$'):
        RayCrew().__enter__()


@pytest.mark.parametrize("device", ["mps", ""])
def test_a_device_that_no_cluster_has_is_refused(device: str) -> None:
    with pytest.raises(EvalfmError, match="has no device"):
        RayCrew(devices=tuple(filter(None, [device])))


@with_ray
@pytest.mark.parametrize("address", ["nonsense", "ray://127.0.0.1:10001", "http://127.0.0.1:8265", "127.0.0.1:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    said = rf"^'{address}' is no address of a Ray cluster; write HOST:PORT.*runs on a machine of the cluster"
    with pytest.raises(EvalfmError, match=said), connection(address):
        pass


@with_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379", "127.0.0.1:99999"])
@pytest.mark.parametrize("given", [True, False])
def test_an_address_where_nobody_is_is_told_soon(address: str, given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    if not given:
        monkeypatch.setenv("RAY_ADDRESS", address)
    said = f"^Nothing answers at {address} .*check the address"
    with pytest.raises(EvalfmError, match=said), connection(address if given else None):
        pass
    assert time.monotonic() - begun < 30


@with_ray
def test_who_takes_calls_and_is_no_cluster_is_not_waited_for_long(
    silent: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 2.0)
    begun = time.monotonic()
    with pytest.raises(EvalfmError, match=f"^A Ray cluster at {silent} did not answer within 2 s"), connection(silent):
        pass
    assert time.monotonic() - begun < 30
    assert not the_ray().is_initialized()
    assert capfd.readouterr() == ("", "")


@with_ray
def test_where_no_cluster_runs_one_that_was_asked_for_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    # Another cluster may run here just now, so what Ray would say is looked up.
    assert NONE_RUNS in (Path(ray.__file__).parent / "_private" / "services.py").read_text()
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {NONE_RUNS}.\nexit 3\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(EvalfmError, match=r"^No Ray cluster runs on this machine; start one"), connection("auto"):
        pass


@with_ray
@pytest.mark.skipif(sys.platform != "linux", reason="clusters are tried on Linux")
def test_a_cluster_is_started_for_the_while_and_nothing_is_printed_or_sent(tmp_path: Path) -> None:
    # As under `uv run`, where Ray would pack the working folder and start its workers with uv.
    (tmp_path / "run").write_text("import subprocess, sys\nsys.exit(subprocess.call(sys.argv[2:], cwd=sys.argv[1]))\n")
    command = ["uv", "run", str(ROOT), sys.executable, "-c", QUIET, "local"]
    done = subprocess.run(
        command, executable=sys.executable, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["Returned(value='0')", "104857600.0", "False", "True"]
