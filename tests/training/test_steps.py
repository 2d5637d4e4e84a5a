from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from evalfm.training import steps
from evalfm.training.steps import NotFiniteError, StepLog


def test_losses_come_in_order_and_are_those_of_all_processes(monkeypatch):
    monkeypatch.setattr(steps, "CHECK_STEPS", 3)
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


def test_no_step_waits_for_the_device(monkeypatch):
    """Between two looks nothing is brought to Python, which is what waits on a GPU."""
    log = StepLog()
    waits: list[str] = []
    for name in ("tolist", "item", "__float__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, lambda *_, name=name: waits.append(name))
    for step in range(steps.CHECK_STEPS - 1):
        log.add(torch.ones(()), torch.ones(()), [step])
    assert waits == []
