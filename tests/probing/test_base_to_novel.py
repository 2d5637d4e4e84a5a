"""Base-to-novel through the whole path: who is learnt on, among which classes an image is placed, and the means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from evalfm.analysis.bias_of_values import bias_of_values
from evalfm.analysis.compare import compare
from evalfm.analysis.report.page import report_page
from evalfm.analysis.scores import asks_questions
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.probing.base_to_novel import as_base_to_novel, base_and_novel
from evalfm.probing.predict import predict
from evalfm.probing.probe import probe
from evalfm.probing.splits import make_splits
from evalfm.run import Run
from evalfm.split_options import SplitOptions
from evalfm.tasks.cohort import resolve_task, select_cohort

from ..readers import Seer, reader_card

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
    # Bright radiographs are of class a, or of class c among the novel ones: so the sentences are read right.
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
    assert any("harmonic mean 2bn / (b + n)" in str(each) for each in run.record.cautions)
    shares = test["target"][base].value_counts(normalize=True).max()
    assert run.metrics["accuracy_base_constant"].value == pytest.approx(shares)


def test_train_and_val_hold_base_classes_alone(graded: Manifest):
    cohort = as_base_to_novel(select_cohort(resolve_task("grade", graded), graded), [])
    settings = SplitOptions(base_to_novel=True, shots=3, val_shots=2)
    (split,) = make_splits(cohort, settings)
    assert sorted(cohort.target[split.train]) == [0, 0, 0, 1, 1, 1]
    assert sorted(cohort.target[split.val]) == [0, 0, 1, 1]
    assert set(cohort.target[split.test]) == {0, 1, 2, 3}


def test_what_the_protocol_cannot_ask_is_refused(graded: Manifest, run: Run, tmp_path: Path):
    def asked(**changes: object) -> object:
        settings = {"task": "grade", "data": graded, "heads": ["zeroshot"], "base_to_novel": True, "out": tmp_path}
        return probe(**{"encoder": Seer(), **settings, **changes})  # type: ignore[arg-type]

    three = Manifest(graded.info, graded.table.assign(grade=graded.table["grade"].replace({"d": "c"})), graded.root)
    for changes, sentence in (
        ({"data": three}, r"needs 4 classes or more, and there are 3 \(a, b, c\): in a half of one class"),
        ({"heads": ["linear"]}, "linear cannot name"),
        ({"task": "square"}, "needs several classes"),
        ({"folds": 3}, "without folds"),
    ):
        with pytest.raises(EvalfmError, match=sentence):
            asked(**changes)
    with pytest.raises(EvalfmError, match="no head for new images"):
        predict(run, graded, encoder=Seer(), out=tmp_path / "predicted")
    assert not list(tmp_path.rglob("run.json"))


def test_runs_are_compared_by_the_harmonic_mean_and_reported(run: Run, graded: Manifest, tmp_path: Path):
    (tmp_path / "said.json").write_text(json.dumps({"classes": {name: {"names": [name * 3]} for name in CLASSES}}))
    (other,) = probe(
        Seer(reader_card(name="other")),
        "grade",
        data=graded,
        heads=["zeroshot"],
        prompts=tmp_path / "said.json",
        base_to_novel=True,
        out=tmp_path,
    )
    table = compare([run, other])[0]
    assert table.metric == "harmonic_mean"
    by_name = {entry.encoder: entry for entry in table.entries}
    values = {each.encoder: each.metrics["harmonic_mean"].value or 0.0 for each in (run, other)}
    assert {name: entry.estimate.value for name, entry in by_name.items()} == pytest.approx(values)
    worse = min(values, key=lambda name: values[name])
    difference = by_name[worse].difference
    assert difference is not None
    assert difference.value == pytest.approx(min(values.values()) - max(values.values()))
    page = report_page([run, other])
    assert "harmonic_mean" in page
    assert "grade-base-to-novel" in page
    with pytest.raises(EvalfmError, match="tried its classes in halves"):
        bias_of_values(run, ["sex"])
    assert not asks_questions(run)


def test_classes_that_cannot_be_halved_are_refused() -> None:
    for names in (["one"], ["one", "two"], ["benign", "malignant", "normal"]):
        with pytest.raises(EvalfmError, match=f"needs 4 classes or more, and there are {len(names)}"):
            base_and_novel(names)
    with pytest.raises(EvalfmError, match="called the same"):
        base_and_novel(["one", "One", "two"])


@pytest.mark.parametrize(("count", "base"), [(4, 2), (5, 3), (7, 4), (8, 4)])
def test_base_is_the_first_half_rounded_up(count: int, base: int) -> None:
    names = tuple(f"c{number}" for number in range(count))
    first, rest = base_and_novel(names)
    assert first + rest == names
    assert len(first) == base
    assert not set(first) & set(rest)
