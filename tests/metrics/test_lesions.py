"""Lesions matched with candidates: against scipy's labels and loops, and cases that are drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label, maximum

from evalfm.metrics.lesions import LEAST_IOU, lesion_counts, lesion_rows, match_lesions, regions

EIGHT = np.ones((3, 3))


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    noise = np.random.default_rng(draw(st.integers(0, 2**31)))
    shape = tuple(noise.integers(1, 14, 2))
    density = noise.random(2)
    probability = noise.random(shape).astype(np.float32)
    return noise.random(shape) < density[0], probability >= density[1], probability


def by_loops(predicted: np.ndarray, truth: np.ndarray) -> list[int]:
    """The hit of each candidate: pairs from the largest overlap down, each region once."""
    lesions, there = label(truth, EIGHT)
    candidates, called = label(predicted, EIGHT)
    pairs = []
    for one in range(called):
        for other in range(there):
            a, b = candidates == one + 1, lesions == other + 1
            overlap = (a & b).sum() / (a | b).sum()
            if overlap >= LEAST_IOU:
                pairs.append((-overlap, one, other))
    hit, taken = [-1] * called, set()
    for _, one, other in sorted(pairs):
        if hit[one] < 0 and other not in taken:
            hit[one] = other
            taken.add(other)
    return hit


@given(images())
def test_regions_are_those_of_scipy(drawn):
    mask, _, _ = drawn
    numbers, count = label(mask, EIGHT)
    found = regions(mask)
    assert len(found.sizes) == count
    assert (found.number + 1 == numbers.ravel()[found.pixel]).all()
    assert found.sizes.tolist() == np.bincount(numbers.ravel(), minlength=count + 1)[1:].tolist()


@given(images())
def test_hits_and_scores_are_those_of_loops(drawn):
    truth, predicted, probability = drawn
    match = match_lesions(predicted, truth, probability)
    assert match.hit.tolist() == by_loops(predicted, truth)
    numbers, count = label(predicted, EIGHT)
    assert match.score.tolist() == list(np.atleast_1d(maximum(probability, numbers, range(1, count + 1))))
    assert match.found.sum() == (match.hit >= 0).sum()
    for candidate, lesion in enumerate(match.hit):
        if lesion >= 0:
            assert match.lesion_score[lesion] == match.score[candidate]
    assert np.isnan(match.lesion_score[~match.found]).all()


def drawn(*rows: str) -> np.ndarray:
    return np.array([[letter == "x" for letter in row] for row in rows])


def counts(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    return tuple(lesion_counts(match_lesions(predicted, truth)).values())


def test_two_lesions_under_one_candidate_are_one_hit_and_one_miss():
    truth = drawn("xxx....xx", "xxx....xx", "xxx....xx")
    one = drawn("xxxxxxxxx", "xxxxxxxxx", "xxxxxxxxx")
    assert counts(one, truth) == (2, 1, 0)
    assert match_lesions(one, truth).hit.tolist() == [0], "the larger one, whose overlap is larger"


def test_one_lesion_under_two_candidates_is_one_hit_and_one_false_positive():
    truth = drawn("xxxxxxxxx", "xxxxxxxxx")
    two = drawn("xxx..xxxx", "xxx..xxxx")
    assert counts(two, truth) == (1, 1, 1)
    assert match_lesions(two, truth).hit.tolist() == [-1, 0]


def test_a_corner_connects_and_a_gap_does_not():
    assert len(regions(drawn("x..", ".x.", "..x")).sizes) == 1
    assert len(regions(drawn("x.x", "x.x", "x.x")).sizes) == 2
    # The end of a row does not touch the begin of the next one.
    assert len(regions(drawn("..x", "x..")).sizes) == 2
    assert len(regions(drawn("..xx", "....", "xx..")).sizes) == 2


def test_a_candidate_that_hardly_touches_finds_nothing():
    truth = drawn("xxxxxxxxxx", "..........")
    assert counts(drawn("x.........", ".........."), truth) == (1, 1, 0), "a tenth is enough"
    assert counts(drawn("x.........", "x........."), truth) == (1, 0, 1)


@pytest.mark.parametrize(("predicted", "truth", "expected"), [
    ("...", "...", (0, 0, 0)), ("x.x", "...", (0, 0, 2)), ("...", "x.x", (2, 0, 0)), ("x.x", "x.x", (2, 2, 0)),
])  # fmt: skip
def test_empty_masks(predicted, truth, expected):
    assert counts(drawn(predicted), drawn(truth)) == expected
    assert match_lesions(drawn(predicted), drawn(truth), np.ones((1, 3))).score.tolist() == [1.0] * predicted.count("x")


def test_rows_of_a_table_say_size_score_and_match():
    truth = drawn("xx....", "......", "....x.")
    predicted = drawn("xx....", "......", "x.....")
    probability = np.where(predicted, [[0.6, 0.9, 0, 0, 0, 0]] * 3, 0.1)
    rows = lesion_rows(match_lesions(predicted, truth, probability), truth.size, (0.5, 2.0))
    found = [(each["lesion"], each["matched"], each["share"], each["area_mm2"]) for each in rows]
    assert found == [
        (True, True, 2 / 18, 2.0),
        (True, False, 1 / 18, 1.0),
        (False, True, 2 / 18, 2.0),
        (False, False, 1 / 18, 1.0),
    ]
    assert [rows[0]["score"], rows[2]["score"], rows[3]["score"]] == [0.9, 0.9, 0.6]
    assert np.isnan(rows[1]["score"])
    bare = lesion_rows(match_lesions(predicted, truth), truth.size, None)
    assert all(np.isnan(each["score"]) and np.isnan(each["area_mm2"]) for each in bare)


def test_scores_decide_no_match_so_that_masks_from_elsewhere_are_matched_alike():
    noise = np.random.default_rng(1)
    for _ in range(50):
        truth, probability = noise.random((12, 12)) < 0.3, noise.random((12, 12))
        predicted = probability > 0.6
        assert (match_lesions(predicted, truth, probability).hit == match_lesions(predicted, truth).hit).all()
