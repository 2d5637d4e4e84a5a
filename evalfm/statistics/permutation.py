"""Does a score tell an attribute: permutations of the attribute among patients who are alike in all but it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalfm.statistics.resampling import Positions, Values

PERMUTATIONS = 2000
_CELLS = 1 << 18
"""Rows times permutations held at once: few enough for the cache."""


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
    parts = _ranked(values, codes, fold)
    observed = _studentised(own[None], parts)[0]
    generator = np.random.default_rng(seed)
    extreme, done, width = 0, 0, max(1, _CELLS // len(values))
    while done < permutations:
        count = min(width, permutations - done)
        found = np.abs(_studentised(_exchanged(own, kinds, count, generator), parts))
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
    parts = []
    for each in range(int(fold.max()) + 1):
        rows = np.flatnonzero(fold == each)
        rows = rows[np.argsort(score[rows], kind="stable")]
        ranked = score[rows]
        low, high = np.searchsorted(ranked, ranked, "left"), np.searchsorted(ranked, ranked, "right")
        patients, sizes = np.unique(codes[rows], return_counts=True)
        place = np.argsort(codes[rows], kind="stable")
        starts = np.cumsum(sizes) - sizes
        parts.append(_Ranked(codes[rows], patients, low, high, bool((high - low > 1).any()), place, starts, sizes))
    return parts


def _studentised(own: NDArray[np.bool_], parts: list[_Ranked]) -> Values:
    """(AUROC − .5) over its clustered standard error, per row of ``own`` [B, patients]; means over folds."""
    area, variance = np.zeros(len(own)), np.zeros(len(own))
    for part in parts:
        one, error = _area_and_variance(own, part)
        area += one / len(parts)
        variance += error / len(parts) ** 2
    # Without any spread there is no statistic: 0 where there is no difference, else as far out as can be.
    extreme = np.copysign(np.where(np.abs(area - 0.5) < 1e-15, 0.0, np.inf), area - 0.5)
    return np.divide(area - 0.5, np.sqrt(np.maximum(variance, 0)), out=extreme, where=variance > 0)


def _area_and_variance(own: NDArray[np.bool_], part: _Ranked) -> tuple[Values, Values]:
    """AUROC [B] and its variance by Obuchowski's clusters [B], for the members ``own`` [B, patients]."""
    member = own[:, part.patient]
    totals = np.zeros((len(member), member.shape[1] + 1))
    np.cumsum(member, axis=1, out=totals[:, 1:])
    members = totals[:, -1:].copy()
    others = member.shape[1] - members
    # Members below each row, ties half; the others below it are the rest of the rows below.
    below = (totals[:, part.low] + totals[:, part.high]) / 2 if part.tied else (totals[:, :-1] + totals[:, 1:]) / 2
    # What each row adds: a member the share of others that it beats, another the share of members that beat it.
    share = np.where(member, ((part.low + part.high) / 2 - below) / others, 1 - below / members)
    area = (share * member).sum(axis=1, keepdims=True) / members
    # A patient is a member in all rows or in none, so that nobody stands on both sides.
    if len(part.patients) < member.shape[1]:
        share = np.add.reduceat(share[:, part.place], part.starts, axis=1)
    else:
        share = share[:, part.place]
    squares = (share - part.sizes * area) ** 2
    inside = own[:, part.patients]
    of_members = (squares * inside).sum(axis=1) / members[:, 0] ** 2
    of_others = (squares * ~inside).sum(axis=1) / others[:, 0] ** 2
    with_member = inside.sum(axis=1)
    with_other = inside.shape[1] - with_member
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = with_member / (with_member - 1) * of_members + with_other / (with_other - 1) * of_others
    return area[:, 0], variance
