from pathlib import Path

import pytest

from evalfm.data.sources.nih_cxr14 import FINDINGS
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.tasks.kinds import KINDS
from evalfm.tasks.task import list_tasks, load_task, read_card

EXPECTED = {
    "ptx-cls": ("binary", ("pneumothorax",), "auroc"),
    "ptx-seg": ("segmentation", ("pneumothorax",), "dice_positive"),
    "ptx-size": ("regression", ("pneumothorax",), "mae"),
    "cardiomegaly-cls": ("binary", ("cardiomegaly",), "auroc"),
    "heart-seg": ("segmentation", ("heart",), "dice_positive"),
    "ctr": ("regression", ("ctr",), "mae"),
    "ptx-size-lung": ("regression", ("pneumothorax",), "mae"),
    "pneumonia-cls": ("binary", ("pneumonia",), "auroc"),
    "tb-cls": ("binary", ("tuberculosis",), "auroc"),
    "tube-cls": ("binary", ("chest_tube",), "auroc"),
    "ecg-cls": ("binary", ("ecg_leads",), "auroc"),
    "lung-seg": ("segmentation", ("lungs",), "dice_positive"),
    "density": ("ordinal", ("density",), "quadratic_kappa"),
    "nih14": ("multilabel", tuple(sorted(finding.lower() for finding in FINDINGS if finding != "No Finding")),
              "macro_auroc"),
    "chexpert5": (
        "multilabel",
        ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion"),
        "macro_auroc",
    ),
    "coop-classes": ("multiclass", ("label",), "accuracy"),
}  # fmt: skip


def test_every_built_in_task_is_expected_here():
    assert sorted(EXPECTED) == sorted(list_tasks())


@pytest.mark.parametrize("name", EXPECTED)
def test_built_in_tasks_ask_what_they_say(name: str):
    card = load_task(name)
    assert (card.kind, card.target, card.primary) == EXPECTED[name]


@pytest.mark.parametrize("name", list_tasks())
def test_every_card_is_named_as_its_file_and_complete(name: str):
    card = load_task(name)
    assert card.name == name
    assert card.heads == KINDS[card.kind].heads
    assert card.title.endswith("?")
    if name in ("density", "coop-classes"):
        assert card.where is None, "what is no chest radiograph has no frontal view"
    else:
        assert card.where is not None, "chest tasks are of frontal radiographs only"
    assert "chest_tube" not in card.subgroups or "chest_tube" not in card.target


def test_unknown_task_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'ptx-cls'"):
        load_task("ptx-clss")


def test_a_card_inherits_and_overrides(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: ptx-cls\nname: mine\ntarget: [effusion]\ntitle: Is there an effusion?\n")
    card = load_task(str(path))
    assert (card.target, card.kind, card.where) == (("effusion",), "binary", load_task("ptx-cls").where)


def test_an_unknown_key_is_refused_with_its_name(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: ptx-cls\nname: mine\nthreshhold: 3\n")
    with pytest.raises(EvalfmError, match="threshhold"):
        load_task(str(path))


def test_a_card_that_is_its_own_base_is_refused(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: mine\n")
    with pytest.raises(EvalfmError, match="inherits from itself"):
        read_card(path)


def test_yaml_that_would_construct_objects_does_not(tmp_path: Path):
    witness = tmp_path / "executed"
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"base: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{witness}']]\n"
    )
    with pytest.raises(EvalfmError, match="not plain YAML"):
        load_task(str(path))
    assert not witness.exists()
