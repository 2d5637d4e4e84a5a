"""The schedule of a context, and the batches it sees."""

from __future__ import annotations

import pytest
import torch

from evalfm.heads.text.training import ContextSchedule, shuffled


def test_rates_are_those_of_a_cosine_after_one_slow_epoch() -> None:
    """torch's own cosine over all epochs, begun after the warm-up: what Dassl's scheduler does in CoOp's code."""
    schedule = ContextSchedule(epochs=100, rate=2.5e-3)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.5e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 100)
    expected = [1e-5]
    for _ in range(99):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        cosine.step()
    assert [schedule.rate_of(epoch) for epoch in range(100)] == pytest.approx(expected, rel=1e-9)
    assert schedule.rate_of(1) == 2.5e-3
    assert 0 < schedule.rate_of(99) < 1e-5


def test_an_epoch_deals_whole_batches_once() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (list(shuffled(10, 4, generator)) for _ in range(2))
    assert [len(batch) for batch in first] == [4, 4]
    assert len(set(torch.cat(first).tolist())) == 8
    assert torch.cat(first).tolist() != torch.cat(second).tolist()
    assert [len(batch) for batch in shuffled(8, 4, generator)] == [4, 4]
    # What is smaller than a batch is one.
    assert [len(batch) for batch in shuffled(3, 4, generator)] == [3]
