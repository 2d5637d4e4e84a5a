from __future__ import annotations

import numpy as np
import pytest
import torch

from evalfm.encoders import load_encoder
from evalfm.encoders.weights import tensor_digest
from evalfm.errors import EvalfmError
from evalfm.training.tuning import forget

from .conftest import RESNET, VIT, curve_of, last_tensors


@pytest.mark.parametrize("adaptation", ["lora", "full", "scratch"])
def test_the_encoder_that_was_given_is_left_as_it_is(bench, adaptation):
    bench = bench("masks", encoder_name=RESNET)
    before = tensor_digest(bench.encoder.state_dict())
    generator = torch.get_rng_state()
    tuned, _ = bench.tune(adaptation)
    assert tensor_digest(bench.encoder.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), generator)
    own = {f"encoder.{name}": value for name, value in bench.encoder.state_dict().items()}
    last = last_tensors(bench)
    moved = [name for name, value in last.items() if name not in own or not torch.equal(value, own[name])]
    assert any(name.startswith("encoder.") for name in moved)
    assert not any(module.training for module in tuned.encoder.modules())


def test_lora_changes_no_other_tensor_buffers_included(bench):
    bench = bench("masks", encoder_name="random:resnet18")
    before = {name: value.clone() for name, value in bench.encoder.state_dict().items()}
    tuned, _ = bench.tune("lora", bench.head("linear"), rank=2, epochs=1)
    held = tuned.encoder.state_dict()
    after = {name.replace(".base_layer.", "."): value for name, value in held.items() if "lora_" not in name}
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(name.endswith(("lora_A.weight", "lora_B.weight", "lora_alpha")) for name in tuned.tensors)
    trained = [value for name, value in last_tensors(bench).items() if "lora_B" in name]
    # timm starts the last norm of each residual branch at 0, so only the stem and the shortcuts have a gradient.
    assert sum(bool(value.any()) for value in trained) >= 4


def test_full_moves_every_weight_and_holds_batch_norm_where_asked(bench):
    bench = bench("masks", encoder_name=RESNET)
    for norm in ("held", "batch"):
        bench.tune("full", bench.head("multiscale"), place=norm, batch_norm=norm, epochs=1)
        before = bench.encoder.state_dict()
        after = {name.removeprefix("encoder."): value for name, value in last_tensors(bench, norm).items()}
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        statistics = {name for name in before if "running_" in name}
        assert set(dict(bench.encoder.named_parameters())) <= moved
        assert (statistics <= moved) == (norm == "batch")
        assert (not statistics & moved) == (norm == "held")


@pytest.mark.parametrize(("task", "head"), [("square", "linear"), ("size", "ridge"), ("masks", "multiscale")])
@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_probe_then_tune_starts_at_the_val_score_of_the_probe(bench, task, head, adaptation):
    bench = bench(task)
    probe = bench.head(head)
    fit = probe.fit(bench.examples("train"), bench.examples("val"), bench.context)
    name = next(key for key in fit.path[0] if key.startswith("val_"))
    scores = [line[name] for line in fit.path]
    best = max(scores) if name == "val_dice" else min(scores)
    tuned, _ = bench.tune(adaptation, bench.head(head), epochs=1, least_steps=1)
    first = tuned.fit.curve[0]
    assert first["epoch"] == 0
    assert first[name] == pytest.approx(best, rel=2e-3)
    assert tuned.fit.chosen["probe_" + next(iter(fit.chosen))] == fit.chosen[next(iter(fit.chosen))]


@pytest.mark.parametrize("task", ["square", "masks"])
def test_full_from_random_weights_is_scratch_by_the_same_recipe(bench, task):
    bench = bench(task, encoder_name=RESNET)
    full, one = bench.tune(
        "full",
        bench.head(),
        place="full",
        layer_decay=1.0,
        probe_start=False,
        batch_norm="batch",
        learning_rate=1e-3,
        weight_decay=0.01,
    )
    scratch, other = bench.tune("scratch", bench.head(), place="scratch")
    assert full.fit.curve[1:] == scratch.fit.curve[1:]
    assert all(torch.equal(full.tensors[name], scratch.tensors[name]) for name in scratch.tensors)
    assert all(torch.equal(one.tensors()[name], value) for name, value in other.tensors().items())


