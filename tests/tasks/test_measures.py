import numpy as np
import pytest

from evalfm.tasks.measures import area_fraction, cardiothoracic_ratio, horizontal_extent, lung_fraction, parts_of


def test_area_is_a_fraction_of_the_image():
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:4, 5:10] = True
    assert area_fraction(mask) == pytest.approx(10 / 200)


def test_extent_counts_both_borders_and_ignores_gaps():
    mask = np.zeros((5, 12), dtype=bool)
    mask[0, 2] = mask[4, 9] = True
    assert horizontal_extent(mask) == 8
    assert horizontal_extent(np.zeros((3, 3), dtype=bool)) == 0


def test_ratio_takes_full_extents_not_the_widest_row():
    heart = np.zeros((6, 20), dtype=bool)
    heart[1, 4:8] = heart[4, 8:12] = True  # no row is wider than 4, the extent is 8
    lungs = np.zeros((6, 20), dtype=bool)
    lungs[:, 2:5] = lungs[:, 15:18] = True  # extent 16
    assert cardiothoracic_ratio(heart, lungs) == pytest.approx(8 / 16)


def test_ratio_is_absent_without_heart_or_lungs():
    full, empty = np.ones((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool)
    assert cardiothoracic_ratio(empty, full) is None
    assert cardiothoracic_ratio(full, empty) is None


def test_a_fraction_of_the_lungs_counts_what_lies_outside_their_mask():
    lesion, lungs = np.zeros((4, 10), dtype=bool), np.zeros((4, 10), dtype=bool)
    lesion[0, :6] = True
    lungs[0, 4:8] = True
    assert lung_fraction(lesion, lungs) == pytest.approx(6 / 8)
    assert lung_fraction(lesion & False, lungs) == 0
    assert lung_fraction(lesion, lungs & False) is None


def test_the_lungs_are_their_own_mask_before_that_of_both_sides():
    sides = ["left_lung_mask", "right_lung_mask"]
    assert parts_of("lungs", sides) == ("left_lung", "right_lung")
    assert parts_of("lungs", [*sides, "lungs_mask"]) == ("lungs",)
    assert parts_of("lungs", sides[:1]) == ("lungs",)
    assert parts_of("heart", sides) == ("heart",)
