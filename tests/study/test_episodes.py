"""Episodes as YAML: what ships is valid and no study, what makes no sense is left out, and the rest goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from evalfm.config import ComputeOptions
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.study import configs, load_study
from evalfm.study.cohorts import Manifests
from evalfm.study.config import EPISODES, shipped
from evalfm.study.episode_plan import plan_episodes
from evalfm.study.episodes import EpisodeStudy, cells, draw_cohorts, load_episodes, run_episode_study

DOCS = Path(__file__).resolve().parents[2] / "docs" / "studies.md"
TINY = {"name": "random:test_resnet", "input_size": 32}


def asked(**changes: Any) -> EpisodeStudy:
    content = {"schema": 1, "name": "e", "title": "E", "data": "films", "encoders": ["hog"], "tasks": ["square"]}
    return EpisodeStudy.model_validate(content | {"shots": [1, 2], "queries": 2, "episodes": 3} | changes)


@pytest.mark.parametrize("name", shipped(EPISODES))
def test_what_ships_is_valid_and_no_study(name: str):
    study = load_episodes(name)
    assert study.name == name
    assert name not in configs()
    with pytest.raises(EvalfmError, match=f"run `evalfm episodes {name}`"):
        load_study(name)
    assert study.on("phantom").data == "phantom"


def test_the_published_protocol_is_the_one_that_ships():
    study = load_episodes("data-scarcity")
    assert study.shots == (1, 2, 3, 5, 7, 10, 15, 20, 25, 30)
    assert (study.queries, study.episodes, study.fine_tune_episodes) == (10, 100, 5)
    assert {"linear", "fine-tune", "zeroshot"} <= set(study.methods)


def test_names_of_the_other_kind_and_of_none(tmp_path: Path):
    with pytest.raises(EvalfmError, match="run `evalfm study demo`"):
        load_episodes("demo")
    with pytest.raises(UnknownNameError, match="data-scarcity"):
        load_episodes("data-scarce")
    with pytest.raises(EvalfmError, match=r"nowhere\.yaml"):
        load_episodes(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": ["square", "square"]}, "twice"),
        ({"encoders": []}, "at least 1"),
        ({"shots": [2, 1]}, "rise"),
        ({"methods": ["knn"], "strength": 2.0}, "linear"),
        ({"on_phantom": {"seeds": 1}}, "seeds"),
        ({"recipe": {"epochs": 1}}, "fine-tune"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        asked(**changes)


def test_methods_that_an_encoder_cannot_answer_by_are_left_out():
    found = cells(asked(encoders=["hog", "biomedclip", "resnet18"], methods=["linear", "zeroshot", "fine-tune"]))
    assert [cell.methods for cell in found] == [
        ("linear",),
        ("linear", "zeroshot", "fine-tune"),
        ("linear", "fine-tune"),
    ]
    assert found[0].left_out == (
        "hog by fine-tune: it has no weights to train",
        "hog by zeroshot: it reads no text",
    )
    with pytest.raises(EvalfmError, match=r"constant by zeroshot: it reads no text\. Take other methods"):
        cells(asked(encoders=["constant"], methods=["zeroshot"]))


def test_other_data_are_for_every_task_and_a_part_is_what_is_named():
    study = asked(tasks=["square", {"name": "round", "data": "other"}], on_phantom={"episodes": 2})
    assert [study.data_of(task) for task in study.tasks] == ["films", "other"]
    moved = study.on("phantom")
    assert {moved.data_of(task) for task in moved.tasks} == {"phantom"}
    assert (moved.episodes, study.on("elsewhere").episodes) == (2, 3)
    assert [task.name for task in study.only(tasks=["round"]).tasks] == ["round"]
    with pytest.raises(UnknownNameError, match="round"):
        study.only(tasks=["rond"])


def test_an_encoder_that_fails_is_told_and_the_rest_goes_on(squares: Manifest, tmp_path: Path):
    missing = {"name": "resnet50", "weights": str(tmp_path / "nowhere.safetensors")}
    study = asked(encoders=[missing, "hog"], data=str(squares.folder), methods=["linear", "fine-tune"])
    outcomes = list(run_episode_study(study, tmp_path / "out"))
    assert "nowhere.safetensors" in str(outcomes[0].failure)
    assert [run.method for run in outcomes[1].runs] == ["linear"]
    alone = asked(encoders=[missing], data=str(squares.folder))
    with pytest.raises(EvalfmError, match=r"nowhere\.safetensors"):
        list(run_episode_study(alone, tmp_path / "out"))


def test_every_fault_of_the_tasks_is_said_before_anything_runs(squares: Manifest):
    study = asked(tasks=["square", "size", "squaer"], shots=[99], data=str(squares.folder))
    with pytest.raises(EvalfmError, match=r"(?s)3 faults.*square: 99 shots.*size: .*regression.*squaer: .*'square'"):
        draw_cohorts(study, Manifests())


def test_the_plan_counts_images_once_and_every_training(squares: Manifest, home: Path):
    study = asked(encoders=[TINY, "constant"], data=str(squares.folder), methods=["linear", "knn", "fine-tune"])
    study = study.changed(recipe={"epochs": 2, "least_steps": 4}, fine_tune_episodes=2)
    cohorts = draw_cohorts(study, Manifests())
    plan = plan_episodes(study, cohorts, ComputeOptions())
    features, one, two, table = plan.costs
    used = len(cohorts[study.tasks[0]].drawn.used)
    assert features.estimate is not None
    assert (features.method, features.estimate.forwards) == ("features", used)
    # Four steps of two or four images, each three passes; three looks at the support and one to choose a threshold;
    # two queries of each class; two episodes.
    for cost, images in ((one, 2), (two, 4)):
        assert cost.estimate is not None
        assert cost.estimate.forwards == 2 * (3 * 4 * images + 3 * images + images + 4)
        assert cost.estimate.disk_bytes == {}
    assert (table.encoder, table.estimate) == ("constant", None)
    assert plan.left_out == ("constant by fine-tune: it has no weights to train",)
    assert plan.seconds == pytest.approx(sum(each.estimate.seconds for each in plan.costs[:3] if each.estimate))


def test_the_page_lists_every_key():
    text = DOCS.read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", text.split("## Few-shot episodes")[1], re.MULTILINE))
    assert listed == {field.alias or name for name, field in EpisodeStudy.model_fields.items()}
