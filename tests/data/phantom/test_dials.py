from __future__ import annotations

import math

import pytest

from evalfm.data.phantom import Dials
from evalfm.errors import EvalfmError


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
@pytest.mark.parametrize("name", ["pneumothorax", "tube_given_none", "ecg_leads", "anteroposterior"])
def test_a_probability_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(EvalfmError, match=name):
        Dials(**{name: value})


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(EvalfmError, match=r"cardiomegaly.*tube_size_slope"):
        Dials(cardiomegaly=2, tube_size_slope=math.inf)


def test_bounds_are_allowed() -> None:
    assert Dials(pneumothorax=0, tube_given_pneumothorax=1).tube_given_pneumothorax == 1
