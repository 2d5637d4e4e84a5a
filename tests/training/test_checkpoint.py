from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from evalfm.errors import EvalfmError
from evalfm.training.checkpoint import STATE, State, forget_best, read_best, read_state, write_best, write_state


def state() -> State:
    tensors = {"weight": torch.arange(3.0)}
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    return State(2, tensors, {}, 5, optimiser.state_dict(), {}, 0.5, 1, [{"epoch": 0, "val_dice": 0.5}])


def test_round_trip(tmp_path: Path):
    assert read_state(tmp_path) is None
    write_state(tmp_path, state())
    found = read_state(tmp_path)
    assert found is not None
    assert torch.equal(found.tensors.pop("weight"), torch.arange(3.0))
    assert (found.epoch, found.best, found.best_epoch, found.curve, found.done) == (2, 0.5, 1, state().curve, False)


def test_only_the_best_is_kept(tmp_path: Path):
    for epoch in (0, 1, 2):
        write_best(tmp_path, epoch, {"weight": torch.full((1,), float(epoch))})
    forget_best(tmp_path, 1)
    assert read_best(tmp_path, 1)["weight"].item() == 1
    with pytest.raises(EvalfmError, match="start again"):
        read_best(tmp_path, 2)


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
