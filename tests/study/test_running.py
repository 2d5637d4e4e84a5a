"""A study from end to end on small radiographs: what runs, what fails and is passed by, what is found again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import save_file

import evalfm
from evalfm.config import MachineOptions, ProbeConfig
from evalfm.data.manifest import Manifest, read_data
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.heads.segmentation.light import LinearDenseHead
from evalfm.heads.trained import Schedule
from evalfm.probing import executor
from evalfm.probing.measure import Case, measure
from evalfm.probing.probe import probe
from evalfm.run import Run
from evalfm.study import Study, StudyRuns, make_plan, run_study
from evalfm.study.results import COLUMNS, rows_of, table_of, write_results

QUICK = {"epochs": 1, "least_steps": 2, "batch_size": 16}


@pytest.fixture(scope="module", autouse=True)
def short_trainings() -> Iterator[None]:
    """Of dense heads: a few steps show as much here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinearDenseHead, "default_schedule", Schedule(epochs=3, least_steps=9))
        yield


@pytest.fixture(scope="module")
def data(squares: Manifest) -> str:
    return str(squares.folder)


def study(data: str, **changes: object) -> Study:
    content = {"name": "two", "title": "Two", "data": data, "encoders": ["pixels", "hog"], "tasks": ["square"]}
    return Study.model_validate(content | {"schema": 1} | changes)


@pytest.fixture(scope="module")
def trained_study(data: str, square_seg: str) -> Study:
    """Frozen and trained, labels, masks and values, few labels, a baseline."""
    return study(
        data,
        tasks=["square", square_seg, "size"],
        heads={"segmentation": ["linear"]},
        label_fractions=[0.5, None],
        seeds=2,
        encoders=[{"name": "pixels", "input_size": 64}],
        baselines="none",
        supervised=[{"encoder": "light-cnn", "tasks": ["square"], "recipe": QUICK}],
    )


@pytest.fixture(scope="module")
def finished(trained_study: Study, tmp_path_factory: pytest.TempPathFactory) -> StudyRuns:
    return run_study(trained_study, tmp_path_factory.mktemp("finished"))


def test_every_encoder_on_every_task_and_each_baseline_once(data: str, tmp_path: Path):
    runs = run_study(study(data), tmp_path / "runs")
    names = [(run.encoder, run.head, run.is_baseline) for run in runs]
    assert len(names) == len(set(names))
    assert [name for name in names if not name[2]] == [
        ("pixels", "linear", False),
        ("pixels", "knn", False),
        ("hog", "linear", False),
        ("hog", "knn", False),
    ]
    assert not runs.failed
    assert json.loads(runs.failures.read_text()) == []


def test_the_whole_grid_is_there(finished: StudyRuns):
    found = {
        (
            run.encoder,
            run.task,
            run.head,
            run.adaptation,
            run.record.config.label_fraction,
            run.record.config.seed,
        )
        for run in finished
        if not run.is_baseline
    }
    expected = {
        *(("pixels", "square", head, "frozen", 0.5, seed) for head in ("linear", "knn") for seed in (0, 1)),
        # Deterministic heads on all of train have one seed.
        *(("pixels", "square", head, "frozen", None, 0) for head in ("linear", "knn")),
        *(("pixels", "square-seg", "linear", "frozen", few, seed) for few in (0.5, None) for seed in (0, 1)),
        *(("pixels", "size", "ridge", "frozen", 0.5, seed) for seed in (0, 1)),
        ("pixels", "size", "ridge", "frozen", None, 0),
        *(("light-cnn", "square", "linear", "scratch", few, seed) for few in (0.5, None) for seed in (0, 1)),
    }
    assert found == expected


def test_the_table_says_what_the_runs_say(finished: StudyRuns):
    table = pd.read_parquet(finished.results)
    assert list(table.columns) == list(COLUMNS)
    assert set(table["run"]) == {run.folder.relative_to(finished.folder).as_posix() for run in finished}
    assert not table.duplicated(["run", "metric"]).any()
    for line in table.to_dict("records"):
        content = json.loads((finished.folder / line["run"] / "run.json").read_text())
        metric = content["metrics"][line["metric"]]
        for name in ("value", "low", "high", "reason"):
            assert (None if pd.isna(line[name]) else line[name]) == metric[name]
        assert (line["n"], line["unit"], line["run_key"]) == (metric["n"], metric["unit"], content["key"])
        assert line["primary"] == (line["metric"] == content["task"]["metrics"][0])
        assert (line["encoder"], line["task"], line["head"]) == (
            content["encoder"]["name"], content["task"]["name"], content["head"]["name"],
        )  # fmt: skip
        assert (line["adaptation"], line["baseline"]) == (
            content["config"]["adaptation"],
            content["config"]["baseline"],
        )
        fraction = None if pd.isna(line["label_fraction"]) else line["label_fraction"]
        assert (fraction, line["seed"]) == (content["config"]["label_fraction"], content["config"]["seed"])
        assert (line["data"], line["study"], line["synthetic"]) == ("squares", "two", False)
    assert table.groupby("run")["primary"].sum().eq(1).all()
    assert set(table.loc[table["encoder"] == "light-cnn", "weights"]) == {"random"}
    assert str(table["shots"].dtype) == "Int64"


