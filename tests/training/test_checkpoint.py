from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest
import torch

from evalfm.errors import EvalfmError
from evalfm.training import checkpoint
from evalfm.training.checkpoint import (
    INTERVAL_SECONDS,
    PART,
    STATE,
    Cadence,
    CheckpointWriter,
    TrainingState,
    in_memory,
    read_state,
    write_state,
)


def state(epoch: int = 2) -> TrainingState:
    tensors = {"weight": torch.arange(3.0)}
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    return TrainingState(
        epoch, tensors, {}, 5, optimiser.state_dict(), {}, 0.5, 1, tensors, [{"epoch": 0, "val_dice": 0.5}]
    )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_round_trip(tmp_path: Path):
    assert read_state(tmp_path) is None
    write_state(tmp_path, state())
    found = read_state(tmp_path)
    assert found is not None
    assert torch.equal(found.tensors["weight"], torch.arange(3.0))
    assert (found.epoch, found.best, found.best_epoch, found.curve, found.done) == (2, 0.5, 1, state().curve, False)
    # What is there twice is stored once.
    assert found.tensors["weight"].data_ptr() == found.best_tensors["weight"].data_ptr()
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_a_checkpoint_is_not_seen_before_it_is_whole_and_on_the_disk(tmp_path: Path, monkeypatch):
    write_state(tmp_path, state(1))
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))

    def stop(source, target):
        assert synced == [os.path.getsize(source)]
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_state(tmp_path, state(2))
    assert (tmp_path / PART).is_file()
    found = read_state(tmp_path)
    assert found is not None
    assert found.epoch == 1
    monkeypatch.undo()
    write_state(tmp_path, state(3))
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_a_full_disk_is_a_sentence_and_leaves_the_one_before(tmp_path: Path, monkeypatch):
    write_state(tmp_path, state(1))
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(EvalfmError, match=r"cannot be written \(No space left on device\); free space"):
        write_state(tmp_path, state(2))
    found = read_state(tmp_path)
    assert found is not None
    assert found.epoch == 1


def test_a_damaged_or_foreign_file_is_refused_and_never_run(tmp_path: Path):
    (tmp_path / STATE).write_bytes(b"half of a file")
    with pytest.raises(EvalfmError, match="damaged"):
        read_state(tmp_path)
    trap = tmp_path / "trap"

    class Evil:
        def __reduce__(self):
            return Path.touch, (trap,)

    (tmp_path / STATE).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(EvalfmError, match="damaged"):
        read_state(tmp_path)
    torch.save({"epoch": Evil()}, tmp_path / STATE)
    with pytest.raises(EvalfmError, match="damaged"):
        read_state(tmp_path)
    assert not trap.exists()
    torch.save({"epoch": 1}, tmp_path / STATE)
    with pytest.raises(EvalfmError, match="no checkpoint of this version"):
        read_state(tmp_path)


def test_the_next_one_waits_for_the_interval_and_ten_times_what_the_last_one_cost(clock: Clock):
    cadence = Cadence(clock)
    clock.now = INTERVAL_SECONDS - 1
    assert not cadence.due
    clock.now = INTERVAL_SECONDS
    assert cadence.due
    cadence.written(1.0)
    clock.now += INTERVAL_SECONDS - 1
    assert not cadence.due
    clock.now += 1
    assert cadence.due
    cadence.written(30.0)
    clock.now += 299
    assert not cadence.due
    clock.now += 1
    assert cadence.due


@pytest.mark.parametrize("cost", [0.0, 3.0, 6.0, 40.0])
def test_checkpoints_never_take_more_than_a_tenth_of_the_time(clock: Clock, cost: float):
    cadence, spent = Cadence(clock), 0.0
    while clock.now < 20_000:
        clock.now += 7.0
        if cadence.due:
            # All that was written so far.
            assert spent <= 0.1 * clock.now
            clock.now += cost
            spent += cost
            cadence.written(cost)
    assert cost == 0 or spent > 0.05 * 20_000 / max(1, 67 / cost / 10)


def test_the_end_is_written_if_training_took_ten_times_as_long(clock: Clock):
    cadence = Cadence(clock)
    size = int(2 * checkpoint.WRITE_BYTES_PER_SECOND)
    clock.now = 19
    assert not cadence.pays(size)
    assert cadence.pays(0)
    clock.now = 20
    assert cadence.pays(size)
    cadence.written(5.0)
    clock.now = 69
    assert not cadence.pays(size)
    clock.now = 70
    assert cadence.pays(size)


def test_training_goes_on_while_a_checkpoint_is_written_and_changes_nothing_in_it(tmp_path: Path, clock, monkeypatch):
    weight, go_on, copies = torch.zeros(3), threading.Event(), []
    write = checkpoint.write_state

    def slow(folder, state):
        assert go_on.wait(10)
        write(folder, state)

    def copy() -> TrainingState:
        copies.append(1)
        return TrainingState(epoch=len(copies), tensors=in_memory({"weight": weight}))

    monkeypatch.setattr(checkpoint, "write_state", slow)
    with CheckpointWriter(tmp_path, Cadence(clock)) as writer:
        writer.offer(copy)
        assert not copies
        clock.now = 60
        writer.offer(copy)
        weight.fill_(9)
        clock.now = 200
        # Not a second one while the first is written.
        writer.offer(copy)
        assert copies == [1]
        assert read_state(tmp_path) is None
        go_on.set()
        writer.wait()
        found = read_state(tmp_path)
        assert found is not None
        assert found.tensors["weight"].tolist() == [0, 0, 0]
        clock.now = 259
        writer.offer(copy)
        assert copies == [1]
        clock.now = 260
        writer.offer(copy)
    # Leaving the block waits.
    found = read_state(tmp_path)
    assert found is not None
    assert (found.epoch, found.tensors["weight"].tolist()) == (2, [9, 9, 9])


def test_a_checkpoint_that_failed_is_said_at_the_next(tmp_path: Path, clock, monkeypatch):
    def broken(folder, state):
        raise EvalfmError("the disk is full")

    monkeypatch.setattr(checkpoint, "write_state", broken)
    writer = CheckpointWriter(tmp_path, Cadence(clock))
    clock.now = 60
    writer.offer(state)
    with pytest.raises(EvalfmError, match="the disk is full"):
        writer.wait()

    def leave() -> None:
        with CheckpointWriter(tmp_path, Cadence(lambda: clock.now)) as writer:
            clock.now += 60
            writer.offer(state)

    with pytest.raises(EvalfmError, match="the disk is full"):
        leave()

    def interrupted() -> None:
        with CheckpointWriter(tmp_path, Cadence(lambda: clock.now)) as writer:
            clock.now += 60
            writer.offer(state)
            raise KeyboardInterrupt

    # What ends the training is not hidden by it.
    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_the_end_of_a_training_holds_the_best(tmp_path: Path, clock: Clock):
    end = TrainingState(3, best_epoch=1, best_tensors={"weight": torch.ones(2)}, done=True)
    writer = CheckpointWriter(tmp_path, Cadence(clock))
    writer.finish(end)
    assert read_state(tmp_path) is None
    writer.finish(end, always=True)
    found = read_state(tmp_path)
    assert found is not None
    assert (found.done, found.best_epoch, found.best_tensors["weight"].tolist()) == (True, 1, [1, 1])
