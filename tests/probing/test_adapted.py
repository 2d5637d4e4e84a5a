"""Runs of trained encoders: what they hold, how they are found again, and that frozen means frozen."""

from __future__ import annotations

import json
import os
import socket

import numpy as np
import pytest
import torch

from evalfm.analysis.table import task_tables
from evalfm.data.work_folders import WRITING, machine
from evalfm.encoders import load_encoder
from evalfm.encoders.weights import tensor_digest
from evalfm.errors import EvalfmError
from evalfm.heads.segmentation.light import LinearDenseHead, MultiscaleHead
from evalfm.heads.trained import Schedule
from evalfm.probing.predict import predict
from evalfm.probing.probe import probe
from evalfm.run import ENCODER, Run

from ..shortened import in_full

TINY = "random:test_vit"
QUICK = {"epochs": 2, "least_steps": 4}


def adapted(squares, out, adaptation, task="square", head="linear", **options):
    options = {"recipe": QUICK, "baselines": "none", "input_size": 32, **options}
    return probe(
        options.pop("encoder", TINY), task, data=squares, heads=[head], adaptation=adaptation, out=out, **options
    )


@pytest.fixture
def brief(monkeypatch):
    """Trainings of dense heads: a few steps change an encoder, or not, as many would."""
    for kind in (LinearDenseHead, MultiscaleHead):
        monkeypatch.setattr(kind, "default_schedule", Schedule(epochs=3, least_steps=9))


@pytest.mark.usefixtures("brief")
def test_frozen_means_bit_identical_weights_and_buffers(squares, square_seg, tmp_path):
    encoder = load_encoder("random:test_resnet", input_size=32)
    before = tensor_digest(encoder.state_dict())
    for task, heads in ((square_seg, ["linear", "multiscale"]), ("square", ["linear", "knn"])):
        (run, *_) = probe(encoder, task, data=squares, heads=heads, baselines="none", out=tmp_path / "runs")
        assert run.adaptation == "frozen"
        assert not (run.folder / ENCODER).exists()
        assert run.encoder_tensors() == {}
    assert tensor_digest(encoder.state_dict()) == before


