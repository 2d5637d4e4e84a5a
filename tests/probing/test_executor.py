"""Cells side by side: what workers measure is what one process measures, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalfm.config import ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.features.profile import StageTimes
from evalfm.probing.executor import CrewExecutor, Executor, Outcome, SerialExecutor
from evalfm.probing.probe import SomeFailedError, probe
from evalfm.progress import SILENT
from evalfm.run import Run
from evalfm.workers.job import Advanced, Job, Returned, Said
from evalfm.workers.local import LocalCrew

ROOT = Path(__file__).parents[2]
ENCODERS, TASKS = ("random:test_vit", "random:test_resnet", "hog"), ("square", "size")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


@pytest.fixture(scope="module")
def data(squares: Manifest) -> str:
    return str(squares.folder)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of this module's own, which workers take over from the environment."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVALFM_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def crew(stored: Path) -> Iterator[LocalCrew]:
    with LocalCrew(("cpu", "cpu")) as made:
        yield made


def cells(data: str, out: Path, **options: object) -> list[ProbeConfig]:
    given = {"data": data, "out": out, "baselines": "none", "heads": None, "devices": "cpu,cpu"} | options
    return [ProbeConfig(encoder=encoder, task=task, **given) for task in TASKS for encoder in ENCODERS]


def figures(runs: list[Run]) -> dict[tuple[str, ...], object]:
    return {
        (run.encoder, run.task, run.head, run.record.key): {name: vars(each) for name, each in run.metrics.items()}
        for run in runs
    }


def ran(executor: Executor, asked: list[ProbeConfig]) -> list[Outcome]:
    return list(executor.run(asked, SILENT))


@pytest.fixture(scope="module")
def serial(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVALFM_HOME", str(tmp_path_factory.mktemp("serial-home")))
        return ran(SerialExecutor(), cells(data, tmp_path_factory.mktemp("serial")))


def runs_of(outcomes: list[Outcome]) -> list[Run]:
    return [run for outcome in outcomes for run in outcome.runs]


def test_workers_measure_what_one_process_measures(
    crew: LocalCrew, serial: list[Outcome], data: str, tmp_path: Path
) -> None:
    begun: list[str] = []
    outcomes = ran(CrewExecutor(crew, lambda cell: begun.append(cell.key)), cells(data, tmp_path))
    assert all(outcome.failure is None for outcome in outcomes)
    assert sorted(begun) == sorted(outcome.cell.key for outcome in outcomes)
    assert figures(runs_of(outcomes)) == figures(runs_of(serial))
    assert len(figures(runs_of(serial))) == len(runs_of(serial)) > len(ENCODERS) * len(TASKS)


def test_a_killed_worker_costs_no_result(
    crew: LocalCrew, serial: list[Outcome], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, killed = set(crew.process_ids), threading.Event()

    def kill(cell: ProbeConfig) -> None:
        if not killed.is_set() and cell.task == TASKS[1]:
            killed.set()
            os.kill(crew.process_ids[0], signal.SIGKILL)

    outcomes = ran(CrewExecutor(crew, kill), cells(data, tmp_path))
    assert killed.is_set()
    assert len(before & set(crew.process_ids)) == 1
    assert figures(runs_of(outcomes)) == figures(runs_of(serial))


def test_a_cell_that_fails_is_told_as_in_one_process_and_stops_no_other(
    crew: LocalCrew, data: str, tmp_path: Path
) -> None:
    asked = [
        ProbeConfig(encoder=name, task="square", data=data, out=tmp_path, baselines="none", heads=("linear",), **more)
        for name, more in (("hog", {}), ("random:test_vit", {"weights": "nowhere.pt"}), ("pixels", {}))
    ]
    found = {outcome.cell.encoder: outcome for outcome in ran(CrewExecutor(crew), asked)}
    alone = {outcome.cell.encoder: outcome for outcome in ran(SerialExecutor(), asked)}
    assert found["random:test_vit"].failure == alone["random:test_vit"].failure
    assert found["random:test_vit"].failure is not None
    assert [len(found[name].runs) for name in ("hog", "random:test_vit", "pixels")] == [1, 0, 1]


def test_what_another_cell_measures_is_no_baseline_in_a_worker_either(
    crew: LocalCrew, data: str, tmp_path: Path
) -> None:
    asked = [
        ProbeConfig(encoder=encoder, task="square", data=data, out=tmp_path, heads=("linear",))
        for encoder in ("hog", "pixels")
    ]
    own = frozenset(cell.result_address("linear") for cell in asked)
    runs = runs_of(ran(CrewExecutor(crew, own=own), asked))
    assert {run.is_baseline for run in runs if run.encoder == "pixels"} == {False}
    assert {run.encoder for run in runs if run.is_baseline} == {"constant", "metadata"}


@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
@pytest.mark.parametrize("heads", [None, "linear"])
def test_an_encoder_that_a_probe_names_is_no_baseline_whichever_comes_first(
    data: str, tmp_path: Path, devices: str, heads: str | None
) -> None:
    runs = probe(["hog", "pixels"], "square", data=data, out=tmp_path, heads=heads, devices=devices)
    assert {run.is_baseline for run in runs if run.encoder == "pixels"} == {False}
    assert {run.encoder for run in runs if run.is_baseline} == {"constant", "metadata"}


def test_an_idle_worker_encodes_for_the_other_and_no_image_twice(
    squares: Manifest, data: str, tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell, *_) = cells(data, tmp_path, input_size=96)
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    with LocalCrew(("cpu", "cpu")) as crew:
        (outcome,) = ran(CrewExecutor(crew), [cell])
        counts = {}
        for worker in (0, 1):
            crew.send(worker, Job("tests.workers.jobs:encoded", {}, "count"))
            late = time.monotonic() + 60
            while worker not in counts and time.monotonic() < late:
                # What the idle worker did beside returns None.
                for number, message in crew.listen(0.2):
                    assert isinstance(message, Returned | Said | Advanced), message
                    if isinstance(message, Returned) and message.value is not None:
                        counts[number] = message.value
    assert outcome.failure is None
    images = set(squares.digests(list(range(len(squares)))).tolist())
    assert sum(counts.values()) == len(images), counts


def test_probe_shares_its_cases_among_the_devices(
    serial: list[Outcome], data: str, tmp_path: Path, stored: Path
) -> None:
    runs = probe(ENCODERS, TASKS, data=data, out=tmp_path, baselines="none", devices="cpu,cpu")
    expected = figures(runs_of(serial))
    assert figures(runs) == expected
    # Task by task and encoder by encoder, whoever was first.
    assert [(run.encoder, run.task) for run in runs] == [(run.encoder, run.task) for run in runs_of(serial)]
    again = probe(ENCODERS, TASKS, data=data, out=tmp_path, baselines="none", devices="cpu,cpu")
    assert [run.folder for run in again] == [run.folder for run in runs]


def test_seconds_of_the_stages_come_back_from_workers(data: str, tmp_path: Path, stored: Path) -> None:
    times = StageTimes()
    options = {"data": data, "out": tmp_path, "baselines": "none", "heads": "linear", "devices": "cpu,cpu"}
    probe(["hog", "random:test_vit"], "square", profile=True, times=times, input_size=128, **options)
    assert {"decode", "encode", "head training"} <= set(times.to_json())


def test_of_several_some_fail_in_workers_as_here(data: str, tmp_path: Path, stored: Path) -> None:
    options = {"data": data, "out": tmp_path, "baselines": "none", "heads": "linear"}
    few = tmp_path / "few.csv"
    few.write_text("id,x\nnobody,1.0\n")
    told = []
    for devices in ("cpu", "cpu,cpu"):
        with pytest.raises(SomeFailedError) as failed:
            probe(["hog", f"precomputed:{few}"], "square", devices=devices, **options)
        told.append((failed.value.failures, [run.encoder for run in failed.value.runs], failed.value.traces))
    assert told[0] == told[1]


def test_objects_are_not_sent(squares: Manifest, tmp_path: Path) -> None:
    with pytest.raises(EvalfmError, match="name both, or leave devices out"):
        probe("hog", "square", data=squares, out=tmp_path, devices="cpu,cpu")
    # Another process would look for a registered data set of the same name.
    with pytest.raises(EvalfmError, match="name both, or leave devices out"):
        probe("hog", "square", data=str(squares.folder), test_data=squares, out=tmp_path, devices="cpu,cpu")
