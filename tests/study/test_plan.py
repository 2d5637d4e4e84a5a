"""What the cells of a study cost together: what is shared, what does not fit, and what the plan is told to assume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalfm.config import MachineOptions
from evalfm.data.manifest import Manifest
from evalfm.encoder_options import EncoderOptions
from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.study import Assumed, Plan, Study, make_plan, plan
from evalfm.study.estimate import CellEstimate, load_for_trial

AWAY = Assumed(images=100, speed=1.0)


def study(**changes: Any) -> Study:
    content = {"schema": 2, "name": "p", "title": "P", "data": "elsewhere", "encoders": ["hog"], "baselines": "none"}
    return Study.model_validate(content | {"tasks": ["ptx-seg"], "heads": ["linear"]} | changes)


def costs(made: Plan) -> list[CellEstimate]:
    assert len(made.known) == len(made.cells)
    return made.known


def test_features_are_paid_by_the_first_cell_that_reads_them(home: Path):
    label, masks, again = costs(make_plan(study(tasks=["ptx-cls", "ptx-seg", "heart-seg"]), assumed=AWAY))
    assert (label.forwards, label.disk_bytes.keys()) == (100, {"features"})
    # Maps are computed with features that are there already.
    assert (masks.forwards, masks.disk_bytes.keys()) == (100, {"maps"})
    assert (again.forwards, again.passes, again.disk_bytes) == (0, "stored by then", {})


def test_the_budget_of_maps_is_shared_by_the_encoders(home: Path, monkeypatch: pytest.MonkeyPatch):
    asked = study(encoders=["pixels", "hog"])
    first, second = (each.disk_bytes["maps"] for each in costs(make_plan(asked, assumed=AWAY)))
    monkeypatch.setattr(plan, "LARGEST_BUDGET", int(first + second) - 1)
    stored, streamed = costs(make_plan(asked, assumed=AWAY))
    assert stored.disk_bytes["maps"] == first
    assert "maps" not in streamed.disk_bytes
    assert streamed.forwards > 10 * stored.forwards
    monkeypatch.setattr(plan, "LARGEST_BUDGET", int(first + second))
    assert all("maps" in each.disk_bytes for each in costs(make_plan(asked, assumed=AWAY)))


def test_maps_go_where_they_are_asked_to_go(home: Path):
    (stored,) = costs(make_plan(study(), MachineOptions(maps="store"), AWAY))
    (streamed,) = costs(make_plan(study(), MachineOptions(maps="stream"), AWAY))
    # This machine has room for the maps of a hundred images; of one elsewhere nothing is known.
    (held,) = costs(make_plan(study(), MachineOptions(maps="stream"), Assumed(images=100)))
    assert (stored.forwards, held.forwards) == (100, 100)
    assert held.passes == "100 once, maps stay in memory"
    assert "at most" in streamed.passes


def test_reading_takes_what_is_said_shared_by_the_workers(home: Path):
    asked = study(tasks=["ptx-cls"], encoders=["random:resnet18"])
    fast, slow, alone = (
        costs(make_plan(asked, MachineOptions(workers=workers), AWAY.model_copy(update={"decode": decode})))[0]
        for workers, decode in ((2, 0.0), (2, 10.0), (1, 10.0))
    )
    assert slow.seconds - fast.seconds == pytest.approx(100 * 0.010 / 2)
    assert alone.seconds - fast.seconds == pytest.approx(100 * 0.010)
    assert "10 ms to read an image, by 1 workers" in " ".join(
        make_plan(asked, MachineOptions(workers=1), AWAY.model_copy(update={"decode": 10.0})).assumptions
    )


def test_processes_share_the_time_and_not_the_work(home: Path):
    one, two = (make_plan(study(), MachineOptions(devices=devices), AWAY) for devices in ("cpu", "cpu,cpu"))
    assert (one.together, two.together) == (1, 2)
    assert one.seconds == sum(each.seconds for each in one.known)
    assert two.seconds == sum(each.seconds for each in two.known) / 2
    assert two.disk_bytes == one.disk_bytes


def test_half_precision_halves_what_modules_give(home: Path):
    asked = study(tasks=["ptx-cls"], encoders=["random:resnet18"])
    of = {
        precision: costs(make_plan(asked, MachineOptions(precision=precision), AWAY))[0].memory_bytes
        for precision in ("float32", "bfloat16", "auto")
    }
    weights = 4 * 11_176_512
    assert of["auto"] == of["bfloat16"]
    assert of["float32"] - weights == 2 * (of["auto"] - weights)


def test_features_of_drawn_weights_are_not_those_of_weights_that_cannot_be_had(squares: Manifest, home: Path):
    missing = {"name": "resnet18", "weights": "nowhere.safetensors", "input_size": 32}
    drawn, asked = missing | {"weights": "random"}, {"data": str(squares.folder), "tasks": ["square"]}
    encoder, _ = load_for_trial("resnet18", EncoderOptions(weights="random", input_size=32), fetch=True)
    with EncodedSource(encoder, squares, FeatureStore(home / "cache" / "features")) as source:
        source.prefetch(range(len(squares)))
    assert costs(make_plan(study(encoders=[drawn], **asked)))[0].forwards == 0
    made = make_plan(study(encoders=[missing], **asked))
    (warning,) = made.warnings
    assert "nowhere.safetensors" in warning
    (found,) = costs(made)
    assert found.forwards == found.images > 0


def test_an_encoder_that_cannot_be_tried_is_a_warning_and_the_rest_is_planned(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    encoder, _ = load_for_trial("light-cnn", EncoderOptions(weights="random"), fetch=True)

    def load(name: str, *_: Any, **__: Any) -> tuple[Any, None]:
        if name == "hog":
            raise EvalfmError("It needs a GPU.")
        return encoder, None

    monkeypatch.setattr(plan, "load_for_trial", load)
    made = make_plan(study(encoders=["hog", "pixels"]), assumed=AWAY)
    assert made.warnings == ("hog: It needs a GPU.",)
    assert [each.estimate is None for each in made.cells] == [True, False]
    assert made.seconds == made.known[0].seconds


def test_what_is_not_counted_is_said(home: Path):
    said = " ".join(make_plan(study(), MachineOptions(cache_images=True), AWAY).assumptions)
    assert "prepared images are not counted" in said
    assert "100 images for every task" in said
    assert "1 · 10¹² operations a second" in said
    assert "prepared images" not in " ".join(make_plan(study(), assumed=AWAY).assumptions)