def test_types_do_not_depend_on_what_is_there(finished: StudyRuns, tmp_path: Path):
    rows = [row for run in finished for row in rows_of("two", run, finished.folder)]
    assert all(list(row) == list(COLUMNS) for row in rows)
    full = table_of(rows)
    empty = pd.read_parquet(write_results(tmp_path, []))
    assert list(empty.columns) == list(COLUMNS)
    nullable = ["rank", "shots", "limit", "label_fraction", "value", "low", "high", "weights", "reason"]
    assert [str(empty[name].dtype) for name in nullable] == [str(full[name].dtype) for name in nullable]


def test_it_is_what_probe_alone_would_give(data: str, finished: StudyRuns, tmp_path: Path):
    direct = probe(
        "light-cnn", "square", data=data, adaptation="scratch", heads=["linear"], recipe=QUICK, seeds=2,
        baselines="none", out=tmp_path,
    )  # fmt: skip
    same = {run.record.key: run for run in finished}
    for run in direct:
        assert same[run.record.key].metrics == run.metrics


def test_the_second_time_nothing_is_computed(
    trained_study: Study, finished: StudyRuns, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("evalfm.probing.head_group.RunBuilder.run", refuse)
    monkeypatch.setattr(Encoder, "encode", refuse)
    said: list[str] = []
    told = SimpleNamespace(track=lambda items, *_: iter(items), say=said.append)
    again = run_study(trained_study, finished.folder, told)
    assert not again.failed
    returned = " ".join(each for each in said if "there already, returned as" in each).split()
    # Baselines that several cells share are said once too.
    assert [returned.count(f"{run.folder}") for run in finished] == [1] * len(finished)
    assert [run.folder for run in again] == [run.folder for run in finished]
    assert pd.read_parquet(again.results).equals(pd.read_parquet(finished.results))


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, **when: object) -> list[ProbeConfig]:
    """Let ``measure`` raise where its cell is as in ``when``; gives the cells."""
    calls: list[ProbeConfig] = []

    def called(case: Case, *objects: Any) -> list[Run]:
        calls.append(case.config)
        if all(getattr(case.config, name) == value for name, value in when.items()):
            raise error
        return measure(case, *objects)

    monkeypatch.setattr(executor, "measure", called)
    return calls


