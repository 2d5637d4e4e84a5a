"""A study's YAML: what ships is valid, short forms mean what they say, and nothing is taken that would do nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.split_options import SubsetOptions
from evalfm.study import Study, configs, load_study
from evalfm.study.config import AdaptationEntry, EncoderEntry, SupervisedEntry, TaskEntry

DOCS = Path(__file__).resolve().parents[2] / "docs" / "studies.md"


def study(**changes: object) -> Study:
    content = {"name": "s", "title": "S", "data": "films", "encoders": ["pixels"], "tasks": ["ptx-cls"], "schema": 1}
    return Study.model_validate(content | changes)


@pytest.mark.parametrize("name", configs())
def test_studies_that_ship_are_valid(name: str):
    assert load_study(name).name == name


def test_the_three_studies_ship():
    assert set(configs()) >= {"demo", "feature-quality", "vlm-radiology"}


def test_an_unknown_study_or_key_is_refused(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="demo"):
        load_study("demmo")
    path = tmp_path / "mine.yaml"
    path.write_text("schema: 1\nname: mine\ntitle: x\ndata: phantom\nencoders: [hog]\ntask: [ptx-cls]\n")
    with pytest.raises(EvalfmError, match="task"):
        load_study(str(path))


@pytest.mark.parametrize("old", ["floors: none", "baselines: [{encoder: unet-resnet34, adaptation: scratch}]"])
def test_a_study_of_schema_1_gets_the_new_spelling_in_one_sentence(tmp_path: Path, old: str):
    path = tmp_path / "mine.yaml"
    path.write_text(f"schema: 1\nname: mine\ntitle: x\ndata: phantom\nencoders: [hog]\ntasks: [ptx-cls]\n{old}\n")
    with pytest.raises(EvalfmError) as caught:
        load_study(str(path))
    assert str(caught.value).endswith(
        "floors is now baselines (default, none or all), and the list of networks under baselines is now supervised; "
        "write these and schema: 2."
    )
    path.write_text("schema: 1\nname: mine\ntitle: x\ndata: phantom\nencoders: [hog]\ntasks: [ptx-cls]\n")
    assert load_study(str(path)).baselines == "all"


def test_words_and_mappings_mean_the_same():
    short = study(adaptations=["frozen", "lora"])
    long = study(
        encoders=[{"name": "pixels"}], tasks=[{"name": "ptx-cls"}], adaptations=[{"name": "frozen"}, {"name": "lora"}]
    )
    assert short == long
    assert short.encoders == (EncoderEntry(name="pixels"),)
    assert study().adaptations == (AdaptationEntry(name="frozen"),)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [SubsetOptions()]),
        ({"shots": [4, 16]}, [SubsetOptions(shots=4), SubsetOptions(shots=16)]),
        ({"shots": [None, 4]}, [SubsetOptions(), SubsetOptions(shots=4)]),
        ({"label_fractions": [0.1, 1.0]}, [SubsetOptions(label_fraction=0.1), SubsetOptions()]),
        ({"associate": ["sex=0", "sex=0.5"]}, [SubsetOptions(associate="sex=0"), SubsetOptions(associate="sex=0.5")]),
        (
            {"shots": [4, None], "label_fractions": [0.5, None]},
            [SubsetOptions(shots=4), SubsetOptions(), SubsetOptions(label_fraction=0.5)],
        ),
    ],
)
def test_shots_and_fractions_stand_beside_each_other(changes: dict, expected: list):
    assert list(study(**changes).subsets) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": ["ptx-cls", "ptx-cls"]}, "twice"),
        ({"encoders": []}, "at least one"),
        ({"supervised": [{"encoder": "resnet34", "tasks": ["heart-seg"]}]}, "heart-seg"),
        ({"on_phantom": {"seed": 1}}, "seed"),
        ({"shots": [0]}, "greater"),
        ({"label_fractions": [1.5]}, "less"),
        ({"adaptations": ["frosen"]}, "frozen"),
        ({"tasks": [{"name": "ptx-cls", "test_where": "sex == 'F'"}]}, "data of its own"),
        ({"name": "../mine"}, "pattern"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict, said: str):
    with pytest.raises(ValueError, match=said):
        study(**changes)


def test_other_data_are_for_every_task_and_the_phantom_has_its_own_values():
    made = study(
        tasks=["ptx-cls", {"name": "ctr", "data": "hearts", "test_where": "age > 50"}],
        test_where="chest_tube is not None",
        on_phantom={"test_where": None, "seeds": 1},
        seeds=3,
    )
    assert [made.data_of(task) for task in made.tasks] == [
        ("films", "chest_tube is not None"),
        ("hearts", "age > 50"),
    ]
    moved = made.on("elsewhere")
    assert {moved.data_of(task) for task in moved.tasks} == {("elsewhere", "chest_tube is not None")}
    assert moved.seeds == 3
    phantom = made.on("phantom")
    assert {phantom.data_of(task) for task in phantom.tasks} == {("phantom", None)}
    assert phantom.seeds == 1
    assert made.on(None) == made


def test_a_task_has_folds_in_place_of_the_studys_and_never_more_images_than_it():
    tasks = ["ptx-cls", {"name": "ctr", "folds": 5, "limit": 40}, {"name": "ptx-seg", "limit": 400}]
    made = study(tasks=tasks, limit=100, test_where="age > 50", folds=None)
    expected = [(None, 100), (5, 40), (None, 100)]
    assert [(found["folds"], found["limit"]) for found in map(made.images_of, made.tasks)] == expected
    assert {found["test_where"] for found in map(made.images_of, made.tasks)} == {"age > 50"}
    free = study(tasks=tasks, folds=3)
    assert [(found["folds"], found["limit"]) for found in map(free.images_of, free.tasks)] == [
        (3, None),
        (5, 40),
        (3, 400),
    ]


def test_a_part_of_a_study_takes_its_baselines_along():
    whole = study(
        encoders=["pixels", "hog"],
        tasks=["ptx-cls", "ptx-seg"],
        adaptations=["frozen", "full"],
        supervised=[{"encoder": "unet-resnet34", "tasks": ["ptx-seg"]}, {"encoder": "densenet121"}],
    )
    part = whole.only(tasks=("ptx-cls",))
    assert (part.tasks, part.supervised) == ((TaskEntry(name="ptx-cls"),), (SupervisedEntry(encoder="densenet121"),))
    assert whole.only(adaptation=("frozen",)).supervised == ()
    assert whole.only(encoders=("hog",)).supervised == ()
    scratch = whole.only(adaptation=("scratch",))
    assert scratch.adaptations == ()
    assert len(scratch.supervised) == 2
    assert whole.only() == whole
    with pytest.raises(UnknownNameError, match="hog"):
        whole.only(encoders=("hogg",))


def test_the_page_lists_every_key():
    text = DOCS.read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", text.split("## Keys")[1].split("\n## ")[0], re.MULTILINE))
    keys = {field.alias or name for name, field in Study.model_fields.items()}
    assert listed == keys


def test_a_task_may_stand_on_several_data_sets_and_once_on_each():
    tasks = [{"name": "ptx-cls", "data": "one"}, {"name": "ptx-cls", "data": "two"}]
    made = study(tasks=tasks)
    assert [made.data_of(task)[0] for task in made.tasks] == ["one", "two"]
    assert [task.name for task in made.on("phantom").tasks] == ["ptx-cls"]
    with pytest.raises(ValueError, match="stands twice under tasks, with the same data"):
        study(tasks=[tasks[0], tasks[0]])


def test_further_encoders_stand_behind_the_studys_own_and_are_marked():
    study = load_study("demo")
    (own,) = (each.name for each in study.encoders)
    more = study.with_encoders([own, "timm:resnet10t.c3_in1k", "mine.yaml"])
    assert [each.name for each in more.encoders] == [own, "timm:resnet10t.c3_in1k", "mine.yaml"]
    assert [each.added for each in more.encoders] == [False, True, True]
    assert study.with_encoders([own]) is study
    (mine,) = [each for each in study.with_encoders(["mine.yaml"], "mine.pt").encoders if each.added]
    assert (mine.name, mine.weights) == ("mine.yaml", "mine.pt")
    for names in ([], [own], ["mine.yaml", "yours.yaml"]):
        with pytest.raises(EvalfmError, match=r"the file of one encoder"):
            study.with_encoders(names, "mine.pt")
