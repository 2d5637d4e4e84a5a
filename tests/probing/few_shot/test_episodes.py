"""Few-shot results end to end: what is stored can be computed again from it, and nothing half is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import evalfm
from evalfm.analysis.report.page import report_page, write_tables
from evalfm.analysis.report.section import few_shot_sections
from evalfm.config import EncoderConfig
from evalfm.data.manifest import Manifest
from evalfm.episodes import RECORD, TABLE, EpisodeRun, find_episodes
from evalfm.errors import EvalfmError
from evalfm.heads import episodic
from evalfm.probing.few_shot import episodes as module
from evalfm.probing.few_shot.config import STRENGTH, EpisodeConfig
from evalfm.probing.probe import probe
from evalfm.probing.session import open_session
from evalfm.progress import SILENT
from evalfm.run import find_runs

from ...readers import Seer, reader_card

ASKED: dict[str, Any] = {"shots": (1, 3), "queries": 4, "episodes": 6}


def run(squares: Manifest, out: Path, encoder: Any = "hog", task: str = "square", **asked: Any) -> list[EpisodeRun]:
    return evalfm.run_episodes(encoder, task, data=squares, out=out, **{**ASKED, **asked})


@pytest.fixture(scope="module")
def graded(squares: Manifest) -> Manifest:
    """The same radiographs with three grades that are seen: none, a small and a wide square."""
    size = squares.table["size"].to_numpy()
    grade = np.where(size == 0, 0.0, np.where(size < np.median(size[size > 0]), 1.0, 2.0))
    info = squares.info.model_copy(
        update={
            "label_source": {**squares.info.label_source, "grade": "mask"},
            "label_kinds": {**squares.info.label_kinds, "grade": "class"},
        }
    )
    return Manifest(info, squares.table.assign(grade=grade), squares.folder)


def features_by_id(manifest: Manifest, encoder: str) -> dict[str, np.ndarray]:
    session = open_session(encoder, EncoderConfig(), manifest, None, SILENT)
    pooled = session.source.features(range(len(manifest))).pooled.double().numpy()
    return dict(zip(manifest.table["id"], pooled / np.linalg.norm(pooled, axis=1, keepdims=True), strict=True))


@pytest.mark.parametrize(("task", "classes"), [("square", 2), ("grade", 3)])
def test_the_linear_probe_is_scikit_learns_on_the_stored_images(
    graded: Manifest, tmp_path: Path, task: str, classes: int
):
    queries = 3
    (made,) = run(graded, tmp_path, task=task, methods=["linear"], queries=queries)
    truth = dict(zip(graded.table["id"], graded.table[task], strict=True))
    features = features_by_id(graded, "hog")
    table = made.table()
    assert len(table) == 12
    for line in table.itertuples():
        support, query = list(line.support), list(line.query)
        assert [truth[each] for each in support] == np.repeat(np.arange(classes), line.shots).tolist()
        assert [truth[each] for each in query] == np.repeat(np.arange(classes), queries).tolist()
        model = LogisticRegression(tol=1e-8, max_iter=5000)
        model.fit([features[each] for each in support], [truth[each] for each in support])
        scores = model.predict_proba([features[each] for each in query])
        expected = [roc_auc_score([truth[each] == code for each in query], scores[:, code]) for code in range(classes)]
        assert line.macro_auroc == pytest.approx(np.mean(expected), abs=1e-9)
    for result in made.record.results:
        values = table[table["shots"] == result.shots]["macro_auroc"]
        assert result.mean.value == pytest.approx(values.mean())
        assert result.sd == pytest.approx(values.std())


def test_sentences_score_queries_as_the_head_does(squares: Manifest, tmp_path: Path):
    prompts = tmp_path / "prompts.yaml"
    said = {"classes": {"square": {"names": ["bright"]}}, "absent": {"square": {"names": ["dark"]}}}
    prompts.write_text(json.dumps(said))
    zeroshot, linear = run(
        squares, tmp_path / "episodes", Seer(), methods=["zeroshot", "linear"], prompts=prompts, queries=4
    )
    (probed,) = probe(
        Seer(), "square", data=squares, heads=["zeroshot"], baselines="none", prompts=prompts, out=tmp_path / "runs"
    )
    predictions = probed.predictions().set_index("id")
    (result,) = zeroshot.record.results
    assert (result.shots, result.mean.n) == (0, 6)
    assert (result.mean.value or 0) > 0.9
    for line in zeroshot.table().itertuples():
        asked = predictions.loc[list(line.query)]
        assert line.macro_auroc == pytest.approx(roc_auc_score(asked["target"], asked["score_square"]))
        assert len(line.support) == 0
    queries = linear.table().groupby("episode")["query"].first()
    for line in zeroshot.table().itertuples():
        assert list(queries[line.episode]) == list(line.query)
    assert "bright" in json.dumps(zeroshot.record.method.as_written()["text"])
    assert str(tmp_path) not in (zeroshot.folder / RECORD).read_text()


def test_other_sentences_are_another_result(squares: Manifest, tmp_path: Path):
    prompts = tmp_path / "prompts.yaml"
    found = []
    for name in ("bright", "grey"):
        prompts.write_text(json.dumps({"classes": {"square": {"names": [name]}}}))
        found += run(squares, tmp_path / "out", Seer(), methods=["zeroshot"], prompts=prompts)
    assert found[0].folder != found[1].folder


def test_a_support_is_the_start_of_a_larger_one_and_queries_stay(squares: Manifest, tmp_path: Path):
    (made,) = run(squares, tmp_path, methods=["knn"])
    by_shots = {shots: split.set_index("episode") for shots, split in made.table().groupby("shots")}
    for episode in range(6):
        one, three = by_shots[1].loc[episode], by_shots[3].loc[episode]
        assert list(one["query"]) == list(three["query"])
        assert [three["support"][0], three["support"][3]] == list(one["support"])


@pytest.mark.parametrize("method", ["linear", "prototypes", "knn"])
def test_what_sees_nothing_is_at_chance(squares: Manifest, tmp_path: Path, method: str):
    (made,) = run(squares, tmp_path, "constant", methods=[method])
    assert made.table()["macro_auroc"].tolist() == [0.5] * 12
    assert made.record.results[0].mean.reason == "all episodes have the same value"


def test_what_is_there_is_returned_and_any_setting_makes_another(
    squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (made,) = run(squares, tmp_path, methods=["linear"])
    changed = [{"shots": (1, 2)}, {"queries": 3}, {"episodes": 5}, {"seed": 1}, {"strength": 2.0}]
    folders = [run(squares, tmp_path, methods=["linear"], **each)[0].folder for each in changed]
    assert len({made.folder, *folders}) == 6
    stamp = (made.folder / TABLE).stat().st_mtime_ns
    monkeypatch.setattr(module, "episode_auroc", lambda scores: pytest.fail("computed again"))
    (again,) = run(squares, tmp_path, methods=["linear"])
    assert again.folder == made.folder
    monkeypatch.undo()
    (forced,) = run(squares, tmp_path, methods=["linear"], force=True)
    assert forced.folder == made.folder
    assert (made.folder / TABLE).stat().st_mtime_ns > stamp
    assert {each.folder for each in find_episodes(tmp_path)} == {made.folder, *folders}
    assert find_runs(tmp_path) == []


def test_a_result_is_whole_or_not_there(squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(self: pd.DataFrame, *_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_parquet", broken)
    with pytest.raises(KeyboardInterrupt):
        run(squares, tmp_path / "out", methods=["linear"])
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert find_episodes(tmp_path / "out") == []


def test_notes_say_what_must_be_read_with_the_figures(squares: Manifest, tmp_path: Path):
    (made,) = run(squares, tmp_path, "random:test_vit", methods=["linear"], input_size=32)
    assert made.record.cautions[0].sentence.startswith("Episodes draw from one pool of images and overlap")
    assert "Random weights: the encoder has learnt nothing." in map(str, made.record.cautions)
    assert made.record.provenance.random_weights
    info = squares.info.model_copy(update={"synthetic": True})
    unknown = Manifest(info, squares.table.drop(columns="patient"), squares.folder)
    seen = Seer(reader_card(pretraining_data=[{"name": "squares", "what": "images"}]))
    (made,) = run(unknown, tmp_path, seen, methods=["linear"])
    for start in ("Synthetic data", "Patients unknown", "Contamination: reader was pre-trained on images of squares"):
        assert any(str(each).startswith(start) for each in made.record.cautions), start


def test_ids_leave_as_the_data_set_says(squares: Manifest, tmp_path: Path):
    info = squares.info.model_copy(update={"public_ids": False, "salt": "long random text"})
    (made,) = run(Manifest(info, squares.table, squares.folder), tmp_path, methods=["linear"])
    names = {each for line in made.table()["query"] for each in line}
    assert all(len(each) == 16 for each in names)
    assert not names & set(squares.table["id"])


def test_without_a_split_patients_stay_apart(squares: Manifest, tmp_path: Path):
    whole = Manifest(squares.info, squares.table.drop(columns="split"), squares.folder)
    (made,) = run(whole, tmp_path, methods=["linear"])
    patient = dict(zip(squares.table["id"], squares.table["patient"], strict=True))
    for line in made.table().itertuples():
        assert not {patient[each] for each in line.support} & {patient[each] for each in line.query}
    assert made.record.data.query_from == "all patients"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"shots": (99,)}, "99 shots of class no square are needed, but train has"),
        ({"queries": 99}, "99 queries of class square are needed, but test has"),
        ({"task": "size"}, "the regression task size is of no one class; take a task of classes"),
        ({"task": "chexpert5"}, "no column|ask one of its labels"),
        ({"encoder": "hgo"}, "no encoder 'hgo'"),
        ({"shots": ()}, "shots"),
        ({"shots": (3, 1)}, "shots rise"),
        ({"shots": (0, 1)}, "1 or more"),
        ({"methods": ["linaer"]}, "linear"),
        ({"methods": ["knn"], "strength": 3.0}, "C of the method linear"),
        ({"methods": ["knn"], "recipe": {"epochs": 3}}, "for the method fine-tune"),
        ({"methods": ["fine-tune"], "recipe": {"epoch": 3}}, "epoch"),
        ({"methods": ["fine-tune"]}, "hog has no weights, so fine-tune has nothing to train"),
        ({"methods": ["fine-tune"], "encoder": "constant"}, "constant has no weights"),
        ({"methods": ["zeroshot"]}, "hog has no text tower"),
        ({"methods": ["linear"], "prompts": "x.yaml"}, "method zeroshot, which is not among them"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    squares: Manifest, tmp_path: Path, asked: dict[str, Any], said: str
):
    with pytest.raises(EvalfmError, match=said):
        run(squares, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_a_multilabel_task_is_refused_with_the_way_out(squares: Manifest, tmp_path: Path):
    card = tmp_path / "both.yaml"
    card.write_text("schema: 1\nname: both\nkind: multilabel\ntitle: Both?\ntarget: [square, other]\n")
    table = squares.table.assign(other=1.0 - squares.table["square"])
    with pytest.raises(EvalfmError, match="multilabel task both is of no one class; take one of its labels, as --task"):
        run(Manifest(squares.info, table, squares.folder), tmp_path / "out", task=str(card))


def test_settings_are_checked_whole():
    settings = EpisodeConfig.checked(
        encoder="hog", task="x", methods=("linear", "fine-tune"), episodes=3, fine_tune_episodes=5
    )
    assert [settings.episodes_of(each) for each in settings.methods] == [3, 3]
    assert settings.whole_recipe.probe_start is False
    assert STRENGTH == episodic.STRENGTH
    assert EpisodeConfig.checked(encoder="hog", task="x").methods == ("linear", "prototypes", "knn")


def test_the_report_has_a_section_of_them(squares: Manifest, tmp_path: Path):
    made = run(squares, tmp_path / "episodes", methods=["linear", "knn"])
    (aside,) = few_shot_sections(made)
    assert aside.title == "Few-shot episodes: square on squares"
    (rows,) = [table.rows for heading, table in aside.tables if heading == "Mean over episodes"]
    told = {(row[1], row[2]): (row[4], row[5]) for row in rows}
    expected = {(each.method, at.shots): (at.mean, at.sd) for each in made for at in each.record.results}
    assert told == expected
    probed = probe("hog", "square", data=squares, heads=["linear"], baselines="none", out=tmp_path / "runs")
    page = report_page(probed, episodes=made)
    assert "Few-shot episodes: square on squares" in page
    assert "shots of each class" in page
    written = write_tables(probed, tmp_path / "tables", episodes=made)
    assert "episodes-0.csv" in {path.name for path in written}
