"""A finished run made ready to predict on other images: its encoder, heads and thresholds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.cards import validate
from evalfm.config import EncoderConfig
from evalfm.data.manifest import Manifest
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.features.source import FeatureSource
from evalfm.features.store import FeatureStore
from evalfm.heads import load_head
from evalfm.heads.head import DenseHead, Examples, Head, PooledHead
from evalfm.probing.cohort import task_of
from evalfm.probing.operating import Operating
from evalfm.probing.restoring import by_fold, trained_sources
from evalfm.probing.scoring import dense_row, pooled_columns
from evalfm.probing.session import TABLES, EncoderSession, open_session
from evalfm.progress import Progress
from evalfm.record import IMPORTED
from evalfm.run import HEAD, Run
from evalfm.tasks.kinds import kind_of
from evalfm.tasks.task import TaskCard


@dataclass(frozen=True)
class RunPredictor:
    """A finished run with its encoder loaded for ``manifest`` and its heads, one per fold where there are folds."""

    run: Run
    task: TaskCard
    manifest: Manifest
    session: EncoderSession
    heads: tuple[Head, ...]

    @classmethod
    def of(
        cls,
        run: Run,
        manifest: Manifest,
        weights: str | Path | None,
        encoder: str | Encoder | None,
        device: str,
        progress: Progress,
    ) -> RunPredictor:
        """Open the run's encoder on ``manifest``, with the same weights and preprocessing as in the run.

        Raises:
            EvalfmError: the run is none to apply, or the weights are others than its own.
        """
        check_applicable(run)
        task = task_of(run)
        session = _reopen(run, manifest, weights, encoder, device, progress)
        return cls(run, task, manifest, session, tuple(_heads(run, task)))

    def answers(
        self, rows: NDArray[np.intp], *, fold: int | None = None, images: Manifest | None = None
    ) -> pd.DataFrame:
        """The kind's columns for ``rows``, with the decision at the run's threshold.

        Args:
            rows: of the manifest.
            fold: whose head and threshold predict; None takes the mean of all heads and the median of their thresholds.
            images: the same rows with other pixels; their features are forgotten afterwards.
        """
        manifest = images or self.manifest
        with tempfile.TemporaryDirectory(prefix="evalfm-") as scratch, ExitStack() as opened:
            own = self.session.source
            if images is not None and isinstance(own, EncodedSource):
                own = opened.enter_context(own.like(manifest=images, store=FeatureStore(Path(scratch))))
            trained = trained_sources(self.run, self.session, manifest, Path(scratch))
            sources: Sequence[FeatureSource] = list(map(opened.enter_context, trained)) or [own] * len(self.heads)
            return self.answers_by(sources, rows, fold=fold)

    def answers_by(
        self,
        sources: Sequence[FeatureSource],
        rows: NDArray[np.intp],
        *,
        fold: int | None = None,
        truth: Callable[[int], NDArray[np.bool_]] | None = None,
    ) -> pd.DataFrame:
        """``answers`` by features of the caller's: one source for each head.

        Args:
            sources: one per head.
            rows: of the manifest.
            fold: as in ``answers``.
            truth: from a row to its masks, bool [K, H, W]; predicted masks are scored against it.
        """
        taken = range(len(self.heads)) if fold is None else [fold]
        patients = self.manifest.patients[rows]
        examples = [Examples(sources[each], rows, np.empty((len(rows), 0)), patients) for each in taken]
        return self._columns([self.heads[each] for each in taken], examples, self._operating(fold), truth)

    def _operating(self, fold: int | None) -> Operating:
        each = self.run.record.chosen.each
        return Operating.recorded(each if fold is None else each[fold : fold + 1])

    def _columns(
        self,
        heads: Sequence[Head],
        examples: Sequence[Examples],
        operating: Operating,
        truth: Callable[[int], NDArray[np.bool_]] | None,
    ) -> pd.DataFrame:
        if isinstance(heads[0], DenseHead):
            dense = [head for head in heads if isinstance(head, DenseHead)]
            return self._dense_columns(dense, examples, operating.thresholds, truth)
        names, kind = tuple(self.run.record.data.class_names), kind_of(self.task.kind)
        pooled = [head for head in heads if isinstance(head, PooledHead)]
        scores = np.mean([head.predict(each) for head, each in zip(pooled, examples, strict=True)], axis=0)
        columns = pooled_columns(scores, None, kind, names)
        for name, threshold in operating.thresholds.items():
            columns[f"decision_{name}"] = (columns[f"score_{name}"] >= threshold).astype(int)
        return columns.assign(**operating.columns(kind, names, scores))

    def _dense_columns(
        self,
        heads: Sequence[DenseHead],
        examples: Sequence[Examples],
        thresholds: dict[str, float],
        truth: Callable[[int], NDArray[np.bool_]] | None,
    ) -> pd.DataFrame:
        rows = []
        predicted = (head.predict(each) for head, each in zip(heads, examples, strict=True))
        for together in zip(*predicted, strict=True):
            row = together[0][0]
            probability = sum((each for _, each in together[1:]), together[0][1]) / len(together)
            spacing = self.manifest.spacing_mm(row)
            known = None if truth is None else truth(row)
            rows.append(dense_row(probability, known, thresholds, spacing, self.task.nsd_tolerance_mm))
        return pd.DataFrame(rows)


def check_applicable(run: Run) -> None:
    """Refuse a run that left no head for new images.

    Raises:
        EvalfmError: its classes were tried in halves, it is of few-shot episodes, or its predictions were imported.
    """
    if run.head == IMPORTED:
        raise EvalfmError(
            f"{run.folder} holds imported predictions and no model; predict with the model that made them."
        )
    if run.record.episodes is not None:
        raise EvalfmError(f"{run.folder} is of few-shot episodes, each with a head of its own; none is kept.")
    if run.record.config.base_to_novel:
        raise EvalfmError(f"{run.folder} was tried class by class in halves, which is no head for new images.")


def _reopen(
    run: Run,
    manifest: Manifest,
    weights: str | Path | None,
    encoder: str | Encoder | None,
    device: str,
    progress: Progress,
) -> EncoderSession:
    if run.encoder in TABLES and run.encoder != "constant":
        raise EvalfmError(
            f"The encoder {run.encoder} reads a table, not images; its run cannot be applied to other data."
        )
    loaded = run.record.config.encoder
    source = str(weights) if weights is not None else loaded.weights or "hub"
    if run.adaptation in ("full", "scratch"):
        # Every tensor is in the run; what the encoder starts with is written over.
        source = "random" if run.record.encoder.weights.source != "none" else "hub"
    if source == "file":
        raise EvalfmError(f"The weights of {run.encoder} came from a file; name it again with --weights PATH.")
    precision = run.record.provenance.precision
    shape = {"input_size": loaded.input_size, "resize": loaded.resize}
    options = {"weights": source, "devices": device, "precision": precision, "maps": "stream", **shape}
    config = validate(EncoderConfig, options, "The call")
    named: str | EncoderCard | Encoder = run.encoder
    if encoder is not None:
        named = encoder
    elif run.encoder not in TABLES:
        named = validate(EncoderCard, run.record.encoder.as_written(), f"The encoder of {run.folder}")
    hidden = frozenset(map(str, run.record.task.target))
    session = open_session(named, config, manifest, None, progress, hidden)
    if run.adaptation in ("full", "scratch"):
        return session
    if session.weights_digest != run.record.provenance.weights_digest:
        raise EvalfmError(
            f"These weights of {run.encoder} (SHA-256 {str(session.weights_digest)[:12]}…) are not those of the run "
            f"({str(run.record.provenance.weights_digest)[:12]}…); name the run's checkpoint with --weights."
        )
    return session


def _heads(run: Run, task: TaskCard) -> list[Head]:
    """The run's head, one per fold where there are folds."""
    heads = []
    for group in by_fold(run, run.head_tensors()):
        head = load_head(run.head, task.kind)
        try:
            head.load_tensors(group)
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise EvalfmError(
                f"{run.folder / HEAD} does not fit the head {run.head} ({lines[0][:200]}); copy the whole run again."
            ) from None
        heads.append(head)
    return heads
