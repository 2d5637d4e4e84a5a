"""A finished run, its head and threshold, applied to other data; labels are not needed."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_table
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.head import DenseHead, Examples, Head, PooledHead
from evalfm.probing.loading import load_manifest
from evalfm.probing.opened import TABLES, Opened, open_encoder
from evalfm.probing.operating import Operating
from evalfm.probing.restoring import by_fold, trained_sources
from evalfm.probing.scoring import dense_row, pooled_columns
from evalfm.probing.settings import EncoderSettings
from evalfm.progress import SILENT, Progress
from evalfm.runs import PREDICTIONS, InTheWay, Run, check_writable, publishing, remove_leftovers
from evalfm.tasks.card import TaskCard
from evalfm.tasks.question import cohort

SUMMARY = "predict.json"


@dataclass(frozen=True)
class Predicted:
    """Predictions of a run on other data.

    Attributes:
        folder: where they were written.
        table: one row per image: who it is, the kind's columns, and the decision at the run's threshold.
        notes: cautions to print beside them.
    """

    folder: Path
    table: pd.DataFrame
    notes: tuple[str, ...]


def predict(
    run: str | Path | Run,
    data: str | Path | Manifest,
    *,
    weights: str | Path | None = None,
    encoder: str | Encoder | None = None,
    out: str | Path = "predictions",
    device: str = "auto",
    progress: Progress = SILENT,
) -> Predicted:
    """Apply the head of ``run``, and the threshold it chose on val, to every image of ``data``.

    Args:
        weights: the checkpoint, where the run's came from a file.
        encoder: an encoder's code file or object, where the run's is not in the catalogue.
        out: a folder that must not exist yet; it gets predictions.parquet and predict.json.

    Raises:
        EvalfmError: the weights are others than the run's, or ``out`` is there already.
    """
    run = run if isinstance(run, Run) else Run.read(run)
    out = Path(out)
    if out.exists():
        raise EvalfmError(f"{out} is there already; name another folder with --out.")
    check_writable(out.parent)
    task = TaskCard.model_validate(run.record.task)
    manifest = load_manifest(data, task.name, progress)
    manifest.validate(deep=True)
    rows = np.flatnonzero(cohort(task, manifest, None).keep)
    if not len(rows):
        raise EvalfmError(f"No image of {manifest.info.name} belongs to the cohort of {task.name} ({task.where}).")
    opened = _reopen(run, manifest, weights, encoder, device, progress)
    with tempfile.TemporaryDirectory() as scratch:
        sources = trained_sources(run, opened, manifest, Path(scratch)) or [opened.source]
        heads = _heads(run, task)
        examples = [
            Examples(source, rows, np.empty((len(rows), 0)), manifest.patients[rows])
            for source in (sources if len(sources) == len(heads) else sources * len(heads))
        ]
        columns = _columns(run, task, heads, examples, manifest)
    who = public_table(manifest, rows).drop(columns="split")
    table = pd.concat([who, columns], axis=1)
    notes = _notes(run, manifest, opened, len(manifest) - len(rows))
    remove_leftovers(out.parent)
    with publishing(out.parent, out, InTheWay.REFUSED) as work:
        table.to_parquet(work / PREDICTIONS, index=False)
        summary = {"schema": 1, "run": run.record.key, "data": manifest.info.name, "images": len(rows), "notes": notes}
        (work / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return Predicted(out, table, tuple(notes))


def _reopen(
    run: Run,
    manifest: Manifest,
    weights: str | Path | None,
    encoder: str | Encoder | None,
    device: str,
    progress: Progress,
) -> Opened:
    """The run's encoder on ``manifest``, with the same weights and preprocessing as in the run."""
    if run.encoder in TABLES and run.encoder != "constant":
        raise EvalfmError(
            f"The encoder {run.encoder} reads a table, not images; its run cannot be applied to other data."
        )
    asked = run.record.config["encoder"]
    source = str(weights) if weights is not None else str(asked.get("weights", "hub"))
    if run.adaptation in ("full", "scratch"):
        # Every tensor is in the run; what the encoder starts with is written over.
        source = "random" if run.record.encoder.get("weights", {}).get("source") != "none" else "hub"
    if source == "file":
        raise EvalfmError(f"The weights of {run.encoder} came from a file; name it again with --weights PATH.")
    precision = run.record.provenance.precision
    shape = {key: asked[key] for key in ("input_size", "resize") if key in asked}
    settings = EncoderSettings.checked(
        name=run.encoder, weights=source, device=device, precision=precision, maps="stream", **shape
    )
    named: str | EncoderCard | Encoder = run.encoder
    if encoder is not None:
        named = encoder
    elif run.encoder not in TABLES:
        named = EncoderCard.model_validate(run.record.encoder)
    hidden = frozenset(map(str, run.record.task["target"]))
    opened = open_encoder(named, settings, manifest, None, progress, hidden)
    if run.adaptation in ("full", "scratch"):
        return opened
    if opened.weights_digest != run.record.provenance.weights_digest:
        raise EvalfmError(
            f"These weights of {run.encoder} (SHA-256 {str(opened.weights_digest)[:12]}…) are not those of the run "
            f"({str(run.record.provenance.weights_digest)[:12]}…); name the run's checkpoint with --weights."
        )
    return opened


