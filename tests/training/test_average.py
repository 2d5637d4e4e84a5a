from __future__ import annotations

import pytest
import torch

from evalfm.training.average import MovingAverage


def test_the_average_follows_its_rule_from_the_first_step():
    live = {"weight": torch.zeros(2), "count": torch.zeros((), dtype=torch.int64)}
    average = MovingAverage(live, 0.9)
    expected = 0.0
    for step in range(1, 60):
        live["weight"].fill_(step)
        live["count"].fill_(step)
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert average.tensors["weight"].tolist() == pytest.approx([expected, expected], rel=1e-5)
        assert int(average.tensors["count"]) == step


def test_it_is_shown_and_taken_away_again():
    live = {"weight": torch.ones(1)}
    average = MovingAverage(live, 0.5)
    live["weight"].fill_(3)
    seen = []

    def fail() -> None:
        with average.shown():
            seen.append(live["weight"].item())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert seen == [1]
    assert live["weight"].item() == 3


def test_no_decay_is_the_model_itself():
    live = {"weight": torch.ones(1)}
    average = MovingAverage(live, 0.0)
    live["weight"].fill_(3)
    average.update()
    assert average.tensors == {}
    with average.shown():
        assert live["weight"].item() == 3
