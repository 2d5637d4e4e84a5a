from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter

from evalfm.data.phantom import Dials, Radiograph, render, trace
from evalfm.data.phantom.frame import make_frame
from evalfm.data.phantom.lungs import vessel_thickness
from evalfm.data.phantom.patients import draw_patient, draw_visit, patient_of
from evalfm.errors import EvalfmError

POSITIVE = Dials(pneumothorax=1.0)


def images(dials: Dials, count: int, size: int = 128, seed: int = 3) -> Iterator[Radiograph]:
    for index in range(count):
        yield render(seed, index, size, dials)


def width(mask: np.ndarray) -> int:
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[-1] - columns[0] + 1)


def halve(values: np.ndarray) -> np.ndarray:
    size = values.shape[0] // 2
    return values.astype(float).reshape(size, 2, size, 2).mean(axis=(1, 3))


def test_the_same_numbers_give_the_same_image() -> None:
    first, again = render(7, 12, 96), render(7, 12, 96)
    assert np.array_equal(first.pixels, again.pixels)
    assert all(np.array_equal(first.masks[name], again.masks[name]) for name in first.masks)
    assert not np.array_equal(first.pixels, render(7, 13, 96).pixels)
    assert not np.array_equal(first.pixels, render(8, 12, 96).pixels)


def test_a_image_does_not_depend_on_those_drawn_before_it() -> None:
    alone = render(4, 9, 64)
    for _ in images(Dials(), 5, size=64, seed=4):
        pass
    assert np.array_equal(alone.pixels, render(4, 9, 64).pixels)


@pytest.mark.parametrize("size", [64, 100, 128, 257, 512])
def test_any_size_gives_pixels_in_range(size: int) -> None:
    image = render(1, 5, size)
    assert image.pixels.shape == (size, size)
    assert image.pixels.dtype == np.float32
    assert image.pixels.min() >= 0
    assert image.pixels.max() <= 1
    assert all(mask.shape == (size, size) and mask.dtype == bool for mask in image.masks.values())


@pytest.mark.parametrize(("size", "index"), [(63, 0), (1025, 0), (128, -1)])
def test_what_cannot_be_drawn_is_refused(size: int, index: int) -> None:
    with pytest.raises(EvalfmError):
        render(0, index, size)


def test_the_tube_changes_nothing_but_the_pixels_it_covers() -> None:
    changed = 0
    for index in range(8):
        without = render(3, index, 256, tube=False)
        with_tube = render(3, index, 256, tube=True)
        assert not without.masks["chest_tube"].any()
        assert with_tube.chest_tube
        assert not without.chest_tube
        for name in ("heart", "left_lung", "right_lung", "pneumothorax"):
            assert np.array_equal(without.masks[name], with_tube.masks[name])
        footprint = with_tube.masks["chest_tube"]
        near = binary_dilation(footprint, np.ones((3, 3)), iterations=2)
        assert np.array_equal(without.pixels[~near], with_tube.pixels[~near])
        inside = footprint & (without.pixels > 0.1)
        changed += np.mean(with_tube.pixels[inside] > without.pixels[inside]) > 0.99
        assert (with_tube.pixels - without.pixels)[inside].mean() > 0.02
    assert changed == 8


def test_the_forced_tube_is_the_tube_that_the_dials_draw() -> None:
    drawn = render(3, 1, 128, Dials(tube_given_pneumothorax=1, tube_given_none=1))
    assert np.array_equal(drawn.pixels, render(3, 1, 128, tube=True).pixels)


def test_the_tube_enters_the_side_of_the_pneumothorax() -> None:
    for index in range(12):
        image = trace(3, index, 128, POSITIVE, tube=True)
        left = image.masks["left_lung"]
        side = bool((image.masks["pneumothorax"] & left).any())
        overlap = [int((image.masks["chest_tube"] & image.masks[name]).sum()) for name in ("right_lung", "left_lung")]
        assert overlap[side] > 0
        assert overlap[not side] == 0


def test_leads_do_not_depend_on_disease_and_leave_the_rest_alone() -> None:
    off, on = (render(3, 2, 256, Dials(ecg_leads=value)) for value in (0.0, 1.0))
    assert (off.ecg_leads, on.ecg_leads) == (False, True)
    assert 0.002 < np.mean(off.pixels != on.pixels) < 0.15
    assert (on.pixels >= off.pixels).all()


def test_a_pneumothorax_lies_in_one_lung_field() -> None:
    for index in range(40):
        image = trace(3, index, 128, POSITIVE)
        mask = image.masks["pneumothorax"]
        in_lung = [bool((mask & image.masks[name]).any()) for name in ("left_lung", "right_lung")]
        assert sorted(in_lung) == [False, True]
        assert not (mask & ~image.masks["left_lung"] & ~image.masks["right_lung"]).any()
        assert image.pneumothorax_area == mask.mean() > 0
        assert not trace(3, index, 128, Dials(pneumothorax=0)).masks["pneumothorax"].any()


