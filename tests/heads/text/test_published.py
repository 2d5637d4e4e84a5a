"""The authors' weights and templates by data set, and the base-to-novel split."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from evalfm.heads.text.published import (
    Published,
    TrainingEnvironment,
    Weights,
    published,
    table_digest,
    template_of,
    weights_of,
)
from evalfm.tasks.task import list_tasks

SETS = {
    *("btmri", "busi", "chmnist", "covid_19", "ctkidney", "dermamnist"),
    *("kneexray", "kvasir", "lungcolon", "octmnist", "retina"),
}


def test_every_set_of_the_paper_has_its_weights() -> None:
    weights = published().weights
    for head in ("biomedcoop", "biomed-dpt"):
        assert set(weights[head]["few-shot"]) == SETS | {"default"}
        assert set(weights[head]["base-to-novel"]) == SETS - {"busi"} | {"default"}
    assert set(published().templates["biomed-dpt"]) > SETS


@pytest.mark.parametrize(
    ("head", "setting", "names", "whose", "expected"),
    [
        ("biomedcoop", "few-shot", ["DermaMNIST", "label"], "dermamnist", (5, 20, 1.5)),
        ("biomedcoop", "few-shot", ["KneeXray"], "kneexray", (5, 20, 1.75)),
        ("biomedcoop", "base-to-novel", ["retina"], "retina", (5, 1, 2)),
        ("biomedcoop", "base-to-novel", ["busi"], "default", (1, 1, 1.5)),
        ("biomedcoop", "few-shot", ["mine", "ptx-cls"], "default", (1, 1, 1.5)),
        ("biomed-dpt", "few-shot", ["COVID_19"], "covid_19", (65, 2.5, math.inf)),
        ("biomed-dpt", "few-shot", [], "default", (1, 1, math.inf)),
        ("coop", "few-shot", ["busi"], "default", (0, 0, math.inf)),
    ],
)
def test_the_data_set_decides_the_weights(
    head: str, setting: TrainingEnvironment, names: list[str], whose: str, expected: tuple[float, float, float]
) -> None:
    found, weights = weights_of(head, setting, names)
    assert (found, (weights.consistency, weights.distillation, weights.tau)) == (whose, expected)


def test_without_weights_nothing_is_added_and_all_is_kept() -> None:
    assert Weights() == Weights(consistency=0, distillation=0, tau=math.inf)


def test_the_data_set_goes_before_the_task_and_both_before_the_default() -> None:
    assert template_of("biomed-dpt", ["busi", "ptx-cls"]) == "an ultrasound image of a breast with {}."
    assert template_of("biomed-dpt", ["phantom", "ptx-cls"]) == "a chest X-ray image with {}."
    assert template_of("biomed-dpt", ["mine", "other"]) == "a photo of a {}."
    assert {template_of(head, ["busi", "ptx-cls"]) for head in ("coop", "biomedcoop")} == {"a photo of a {}."}


def test_templates_of_tasks_are_of_tasks_that_there_are() -> None:
    named = {name for table in published().templates.values() for name in table}
    assert named - SETS - {"default", "pneumoniamnist"} <= set(list_tasks())


def test_each_head_and_setting_has_a_table_of_its_own() -> None:
    made = {
        table_digest(head, setting)
        for head in ("coop", "biomedcoop", "biomed-dpt")
        for setting in ("few-shot", "base-to-novel")
    }
    assert len(made) == 5


def test_a_table_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Weights(tau=0.5)
    content = published().model_dump(by_alias=True)
    with pytest.raises(ValidationError, match="every table needs 'default'"):
        Published.model_validate(content | {"templates": {"coop": {"busi": "a {}."}}})
    for template in ("{} here.", "a photo.", "a {} and {}.", "a{}."):
        with pytest.raises(ValidationError, match="needs words before"):
            Published.model_validate(content | {"templates": {"coop": {"default": template}}})
