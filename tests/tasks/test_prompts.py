"""Prompt cards: what is said of each class, and what is refused because it would make no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalfm.errors import EvalfmError
from evalfm.tasks.kinds import kind_of
from evalfm.tasks.prompts import Own, list_prompts, prompt_set
from evalfm.tasks.task import list_tasks

OWN = Own("this is a photo of {}", "this is a photo of no {}")


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


NAMED = {name: card for name, card in list_tasks().items() if kind_of(card.kind).has_classes}
# Its classes stand in the data set alone.
del NAMED["coop-classes"]


@pytest.mark.parametrize("name", NAMED)
def test_every_classification_task_has_sentences(name: str):
    card, said = list_tasks()[name], list_prompts().get(name)
    wanted = tuple("ABCD") if name == "density" else card.target
    assert said is None or set(said.classes) == set(wanted)
    prompts = prompt_set(name, card.kind, wanted, OWN)
    assert prompts.class_names == wanted
    assert len(prompts.rows) == len(wanted) * (2 if kind_of(card.kind).yes_or_no else 1)
    assert all(len(row.prompts) == len(prompts.templates) for row in prompts.rows)


def test_a_task_without_a_card_of_prompts_takes_the_names_of_its_labels():
    prompts = prompt_set("effusion-cls", "binary", ("pleural_effusion",), OWN)
    assert [row.prompts for row in prompts.rows] == [
        (("this is a photo of no pleural effusion",),),
        (("this is a photo of pleural effusion",),),
    ]
    assert prompts.source == "the classes' own names"
    assert {"ptx-cls", "density", "nih14"} <= set(list_prompts()), "those that have a card"


def test_every_card_of_prompts_is_of_a_task():
    assert set(list_prompts()) <= set(NAMED)


@pytest.mark.parametrize("name", [name for name, card in list_prompts().items() if card.absent])
def test_what_is_said_of_absence_denies_what_is_said_of_presence(name: str):
    card = list_prompts()[name]
    for label, denied in card.absent.items():
        present = card.classes[label].names[0].removeprefix("a ")
        assert denied.names[0] == f"no {present}"
        assert not set(denied.names + denied.sentences) & set(card.classes[label].names + card.classes[label].sentences)


def test_density_is_told_in_the_words_of_bi_rads():
    prompts = prompt_set("density", "ordinal", tuple("ABCD"), OWN)
    assert prompts.rows[0].prompts == (("The breast is almost entirely fatty.",),)
    assert [row.label for row in prompts.rows] == list("ABCD")


def test_a_label_has_a_row_for_absence_before_that_for_presence():
    prompts = prompt_set("ptx-cls", "binary", ("pneumothorax",), OWN)
    absent, present = prompts.rows
    assert (absent.present, present.present) == (False, True)
    assert absent.prompts[1] == (
        "a chest X-ray showing no pneumothorax",
        "a chest X-ray showing fully expanded lungs",
    )
    assert present.prompts[1][0] == "a chest X-ray showing pneumothorax"
    assert absent.sentences
    assert present.sentences


def test_a_plain_column_is_asked_by_the_encoders_own_sentences():
    absent, present = prompt_set("pleural_plaque", "binary", ("pleural_plaque",), OWN).rows
    assert absent.prompts == (("this is a photo of no pleural plaque",),)
    assert present.prompts == (("this is a photo of pleural plaque",),)
    assert (absent.name, present.name) == ("no pleural plaque", "pleural plaque")
    rows = prompt_set("site", "multiclass", ("lung", "heart"), OWN).rows
    assert [row.prompts for row in rows] == [(("this is a photo of lung",),), (("this is a photo of heart",),)]


def test_several_labels_have_two_rows_each_in_their_order():
    prompts = prompt_set("chexpert5", "multilabel", ("edema", "atelectasis"), OWN)
    shown = [(row.label, row.present) for row in prompts.rows]
    assert shown == [("edema", False), ("edema", True), ("atelectasis", False), ("atelectasis", True)]
    assert prompts.class_names == ("edema", "atelectasis")
    assert [row.label for row in prompts.of(["atelectasis"]).rows] == ["atelectasis"] * 2


def test_sentences_of_a_file_are_added_to_the_tasks_own_names(tmp_path: Path):
    path = written(tmp_path / "mine.json", {"pneumothorax": ["Air beside the lung."], "no pneumothorax": ["None."]})
    absent, present = prompt_set("ptx-cls", "binary", ("pneumothorax",), OWN, path).rows
    assert present.sentences == ("Air beside the lung.",)
    assert absent.sentences == ("None.",)
    assert present.name == "pneumothorax"
    card = tmp_path / "card.yaml"
    card.write_text("schema: 1\nname: x\ntemplates: ['see {}']\nclasses: {pneumothorax: {names: [air]}}\n")
    prompts = prompt_set("ptx-cls", "binary", ("pneumothorax",), OWN, card)
    assert [row.prompts for row in prompts.rows] == [(("see no air",),), (("see air",),)]
    assert str(tmp_path) not in json.dumps(prompts.plain())
    assert "card.yaml" not in json.dumps(prompts.plain())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"pneumothorax": []}, "list of sentences"),
        ({"pneumothorax": [""]}, "is empty"),
        ({"pneumothorax": ["a", "a"]}, "stands twice"),
        ({"effusion": ["Fluid."]}, "names 'effusion'"),
        ({"name": "x", "classes": {"effusion": {"names": ["fluid"]}}}, "lack pneumothorax"),
        ({"name": "x", "templates": ["nothing"], "classes": {"pneumothorax": {}}}, "needs {} once"),
        ({"name": "x", "classes": {"pneumothorax": {"names": ["  "]}}}, "is empty"),
        ({"classes": {"pneumothorax": {"names": ["x"]}}, "absent": {"pneumothorax": {"names": ["X"]}}}, "both called"),
        ([1], "JSON object"),
    ],
)  # fmt: skip
def test_sentences_that_make_no_sense_are_refused(tmp_path: Path, content: object, sentence: str):
    with pytest.raises(EvalfmError, match=sentence):
        prompt_set("ptx-cls", "binary", ("pneumothorax",), OWN, written(tmp_path / "mine.json", content))


def test_two_classes_of_one_name_cannot_be_told_apart(tmp_path: Path):
    content = {"name": "x", "classes": {"a": {"names": ["lung"]}, "b": {"names": ["Lung", "chest"]}}}
    with pytest.raises(EvalfmError, match="'a' and 'b' are both called 'Lung'"):
        prompt_set("x", "multiclass", ("a", "b"), OWN, written(tmp_path / "mine.json", content))


def test_a_class_may_be_called_no_finding_and_labels_may_share_what_is_said_of_absence(tmp_path: Path):
    content = {"no finding": ["Nothing is seen."], "mass": ["A round shadow."]}
    rows = prompt_set("x", "multiclass", ("no finding", "mass"), OWN, written(tmp_path / "a.json", content)).rows
    assert [row.sentences for row in rows] == [("Nothing is seen.",), ("A round shadow.",)]
    clear = {"names": ["clear lungs"]}
    content = {"classes": {"edema": {}, "consolidation": {}}, "absent": {"edema": clear, "consolidation": clear}}
    shared = written(tmp_path / "b.json", content)
    rows = prompt_set("x", "multilabel", ("edema", "consolidation"), OWN, shared).rows
    assert [row.name for row in rows] == ["clear lungs", "edema", "clear lungs", "consolidation"]
    with pytest.raises(EvalfmError, match="is always there; leave that out"):
        prompt_set("x", "multiclass", ("edema", "consolidation"), OWN, shared)


def test_whole_sentences_alone_are_told_from_a_card(tmp_path: Path):
    mapping = written(tmp_path / "a.json", {"pneumothorax": ["Air."]})
    assert prompt_set("ptx-cls", "binary", ("pneumothorax",), OWN, mapping).only_sentences
    card = written(tmp_path / "b.json", {"classes": {"pneumothorax": {"names": ["air"]}}})
    assert not prompt_set("ptx-cls", "binary", ("pneumothorax",), OWN, card).only_sentences
    assert not prompt_set("ptx-cls", "binary", ("pneumothorax",), OWN).only_sentences


def test_a_file_that_is_not_there_or_not_json_is_told(tmp_path: Path):
    with pytest.raises(EvalfmError, match="There is no file"):
        prompt_set("ptx-cls", "binary", ("pneumothorax",), OWN, tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(EvalfmError, match="is not JSON"):
        prompt_set("ptx-cls", "binary", ("pneumothorax",), OWN, tmp_path / "bad.json")
    with pytest.raises(EvalfmError, match="no classes that sentences could name"):
        prompt_set("ctr", "regression", ("ctr",), OWN)
