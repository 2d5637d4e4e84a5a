"""A pooling and layers through whole probes: what is measured, kept, shown, applied again, and never mixed up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from evalfm.analysis.choose import choose
from evalfm.analysis.compare import compare
from evalfm.analysis.table import task_tables
from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.encoders import load_encoder
from evalfm.errors import EvalfmError
from evalfm.probing.embedding import embed
from evalfm.probing.feature_quality import feature_quality
from evalfm.probing.predict import predict
from evalfm.probing.probe import probe
from evalfm.run import Run

from ..squares import make_squares

NETWORK = "random:test_vit"
"""timm's smallest transformer: six blocks of 64 channels, one class token."""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_squares(tmp_path_factory.mktemp("films"), patients=24)


def measured(films: Manifest, out: Path, *, encoder: str = NETWORK, heads: Any = "linear", **options: Any) -> Run:
    options = {"baselines": "none", "refits": 0, "devices": "cpu", "input_size": 32} | options
    (run,) = probe(encoder, "square", data=films, heads=heads, out=out, **options)
    return run


def scores(run: Run) -> list[float]:
    return run.predictions().sort_values("id")["score_square"].tolist()


def test_a_default_that_is_named_is_the_same_run(films: Manifest, tmp_path: Path) -> None:
    plain = measured(films, tmp_path)
    card = load_encoder(NETWORK, input_size=32).card
    layers = ",".join(map(str, card.map_layers))
    for said in ({"pooling": card.pooling}, {"layers": layers}, {"pooling": card.pooling, "layers": layers}):
        assert measured(films, tmp_path, **said).folder == plain.folder
    assert measured(films, tmp_path, encoder=f"{NETWORK}@{card.pooling}").folder == plain.folder
    assert len(list(tmp_path.rglob("run.json"))) == 1


def test_another_choice_is_another_run_with_its_own_features_and_says_so(films: Manifest, tmp_path: Path) -> None:
    # One feature store serves all of them.
    choices = [{}, {"pooling": "mean"}, {"pooling": "cls-mean"}, {"pooling": "mean", "layers": "2"}, {"layers": "1,2"}]
    runs = [measured(films, tmp_path, **choice) for choice in choices]
    names = [run.encoder for run in runs]
    assert names == [
        NETWORK,
        f"{NETWORK}@mean",
        f"{NETWORK}@cls-mean",
        f"{NETWORK}@mean@layers-2",
        f"{NETWORK}@layers-1-2",
    ]
    assert len({run.folder.parent.parent.name for run in runs}) == len({run.record.key for run in runs}) == 5
    assert len({run.record.provenance.feature_key for run in runs}) == 5
    # The head is the last pooling of the network wherever maps are taken, so its scores alone are those of the first.
    for run, other in zip(runs[1:4], runs[:3], strict=True):
        assert not np.allclose(scores(run), scores(other), atol=1e-6)
    assert scores(runs[4]) == scores(runs[0])
    sizes = [run.record.encoder.dimensions for run in runs]
    assert sizes == [64, 64, 128, 64, 64]
    written = [json.loads((run.folder / "run.json").read_text()) for run in runs]
    said = [(each["config"]["encoder"]["pooling"], each["config"]["encoder"]["layers"]) for each in written]
    assert said[1][0] == "mean"
    assert said[3] == ("mean", "2")
    assert said[4] == (said[0][0], "1,2")
    assert [each["encoder"]["pooled_layer"] for each in written] == [None, None, None, 2, None]
    assert [each["encoder"]["map_layers"] for each in written][3:] == [[2], [1, 2]]
    # Separate lines wherever runs stand beside each other.
    (table,) = task_tables(runs)
    assert sorted(line.encoder for line in table.lines) == sorted(f"{name} (32 px)" for name in names)
    shown = json.loads(CliRunner().invoke(app, ["ls", "runs", str(tmp_path), "--json"]).stdout)
    assert all(f'"{name} (32 px)"' in json.dumps(shown) for name in names)


def test_two_choices_are_two_lines_of_a_comparison_and_of_a_choice(films: Manifest, tmp_path: Path) -> None:
    named = [f"{NETWORK}@mean@layers-2", f"{NETWORK}@cls-mean"]
    runs = [measured(films, tmp_path, encoder=name, folds=2) for name in named]
    (compared,) = compare(runs)
    assert sorted(entry.encoder for entry in compared.entries) == sorted(f"{name} (32 px)" for name in named)
    chosen = choose(runs, "square").to_json()
    assert all(name in json.dumps(chosen) for name in named)


