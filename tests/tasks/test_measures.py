import numpy as np
import pytest

from evalfm.tasks.measures import area_fraction, lung_fraction, parts_of


def test_area_is_a_fraction_of_the_image():
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:4, 5:10] = True
    assert area_fraction(mask) == pytest.approx(10 / 200)


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
