"""Few-shot episodes solved: all at once on stored features, or by a training of the encoder for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.config import THRESHOLD_RULE, ProbeConfig
from evalfm.data.atomic import write_atomically
from evalfm.data.episodes import QUERY, SUPPORT, Episodes
from evalfm.data.privacy import public_names
from evalfm.errors import EvalfmError
from evalfm.heads import episodic, load_head
from evalfm.heads.head import Context, Head, Text
from evalfm.heads.text.classifier import ZeroShotHead
from evalfm.probing.fitting import FitOptions, Training, fit_trained
from evalfm.probing.labelled import LabelledFeatures, SplitAssignment
from evalfm.probing.recording import TestResult
from evalfm.probing.session import EncoderSession
from evalfm.probing.splits import Split
from evalfm.probing.splits.episodes import has_no_split
from evalfm.progress import SILENT, Progress
from evalfm.record import Chosen, EpisodeSection
from evalfm.statistics.auroc import episode_auroc
from evalfm.statistics.intervals import over_episodes
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.kinds import MULTICLASS
from evalfm.training.tuning import forget

METRIC = "macro_auroc"
OVERLAP = Caution(
    "overlapping-episodes",
    "Episodes draw from one pool of images and overlap: sd is the spread over episodes, the interval is of their mean "
    "and narrows with their number; neither says how it would be on other patients.",
)
Scores = NDArray[np.float64]
"""[E, C, q, C]: of the queries of each class the score for each class, larger where it is likelier."""


@dataclass(frozen=True)
class Solved:
    """The answers of one head.

    Attributes:
        scores: of all episodes. cautions: what must be said of how they were found.
    """

    scores: Scores
    cautions: tuple[Caution, ...] = ()

    @property
    def aurocs(self) -> NDArray[np.float64]:
        """Macro AUROC of each episode, [E]."""
        return episode_auroc(self.scores)


def as_episodes(cohort: Cohort, heads: Sequence[Head], config: ProbeConfig) -> Cohort:
    """The cohort with the metric of episodes.

    Raises:
        EvalfmError: a head has no way to solve episodes, or learns from shots and there are none.
    """
    known = ", ".join(episodic.METHODS)
    slow = [head.name for head in heads if not solves(head)]
    if slow and config.adaptation == "frozen":
        raise EvalfmError(
            f"Episodes on frozen features are solved by {known} and zeroshot; {', '.join(slow)} would choose on val, "
            "of which an episode has none. Leave it out, or take --shots and --seeds without --episodes."
        )
    if config.shots is None and any(map(learns, heads)):
        raise EvalfmError("Episodes learn from a few images of each class; say how many, such as --shots 1,5,20.")
    return replace(cohort, task=cohort.task.model_copy(update={"metrics": (METRIC,)}))


def solves(head: Head) -> bool:
    """Whether ``head`` solves episodes on frozen features, all at once."""
    return head.name in episodic.METHODS or not learns(head)


def learns(head: Head) -> bool:
    """Whether the answer of ``head`` depends on the support; sentences alone have one answer for all."""
    return head.learns


def grid_of(head: Head, config: ProbeConfig) -> dict[str, object]:
    """What decides the answer of ``head`` beside its examples: its own grid, or how it solves episodes."""
    if config.episodes and config.adaptation == "frozen" and head.name in episodic.METHODS:
        return episodic.settings_of(head.name, config.strength or episodic.STRENGTH)
    return head.grid


def without_support(assignment: SplitAssignment) -> SplitAssignment:
    """The same queries with nothing to learn from."""
    (split,) = assignment.splits
    assert split.episodes is not None
    bare = replace(split.episodes, support=split.episodes.support[:, :, :0])
    return SplitAssignment.of(assignment.cohort, None, [replace(split, episodes=bare)])


def solve(
    session: EncoderSession, cohort: Cohort, drawn: Episodes, head: Head, config: ProbeConfig, text: Text | None
) -> Solved:
    """The answers of ``head`` on features that are stored by now, all episodes in one batch.

    Raises:
        EvalfmError: a feature is not a finite number.
    """
    if not learns(head):
        return Solved(_by_sentences(session, cohort, drawn, head, text))
    pooled = session.source.features(cohort.rows[drawn.used].tolist()).pooled
    broken = int((~torch.isfinite(pooled).all(dim=1)).sum())
    if broken:
        raise EvalfmError(
            f"{session.name} gives {broken} images features that are not finite; take out these images, or "
            "compute the features with --precision float32."
        )
    support, query = (np.searchsorted(drawn.used, each) for each in (drawn.support, drawn.query))
    strength = config.strength or episodic.STRENGTH
    solved = episodic.solve(head.name, episodic.normalised(pooled), support, query, strength)
    late = int((~solved.converged).sum())
    words = f"The solver stopped before its tolerance in {late} of {len(drawn)} episodes."
    cautions = (Caution("solver-stopped", words),) if late else ()
    return Solved(solved.scores.reshape(*query.shape, query.shape[1]).numpy(), cautions)


def _by_sentences(session: EncoderSession, cohort: Cohort, drawn: Episodes, head: Head, text: Text | None) -> Scores:
    positions = np.unique(drawn.query)
    examples = LabelledFeatures(cohort, session.source).examples(positions)
    assert isinstance(head, ZeroShotHead)
    head.fit(examples, examples, Context(cohort.task.kind, cohort.class_names, text=text))
    by_class = _of_all_classes(head.predict(examples))
    return by_class[np.searchsorted(positions, drawn.query)]


def _of_all_classes(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """A head's scores [N, K] for all C classes: K = 1 is the second of two, and against it the first."""
    # The negative and not 1 − score, which would make ties of small scores.
    return np.concatenate([-scores, scores], axis=1) if scores.shape[1] == 1 else scores


