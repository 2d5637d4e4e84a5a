"""Several processes on one training, started by torch elastic."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from evalfm.errors import EvalfmError
from evalfm.training.distributed import Distributed

from .conftest import curve_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are tried on Linux")


@pytest.mark.parametrize(("task", "name"), [("masks", "val_dice"), ("square", "val_log_loss")])
def test_two_processes_train_what_one_trains(bench, task, name):
    """No batch norm, no dropout, no augmentation, float32: the same global batches, 20 steps."""
    bench = bench(task)
    options = {"epochs": 1, "least_steps": 20, "augment": False, "probe_start": False, "ema": 0.0, "batch_size": 8}
    alone, head_alone = bench.tune("full", bench.head(), place="one", **options)
    together, head_together = bench.tune("full", bench.head(), place="two", processes=2, **options)
    assert curve_of(together, name) == pytest.approx(curve_of(alone, name), rel=1e-3)
    assert curve_of(together, "train_loss")[1] == pytest.approx(curve_of(alone, "train_loss")[1], rel=1e-4)
    assert alone.fit.chosen["epoch"] == together.fit.chosen["epoch"] == 1
    one, two = (
        {name: tensor.double() for name, tensor in (tuned.tensors | head.tensors()).items()}
        for tuned, head in ((alone, head_alone), (together, head_together))
    )
    assert one.keys() == two.keys()
    for key, value in one.items():
        # A bias of the keys has no gradient (softmax): AdamW moves it by the sign of rounding, so it stays near 0.
        assert float((two[key] - value).norm()) <= 1e-4 * max(float(value.norm()), 1e-2), key
    squares = [((two[key] - value).square().sum(), value.square().sum()) for key, value in one.items()]
    assert sum(each for each, _ in squares) <= 1e-8 * sum(each for _, each in squares)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(bench, monkeypatch):
    bench = bench("square")
    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", None)
    with pytest.raises(EvalfmError, match="batch of 15 cannot be shared by 2 processes; say --recipe batch_size=16"):
        bench.tune("lora", processes=2, batch_size=15)


def test_a_fault_of_a_worker_is_told_in_its_own_words(bench, monkeypatch):
    """The worker runs here, in the place of the processes that torch elastic starts."""
    bench = bench("square")

    class Launched:
        def __init__(self, configuration, work):
            self.work = work

        def __call__(self, *arguments):
            with pytest.raises(SystemExit):
                self.work(*arguments)
            raise ChildFailedError("work", {0: ProcessFailure(0, 0, 3, "")})

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", Launched)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    with pytest.raises(EvalfmError, match="2 processes were asked for and 1 came up"):
        bench.tune("lora", processes=2)


def test_processes_that_did_not_come_up_are_refused():
    with pytest.raises(EvalfmError, match="2 processes were asked for and 1 came up"):
        Distributed(torch.device("cpu"), "float32", 2)
