"""Workers of a Ray cluster of two nodes, which both run on this machine."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalfm.errors import EvalfmError
from evalfm.workers.job import PACKAGE, Advanced, Job, Lost, Message, Raised, Returned, Said
from evalfm.workers.ray_cluster import the_ray
from evalfm.workers.ray_crew import RayCrew
from evalfm.workers.shared_folders import PREFIX

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install ".[ray]"'),
    pytest.mark.skipif(sys.platform != "linux", reason="clusters and kills are tried on Linux"),
]
GIB = 2**30
CHILD = """
import sys
from evalfm.workers.job import Job
from evalfm.workers.ray_crew import RayCrew
try:
    with RayCrew(address=sys.argv[1], devices=("cpu",), cpus=1) as crew:
        crew.send(0, Job("tests.workers.jobs:hold", {"file": sys.argv[2]}, "a job"))
        while True:
            crew.listen(1)
except KeyboardInterrupt:
    sys.exit(130)
"""
FOUND = """
import os
from evalfm.workers.ray_crew import RayCrew
with RayCrew() as crew:
    print(crew.where)
    print(os.environ["RAY_USAGE_STATS_ENABLED"])
"""


class Nodes:
    """A cluster whose nodes have working folders of their own, and the driver's is that of the first."""

    def __init__(self, folder: Path) -> None:
        the_ray()
        from ray.cluster_utils import Cluster

        self._folder, self._cluster = folder, Cluster()
        self.add("one", num_cpus=4, memory=GIB, include_dashboard=False)
        self.add("two", num_cpus=4, memory=GIB)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, name: str, **settings: Any) -> Any:
        (self._folder / name).mkdir()
        here = Path.cwd()
        os.chdir(self._folder / name)
        try:
            return self._cluster.add_node(node_name=name, object_store_memory=80 * 2**20, **settings)
        finally:
            os.chdir(here)

    def remove(self, node: Any) -> None:
        self._cluster.remove_node(node)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
        patch.delenv("RAY_ADDRESS", raising=False)
        folder = tmp_path_factory.mktemp("nodes")
        made = Nodes(folder)
        patch.chdir(folder / "one")
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def crew(nodes: Nodes, shared: Path) -> Iterator[RayCrew]:
    written, read = {"--out": shared / "out", "the feature store": shared / "home"}, {"the data set": PACKAGE}
    with RayCrew(
        address=nodes.address,
        devices=("cpu", "cpu"),
        cpus=1,
        written=written,
        read=read,
        environment={"EVALFM_HOME": str(shared / "home")},
    ) as made:
        yield made


def job(function: str, **arguments: object) -> Job:
    return Job(f"tests.workers.jobs:{function}", arguments, "a job")


def hear(crew: RayCrew, worker: int, stop: Callable[[Message], bool] | None = None) -> list[Message]:
    """What the worker says until its job or itself ends, or to where ``stop`` holds."""
    heard: list[Message] = []
    late = time.monotonic() + 60
    while time.monotonic() < late:
        for number, message in crew.listen(0.2):
            assert number == worker
            heard.append(message)
        if heard and (isinstance(heard[-1], Returned | Raised | Lost) or (stop and stop(heard[-1]))):
            return heard
    raise AssertionError(f"nothing more than {heard}")


def result(crew: RayCrew, worker: int, function: str, **arguments: object) -> Any:
    crew.send(worker, job(function, **arguments))
    end = hear(crew, worker)[-1]
    assert isinstance(end, Returned), end
    return end.value


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def raylet(node: Any) -> int:
    """Process of a node which, when it ends, takes the node with it."""
    return int(node.all_processes["raylet"][0].process.pid)


def gone(process: int) -> bool:
    late = time.monotonic() + 30
    while time.monotonic() < late:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_workers_do_jobs_with_their_own_environment(crew: RayCrew, nodes: Nodes, shared: Path) -> None:
    facts = [result(crew, worker, "facts") for worker in (0, 1)]
    assert len({each["pid"] for each in facts} | {os.getpid()}) == 3
    assert [each["device"] for each in facts] == ["cpu", "cpu"]
    assert [each["OMP_NUM_THREADS"] for each in facts] == ["1", "1"]
    # One worker to a node.
    assert [each["EVALFM_PROCESSES_HERE"] for each in facts] == ["1", "1"]
    assert result(crew, 1, "variable", name="EVALFM_HOME") == str(shared / "home")
    assert [name.partition(" of ")[0] for name in crew.names] == ["CPU process 1", "CPU process 2"]
    assert crew.where == f"2 workers on 2 nodes of the Ray cluster at {nodes.address}"


