"""The plan on paper: its arithmetic, and that the bytes are those that the store counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from paper_plan import (
    ENCODERS,
    MEASURED,
    Rates,
    encoder_table,
    gpu_hours,
    hours,
    other_lines,
    passes_to_store,
    probe_core_seconds,
    shapes_of,
)

from evalfm.encoders import find_card, load_encoder
from evalfm.features.map_costs import MapCosts
from evalfm.features.store import estimate_bytes
from evalfm.study.config import load_study


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_bytes_are_those_of_the_store() -> None:
    for name in ("resnet18", "resnet34", "vit-small"):
        encoder = load_encoder(name, weights="random")
        shapes = shapes_of(name)
        assert shapes.pooled_bytes == estimate_bytes(encoder, 1, maps=False)
        assert shapes.pooled_bytes + shapes.map_bytes == estimate_bytes(encoder, 1)
        assert shapes.layers == len(encoder.map_channels)


def test_a_pooling_in_the_name_is_its_own_dimension() -> None:
    poolings = find_card("ark-plus").poolings
    assert (shapes_of("ark-plus@mean").pooled, shapes_of("ark-plus").pooled) == (
        poolings["mean"],
        poolings["projector"],
    )
    assert poolings["mean"] != poolings["projector"]


def test_the_encoders_are_those_of_the_study() -> None:
    study = load_study("feature-quality")
    assert [entry.name for entry in study.encoders if entry.name != "resnet50"] == list(ENCODERS)
    assert all(cost.gflop > 0 and cost.core_seconds > 0 for cost in ENCODERS.values())


@pytest.mark.parametrize("recompute", [0.001, 0.01, 0.1, 3.0])
@pytest.mark.parametrize("write", [0.002, 0.2])
def test_maps_pay_from_the_passes_at_which_evalfm_stores_them(recompute: float, write: float) -> None:
    read = 0.004
    needed = passes_to_store(recompute, read, write)

    def policy(passes: float) -> str:
        costs = MapCosts(
            images=1000, missing=1000, passes=passes, held=False, recompute=recompute, read=read, write=write
        )
        return costs.policy

    if math.isinf(needed):
        assert policy(1e6) == "stream"
    else:
        assert (policy(needed * 0.999), policy(needed * 1.001)) == ("stream", "store")


def test_a_probe_grows_with_images_and_its_fit_with_the_dimension() -> None:
    rates = Rates(fit_core_seconds=40.0, rest_core_seconds=100.0)
    assert probe_core_seconds(1e6, 768, rates) == 140
    assert probe_core_seconds(1e6, 1536, rates) == 180
    assert probe_core_seconds(5e5, 1536, rates) == 90


def test_hours_of_cores_and_of_gpus() -> None:
    assert hours(1e6, 0.36) == pytest.approx(100)
    assert gpu_hours(1e6, 360, 50) == pytest.approx(2)


def test_every_figure_of_a_line_is_of_that_encoder() -> None:
    head, _, *lines = encoder_table(500_000, 200.0)
    names = cells(head)
    by_name = {cells(line)[0]: dict(zip(names, cells(line), strict=True)) for line in lines}
    assert list(by_name) == [*ENCODERS, "all eight"]
    line, cost, shapes = by_name["rad-dino"], ENCODERS["rad-dino"], shapes_of("rad-dino")
    assert line["input"] == "518 × 518"
    assert line["layers"] == "5"
    assert line["core-hours"] == f"{500_000 * cost.core_seconds / 3600:,.0f}"
    assert line["pooled, GB"] == f"{500_000 * 768 * 4 / 1e9:.1f}"
    of_maps = 500_000 * 2 * 5 * 768 * 37 * 37
    assert shapes.map_bytes * 500_000 == of_maps
    assert line["maps, TB"] == f"{of_maps / 1e12:.1f}"
    assert line["hours to write them"] == f"{of_maps / 665e6 / 3600:.1f}"
    assert line["to read them once"] == f"{of_maps / 4404e6 / 3600:.1f}"
    assert line["GPU-hours at 200 TFLOP/s"] == f"{500_000 * cost.gflop * 1e9 / 200e12 / 3600:.1f}"
    total = sum(500_000 * shapes_of(name).map_bytes for name in ENCODERS)
    assert by_name["all eight"]["maps, TB"] == f"{total / 1e12:.1f}"
    assert "GPU-hours" not in encoder_table(500_000, None)[0]


@dataclass(frozen=True)
class Link:
    image_bytes: float = 2e6
    bytes_a_second: float = 1e9


def test_the_network_carries_every_image_once_an_encoder_and_once_to_be_hashed() -> None:
    link = Link()
    lines = dict(cells(line) for line in other_lines(1_000_000, link.image_bytes, link.bytes_a_second)[2:])
    assert lines["images over the network, 9 times 2.0 TB: hours"] == f"{9 * 2e12 / 1e9 / 3600:.1f}"
    assert lines["first checks and digests: core-hours"] == (
        f"{1e6 * (MEASURED.digest_core_seconds + 2e6 / MEASURED.digest_bytes) / 3600:.1f}"
    )
    reading = lines["images read and prepared, once an encoder: core-hours, 512² PNG / 1024² DICOM"]
    assert reading == f"{8e6 * 2 / 222 / 3600:.0f} / {8e6 * 2 / 145 / 3600:.0f}"
