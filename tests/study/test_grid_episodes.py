"""Few-shot episodes in a study: which cells there are, what is left out, what they cost, and the study that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evalfm.config import EPISODE_HEADS
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.study import Study, load_study, run_study
from evalfm.study.cohorts import Manifests, assume_all, select_cohorts
from evalfm.study.grid import Grid, expand
from evalfm.study.plan import check_study, make_plan

TINY = {"name": "random:test_resnet", "input_size": 32}
TUNED = {"name": "full", "heads": ["linear"], "episodes": 2, "recipe": {"epochs": 2, "least_steps": 4}}


def study(**changes: Any) -> Study:
    content = {"schema": 2, "name": "e", "title": "E", "data": "elsewhere", "encoders": ["hog"], "tasks": ["ptx-cls"]}
    return Study.model_validate(content | {"shots": [1, 2], "queries": 2, "episodes": 3} | changes)


def grid(**changes: Any) -> Grid:
    asked = study(**changes)
    return expand(asked, assume_all(asked, 100)[0])


def test_shots_are_of_episodes_and_an_adaptation_may_have_fewer():
    found = grid(
        encoders=["resnet18"], heads=["linear", "knn"], adaptations=["frozen", TUNED], strength=2.0, baselines="default"
    )
    assert [
        (cell.shots, cell.episodes, cell.queries, cell.adaptation, cell.heads, cell.strength, cell.baselines)
        for cell in found.cells
    ] == [
        (1, 3, 2, "frozen", ("linear", "knn"), 2.0, "default"),
        (1, 2, 2, "full", ("linear",), None, "none"),
        (2, 3, 2, "frozen", ("linear", "knn"), 2.0, "default"),
        (2, 2, 2, "full", ("linear",), None, "none"),
    ]
    assert not found.faults
    assert found.cells[1].whole_recipe is not None
    assert (found.cells[1].whole_recipe.epochs, found.cells[1].whole_recipe.probe_start) == (2, False)


def test_other_subsets_stand_beside_them_as_they_are():
    found = grid(label_fractions=[0.5], heads=["linear"])
    assert [(cell.shots, cell.label_fraction, cell.episodes, cell.queries) for cell in found.cells] == [
        (1, None, 3, 2),
        (2, None, 3, 2),
        (None, 0.5, None, None),
    ]


def test_what_cannot_solve_an_episode_is_left_out_with_the_reason():
    found = grid(
        encoders=["hog", "biomedclip"], tasks=["ptx-cls", "ptx-seg"], shots=[1], heads=["linear", "mlp", "zeroshot"]
    )
    assert [(cell.encoder, cell.heads) for cell in found.cells] == [
        ("hog", ("linear",)),
        ("biomedclip", ("linear", "zeroshot")),
    ]
    reasons = {(each.what, each.reason) for each in found.left_out}
    assert ("mlp, 3 episodes of 1 shot", "it would choose on val, of which an episode has none") in reasons
    assert ("hog × ptx-cls: zeroshot, frozen", "the encoder reads no text") in reasons
    assert ("ptx-seg, 3 episodes of 1 shot", "an image of a segmentation task is of no one class") in reasons
    assert grid(heads=None, shots=[1]).cells[0].heads == EPISODE_HEADS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shots": []}, "episodes go with shots"),
        ({"shots": [1, None]}, "episodes go with shots"),
        ({"episodes": None}, "do nothing without episodes"),
        ({"episodes": None, "queries": None, "adaptations": [TUNED]}, "do nothing without episodes"),
        ({"on_phantom": {"episode": 1}}, "no key that it could change"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        study(**changes)


def test_every_fault_of_the_tasks_is_said_before_anything_runs(squares: Manifest):
    asked = study(tasks=["square", "squaer"], shots=[1, 99], data=str(squares.folder))
    with pytest.raises(EvalfmError, match=r"(?s)2 faults.*3 episodes of 99 shots\): 99 shots of class.*'square'"):
        check_study(asked, Manifests())
    with pytest.raises(EvalfmError, match="without folds"):
        check_study(study(tasks=["square"], folds=2, data=str(squares.folder)), Manifests())


def test_the_plan_counts_images_once_and_every_training(squares: Manifest, home: Path):
    asked = study(
        encoders=[TINY], tasks=["square"], data=str(squares.folder), heads=["linear", "knn"], baselines="none",
        adaptations=["frozen", TUNED],
    )  # fmt: skip
    (cohort,) = select_cohorts(asked, Manifests())[0].values()
    plan = make_plan(asked)
    first, one, again, two = (each.estimate for each in plan.cells)
    assert first is not None
    assert again is not None
    assert (first.forwards, again.forwards) == (len(cohort.rows), 0)
    # Four steps of two or four images, each three passes; three looks at the support and one to choose a threshold;
    # two queries of each class; two episodes.
    for cost, images in ((one, 2), (two, 4)):
        assert cost is not None
        assert cost.forwards == 2 * (3 * 4 * images + 3 * images + images + 4)
        assert cost.disk_bytes == {}
    assert plan.seconds == pytest.approx(sum(each.estimate.seconds for each in plan.cells if each.estimate))


def test_a_study_gives_the_runs_of_the_call_and_rows_that_say_episodes(squares: Manifest, tmp_path: Path):
    asked = study(tasks=["square"], data=str(squares.folder), heads=["knn", "prototypes"], baselines="none")
    runs = run_study(asked, tmp_path)
    assert not runs.failed
    assert [(run.head, run.record.config.shots, run.record.config.episodes) for run in runs] == [
        ("knn", 1, 3),
        ("prototypes", 1, 3),
        ("knn", 2, 3),
        ("prototypes", 2, 3),
    ]
    table = pd.read_parquet(runs.results)
    assert table["episodes"].tolist() == [3] * 4
    assert table["metric"].tolist() == ["macro_auroc"] * 4
    assert table["primary"].all()
    assert table["value"].tolist() == [run.metrics["macro_auroc"].value for run in runs]


def test_the_published_protocol_is_the_one_that_ships():
    shipped = load_study("data-scarcity")
    assert shipped.shots == (1, 2, 3, 5, 7, 10, 15, 20, 25, 30)
    assert (shipped.queries, shipped.episodes) == (10, 100)
    assert [(each.name, each.heads, each.episodes) for each in shipped.adaptations] == [
        ("frozen", None, None),
        ("full", ("linear",), 5),
    ]
    assert shipped.heads == ("linear", "prototypes", "knn", "zeroshot")