def test_no_word_is_left_in_the_shared_folders(crew: RayCrew, shared: Path) -> None:
    assert {path.name for path in shared.iterdir()} == {"out", "home"}
    assert [path for path in shared.rglob("*") if path.name.startswith(PREFIX)] == []


def test_what_a_worker_says_is_heard_before_its_end(crew: RayCrew, tmp_path: Path) -> None:
    file = tmp_path / "go"
    crew.send(0, job("say_and_wait_for", file=str(file)))
    assert hear(crew, 0, lambda message: isinstance(message, Advanced)) == [Said("at work"), Advanced("work", 0, 2)]
    assert crew.listen(0.2) == []
    file.touch()
    assert hear(crew, 0) == [Advanced("work", 2, 2, ended=True), Returned(None)]


def test_two_workers_work_at_the_same_time(crew: RayCrew, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    crew.send(0, job("wait_for", file=first, tell=second))
    crew.send(1, job("wait_for", file=second, tell=first))
    ended: set[int] = set()
    late = time.monotonic() + 60
    while len(ended) < 2 and time.monotonic() < late:
        ended |= {worker for worker, message in crew.listen(0.2) if isinstance(message, Returned)}
    assert ended == {0, 1}


def test_what_a_job_keeps_is_there_for_the_next_and_for_no_other_worker(crew: RayCrew) -> None:
    first = result(crew, 0, "count")
    assert [result(crew, 0, "count"), result(crew, 0, "count")] == [first + 1, first + 2]
    assert result(crew, 1, "count") == 1


def test_a_failure_is_told_and_the_worker_goes_on(crew: RayCrew) -> None:
    crew.send(0, job("refuse"))
    (end,) = hear(crew, 0)
    assert isinstance(end, Raised)
    assert (end.fault.error, end.fault.sentence, end.fault.trace) == ("EvalfmError", "This is wrong; do that.", None)
    crew.send(0, job("fail"))
    (end,) = hear(crew, 0)
    assert isinstance(end, Raised)
    assert (end.fault.error, end.fault.sentence) == ("ValueError", "first line")
    assert "fail" in (end.fault.trace or "")
    assert result(crew, 0, "echo", value=[1, None, {"a": 0.5}]) == [1, None, {"a": 0.5}]


@pytest.mark.parametrize("whose", ["process", "actor"])
def test_a_killed_worker_is_lost_without_a_line_and_starts_anew(
    whose: str, crew: RayCrew, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process = result(crew, 1, "facts")["pid"]
    actor = parent(process)
    crew.send(1, job("say_and_wait_for", file=str(tmp_path / "never")))
    hear(crew, 1, lambda message: isinstance(message, Advanced))
    os.kill(process if whose == "process" else actor, signal.SIGKILL)
    (end,) = hear(crew, 1)
    assert isinstance(end, Lost)
    assert "killed" in end.reason
    crew.restart(1)
    fresh = result(crew, 1, "facts")["pid"]
    assert fresh not in (process, actor)
    assert gone(process)
    assert gone(actor)
    assert result(crew, 0, "echo", value=1) == 1
    # Ray's own account of it comes a moment later, to wherever --json writes.
    time.sleep(2)
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_was_lost_while_idle_is_told_of_when_it_is_sent_a_job(crew: RayCrew) -> None:
    actor = parent(result(crew, 0, "facts")["pid"])
    os.kill(actor, signal.SIGKILL)
    assert gone(actor)
    crew.send(0, job("echo", value=1))
    assert isinstance(hear(crew, 0)[-1], Lost)
    crew.restart(0)
    assert result(crew, 0, "echo", value=2) == 2


def test_a_job_that_leaves_loses_its_worker_and_nobody_waits_for_ever(crew: RayCrew) -> None:
    crew.send(1, job("leave"))
    (end,) = hear(crew, 1)
    assert isinstance(end, Lost)
    crew.restart(1)


def test_leaving_lets_a_job_give_back_what_it_holds_and_leaves_a_connection_of_the_caller(
    crew: RayCrew, tmp_path: Path
) -> None:
    file = tmp_path / "held"
    with RayCrew(devices=("cpu",), cpus=1) as short:
        process = result(short, 0, "facts")["pid"]
        short.send(0, job("hold", file=str(file)))
        late = time.monotonic() + 30
        while not file.exists() and time.monotonic() < late:
            time.sleep(0.05)
        assert file.exists()
    assert not file.exists()
    assert gone(process)
    assert the_ray().is_initialized()


def test_another_address_than_that_of_the_connection_is_refused(crew: RayCrew) -> None:
    with pytest.raises(EvalfmError, match=r"connected to .* already, and not to '10\.9\.9\.9:6379'"):
        RayCrew(address="10.9.9.9:6379").__enter__()


def test_another_torch_is_refused(crew: RayCrew, tmp_path: Path) -> None:
    facts = tmp_path / "torch-0.0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.0.1\n")
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    with pytest.raises(EvalfmError, match=r"^CPU process 1 of [\d.]+ has torch 0\.0\.1 instead of .*install the same"):
        RayCrew(devices=("cpu",), cpus=1, environment={"PYTHONPATH": path}).__enter__()


def test_other_code_under_the_same_version_is_refused(crew: RayCrew, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "evalfm")
    with (tmp_path / "evalfm" / "paths.py").open("a") as file:
        file.write("\n")
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    with pytest.raises(EvalfmError, match="has other code under the same version of evalfm"):
        RayCrew(devices=("cpu",), cpus=1, environment={"PYTHONPATH": path}).__enter__()


def test_an_evalfm_that_does_not_load_is_told_in_a_sentence(crew: RayCrew, tmp_path: Path) -> None:
    (tmp_path / "evalfm").mkdir()
    (tmp_path / "evalfm" / "__init__.py").write_text("")
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    with pytest.raises(EvalfmError, match=r"cannot load evalfm \(.*No module named 'evalfm\.workers'") as caught:
        RayCrew(devices=("cpu",), cpus=1, environment={"PYTHONPATH": path}).__enter__()
    assert len(str(caught.value)) < 300


def test_a_worker_works_in_the_folder_that_it_is_given_and_an_absent_one_is_told(crew: RayCrew, tmp_path: Path) -> None:
    with RayCrew(devices=("cpu",), cpus=1, folder=tmp_path) as short:
        assert result(short, 0, "work_folder") == str(tmp_path)
    with pytest.raises(EvalfmError, match=r"^The working folder .*absent is not there on a node"):
        RayCrew(devices=("cpu",), cpus=1, folder=tmp_path / "absent").__enter__()


@pytest.mark.parametrize("kind", ["written", "read"])
def test_a_folder_that_one_node_has_for_itself_is_refused(kind: str, crew: RayCrew) -> None:
    """The path leads to the working folder of whoever asks; node two has another one than node one and the driver."""
    here, there = Path.cwd() / kind, Path.cwd().parent / "two" / kind
    path = Path("/proc/self/cwd") / kind
    here.mkdir()
    (here / "dataset.yaml").write_text("name: a\n")
    workers = {"devices": ("cpu", "cpu"), "cpus": 1, kind: {"--out": path}}
    with pytest.raises(EvalfmError, match=rf"folder of --out, {path}, is not there at CPU process .*at the same path"):
        RayCrew(**workers).__enter__()  # type: ignore[arg-type]
    there.mkdir()
    (there / "dataset.yaml").write_text("name: b\n")
    with pytest.raises(EvalfmError, match="is another folder at" if kind == "written" else "has other contents at"):
        RayCrew(**workers).__enter__()  # type: ignore[arg-type]
    (there / "dataset.yaml").write_text("name: a\n")
    if kind == "read":
        # The same contents do for what is only read.
        with RayCrew(**workers) as made:  # type: ignore[arg-type]
            assert result(made, 0, "echo", value=1) == 1
    assert [path.name for path in (*here.iterdir(), *there.iterdir())] == ["dataset.yaml"] * 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"memory_bytes": 2**40}, "has room for 0 of 1 workers with 1 core and 1.02e\\+03 GiB of memory each"),
        (
            {"cpus": 64},
            "has room for 0 of 1 workers with 64 cores each; what is there, by node: 4 cores, 1 GiB; 4 cores",
        ),
        ({"devices": ("cuda:0",)}, "has room for 0 of 1 workers with 1 core and 1 GPU each"),
        ({"devices": ("cpu",) * 9, "cpus": 1}, "has room for 8 of 9 workers"),
    ],
)
def test_what_no_node_has_is_told_at_once(asked: dict[str, Any], said: str, crew: RayCrew) -> None:
    begun = time.monotonic()
    with pytest.raises(EvalfmError, match=said):
        RayCrew(**{"devices": ("cpu",), "cpus": 1, **asked} if "devices" not in asked else asked).__enter__()
    assert time.monotonic() - begun < 30