def test_a_seed_repeats_bit_for_bit_and_another_differs(bench):
    first, _ = bench("masks").tune("scratch", place="a")
    again, _ = bench("masks").tune("scratch", place="b")
    other, _ = bench("masks", seed=1).tune("scratch", place="c")
    assert first.fit.curve[1:] == again.fit.curve[1:]
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    assert curve_of(first, "val_dice") != curve_of(other, "val_dice")


def test_the_head_predicts_by_the_best_epoch(bench):
    bench = bench("masks")
    tuned, head = bench.tune("scratch", epochs=4, patience=1, learning_rate=3e-2)
    curve = curve_of(tuned, "val_dice")
    assert tuned.fit.chosen["epoch"] == int(np.argmax(curve))
    source = bench.source(tuned.encoder)
    tally = head.objective(bench.examples("val"), bench.context).tally(1)
    layout = head.layout(source, bench.context)
    rows = bench.cohort.rows[bench.split.val].tolist()
    features = source.features(rows, maps=True)
    from evalfm.heads.segmentation.masks import read_target

    targets = torch.stack([read_target(bench.cohort.masks(row), source.geometry(row), layout.grid) for row in rows])
    answers = torch.logit(head.outputs(features.maps, features.pooled).double(), eps=1e-9)
    tally.add(answers[None].float(), targets)
    assert float(tally.score()) == pytest.approx(max(curve), abs=2e-3)


def test_nothing_of_test_is_read(bench, monkeypatch):
    bench = bench("masks")
    read: set[int] = set()
    for name in ("image", "locator"):
        method = getattr(type(bench.manifest), name)

        def watched(self, row, method=method):
            read.add(int(row))
            return method(self, row)

        monkeypatch.setattr(type(bench.manifest), name, watched)
    bench.tune("full", probe_start=False)
    allowed = set(bench.cohort.rows[np.concatenate([bench.split.train, bench.split.val])].tolist())
    assert read == allowed


def test_label_smoothing_is_in_the_loss_and_not_in_the_val_score(bench):
    bench = bench("square")
    options = {"epochs": 1, "least_steps": 1, "learning_rate": 1e-12, "head_learning_rate": 1e-12, "augment": False}
    plain, _ = bench.tune("full", place="a", **options)
    smooth, _ = bench.tune("full", place="b", label_smoothing=0.5, **options)
    assert curve_of(smooth, "val_log_loss") == pytest.approx(curve_of(plain, "val_log_loss"), rel=1e-6)
    assert curve_of(smooth, "train_loss")[1] != pytest.approx(curve_of(plain, "train_loss")[1], rel=1e-3)
    for task in ("size", "masks"):
        other = type(bench)(bench.manifest, bench.folder, task if task == "size" else bench.task)
        if task == "size":
            with pytest.raises(EvalfmError, match="label_smoothing"):
                other.tune("full", other.head("ridge"), label_smoothing=0.1)


def test_drop_path_is_set(bench):
    bench = bench("square", encoder_name=VIT)
    plain, _ = bench.tune("full", place="a", epochs=1)
    dropped, _ = bench.tune("full", place="b", epochs=1, drop_path=0.5)
    assert curve_of(plain, "train_loss")[1] != curve_of(dropped, "train_loss")[1]


def test_what_cannot_be_trained_is_refused(bench):
    bench = bench("square")
    with pytest.raises(EvalfmError, match="not trained by gradient"):
        bench.tune("full", bench.head("knn"))
    with pytest.raises(EvalfmError, match="no weights"):
        bench.tune("full", encoder=load_encoder("pixels"), place="pixels")


def test_checkpoints_go_when_they_are_told_to(bench, tmp_path):
    bench = bench("square")
    bench.tune("lora")
    assert (tmp_path / "work" / "checkpoint.pt").is_file()
    forget(tmp_path / "work")
    assert not (tmp_path / "work").exists()
