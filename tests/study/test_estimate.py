"""What a cell costs, against counts made by hand and against what the trainings really do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalfm.config import ProbeConfig
from evalfm.encoder_options import EncoderOptions
from evalfm.encoders import load_encoder
from evalfm.heads import load_head
from evalfm.heads.trained import TrainedHead
from evalfm.heads.training import StepPlan
from evalfm.study.cohorts import Sizes
from evalfm.study.estimate import CellEstimate, EncoderFacts, Missing, estimate_cell, load_for_trial, try_encoder
from evalfm.training.recipe import EpochPlan, recipe_of

FACTS = EncoderFacts(
    seconds=0.01,
    parameters=1_000_000,
    batch_size=32,
    pooled_bytes=400,
    map_bytes=5000,
    activations=80_000,
    largest=4000,
    pretrained=True,
    heads={("linear", "segmentation"): 0.001},
)
PARTS = (Sizes(70, 10, 20),)


def cell(**changes: object) -> ProbeConfig:
    content = {"encoder": "e", "task": "t", "heads": ("linear",), "data": "d", "baselines": "none"}
    return ProbeConfig.model_validate(content | changes)


def cost(
    asked: ProbeConfig,
    missing: Missing,
    kind: str = "binary",
    parts: tuple[Sizes, ...] = PARTS,
    read_seconds: float = 0.02,
) -> CellEstimate:
    return estimate_cell(asked, kind, parts, parts[0].total, FACTS, missing, read_seconds)


@given(train=st.integers(1, 9000), val=st.integers(1, 2000), seeds=st.integers(1, 3))
def test_streamed_maps_are_read_as_often_as_the_head_reads_them(train: int, val: int, seeds: int):
    head = load_head("linear", "segmentation")
    assert isinstance(head, TrainedHead)
    plan = StepPlan.of(head.schedule, train, val)
    steps = plan.epochs * plan.steps * min(head.schedule.batch_size, train)
    looks = plan.epochs * val + min(head.schedule.statistics_images, train)
    sizes = Sizes(train, val, 7)
    found = cost(cell(seeds=seeds), Missing(0, 0, "stream"), "segmentation", (sizes,))
    # Val and test twice more: to predict, and to choose a threshold or measure.
    assert found.forwards == seeds * (steps + looks + 2 * (val + 7))


@given(train=st.integers(1, 9000), val=st.integers(1, 2000), epochs=st.integers(1, 30), batch=st.integers(1, 64))
def test_a_training_takes_the_steps_of_its_recipe(train: int, val: int, epochs: int, batch: int):
    changes = {"epochs": epochs, "batch_size": batch, "probe_start": False}
    recipe = recipe_of("full", changes)
    assert recipe is not None
    plan = EpochPlan.of(recipe, train)
    found = cost(cell(adaptation="full", recipe=changes), Missing(9), parts=(Sizes(train, val, 5),))
    stepped = plan.epochs * plan.steps * plan.batch_size
    # A look before the first epoch and one after each; val and test once at the end.
    looked = (epochs + 1) * val + val + 5
    assert (found.forwards, found.decoded) == (3 * stepped + looked, stepped + looked)


def test_a_frozen_label_is_one_pass():
    found = cost(cell(), Missing(100))
    assert (found.forwards, found.decoded, found.scored) == (100, 100, 0)
    assert found.seconds == pytest.approx(100 * 0.01 + 100 * 0.02)
    assert found.disk_bytes == {"features": 40_000}
    again = cost(cell(), Missing(0))
    assert (again.seconds, again.passes, again.disk_bytes) == (0, "stored by then", {})


def test_random_weights_as_a_baseline_are_a_second_encoder():
    twice = cost(cell(baselines="all"), Missing(100))
    assert (twice.forwards, twice.disk_bytes["features"]) == (200, 80_000)
    assert twice.passes == "100 once; random weights likewise"
    assert cost(cell(baselines="all", weights="random"), Missing(100)).forwards == 100
    tuned = {"adaptation": "lora", "recipe": {"epochs": 1}}
    assert cost(cell(baselines="all", **tuned), Missing(9)) == cost(cell(**tuned), Missing(9))


def test_stored_maps_are_one_pass_and_streamed_ones_a_pass_for_every_batch():
    parts = (Sizes(160, 16, 24),)
    stored = cost(cell(seeds=3), Missing(150, 200), "segmentation", parts)
    assert stored.forwards == 200
    assert stored.disk_bytes == {"features": 60_000, "maps": 1_000_000}
    streamed = cost(cell(seeds=3), Missing(200, 0, "stream"), "segmentation", parts)
    # 20 epochs of 10 steps of 16, 20 looks at 16, 64 for mean and deviation, val and test twice at the end: each seed.
    seen = 3 * (20 * 10 * 16 + 20 * 16 + 64 + 2 * 40)
    assert streamed.forwards == streamed.decoded == 200 + seen
    assert streamed.passes == f"200 once; at most {seen:,} for heads that read maps"
    assert streamed.disk_bytes == {"features": 80_000}
    assert streamed.scored == 3 * 40
    # A step is three predictions of each of the head's learning rates.
    head = load_head("linear", "segmentation")
    assert isinstance(head, TrainedHead)
    heads = 0.001 * len(head.learning_rates) * (3 * 3200 + 20 * 16 + 64) * 3
    assert streamed.seconds == pytest.approx((200 + seen) * (0.01 + 0.02) + 120 * 0.03 + heads)


def test_maps_that_stay_in_memory_are_computed_once():
    found = cost(cell(seeds=3), Missing(150, 0, "memory"), "segmentation", (Sizes(160, 16, 24),))
    # 150 whose pooled features are missing too, and 50 for their maps alone.
    assert (found.forwards, found.decoded) == (200, 200)
    assert found.passes == "200 once, maps stay in memory"
    assert "maps" not in found.disk_bytes


def test_a_trained_encoder_sees_every_image_three_times_an_epoch():
    recipe = {"epochs": 2, "least_steps": 0, "batch_size": 10, "probe_start": False, "ema": 0.0}
    found = cost(cell(adaptation="full", recipe=recipe, seeds=2), Missing(100))
    assert found.forwards == 2 * (3 * 2 * 70 + 3 * 10 + 30)
    assert found.decoded == 2 * (2 * 70 + 3 * 10 + 30)
    assert found.disk_bytes == {"trained encoders": 2 * 4e6}
    assert found.work_bytes == 5 * 4e6
    # Sixteen bytes for each parameter, and what the modules give for ten images.
    assert found.memory_bytes == 16 * 1_000_000 + 10 * 80_000
    lora = cost(cell(adaptation="lora", recipe={**recipe, "rank": 8}), Missing(100))
    assert lora.disk_bytes == {}
    assert lora.memory_bytes == 4 * 1_000_000 + 10 * 80_000
    assert (lora.forwards, lora.work_bytes) == (found.forwards / 2, 0)


def test_a_probe_start_needs_frozen_features_first_and_folds_multiply():
    asked = cell(adaptation="full", recipe={"epochs": 1, "least_steps": 0, "batch_size": 10})
    found = cost(asked, Missing(100), parts=PARTS * 2)
    assert found.forwards == 100 + 2 * (3 * 70 + 2 * 10 + 30)
    assert found.disk_bytes == {"features": 40_000, "trained encoders": 2 * 4e6}


def test_one_head_alone_is_scored_where_the_encoder_is_trained():
    recipe = {"epochs": 1, "least_steps": 0, "batch_size": 10, "probe_start": False}
    found = cost(cell(adaptation="full", recipe=recipe, seeds=2), Missing(100), "segmentation")
    assert found.scored == 2 * 30
    assert found.seconds == pytest.approx(found.forwards * (0.01 + 0.001) + found.decoded * 0.02 + 60 * 0.03)


def test_operations_and_parameters_are_those_that_are_published():
    # He et al. 2016: ResNet-18 has 1.8 · 10⁹ multiply-adds at 224²; torchvision counts 11,689,512 parameters,
    # 513,000 of them in the classifier.
    encoder = load_encoder("random:resnet18")
    # On a machine of one operation a second, seconds are operations.
    facts = try_encoder(encoder, [("linear", "binary", 1), ("knn", "binary", 1)], speed=1.0, number_bytes=2)
    assert facts.seconds == pytest.approx(2 * 1.82e9, rel=0.02)
    assert facts.parameters == 11_176_512
    assert facts.pooled_bytes == 4 * 512
    assert facts.map_bytes == 2 * (64 * 56**2 + 128 * 28**2 + 256 * 14**2 + 512 * 7**2)
    assert facts.largest == 2 * 64 * 112**2
    assert facts.largest < facts.activations < 100 * facts.largest
    assert facts.heads == {("linear", "binary"): 2 * 512}
    assert not facts.pretrained
    assert try_encoder(encoder, [], speed=4.0).seconds == facts.seconds / 4


def test_what_computes_without_counted_operations_is_as_fast_as_here():
    assert 0 < try_encoder(load_encoder("hog"), [], speed=1e-9).seconds < 60


def test_weights_that_cannot_be_had_are_a_warning():
    encoder, warning = load_for_trial("resnet50", EncoderOptions(weights="nowhere.safetensors"), fetch=True)
    assert encoder.random_weights
    assert warning is not None
    assert "nowhere.safetensors" in warning
    encoder, warning = load_for_trial("resnet50", EncoderOptions(), fetch=False)
    assert encoder.random_weights
    assert warning is None
    assert load_for_trial("hog", EncoderOptions(), fetch=False)[1] is None


def test_ordered_classes_can_be_planned_before_any_was_seen():
    facts = try_encoder(load_encoder("light-cnn", weights="random"), [("linear", "ordinal", 4)])
    assert 0 < facts.heads["linear", "ordinal"] < 1
