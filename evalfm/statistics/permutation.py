"""Does a score tell an attribute: permutations of the attribute among patients who are alike in all but it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalfm.statistics.resampling import Positions, Values

PERMUTATIONS = 2000
_CELLS = 4_000_000
"""Rows times permutations held at once."""


def constant_in_patients(member: ArrayLike, patient: ArrayLike) -> bool:
    """Whether every patient has one value of ``member`` [N] in all rows."""
    inside, codes = np.asarray(member).astype(bool), _codes(patient)
    within = np.bincount(codes, weights=inside)
    return bool((within * (np.bincount(codes) - within) == 0).all())


def attribute_permutation(
    member: ArrayLike,
    score: ArrayLike,
    patient: ArrayLike,
    alike: ArrayLike,
    *,
    folds: ArrayLike | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """Two-sided p of AUROC(``member`` by ``score``) = .5 by exchanging ``member`` among patients of one kind.

    The statistic is studentised: (AUROC − .5) over its clustered standard error, which holds its level where the two
    groups' spreads differ. Ties count; p is (1 + as extreme) / (1 + permutations).

    Args:
        member: [N] the attribute, the same in all rows of a patient.
        score: [N].
        patient: [N].
        alike: [N] the kind of the patient; only patients of one kind exchange.
        folds: [N]; the statistic is then the mean over folds, and patients exchange within a fold.
        permutations: how many.
        seed: of the permutations.

    Raises:
        ValueError: ``member`` varies within a patient.
    """
    inside, values, codes = np.asarray(member).astype(bool), np.asarray(score, dtype=np.float64), _codes(patient)
    if not constant_in_patients(inside, codes):
        raise ValueError("the attribute varies within a patient; there is nothing that may be exchanged")
    fold = np.zeros(len(values), dtype=np.intp) if folds is None else _codes(folds)
    first = np.unique(codes, return_index=True)[1]
    own = inside[first]
    kinds = _codes(np.stack([fold[first], _codes(alike)[first]], axis=1))
    observed = _studentised(own[None, codes], values, codes, fold)[0]
    generator = np.random.default_rng(seed)
    extreme, done, width = 0, 0, max(1, _CELLS // len(values))
    while done < permutations:
        count = min(width, permutations - done)
        drawn = _exchanged(own, kinds, count, generator)
        found = np.abs(_studentised(drawn[:, codes], values, codes, fold))
        # A draw that is the data itself must count whatever rounding does to it.
        extreme += int((found >= abs(observed) * (1 - 1e-12)).sum())
        done += count
    return (1 + extreme) / (1 + permutations)


def _codes(names: ArrayLike) -> Positions:
    """A number for each different name [N], or row of names [N, K]."""
    return np.unique(np.asarray(names), axis=0, return_inverse=True)[1].reshape(-1).astype(np.intp)


def _exchanged(
    own: NDArray[np.bool_], kinds: Positions, count: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """[count, patients]: the attribute dealt anew among the patients of each kind."""
    drawn = np.tile(own, (count, 1))
    for kind in range(int(kinds.max()) + 1):
        places = np.flatnonzero(kinds == kind)
        if 0 < own[places].sum() < len(places):
            drawn[:, places] = generator.permuted(drawn[:, places], axis=1)
    return drawn


def _studentised(inside: NDArray[np.bool_], score: Values, codes: Positions, fold: Positions) -> Values:
    """(AUROC − .5) over its clustered standard error, per row of ``inside`` [B, N]; means over folds."""
    area, variance = np.zeros(len(inside)), np.zeros(len(inside))
    count = int(fold.max()) + 1
    for each in range(count):
        rows = fold == each
        one, own = _area_and_variance(inside[:, rows], score[rows], _codes(codes[rows]))
        area += one / count
        variance += own / count**2
    # Without any spread there is no statistic: 0 where there is no difference, else as far out as can be.
    extreme = np.copysign(np.where(np.abs(area - 0.5) < 1e-15, 0.0, np.inf), area - 0.5)
    return np.divide(area - 0.5, np.sqrt(np.maximum(variance, 0)), out=extreme, where=variance > 0)


def _area_and_variance(inside: NDArray[np.bool_], score: Values, codes: Positions) -> tuple[Values, Values]:
    """AUROC [B] and its variance by Obuchowski's clusters [B], for members ``inside`` [B, N] of the same rows."""
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    low, high = np.searchsorted(ranked, ranked, "left"), np.searchsorted(ranked, ranked, "right")
    member = inside[:, order].astype(np.float64)
    totals = np.zeros((len(member), member.shape[1] + 1))
    np.cumsum(member, axis=1, out=totals[:, 1:])
    members = totals[:, -1:]
    others = member.shape[1] - members
    # Members below each row, ties half; the others below it are the rest of the rows below.
    below = (totals[:, low] + totals[:, high]) / 2
    wins = ((low + high) / 2 - below) / others
    beaten = 1 - below / members
    area = (wins * member).sum(axis=1, keepdims=True) / members
    by_member = member * (wins - area) / members
    by_other = (1 - member) * (beaten - area) / others
    have = member
    if int(codes.max()) + 1 < member.shape[1]:
        place = np.argsort(codes[order], kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(codes))[:-1]])
        by_member, by_other, have = (
            np.add.reduceat(each[:, place], starts, axis=1) for each in (by_member, by_other, member)
        )
    with_member = (have > 0).sum(axis=1)
    with_other = have.shape[1] - with_member
    # A patient is a member in all rows or in none, so that nobody stands on both sides.
    with np.errstate(divide="ignore", invalid="ignore"):
        of_members = with_member / (with_member - 1) * (by_member**2).sum(axis=1)
        of_others = with_other / (with_other - 1) * (by_other**2).sum(axis=1)
    return area[:, 0], of_members + of_others
