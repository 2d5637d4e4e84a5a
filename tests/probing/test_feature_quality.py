from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evalfm.analysis.report.section import quality_tables, read_features
from evalfm.cli.app import app
from evalfm.config import EncoderConfig
from evalfm.data.manifest import Manifest
from evalfm.data.phantom import make_phantom
from evalfm.errors import EvalfmError
from evalfm.probing.feature_quality import feature_quality
from evalfm.probing.session import open_session
from evalfm.progress import SILENT
from evalfm.statistics.representation import rank_me


def test_the_figures_are_of_the_encoders_own_features(squares: Manifest, tmp_path: Path) -> None:
    found = feature_quality(["hog", "pixels"], squares, out=tmp_path)
    assert found == json.loads((tmp_path / "features.json").read_text())
    assert [each["encoder"] for each in found["encoders"]] == ["hog", "pixels"]
    assert found["images"] == len(squares)
    session = open_session("hog", EncoderConfig(), squares, None, SILENT, frozenset())
    pooled = session.source.features(range(len(squares))).pooled.numpy()
    assert found["encoders"][0]["rank_me"]["value"] == pytest.approx(rank_me(pooled))
    assert found["encoders"][0]["dimensions"] == pooled.shape[1]
    (pair,) = found["pairs"]
    assert pair["cka"]["low"] <= pair["cka"]["value"] <= pair["cka"]["high"]
    assert found["by_chance"] == pytest.approx(10 / (len(squares) - 1))


def test_whole_patients_are_drawn_and_always_the_same(squares: Manifest) -> None:
    few = feature_quality(["pixels"], squares, images=30)
    assert few["images"] <= 30
    assert feature_quality(["pixels"], squares, images=30) == few
    assert feature_quality(["pixels"], squares, images=30, seed=1) != few


def test_rows_that_are_not_asked_for_are_left_out(squares: Manifest) -> None:
    women = squares.where("sex == 'F'")
    few = feature_quality(["pixels"], squares, where="sex == 'F'")
    assert few["images"] == int(women.sum()) < len(squares)
    assert few == feature_quality(["pixels"], squares.select(women))


def test_random_weights_and_synthetic_data_are_said(tmp_path: Path) -> None:
    data = make_phantom(tmp_path / "phantom", n=24, size=64)
    found = feature_quality(["random:resnet18"], data, images=20)
    cautions = quality_tables(0, found).cautions
    assert cautions[0].startswith("Synthetic data")
    assert cautions[1] == "Random weights: random:resnet18 has learnt nothing."


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [({"encoders": []}, "at least one encoder"), ({"encoders": ["hog"], "images": 5}, "must be 20 at least")],
)
def test_wrong_calls_are_one_sentence(squares: Manifest, asked: dict[str, object], sentence: str) -> None:
    with pytest.raises(EvalfmError, match=sentence):
        feature_quality(data=squares, **asked)  # type: ignore[arg-type]


def test_the_verb_writes_what_the_report_shows(squares: Manifest, tmp_path: Path) -> None:
    arguments = ["--data", str(squares.folder), "--out", str(tmp_path)]
    told = CliRunner().invoke(app, ["embed", "--similarity", "--encoder", "hog", "--encoder", "pixels", *arguments])
    assert told.exit_code == 0, told.output
    assert "shared neighbours" in told.output
    section = quality_tables(0, read_features(tmp_path / "features.json"))
    assert [heading for heading, _ in section.tables] == ["Effective rank", "How alike two encoders see"]
    (tmp_path / "features.json").write_text('{"schema": 1}')
    with pytest.raises(EvalfmError, match=r"no features\.json of schema 1"):
        read_features(tmp_path / "features.json")


def test_rows_stand_in_the_order_of_the_manifest(squares: Manifest) -> None:
    one = feature_quality(["hog", "hog", "pixels"], squares)
    assert len(one["encoders"]) == 2
    assert np.isfinite(one["pairs"][0]["cka_plain"])