def test_what_others_have_taken_is_told_in_time(crew: RayCrew) -> None:
    # Each node has four cores, and a worker of the crew on one of them.
    with pytest.raises(EvalfmError, match="has not started 1 of 1 workers within 1 s with 4 cores each; what is free"):
        RayCrew(devices=("cpu",), cpus=4, start_seconds=1).__enter__()
    assert result(crew, 0, "echo", value=1) == 1


def test_every_gpu_has_a_worker_that_sees_it_alone_and_memory_is_placed_where_it_is(
    crew: RayCrew, nodes: Nodes
) -> None:
    # Ray takes a node's word for its GPUs.
    node = nodes.add("three", num_cpus=5, num_gpus=2, memory=4 * GIB)
    with RayCrew(memory_bytes=2 * GIB) as gpus:
        assert [name.partition(" of ")[0] for name in sorted(gpus.names)] == ["GPU 0", "GPU 1"]
        facts = [result(gpus, worker, "facts") for worker in (0, 1)]
    assert [each["device"] for each in facts] == ["cuda", "cuda"]
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in facts) == ["0", "1"]
    assert [each["EVALFM_PROCESSES_HERE"] for each in facts] == ["2", "2"]
    assert [each["OMP_NUM_THREADS"] for each in facts] == ["2", "2"]
    nodes.remove(node)


