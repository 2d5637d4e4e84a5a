"""A benchmark from design to page: what runs, what is left out, what fails, and what is found again."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import evalfm
from evalfm.analysis.report.section import CHANGES
from evalfm.analysis.robustness import ROBUSTNESS
from evalfm.config import MachineOptions
from evalfm.data.manifest import Manifest
from evalfm.data.phantom import make_phantom
from evalfm.errors import EvalfmError
from evalfm.run import find_runs
from evalfm.study import benchmark as module
from evalfm.study import benchmark_design as designs
from evalfm.study import trials
from evalfm.study.benchmark import BenchmarkResult, benchmark, run_benchmark
from evalfm.study.benchmark_design import design, entries_of, plans_of, trials_of
from evalfm.study.config import load_study
from evalfm.tasks.task import task_names

from ..squares import make_squares

GIVEN: dict[str, Any] = {"tasks": ["ptx-cls"], "folds": 2}


@pytest.fixture(scope="module", autouse=True)
def small_trials() -> Any:
    """Few phantoms and few perturbations show as much here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "counterfactual", partial(trials.counterfactual, images=20, size=64))
        patch.setattr(trials, "robustness", partial(trials.robustness, perturbations=["gamma=2"]))
        shipped = load_study("benchmark")
        patch.setattr(designs, "load_study", lambda name: shipped.changed(shots=[4, 16, None], seeds=2, refits=0))
        yield


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_squares(tmp_path_factory.mktemp("hundred"), patients=100)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_phantom(tmp_path_factory.mktemp("phantom") / "small", n=160, size=64, seed=3).folder)


@pytest.fixture(scope="module")
def finished(phantom: str, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkResult:
    """A task with a tube, all labels and few, and both trials."""
    return benchmark("hog", data=phantom, out=tmp_path_factory.mktemp("out"), **GIVEN)


def test_the_shipped_study_is_narrowed_to_what_each_data_set_allows(hundred: Manifest) -> None:
    made = design(entries_of(["hog", "pixels"], {"input_size": 64}), [str(hundred.folder)])
    whole, few = made.parts
    assert (whole.folder, few.folder) == ("squares", "squares-few-labels")
    assert [task.name for task in whole.study.tasks] == ["square", "size"]
    assert [(each.name, each.input_size) for each in whole.study.encoders] == [("hog", 64), ("pixels", 64)]
    assert (whole.study.shots, whole.study.seeds, whole.study.folds, whole.study.baselines) == ((), 1, 5, "default")
    shipped = designs.load_study("benchmark")
    assert few.study.shots == tuple(each for each in shipped.shots if each)
    assert few.study.seeds == shipped.seeds > 1
    assert [task.name for task in few.study.tasks] == ["square"]
    left = {each.what: each.reason for each in made.left_out}
    assert left["ptx-cls on squares"] == "squares holds no pneumothorax"
    assert "no one class" in left["few labels of size on squares"]
    assert made.notes == ("squares has fewer than 2,000 images: 5 folds test each once.",)


def test_the_shipped_study_asks_for_few_labels_of_several_draws_and_for_baselines() -> None:
    shipped = load_study("benchmark")
    assert None in shipped.shots
    assert len(shipped.shots) > 2
    assert shipped.seeds > 1
    assert shipped.baselines == "default"
    assert {task.name for task in shipped.on("phantom").tasks} < {task.name for task in shipped.tasks}
    assert {task.name for task in shipped.tasks} == set(task_names()) - {"coop-classes", "_chest"}


@pytest.mark.parametrize(("folds", "used", "said"), [(1, None, 0), (3, 3, 0), (None, 5, 1)])
def test_folds_are_those_asked_for_and_only_a_choice_is_said(
    hundred: Manifest, folds: int | None, used: int | None, said: int
) -> None:
    made = design(entries_of(["hog"], {}), [str(hundred.folder)], folds=folds)
    assert {part.study.folds for part in made.parts} == {used}
    assert len(made.notes) == said


def test_a_large_set_keeps_its_own_split(hundred: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(designs, "FEW_IMAGES", len(hundred))
    assert {part.study.folds for part in design(entries_of(["hog"], {}), [str(hundred.folder)]).parts} == {None}


def test_without_data_it_is_the_phantom_and_says_so() -> None:
    made = design(entries_of(["hog"], {}), tasks=["cardiomegaly-cls"])
    assert {part.study.data for part in made.parts} == {"phantom"}
    assert "phantom radiographs" in made.notes[0]


def test_few_labels_need_a_train_that_holds_them(hundred: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = load_study("benchmark")
    monkeypatch.setattr(designs, "load_study", lambda name: shipped.changed(shots=[4, 5000, None]))
    made = design(entries_of(["hog"], {}), [str(hundred.folder)], tasks=["square"])
    assert [part.few for part in made.parts] == [False]
    assert "fewer than 5000" in made.left_out[-1].reason


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"names": []}, "name one"),
        ({"names": ["hog", "pixels"], "weights": "mine.pt"}, "the file of one encoder"),
        ({"names": ["hog"], "weights": "mine.pt"}, "hog has no weights"),
        ({"names": ["resnet18"], "weights": "nowhere.pt"}, "There is no file"),
        ({"names": ["hogg"]}, "Did you mean 'hog'"),
        ({"names": ["hog"], "tasks": ["tb-cls"]}, "squares holds no tuberculosis"),
        ({"names": ["hog"], "data": "nowhere"}, "There is no"),
    ],
)
def test_mistakes_are_said_before_anything_runs(hundred: Manifest, given: dict[str, Any], said: str) -> None:
    options = {name: value for name, value in given.items() if name == "weights"}
    with pytest.raises(EvalfmError, match=said):
        design(
            entries_of(given["names"], options),
            [given.get("data", str(hundred.folder))],
            tasks=given.get("tasks", ()),
        )


