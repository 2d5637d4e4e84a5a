"""Baselines of masks that never look at the image: empty, or the mean training mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from evalfm.errors import EvalfmError
from evalfm.heads.head import Context, DenseHead, Examples, Fit

GRID = 64
"""Side of the square grid on which training masks are averaged."""


class MeanMask(DenseHead):
    """Gives every image the mean of the training masks, stretched onto it."""

    name: ClassVar[str] = "mean-mask"
    summary: ClassVar[str] = "baseline: the mean of the training masks on every image"
    kinds: ClassVar[frozenset[str]] = frozenset({"segmentation"})
    needs: ClassVar[frozenset[str]] = frozenset()
    deterministic: ClassVar[bool] = True

    def __init__(self) -> None:
        self._mean = torch.zeros(0, GRID, GRID)

    @property
    def grid(self) -> dict[str, object]:
        """The side of the grid on which masks are averaged."""
        return {"side": GRID}

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Average the training masks; there is nothing to choose."""
        if train.masks is None:
            raise EvalfmError(f"The head {self.name} needs masks; take a segmentation task.")
        total = torch.zeros(len(context.class_names), GRID, GRID)
        for row in train.rows.tolist():
            masks = torch.from_numpy(train.masks(row)).float()
            total += torch.nn.functional.adaptive_avg_pool2d(masks, GRID)
        self._mean = total / max(1, len(train))
        return Fit(chosen={})

    def predict(self, examples: Examples) -> Iterator[tuple[int, Tensor]]:
        """The same mask for every row, on its image's grid."""
        for row in examples.rows.tolist():
            height, width = examples.source.geometry(row).source
            stretched = torch.nn.functional.interpolate(self._mean[None], (height, width), mode="bilinear")
            yield row, stretched[0]

    def tensors(self) -> dict[str, Tensor]:
        """The mean mask [K, side, side]."""
        return {"mean": self._mean}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back the mean mask."""
        self._mean = tensors["mean"]


class AllEmpty(MeanMask):
    """An empty mask for every image: what a high Dice over mostly empty masks is worth."""

    name: ClassVar[str] = "all-empty"
    summary: ClassVar[str] = "baseline: an empty mask for every image"

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Remember how many classes there are."""
        self._mean = torch.zeros(len(context.class_names), GRID, GRID)
        return Fit(chosen={})
