"""Base-to-novel through the whole path: who is learnt on, among which classes an image is placed, and the means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.probing.base_to_novel import as_base_to_novel
from evalfm.probing.parts import parts
from evalfm.probing.predict import predict
from evalfm.probing.probe import probe
from evalfm.probing.settings import Settings
from evalfm.runs import Run
from evalfm.tasks.question import pose, resolve_task

from ..readers import Seer

CLASSES = {"a": "bright", "b": "dark", "c": "grey bright", "d": "grey dark"}


@pytest.fixture(scope="module")
def graded(squares: Manifest) -> Manifest:
    """Two of four classes show a square, two do not."""
    table = squares.table
    older = table["age"] > table["age"].median()
    name = np.where(table["square"] == 1, np.where(older, "a", "c"), np.where(older, "b", "d"))
    facts = squares.info.model_copy(update={"label_kinds": {**squares.info.label_kinds, "grade": "class"}})
    return Manifest(facts, table.assign(grade=name), squares.root)


@pytest.fixture(scope="module")
def run(graded: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("halves")
    classes = {key: {"names": [value]} for key, value in CLASSES.items()}
    said = {"name": "grade", "templates": ["{}"], "classes": classes}
    (folder / "said.json").write_text(json.dumps(said))
    found = probe(
        Seer(), "grade", data=graded, heads=["zeroshot"], prompts=folder / "said.json", base_to_novel=True, out=folder
    )
    assert [each.head for each in found] == ["zeroshot"]
    return found[0]


def test_an_image_is_placed_among_the_classes_of_its_own_half(run: Run):
    table = run.predictions()
    test = table[table["split"] == "test"]
    base, novel = test[test["target"] < 2], test[test["target"] >= 2]
    assert base[["score_c", "score_d"]].isna().all().all()
    assert novel[["score_a", "score_b"]].isna().all().all()
    assert np.allclose(base[["score_a", "score_b"]].sum(axis=1), 1)
    assert np.allclose(novel[["score_c", "score_d"]].sum(axis=1), 1)
    assert (novel["novel"]).all()
    assert not base["novel"].any()
    # Bright films are of class a, or of class c among the novel ones: so the sentences are read right.
    assert roc_auc_score(base["target"] == 0, base["score_a"]) > 0.9
    assert roc_auc_score(novel["target"] == 2, novel["score_c"]) > 0.9


def test_the_three_figures_are_what_they_say(run: Run):
    table = run.predictions()
    test = table[table["split"] == "test"]
    answer = test[[f"score_{name}" for name in "abcd"]].fillna(-1).to_numpy().argmax(axis=1)
    base = test["target"] < 2
    b, n = (accuracy_score(test["target"][half], answer[half]) for half in (base, ~base))
    assert run.metrics["accuracy_base"].value == pytest.approx(b)
    assert run.metrics["accuracy_novel"].value == pytest.approx(n)
    assert run.metrics["harmonic_mean"].value == pytest.approx(2 * b * n / (b + n))
    assert run.primary == "harmonic_mean"
    assert any("harmonic mean 2bn / (b + n)" in note for note in run.record.notes)
    shares = test["target"][base].value_counts(normalize=True).max()
    assert run.metrics["accuracy_base_constant"].value == pytest.approx(shares)


def test_train_and_val_hold_base_classes_alone(graded: Manifest):
    question = as_base_to_novel(pose(resolve_task("grade", graded), graded), [])
    settings = Settings.checked(task="grade", base_to_novel=True, shots=3, val_shots=2)
    (part,) = parts(question, settings)
    assert sorted(question.target[part.train]) == [0, 0, 0, 1, 1, 1]
    assert sorted(question.target[part.val]) == [0, 0, 1, 1]
    assert set(question.target[part.test]) == {0, 1, 2, 3}


def test_what_the_protocol_cannot_ask_is_refused(graded: Manifest, run: Run, tmp_path: Path):
    def asked(**changes: object) -> object:
        settings = {"task": "grade", "data": graded, "heads": ["zeroshot"], "base_to_novel": True, "out": tmp_path}
        return probe(**{"encoder": Seer(), **settings, **changes})  # type: ignore[arg-type]

    for changes, sentence in (
        ({"heads": ["linear"]}, "linear cannot name"),
        ({"task": "square"}, "needs several classes"),
        ({"folds": 3}, "without folds"),
    ):
        with pytest.raises(EvalfmError, match=sentence):
            asked(**changes)
    with pytest.raises(EvalfmError, match="no head for new images"):
        predict(run, graded, encoder=Seer(), out=tmp_path / "predicted")
    assert not list(tmp_path.rglob("run.json"))


def test_the_metrics_alone():
    from evalfm.tasks.metrics.base_to_novel import base_classes, base_to_novel_metrics

    generator = np.random.default_rng(0)
    target = generator.integers(0, 5, 200)
    scores = pd.DataFrame(generator.random((200, 5))).to_numpy()
    patient = generator.integers(0, 120, 200)
    found = base_to_novel_metrics(target, scores, patient, base=3, resamples=400)
    own = np.where((np.arange(5) < 3) == (target < 3)[:, None], scores, -1)
    b, n = ((own.argmax(1) == target)[half].mean() for half in (target < 3, target >= 3))
    assert found["harmonic_mean"].value == pytest.approx(2 / (1 / b + 1 / n))
    assert found["harmonic_mean"].low < found["harmonic_mean"].value < found["harmonic_mean"].high
    wrong = np.eye(5)[np.where(target < 3, (target + 1) % 3, 7 - target)]
    never = base_to_novel_metrics(target, wrong, patient, base=3, resamples=50)
    assert never["accuracy_base"].value == 0
    assert never["harmonic_mean"].value == 0
    only = base_to_novel_metrics(target[target < 3], scores[target < 3], patient[target < 3], base=3, resamples=50)
    assert only["harmonic_mean"].value is None
    assert [base_classes("x" * count) for count in (2, 3, 4, 7)] == [1, 2, 2, 4]
    with pytest.raises(EvalfmError, match="some of base and some of novel"):
        base_to_novel_metrics(target, scores, patient, base=5)
