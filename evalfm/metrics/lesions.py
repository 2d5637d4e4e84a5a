"""Which lesions a predicted mask finds: connected regions of truth and prediction, matched one to one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

LEAST_IOU = 0.1
"""Intersection over union from which a candidate hits a lesion (Jaeger et al. 2020; nnDetection)."""


@dataclass(frozen=True)
class LesionMatch:
    """Regions of one image, which eight neighbours connect.

    Attributes:
        lesion_pixels: size of each lesion of the truth, [L].
        candidate_pixels: size of each region of the prediction, [C].
        score: the largest probability in each region of the prediction, [C]; NaN where only the mask is known.
        hit: number of the lesion that each candidate hits, [C]; −1 where none.
    """

    lesion_pixels: NDArray[np.intp]
    candidate_pixels: NDArray[np.intp]
    score: NDArray[np.float64]
    hit: NDArray[np.intp]

    @property
    def lesion_score(self) -> NDArray[np.float64]:
        """Score of the candidate that hits each lesion, [L]; NaN where none does, or where no score is known."""
        found = np.full(len(self.lesion_pixels), np.nan)
        found[self.hit[self.hit >= 0]] = self.score[self.hit >= 0]
        return found

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which lesions are hit, [L]."""
        found = np.zeros(len(self.lesion_pixels), dtype=bool)
        found[self.hit[self.hit >= 0]] = True
        return found


def match_lesions(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    probability: NDArray[np.floating] | None = None,
    least_iou: float = LEAST_IOU,
) -> LesionMatch:
    """Match the regions of a predicted mask [H, W] with those of the truth [H, W].

    Pairs are taken from the largest intersection over union down to ``least_iou``, each region once: of two lesions
    under one candidate one is missed, and of two candidates on one lesion one is a false positive. Scores decide
    nothing here, so that masks from elsewhere are matched as those with probabilities are.

    >>> truth = np.zeros((8, 8), dtype=bool)
    >>> truth[1:4, 1:4] = truth[6, 6] = True
    >>> found = match_lesions(np.roll(truth, 1, axis=1), truth, 0.5 + 0.01 * np.arange(64).reshape(8, 8))
    >>> found.lesion_pixels.tolist(), found.hit.tolist(), found.score.round(2).tolist()
    ([9, 1], [0, -1], [0.78, 1.05])
    """
    lesions, candidates = regions(truth), regions(predicted)
    score = np.full(len(candidates.sizes), np.nan)
    if probability is not None and len(score):
        score[:] = -np.inf
        np.maximum.at(score, candidates.number, probability.ravel()[candidates.pixel].astype(np.float64))
    hit = np.full(len(score), -1, dtype=np.intp)
    pairs, shared = _shared(candidates, lesions)
    one, other = np.divmod(pairs, max(1, len(lesions.sizes)))
    overlap = shared / (candidates.sizes[one] + lesions.sizes[other] - shared)
    taken = np.zeros(len(lesions.sizes), dtype=bool)
    for place in np.argsort(-overlap, kind="stable"):
        if overlap[place] >= least_iou and hit[one[place]] < 0 and not taken[other[place]]:
            hit[one[place]], taken[other[place]] = other[place], True
    return LesionMatch(lesions.sizes, candidates.sizes, score, hit)


@dataclass(frozen=True)
class Regions:
    """The regions of a mask, numbered from 0 in the order of their first pixels, row by row.

    Attributes:
        pixel: position of each pixel of the mask in the flattened image, ascending, [n].
        number: its region, [n].
        sizes: pixels of each region, [R].
    """

    pixel: NDArray[np.intp]
    number: NDArray[np.intp]
    sizes: NDArray[np.intp]


def regions(mask: NDArray[np.bool_]) -> Regions:
    """The regions of ``mask`` [H, W] that eight neighbours connect.

    >>> found = regions(np.array([[True, False, True], [False, False, False], [True, True, False]]))
    >>> found.number.tolist(), found.sizes.tolist()
    ([0, 1, 2, 2], [1, 1, 2])
    """
    width = mask.shape[1]
    pixel = np.flatnonzero(mask)
    if not pixel.size:
        return Regions(pixel, pixel, pixel)
    # Stretches of a row are joined, not pixels: most of an image is empty, and labelling takes time by the pixel.
    begins = np.flatnonzero(np.append(True, (np.diff(pixel) > 1) | (pixel[1:] % width == 0)))
    start, end = pixel[begins], pixel[np.append(begins[1:], pixel.size) - 1]
    below = (start // width + 1) * width
    first = np.searchsorted(end, np.maximum(start + width - 1, below))
    last = np.searchsorted(start, np.minimum(end + width + 1, below + width - 1), side="right")
    touching = np.maximum(last - first, 0)
    one = np.repeat(np.arange(len(start)), touching)
    other = np.arange(touching.sum()) - np.repeat(np.cumsum(touching) - touching, touching) + first[one]
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(len(start), len(start)))
    count, of_stretch = connected_components(graph, directed=False)
    # In the order of first pixels, whatever the library's is.
    renamed = np.empty(count, dtype=np.intp)
    renamed[of_stretch[np.sort(np.unique(of_stretch, return_index=True)[1])]] = np.arange(count)
    number = np.repeat(renamed[of_stretch], np.diff(np.append(begins, pixel.size)))
    return Regions(pixel, number, np.bincount(number, minlength=count))


def _shared(candidates: Regions, lesions: Regions) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs that touch, as candidate × lesions + lesion [n], and how many pixels each shares [n]."""
    if not candidates.pixel.size or not lesions.pixel.size:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    place = np.searchsorted(lesions.pixel, candidates.pixel)
    place[place == lesions.pixel.size] = 0
    both = lesions.pixel[place] == candidates.pixel
    pair = candidates.number[both] * len(lesions.sizes) + lesions.number[place[both]]
    pairs, shared = np.unique(pair, return_counts=True)
    return pairs, shared


COUNTS = ("lesions", "lesions_found", "false_positives")
"""Columns of predictions that count the regions of an image, by class."""


def lesion_counts(match: LesionMatch) -> dict[str, float]:
    """``COUNTS`` of one image: its lesions, those that are hit, and the candidates that hit none.

    >>> lesion_counts(match_lesions(np.eye(3, dtype=bool), np.zeros((3, 3), dtype=bool)))
    {'lesions': 0.0, 'lesions_found': 0.0, 'false_positives': 1.0}
    """
    found = (len(match.lesion_pixels), int(match.found.sum()), int((match.hit < 0).sum()))
    return dict(zip(COUNTS, map(float, found), strict=True))


def lesion_rows(match: LesionMatch, pixels: int, spacing_mm: tuple[float, float] | None) -> list[dict[str, object]]:
    """A row for each lesion, then one for each candidate, of an image of ``pixels`` pixels.

    ``lesion`` says which it is; ``matched`` whether it hits or is hit; ``score`` is the candidate's, NaN for a missed
    lesion; ``share`` is its part of the image; ``area_mm2`` is NaN where the spacing is unknown.
    """
    of_pixel = np.nan if spacing_mm is None else spacing_mm[0] * spacing_mm[1]
    sides = (
        (True, match.lesion_pixels, match.found, match.lesion_score),
        (False, match.candidate_pixels, match.hit >= 0, match.score),
    )
    return [
        {
            "lesion": lesion,
            "matched": bool(matched),
            "score": float(score),
            "share": int(size) / pixels,
            "area_mm2": int(size) * of_pixel,
        }
        for lesion, *columns in sides
        for size, matched, score in zip(*columns, strict=True)
    ]