def _columns(run: Run, task: TaskCard, heads: list[Head], examples: list[Examples], manifest: Manifest) -> pd.DataFrame:
    """The kind's columns; a run over folds gives the mean of its heads and the median of their thresholds."""
    names = tuple(run.record.data["class_names"])
    operating = Operating.recorded(run.record.chosen)
    if isinstance(heads[0], DenseHead):
        return _dense_columns(
            [head for head in heads if isinstance(head, DenseHead)], task, examples, manifest, operating.thresholds
        )
    pooled = [head for head in heads if isinstance(head, PooledHead)]
    scores = np.mean([head.predict(each) for head, each in zip(pooled, examples, strict=True)], axis=0)
    unknown: NDArray[np.float64] = np.full((len(scores), len(names)), np.nan)
    columns = pooled_columns(scores, unknown if task.kind == "multilabel" else unknown[:, 0], task.kind, names)
    columns = columns[[name for name in columns if not str(name).startswith("target")]]
    for name, threshold in operating.thresholds.items():
        columns[f"decision_{name}"] = (columns[f"score_{name}"] >= threshold).astype(int)
    return columns.assign(**operating.columns(task.kind, names, scores))


def _dense_columns(
    heads: list[DenseHead], task: TaskCard, examples: list[Examples], manifest: Manifest, thresholds: dict[str, float]
) -> pd.DataFrame:
    rows = []
    predicted = (head.predict(each) for head, each in zip(heads, examples, strict=True))
    for together in zip(*predicted, strict=True):
        row = together[0][0]
        probability = sum((each for _, each in together[1:]), together[0][1]) / len(together)
        rows.append(dense_row(probability, None, thresholds, manifest.spacing_mm(row), task.nsd_tolerance_mm))
    return pd.DataFrame(rows)


def _heads(run: Run, task: TaskCard) -> list[Head]:
    """The run's head, one per fold where there are folds."""
    heads = []
    for group in by_fold(run, run.head_tensors()):
        head = load_head(run.head, task.kind)
        head.load_tensors(group)
        heads.append(head)
    return heads


def _notes(run: Run, manifest: Manifest, opened: Opened, outside: int) -> list[str]:
    notes = [note for note in run.record.notes if note.startswith(("Synthetic data", "Random weights"))]
    if manifest.info.synthetic and not run.record.provenance.synthetic:
        notes.append("Synthetic data: these predictions are not about patients.")
    if outside:
        notes.append(f"{outside} image(s) outside the task's cohort were left out.")
    if run.record.data["folds"]:
        notes.append(f"Mean of the {run.record.data['folds']} heads of the folds; the threshold is their median.")
    if opened.source.key != run.record.provenance.feature_key:
        notes.append("Library versions or settings differ from the run's: features may differ slightly.")
    return notes


def as_plain(predicted: Predicted) -> dict[str, Any]:
    """What `predict` did, as plain values."""
    return {"folder": str(predicted.folder), "images": len(predicted.table), "notes": list(predicted.notes)}
