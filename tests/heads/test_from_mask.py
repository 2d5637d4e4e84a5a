from __future__ import annotations

import numpy as np
import pytest
import torch

from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.from_mask import FromMaskHead, area_fraction, lung_fraction
from evalfm.heads.head import Context
from evalfm.heads.segmentation.light import MultiscaleHead
from evalfm.heads.trained import Schedule

QUICK = Schedule(epochs=8, least_steps=120, batch_size=8)


def planted(plant, measure="area-fraction", **options):
    """The planted squares, with their area as target; for ``ctr`` the square is the heart and a wide band the lungs."""
    source, train, val = plant(side=20, prevalence=1.0, **options)
    masks = train.masks

    def read(row: int) -> np.ndarray:
        square = masks(row)
        if measure == "area-fraction":
            return square
        band = np.zeros_like(square)
        band[:, 20:44, 2:62] = True
        return np.concatenate([square, band])

    parts = []
    for part in (train, val):
        truth = {"ctr": lambda found: 20 / 60, "lung-fraction": lambda found: 400 / found.any(axis=0).sum()}
        values = [truth.get(measure, np.mean)(read(int(row))) for row in part.rows]
        parts.append(type(part)(source, part.rows, np.array(values), part.patients, read))
    findings = ("square",) if measure == "area-fraction" else ("heart", "lungs")  # the square is the lesion too
    return source, *parts, Context("regression", ("size",), seed=3, measure=measure, findings=findings)


@pytest.mark.parametrize(("measure", "truth"), [("area-fraction", 400 / 4096), ("ctr", 20 / 60)])
def test_measures_the_masks_it_predicts(plant, measure, truth):
    _, train, val, context = planted(plant, measure, noise=0.3)
    head = FromMaskHead(MultiscaleHead(QUICK))
    fit = head.fit(train, val, context)
    answer = head.predict(val)
    assert answer.shape == (len(val), 1)
    assert np.abs(answer - truth).mean() < 0.2 * truth
    assert "val_dice" in fit.path[0]
    restored = load_head("from-mask", "regression")
    restored.load_tensors(head.tensors())
    assert np.array_equal(restored.predict(val), answer)


def test_the_measure_is_taken_at_the_threshold_that_val_chose(plant):
    _, train, val, context = planted(plant)
    inner = MultiscaleHead(QUICK)
    head = FromMaskHead(inner)
    head.fit(train, val, context)
    (threshold,) = head.tensors()["thresholds"].tolist()
    best = []
    grid = np.linspace(0.05, 0.95, 19)
    predicted = [(row, probability[0].numpy()) for row, probability in inner.predict(val)]
    for value in [*grid, threshold]:
        overlap = sum(((p >= value) & val.masks(row)[0]).sum() for row, p in predicted)
        total = sum((p >= value).sum() + val.masks(row)[0].sum() for row, p in predicted)
        best.append(2 * overlap / total)
    assert best[-1] >= max(best[:-1]) - 1e-3
    expected = [(probability >= threshold).mean() for _, probability in predicted]
    np.testing.assert_allclose(head.predict(val)[:, 0], expected)


def test_a_size_in_the_lungs_is_of_lungs_and_lesion_as_predicted(plant):
    _, train, val, context = planted(plant, "lung-fraction", noise=0.3)
    inner = MultiscaleHead(QUICK)
    head = FromMaskHead(inner)
    head.fit(train, val, context)
    tensors = head.tensors()
    tensors["without_strays"][...] = False
    restored = load_head("from-mask", "regression")
    restored.load_tensors(tensors)
    expected = []
    for _, (lesion, lungs) in inner.predict(val):
        lesion, lungs = (lesion >= tensors["thresholds"][0]), (lungs >= tensors["thresholds"][1])
        expected.append(float(lesion.sum() / (lesion | lungs).sum()))
    assert 0.01 < min(expected) < max(expected) < 0.5
    np.testing.assert_allclose(restored.predict(val)[:, 0], expected)


def test_a_radiograph_without_a_ratio_gets_the_mean_of_train_and_is_counted(plant):
    source, train, val, context = planted(plant, "ctr")
    # Far from any ratio that could be measured.
    train = type(train)(source, train.rows, np.linspace(2, 3, len(train)), train.patients, train.masks)
    inner = MultiscaleHead(QUICK)
    head = FromMaskHead(inner)
    head.fit(train, val, context)
    assert (head.predict(val) < 1).all()
    tensors = head.tensors()
    tensors["thresholds"][:] = 1.1
    head.load_tensors(tensors)
    np.testing.assert_allclose(head.predict(val), 2.5)
    predict = inner.predict

    def one_empty(examples):
        for row, probability in predict(examples):
            yield row, probability * (row != val.rows[0])

    inner.predict = one_empty
    cautions = head.after_training(train, val, context)
    assert cautions[1].sentence.startswith(f"1 of {len(val)} val images get the mean of train")


def test_stray_parts_are_left_out_where_val_is_better_off(plant):
    """One stray pixel at the border of every image makes a full extent of the whole width."""
    _, train, val, context = planted(plant, "ctr", noise=0.3)
    inner = MultiscaleHead(QUICK)
    head = FromMaskHead(inner)
    predict = inner.predict

    def with_strays(examples):
        for row, probability in predict(examples):
            probability[0, 0, [0, -1]] = 1.0
            yield row, probability

    head.fit(train, val, context)
    inner.predict = with_strays
    cautions = head.after_training(train, val, context)
    assert "their largest parts" in cautions[0].sentence
    assert np.abs(head.predict(val) - 20 / 60).mean() < 0.1
    tensors = head.tensors()
    again = FromMaskHead()
    again.load_tensors(tensors)
    assert again.tensors()["without_strays"]
    tensors["without_strays"] = torch.tensor(False)
    head.load_tensors(tensors)
    assert np.abs(head.predict(val) - 64 / 60).mean() < 0.1


def test_rows_without_masks_are_not_learnt_from_and_still_measured(plant):
    source, train, val, context = planted(plant)
    known = np.arange(len(train)) % 2 == 0
    refused = set(train.rows[~known].tolist())

    def read(row: int) -> np.ndarray:
        assert row not in refused
        return val.masks(row)

    partly = type(train)(source, train.rows, train.target, train.patients, read, known)
    head = FromMaskHead(MultiscaleHead(QUICK))
    head.fit(partly, val, context)
    assert np.isfinite(head.predict(type(train)(source, train.rows, train.target, train.patients))).all()
    none = type(train)(source, train.rows, train.target, train.patients, read, np.zeros(len(train), dtype=bool))
    with pytest.raises(EvalfmError, match="No image here has the masks"):
        head.fit(none, val, context)


def test_refusals(plant):
    source, train, val, context = planted(plant)
    bare = type(train)(source, train.rows, train.target, train.patients)
    with pytest.raises(EvalfmError, match="measures masks"):
        FromMaskHead().fit(bare, val, context)
    with pytest.raises(EvalfmError, match="none to measure"):
        FromMaskHead().fit(train, val, Context("regression", ("size",)))
    with pytest.raises(EvalfmError, match="serves regression tasks"):
        FromMaskHead().fit(train, val, Context("binary", ("size",)))
    with pytest.raises(EvalfmError, match="not been fitted"):
        FromMaskHead().predict(val)


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