@dataclass(frozen=True)
class FineTuning:
    """A training of the encoder with ``head`` for each episode; what is finished stays until the run is published.

    Attributes:
        cohort: whose rows the episodes' positions are.
        training: how, with the folder of checkpoints and finished scores.
    """

    session: EncoderSession
    cohort: Cohort
    head: str
    training: Training
    seed: int
    progress: Progress

    def solve(self, drawn: Episodes) -> Solved:
        """The answers of ``drawn``; episodes that are finished are not trained again.

        There is no val in an episode: the best epoch is the one with the lowest loss on the support itself.
        """
        label = f"{self.session.name}: training on {drawn.support.shape[2]} shots"
        numbers = self.progress.track(range(len(drawn)), label, len(drawn))
        return Solved(np.stack([self._finished(drawn, number) for number in numbers]))

    def _finished(self, drawn: Episodes, episode: int) -> NDArray[np.float64]:
        file = self.training.folder / f"{episode}.npy"
        if not file.is_file():
            place = self.training.folder / f"training-{episode}"
            place.mkdir(exist_ok=True)
            scores = self._trained(drawn.support[episode], drawn.query[episode], place)
            stream = BytesIO()
            np.save(stream, scores)
            write_atomically(file, stream.getvalue())
            forget(place)
        return np.asarray(np.load(file), dtype=np.float64)

    def _trained(self, support: NDArray[np.intp], query: NDArray[np.intp], place: Path) -> NDArray[np.float64]:
        classes, queries = query.shape
        # Ordered classes are classes like any other here.
        kind = (MULTICLASS if self.cohort.kind.exclusive else self.cohort.kind).name
        cohort = replace(self.cohort, task=self.cohort.task.model_copy(update={"kind": kind}))
        split = Split(support.ravel(), support.ravel(), query.ravel())
        fitted = fit_trained(
            self.session,
            load_head(self.head, kind),
            SplitAssignment(cohort, None, (split,), ""),
            split,
            FitOptions(self.seed, THRESHOLD_RULE),
            replace(self.training, folder=place),
            SILENT,
        )
        table = fitted.scores.test[[f"score_{each}" for each in cohort.class_names]].to_numpy(np.float64)
        return _of_all_classes(table).reshape(classes, queries, classes)


def measured_on(split: Split, solved: Solved, grid: dict[str, object], chosen: Chosen) -> TestResult:
    """What a record says of the answers: the mean over episodes, with its interval and their spread."""
    drawn = split.episodes
    assert drawn is not None
    mean, deviation = over_episodes(solved.aurocs)
    pool = has_no_split(split)
    section = EpisodeSection(
        sd=deviation,
        queries=drawn.query.shape[2],
        images=len(drawn.used),
        support_from="patients who are not queried" if pool else SUPPORT,
        query_from="all patients" if pool else QUERY,
    )
    return TestResult(grid, {METRIC: mean}, chosen, [*split.cautions, *solved.cautions, OVERLAP], episodes=section)


def table_of(cohort: Cohort, drawn: Episodes, aurocs: NDArray[np.float64]) -> pd.DataFrame:
    """A row an episode: its macro AUROC and the public ids of support and queries, class after class."""
    manifest = cohort.manifest
    ids = public_names([str(each) for each in manifest.table["id"]], manifest.info)[cohort.rows]
    return pd.DataFrame(
        {
            "episode": range(len(drawn)),
            "shots": drawn.support.shape[2],
            METRIC: aurocs,
            "support": [ids[each.ravel()].tolist() for each in drawn.support],
            "query": [ids[each.ravel()].tolist() for each in drawn.query],
        }
    )
