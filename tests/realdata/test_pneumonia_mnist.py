"""PneumoniaMNIST: the light CNN on the official test split in short, and image-text towers that have learnt nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest
from evalfm.probing.probe import probe
from evalfm.run import Run

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return import_data("medmnist", SHARED / "medmnist", tmp_path_factory.mktemp("import") / "pneumoniamnist")


@pytest.fixture(scope="module")
def short(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An eighth of train and four epochs of the thirty; val and test whole."""
    (run,) = probe(
        "light-cnn",
        "pneumonia-cls",
        data=data,
        heads=["linear"],
        adaptation="scratch",
        input_size=28,
        threshold="f1",
        label_fraction=0.125,
        recipe={"epochs": 4, "least_steps": 150},
        baselines="none",
        out=tmp_path_factory.mktemp("runs"),
    )
    return run


def part(run: Run, split: str) -> pd.DataFrame:
    table = run.predictions()
    return table[table["split"] == split]


def test_calling_every_test_image_positive_has_the_published_f1(short: Run):
    test = part(short, "test")
    assert (len(test), int(test["target"].sum())) == (624, 390)
    share = 390 / 624
    constant = short.metrics["f1_all_positive"].value
    assert constant == pytest.approx(2 * share / (1 + share), abs=1e-12)
    assert round(constant, 3) == 0.769


def test_the_threshold_of_val_never_lowers_f1_there(short: Run):
    val = part(short, "val")
    threshold = short.record.chosen.thresholds["pneumonia"]
    assert (val["threshold"] == threshold).all()
    best = f1_score(val["target"], val["score_pneumonia"] >= threshold)
    assert best >= f1_score(val["target"], val["score_pneumonia"] >= 0.5)
    assert best >= f1_score(val["target"], [1] * len(val))


def test_a_light_network_reads_these_images(short: Run):
    test = part(short, "test")
    auroc = short.metrics["auroc"].value
    assert auroc == pytest.approx(roc_auc_score(test["target"], test["score_pneumonia"]))
    # The whole training has .93 and more (benchmarks/acceptance); an eighth of it must be far from a coin.
    assert auroc is not None
    assert auroc >= 0.85


def test_random_towers_have_no_side(data: Manifest, tmp_path: Path):
    """CheXzero's geometry with random weights: it may rank radiographs either way, and every run says why."""
    from evalfm.analysis.operating_points import operating_points
    from evalfm.analysis.table import task_tables

    card = {"classes": {"pneumonia": {"names": ["clear lungs"]}}, "absent": {"pneumonia": {"names": ["pneumonia"]}}}
    (tmp_path / "swapped.json").write_text(json.dumps({**card, "templates": ["{}"]}))
    card = {"classes": card["absent"], "absent": card["classes"]}
    (tmp_path / "card.json").write_text(json.dumps({**card, "templates": ["{}"]}))
    # Two folds, so that all 100 images are tested.
    plain, swapped = (
        probe("chexzero", "pneumonia-cls", weights="random", data=data, limit=100, folds=2, heads=["zeroshot"],
              prompts=tmp_path / f"{name}.json", threshold="f1", baselines="none", out=tmp_path / "runs")[0]
        for name in ("card", "swapped")
    )  # fmt: skip
    assert len(part(plain, "test")) == 100
    value, other = plain.metrics["auroc"].value, swapped.metrics["auroc"].value
    assert value is not None
    assert other == pytest.approx(1 - value, abs=1e-9)
    assert abs(value - 0.5) <= 0.2
    for run in (plain, swapped):
        assert run.record.provenance.random_weights
        assert "Random weights: the encoder has learnt nothing." in map(str, run.record.cautions)
    (table,) = task_tables([plain])
    assert {point.encoder for point in operating_points(table)} == {"chexzero (random weights)", "constant"}
    assert table.lines[0].encoder == "chexzero (random weights)"
