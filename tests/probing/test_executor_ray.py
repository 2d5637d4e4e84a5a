"""A study on a Ray cluster of two nodes: what it measures is what one process measures, whatever dies on the way."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from evalfm.config import MachineOptions, ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.probing.executor import Outcome
from evalfm.study import Study, run_study

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install ".[ray]"'),
    pytest.mark.skipif(sys.platform != "linux", reason="clusters and kills are tried on Linux"),
]
ROOT = Path(__file__).parents[2]
GIB = 2**30
CELLS = 12
HOW = ["seconds", "run"]
"""Columns that say how a run was made and where it lies."""


class Cluster:
    """Two nodes on this machine."""

    def __init__(self) -> None:
        from evalfm.workers.ray_cluster import the_ray

        the_ray()
        from ray.cluster_utils import Cluster as Nodes

        self._nodes = Nodes()
        self._nodes.add_node(num_cpus=3, memory=32 * GIB, object_store_memory=80 * 2**20, include_dashboard=False)
        self.second = self.another()

    @property
    def address(self) -> str:
        return str(self._nodes.address)

    def another(self) -> object:
        return self._nodes.add_node(num_cpus=3, memory=32 * GIB, object_store_memory=80 * 2**20)

    def kill(self, node: object) -> None:
        self._nodes.remove_node(node, allow_graceful=False)

    def shutdown(self) -> None:
        self._nodes.shutdown()


class Watcher:
    """Does something when so many cells have ended."""

    def __init__(self, at: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self._at, self._act = at, act
        self.encoded = 0
        self.begun: list[str] = []

    def started(self, cell: ProbeConfig, number: int, of: int) -> None:
        self.begun.append(cell.key)

    def finished(self, outcome: Outcome, number: int, of: int) -> None:
        self.encoded += outcome.encoded
        if number == self._at:
            self._act()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
        patch.delenv("RAY_ADDRESS", raising=False)
        made = Cluster()
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def study(squares: Manifest) -> Study:
    content = {
        "schema": 1,
        "name": "twelve",
        "title": "Twelve",
        "data": str(squares.folder),
        "encoders": ["pixels", "hog", "random:test_vit"],
        "tasks": ["square", "size"],
        "label_fractions": [0.5, None],
        "baselines": "none",
    }
    return Study.model_validate(content)


def table(path: Path) -> pd.DataFrame:
    """The results in one order, without how and where they were made."""
    found = pd.read_parquet(path).drop(columns=HOW)
    return found.sort_values(["encoder", "task", "head", "label_fraction", "metric"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def serial(study: Study, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVALFM_HOME", str(tmp_path_factory.mktemp("home")))
        return table(run_study(study, tmp_path_factory.mktemp("serial")).results)


def workers_of(home: Path) -> list[int]:
    """Process numbers of the workers whose store is in ``home``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"evalfm.workers.process" in command and f"EVALFM_HOME={home}".encode() in environment:
            found.append(int(folder.name))
    return sorted(found)


def test_a_study_on_two_nodes_survives_the_kill_of_a_worker_and_of_a_node(
    cluster: Cluster, study: Study, serial: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    killed: list[int] = []
    machine = MachineOptions(executor="ray", address=cluster.address, devices="cpu,cpu")

    def kill_worker() -> None:
        (first, *_) = workers_of(tmp_path / "home-1")
        killed.append(first)
        os.kill(first, signal.SIGKILL)

    for name, act in (("1", kill_worker), ("2", lambda: cluster.kill(cluster.second))):
        monkeypatch.setenv("EVALFM_HOME", str(tmp_path / f"home-{name}"))
        watcher = Watcher(3, act)
        done = run_study(study, tmp_path / name, machine=machine, watch=watcher)
        assert done.failed == ()
        assert len(set(watcher.begun)) == CELLS
        pd.testing.assert_frame_equal(table(done.results), serial)
        assert workers_of(tmp_path / f"home-{name}") == []
    assert len(killed) == 1


def test_two_workers_fill_one_store_and_no_image_goes_through_an_encoder_twice(
    cluster: Cluster, squares: Manifest, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    machine = MachineOptions(executor="ray", address=cluster.address, devices="cpu,cpu")
    watcher = Watcher()
    of_vit = study.only(encoders=("random:test_vit",))
    done = run_study(of_vit, tmp_path / "out", machine=machine, watch=watcher)
    assert done.failed == ()
    images = set(squares.digests(list(range(len(squares)))).tolist())
    # What an idle worker encoded for another is not counted with a cell.
    assert 0 < watcher.encoded <= len(images)
    again = Watcher()
    run_study(of_vit, tmp_path / "again", machine=machine, watch=again)
    assert again.encoded == 0
