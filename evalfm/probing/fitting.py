"""Heads fitted on one part of a question and scored on its val and test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evalfm.data.manifest import Manifest
from evalfm.encoders.encoder import Encoder, is_precision
from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.features.source import FeatureSource
from evalfm.features.store import FeatureStore
from evalfm.heads.head import Context, DenseHead, Examples, Fit, Head, PooledHead, Text
from evalfm.heads.text.classifier import TextHead
from evalfm.heads.training import fit_together, trained_together
from evalfm.probing.base_to_novel import fit_halves
from evalfm.probing.opened import Opened, training_forecast
from evalfm.probing.parts import Part, unlearnable
from evalfm.probing.recording import Fitted
from evalfm.probing.scoring import Films, Scores, score_dense, score_pooled
from evalfm.probing.sides import Deal, Side, measured_findings
from evalfm.progress import Progress
from evalfm.tasks.kinds import BASE_TO_NOVEL
from evalfm.training.recipe import Recipe, Trained
from evalfm.training.tuning import Setting, tune


@dataclass(frozen=True)
class Training:
    """How the encoder of a cell is trained, and where.

    Attributes:
        folder: where checkpoints and features of the trained encoder lie until the run is published.
    """

    adaptation: Trained
    recipe: Recipe
    folder: Path
    workers: int = 2
    processes: int = 1


@dataclass(frozen=True)
class Fitting:
    """What the fitting of any head is asked.

    Attributes:
        seed: of initialisation and batch order.
        threshold: how val chooses the operating point.
        text: sentences and tower for heads that read text.
        halves: whether heads learn on half of the classes and are tried on both.
    """

    seed: int
    threshold: str
    text: Text | None = None
    halves: bool = False


def fit_frozen(
    opened: Opened, heads: Sequence[Head], deal: Deal, part: Part, asked: Fitting, progress: Progress
) -> dict[str, Fitted]:
    """Fit every head on frozen features, trained ones in one pass over them, and score val and test."""
    context = _context(opened, deal, asked, progress)
    side = Side(deal.question, opened.source)
    train, val = side.examples(part.train), side.examples(part.val)
    if asked.halves:
        test = side.examples(part.test)
        return {h.name: fit_halves(h, part, train, val, test, context) for h in heads if isinstance(h, TextHead)}
    fits: dict[str, Fit] = {}
    for together in trained_together(heads):
        found = fit_together(together, train, val, context)
        fits |= dict(zip((head.name for head in together), found, strict=True))
    fits |= {head.name: head.fit(train, val, context) for head in heads if head.name not in fits}
    scores = _score(heads, deal, part, opened.source, opened.test, asked.threshold, progress)
    return {head.name: Fitted(part, fits[head.name], scores[head.name], head.tensors()) for head in heads}


def fit_trained(
    opened: Opened, head: Head, deal: Deal, part: Part, asked: Fitting, training: Training, progress: Progress
) -> Fitted:
    """Train a copy of the encoder with ``head`` and score val and test by both.

    Raises:
        EvalfmError: the encoder is a table, the head cannot be trained with it, or the training stops.
    """
    base = opened.source
    if not isinstance(base, EncodedSource):
        raise EvalfmError(f"{opened.name} is a table of features; only an encoder of images can be trained.")
    question = deal.question
    if opened.redraw is not None and training.adaptation != "lora" and asked.seed:
        base = base.of(opened.redraw(asked.seed))
    recipe = training.recipe
    progress.say(training_forecast(base, len(part.train), recipe.epochs, training.processes))
    side = Side(question, base)
    context = _context(opened, deal, asked, progress)
    precision = opened.training_precision
    assert is_precision(precision)
    features = FeatureStore(training.folder / "features")

    def source_of(encoder: Encoder, manifest: Manifest = question.manifest) -> FeatureSource:
        return EncodedSource(encoder, manifest, features, maps="stream", workers=training.workers)

    tuned = tune(
        base.encoder,
        head,
        side.examples(part.train),
        side.examples(part.val),
        context,
        adaptation=training.adaptation,
        recipe=recipe,
        manifest=question.manifest,
        setting=Setting(training.folder, torch.device(opened.device), precision, training.workers, training.processes),
        source_of=source_of,
        progress=progress,
    )
    test = None if deal.test is None else source_of(tuned.encoder, deal.test.manifest)
    scores = _score([head], deal, part, source_of(tuned.encoder), test, asked.threshold, progress)
    return Fitted(part, tuned.fit, scores[head.name], head.tensors(), tuned.tensors)


def _context(opened: Opened, deal: Deal, asked: Fitting, progress: Progress) -> Context:
    question = deal.question
    return Context(
        question.task.kind,
        question.class_names,
        asked.seed,
        torch.device(opened.device),
        progress,
        question.task.measure,
        measured_findings(question),
        asked.text,
        question.manifest.info.name,
        question.task.name.removesuffix(f"-{BASE_TO_NOVEL}"),
    )


def _score(
    heads: Sequence[Head],
    deal: Deal,
    part: Part,
    source: FeatureSource,
    test_source: FeatureSource | None,
    threshold: str,
    progress: Progress,
) -> dict[str, Scores]:
    """Val and test predictions of every fitted head."""
    question = deal.question
    side = Side(question, source)
    val = side.examples(part.val)
    test_side, positions = side, part.test
    if deal.test is not None:
        test_side, positions = Side(deal.test, test_source or source), np.arange(len(deal.test))
    test: Examples = test_side.examples(positions)
    scores: dict[str, Scores] = {}
    dense = [head for head in heads if isinstance(head, DenseHead)]
    if dense:
        shown = Films(val, question.manifest.spacing_mm)
        tested = Films(test, test_side.question.manifest.spacing_mm)
        scored = score_dense(dense, shown, tested, question.task, question.class_names, progress)
        scores |= dict(zip((head.name for head in dense), scored, strict=True))
    for head in heads:
        if isinstance(head, PooledHead):
            scores[head.name] = score_pooled(head, val, test, question.task, question.class_names, threshold)
            for label in unlearnable(question, part):
                # What no head could learn has no score, and no place in a mean over labels.
                for table in (scores[head.name].val, scores[head.name].test):
                    table[f"score_{label}"] = np.nan
                for alone in scores[head.name].by_template.values():
                    alone[:, question.class_names.index(label)] = np.nan
    return scores
