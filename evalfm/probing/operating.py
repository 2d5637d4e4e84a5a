"""What val decides about finished scores: their threshold, and how sure they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfm.metrics.labels import choose_threshold
from evalfm.record import Chosen
from evalfm.statistics.temperature import fit_temperature, with_temperature
from evalfm.tasks.kinds import Kind

ALL = "all"
"""Under which the temperature of exclusive classes stands, which is one for all of them."""


@dataclass(frozen=True)
class Operating:
    """Thresholds and temperatures that val chose.

    Attributes:
        thresholds: per yes-or-no label; a label that has one class only in val has none.
        temperatures: likewise, or under ``all`` of exclusive classes; empty where scores are no probabilities.
    """

    thresholds: dict[str, float] = field(default_factory=dict)
    temperatures: dict[str, float] = field(default_factory=dict)

    @classmethod
    def chosen(
        cls, kind: Kind, names: tuple[str, ...], target: NDArray[np.float64], scores: NDArray[np.float64], rule: str
    ) -> Operating:
        """From the val images' ``target`` [N] (of several labels [N, K]) and ``scores`` [N, K], thresholds by ``rule``.

        Raises:
            EvalfmError: the rule is unknown, or val of a binary task holds one class.
        """
        probable = bool(scores.size and scores.min() >= 0 and scores.max() <= 1)
        if kind.exclusive:
            return cls({}, {ALL: fit_temperature(target, scores)} if probable else {})
        thresholds: dict[str, float] = {}
        temperatures: dict[str, float] = {}
        labels = zip(names, target.reshape(len(target), -1).T, scores.T, strict=True) if kind.yes_or_no else ()
        for name, label, score in labels:
            known = np.isfinite(label)
            if kind.several_labels and len(np.unique(label[known])) < 2:
                continue
            thresholds[name] = choose_threshold(label[known], score[known], rule)
            if probable:
                temperatures[name] = fit_temperature(label, score)
        return cls(thresholds, temperatures)

    @classmethod
    def recorded(cls, chosen: Sequence[Chosen]) -> Operating:
        """What a run chose; of several folds the median over those that have a value."""

        def median(of_folds: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
            known = [{name: value for name, value in each.items() if value is not None} for each in of_folds]
            names = dict.fromkeys(name for each in known for name in each)
            return {name: float(np.median([each[name] for each in known if name in each])) for name in names}

        return cls(median([each.thresholds for each in chosen]), median([each.temperatures for each in chosen]))

    def columns(self, kind: Kind, names: tuple[str, ...], scores: NDArray[np.float64]) -> dict[str, Any]:
        """What predictions say beside ``scores`` [N, K]: ``threshold`` (of several labels each) and ``calibrated``."""
        columns: dict[str, Any] = {}
        if kind.one_label:
            columns["threshold"] = self.thresholds[names[0]]
        elif kind.yes_or_no:
            columns |= {f"threshold_{name}": self.thresholds.get(name, np.nan) for name in names}
        if ALL in self.temperatures:
            calibrated = with_temperature(scores, self.temperatures[ALL])
            columns |= {f"calibrated_{name}": calibrated[:, index] for index, name in enumerate(names)}
        for index, name in enumerate(names):
            if name in self.temperatures:
                columns[f"calibrated_{name}"] = with_temperature(scores[:, index], self.temperatures[name])
        return columns