@pytest.mark.usefixtures("brief")
def test_a_dense_head_on_the_fly_equals_one_on_stored_maps(squares, square_seg, tmp_path, home):
    found = {}
    for maps in ("stream", "store"):
        (run,) = adapted(squares, tmp_path / maps, None, square_seg, recipe=None, maps=maps, encoder="random:resnet18")
        found[maps] = run.predictions()
    for column in ("dice_square", "score_square"):
        first, second = (found[maps][column].to_numpy(float) for maps in ("stream", "store"))
        np.testing.assert_allclose(first, second, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize(
    ("adaptation", "task", "head", "folds"),
    [
        ("lora", "square", "linear", None),
        ("lora", "square", "linear", 2),
        ("full", "masks", "multiscale", None),
        ("scratch", "size", "ridge", None),
    ],
)
def test_predict_repeats_the_run(squares, square_seg, tmp_path, adaptation, task, head, folds):
    task = square_seg if task == "masks" else task
    (run,) = adapted(squares, tmp_path / "runs", adaptation, task, head, folds=folds)
    again = predict(run, squares, out=tmp_path / "predicted").table.set_index("id")
    own = run.predictions()
    own = own[own["split"] == "test"].set_index("id")
    column = next(name for name in ("score_square", "prediction") if name in again)
    if folds:
        # Each image was tested by one head; predict gives the mean of both.
        assert again[column].between(0, 1).all()
        assert again[column].std() > 0
    else:
        np.testing.assert_allclose(again.loc[own.index, column], own[column], atol=2e-6)


def test_what_a_trained_run_holds(squares, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "a-private-machine")
    with in_full():
        (run,) = adapted(squares, tmp_path / "runs", "full")
    assert run.folder.name.startswith("linear-full-")
    record = run.record
    assert record.config.adaptation == "full"
    assert record.config.recipe["epochs"] == 2
    assert record.config.recipe["layer_decay"] == 0.75
    curve = record.chosen.curve
    assert [line["epoch"] for line in curve] == [0, 1, 2]
    assert curve[0]["train_loss"] is None
    assert (run.folder / "figures" / "learning_curve.png").stat().st_size > 5000
    (events,) = (run.folder / "tensorboard").iterdir()
    assert events.name == "events.out.tfevents.0.evalfm"
    everything = b"".join(path.read_bytes() for path in run.folder.rglob("*") if path.is_file())
    assert b"a-private-machine" not in everything
    assert not [path for path in run.folder.rglob("*") if "a-private-machine" in path.name]
    assert str(tmp_path).encode() not in everything
    assert not list((tmp_path / "runs" / ".work").glob("*"))


@pytest.mark.skipif(os.name != "posix", reason="asks for the process by a signal")
def test_what_a_training_left_that_was_killed_after_it_had_published_goes(squares, tmp_path):
    (run,) = adapted(squares, tmp_path / "runs", "lora")
    dead = f"{WRITING}{machine()}-999999999-{'0' * 32}"
    own, other = (tmp_path / "runs" / ".work" / f"training-{key}-0{dead}" for key in (run.record.key[:16], "f" * 16))
    for place in (own, other):
        place.mkdir(parents=True)
        (place / "checkpoint.pt").write_bytes(b"half")
    (again,) = adapted(squares, tmp_path / "runs", "lora")
    assert again.folder == run.folder
    assert not own.exists()
    # Another training may still be taken up.
    assert other.exists()


def test_from_random_weights_a_baseline_is_told_from_a_baseline(squares, tmp_path):
    (full,) = adapted(squares, tmp_path / "runs", "full")
    (scratch,) = adapted(squares, tmp_path / "runs", "scratch")
    (lora,) = adapted(squares, tmp_path / "runs", "lora")
    for run in (full, scratch):
        assert not run.record.provenance.random_weights
        assert run.record.provenance.weights_digest is None
        assert any("supervised baseline" in str(each) for each in run.record.cautions)
        assert run.record.encoder.pretraining_data == []
    assert lora.record.provenance.random_weights
    assert any("learnt nothing" in str(each) for each in lora.record.cautions)


def test_scratch_forgets_what_the_card_was_trained_on(squares, tmp_path):
    (run,) = adapted(squares, tmp_path / "runs", "scratch", encoder="resnet18", recipe={"epochs": 1, "least_steps": 1})
    assert run.encoder == "resnet18"
    assert run.record.encoder.pretraining_data == []
    assert not any("ImageNet" in str(each) for each in run.record.cautions)


def test_seeds_draw_other_weights_and_stand_in_one_line(squares, tmp_path):
    runs = adapted(squares, tmp_path / "runs", "scratch", seeds=2)
    assert len({run.folder for run in runs}) == 2
    first, second = (run.encoder_tensors() for run in runs)
    name = next(name for name in first if name.endswith("qkv.weight"))
    assert not torch.equal(first[name], second[name])
    ((line,),) = [table.lines for table in task_tables(runs)]
    assert line.adaptation == "scratch"
    assert len(line.runs) == 2
    frozen = adapted(squares, tmp_path / "runs", None, recipe=None)
    (table,) = task_tables([*runs, *frozen])
    assert [line.adaptation for line in table.lines].count("frozen") == 1
    assert len(table.lines) == 2


def test_a_finished_run_is_returned_and_another_recipe_is_another_run(squares, tmp_path):
    (first,) = adapted(squares, tmp_path / "runs", "lora")
    (again,) = adapted(squares, tmp_path / "runs", "lora")
    (other,) = adapted(squares, tmp_path / "runs", "lora", recipe={**QUICK, "rank": 2})
    assert first.folder == again.folder != other.folder
    assert first.record.key != other.record.key


def test_few_labels_go_with_training(squares, tmp_path):
    (run,) = adapted(squares, tmp_path / "runs", "lora", shots=4)
    assert run.record.data.splits.train.images == 8


def test_without_heads_the_trainable_ones_of_the_task_run(squares, tmp_path):
    runs = probe(
        TINY,
        "square",
        data=squares,
        adaptation="lora",
        recipe=QUICK,
        baselines="none",
        input_size=32,
        out=tmp_path / "runs",
    )
    assert [run.head for run in runs] == ["linear"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adaptation": "lora", "head": "knn"}, "not trained by gradient"),
        ({"adaptation": "scratch", "weights": "some.pt"}, "leave --weights out"),
        ({"adaptation": None}, "would do nothing"),
        ({"adaptation": "full", "encoder": "metadata", "input_size": None}, "only an encoder of images"),
        ({"adaptation": "full", "encoder": "pixels", "input_size": None}, "no weights"),
    ],
)
def test_what_is_refused(squares, tmp_path, options, message):
    with pytest.raises(EvalfmError, match=message):
        adapted(squares, tmp_path / "runs", **{"adaptation": "full", **options})
    assert not list(tmp_path.rglob("run.json"))


def test_a_run_without_its_encoder_says_so(squares, tmp_path):
    (run,) = adapted(squares, tmp_path / "runs", "lora")
    (run.folder / ENCODER).unlink()
    with pytest.raises(EvalfmError, match=r"encoder\.safetensors"):
        predict(Run.read(run.folder), squares, out=tmp_path / "predicted")
    assert json.loads((run.folder / "run.json").read_text())["config"]["adaptation"] == "lora"
