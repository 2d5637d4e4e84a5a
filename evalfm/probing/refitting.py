"""Heads fitted again on resampled patients of train and val: how far another sample would have moved the scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from evalfm.config import ProbeConfig
from evalfm.heads.head import Context, Drawn, Examples, Head, HeldExamples, PooledHead
from evalfm.probing.labelled import SplitAssignment
from evalfm.probing.scoring import score_pooled
from evalfm.probing.splits import Split, unlearnable
from evalfm.record import RefitSection
from evalfm.refits import REFIT
from evalfm.tasks.cohort import Cohort

LARGEST_COUNT = 40
"""More often a patient is drawn with a probability below 1e-48."""
MOST_COST = 1 << 33
"""Multiplications of one refit: of a linear head on 220,000 images of 768 features, some seconds."""
TRIES = 10
"""So many draws are looked at for each refit, before there are fewer refits."""


@dataclass(frozen=True)
class Draws:
    """The resamples of a cohort's training patients.

    Attributes:
        numbers: of the draws that are used; a number says by itself how often a patient is drawn.
        looked_at: how many were looked at to find them.
        choose: whether val chooses again in every refit.
    """

    numbers: tuple[int, ...]
    looked_at: int
    choose: bool

    @property
    def section(self) -> RefitSection:
        """What a run says of them."""
        return RefitSection(numbers=list(self.numbers), looked_at=self.looked_at, chosen_again=self.choose)


NOTHING_LEARNT = RefitSection(numbers=[], looked_at=0, chosen_again=False, learns=False)


def has_refits(config: ProbeConfig, head: Head, assignment: SplitAssignment, dimensions: int) -> bool:
    """Whether runs of ``head`` hold refits: of a frozen encoder, where training images are no draw of a few.

    And where the images, with features of so many ``dimensions``, are no more than can be learnt from in seconds.
    """
    return wants_refits(config, head) and not takes_long(head, assignment, dimensions)


def wants_refits(config: ProbeConfig, head: Head) -> bool:
    """The same whatever the number of images."""
    few = config.shots is not None or config.episodes is not None or config.base_to_novel
    return bool(config.refits and head.refits_cheaply and config.adaptation == "frozen" and not few)


def takes_long(head: Head, assignment: SplitAssignment, dimensions: int) -> bool:
    """Whether a refit of ``head`` is too much work to be done many times."""
    tested = 0 if assignment.test is None else len(assignment.test)
    return isinstance(head, PooledHead) and any(
        head.refit_cost(len(split.train), len(split.val) + (tested or len(split.test)), dimensions) > MOST_COST
        for split in assignment.splits
    )


def multiplicities(patients: NDArray[np.object_], numbers: Sequence[int]) -> NDArray[np.intp]:
    """How often each row is drawn in each of the draws ``numbers``, [R, N]: Poisson with mean 1, by patient.

    It is a function of the draw's number and the patient's id alone (their hash), so that every fold and encoder, and
    every run of the same patients, has the same draws.

    >>> multiplicities(np.array(["a", "b", "a"], dtype=object), [0, 1, 2]).tolist()
    [[3, 1, 3], [2, 0, 2], [2, 2, 2]]
    """
    names, codes = np.unique(patients.astype(str), return_inverse=True)
    cumulated = stats.poisson.cdf(np.arange(LARGEST_COUNT), 1)
    blocks = sorted({number // 4 for number in numbers})
    uniform = {
        block: np.frombuffer(
            b"".join(hashlib.sha256(f"refit {block} {name}".encode()).digest() for name in names), dtype="<u8"
        ).reshape(len(names), 4)
        / 2.0**64
        for block in blocks
    }
    drawn = [np.searchsorted(cumulated, uniform[number // 4][:, number % 4]) for number in numbers]
    return np.asarray(np.reshape(drawn, (len(drawn), len(names)))[:, codes], dtype=np.intp)


def draws_of(assignment: SplitAssignment, count: int, *, choose: bool) -> Draws:
    """The first ``count`` draws in which every split can be learnt and chosen on; fewer of so rare classes.

    That depends on patients and truth alone, so it is the same for every encoder.
    """
    numbers: list[int] = []
    looked_at = 0
    while len(numbers) < count and looked_at < TRIES * count:
        block = range(looked_at, min(looked_at + count, TRIES * count))
        able = np.all([_learnable(assignment.cohort, split, block) for split in assignment.splits], axis=0)
        for number, learnable in zip(block, able, strict=True):
            looked_at += 1
            if learnable:
                numbers.append(number)
            if len(numbers) == count:
                break
    return Draws(tuple(numbers), looked_at, choose)


def _learnable(cohort: Cohort, split: Split, numbers: Sequence[int]) -> NDArray[np.bool_]:
    """Whether the rows of train, and of val, that each draw takes show two classes of each label that can be learnt."""
    return _show_two(cohort, split, split.train, numbers) & _show_two(cohort, split, split.val, numbers)


def _show_two(cohort: Cohort, split: Split, positions: NDArray[np.intp], numbers: Sequence[int]) -> NDArray[np.bool_]:
    """The same of the rows at ``positions``, [R]."""
    target = cohort.target[positions]
    lost = unlearnable(cohort, split)
    if cohort.kind.several_labels:
        target = target[:, [name not in lost for name in cohort.class_names]]
    times = multiplicities(cohort.manifest.patients[cohort.rows[positions]], numbers)
    able = np.ones(len(numbers), dtype=bool)
    for column in target.reshape(len(target), -1).T:
        known = np.isfinite(column)
        if not cohort.kind.has_classes:
            able &= times @ known > 1
            continue
        able &= np.sum([times @ (column == each) > 0 for each in np.unique(column[known])], axis=0) > 1
    return able


def refitted(
    head: PooledHead,
    assignment: SplitAssignment,
    split: Split,
    examples: tuple[Examples, Examples, Examples],
    context: Context,
    draws: Draws,
    rule: str,
) -> pd.DataFrame:
    """The test scores of every refit of a fitted ``head``, beside the number of its draw, in the order of ``examples``.

    Args:
        examples: of train, val and test.
        rule: by which the drawn val chooses each refit's own threshold.
    """
    cohort = assignment.cohort
    train, val, test = (HeldExamples.of(each) for each in examples)
    drawn = Drawn(multiplicities(train.patients, draws.numbers), multiplicities(val.patients, draws.numbers))
    truth, tables = set(cohort.kind.truth_columns(cohort.class_names)), []
    heads = head.refits(train, val, context, drawn, choose=draws.choose)
    for number, of_val, each in zip(draws.numbers, drawn.val, heads, strict=True):
        table = score_pooled(each, val.repeated(of_val), test, cohort.task, cohort.class_names, rule).test
        table = table[[name for name in table if name not in truth]].astype(np.float32)
        for label in unlearnable(cohort, split):
            table[f"score_{label}"] = np.float32(np.nan)
        table.insert(0, REFIT, np.int16(number))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
