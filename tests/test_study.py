"""A grid of probes: what ships is valid, and a study runs every encoder on every task with its floors once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import save_file

import evalfm
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.encoders import load_encoder
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.probing.probe import probe
from evalfm.study import Study, configs, load_study, run_study


def films(folder: Path, number: int = 60) -> Path:
    generator = np.random.default_rng(0)
    folder.mkdir()
    for film in range(number):
        pixels = generator.normal(100 + 60 * (film % 2), 20, (32, 32)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{film}.png")
    ids = [f"f{film}" for film in range(number)]
    table = pd.DataFrame(
        {
            "id": ids,
            "patient": ids,
            "image": [f"{film}.png" for film in range(number)],
            "split": (["train"] * 5 + ["val"] * 2 + ["test"] * 3) * (number // 10),
            "bright": [film % 2 for film in range(number)],
        }
    )
    info = DatasetInfo(name="bright", public_ids=True, label_source={"bright": "made"})
    Manifest(info, table, folder).write(folder)
    return folder


@pytest.mark.parametrize("name", configs())
def test_studies_that_ship_are_valid(name: str):
    assert load_study(name).name == name


def test_an_unknown_study_or_key_is_refused(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="demo"):
        load_study("demmo")
    path = tmp_path / "mine.yaml"
    path.write_text("schema: 1\nname: mine\ntitle: x\ndata: phantom\nencoders: [hog]\ntask: [ptx-cls]\n")
    with pytest.raises(EvalfmError, match="task"):
        load_study(str(path))


def test_every_encoder_on_every_task_and_each_floor_once(tmp_path: Path):
    data = films(tmp_path / "films")
    study = Study(name="two", title="Two", data=str(data), encoders=("pixels", "hog"), tasks=("bright",))
    runs = run_study(study, tmp_path / "runs")
    names = [(run.encoder, run.head, run.is_floor) for run in runs]
    assert len(names) == len(set(names))
    assert [name for name in names if not name[2]] == [
        ("pixels", "linear", False),
        ("pixels", "knn", False),
        ("hog", "linear", False),
        ("hog", "knn", False),
    ]
    assert [run.folder for run in evalfm.run_study(study, tmp_path / "runs")] == [run.folder for run in runs]


def test_all_floors_hold_the_same_architecture_with_random_weights(tmp_path: Path):
    card = tmp_path / "tiny.yaml"
    text = (Path(evalfm.__file__).parent / "encoders" / "cards" / "squeezenet1-0.caffe.yaml").read_text()
    card.write_text(text.replace("name: squeezenet1-0.caffe", "name: tiny"))
    weights = tmp_path / "weights.safetensors"
    state = load_encoder(str(card), weights="random").state_dict()
    model = {name.removeprefix("model."): value * 1.5 for name, value in state.items()}
    save_file(model, weights)
    runs = probe(
        str(card),
        "bright",
        weights=weights,
        data=films(tmp_path / "films"),
        heads=["linear"],
        floors="all",
        out=tmp_path / "runs",
    )
    learnt = [(run.encoder, run.is_floor, run.record.provenance.random_weights) for run in runs]
    assert learnt[0] == ("tiny", False, False)
    assert learnt[-1] == ("tiny", True, True)
    assert any("Random weights" in note for note in runs[-1].record.notes)