def test_every_encoder_stands_against_its_baselines(finished: BenchmarkResult) -> None:
    assert finished.failed == ()
    (ptx,) = finished.standings
    assert (ptx.task, ptx.encoder, ptx.metric) == ("ptx-cls", "hog", "auroc")
    whole = [run for run in finished.runs if run.record.config.shots is None]
    (own,) = [run for run in whole if (run.encoder, run.head) == (ptx.encoder, ptx.head)]
    (baseline,) = [run for run in whole if run.encoder == ptx.baseline]
    assert baseline.is_baseline
    assert ptx.gain is not None
    assert own.metrics["auroc"].value == pytest.approx(ptx.estimate.value)
    assert ptx.gain.value == pytest.approx(ptx.estimate.value - (baseline.metrics["auroc"].value or 0))
    assert {run.encoder for run in whole} == {"hog", "constant", "metadata", "pixels"}
    few = [run for run in finished.runs if run not in whole and not run.is_baseline]
    assert {(run.record.config.shots, run.seed) for run in few} == {(4, 0), (4, 1), (16, 0), (16, 1)}
    assert {run.record.data.folds for run in finished.runs} == {2}


def test_page_summary_and_trials_lie_in_the_folder(finished: BenchmarkResult) -> None:
    assert finished.page == finished.folder / "report.html"
    page = finished.page.read_text()
    for heading in ("What it is good for", "Few labels", "What a chest tube alone changes", "Feature robustness"):
        assert heading in page
    assert "Synthetic data" in page
    summary = json.loads((finished.folder / "benchmark.json").read_text())
    assert summary == json.loads(json.dumps(finished.to_json()))
    assert str(finished.folder) not in json.dumps(summary), "no path leaves"
    changes = json.loads((finished.folder / CHANGES).read_text())["runs"]
    assert [(each["task"], each["model"]) for each in changes] == [("ptx-cls", "hog · linear · frozen")]
    robust = json.loads((finished.folder / ROBUSTNESS).read_text())["runs"]
    assert [(each["task"], each["index"]["by"]) for each in robust] == [("ptx-cls", "scanner")]
    keys = {run.record.key for run in finished.runs if run.head == "linear" and not run.is_baseline}
    assert {each["run"] for each in (*changes, *robust)} <= keys


