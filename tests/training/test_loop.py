"""What the steps do: resume, memory, accumulation, faults, and radiographs with hardly any lesion."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evalfm.errors import EvalfmError
from evalfm.features.readers import ImageReader
from evalfm.heads.objectives import LabelObjective, MaskObjective
from evalfm.training import checkpoint, launch, loop
from evalfm.training.checkpoint import CheckpointWriter, read_state
from evalfm.training.loop import NotFiniteError, StepLog

from .conftest import RESNET, curve_of, last_tensors

add = StepLog.add


class Stopped(Exception):
    """In the place of a kill."""


def test_a_stopped_training_goes_on_as_if_nothing_had_been(bench, monkeypatch):
    bench = bench("masks", encoder_name=RESNET)
    options = {"epochs": 4, "batch_norm": "batch", "drop_path": 0.0, "patience": 9}
    whole, _ = bench.tune("full", place="whole", **options)
    monkeypatch.setattr(checkpoint, "INTERVAL_SECONDS", 0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", math.inf)
    offer = CheckpointWriter.offer

    def stop_after_two(self, state):
        offer(self, state)
        self.wait()
        if state().epoch == 2:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointWriter, "offer", stop_after_two)
        with pytest.raises(Stopped):
            bench.tune("full", place="stopped", **options)
    bench.said.clear()
    resumed, _ = bench.tune("full", place="stopped", **options)
    assert any("going on after epoch 2" in line for line in bench.said)
    assert not any("epoch 1 of" in line for line in bench.said)
    assert resumed.fit.curve[1:] == whole.fit.curve[1:]
    first, second = last_tensors(bench, "whole"), last_tensors(bench, "stopped")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(sys.platform != "linux", reason="the child kills itself with signal 9")
def test_kill_9_anywhere_goes_on_from_the_last_whole_epoch(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("child.py")), str(tmp_path)],
        env=os.environ | {"EVALFM_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # In a step, in a checkpoint, between it and its name, and after it: the epoch that was whole on the disk, and the
    # same weights in the end, bit for bit.
    assert done.stdout.split() == ["9", "2", "equal", "9", "1", "equal", "9", "1", "equal", "9", "2", "equal"]


def test_micro_batches_add_up_to_the_batch(bench, monkeypatch):
    """Without batch norm the gradient of labels is that of the whole batch, whatever fits into memory."""
    bench = bench("square")
    reference = None
    for size, place in ((16, "one"), (5, "four")):
        monkeypatch.setattr(launch, "CPU_MICRO_BATCH", size)
        bench.tune("full", place=place, epochs=1, probe_start=False)
        found = last_tensors(bench, place)
        if reference is None:
            reference = found
    for name, value in reference.items():
        assert torch.allclose(value, found[name], rtol=1e-3, atol=2e-5), name


@pytest.mark.parametrize("encoder", [RESNET, "random:test_vit"])
def test_short_memory_recomputes_then_takes_smaller_micro_batches_and_says_so(bench, monkeypatch, encoder):
    bench = bench("square", encoder_name=encoder)
    loss = LabelObjective.loss
    sizes = []

    def short(self, answers, target, total):
        sizes.append(answers.shape[1])
        if answers.shape[1] > 4:
            raise torch.OutOfMemoryError
        return loss(self, answers, target, total)

    monkeypatch.setattr(LabelObjective, "loss", short)
    tuned, _ = bench.tune("full", epochs=1)
    told = [each.sentence for each in tuned.fit.cautions if each.code == "memory"]
    assert "activation checkpointing" in told[0]
    assert ["of 8" in told[1], "of 4" in told[2]] == [True, True]
    assert all(note in bench.said for note in told)
    assert sizes[:3] == [16, 16, 8]
    assert max(sizes[3:]) == 4
    monkeypatch.setattr(LabelObjective, "loss", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(EvalfmError, match="Not even one image"):
        bench.tune("full", place="none")


def test_a_step_that_does_not_fit_after_others_did_is_no_part_of_the_result(bench, monkeypatch):
    """There is no checkpoint yet: the training starts again from where it started."""
    bench = bench("square")
    options = {"epochs": 2, "least_steps": 6, "probe_start": False}
    whole, _ = bench.tune("full", place="whole", **options)
    loss, calls = LabelObjective.loss, []

    def short(*values):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError
        return loss(*values)

    monkeypatch.setattr(LabelObjective, "loss", short)
    again, _ = bench.tune("full", place="short", **options)
    assert any(each.code == "memory" for each in again.fit.cautions)
    assert curve_of(again, "val_log_loss") == pytest.approx(curve_of(whole, "val_log_loss"), rel=1e-6)
    assert curve_of(again, "train_loss")[1:] == pytest.approx(curve_of(whole, "train_loss")[1:], rel=1e-6)


@pytest.mark.parametrize("bad", [0, 2])
def test_a_loss_that_is_not_finite_names_its_batch_and_nothing_is_kept(bench, monkeypatch, bad):
    """Seen at the end of the epoch only, when the steps after it are not finite either."""
    bench = bench("square")
    loss, steps = LabelObjective.loss, []

    def poisoned(*values):
        steps.append(1)
        return loss(*values) * (float("nan") if len(steps) == 3 * 2 + bad + 1 else 1)

    monkeypatch.setattr(checkpoint, "INTERVAL_SECONDS", 0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", math.inf)
    monkeypatch.setattr(LabelObjective, "loss", poisoned)
    drawn = []
    monkeypatch.setattr(StepLog, "add", lambda self, *step: (drawn.append(step[2]), add(self, *step)))
    with pytest.raises(EvalfmError, match=r"epoch 3: the loss is not finite in the batch of ") as error:
        bench.tune("full", epochs=4, least_steps=12, ema=0.9)
    table, rows = bench.manifest.table, bench.examples("train").rows
    names = ", ".join(str(table["id"].iloc[int(rows[position])]) for position in drawn[6 + bad])
    assert f"in the batch of {names};" in str(error.value)
    assert len(steps) == 9
    state = read_state(bench.folder / "work")
    assert state is not None
    assert state.epoch == 2
    for tensors in (state.tensors, state.average, state.best_tensors):
        assert tensors
        assert all(torch.isfinite(value).all() for value in tensors.values())


class Waits(TorchDispatchMode):
    """Notes what would wait for a GPU: values that are brought to Python, and shapes that depend on values."""

    KINDS = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.equal.default,
    )

    def __init__(self) -> None:
        super().__init__()
        self.watching, self.seen = False, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        # AdamW counts its steps on the CPU.
        if self.watching and function in self.KINDS:
            places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()]
            if not any("torch/optim" in place for place in places):
                self.seen.append([place for place in places if "evalfm/" in place][-1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("task", ["masks", "square", "size"])
def test_no_step_waits_for_the_device(bench, monkeypatch, task):
    """From the first step of an epoch to the look at its losses, augmentation and all."""
    bench, waits, looked = bench(task), Waits(), []
    check = StepLog.check

    def watched_add(self, *step):
        add(self, *step)
        waits.watching = True

    def watched_check(self):
        looked.append(len(waits.seen))
        check(self)
        looked.append(len(waits.seen))
        waits.watching = False

    monkeypatch.setattr(StepLog, "add", watched_add)
    monkeypatch.setattr(StepLog, "check", watched_check)
    head = bench.head("ridge" if task == "size" else "linear")
    with waits:
        bench.tune("full", head, epochs=2, least_steps=6, probe_start=False)
    assert waits.seen[: looked[0]] == []
    assert len(looked) == 4


def test_long_epochs_are_looked_at_before_their_end(bench, monkeypatch):
    bench = bench("square")
    loss, steps = LabelObjective.loss, []

    def poisoned(*values):
        steps.append(1)
        return loss(*values) * float("nan")

    monkeypatch.setattr("evalfm.training.loop.CHECK_STEPS", 2)
    monkeypatch.setattr(LabelObjective, "loss", poisoned)
    with pytest.raises(EvalfmError, match=r"epoch 1: the loss is not finite in the batch of s\d+-\d, s\d+-\d"):
        bench.tune("full", epochs=1, least_steps=9)
    assert len(steps) == 2
    assert read_state(bench.folder / "work") is None


def test_a_gradient_that_is_not_finite_stops_before_it_is_kept(bench, monkeypatch):
    bench = bench("square")
    loss = LabelObjective.loss

    def poisoned(self, answers, target, total):
        return loss(self, answers, target, total) + (answers * 0).sqrt().sum() * 0

    monkeypatch.setattr(LabelObjective, "loss", poisoned)
    with pytest.raises(EvalfmError, match="the gradient is not finite"):
        bench.tune("full")
    assert read_state(bench.folder / "work") is None


def test_hardly_any_lesion_gives_no_nan_and_no_empty_answer(bench, monkeypatch):
    """Every radiograph but one of train and one of val is empty: most batches could be."""
    bench = bench("masks")
    masks = type(bench.cohort).masks
    lesions = [
        next(int(row) for row in bench.cohort.rows[part] if masks(bench.cohort, int(row)).any())
        for part in (bench.split.train, bench.split.val)
    ]

    def rare(self, row):
        found = masks(self, row)
        return found if row in lesions else found & False

    monkeypatch.setattr(type(bench.cohort), "masks", rare)
    tuned, _ = bench.tune("scratch", bench.head("multiscale"), positive_share=0.0)
    assert all(torch.isfinite(value).all() for value in tuned.tensors.values())
    assert all(line["val_dice"] > 0 for line in tuned.fit.curve)


def test_one_percent_of_foreground_is_found(bench, monkeypatch):
    bench = bench("masks", encoder_name=RESNET)
    tuned, _ = bench.tune("scratch", bench.head("multiscale"), epochs=8, least_steps=80, patience=9)
    assert max(curve_of(tuned, "val_dice")) > 0.5


def test_a_batch_without_a_known_label_gives_no_gradient_and_no_nan():
    objective = LabelObjective(("a", "b"))
    answers = torch.zeros(1, 3, 2, requires_grad=True)
    loss = objective.loss(answers, torch.full((3, 2), torch.nan))
    torch.autograd.backward(loss.sum())
    assert loss.item() == 0
    assert not answers.grad.any()
    half = torch.tensor([[1.0, torch.nan], [0.0, torch.nan], [1.0, torch.nan]])
    assert objective.loss(torch.zeros(1, 3, 2), half).item() == pytest.approx(0.5 * torch.log(torch.tensor(2.0)).item())


def test_an_all_empty_batch_has_a_finite_loss_and_gradient():
    objective = MaskObjective(("lesion",))
    answers = torch.zeros(1, 4, 1, 8, 8, requires_grad=True)
    loss = objective.loss(answers, torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    torch.autograd.backward(loss.sum())
    assert torch.isfinite(loss).all()
    assert torch.isfinite(answers.grad).all()


def test_the_second_epoch_decodes_nothing(bench, monkeypatch):
    bench = bench("masks")
    readers, decoded, masks_read = [], [], []

    class Watched(ImageReader):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            readers.append(self)

    masks = type(bench.cohort).masks
    monkeypatch.setattr(
        type(bench.cohort), "masks", lambda self, row: (masks_read.append(int(row)), masks(self, row))[1]
    )
    monkeypatch.setattr(loop, "ImageReader", Watched)
    monkeypatch.setattr(bench, "say", lambda message: decoded.append((readers[-1].decoded, len(masks_read))))
    bench.tune("full", epochs=3, least_steps=9, patience=9, probe_start=False)
    train, val = len(bench.split.train), len(bench.split.val)
    # A line for the start, which looks at val, and one for each epoch; masks are read once to start the head and once.
    images, masks_of = zip(*decoded, strict=True)
    assert images == (val, train + val, train + val, train + val)
    assert set(masks_of) == {2 * train + val}


def test_a_radiograph_that_cannot_be_read_stops_with_its_row(bench, monkeypatch):
    bench = bench("square")
    row = int(bench.cohort.rows[bench.split.train[3]])
    locator = type(bench.manifest).locator
    bench.tune("lora", epochs=1)
    monkeypatch.setattr(
        type(bench.manifest), "locator", lambda self, each: "gone.png" if each == row else locator(self, each)
    )
    with pytest.raises(EvalfmError, match=rf"Row {row + 1} of the manifest"):
        bench.tune("full", place="again", probe_start=False)


def test_losses_come_in_order_and_are_those_of_all_processes(monkeypatch):
    monkeypatch.setattr(loop, "CHECK_STEPS", 3)
    means: list[list[float]] = []

    def mean(losses: Tensor) -> Tensor:
        means.append(losses.tolist())
        return losses / 2

    log = StepLog(mean)
    for step in range(7):
        log.add(torch.tensor(float(step)), torch.tensor(1.0), [step])
    assert means == [[0, 1, 2], [3, 4, 5]]
    log.check()
    log.check()
    assert means[2:] == [[6]]
    assert log.losses == [step / 2 for step in range(7)]


@pytest.mark.parametrize(
    ("losses", "norms", "what", "batch"),
    [
        ([1, math.nan, math.inf], [1, math.nan, math.nan], "the loss", [1]),
        ([1, 1, math.nan], [1, math.inf, math.nan], "the gradient", [1]),
        ([1, 1, -math.inf], [1, 1, 1], "the loss", [2]),
    ],
)
def test_the_first_step_that_is_not_finite_is_named(losses, norms, what, batch):
    log = StepLog()
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        log.add(torch.tensor(float(loss)), torch.tensor(float(norm)), [step])
    with pytest.raises(NotFiniteError) as error:
        log.check()
    assert (error.value.what, error.value.batch) == (what, batch)


def test_a_step_that_loss_scaling_left_out_has_no_norm_but_a_loss():
    log = StepLog()
    log.add(torch.tensor(1.0), None, [0])
    log.check()
    assert log.losses == [1]
    log.add(torch.tensor(math.nan), None, [1])
    with pytest.raises(NotFiniteError, match="the loss"):
        log.check()


def test_a_log_waits_for_no_step(monkeypatch):
    """Between two looks nothing is brought to Python, which is what waits on a GPU."""
    log = StepLog()
    waits: list[str] = []
    for name in ("tolist", "item", "__float__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, lambda *_, name=name: waits.append(name))
    for step in range(loop.CHECK_STEPS - 1):
        log.add(torch.ones(()), torch.ones(()), [step])
    assert waits == []
