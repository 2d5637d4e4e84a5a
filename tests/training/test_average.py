from __future__ import annotations

import pytest
import torch

from evalfm.training.average import MovingAverage


def test_the_average_follows_its_rule_from_the_first_step():
    live = {
        "weight": torch.zeros(2),
        "half": torch.zeros(2, dtype=torch.bfloat16),
        "count": torch.zeros((), dtype=torch.int64),
    }
    average = MovingAverage(live, 0.9)
    expected = 0.0
    for step in range(1, 60):
        for tensor in live.values():
            tensor.fill_(step)
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert average.tensors["weight"].tolist() == pytest.approx([expected, expected], rel=1e-5)
        assert average.tensors["half"].tolist() == pytest.approx([expected, expected], rel=0.05)
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
    assert average.tensors["weight"].item() == 1


def test_it_is_shown_without_a_copy_and_an_optimiser_goes_on_after_it():
    weight = torch.nn.Parameter(torch.ones(2))
    tied = {"a": weight, "b": weight}
    average = MovingAverage(tied, 0.5)
    optimiser = torch.optim.SGD([weight], 1.0)
    places = weight.data_ptr(), average.tensors["a"].data_ptr(), average.tensors["b"].data_ptr()
    with average.shown():
        assert weight.data_ptr() in places[1:]
    # Two names of one tensor are put back where they were too.
    assert (weight.data_ptr(), average.tensors["a"].data_ptr(), average.tensors["b"].data_ptr()) == places
    weight.sum().backward()
    optimiser.step()
    average.update()
    assert weight.tolist() == [0, 0]
    assert average.tensors["a"].tolist() == average.tensors["b"].tolist() == pytest.approx([2 / 11] * 2)


def test_no_decay_is_the_model_itself():
    live = {"weight": torch.ones(1)}
    average = MovingAverage(live, 0.0)
    live["weight"].fill_(3)
    average.update()
    assert average.tensors == {}
    with average.shown():
        assert live["weight"].item() == 3
