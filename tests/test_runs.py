import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from evalfm.data.work_folders import work_name
from evalfm.errors import EvalfmError
from evalfm.publishing import IfExists, content_key, publishing, remove_leftovers, run_folder, write_run
from evalfm.record import Provenance, Record
from evalfm.run import RECORD, Run, find_runs
from evalfm.statistics.estimate import Estimate

PART = {"images": 1, "patients": 1, "positive_images": 1}
DATA = {
    "name": "toy",
    "test_name": "toy",
    "licence": "MIT",
    "label_source": {},
    "class_names": ["ptx"],
    "patients_known": True,
    "folds": None,
    "splits": {"train": PART, "val": PART, "test": PART},
    "redistributable_images": False,
}


def table_of(number: float) -> pd.DataFrame:
    who = {"id": ["i"], "patient": ["p"], "split": ["test"]}
    return pd.DataFrame(who | {"target": [1.0], "score_ptx": [number], "threshold": [0.5]})


def make_record(key: str = "0" * 64) -> Record:
    return Record(
        schema=2,
        key=key,
        config={"baseline": False, "adaptation": "frozen", "seed": 0},
        encoder={"name": "pixels"},
        task={"name": "ptx-cls", "title": "Is it?", "metrics": ["auroc"], "kind": "binary", "target": ["ptx"]},
        head={"name": "linear"},
        data=DATA,
        metrics={
            "auroc": Estimate(0.7, 0.6, 0.8, (0.61, 0.79), "BCa", 40).to_json(),
            "ppv": Estimate.absent("no positive call").to_json(),
        },
        chosen={},
        exclusions=[],
        cautions=[],
        provenance=Provenance(
            versions={},
            git_commit=None,
            device="cpu",
            precision="float32",
            seconds=1.0,
            peak_memory_bytes=1,
            weights_digest=None,
            feature_key="k",
            split_hash="s",
            synthetic=True,
            random_weights=False,
        ),
    )


def publish(out: Path, key: str = "a" * 64, number: float = 1.0, if_exists: IfExists = IfExists.KEPT) -> Path:
    final = run_folder(out, "pixels", "ptx-cls", "linear", "frozen", key)
    with publishing(out, final, if_exists) as work:
        write_run(work, make_record(key), table_of(number), {"weight": torch.tensor([number])})
    return final


def test_a_run_comes_back_as_it_was_written(tmp_path: Path):
    run = Run.read(publish(tmp_path))
    assert run.metrics["auroc"] == Estimate(0.7, 0.6, 0.8, (0.61, 0.79), "BCa", 40)
    assert run.metrics["ppv"].value is None
    assert run.metrics["ppv"].reason == "no positive call"
    assert run.predictions()["score_ptx"].tolist() == [1.0]
    assert run.head_tensors()["weight"].tolist() == [1.0]
    assert (run.encoder, run.task, run.head, run.primary, run.is_baseline) == (
        "pixels",
        "ptx-cls",
        "linear",
        "auroc",
        False,
    )


def test_a_run_that_fails_half_way_leaves_nothing(tmp_path: Path):
    final = run_folder(tmp_path, "pixels", "ptx-cls", "linear", "frozen", "a" * 64)

    def half() -> None:
        with publishing(tmp_path, final) as work:
            (work / RECORD).write_text("{}")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        half()
    assert not final.exists()
    assert find_runs(tmp_path) == []


def test_work_in_progress_is_never_listed(tmp_path: Path):
    finished = publish(tmp_path)
    half = tmp_path / ".work" / "b-1234"
    half.mkdir(parents=True)
    (half / RECORD).write_text((finished / RECORD).read_text())
    assert [run.folder for run in find_runs(tmp_path)] == [finished]


def test_a_second_run_replaces_the_first_whole(tmp_path: Path):
    first = publish(tmp_path, number=1.0)
    (first / "stray").write_text("of the first run")
    second = publish(tmp_path, number=2.0, if_exists=IfExists.REPLACED)
    assert first == second
    assert not (second / "stray").exists()
    assert Run.read(second).predictions()["score_ptx"].tolist() == [2.0]
    assert list((tmp_path / ".work").iterdir()) == []


def test_who_publishes_second_keeps_what_is_there_unless_forced(tmp_path: Path):
    final = run_folder(tmp_path, "pixels", "ptx-cls", "linear", "frozen", "a" * 64)
    for if_exists, expected in ((IfExists.KEPT, 1.0), (IfExists.REPLACED, 2.0)):
        with publishing(tmp_path, final, if_exists) as work:
            write_run(work, make_record(), table_of(2.0), {})
            publish(tmp_path, number=1.0)
        assert Run.read(final).predictions()["score_ptx"].tolist() == [expected]
        assert list((tmp_path / ".work").iterdir()) == []


def test_what_is_no_whole_run_gives_way(tmp_path: Path):
    final = publish(tmp_path, number=1.0)
    (final / RECORD).unlink()
    publish(tmp_path, number=2.0)
    assert Run.read(final).predictions()["score_ptx"].tolist() == [2.0]


def test_what_must_be_new_is_refused_where_something_is(tmp_path: Path):
    publish(tmp_path, number=1.0)
    with pytest.raises(EvalfmError, match="there already"):
        publish(tmp_path, number=2.0, if_exists=IfExists.REFUSED)
    assert [run.predictions()["score_ptx"].tolist() for run in find_runs(tmp_path)] == [[1.0]]
    assert list((tmp_path / ".work").iterdir()) == []


def test_leftovers_of_the_dead_are_removed_and_work_of_the_living_is_kept(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead = tmp_path / ".work" / work_name().replace(f"-{os.getpid()}-", f"-{process.pid}-")
    dead.mkdir(parents=True)
    (dead / RECORD).write_text("{")
    final = run_folder(tmp_path, "pixels", "ptx-cls", "linear", "frozen", "a" * 64)
    with publishing(tmp_path, final) as work:
        write_run(work, make_record(), table_of(1.0), {})
        remove_leftovers(tmp_path)
        assert [path.name for path in (tmp_path / ".work").iterdir()] == [work.name]
    assert len(find_runs(tmp_path)) == 1


def test_the_key_does_not_depend_on_the_order_of_its_parts():
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})


def test_names_cannot_leave_the_folder():
    folder = run_folder(Path("runs"), "../../etc", "a/b", "linear", "frozen", "c" * 64)
    assert ".." not in folder.parts
    assert len(folder.parts) == 4


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(EvalfmError, match="no run"):
        Run.read(tmp_path)


def test_a_damaged_record_is_said_to_be_one(tmp_path: Path):
    folder = publish(tmp_path)
    (folder / RECORD).write_text(json.dumps({"schema": 1}))
    with pytest.raises(EvalfmError, match=r"run it again"):
        Run.read(folder)


def test_an_output_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(EvalfmError, match="--out"):
        publish(blocked / "runs")