def test_the_same_call_makes_nothing_again(
    finished: BenchmarkResult, phantom: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise AssertionError("it is there already")

    for name in ("counterfactual", "robustness"):
        monkeypatch.setattr(trials, name, fail)
    written = {run.folder: (run.folder / "run.json").stat().st_mtime_ns for run in finished.runs}
    again = benchmark("hog", data=phantom, out=finished.folder, **GIVEN)
    assert again.failed == ()
    assert {run.folder: (run.folder / "run.json").stat().st_mtime_ns for run in again.runs} == written
    assert again.to_json() == finished.to_json()


def test_a_report_of_the_folder_shows_the_trials_too(finished: BenchmarkResult, tmp_path: Path) -> None:
    from ..cli.typed import evalfm as typed

    shown = typed("report", finished.folder, "--out", tmp_path / "again.html", "--csv", tmp_path / "tables")
    assert shown.returncode == 0, shown.stderr
    page = (tmp_path / "again.html").read_text()
    assert "What a chest tube alone changes" in page
    assert (tmp_path / "tables" / "counterfactual-drawn.csv").is_file()
    (finished.folder / CHANGES).rename(tmp_path / "kept")
    (finished.folder / CHANGES).write_text('{"schema": 1, "runs": [{"model": 3}]}')
    try:
        damaged = typed("report", finished.folder, "--out", tmp_path / "again.html")
    finally:
        (tmp_path / "kept").replace(finished.folder / CHANGES)
    assert damaged.returncode == 2
    assert "is no counterfactual.json" in damaged.stderr


def test_a_failing_trial_and_a_failing_cell_leave_the_rest(
    phantom: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(trials, "counterfactual", fail)
    (tmp_path / "torn.safetensors").write_bytes(b"no weights")
    torn = entries_of(["resnet18"], {"weights": str(tmp_path / "torn.safetensors"), "input_size": 32})
    entries = [*entries_of(["hog"], {}), *torn]
    made = design(entries, [phantom], tasks=["ptx-cls"], folds=2)
    found = run_benchmark(made, tmp_path / "out")
    failed = {each.what: each.reason for each in found.failed}
    assert failed.pop("counterfactual of hog × ptx-cls on phantom") == "no memory"
    assert failed.pop("counterfactual of resnet18 × ptx-cls on phantom") == "its run was not made"
    assert failed.pop("robustness of resnet18 × ptx-cls on phantom") == "its run was not made"
    assert failed, "the cells of the encoder without weights"
    assert all(what.startswith("resnet18") for what in failed)
    assert [each.encoder for each in found.standings] == ["hog"]
    assert found.page is not None
    page = found.page.read_text()
    assert "no memory" in page
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["failed"]


def test_an_interrupt_keeps_what_is_finished(
    hundred: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"data": hundred.folder, "tasks": ["square"], "folds": 1, "out": tmp_path / "out"}
    real = module.run_study

    def stop(study: Any, *rest: Any, **named: Any) -> Any:
        if study.name == "few-labels":
            raise KeyboardInterrupt
        return real(study, *rest, **named)

    monkeypatch.setattr(module, "run_study", stop)
    with pytest.raises(KeyboardInterrupt):
        benchmark("hog", **given)
    monkeypatch.setattr(module, "run_study", real)
    before = {run.folder: (run.folder / "run.json").stat().st_mtime_ns for run in find_runs(tmp_path / "out")}
    assert before
    assert not (tmp_path / "out" / "report.html").exists()
    found = benchmark("hog", **given)
    assert found.failed == ()
    after = {run.folder: (run.folder / "run.json").stat().st_mtime_ns for run in found.runs}
    assert before.items() <= after.items()


def test_what_the_data_do_not_allow_is_not_tried(hundred: Manifest, tmp_path: Path) -> None:
    table = tmp_path / "features.csv"
    lines = ["id,f0,f1", *(f"{name},{place % 7},{place % 5}" for place, name in enumerate(hundred.table["id"]))]
    table.write_text("\n".join(lines))
    made = design(entries_of([f"precomputed:{table}"], {}), [str(hundred.folder)], tasks=["square"])
    trials, left_out = trials_of(made)
    assert trials == []
    said = {each.reason for each in left_out}
    assert "squares has no outlines of a chest_tube" in said
    assert "a table of features sees no other image" in said


def test_images_seen_by_one_part_are_not_planned_again(hundred: Manifest, home: Path) -> None:
    made = design(entries_of(["hog"], {}), [str(hundred.folder)], tasks=["square"])
    whole, few = plans_of(made, MachineOptions())
    assert whole.cells[0].estimate is not None
    assert whole.cells[0].estimate.forwards == len(hundred)
    assert [each.estimate.forwards for each in few.cells if each.estimate] == [0, 0]


def test_it_is_a_public_name() -> None:
    assert evalfm.benchmark is benchmark