def test_without_an_address_the_cluster_that_runs_here_is_found(nodes: Nodes) -> None:
    command = [sys.executable, "-c", FOUND]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_USAGE_STATS_ENABLED"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    # And nothing is told to anybody.
    assert done.stdout == f"2 workers on 2 nodes of the Ray cluster at {nodes.address}\n0\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends_leaves_no_worker(number: signal.Signals, nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "held"
    command = [sys.executable, "-c", CHILD, nodes.address, str(file)]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    late = time.monotonic() + 60
    while not file.exists() and time.monotonic() < late and driver.poll() is None:
        time.sleep(0.1)
    assert file.exists(), driver.communicate(timeout=60)
    worker = int(file.read_text())
    driver.send_signal(number)
    output, errors = driver.communicate(timeout=60)
    assert (output, errors) == ("", "")
    if number == signal.SIGINT:
        assert driver.returncode == 130
        assert not file.exists()
    assert gone(worker)


def test_a_worker_goes_where_its_memory_is_and_to_another_node_when_that_one_is_gone(
    crew: RayCrew, nodes: Nodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    large = {raylet(node): node for node in (nodes.add(name, num_cpus=2, memory=4 * GIB) for name in ("four", "five"))}
    with RayCrew(devices=("cpu",), memory_bytes=3 * GIB) as short:

        def lost(end_of: Callable[[int], object]) -> int:
            """Where the worker was when its node was ended under its job."""
            place = int(result(short, 0, "variable", name="RAY_RAYLET_PID"))
            short.send(0, job("say_and_wait_for", file=str(tmp_path / "never")))
            hear(short, 0, lambda message: isinstance(message, Advanced))
            end_of(place)
            (end,) = hear(short, 0)
            assert isinstance(end, Lost)
            assert end.reason in ("went with its node, which is gone", "does not answer any more")
            return place

        first = lost(lambda place: os.kill(place, signal.SIGKILL))
        short.restart(0)
        second = lost(lambda place: nodes.remove(large.pop(place)))
        assert {first} == set(large)
        assert second != first
        with pytest.raises(EvalfmError, match="has room for 0 of 1 workers"):
            short.restart(0)
        assert len(short.names) == 1
    nodes.remove(large.pop(first))
    assert [result(crew, worker, "echo", value=1) for worker in (0, 1)] == [1, 1]
    assert capfd.readouterr() == ("", "")
