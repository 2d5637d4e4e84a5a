"""Few-shot episodes end to end: what is stored can be computed again from it, and nothing half is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from evalfm.analysis.compare import compare
from evalfm.analysis.report.page import report_page, write_tables
from evalfm.analysis.table import task_tables
from evalfm.cli.compare import runs_in
from evalfm.config import EncoderConfig
from evalfm.data.manifest import Manifest
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.weights import tensor_digest
from evalfm.errors import EvalfmError
from evalfm.heads import episodic
from evalfm.predictions import EPISODES
from evalfm.probing import episodes as module
from evalfm.probing.predict import predict
from evalfm.probing.probe import SomeFailedError, probe
from evalfm.probing.session import open_session
from evalfm.progress import SILENT
from evalfm.run import RECORD, Run, find_runs

from ..readers import Seer, reader_card

QUICK = {"epochs": 1, "least_steps": 3}


def run(squares: Manifest, out: Path, encoder: Any = "hog", task: str = "square", **options: Any) -> list[Run]:
    usual: dict[str, Any] = {"shots": (1, 3), "queries": 4, "episodes": 6, "baselines": "none"}
    return probe(encoder, task, data=squares, out=out, **{**usual, **options})


def values(of: Run) -> list[float]:
    return of.episodes()["macro_auroc"].tolist()


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
    made = run(graded, tmp_path, task=task, heads="linear", queries=queries)
    truth = dict(zip(graded.table["id"], graded.table[task], strict=True))
    features = features_by_id(graded, "hog")
    assert [each.record.config.shots for each in made] == [1, 3]
    for each in made:
        table = each.episodes()
        assert len(table) == 6
        for line in table.itertuples():
            support, query = list(line.support), list(line.query)
            assert [truth[name] for name in support] == np.repeat(np.arange(classes), line.shots).tolist()
            assert [truth[name] for name in query] == np.repeat(np.arange(classes), queries).tolist()
            model = LogisticRegression(tol=1e-8, max_iter=5000)
            model.fit([features[name] for name in support], [truth[name] for name in support])
            scores = model.predict_proba([features[name] for name in query])
            areas = [roc_auc_score([truth[name] == code for name in query], scores[:, code]) for code in range(classes)]
            assert line.macro_auroc == pytest.approx(np.mean(areas), abs=1e-9)
        mean = each.metrics["macro_auroc"]
        assert mean.value == pytest.approx(table["macro_auroc"].mean())
        assert (mean.unit, mean.n, each.primary) == ("episodes", 6, "macro_auroc")
        assert each.record.episodes is not None
        assert each.record.episodes.sd == pytest.approx(table["macro_auroc"].std())


def test_sentences_score_queries_as_the_head_does_once_for_all_shots(squares: Manifest, tmp_path: Path):
    prompts = tmp_path / "prompts.yaml"
    said = {"classes": {"square": {"names": ["bright"]}}, "absent": {"square": {"names": ["dark"]}}}
    prompts.write_text(json.dumps(said))
    made = run(squares, tmp_path / "episodes", Seer(), heads=["zeroshot", "linear"], prompts=prompts)
    zeroshot = next(each for each in made if each.head == "zeroshot")
    assert [(each.head, each.record.config.shots) for each in made] == [
        ("linear", 1),
        ("zeroshot", None),
        ("linear", 3),
    ]
    (probed,) = probe(
        Seer(), "square", data=squares, heads=["zeroshot"], baselines="none", prompts=prompts, out=tmp_path / "runs"
    )
    predictions = probed.predictions().set_index("id")
    assert zeroshot.metrics["macro_auroc"].n == 6
    assert (zeroshot.metrics["macro_auroc"].value or 0) > 0.9
    for line in zeroshot.episodes().itertuples():
        shown = predictions.loc[list(line.query)]
        assert line.macro_auroc == pytest.approx(roc_auc_score(shown["target"], shown["score_square"]))
        assert len(line.support) == 0
    for each in made:
        assert each.episodes()["query"].map(list).tolist() == zeroshot.episodes()["query"].map(list).tolist()
    assert zeroshot.record.prompts is not None
    assert "bright" in json.dumps(zeroshot.record.prompts.as_written())
    assert str(tmp_path) not in (zeroshot.folder / RECORD).read_text()
    (alone,) = run(
        squares, tmp_path / "episodes", Seer(), heads=["zeroshot"], prompts=prompts, shots=None, baselines="default"
    )
    assert alone.folder == zeroshot.folder


def test_seeds_of_sentences_are_one_line_of_the_table(squares: Manifest, tmp_path: Path):
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(json.dumps({"classes": {"square": {"names": ["bright"]}}}))
    made = run(squares, tmp_path / "out", Seer(), heads=["zeroshot"], prompts=prompts, shots=None, seeds=2)
    assert len({tuple(each.episodes()["query"][0]) for each in made}) == 2
    (table,) = task_tables(made)
    assert [len(line.runs) for line in table.lines] == [2]


def test_other_sentences_are_another_result(squares: Manifest, tmp_path: Path):
    prompts = tmp_path / "prompts.yaml"
    found = []
    for name in ("bright", "grey"):
        prompts.write_text(json.dumps({"classes": {"square": {"names": [name]}}}))
        found += run(squares, tmp_path / "out", Seer(), heads=["zeroshot"], prompts=prompts)
    assert len({each.folder for each in found}) == 2


def test_a_support_is_the_start_of_a_larger_one_and_queries_stay(squares: Manifest, tmp_path: Path):
    small, large = (each.episodes() for each in run(squares, tmp_path, heads="knn"))
    for episode in range(6):
        one, three = small.loc[episode], large.loc[episode]
        assert list(one["query"]) == list(three["query"])
        assert [three["support"][0], three["support"][3]] == list(one["support"])


@pytest.mark.parametrize("head", episodic.METHODS)
def test_what_sees_nothing_is_at_chance(squares: Manifest, tmp_path: Path, head: str):
    for made in run(squares, tmp_path, "constant", heads=head):
        assert values(made) == [0.5] * 6
        assert made.metrics["macro_auroc"].reason == "all episodes have the same value"


def test_the_baselines_stand_beside_them(squares: Manifest, tmp_path: Path):
    made = run(squares, tmp_path, heads=["knn"], shots=2, baselines="default")
    assert [(each.encoder, each.head, each.is_baseline) for each in made] == [
        ("hog", "knn", False),
        ("constant", "linear", True),
        ("metadata", "linear", True),
        ("pixels", "linear", True),
    ]
    assert {tuple(each.episodes()["query"][0]) for each in made} == {tuple(made[0].episodes()["query"][0])}
    assert values(made[1]) == [0.5] * 6


def test_what_is_there_is_returned_and_any_setting_makes_another(
    squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made, _ = run(squares, tmp_path, heads="linear")
    changed = [{"shots": 2}, {"queries": 3}, {"episodes": 5}, {"strength": 2.0}]
    folders = [run(squares, tmp_path, heads="linear", **{"shots": 1, **each})[0].folder for each in changed]
    seeds = [each.folder for each in run(squares, tmp_path, heads="linear", shots=1, seeds=2)]
    assert seeds[0] == made.folder
    assert len({*folders, *seeds}) == 6
    stamp = (made.folder / EPISODES).stat().st_mtime_ns
    monkeypatch.setattr(module, "episode_auroc", lambda scores: pytest.fail("computed again"))
    (again,) = run(squares, tmp_path, heads="linear", shots=1)
    assert again.folder == made.folder
    monkeypatch.undo()
    (forced,) = run(squares, tmp_path, heads="linear", shots=1, force=True)
    assert forced.folder == made.folder
    assert (made.folder / EPISODES).stat().st_mtime_ns > stamp
    # That of three shots and a plain run with as many are two.
    (plain,) = probe("hog", "square", data=squares, heads="linear", shots=3, baselines="none", out=tmp_path)
    assert len(find_runs(tmp_path)) == 8
    assert plain.record.episodes is None


def test_relabelled_or_changed_data_are_another_result(squares: Manifest, tmp_path: Path):
    info = squares.info.model_copy(update={"licence": "other"})
    table = squares.table.copy()
    swapped = table.index[(table["split"] == "train") & (table["square"] == 1)][0]
    table.loc[swapped, "square"] = 0.0
    data = (squares, Manifest(info, squares.table, squares.folder), Manifest(squares.info, table, squares.folder))
    assert len({run(each, tmp_path, heads="knn", shots=1)[0].folder for each in data}) == 3


def test_a_result_is_whole_or_not_there(squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(self: pd.DataFrame, *_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_parquet", broken)
    with pytest.raises(KeyboardInterrupt):
        run(squares, tmp_path / "out", heads="linear")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_notes_say_what_must_be_read_with_the_figures(squares: Manifest, tmp_path: Path):
    (made,) = run(squares, tmp_path, "random:test_vit", heads="linear", shots=1, input_size=32)
    assert "overlapping-episodes" in {each.code for each in made.record.cautions}
    assert "Random weights: the encoder has learnt nothing." in map(str, made.record.cautions)
    assert made.record.provenance.random_weights
    info = squares.info.model_copy(update={"synthetic": True})
    unknown = Manifest(info, squares.table.drop(columns="patient"), squares.folder)
    seen = Seer(reader_card(pretraining_data=[{"name": "squares", "what": "images"}]))
    (made,) = run(unknown, tmp_path, seen, heads="linear", shots=1)
    sentences = [str(each) for each in made.record.cautions]
    for start in ("Synthetic data", "Patients unknown: images of one patient may be in support", "Contamination: "):
        assert any(each.startswith(start) for each in sentences), start


def test_ids_leave_as_the_data_set_says(squares: Manifest, tmp_path: Path):
    info = squares.info.model_copy(update={"public_ids": False, "salt": "long random text"})
    (made,) = run(Manifest(info, squares.table, squares.folder), tmp_path, heads="linear", shots=1)
    names = {each for line in made.episodes()["query"] for each in line}
    assert all(len(each) == 16 for each in names)
    assert not names & set(squares.table["id"])


def test_without_a_split_patients_stay_apart(squares: Manifest, tmp_path: Path):
    whole = Manifest(squares.info, squares.table.drop(columns="split"), squares.folder)
    (made,) = run(whole, tmp_path, heads="linear", shots=3)
    patient = dict(zip(squares.table["id"], squares.table["patient"], strict=True))
    for line in made.episodes().itertuples():
        assert not {patient[each] for each in line.support} & {patient[each] for each in line.query}
    assert made.record.episodes is not None
    assert made.record.episodes.query_from == "all patients"
    with pytest.raises(EvalfmError, match="has no split"):
        run(whole, tmp_path, heads="linear", episodes=None, queries=None, shots=3)


def test_queries_of_test_where_are_of_its_patients(squares: Manifest, tmp_path: Path):
    (made,) = run(squares, tmp_path, heads="linear", shots=2, test_where="sex == 'F'")
    sex = dict(zip(squares.table["id"], squares.table["sex"], strict=True))
    first = made.episodes().iloc[0]
    assert {sex[each] for each in first["query"]} == {"F"}
    assert {sex[each] for each in first["support"]} == {"M"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shots": (99,)}, "99 shots of class no square are needed, but train has"),
        ({"queries": 99, "shots": 1}, "99 queries of class square are needed, but test has"),
        ({"task": "size", "shots": 1}, "regression"),
        ({"encoder": "hgo"}, "no encoder 'hgo'"),
        ({"shots": ()}, "No number of shots is given"),
        ({"shots": (0, 1)}, "greater than or equal to 1"),
        ({"shots": None}, "say how many, such as --shots 1,5,20"),
        ({"episodes": None}, "queries are the images that an episode scores"),
        ({"heads": ["linaer"]}, "linear"),
        ({"heads": ["mlp"], "shots": 1}, "solved by linear, prototypes, knn and zeroshot; mlp would choose on val"),
        ({"heads": ["knn"], "strength": 3.0}, "C of the head linear"),
        ({"heads": ["linear"], "strength": 3.0, "adaptation": "full"}, "C of the head linear"),
        ({"heads": ["knn"], "recipe": {"epochs": 3}}, "frozen encoder is not trained"),
        ({"adaptation": "full", "recipe": {"epoch": 3}}, "epoch"),
        ({"adaptation": "full", "heads": ["knn"], "shots": 1}, "knn"),
        ({"adaptation": "full", "shots": 1}, "hog has no weights"),
        ({"heads": ["zeroshot"], "shots": 1}, "hog has no text tower"),
        ({"heads": ["linear"], "prompts": "x.yaml", "shots": 1}, "read by text heads alone"),
        ({"folds": 3}, "without folds"),
        ({"label_fraction": 0.5, "shots": None}, "label_fraction"),
        ({"val_shots": 2}, "val_shots"),
        ({"test_data": "phantom"}, "test_data"),
        ({"threshold": "f1"}, "no val to pick a threshold"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    squares: Manifest, tmp_path: Path, options: dict[str, Any], said: str
):
    with pytest.raises(EvalfmError, match=said):
        run(squares, tmp_path / "out", **options)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("kind", "target"), [("multilabel", "[square, other]"), ("segmentation", "[square]")])
def test_tasks_whose_images_are_of_no_one_class_are_refused_with_the_way_out(
    squares: Manifest, tmp_path: Path, kind: str, target: str
):
    card = tmp_path / "both.yaml"
    card.write_text(f"schema: 1\nname: both\nkind: {kind}\ntitle: Both?\ntarget: {target}\n")
    data = Manifest(squares.info, squares.table.assign(other=1.0 - squares.table["square"]), squares.folder)
    heads = {"multilabel": None, "segmentation": ["linear"]}[kind]
    remedy = {"multilabel": "take one of its labels, as --task", "segmentation": "take a task of classes"}[kind]
    with pytest.raises(EvalfmError, match=f"(?s){kind} task both is of no one class; {remedy}|does not serve {kind}"):
        run(data, tmp_path / "out", task=str(card), heads=heads, shots=1)
    with pytest.raises(EvalfmError, match=f"{kind} task both is of no one class; {remedy}"):
        run(data, tmp_path / "out", task=str(card), heads=["linear"], shots=1)


def test_one_number_of_shots_that_fails_keeps_the_others(squares: Manifest, tmp_path: Path):
    with pytest.raises(SomeFailedError, match=r"hog × square, 6 episodes of 99 shots: 99 shots of class") as caught:
        run(squares, tmp_path, heads="knn", shots=(1, 99))
    assert [each.record.config.shots for each in caught.value.runs] == [1]


def test_the_ordinary_table_shows_each_cohort_and_size_apart(squares: Manifest, tmp_path: Path):
    made = [
        each
        for options in ({"shots": (1, 3)}, {"shots": 1, "queries": 3}, {"shots": 1, "episodes": 4})
        for each in run(squares, tmp_path, heads="prototypes", **options)
    ]
    (plain,) = probe("hog", "square", data=squares, heads="linear", baselines="none", out=tmp_path / "plain")
    tables = task_tables([*made, plain])
    assert [(table.cohort, table.metric_names[0]) for table in tables] == [
        ("squares, episodes of 4 queries", "macro_auroc"),
        ("squares, episodes of 3 queries", "macro_auroc"),
        ("squares", "auroc"),
    ]
    lines = {line.runs[0].folder: line for line in tables[0].lines}
    assert len(lines) == 3 == len({line.encoder for line in tables[0].lines})
    for each in made[:2]:
        assert each.record.episodes is not None
        assert lines[each.folder].episode_sd == each.record.episodes.sd
    assert any(each.startswith("Episodes draw from one pool") for each in tables[0].cautions)
    assert not any(each.startswith("Episodes draw") for each in tables[2].cautions)


def test_the_report_draws_them_against_shots(squares: Manifest, tmp_path: Path):
    made = run(squares, tmp_path / "episodes", heads=["linear", "knn"])
    page = report_page(made)
    assert "square on squares, episodes of 4 queries" in page
    assert "macro_auroc against the shots of each class" in page
    written = write_tables(made, tmp_path / "tables")
    (few,) = [pd.read_csv(path) for path in written if path.name == "task-0-few.csv"]
    shown = {
        (line["line"], line["shots of each class"]): (line["macro_auroc"], line["sd over episodes"], line["episodes"])
        for _, line in few.iterrows()
    }
    expected = {
        (f"hog · {each.head} · frozen", each.record.config.shots): (
            pytest.approx(each.metrics["macro_auroc"].value, abs=1e-6),
            pytest.approx(each.record.episodes.sd, abs=1e-6),  # type: ignore[union-attr]
            6,
        )
        for each in made
    }
    assert shown == expected
    probed = probe("hog", "square", data=squares, heads=["linear"], baselines="none", out=tmp_path / "runs")
    assert "macro_auroc against the shots of each class" in report_page([*probed, *made])


def test_what_needs_predictions_says_why_there_are_none(squares: Manifest, tmp_path: Path):
    made = run(squares, tmp_path, heads=["linear", "knn"], shots=1)
    for door in (made[0].predictions, made[0].test_predictions, lambda: compare(made)):
        with pytest.raises(EvalfmError, match="few-shot episodes, which overlap and have no predictions"):
            door()
    with pytest.raises(EvalfmError, match="each with a head of its own; none is kept"):
        predict(made[0].folder, squares, out=tmp_path / "predicted")
    with pytest.raises(EvalfmError, match="2 runs of few-shot episodes: they share images"):
        runs_in([tmp_path])
    assert len(runs_in([tmp_path], episodes=True)) == 2
    (made[0].folder / EPISODES).write_bytes(b"PAR1")
    with pytest.raises(EvalfmError, match=r"episodes\.parquet cannot be read"):
        made[0].episodes()
    with pytest.warns(UserWarning, match=r"episodes\.parquet cannot be read"):
        assert [each.head for each in find_runs(tmp_path, with_predictions=True)] == ["knn"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random:test_resnet", input_size=32)


def tuned(squares: Manifest, out: Path, encoder: Encoder, **options: Any) -> list[Run]:
    usual: dict[str, Any] = {"shots": 2, "queries": 3, "episodes": 2, "recipe": QUICK, "adaptation": "full"}
    return run(squares, out, encoder, heads="linear", **{**usual, **options})


def test_every_episode_is_trained_from_the_encoder_as_it_is(
    squares: Manifest, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
):
    before = tensor_digest(encoder.state_dict())
    seen: list[Any] = []
    real = module.fit_trained

    def watched(*arguments: Any) -> Any:
        fitted = real(*arguments)
        assert tensor_digest(arguments[0].source.encoder.state_dict()) == before
        seen.append((arguments[3], fitted.scores.test))
        return fitted

    monkeypatch.setattr(module, "fit_trained", watched)
    (made,) = tuned(squares, tmp_path, encoder)
    assert len(seen) == 2 == len(made.episodes())
    ids = squares.table["id"].sort_values().to_numpy()
    for line, (split, scores) in zip(made.episodes().itertuples(), seen, strict=True):
        assert list(ids[split.train]) == list(line.support) == list(ids[split.val])
        assert list(ids[split.test]) == list(line.query)
        assert scores["target"].tolist() == [0.0] * 3 + [1.0] * 3
        assert line.macro_auroc == pytest.approx(roc_auc_score(scores["target"], scores["score_square"]))
    assert made.record.config.recipe["epochs"] == 1
    assert made.record.config.recipe["probe_start"] is False
    assert made.record.chosen.head == {"epoch": "lowest loss on the support"}
    assert list((tmp_path / ".work").iterdir()) == []
    # The first episodes of more are those of fewer.
    (more,) = tuned(squares, tmp_path, encoder, episodes=3)
    assert values(more)[:2] == pytest.approx(values(made))
    (frozen,) = run(squares, tmp_path, encoder, heads="linear", shots=2, queries=3, episodes=20)
    assert frozen.episodes()["support"].map(list)[:2].tolist() == made.episodes()["support"].map(list).tolist()


def test_after_a_kill_only_the_rest_is_trained_and_the_result_is_the_same(
    squares: Manifest, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
):
    (whole,) = tuned(squares, tmp_path / "whole", encoder, episodes=3)
    real, trained = module.fit_trained, []

    def interrupted(*arguments: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(module, "fit_trained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned(squares, tmp_path / "out", encoder, episodes=3)
    assert find_runs(tmp_path / "out") == []
    trained.clear()
    (made,) = tuned(squares, tmp_path / "out", encoder, episodes=3)
    assert len(trained) == 1
    assert made.record.key == whole.record.key
    assert np.allclose(values(made), values(whole))


def test_lora_is_trained_in_episodes_too(squares: Manifest, tmp_path: Path, encoder: Encoder):
    (full,), (lora,) = (tuned(squares, tmp_path, encoder, adaptation=each) for each in ("full", "lora"))
    assert lora.folder != full.folder
    assert len(values(lora)) == 2
    assert lora.record.config.recipe["probe_start"] is False


def test_three_ordered_classes_are_classes_like_any_other(graded: Manifest, tmp_path: Path, encoder: Encoder):
    card = tmp_path / "grade.yaml"
    card.write_text("schema: 1\nname: grade\nkind: ordinal\ntitle: How wide?\ntarget: [grade]\n")
    options: dict[str, Any] = {"task": str(card), "shots": 1, "queries": 2, "episodes": 1}
    (trained,) = tuned(graded, tmp_path / "out", encoder, **options)
    (frozen,) = run(graded, tmp_path / "out", encoder, heads="linear", **options)
    assert [len(each.episodes()["query"].iloc[0]) for each in (trained, frozen)] == [6, 6]
    assert trained.record.data.class_names == ["0", "1", "2"]


def test_no_step_is_chance_exactly(squares: Manifest, tmp_path: Path, encoder: Encoder):
    """A head that starts at zero, and a learning rate at which nothing moves."""
    still = {**QUICK, "learning_rate": 1e-30, "head_learning_rate": 1e-30}
    (made,) = tuned(squares, tmp_path, encoder, recipe=still)
    assert values(made) == [0.5, 0.5]
