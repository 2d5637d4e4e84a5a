"""Measurements on predicted masks: a lesion's area or the cardiothoracic ratio, beside the direct regression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.data.masks import cardiothoracic_ratio
from evalfm.errors import EvalfmError
from evalfm.features.source import FeatureSource
from evalfm.heads._pooled import check_kind
from evalfm.heads.head import Context, Examples, Fit, PooledHead
from evalfm.heads.module import HeadModule, Layout, Statistics
from evalfm.heads.objectives import Objective
from evalfm.heads.segmentation.light import MultiscaleHead
from evalfm.heads.trained import TrainableHead, TrainedDenseHead
from evalfm.metrics.mask_scores import PixelHistogram

MEASURES = ("area-fraction", "ctr", "lung-fraction")


class FromMaskHead(PooledHead, TrainableHead):
    """Trains a dense head on the masks that the target is measured on, and measures what it predicts.

    The pixel threshold of each mask maximises pooled-pixel Dice on val. Masks are measured on the stored image's grid,
    whole or without stray parts, whichever has the smaller mean absolute error on val: one stray pixel decides a full
    extent. Without stray parts a lesion or heart is its largest connected part, the lungs their two
    largest. An image whose predicted heart or lungs are empty has no ratio: it gets the mean of train.
    """

    name: ClassVar[str] = "from-mask"
    summary: ClassVar[str] = "area or cardiothoracic ratio measured on masks that a multiscale head predicts"
    kinds: ClassVar[frozenset[str]] = frozenset({"regression"})
    needs: ClassVar[frozenset[str]] = frozenset({"maps"})
    deterministic: ClassVar[bool] = False

    def __init__(self, inner: TrainedDenseHead | None = None) -> None:
        self._inner = inner or MultiscaleHead()
        self._thresholds: NDArray[np.float64] = np.empty(0)
        self._measure = ""
        self._without_strays = False
        self._otherwise = float("nan")

    @property
    def grid(self) -> dict[str, object]:
        """The dense head and its own grid."""
        own = {"masks": self._inner.name, "parts": ["all", "largest"], "without_ratio": "mean of train"}
        return {**own, **self._inner.grid}

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Learn the masks of train, choose on those of val.

        Raises:
            EvalfmError: the target is not measured on masks, or there are none.
        """
        check_kind(self, context)
        train, val = self.usable(train), self.usable(val)
        fit = self._inner.fit(train, val, self._of_masks(context))
        return replace(fit, cautions=(*fit.cautions, *self.after_training(train, val, context)))

    def usable(self, examples: Examples) -> Examples:
        """The rows that have every mask.

        Raises:
            EvalfmError: none has.
        """
        if examples.masks is None:
            raise EvalfmError(
                f"The head {self.name!r} measures masks: take a task that is measured on masks (ptx-size, ctr) "
                "and a data set that has them, or the head ridge."
            )
        if examples.masked is None:
            return examples
        kept = np.flatnonzero(examples.masked)
        if not len(kept):
            raise EvalfmError(f"No image here has the masks that the head {self.name!r} learns from; take ridge.")
        return replace(
            examples,
            rows=examples.rows[kept],
            target=examples.target[kept],
            patients=examples.patients[kept],
            masked=None,
        )

    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """The measure of every image's predicted masks, [N, 1]."""
        values = [self._otherwise if value is None else value for _, value in self._measured(examples)]
        return np.array(values, dtype=np.float64)[:, None]

    def tensors(self) -> dict[str, Tensor]:
        """The dense head's tensors under ``masks.``, thresholds, measure, and what an image without a ratio gets."""
        own = {
            "thresholds": torch.from_numpy(self._thresholds),
            "without_strays": torch.tensor(self._without_strays),
            "measure": torch.tensor(MEASURES.index(self._measure)) if self._measure else torch.tensor(-1),
            "otherwise": torch.tensor(self._otherwise, dtype=torch.float64),
        }
        return own | {f"masks.{name}": value for name, value in self._inner.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self._thresholds = tensors["thresholds"].numpy()
        self._without_strays = bool(tensors["without_strays"])
        self._measure = MEASURES[int(tensors["measure"])]
        self._otherwise = float(tensors["otherwise"])
        prefix = "masks."
        self._inner.load_tensors(
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        )

    def objective(self, train: Examples, context: Context) -> Objective:
        """That of masks."""
        return self._inner.objective(train, self._of_masks(context))

    def layout(self, source: FeatureSource, context: Context) -> Layout:
        """The dense head's, one channel a mask."""
        return self._inner.layout(source, self._of_masks(context))

    def new_module(self, layout: Layout, generator: torch.Generator) -> HeadModule:
        """The dense head's."""
        return self._inner.new_module(layout, generator)

    def fitted(self, statistics: Statistics, objective: Objective) -> HeadModule:
        """The dense head's."""
        return self._inner.fitted(statistics, objective)

    def set_module(self, module: HeadModule, layout: Layout, objective: Objective, device: torch.device) -> None:
        """The dense head's."""
        self._inner.set_module(module, layout, objective, device)

    def after_training(self, train: Examples, val: Examples, context: Context) -> tuple[Caution, ...]:
        """Choose the thresholds on val, and count the images of val that have no measure."""
        train, val = self.usable(train), self.usable(val)
        assert val.masks is not None
        assert context.measure is not None
        histograms = [PixelHistogram() for _ in context.findings]
        for row, probabilities in self._inner.predict(val):
            for histogram, probability, truth in zip(histograms, probabilities, val.masks(row), strict=True):
                histogram.add(probability.numpy(), truth)
        self._thresholds = np.array([histogram.best_threshold() for histogram in histograms])
        self._measure = context.measure
        self._otherwise = float(np.nanmean(train.target))
        errors, empty = [], 0
        for self._without_strays in (False, True):
            values = [value for _, value in self._measured(val)]
            empty = sum(value is None for value in values)
            known = np.array([self._otherwise if value is None else value for value in values])
            errors.append(float(np.nanmean(np.abs(known - val.target))))
        self._without_strays = errors[1] < errors[0]
        parts = "their largest parts" if self._without_strays else "all their parts"
        words = (
            f"Masks are measured on {parts}: mean absolute error on val {errors[0]:.4f} with all parts, "
            f"{errors[1]:.4f} with the largest."
        )
        cautions = [Caution("measured-on-masks", words)]
        if empty:
            words = f"{empty} of {len(val)} val images get the mean of train: their predicted heart or lungs are empty."
            cautions.append(Caution("measured-on-masks", words))
        return tuple(cautions)

    def _of_masks(self, context: Context) -> Context:
        if context.measure not in MEASURES or not context.findings:
            raise EvalfmError(
                f"The head {self.name!r} measures masks, and this task or data set has none to measure; take ridge."
            )
        return replace(context, kind="segmentation", class_names=context.findings)

    def _measured(self, examples: Examples) -> Iterator[tuple[int, float | None]]:
        """Each row with its measure, None where there is none."""
        if not self._measure:
            raise EvalfmError(f"The head {self.name!r} has not been fitted; fit it or load a run's tensors first.")
        for row, probabilities in self._inner.predict(examples):
            masks = probabilities.numpy() >= self._thresholds[:, None, None]
            first = self._parts(masks[0], 1)
            if self._measure == "area-fraction":
                yield row, area_fraction(first)
                continue
            lungs = self._parts(np.logical_or.reduce(masks[1:]), 2)
            measured = lung_fraction if self._measure == "lung-fraction" else cardiothoracic_ratio
            yield row, measured(first, lungs)

    def _parts(self, mask: NDArray[np.bool_], number: int) -> NDArray[np.bool_]:
        """``mask`` [H, W], or its ``number`` largest connected parts."""
        if not self._without_strays:
            return mask
        labels, count = ndimage.label(mask)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        kept = np.argsort(-sizes, kind="stable")[:number] + 1
        return np.asarray(np.isin(labels, kept))


def area_fraction(mask: NDArray[np.bool_]) -> float:
    """Area of ``mask`` [H, W] as a fraction of the image, in [0, 1].

    >>> area_fraction(np.array([[True, False], [False, False]]))
    0.25
    """
    return float(mask.mean())


def lung_fraction(lesion: NDArray[np.bool_], lungs: NDArray[np.bool_]) -> float | None:
    """Area of ``lesion`` [H, W] as a fraction of the field of both lungs, in [0, 1]; None without lungs.

    The field is lungs and lesion together: some masks of the lungs end where a pneumothorax begins, others hold it.

    >>> lungs = np.array([[True, True, False], [True, True, False]])
    >>> lung_fraction(np.array([[False, False, True], [False, False, False]]), lungs)
    0.2
    """
    return float(lesion.sum() / (lungs | lesion).sum()) if lungs.any() else None
