"""The studies that repeat published ones, rehearsed on small radiographs with a made-up encoder in place of theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalfm.data.manifest import Manifest
from evalfm.probing.cohort import PHANTOM
from evalfm.run import Run
from evalfm.study import Study, StudyRuns, load_study, run_study

from .. import readers

READER = f"{Path(readers.__file__)}:build"
QUICK = {"epochs": 1, "least_steps": 2}


@pytest.fixture(scope="module")
def radiographs(squares: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Squares that stand for a pneumonia, a tuberculosis and dense tissue."""
    table = squares.table.drop(columns=["square_mask", "size"]).rename(columns={"square": "pneumonia"})
    grade = 2 * table["pneumonia"].to_numpy(np.intp) + np.arange(len(table)) // 2 % 2
    table = table.assign(tuberculosis=table["pneumonia"], density=np.array(list("ABCD"))[grade])
    source = dict.fromkeys(("pneumonia", "tuberculosis", "density"), "made up")
    facts = {"label_source": source, "label_kinds": {"density": "class"}, "mask_dialects": {}}
    facts |= {"root": str(squares.root)}
    folder = tmp_path_factory.mktemp("films")
    Manifest(squares.info.model_copy(update=facts), table, folder).write(folder)
    return Manifest.read(folder)


def rehearsed(name: str, radiographs: Manifest, out: Path) -> tuple[Study, StudyRuns]:
    """The study with its keys as they ship, a small encoder for each of its own, and short trainings."""
    asked = load_study(name).on(str(radiographs.folder))
    light = [
        each.model_dump() | {"encoder": "light-cnn", "recipe": {**each.recipe, **QUICK}} for each in asked.supervised
    ]
    study = asked.changed(encoders=[{"name": READER}], supervised=light, seeds=1)
    done = run_study(study, out)
    assert not done.failed
    return study, done


def lines(runs: StudyRuns) -> set[tuple[str, str, str, str]]:
    return {(run.task, run.encoder, run.head, run.adaptation) for run in runs if not run.is_baseline}


def test_bigger_against_light(radiographs: Manifest, tmp_path: Path):
    study, runs = rehearsed("does-bigger-mean-better", radiographs, tmp_path)
    assert study.threshold == "f1"
    assert lines(runs) == {
        (task, *line)
        for task in ("pneumonia-cls", "tb-cls")
        for line in (
            ("reader", "zeroshot", "frozen"),
            ("reader", "linear", "frozen"),
            ("light-cnn", "linear", "scratch"),
        )
    }
    for run in runs:
        assert run.record.config.threshold == "f1"
        share = run.record.data.splits.test.positive_images / run.record.data.splits.test.images
        assert run.metrics["f1_all_positive"].value == pytest.approx(2 * share / (1 + share))
    assert {run.encoder for run in runs if run.is_baseline} >= {"constant", "pixels"}
    # No word of these sentences is known to the reader: it cannot tell, and calls every radiograph positive.
    blind = next(run for run in runs if run.head == "zeroshot")
    assert blind.metrics["auroc"].value == 0.5
    assert blind.metrics["f1"].value == blind.metrics["f1_all_positive"].value


def test_density_by_sentences_by_a_probe_and_by_fine_tuning(radiographs: Manifest, tmp_path: Path):
    _, runs = rehearsed("breast-density", radiographs, tmp_path)
    assert lines(runs) == {
        ("density", "reader", "zeroshot", "frozen"),
        ("density", "reader", "linear", "frozen"),
        ("density", "light-cnn", "linear", "full"),
    }
    by_head = {(run.encoder, run.head): run for run in runs}
    said = by_head["reader", "zeroshot"].record.prompts
    assert said is not None
    assert [row["prompts"] for row in said.rows][:2] == [
        [["The breast is almost entirely fatty."]],
        [["The breast is composed of scattered areas of fibroglandular density."]],
    ]
    for name in ("accuracy", "weighted_f1", "quadratic_kappa"):
        assert all(run.metrics[name].value is not None or run.metrics[name].reason for run in runs)
    tuned = by_head["light-cnn", "linear"].record.config.recipe
    assert {key: tuned[key] for key in ("learning_rate", "head_learning_rate", "layer_decay", "probe_start")} == {
        "learning_rate": 1e-4, "head_learning_rate": 1e-4, "layer_decay": 1.0, "probe_start": False,
    }  # fmt: skip
    constant = by_head["constant", "linear"]
    assert constant.is_baseline
    assert_most_frequent(constant)


def assert_most_frequent(run: Run) -> None:
    """The constant baseline calls the class that train has most of, as the published zero-shot row nearly does."""
    table = run.predictions()
    test = table[table["split"] == "test"]
    called = test[[f"score_{name}" for name in "ABCD"]].to_numpy().argmax(1)
    assert len(set(called.tolist())) == 1
    assert run.metrics["accuracy"].value == pytest.approx((test["target"] == called[0]).mean())


@pytest.mark.parametrize("name", ["does-bigger-mean-better", "breast-density"])
def test_the_phantom_has_another_question_and_an_encoder_whose_words_are_here(name: str):
    study = load_study(name).on(PHANTOM)
    assert [task.name for task in study.tasks] == ["ptx-cls"]
    assert [encoder.name for encoder in study.encoders] == ["chexzero"]
    assert study.heads == ("zeroshot", "linear")
