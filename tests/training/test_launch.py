"""Several processes on one training, started by torch elastic."""

from __future__ import annotations

import sys

import pytest
import torch

from evalfm.errors import EvalfmError
from evalfm.training.team import Team

from .conftest import curve_of, last_tensors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are tried on Linux")


@pytest.mark.parametrize(("task", "head"), [("masks", "linear"), ("square", "linear")])
def test_two_processes_train_what_one_trains(bench, task, head):
    """No batch norm, no dropout, no augmentation, float32: the same global batches, 20 steps."""
    bench = bench(task)
    options = {"epochs": 1, "least_steps": 20, "augment": False, "probe_start": False, "ema": 0.0, "batch_size": 8}
    alone, _ = bench.tune("full", bench.head(head), place="one", **options)
    together, _ = bench.tune("full", bench.head(head), place="two", processes=2, **options)
    name = "val_dice" if task == "masks" else "val_log_loss"
    assert curve_of(together, name) == pytest.approx(curve_of(alone, name), rel=1e-3)
    assert curve_of(together, "train_loss")[1] == pytest.approx(curve_of(alone, "train_loss")[1], rel=1e-4)
    one, two = last_tensors(bench, "one"), last_tensors(bench, "two")
    for key, value in one.items():
        # A bias of the keys has no gradient (softmax): AdamW moves it by the sign of rounding, so it stays near 0.
        assert float((two[key] - value).norm()) <= 1e-4 * max(float(value.norm()), 1e-2), key
    squares = [((two[key] - value).square().sum(), value.square().sum()) for key, value in one.items()]
    assert sum(each for each, _ in squares) <= 1e-8 * sum(each for _, each in squares)


def test_a_fault_of_a_worker_is_told_in_its_own_words(bench):
    bench = bench("square")
    with pytest.raises(EvalfmError, match="batch of 15 cannot be shared by 2 processes; say --recipe batch_size=16"):
        bench.tune("lora", processes=2, batch_size=15)


def test_a_team_that_is_not_complete_is_refused():
    with pytest.raises(EvalfmError, match="2 processes were asked for and 1 came up"):
        Team(torch.device("cpu"), "float32", 2)
