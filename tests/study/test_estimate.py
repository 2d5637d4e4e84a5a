"""What a cell costs, against counts made by hand and against what the trainings really do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalfm.config import EncoderOptions, ProbeConfig
from evalfm.heads.trained import Schedule
from evalfm.heads.training import _Plan as HeadPlan
from evalfm.study.cohorts import Sizes
from evalfm.study.estimate import Rates, StoredFeatures, encoder_steps, estimate_cell, head_steps
from evalfm.study.trial import EncoderFacts, HeadFacts, load_for_trial, try_encoder
from evalfm.training.plan import EpochPlan
from evalfm.training.recipe import recipe_of

FACTS = EncoderFacts(
    flops=1e9,
    seconds=0.01,
    parameters=1_000_000,
    batch_size=32,
    pooled_bytes=400,
    map_bytes=5000,
    prepared_bytes=6000,
    activations=20_000,
    largest=1000,
    pretrained=True,
    heads={("linear", "segmentation"): HeadFacts(1e6, 0.001, 100, 50, 3), ("linear", "binary"): HeadFacts(10, 0, 5, 1)},
    lora_parameters={8: 10_000},
)
RATES = Rates(seconds=0.01, decode_seconds=0.04, score_seconds=0.02, workers=2)


def cell(**changes: object) -> ProbeConfig:
    content = {"encoder": "e", "task": "t", "heads": ("linear",), "data": "d", "baselines": "none"}
    return ProbeConfig.model_validate(content | changes)


@given(train=st.integers(1, 9000), val=st.integers(1, 2000), epochs=st.integers(1, 30))
def test_head_steps_are_those_of_the_training(train: int, val: int, epochs: int):
    schedule = Schedule(epochs=epochs)
    plan = HeadPlan.of(schedule, train, val)
    steps = head_steps(schedule, Sizes(train, val, 1))
    assert steps.trained == plan.epochs * plan.steps * min(schedule.batch_size, train)
    assert steps.looked == plan.epochs * val + min(schedule.statistics_images, train)


@given(train=st.integers(1, 9000), val=st.integers(1, 2000), epochs=st.integers(1, 30), batch=st.integers(1, 64))
def test_encoder_steps_are_those_of_the_training(train: int, val: int, epochs: int, batch: int):
    recipe = recipe_of("full", {"epochs": epochs, "batch_size": batch})
    assert recipe is not None
    plan = EpochPlan.of(recipe, train)
    steps = encoder_steps(recipe, Sizes(train, val, 1))
    # A look before the first epoch and one after each.
    assert (steps.trained, steps.looked) == (plan.epochs * plan.steps * plan.batch_size, (epochs + 1) * val)


def test_a_frozen_label_is_one_pass():
    found = estimate_cell(cell(), "binary", [Sizes(70, 10, 20)], 100, FACTS, StoredFeatures(100, 0, 0, "stream"), RATES)
    assert (found.forwards, found.decoded, found.scored) == (100, 100, 0)
    assert found.seconds == pytest.approx(100 * 0.01 + 100 * 0.04 / 2)
    assert found.disk_bytes == {"features": 40_000}
    again = estimate_cell(cell(), "binary", [Sizes(70, 10, 20)], 100, FACTS, StoredFeatures(0, 0, 0, "stream"), RATES)
    assert (again.seconds, again.passes) == (0, "stored by then")


def test_random_weights_as_a_baseline_are_a_second_encoder():
    asked = cell(baselines="all")
    parts, stored = [Sizes(70, 10, 20)], StoredFeatures(100, 0, 0, "stream")
    twice = estimate_cell(asked, "binary", parts, 100, FACTS, stored, RATES)
    assert (twice.forwards, twice.disk_bytes["features"]) == (200, 80_000)
    drawn = cell(baselines="all", weights="random")
    assert estimate_cell(drawn, "binary", parts, 100, FACTS, stored, RATES).forwards == 100


def test_stored_maps_are_one_pass_and_streamed_ones_a_pass_for_every_batch():
    sizes = Sizes(160, 16, 24)
    stored = estimate_cell(
        cell(seeds=3), "segmentation", [sizes], 200, FACTS, StoredFeatures(200, 200, 0, "store"), RATES
    )
    assert stored.forwards == 200
    assert stored.disk_bytes == {"features": 80_000, "maps": 1_000_000}
    streamed = estimate_cell(
        cell(seeds=3), "segmentation", [sizes], 200, FACTS, StoredFeatures(200, 0, 200, "stream"), RATES
    )
    # 20 epochs of 10 steps of 16, 20 looks at 16, 64 for mean and deviation, val for the threshold, val and test
    # scored: each seed.
    seen = 3 * (20 * 10 * 16 + 20 * 16 + 64 + 16 + 16 + 24)
    assert streamed.forwards == 200 + seen
    assert streamed.decoded == 200 + seen
    assert streamed.scored == 3 * 40
    heads = 0.001 * 3 * (3 * 3200 + 20 * 16 + 64) * 3
    assert streamed.seconds == pytest.approx((200 + seen) * (0.01 + 0.02) + 120 * 0.02 + heads)
    cached = estimate_cell(
        cell(seeds=3, cache_images=True),
        "segmentation",
        [sizes],
        200,
        FACTS,
        StoredFeatures(200, 0, 200, "stream"),
        RATES,
    )
    assert (cached.decoded, cached.disk_bytes["prepared images"]) == (400, 200 * 6000)


def test_a_trained_encoder_sees_every_image_three_times_an_epoch():
    recipe = {"epochs": 2, "least_steps": 0, "batch_size": 10, "probe_start": False, "ema": 0.0}
    asked = cell(adaptation="full", recipe=recipe, seeds=2)
    found = estimate_cell(asked, "binary", [Sizes(70, 10, 20)], 100, FACTS, StoredFeatures(100, 0, 0, "stream"), RATES)
    assert found.forwards == 2 * (3 * 2 * 70 + 3 * 10 + 30)
    assert found.decoded == 2 * (2 * 70 + 3 * 10 + 30)
    assert found.disk_bytes == {"trained encoders": 2 * 4e6}
    # Sixteen bytes for each of 1,000,005 parameters, and what the modules of both give for ten images in float32.
    assert found.memory_bytes == 16 * 1_000_005 + 4 * 10 * 20_001
    lora = estimate_cell(
        cell(adaptation="lora", recipe={**recipe, "rank": 8}), "binary", [Sizes(70, 10, 20)], 100, FACTS,
        StoredFeatures(100, 0, 0, "stream"), RATES,
    )  # fmt: skip
    assert lora.disk_bytes == {"trained encoders": 4 * 10_000}
    assert lora.memory_bytes < found.memory_bytes


def test_a_probe_start_needs_frozen_features_first_and_folds_multiply():
    asked = cell(adaptation="full", recipe={"epochs": 1, "least_steps": 0, "batch_size": 10})
    parts = [Sizes(70, 10, 20)] * 2
    found = estimate_cell(asked, "binary", parts, 100, FACTS, StoredFeatures(100, 0, 0, "stream"), RATES)
    assert found.forwards == 100 + 2 * (3 * 70 + 2 * 10 + 30)
    assert found.disk_bytes["features"] == 40_000


def test_a_machine_that_is_not_here_is_as_fast_as_said():
    away = Rates(seconds=1e9 / 2e12, decode_seconds=0, score_seconds=0, workers=1, speed=2e12)
    assert away.of_head(HeadFacts(4e12, 99.0)) == 2.0
    assert RATES.of_head(HeadFacts(4e12, 99.0)) == 99.0


def test_operations_and_parameters_are_those_that_are_published():
    # He et al. 2016: ResNet-18 has 1.8 · 10⁹ multiply-adds at 224²; torchvision counts 11,689,512 parameters,
    # 513,000 of them in the classifier.
    facts = try_encoder(load_for_trial("random:resnet18", EncoderOptions(), fetch=True), [("linear", "binary", 1)], [8])
    assert facts.flops == pytest.approx(2 * 1.82e9, rel=0.02)
    assert facts.parameters == 11_176_512
    assert facts.pooled_bytes == 4 * 512
    assert facts.map_bytes == 2 * (64 * 56**2 + 128 * 28**2 + 256 * 14**2 + 512 * 7**2)
    assert facts.prepared_bytes == 4 * 3 * 224**2
    assert facts.largest == 64 * 112**2
    assert 0 < facts.lora_parameters[8] < facts.parameters / 10
    assert facts.heads["linear", "binary"].flops == 2 * 512
    assert not facts.pretrained


def test_weights_that_cannot_be_had_are_a_warning():
    loaded = load_for_trial("resnet50", EncoderOptions(weights="nowhere.safetensors"), fetch=True)
    assert loaded.encoder.random_weights
    assert loaded.warning is not None
    assert "nowhere.safetensors" in loaded.warning
    assert load_for_trial("resnet50", EncoderOptions(), fetch=False).warning is None


def test_ordered_classes_can_be_planned_before_any_was_seen():
    facts = try_encoder(load_for_trial("light-cnn", EncoderOptions(), fetch=True), [("linear", "ordinal", 4)], [])
    # A score of 256 features with its bias, the first threshold and two steps.
    assert facts.heads["linear", "ordinal"].parameters == 256 + 1 + 1 + 2
