"""The cells of a study: every combination that makes sense once, the others with their reason, all faults at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from evalfm.encoders.reference import find_alias
from evalfm.errors import EvalfmError
from evalfm.study import Study, load_study
from evalfm.study.cohorts import TaskCohorts, assume_all
from evalfm.study.config import Assumed
from evalfm.study.grid import Grid, expand
from evalfm.study.plan import make_plan

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest


def grid(**changes: object) -> Grid:
    content = {"name": "s", "title": "S", "data": "films", "encoders": ["pixels"], "tasks": ["ptx-cls"], "schema": 1}
    study = Study.model_validate(content | changes)
    return expand(study, assume_all(study, 100)[0])


def told(found: Grid) -> list[tuple[str, str, tuple[str, ...], str]]:
    return [(cell.encoder, cell.task, cell.heads, cell.adaptation) for cell in found.cells]


def test_frozen_heads_go_together_and_trained_ones_alone():
    found = grid(
        encoders=["vit-small", "hog"],
        tasks=["ptx-cls", "ptx-seg"],
        heads={"binary": ["linear", "knn"], "segmentation": ["linear", "multiscale"]},
        adaptations=["lora", "frozen"],
    )
    assert told(found) == [
        ("vit-small", "ptx-cls", ("linear", "knn"), "frozen"),
        ("vit-small", "ptx-cls", ("linear",), "lora"),
        ("hog", "ptx-cls", ("linear", "knn"), "frozen"),
        ("vit-small", "ptx-seg", ("linear", "multiscale"), "frozen"),
        ("vit-small", "ptx-seg", ("linear",), "lora"),
        ("vit-small", "ptx-seg", ("multiscale",), "lora"),
        ("hog", "ptx-seg", ("linear", "multiscale"), "frozen"),
    ]
    reasons = {(each.what, each.reason) for each in found.left_out}
    assert ("knn, lora", "the head is not trained by gradient") in reasons
    assert ("hog × ptx-cls: linear, lora", "the encoder has no weights to train") in reasons
    assert not found.faults


def test_subsets_multiply_and_shots_leave_values_out():
    found = grid(tasks=["ptx-cls", "ctr"], shots=[4, None], label_fractions=[0.5])
    assert [(cell.task, cell.shots, cell.label_fraction) for cell in found.cells] == [
        ("ptx-cls", 4, None),
        ("ptx-cls", None, None),
        ("ptx-cls", None, 0.5),
        ("ctr", None, None),
        ("ctr", None, 0.5),
    ]
    assert [each.what for each in found.left_out] == ["ctr, 4 shots"]


def test_what_has_no_maps_is_left_out_of_masks():
    found = grid(encoders=["constant", "pixels"], tasks=["ptx-seg", "ptx-cls"], heads=["linear", "multiscale"])
    assert told(found) == [
        ("pixels", "ptx-seg", ("linear", "multiscale"), "frozen"),
        ("constant", "ptx-cls", ("linear",), "frozen"),
        ("pixels", "ptx-cls", ("linear",), "frozen"),
    ]
    assert any(each.reason == "a table of features has no maps" for each in found.left_out)
    assert any(each.what == "multiscale on ptx-cls" for each in found.left_out)


def test_random_weights_are_a_baseline_once_an_encoder_and_task():
    found = grid(encoders=["vit-small", "resnet50"], adaptations=["frozen", "full"], shots=[4, None], baselines="all")
    baselines = [(cell.encoder, cell.adaptation, cell.shots) for cell in found.cells if cell.baselines == "all"]
    assert baselines == [
        ("vit-small", "frozen", 4),
        ("resnet50", "frozen", 4),
        ("vit-small", "frozen", None),
        ("resnet50", "frozen", None),
    ]
    assert {cell.baselines for cell in found.cells} == {"all", "default"}
    assert {cell.baselines for cell in grid(adaptations=["frozen"], baselines="none").cells} == {"none"}


def test_an_adaptation_narrows_the_heads_of_a_task():
    found = grid(
        encoders=["vit-small"],
        tasks=["ptx-seg", {"name": "heart-seg", "heads": ["linear"]}],
        heads={"segmentation": ["linear", "multiscale"]},
        adaptations=[{"name": "full", "heads": ["multiscale"], "recipe": {"epochs": 2}}],
    )
    assert told(found) == [("vit-small", "ptx-seg", ("multiscale",), "full")]
    assert found.cells[0].recipe == {"epochs": 2}


def test_baselines_stand_beside_the_grid():
    found = grid(
        encoders=["pixels"],
        tasks=["ptx-cls", "ptx-seg"],
        heads=["linear"],
        supervised=[
            {"encoder": "unet-resnet34", "tasks": ["ptx-seg"]},
            {"encoder": "densenet121", "tasks": ["ptx-cls"]},
        ],
    )
    beside = [cell for cell in found.cells if cell.key in found.supervised]
    assert [(cell.encoder, cell.heads, cell.adaptation) for cell in beside] == [
        ("densenet121", ("linear",), "scratch"),
        ("resnet34", ("unet",), "scratch"),
    ]
    # As `evalfm probe --encoder unet-resnet34` has it: the whole radiograph.
    assert [cell.resize for cell in beside] == [None, find_alias("unet-resnet34").resize]
    assert beside[1].resize == "squash"
    assert not found.faults


def test_equal_cells_are_one():
    assert len(grid(encoders=["pixels", "pixels"]).cells) == 1
    two = grid(encoders=["vit-small"], adaptations=[{"name": "lora", "recipe": {"rank": rank}} for rank in (4, 8)])
    assert [cell.recipe for cell in two.cells] == [{"rank": 4}, {"rank": 8}]


def test_every_fault_is_named_at_once():
    study = Study.model_validate(
        {
            "name": "s",
            "title": "S",
            "data": "films",
            "encoders": ["pixel", "unet-resnet34", "hog"],
            "tasks": ["ptx-cl", "ptx-cls"],
            "heads": ["linnear"],
            "adaptations": [{"name": "lora", "recipe": {"ranks": 4}}],
            "schema": 1,
        }
    )
    with pytest.raises(EvalfmError) as refused:
        make_plan(study, assumed=Assumed(images=100, speed=1.0))
    for part in ("5 faults", "'pixel'", "supervised", "'ptx-cl'", "'linnear'", "'ranks'"):
        assert part in str(refused.value), part


def test_a_task_on_two_data_sets_has_cells_for_both():
    tasks = [{"name": "ptx-cls", "data": "one"}, {"name": "ptx-cls", "data": "two"}]
    content = {"name": "s", "title": "S", "data": "films", "encoders": ["pixels"], "tasks": tasks, "schema": 1}
    study = Study.model_validate(content)
    cells = expand(study, assume_all(study, 100)[0]).cells
    assert [(cell.task, cell.data) for cell in cells] == [("ptx-cls", "one"), ("ptx-cls", "two")]
    assert len({cell.key for cell in cells}) == 2


def test_folds_and_limit_of_a_task_reach_its_cells_and_its_sizes():
    tasks = ["ptx-cls", {"name": "ctr", "folds": 4, "limit": 40}]
    study = Study.model_validate(
        {"name": "s", "title": "S", "data": "films", "encoders": ["pixels"], "tasks": tasks, "schema": 2, "limit": 80}
    )
    cohorts = assume_all(study, 100)[0]
    cells = expand(study, cohorts).cells
    assert [(cell.task, cell.folds, cell.limit) for cell in cells] == [("ptx-cls", None, 80), ("ctr", 4, 40)]
    assert [len(cohorts[cell.task, "films"].sizes_of(cell)) for cell in cells] == [1, 4]


def test_text_heads_need_a_tower_and_they_alone_take_the_sentences():
    asked = {"name": "ptx-cls", "prompts": "mine.yaml", "heads": ["zeroshot", "linear"]}
    found = grid(encoders=["chexzero", "resnet50"], tasks=[asked, "ptx-size"], threshold="f1")
    assert [(cell.encoder, cell.heads, cell.prompts, cell.threshold) for cell in found.cells] == [
        ("chexzero", ("zeroshot", "linear"), "mine.yaml", "f1"),
        ("resnet50", ("linear",), None, "f1"),
        ("chexzero", ("ridge",), None, "youden"),
        ("resnet50", ("ridge",), None, "youden"),
    ]
    assert any("zeroshot" in each.what and each.reason == "the encoder reads no text" for each in found.left_out)
    assert not found.faults
    (fault,) = grid(encoders=["resnet50"], tasks=[asked]).faults
    assert "prompts of ptx-cls are read by text heads alone" in fault


def test_a_baseline_starts_from_weights_of_its_own():
    tuned = {"encoder": "resnet50", "adaptation": "full", "weights": "mine.safetensors"}
    (cell,) = grid(encoders=[], supervised=[tuned]).cells
    assert (cell.weights, cell.adaptation) == ("mine.safetensors", "full")
    with pytest.raises(ValueError, match="trained from scratch, so its weights would do nothing"):
        grid(encoders=[], supervised=[{**tuned, "adaptation": "scratch"}])


def test_a_set_of_three_classes_is_tried_in_no_halves():
    def posed(classes: int) -> TaskCohorts:
        task = next(iter(assumed.values()))
        return {key: replace(task, classes=classes, manifest=cast("Manifest", object())) for key in assumed}

    base = {"name": "s", "title": "S", "data": "busi", "encoders": ["chexzero"], "schema": 1, "heads": ["zeroshot"]}
    study = Study.model_validate(base | {"tasks": ["coop-classes"], "shots": [4], "base_to_novel": 16})
    assumed, _ = assume_all(study, 100)
    asked = {classes: expand(study, posed(classes)) for classes in (3, 4)}
    assert [cell.base_to_novel for cell in asked[3].cells] == [False]
    assert [cell.base_to_novel for cell in asked[4].cells] == [False, True]
    (out,) = asked[3].left_out
    assert out.what == "coop-classes on busi, 16 shots of base classes"
    assert out.reason == "of 3 classes a half would be one, in which every answer is right"
    for name in ("biomedcoop", "biomed-dpt"):
        shipped = load_study(name)
        halved = {task.data for task in shipped.tasks if any(each.base_to_novel for each in shipped.subsets_of(task))}
        few = {task.data for task in shipped.tasks if any(not each.base_to_novel for each in shipped.subsets_of(task))}
        assert (few - halved, len(few)) == ({"busi"}, 11)
        grid_of = expand(shipped, assume_all(shipped, 100)[0])
        assert {cell.data for cell in grid_of.cells if cell.base_to_novel} == halved


def test_the_studies_of_published_encoders_name_them_all():
    medical = {"ark-plus", "biomedclip", "chexagent", "medimageinsight", "medsiglip", "rad-dino"}
    named = {entry.name.partition("@")[0] for entry in load_study("feature-quality").encoders}
    assert named >= medical | {"dinov2-base", "siglip2-so400m"}
    assert {entry.name for entry in load_study("vlm-radiology").encoders} >= {"rad-dino", "chexagent", "biomedclip"}


def test_pooling_and_layers_multiply_the_grid_under_names_of_their_own() -> None:
    found = grid(encoders=["vit-small", "resnet18"], pooling=[None, "mean", "max"], layers=[None, [1, 3], "last"])
    assert [cell.encoder for cell in found.cells] == [
        "vit-small",
        "vit-small@layers-1-3",
        "vit-small@layers-11",
        "vit-small@mean",
        "vit-small@mean@layers-1-3",
        "vit-small@mean@layers-11",
        # A mean over cells is the network's own pooling: the column of null.
        "resnet18",
        "resnet18@layers-1-3",
        "resnet18@layers-4",
        "resnet18@max",
        "resnet18@max@layers-1-3",
        "resnet18@max@layers-4",
    ]
    assert all((cell.pooling, cell.layers) == (None, None) for cell in found.cells)
    reason = "There is no pooling of vit-small 'max', for it is no network of convolutions; it has cls, mean, cls-mean."
    assert ("vit-small, pooling max", reason) in {(each.what, each.reason) for each in found.left_out}
    assert not found.faults
    assert len({cell.key for cell in found.cells}) == 12


def test_what_no_encoder_has_or_an_entry_names_wrongly_is_a_fault() -> None:
    assert grid(encoders=["resnet18", "swin-base"], pooling=[None, "cls"]).faults == [
        "There is no pooling of resnet18 'cls', for it has no class token; it has gap, max."
    ]
    assert grid(encoders=["resnet18"], layers="9").faults[0].startswith("resnet18 has no layer 9; it has the layers 1,")
    wrong = grid(encoders=["vit-small", {"name": "resnet18", "pooling": "cls"}], pooling=["cls"])
    assert [cell.encoder for cell in wrong.cells] == ["vit-small"]
    assert len(wrong.faults) == 1


def test_an_entry_with_a_choice_has_that_alone_and_the_order_of_settings_is_kept() -> None:
    entries = [{"name": "ark-plus", "pooling": "mean", "weights": "ark.pth"}, {"name": "hog", "layers": 0}]
    found = grid(encoders=[*entries, "vit-small"], pooling=[None, "mean"], layers=[None, "last"])
    assert [(cell.encoder, cell.weights) for cell in found.cells] == [
        ("ark-plus@mean", "ark.pth"),
        ("ark-plus@mean@layers-3", "ark.pth"),
        ("hog", "hub"),
        ("vit-small", "hub"),
        ("vit-small@layers-11", "hub"),
        ("vit-small@mean", "hub"),
        ("vit-small@mean@layers-11", "hub"),
    ]


def test_attentive_is_the_head_and_heads_on_maps_alone_stand_once() -> None:
    found = grid(
        encoders=["vit-small"],
        tasks=["ptx-cls", "ptx-seg"],
        heads={"binary": ["linear"], "segmentation": ["linear", "global-local"]},
        pooling=[None, "mean", "attentive"],
    )
    assert told(found) == [
        ("vit-small", "ptx-cls", ("linear",), "frozen"),
        ("vit-small@mean", "ptx-cls", ("linear",), "frozen"),
        ("vit-small", "ptx-cls", ("attentive",), "frozen"),
        ("vit-small", "ptx-seg", ("linear", "global-local"), "frozen"),
        ("vit-small@mean", "ptx-seg", ("global-local",), "frozen"),
    ]
    reasons = {(each.what, each.reason) for each in found.left_out}
    assert ("vit-small@mean × ptx-seg: linear", "it reads maps alone, so it is there already") in reasons
    assert ("attentive on ptx-seg", "it does not serve segmentation tasks") in reasons
    # Named as a head already, it is there; alone, any pooling keeps the heads on maps.
    twice = grid(encoders=["vit-small"], heads=["attentive", "linear"], pooling=[None, "attentive"])
    assert told(twice) == [("vit-small", "ptx-cls", ("attentive", "linear"), "frozen")]
    alone = grid(encoders=["vit-small"], tasks=["ptx-seg"], heads=["linear"], pooling="mean")
    assert told(alone) == [("vit-small@mean", "ptx-seg", ("linear",), "frozen")]


def test_the_plan_counts_every_choice() -> None:
    content = {"name": "s", "title": "S", "data": "films", "encoders": ["hog"], "tasks": ["ptx-cls"], "heads": ["knn"]}
    study = Study.model_validate(
        content | {"encoders": ["resnet18"], "pooling": [None, "max"], "layers": [None, "3", "4"], "seeds": 2}
    )
    plan = make_plan(study, assumed=Assumed(images=100, speed=1.0, decode=1.0))
    assert [each.cell.encoder for each in plan.cells] == [
        *("resnet18", "resnet18@layers-3", "resnet18@layers-4"),
        *("resnet18@max", "resnet18@max@layers-3", "resnet18@max@layers-4"),
    ]