def test_a_run_is_applied_with_the_choice_that_it_was_made_with(films: Manifest, tmp_path: Path) -> None:
    run = measured(films, tmp_path / "runs", pooling="cls-mean", layers="3")
    predicted = predict(run.folder, films, out=tmp_path / "again", device="cpu").table
    test = run.predictions().query("split == 'test'").set_index("id")["score_square"]
    again = predicted.set_index("id")["score_square"].loc[test.index]
    assert np.allclose(again, test, atol=1e-6)


def test_attentive_pooling_is_the_run_of_the_attentive_head(films: Manifest, tmp_path: Path) -> None:
    options: dict[str, Any] = {"layers": "2", "heads": None}
    pooled = measured(films, tmp_path, **options, pooling="attentive")
    head = measured(films, tmp_path, **options | {"heads": "attentive"})
    assert pooled.head == "attentive"
    assert pooled.folder == head.folder


def test_embeddings_hold_the_choice_and_its_maps(films: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "features.safetensors"
    options: dict[str, Any] = {"maps": True, "input_size": 32, "devices": "cpu"}
    (made,) = embed(NETWORK, films, out=out, pooling="cls-mean", layers="1,4", **options)
    arrays = load_file(out)
    assert made.encoder == f"{NETWORK}@cls-mean@layers-1-4"
    assert made.dim == arrays["pooled"].shape[1] == 128
    encoder = load_encoder(NETWORK, input_size=32, pooling="cls-mean", layers=[1, 4])
    batch = torch.stack([encoder.prepare(films.image(row))[0] for row in range(3)])
    theirs = encoder.encode(batch)
    assert torch.allclose(arrays["pooled"][:3].float(), theirs.pooled, atol=1e-5)
    assert [name for name in sorted(arrays) if name.startswith("map_")] == ["map_0", "map_1"]
    assert torch.allclose(arrays["map_1"][:3].float(), theirs.maps[1], atol=2e-2)
    with pytest.raises(EvalfmError, match="holds other embeddings"):
        embed(NETWORK, films, out=out, pooling="mean", layers="1,4", **options)


@pytest.mark.parametrize("adaptation", ["lora", "full", "scratch"])
def test_an_encoder_is_trained_through_its_choice(films: Manifest, tmp_path: Path, adaptation: str) -> None:
    recipe = {"epochs": 1, "least_steps": 1, "probe_start": False}
    options: dict[str, Any] = {"adaptation": adaptation, "recipe": recipe, "layers": "2"}
    run = measured(films, tmp_path, pooling="cls-mean", **options)
    assert run.encoder == f"{NETWORK}@cls-mean@layers-2"
    assert run.record.encoder.dimensions == 128
    predicted = predict(run.folder, films, out=tmp_path / "again", device="cpu").table.set_index("id")["score_square"]
    test = run.predictions().query("split == 'test'").set_index("id")["score_square"]
    assert np.allclose(predicted.loc[test.index], test, atol=1e-5)


def test_baselines_have_no_part_in_the_choice(films: Manifest, tmp_path: Path) -> None:
    runs = probe(
        NETWORK, "square", data=films, heads="linear", out=tmp_path, pooling="mean", layers="2", input_size=32, refits=0
    )
    assert [run.encoder for run in runs if run.is_baseline] == ["constant", "metadata", "pixels"]


def test_likeness_without_labels_is_of_the_choice(films: Manifest) -> None:
    options: dict[str, Any] = {"images": 20, "input_size": 32, "devices": "cpu"}
    found = feature_quality([NETWORK, "random:test_vit2"], films, pooling="cls-mean", layers="2", **options)
    said = [(each["encoder"], each["dimensions"]) for each in found["encoders"]]
    assert said == [(f"{NETWORK}@cls-mean@layers-2", 128), ("random:test_vit2@cls-mean@layers-2", 128)]


def test_precomputed_features_refuse_it(films: Manifest, tmp_path: Path) -> None:
    with pytest.raises(EvalfmError, match=r"is a table of features, whose pooling was chosen; leave --pooling out\."):
        measured(films, tmp_path, encoder="constant", pooling="mean", input_size=None)
