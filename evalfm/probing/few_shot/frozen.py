"""Scores of episodes on features that are computed once: classifiers on the support, and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.errors import EvalfmError
from evalfm.heads import episodic
from evalfm.heads.head import Context, Text
from evalfm.heads.text.zeroshot import ZeroShotHead
from evalfm.probing.few_shot.cohort import EpisodeCohort
from evalfm.probing.labelled import LabelledFeatures
from evalfm.probing.session import EncoderSession, compute_ahead
from evalfm.progress import Progress

Scores = NDArray[np.float64]
"""[E, C, q, C]: of the queries of each class the score for each class, larger where it is likelier."""


@dataclass(frozen=True)
class Frozen:
    """The episodes of a cohort on one encoder's features."""

    session: EncoderSession
    episodes: EpisodeCohort
    progress: Progress

    def learned(self, method: str, shots: int, strength: float) -> tuple[Scores, list[Caution]]:
        """By ``method`` on the first ``shots`` of each support, all episodes at once; and what must be said of it."""
        drawn = self.episodes.drawn
        support, query = (np.searchsorted(drawn.used, each) for each in (drawn.support[:, :, :shots], drawn.query))
        solved = episodic.solve(method, self._features, support, query, strength)
        late = int((~solved.converged).sum())
        words = f"The solver stopped before its tolerance in {late} episodes of {shots} shots."
        cautions = [Caution("solver-stopped", words)] if late else []
        return solved.scores.reshape(*query.shape, query.shape[1]).numpy(), cautions

    def by_sentences(self, text: Text) -> Scores:
        """By sentences alone: the same for every support."""
        cohort, drawn = self.episodes.cohort, self.episodes.drawn
        positions = np.unique(drawn.query)
        compute_ahead(self.session.source, cohort.rows[positions], maps=False, progress=self.progress)
        examples = LabelledFeatures(cohort, self.session.source).examples(positions)
        head = ZeroShotHead()
        head.fit(examples, examples, Context(cohort.task.kind, cohort.class_names, text=text))
        by_class = of_all_classes(head.predict(examples))
        return by_class[np.searchsorted(positions, drawn.query)]

    @cached_property
    def _features(self) -> Tensor:
        """Features of every image that stands in an episode, each divided by its length, [M, D] float64."""
        rows = self.episodes.cohort.rows[self.episodes.drawn.used]
        compute_ahead(self.session.source, rows, maps=False, progress=self.progress)
        pooled = self.session.source.features(rows.tolist()).pooled
        broken = int((~torch.isfinite(pooled).all(dim=1)).sum())
        if broken:
            raise EvalfmError(
                f"{self.session.name} gives {broken} images features that are not finite; take out these images, or "
                "compute the features with --precision float32."
            )
        return episodic.normalised(pooled)


def of_all_classes(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """A head's scores [N, K] for all C classes: K = 1 is the second of two, and against it the first."""
    # The negative and not 1 − score, which would make ties of small scores.
    return np.concatenate([-scores, scores], axis=1) if scores.shape[1] == 1 else scores
