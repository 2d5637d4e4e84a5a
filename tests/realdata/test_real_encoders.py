"""Really trained encoders on real radiographs: the library's own features, and a yardstick in short."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image as Pil
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from evalfm.analysis.baselines import against_baselines
from evalfm.analysis.table import task_tables
from evalfm.data.images import read_image
from evalfm.data.importing import import_data
from evalfm.encoders import load_encoder
from evalfm.encoders.beside_library import beside_library
from evalfm.probing.probe import probe

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
RADIOGRAPHS = SHARED / "nih-cxr14-starter"

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")


@pytest.fixture(scope="module")
def acceptance() -> ModuleType:
    """The long run, whose files and figures this short one shares."""
    specification = importlib.util.spec_from_file_location(
        "real_encoders", ROOT / "benchmarks" / "acceptance" / "real_encoders.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_dinov2_gives_transformers_own_features_of_real_radiographs(acceptance: ModuleType) -> None:
    weights = SHARED / "weights" / acceptance.FILES["dinov2-small"]
    encoder = load_encoder("dinov2-small", weights=weights)
    model = Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)).eval()
    with np.load(weights) as archive:
        model.load_state_dict({name: torch.from_numpy(archive[name]).float() for name in archive.files})
    processor = BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    )
    paths = sorted((RADIOGRAPHS / "images").glob("*.png"))[:4]
    given = processor([Pil.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]
    prepared = torch.stack([encoder.prepare(read_image(path.name, path.parent))[0] for path in paths])
    # The processor rounds to 256 levels; .02 is one level over the statistics' deviation.
    assert float((prepared - given).abs().max()) < 0.04
    with torch.no_grad():
        expected = model(pixel_values=given).pooler_output
        same_pixels = encoder.encode(given).pooled
    assert torch.allclose(same_pixels, expected, atol=1e-4)
    assert float(torch.cosine_similarity(encoder.encode(prepared).pooled, expected).min()) > 0.999
    # The file is not the one of the hub, and the run says so.
    assert any(each.code == "other-weights" for each in encoder.cautions)
    found = beside_library(encoder)
    assert found.same
    assert [each.part for each in found.parts] == ["embedding", *(f"map {number}" for number in range(1, 6))]


@pytest.mark.parametrize("task", ["sex", "view"])
def test_efficientnet_reaches_its_yardstick(
    acceptance: ModuleType, task: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    build = tmp_path_factory.mktemp("build")
    nih = import_data("nih-cxr14", RADIOGRAPHS, build / "nih")
    weights = SHARED / "weights" / acceptance.FILES["efficientnet-lite0"]
    found = acceptance.auroc("efficientnet-lite0", task, weights, nih, build / "runs")
    yardstick = dict(zip(acceptance.TASKS, acceptance.YARDSTICKS["efficientnet-lite0"], strict=True))[task]
    # The long run holds .01; folds of other patients move these two by as much again.
    assert found.value == pytest.approx(yardstick, abs=0.02)
    assert found.low < found.value < found.high


def test_what_age_and_sex_tell_of_pneumothorax_is_not_beaten_and_refits_are_counted(
    acceptance: ModuleType, tmp_path: Path
) -> None:
    nih = import_data("nih-cxr14", RADIOGRAPHS, tmp_path / "nih")
    runs = probe(
        "efficientnet-lite0",
        "ptx-cls",
        weights=SHARED / "weights" / acceptance.FILES["efficientnet-lite0"],
        data=nih,
        folds=5,
        heads=["linear"],
        out=tmp_path / "runs",
    )
    (table,) = task_tables(runs)
    (found,) = against_baselines(table)
    assert not found.beats_all
    assert found.baseline == "metadata"
    assert found.gain.value < 0
    assert found.gain.speaks_of == "encoders"
    assert found.gain.training_error is not None
    assert found.gain.test_error is not None
    # Forty-four cases: another training sample would move the difference nearly as much as other test patients.
    assert 0.3 < found.gain.training_error / found.gain.test_error < 1.5
    # Of a network that ends in a rectifier some features are 0 in all that a draw takes.
    for run in runs:
        for again in run.refits().values():
            assert np.isfinite(again["score_pneumothorax"]).all()
