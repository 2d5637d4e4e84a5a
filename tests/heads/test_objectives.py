"""Losses and val scores against plain computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax

from evalfm.errors import EvalfmError
from evalfm.heads.head import Context
from evalfm.heads.module import Layout
from evalfm.heads.objectives import (
    ClassObjective,
    LabelObjective,
    MaskObjective,
    ValueObjective,
    objective_of,
    restored_objective,
)

DRAW = np.random.default_rng(0)


def answers(*shape: int) -> np.ndarray:
    return DRAW.normal(size=shape)


def log_loss(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    score = expit(logits)
    return -(target * np.log(score) + (1 - target) * np.log(1 - score))


def test_labels_are_averaged_over_the_known_ones_label_by_label():
    logits = answers(2, 6, 3)
    target = DRAW.integers(0, 2, (6, 3)).astype(float)
    target[[0, 1], 0] = np.nan
    target[:, 2] = [1, np.nan, np.nan, np.nan, np.nan, np.nan]
    found = LabelObjective(("a", "b", "c")).loss(torch.from_numpy(logits), torch.from_numpy(target))
    expected = [np.mean([np.nanmean(log_loss(each, target)[:, k]) for k in range(3)]) for each in logits]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_smoothed_labels():
    objective = LabelObjective(("a",))
    objective.smooth(0.2)
    logits, target = answers(1, 5, 1), DRAW.integers(0, 2, (5, 1)).astype(float)
    expected = log_loss(logits[0], target * 0.8 + 0.1).mean()
    assert objective.loss(torch.from_numpy(logits), torch.from_numpy(target)).item() == pytest.approx(expected)


def test_classes():
    objective = ClassObjective(("a", "b", "c"))
    logits, target = answers(2, 7, 3), DRAW.integers(0, 3, 7)
    found = objective.loss(torch.from_numpy(logits), torch.from_numpy(target))
    expected = [-log_softmax(each, axis=1)[np.arange(7), target].mean() for each in logits]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    objective.smooth(0.3)
    smooth = [0.7 * expected[i] - 0.3 * log_softmax(each, axis=1).mean() for i, each in enumerate(logits)]
    found = objective.loss(torch.from_numpy(logits), torch.from_numpy(target))
    assert found.tolist() == pytest.approx(smooth, rel=1e-6)


def test_values_are_learnt_standardised_and_scored_in_their_own_unit():
    target = DRAW.normal(1000, 0.01, 50)
    objective = ValueObjective.of(target)
    given = torch.from_numpy((target - target.mean()) / target.std())[:, None]
    guess = torch.from_numpy(answers(2, 50, 1))
    found = objective.loss(guess, given)
    assert found.tolist() == pytest.approx(
        [float(np.square(g[:, 0] - given[:, 0].numpy()).mean()) for g in guess.numpy()]
    )
    tally = objective.tally(2)
    tally.add(guess, given)
    values = objective.link(guess).numpy()[..., 0]
    assert tally.score().tolist() == pytest.approx(np.square(values - target).mean(1).tolist(), rel=1e-6)


def test_a_target_that_never_moves_is_not_divided_by_zero():
    objective = ValueObjective.of(np.full(4, 3.0))
    assert objective.link(torch.zeros(1)).tolist() == [3.0]


@pytest.mark.parametrize(
    ("objective", "shape", "target"),
    [
        (
            LabelObjective(("a", "b")),
            (2, 11, 2),
            np.where(DRAW.random((11, 2)) < 0.3, np.nan, DRAW.integers(0, 2, (11, 2))),
        ),
        (ClassObjective(("a", "b", "c")), (2, 11, 3), DRAW.integers(0, 3, 11)),
        (ValueObjective(0.0, 2.0), (2, 11, 1), answers(11, 1)),
        (MaskObjective(("a",)), (2, 11, 1, 4, 4), (DRAW.random((11, 1, 4, 4)) < 0.3).astype(np.uint8) * 255),
    ],
)
def test_val_scores_do_not_depend_on_the_batches_nor_on_the_processes(objective, shape, target):
    guess, truth = torch.from_numpy(answers(*shape)), torch.from_numpy(target)
    whole = objective.tally(2)
    whole.add(guess, truth)
    parts = objective.tally(2)
    for start in range(0, 11, 4):
        parts.add(guess[:, start : start + 4], truth[start : start + 4])
    assert parts.score().tolist() == pytest.approx(whole.score().tolist(), rel=1e-9)
    halves = [objective.tally(2) for _ in range(2)]
    for rank, half in enumerate(halves):
        half.add(guess[:, rank::2], truth[rank::2])
    # Two processes: each tensor of the one is added to that of the other, in the order in which merge sends them.
    sent: list[torch.Tensor] = []
    halves[1].merge(lambda tensor: (sent.append(tensor), tensor)[1], torch.device("cpu"))
    theirs = iter(sent)
    halves[0].merge(lambda tensor: tensor + next(theirs), torch.device("cpu"))
    assert halves[0].score().tolist() == pytest.approx(whole.score().tolist(), rel=1e-9)


def test_the_first_answer_is_what_train_says():
    labels = torch.tensor([[1.0, 0.0], [0.0, torch.nan], [0.0, 1.0], [0.0, 1.0]])
    start = LabelObjective(("a", "b")).start(labels, 0.0)
    assert torch.sigmoid(start).tolist() == pytest.approx([1 / 4, 2 / 3], rel=1e-5)
    classes = ClassObjective(("a", "b", "c")).start(torch.tensor([0, 0, 0, 1]), 0.0)
    assert torch.softmax(classes, 0).tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7], rel=1e-5)
    masks = torch.zeros(4, 1, 10, 10, dtype=torch.uint8)
    masks[0, 0, :2] = 255
    for share, expected in ((0.0, 0.05), (0.5, 0.1)):
        found = torch.sigmoid(MaskObjective(("a",)).start(masks, share))
        assert found.tolist() == pytest.approx([expected], rel=1e-4)


def test_each_kind_has_its_objective_and_its_link_comes_back(make_examples, array_source):
    source = array_source(torch.zeros(3, 2))
    examples = make_examples(source, range(3), [5.0, 6.0, 9.0])
    for kind, grid in (("binary", None), ("multiclass", None), ("regression", None), ("segmentation", (2, 2))):
        objective = objective_of(examples, Context(kind, ("a", "b")))
        layout = Layout(2, (), (), 2, grid)
        again = restored_objective(objective.tensors(), layout)
        guess = torch.from_numpy(answers(4, 2))
        assert type(again) is type(objective)
        assert torch.equal(again.link(guess), objective.link(guess))


def test_what_cannot_be_learnt_is_refused():
    with pytest.raises(EvalfmError, match="one class only"):
        LabelObjective(("a",)).check(torch.ones(4, 1), "train")
    with pytest.raises(EvalfmError, match="one class only"):
        ClassObjective(("a", "b")).check(torch.zeros(4, dtype=torch.int64), "val")
    with pytest.raises(EvalfmError, match="two or more"):
        ValueObjective(0, 1).check(torch.zeros(1, 1), "train")
    with pytest.raises(EvalfmError, match="No image of val shows a"):
        MaskObjective(("a",)).check(torch.zeros(2, 1, 2, 2), "val")
    with pytest.raises(EvalfmError, match="label_smoothing"):
        ValueObjective(0, 1).smooth(0.1)
