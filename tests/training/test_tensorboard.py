from __future__ import annotations

import math
import socket
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evalfm.training.tensorboard import Board


def test_scalars_are_there_and_the_host_is_not(tmp_path: Path):
    with Board(tmp_path) as board:
        board.add({"epoch": 0, "train_loss": math.nan, "val_dice": 0.25}, 0.0)
        board.add({"epoch": 1, "train_loss": 0.5, "val_dice": 0.75}, 0.125)
        # A killed training leaves its file as it is now.
        assert [path.name for path in tmp_path.iterdir()] == ["events.out.tfevents.0.evalfm"]
        assert b"val_dice" in next(tmp_path.iterdir()).read_bytes()
    assert socket.gethostname().encode() not in next(tmp_path.iterdir()).read_bytes()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_dice")] == [(0, 0.25), (1, 0.75)]
    assert [(event.step, event.value) for event in events.Scalars("train_loss")] == [(1, 0.5)]
    assert [event.value for event in events.Scalars("learning_rate")] == [0, 0.125]


def test_a_resumed_training_writes_a_file_of_its_own(tmp_path: Path):
    for epoch in (0, 1):
        with Board(tmp_path) as board:
            board.add({"epoch": epoch, "val_dice": 0.25 * epoch}, 0.0)
    assert sorted(path.name.split(".", 3)[3] for path in tmp_path.iterdir()) == ["0.evalfm", "1.evalfm"]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("val_dice")] == [0, 1]


def test_a_process_that_does_not_lead_writes_nothing(tmp_path: Path):
    with Board(None) as board:
        board.add({"epoch": 0, "val_dice": 0.25}, 0.0)
    assert not list(tmp_path.iterdir())
