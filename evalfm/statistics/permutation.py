"""Does a score depend on an attribute: permutations of it among patients who are alike in all else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evalfm.statistics.resampling import Mask, Positions, Values

PERMUTATIONS = 2000
CELLS = 1 << 18
"""Rows times permutations held at once: few enough for the cache."""


def constant_in_patients(member: ArrayLike, patient: ArrayLike) -> bool:
    """Whether every patient has one value of ``member`` [N] in all rows.

    >>> constant_in_patients([1, 1, 0], ["a", "a", "b"]), constant_in_patients([1, 0, 0], ["a", "a", "b"])
    (True, False)
    """
    inside, codes = np.asarray(member).astype(bool), _codes(patient)
    within = np.bincount(codes, weights=inside)
    return bool((within * (np.bincount(codes) - within) == 0).all())


@dataclass(frozen=True)
class PermutedAttribute:
    """What permutations say of AUROC(attribute by score) = .5.

    Attributes:
        p: two-sided, (1 + as extreme) / (1 + permutations).
        critical: how many standard errors from .5 an AUROC must lie to be rejected at the level asked for: infinite
            where permutations of no spread are too many.
    """

    p: float
    critical: float


def attribute_permutation(
    member: ArrayLike,
    score: ArrayLike,
    patient: ArrayLike,
    alike: ArrayLike,
    *,
    folds: ArrayLike | None = None,
    level: float = 0.95,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> PermutedAttribute:
    """Test AUROC(``member`` by ``score``) = .5 by exchanging ``member`` among patients of one kind.

    The statistic is studentised: (AUROC − .5) over its clustered standard error, which holds its level where the two
    groups' spreads differ. Ties count. Where ``member`` varies within a patient, patients of one kind and of as many
    rows exchange all of it, and it is permuted within each patient.

    Args:
        member: whether the row has the attribute, [N].
        score: [N].
        patient: patient id of each row, [N].
        alike: kind of the patient, [N]; only patients of one kind exchange.
        folds: fold of each row, [N]; the statistic is then the mean over folds, and patients exchange within a fold.
        level: 1 − the size at which ``critical`` is given.
        permutations: how many.
        seed: of the permutations.

    >>> member, score = [0, 1] * 15, [(i * 7 % 30) / 30 + 0.3 * (i % 2) for i in range(30)]
    >>> found = attribute_permutation(member, score, patient=range(30), alike=[0] * 30, permutations=500)
    >>> round(found.p, 3), round(found.critical, 2)
    (0.006, 2.12)
    """
    inside, values, codes = np.asarray(member).astype(bool), np.asarray(score, dtype=np.float64), _codes(patient)
    fold = np.zeros(len(values), dtype=np.intp) if folds is None else _codes(folds)
    drawn: Iterator[Values]
    if constant_in_patients(inside, codes):
        first = np.unique(codes, return_index=True)[1]
        own = inside[first]
        kinds = _codes(np.stack([fold[first], _codes(alike)[first]], axis=1))
        ranked = _ranked(values, codes, fold)
        generator = np.random.default_rng(seed)
        observed = _studentised(own[None], ranked)[0]
        sizes = _blocks(permutations, len(values))
        drawn = (_studentised(_exchanged(own, kinds, count, generator), ranked) for count in sizes)
    else:
        kinds = _codes(np.stack([fold, _codes(alike)], axis=1))
        parts = [(rows, *_by_rank(values[rows], codes[rows])) for rows in (fold == each for each in np.unique(fold))]
        observed = _studentised_rows(inside[None], parts)[0]
        drawn = (_studentised_rows(inside[places], parts) for places in exchanges(codes, kinds, permutations, seed))
    statistics = np.abs(np.concatenate(list(drawn)))
    # A draw that is the data itself must count, whatever rounding does to it.
    extreme = int((statistics >= abs(observed) * (1 - 1e-12)).sum())
    critical = float(np.sort(np.append(statistics, abs(observed)))[int(np.ceil(level * (1 + permutations))) - 1])
    return PermutedAttribute((1 + extreme) / (1 + permutations), critical)


def exchanges(patient: ArrayLike, alike: ArrayLike, permutations: int, seed: int = 0) -> Iterator[Positions]:
    """Blocks [B, N] of permutations of N rows: patients of one kind and as many rows change places, row by row.

    Within a patient the rows are permuted too. Together the blocks hold ``permutations`` rows.

    Args:
        patient: patient id of each row, [N].
        alike: kind of the patient, [N].
        permutations: how many.
        seed: of the permutations.

    >>> (block,) = exchanges(["a", "a", "b", "b", "c"], [0] * 5, permutations=4)
    >>> block.shape, set(block[:, 4].tolist()), np.sort(block, axis=1)[0].tolist()
    ((4, 5), {4}, [0, 1, 2, 3, 4])
    """
    codes, kinds = _codes(patient), _codes(alike)
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    # Patients who may change places, as the positions of their rows [patients, rows of each].
    groups = _codes(np.stack([kinds[order[starts]], sizes], axis=1))
    members = [np.flatnonzero(groups == each) for each in range(int(groups.max()) + 1)]
    blocks = [order[starts[each][:, None] + np.arange(sizes[each[0]])] for each in members]
    generator = np.random.default_rng(seed)
    for count in _blocks(permutations, len(codes)):
        places = np.empty((count, len(codes)), dtype=np.intp)
        for block in blocks:
            drawn = np.tile(np.arange(len(block)), (count, 1))
            drawn = generator.permuted(drawn, axis=1, out=drawn)
            rows = block[drawn]
            if block.shape[1] > 1:
                rows = generator.permuted(rows, axis=2)
            places[:, block.ravel()] = rows.reshape(count, -1)
        yield places


def _blocks(permutations: int, rows: int) -> list[int]:
    """How many permutations are held at once, block by block."""
    width = max(1, CELLS // rows)
    return [min(width, permutations - done) for done in range(0, permutations, width)]


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


def _by_rank(score: Values, codes: Positions) -> tuple[Positions, Positions, Positions, Positions, Positions]:
    """Rows by ascending score, how many score lower and lower or the same, and rows by patient with their starts."""
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    low, high = np.searchsorted(ranked, ranked, "left"), np.searchsorted(ranked, ranked, "right")
    place = np.argsort(codes[order], kind="stable")
    counts = np.unique(codes, return_counts=True)[1]
    return order, low, high, place, np.cumsum(counts) - counts


def _studentised_rows(
    member: Mask, parts: list[tuple[Mask, Positions, Positions, Positions, Positions, Positions]]
) -> Values:
    """(AUROC − .5) over its standard error [B] for members by row [B, N]; a patient may have rows of both kinds."""
    area, variance = np.zeros(len(member)), np.zeros(len(member))
    for rows, order, low, high, place, starts in parts:
        own = member[:, rows][:, order]
        totals = np.zeros((len(own), own.shape[1] + 1))
        np.cumsum(own, axis=1, out=totals[:, 1:])
        members = totals[:, -1:]
        others = own.shape[1] - members
        below = (totals[:, low] + totals[:, high]) / 2
        share = np.where(own, ((low + high) / 2 - below) / others, 1 - below / members)
        one = (share * own).sum(axis=1, keepdims=True) / members
        centred = (share - one)[:, place]
        inside = own[:, place]
        by_members = np.add.reduceat(centred * inside, starts, axis=1) / members
        by_others = np.add.reduceat(centred * ~inside, starts, axis=1) / others
        held = np.add.reduceat(inside, starts, axis=1, dtype=np.intp)
        sizes = np.diff(np.append(starts, own.shape[1]))
        with_member, with_other = (held > 0).sum(axis=1), (held < sizes).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = (
                with_member / (with_member - 1) * (by_members**2).sum(axis=1)
                + with_other / (with_other - 1) * (by_others**2).sum(axis=1)
                + 2 * len(starts) / (len(starts) - 1) * (by_members * by_others).sum(axis=1)
            )
        area += one[:, 0] / len(parts)
        variance += spread / len(parts) ** 2
    extreme = np.copysign(np.where(np.abs(area - 0.5) < 1e-15, 0.0, np.inf), area - 0.5)
    return np.divide(area - 0.5, np.sqrt(np.maximum(variance, 0)), out=extreme, where=variance > 1e-18)
