"""Heads fitted on one split of a cohort and scored on its val and test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evalfm.data.manifest import Manifest
from evalfm.encoders.encoder import Encoder, is_precision
from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.features.profile import PREDICTION, TRAINING
from evalfm.features.source import FeatureSource
from evalfm.features.store import FeatureStore
from evalfm.heads.head import Context, DenseHead, Examples, Fit, Head, PooledHead, Text
from evalfm.heads.text.classifier import TextHead
from evalfm.heads.trained import trained_together
from evalfm.heads.training import fit_together
from evalfm.probing.base_to_novel import fit_halves
from evalfm.probing.labelled import LabelledFeatures, SplitAssignment, measured_findings
from evalfm.probing.recording import HeadResult
from evalfm.probing.refitting import Draws, refitted
from evalfm.probing.scoring import Scores, SizedExamples, score_dense, score_pooled
from evalfm.probing.session import EncoderSession, training_forecast
from evalfm.probing.splits import Split, unlearnable
from evalfm.progress import Progress
from evalfm.tasks.kinds import BASE_TO_NOVEL
from evalfm.training.recipe import Recipe, Trained
from evalfm.training.tuning import FineTuneConfig, TrainingData, TrainingEnvironment, tune
from evalfm.workers.devices import only_visible


@dataclass(frozen=True)
class Training:
    """How the encoder is trained with a head, and where.

    Attributes:
        folder: where checkpoints and features of the trained encoder lie until the run is published.
    """

    adaptation: Trained
    recipe: Recipe
    folder: Path
    workers: int | None = None


@dataclass(frozen=True)
class FitOptions:
    """What decides the fit of any head beside its data.

    Attributes:
        seed: of initialisation and batch order.
        threshold: rule that picks the operating point on val.
        text: sentences and tower for heads that read text.
        halves: whether heads learn on half of the classes and are tested on both.
        draws: of training patients, on which heads of these names are fitted again.
    """

    seed: int
    threshold: str
    text: Text | None = None
    halves: bool = False
    draws: Mapping[str, Draws] = field(default_factory=dict)


def fit_frozen(
    session: EncoderSession,
    heads: Sequence[Head],
    assignment: SplitAssignment,
    split: Split,
    options: FitOptions,
    progress: Progress,
) -> dict[str, HeadResult]:
    """Fit every head on frozen features, trained ones in one pass over them, and score val and test."""
    context = _context(session, assignment, options, progress)
    labelled = LabelledFeatures(assignment.cohort, session.source)
    train, val = labelled.examples(split.train), labelled.examples(split.val)
    if options.halves:
        test = labelled.examples(split.test)
        return {h.name: fit_halves(h, split, train, val, test, context) for h in heads if isinstance(h, TextHead)}
    fits: dict[str, Fit] = {}
    with session.times.stage(TRAINING):
        for together in trained_together(heads):
            fitted = fit_together(together, train, val, context)
            fits |= dict(zip((head.name for head in together), fitted, strict=True))
        fits |= {head.name: head.fit(train, val, context) for head in heads if head.name not in fits}
    with session.times.stage(PREDICTION):
        scores = _score(heads, assignment, split, session.source, session.test, options.threshold, progress)
    results = {head.name: HeadResult(split, fits[head.name], scores[head.name], head.tensors()) for head in heads}
    again = [head for head in heads if isinstance(head, PooledHead) and head.name in options.draws]
    with session.times.stage(TRAINING):
        for head in again:
            tested_on, positions = _tested(assignment, split, labelled, session.test)
            examples = (train, val, tested_on.examples(positions))
            refits = refitted(head, assignment, split, examples, context, options.draws[head.name], options.threshold)
            results[head.name] = replace(results[head.name], refits=refits)
    return results


def fit_trained(
    session: EncoderSession,
    head: Head,
    assignment: SplitAssignment,
    split: Split,
    options: FitOptions,
    training: Training,
    progress: Progress,
) -> HeadResult:
    """Train a copy of the encoder with ``head`` and score val and test by both.

    Raises:
        EvalfmError: the encoder is a table, the head cannot be trained with it, or the training stops.
    """
    base = session.source
    if not isinstance(base, EncodedSource):
        raise EvalfmError(f"{session.name} is a table of features; only an encoder of images can be trained.")
    cohort = assignment.cohort
    if session.redraw is not None and training.adaptation != "lora" and options.seed:
        base = base.like(session.redraw(options.seed))
    recipe = training.recipe
    progress.say(training_forecast(base, len(split.train), recipe.epochs, len(session.devices)))
    labelled = LabelledFeatures(cohort, base)
    context = _context(session, assignment, options, progress)
    precision = session.training_precision
    assert is_precision(precision)
    features = FeatureStore(training.folder / "features")

    with ExitStack() as opened:

        def source_of(encoder: Encoder, manifest: Manifest = cohort.manifest) -> FeatureSource:
            source = EncodedSource(
                encoder, manifest, features, maps="stream", workers=training.workers, times=session.times
            )
            return opened.enter_context(source)

        with session.times.stage(TRAINING), only_visible(session.devices):
            tuned = tune(
                base.encoder,
                head,
                TrainingData(labelled.examples(split.train), labelled.examples(split.val), cohort.manifest, source_of),
                context,
                FineTuneConfig(training.adaptation, recipe),
                TrainingEnvironment(
                    training.folder, torch.device(session.device), precision, training.workers, len(session.devices)
                ),
            )
        test = None if assignment.test is None else source_of(tuned.encoder, assignment.test.manifest)
        with session.times.stage(PREDICTION):
            scores = _score([head], assignment, split, source_of(tuned.encoder), test, options.threshold, progress)
    return HeadResult(split, tuned.fit, scores[head.name], head.tensors(), tuned.tensors)


def _context(session: EncoderSession, assignment: SplitAssignment, options: FitOptions, progress: Progress) -> Context:
    cohort = assignment.cohort
    return Context(
        cohort.task.kind,
        cohort.class_names,
        options.seed,
        torch.device(session.device),
        progress,
        cohort.task.measure,
        measured_findings(cohort),
        options.text,
        cohort.manifest.info.name,
        cohort.task.name.removesuffix(f"-{BASE_TO_NOVEL}"),
    )


def _tested(
    assignment: SplitAssignment, split: Split, labelled: LabelledFeatures, test_source: FeatureSource | None
) -> tuple[LabelledFeatures, NDArray[np.intp]]:
    """The test images: those of the split, or all of separate test data."""
    if assignment.test is None:
        return labelled, split.test
    return LabelledFeatures(assignment.test, test_source or labelled.source), np.arange(len(assignment.test))


def _score(
    heads: Sequence[Head],
    assignment: SplitAssignment,
    split: Split,
    source: FeatureSource,
    test_source: FeatureSource | None,
    threshold: str,
    progress: Progress,
) -> dict[str, Scores]:
    """Val and test predictions of every fitted head."""
    cohort = assignment.cohort
    labelled = LabelledFeatures(cohort, source)
    val = labelled.examples(split.val)
    tested_on, positions = _tested(assignment, split, labelled, test_source)
    test: Examples = tested_on.examples(positions)
    scores: dict[str, Scores] = {}
    dense = [head for head in heads if isinstance(head, DenseHead)]
    if dense:
        shown = SizedExamples(val, cohort.manifest.spacing_mm)
        tested = SizedExamples(test, tested_on.cohort.manifest.spacing_mm)
        scored = score_dense(dense, shown, tested, cohort.task, cohort.class_names, progress)
        scores |= dict(zip((head.name for head in dense), scored, strict=True))
    for head in heads:
        if isinstance(head, PooledHead):
            scores[head.name] = score_pooled(head, val, test, cohort.task, cohort.class_names, threshold)
            for label in unlearnable(cohort, split):
                # What no head could learn has no score, and no place in a mean over labels.
                for table in (scores[head.name].val, scores[head.name].test):
                    table[f"score_{label}"] = np.nan
                for alone in scores[head.name].by_template.values():
                    alone[:, cohort.class_names.index(label)] = np.nan
    return scores
