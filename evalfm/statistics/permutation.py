"""Does a score depend on an attribute: permutations of it among patients who are alike in all else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evalfm.statistics.resampling import Mask, Positions, Values

PERMUTATIONS = 2000
_CELLS = 1 << 18
"""Rows times permutations held at once: few enough for the cache."""


def constant_in_patients(member: ArrayLike, patient: ArrayLike) -> bool:
    """Whether every patient has one value of ``member`` [N] in all rows.

    >>> constant_in_patients([1, 1, 0], ["a", "a", "b"]), constant_in_patients([1, 0, 0], ["a", "a", "b"])
    (True, False)
    """
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
        member: whether the row has the attribute, [N]; the same in all rows of a patient.
        score: [N].
        patient: patient id of each row, [N].
        alike: kind of the patient, [N]; only patients of one kind exchange.
        folds: fold of each row, [N]; the statistic is then the mean over folds, and patients exchange within a fold.
        permutations: how many.
        seed: of the permutations.

    Raises:
        ValueError: ``member`` varies within a patient.

    >>> member, score = [0, 1] * 15, [(i * 7 % 30) / 30 + 0.3 * (i % 2) for i in range(30)]
    >>> round(attribute_permutation(member, score, patient=range(30), alike=[0] * 30, permutations=500), 3)
    0.006
    """
    inside, values, codes = np.asarray(member).astype(bool), np.asarray(score, dtype=np.float64), _codes(patient)
    if not constant_in_patients(inside, codes):
        raise ValueError("the attribute varies within a patient; there is nothing that may be exchanged")
    fold = np.zeros(len(values), dtype=np.intp) if folds is None else _codes(folds)
    first = np.unique(codes, return_index=True)[1]
    own = inside[first]
    kinds = _codes(np.stack([fold[first], _codes(alike)[first]], axis=1))
    ranked = _ranked(values, codes, fold)
    observed = _studentised(own[None], ranked)[0]
    generator = np.random.default_rng(seed)
    extreme, done, width = 0, 0, max(1, _CELLS // len(values))
    while done < permutations:
        count = min(width, permutations - done)
        exchanged = np.abs(_studentised(_exchanged(own, kinds, count, generator), ranked))
        # A draw that is the data itself must count, whatever rounding does to it.
        extreme += int((exchanged >= abs(observed) * (1 - 1e-12)).sum())
        done += count
    return (1 + extreme) / (1 + permutations)


def _codes(names: ArrayLike) -> Positions:
    """A number for each different name [N], or row of names [N, K]."""
    return np.unique(np.asarray(names), axis=0, return_inverse=True)[1].reshape(-1).astype(np.intp)


def _exchanged(own: Mask, kinds: Positions, count: int, generator: np.random.Generator) -> Mask:
    """[count, patients]: the attribute permuted among the patients of each kind."""
    drawn = np.tile(own, (count, 1))
    for kind in range(int(kinds.max()) + 1):
        places = np.flatnonzero(kinds == kind)
        if 0 < own[places].sum() < len(places):
            drawn[:, places] = generator.permuted(drawn[:, places], axis=1)
    return drawn


@dataclass(frozen=True)
class _Ranked:
    """The rows of a fold by ascending score, once for all permutations.

    Attributes:
        patient: [n] of each row; ``patients`` [p] those of the fold, in order.
        low, high: [n] how many rows score lower, lower or the same.
        tied: whether any two do.
        place, starts: rows by patient, and where each patient's begin.
        sizes: [p] rows of each patient.
    """

    patient: Positions
    patients: Positions
    low: Positions
    high: Positions
    tied: bool
    place: Positions
    starts: Positions
    sizes: Positions


def _ranked(score: Values, codes: Positions, fold: Positions) -> list[_Ranked]:
    """Every fold's rows ``score`` [N] of the patients ``codes`` [N]."""
    folds = []
    for each in range(int(fold.max()) + 1):
        rows = np.flatnonzero(fold == each)
        rows = rows[np.argsort(score[rows], kind="stable")]
        ranked = score[rows]
        low, high = np.searchsorted(ranked, ranked, "left"), np.searchsorted(ranked, ranked, "right")
        patients, sizes = np.unique(codes[rows], return_counts=True)
        place = np.argsort(codes[rows], kind="stable")
        starts = np.cumsum(sizes) - sizes
        folds.append(_Ranked(codes[rows], patients, low, high, bool((high - low > 1).any()), place, starts, sizes))
    return folds


def _studentised(own: Mask, folds: list[_Ranked]) -> Values:
    """(AUROC − .5) over its clustered standard error, per row of ``own`` [B, patients]; means over folds."""
    area, variance = np.zeros(len(own)), np.zeros(len(own))
    for fold in folds:
        one, error = _area_and_variance(own, fold)
        area += one / len(folds)
        variance += error / len(folds) ** 2
    # Without any spread there is no statistic: 0 where there is no difference, else as far out as can be.
    extreme = np.copysign(np.where(np.abs(area - 0.5) < 1e-15, 0.0, np.inf), area - 0.5)
    return np.divide(area - 0.5, np.sqrt(np.maximum(variance, 0)), out=extreme, where=variance > 0)


def _area_and_variance(own: Mask, fold: _Ranked) -> tuple[Values, Values]:
    """AUROC [B] and its variance by Obuchowski's clusters [B], for the members ``own`` [B, patients]."""
    member = own[:, fold.patient]
    totals = np.zeros((len(member), member.shape[1] + 1))
    np.cumsum(member, axis=1, out=totals[:, 1:])
    members = totals[:, -1:].copy()
    others = member.shape[1] - members
    # Members below each row, ties half; the others below it are the rest of the rows below.
    below = (totals[:, fold.low] + totals[:, fold.high]) / 2 if fold.tied else (totals[:, :-1] + totals[:, 1:]) / 2
    # What each row adds: a member the share of others that it beats, another the share of members that beat it.
    share = np.where(member, ((fold.low + fold.high) / 2 - below) / others, 1 - below / members)
    area = (share * member).sum(axis=1, keepdims=True) / members
    # A patient is a member in all rows or in none, so that no patient counts in both groups.
    if len(fold.patients) < member.shape[1]:
        share = np.add.reduceat(share[:, fold.place], fold.starts, axis=1)
    else:
        share = share[:, fold.place]
    squares = (share - fold.sizes * area) ** 2
    inside = own[:, fold.patients]
    of_members = (squares * inside).sum(axis=1) / members[:, 0] ** 2
    of_others = (squares * ~inside).sum(axis=1) / others[:, 0] ** 2
    with_member = inside.sum(axis=1)
    with_other = inside.shape[1] - with_member
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = with_member / (with_member - 1) * of_members + with_other / (with_other - 1) * of_others
    return area[:, 0], variance