def test_free_air_is_darker_than_lung_and_has_no_vessels() -> None:
    bare = {"ecg_leads": 0.0, "tube_given_pneumothorax": 0.0, "tube_given_none": 0.0}
    large = [index for index in range(60) if trace(3, index, 64, POSITIVE).pneumothorax_area > 0.025]
    assert len(large) >= 5
    seen, gone = [], []
    for index in large:
        image = render(3, index, 256, Dials(pneumothorax=1, **bare))
        healthy = render(3, index, 256, Dials(pneumothorax=0, **bare))
        assert np.array_equal(image.masks["heart"], healthy.masks["heart"])
        inner = image.masks["pneumothorax"] & ~binary_dilation(~image.masks["pneumothorax"], iterations=4)
        assert image.pixels[inner].mean() < healthy.pixels[inner].mean() - 0.01
        visit = draw_visit(3, index, Dials())
        vessels = vessel_thickness(make_frame(256, visit.pose), draw_patient(3, patient_of(index)), visit, 3)
        marking = fine(vessels)[inner]
        gone.append(np.corrcoef(fine(image.pixels)[inner], marking)[0, 1])
        seen.append(np.corrcoef(fine(healthy.pixels)[inner], marking)[0, 1])
    assert np.mean(seen) > 0.08
    assert abs(np.mean(gone)) < np.mean(seen) / 2


def fine(values: np.ndarray) -> np.ndarray:
    return np.asarray(values - gaussian_filter(values, 2))


def test_areas_are_distributed_as_in_siim() -> None:
    areas = np.array([trace(21, index, 64, POSITIVE).pneumothorax_area for index in range(2000)])
    wanted = np.array([0.0013, 0.0040, 0.0084, 0.018, 0.046])
    got = np.quantile(areas, [0.05, 0.25, 0.5, 0.75, 0.95])
    assert got == pytest.approx(wanted, rel=0.25)


def test_the_ratio_is_that_of_the_masks_and_decides_cardiomegaly() -> None:
    for index in range(60):
        image = trace(5, index, 256)
        lungs = image.masks["left_lung"] | image.masks["right_lung"]
        assert image.ctr == width(image.masks["heart"]) / width(lungs)
        assert image.cardiomegaly == (image.ctr > 0.5)


def test_the_cardiomegaly_dial_sets_its_prevalence() -> None:
    shares = [
        np.mean([trace(5, index, 128, Dials(cardiomegaly=p)).cardiomegaly for index in range(100)])
        for p in (0.0, 0.5, 1.0)
    ]
    assert shares[0] == 0
    assert 0.3 < shares[1] < 0.7
    assert shares[2] == 1


def test_masks_are_where_they_belong() -> None:
    for index in range(30):
        masks = trace(6, index, 128).masks
        left, right, heart = masks["left_lung"], masks["right_lung"], masks["heart"]
        assert not (left & right).any()
        assert not ((left | right) & heart).any()
        columns = np.arange(128)
        centre = {name: (masks[name] * columns).sum() / masks[name].sum() for name in ("left_lung", "right_lung")}
        # The patient's left is on the image's right, and so is most of the heart.
        assert centre["right_lung"] < 64 < centre["left_lung"]
        middle = (centre["right_lung"] + centre["left_lung"]) / 2
        assert (heart * columns).sum() / heart.sum() > middle
        assert 0.04 < left.mean() < 0.25
        assert 0.04 < right.mean() < 0.25


def test_air_is_dark_and_bone_is_bright() -> None:
    for image in images(Dials(pneumothorax=0, ecg_leads=0, tube_given_none=0, cardiomegaly=0), 12):
        lungs = image.masks["left_lung"] | image.masks["right_lung"]
        heart = image.masks["heart"]
        assert image.pixels[lungs].mean() < image.pixels[heart].mean() - 0.1
        # Above the shoulders there is nothing but air, and lead in the marker.
        assert np.median(image.pixels[4:12, 4:12]) < image.pixels[lungs].mean()


def test_returning_patients_keep_their_anatomy_and_change_their_pose() -> None:
    first, second, other = (trace(2, index, 256) for index in (5, 6, 7))
    assert first.patient == second.patient
    assert first.patient != other.patient
    assert (first.sex, first.age) == (second.sex, second.age)
    assert first.cardiomegaly == second.cardiomegaly
    assert not np.array_equal(first.masks["left_lung"], second.masks["left_lung"])
    assert [trace(2, index, 64).patient for index in (7, 8, 9)] == [other.patient] * 3


def test_the_chest_of_a_returning_patient_keeps_its_width() -> None:
    widths = []
    for index in [10 * decade + place for decade in range(20) for place in (5, 6)]:
        masks = trace(2, index, 256).masks
        scale = draw_visit(2, index, Dials()).pose.scale
        widths.append(width(masks["left_lung"] | masks["right_lung"]) / scale)
    first, second = np.log(np.array(widths).reshape(-1, 2).T)
    assert np.abs(first - second).mean() < 0.02
    assert np.abs(first - np.roll(second, 1)).mean() > 0.03


@pytest.mark.parametrize("index", [0, 1, 5, 11])
def test_the_image_is_the_same_at_every_size(index: int) -> None:
    small, large = render(9, index, 128), render(9, index, 256)
    assert (small.pneumothorax, small.chest_tube, small.scanner) == (
        large.pneumothorax,
        large.chest_tube,
        large.scanner,
    )
    assert np.abs(halve(large.pixels) - small.pixels).mean() < 0.02
    correlation = np.corrcoef(halve(large.pixels).ravel(), small.pixels.ravel())[0, 1]
    assert correlation > 0.995
    assert small.ctr == pytest.approx(large.ctr, abs=0.02)
    for name in ("heart", "left_lung", "right_lung"):
        assert np.abs(halve(large.masks[name]) - small.masks[name]).mean() < 0.01


def test_truth_alone_is_the_truth_of_the_image() -> None:
    image, truth = render(3, 4, 128), trace(3, 4, 128)
    assert not truth.pixels.any()
    assert all(np.array_equal(image.masks[name], truth.masks[name]) for name in image.masks)
    assert (image.ctr, image.sex, image.pneumothorax_area) == (truth.ctr, truth.sex, truth.pneumothorax_area)
