from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from evalfm.data.phantom import Dials
from evalfm.data.phantom.disease import (
    draw_heart,
    draw_pneumothorax,
    has_leads,
    has_tube,
    tube_probability,
)
from evalfm.data.phantom.patients import draw_patient, draw_visit, patient_of
from evalfm.errors import EvalfmError

N = 3000


def within(count: int, n: int, probability: float, clustering: float = 1.0) -> bool:
    """Whether ``count`` of ``n`` lies within 4.5 binomial standard deviations, widened by ``clustering``."""
    spread = math.sqrt(n * probability * (1 - probability) * clustering) + 0.5
    return abs(count - n * probability) <= 4.5 * spread


@pytest.fixture(scope="module")
def population() -> dict[str, np.ndarray]:
    dials = Dials(pneumothorax=0.4, tube_given_pneumothorax=0.55, tube_given_none=0.12, cardiomegaly=0.25)
    rows = []
    for index in range(N):
        patient = draw_patient(5, patient_of(index))
        visit = draw_visit(5, index, dials)
        pneumothorax = draw_pneumothorax(5, index, patient, dials)
        rows.append(
            (
                pneumothorax is not None,
                has_tube(5, index, pneumothorax, dials),
                draw_heart(5, patient, visit, dials) > 0.5,
                has_leads(5, index, dials),
                visit.view == "AP",
                patient.sex == "F",
                patient.age,
                patient.number,
                pneumothorax.side if pneumothorax else 0,
            )
        )
    names = ("pneumothorax", "tube", "cardiomegaly", "leads", "lying", "female", "age", "patient", "side")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def test_findings_occur_as_often_as_the_dials_say(population: dict[str, np.ndarray]) -> None:
    # Images of one patient go together: up to three of them count as one at worst.
    positive, tube = population["pneumothorax"], population["tube"]
    assert within(positive.sum(), N, 0.4, clustering=2)
    assert within(population["cardiomegaly"].sum(), N, 0.25, clustering=2)
    assert within(population["leads"].sum(), N, 0.30)
    assert within(population["lying"].sum(), N, 0.35)
    assert within(tube[positive].sum(), positive.sum(), 0.55)
    assert within(tube[~positive].sum(), (~positive).sum(), 0.12)


def test_pneumothorax_is_independent_of_sex_age_view_heart_and_leads(
    population: dict[str, np.ndarray],
) -> None:
    positive = population["pneumothorax"]
    for name in ("female", "lying", "cardiomegaly", "leads", "age"):
        correlation = np.corrcoef(positive, population[name].astype(float))[0, 1]
        assert abs(correlation) < 4.5 * math.sqrt(2 / N), name


def test_returning_patients_keep_side_and_mostly_status(population: dict[str, np.ndarray]) -> None:
    same = population["patient"][1:] == population["patient"][:-1]
    first, second = population["pneumothorax"][:-1][same], population["pneumothorax"][1:][same]
    # Chance alone would agree on .52 of pairs.
    assert np.mean(first == second) > 0.65
    both = first & second
    assert np.array_equal(population["side"][:-1][same][both], population["side"][1:][same][both])


@pytest.mark.parametrize("slope", [-1.0, 0.8, 3.0])
def test_tie_to_size_keeps_the_overall_probability(slope: float) -> None:
    dials = Dials(pneumothorax=1.0, tube_given_pneumothorax=0.3, tube_size_slope=slope)
    pneumothorax = draw_pneumothorax(0, 0, draw_patient(0, 0), dials)
    assert pneumothorax is not None
    deviations = (np.arange(2000) + 0.5) / 2000
    normal = np.sqrt(2) * _inverse_error(2 * deviations - 1)
    chances = [tube_probability(replace(pneumothorax, deviation=float(value)), dials) for value in normal]
    assert np.mean(chances) == pytest.approx(0.3, abs=0.002)
    odds = [math.log(p / (1 - p)) for p in (chances[600], chances[1400])]
    assert odds[1] - odds[0] == pytest.approx(slope * (normal[1400] - normal[600]), rel=1e-6)


def test_size_does_not_move_the_tube_by_default() -> None:
    dials = Dials(pneumothorax=1.0)
    pneumothorax = draw_pneumothorax(0, 0, draw_patient(0, 0), dials)
    assert pneumothorax is not None
    assert tube_probability(replace(pneumothorax, deviation=-3.0), dials) == 0.45
    assert tube_probability(replace(pneumothorax, deviation=3.0), dials) == 0.45


def test_tubes_go_to_the_larger_pneumothoraces_when_tied() -> None:
    dials = Dials(pneumothorax=1.0, tube_given_pneumothorax=0.5, tube_size_slope=2.0)
    sizes: dict[bool, list[float]] = {False: [], True: []}
    for index in range(600):
        pneumothorax = draw_pneumothorax(1, index, draw_patient(1, patient_of(index)), dials)
        assert pneumothorax is not None
        sizes[has_tube(1, index, pneumothorax, dials)].append(pneumothorax.area)
    assert np.median(sizes[True]) > 2 * np.median(sizes[False])
    assert within(len(sizes[True]), 600, 0.5, clustering=2)


def test_dials_do_not_move_one_another() -> None:
    patient = draw_patient(2, 3)
    index = 3
    with_many = draw_pneumothorax(2, index, patient, Dials(pneumothorax=1.0, tube_given_pneumothorax=1.0))
    with_few = draw_pneumothorax(2, index, patient, Dials(pneumothorax=1.0, ecg_leads=0.0))
    assert with_many == with_few


def _inverse_error(value: np.ndarray) -> np.ndarray:
    from scipy.special import erfinv

    return np.asarray(erfinv(value))


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