@pytest.mark.parametrize("error", [EvalfmError("No weights; fetch them."), RuntimeError("out of memory\nat 0x1")])
def test_a_failure_is_recorded_and_passed_by(
    error: Exception, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    failing(monkeypatch, error, encoder="pixels")
    runs = run_study(study(data, heads=["linear"], baselines="none"), tmp_path)
    assert [run.encoder for run in runs] == ["hog"]
    (found,) = json.loads(runs.failures.read_text())
    assert (found["encoder"], found["task"], found["error"]) == ("pixels", "square", type(error).__name__)
    assert found["sentence"] == str(error).splitlines()[0]
    assert (found["trace"] is None) == isinstance(error, EvalfmError)
    assert set(pd.read_parquet(runs.results)["encoder"]) == {"hog"}
    assert runs.failed[0].cell.encoder == "pixels"
    monkeypatch.undo()
    mended = run_study(study(data, heads=["linear"], baselines="none"), tmp_path)
    assert {run.encoder for run in mended} == {"pixels", "hog"}
    assert json.loads(mended.failures.read_text()) == []


@pytest.mark.parametrize("kind", [EvalfmError, RuntimeError])
def test_what_is_written_of_a_failure_names_no_file_patient_or_place(
    kind: type[Exception], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = read_data(data).folder
    error = kind(
        f"The image s3-0.png of s3 cannot be read ({folder}/s3-0.png, /home/anna/films, 's4-0'); 2.5 of 7 rows."
    )
    failing(monkeypatch, error, encoder="pixels")
    runs = run_study(study(data, heads=["linear"], baselines="none"), tmp_path)
    (found,) = json.loads(runs.failures.read_text())
    assert found["sentence"].endswith("cannot be read (…, …, '…'); 2.5 of 7 rows.")
    text = runs.failures.read_text()
    for word in ("s3-0", "s4-0", "anna", str(folder), str(Path.home()), str(Path.cwd()), "site-packages"):
        assert word not in text
    if kind is RuntimeError:
        assert "evalfm/probing/executor.py:" in found["trace"]
    # On the screen it is told in full.
    assert runs.failed[0].failure is not None
    assert runs.failed[0].failure.sentence == str(error)


def test_one_head_does_not_take_the_others_along(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[str, ...]] = []

    def called(case: Case, *objects: Any) -> list[Run]:
        assert case.config.heads is not None
        calls.append(case.config.heads)
        if "knn" in case.config.heads:
            raise RuntimeError("out of memory")
        return measure(case, *objects)

    monkeypatch.setattr(executor, "measure", called)
    runs = run_study(study(data, encoders=["hog"], baselines="none"), tmp_path)
    assert calls == [("linear", "knn"), ("linear",), ("knn",)]
    assert [run.head for run in runs] == ["linear"]
    assert [outcome.failure.sentence for outcome in runs.failed if outcome.failure] == ["knn: out of memory"]


def test_the_keyboard_stops_and_what_was_finished_is_in_the_table(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    failing(monkeypatch, KeyboardInterrupt(), encoder="hog")
    with pytest.raises(KeyboardInterrupt):
        run_study(study(data, heads=["linear"], baselines="none"), tmp_path)
    assert set(pd.read_parquet(tmp_path / "results.parquet")["encoder"]) == {"pixels"}


def test_every_fault_is_named_before_anything_runs(data: str, tmp_path: Path):
    asked = study(
        data, encoders=["pixels", "hogg"], tasks=["square", "squire", {"name": "sex", "data": "nowhere"}],
        heads=["linear", "multi"], test_where="age > 0",
    )  # fmt: skip
    with pytest.raises(EvalfmError) as refused:
        run_study(asked, tmp_path / "runs")
    remedies = ("evalfm data register DIR --name nowhere", "--data phantom")
    for part in ("'hogg'", "'squire'", *remedies, "'multi'", "every patient"):
        assert part in str(refused.value), part
    assert not (tmp_path / "runs").exists()


def test_faults_of_any_seed_and_subset_are_found(data: str, tmp_path: Path):
    with pytest.raises(EvalfmError, match=r"square \(1000 shots\)"):
        run_study(study(data, shots=[2, 1000]), tmp_path / "runs")


def test_the_machine_is_passed_on(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = failing(monkeypatch, RuntimeError(), encoder="nobody")
    machine = MachineOptions(workers=1, maps="stream", batch_size=5)
    run_study(study(data, encoders=["hog"], heads=["linear"], baselines="none"), tmp_path, machine=machine)
    assert [(call.workers, call.maps, call.batch_size) for call in calls] == [(1, "stream", 5)]


def test_the_plan_counts_the_passes_that_are_made(
    data: str, square_seg: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoder = {"name": "pixels", "input_size": 64}
    asked = study(data, encoders=[encoder], tasks=["square", square_seg], heads=["linear"], baselines="none", seeds=2)
    machine = MachineOptions(maps="stream")
    planned = [each.estimate for each in make_plan(asked, machine).cells]
    assert [each is not None for each in planned] == [True, True]
    sources: list[EncodedSource] = []
    begin = EncodedSource.__init__

    def kept(self: EncodedSource, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        sources.append(self)

    monkeypatch.setattr(EncodedSource, "__init__", kept)
    runs = run_study(asked, tmp_path, machine=machine)
    assert not runs.failed
    forwards = sum(each.forwards for each in planned if each is not None)
    # Early stopping makes it less; the last look of a training is never left out.
    assert 0.2 * forwards < sum(each.encoded_images for each in sources) <= forwards
    labels = planned[0]
    assert labels is not None
    assert labels.forwards == len(list(Path(data).glob("s*-?.png")))
    after = [each.estimate for each in make_plan(asked, machine).cells]
    assert after[0] is not None
    assert after[0].forwards == 0


def test_random_weights_are_a_baseline_of_learnt_ones_and_of_no_others(data: str, tmp_path: Path):
    card = tmp_path / "tiny.yaml"
    text = (Path(evalfm.__file__).parent / "encoders" / "cards" / "squeezenet1-0.caffe.yaml").read_text()
    card.write_text(text.replace("name: squeezenet1-0.caffe", "name: tiny"))
    weights = tmp_path / "weights.safetensors"
    state = load_encoder(str(card), weights="random").state_dict()
    save_file({name.removeprefix("model."): value * 1.5 for name, value in state.items()}, weights)
    encoder = {"name": str(card), "weights": str(weights), "input_size": 64}
    runs = run_study(study(data, encoders=[encoder], heads=["linear"], baselines="all"), tmp_path / "runs")
    assert not runs.failed
    told = [(run.encoder, run.is_baseline, run.record.provenance.random_weights) for run in runs]
    assert told[0] == ("tiny", False, False)
    assert told[-1] == ("tiny", True, True)
    table = pd.read_parquet(runs.results)
    assert set(table.loc[~table["baseline"], "weights"]) == {"file"}
    assert str(tmp_path) not in table.to_csv()


def iterate(runs: StudyRuns) -> Iterator[Run]:
    yield from runs


def test_the_result_is_a_sequence_of_runs(finished: StudyRuns):
    assert len(list(iterate(finished))) == len(finished)
    assert finished[0].encoder == "pixels"
    assert len(finished[:2]) == 2
