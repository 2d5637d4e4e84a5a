"""The results of a study as one tidy table, and its failures beside it; both appear whole."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from evalfm.config import Shard
from evalfm.data.atomic import write_atomically
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import without_private
from evalfm.probing.executor import Outcome
from evalfm.record import SCHEMA
from evalfm.run import MARK, Run

RESULTS = "results.parquet"
FAILURES = "failures.json"


def file_of(name: str, shard: Shard | None) -> str:
    """The file ``name`` of a shard alone, which several at once never write over each other's.

    >>> file_of(RESULTS, Shard(2, 8)), file_of(FAILURES, None)
    ('results-2-of-8.parquet', 'failures.json')
    """
    return name if shard is None else shard.file_name(name)


COLUMNS: dict[str, str | None] = {
    "study": None,  # name of the study
    "encoder": None,  # name of the encoder
    "added": None,  # whether the caller added the encoder to those of the study as it is written
    "weights": "string",  # ``hub``, ``random`` or ``file``; null for a table of features
    "task": None,  # name of the task
    "kind": None,  # of the task
    "head": None,  # name of the head
    "adaptation": None,  # ``frozen``, ``lora``, ``full`` or ``scratch``
    "rank": "Int64",  # of LoRA; null for the others
    "shots": "Int64",  # training images per class; null where not given
    "episodes": "Int64",  # how many few-shot episodes the value is the mean of; null where not given
    "label_fraction": "Float64",  # of the training patients; null where not given
    "associate": "string",  # the attribute tied to the label in train, and how strongly; null where not given
    "base_to_novel": None,  # whether the first half of the classes alone was learnt from
    "seed": None,  # number of the seed
    "baseline": None,  # whether it is a baseline that knows nothing
    "metric": None,  # name of the metric
    "primary": None,  # whether it is the one that decides
    "value": "Float64",  # the estimate on test; null with a reason
    "low": "Float64",  # lower end of the 95 % interval
    "high": "Float64",  # upper end of the 95 % interval
    "n": None,  # units behind it
    "unit": None,  # ``patients`` or ``images``
    "reason": "string",  # why value or interval is absent
    "data": None,  # name of the data set
    "test_data": None,  # name of the data set that was tested
    "where": "string",  # which rows of the cohort were kept; null is all
    "test_where": "string",  # whose patients were put into test; null where not given
    "folds": "Int64",  # how many, of out-of-fold predictions; null for one split
    "test_digest": "string",  # hash of the test images: figures of two are of two cohorts
    "precision": None,  # of the encoder's forward pass
    "input_size": "Int64",  # in pixels, where another than the card's was given; null else
    "resize": "string",  # likewise, the policy
    "feature_key": None,  # hash of all that decides the features
    "limit": "Int64",  # most images; null is all
    "synthetic": None,  # whether the data are synthetic
    "random_weights": None,  # whether the encoder had learnt nothing
    "seconds": None,  # that the run took when it was made; heads on one frozen encoder share them evenly
    "run_key": None,  # of the run
    "run": None,  # folder of the run, relative to the table
}
"""Columns of the table, each with its type where it may be null, so that it keeps it even where all is null."""


def rows_of(study: str, run: Run, out: Path, *, added: bool = False) -> list[dict[str, Any]]:
    """One row a metric of ``run``, which lies under ``out``, with the columns of ``COLUMNS``.

    ``added`` says that its encoder is none of the study as it is written.
    """
    record = run.record
    config = record.config
    primaries = _primaries(run)
    return [
        {
            "study": study,
            "encoder": run.encoder,
            "added": added and not run.is_baseline,
            "weights": config.encoder.weights,
            "task": run.task,
            "kind": record.task.kind,
            "head": run.head,
            "adaptation": run.adaptation,
            "rank": config.recipe.get("rank") if run.adaptation == "lora" else None,
            "shots": config.shots,
            "episodes": config.episodes,
            "label_fraction": config.label_fraction,
            "associate": config.associate,
            "base_to_novel": config.base_to_novel,
            "seed": config.seed,
            "baseline": run.is_baseline,
            "metric": name,
            "primary": name in primaries,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "n": estimate.n,
            "unit": estimate.unit,
            "reason": estimate.reason,
            "data": record.data.name,
            "test_data": record.data.test_name,
            "where": config.where,
            "test_where": config.test_where,
            "folds": record.data.folds,
            "test_digest": record.data.test_digest,
            "precision": record.provenance.precision,
            "input_size": config.encoder.input_size,
            "resize": config.encoder.resize,
            "feature_key": record.provenance.feature_key,
            "limit": config.limit,
            "synthetic": record.provenance.synthetic,
            "random_weights": record.provenance.random_weights,
            "seconds": record.provenance.seconds,
            "run_key": record.key,
            "run": run.folder.resolve().relative_to(out.resolve()).as_posix(),
        }
        for name, estimate in run.metrics.items()
    ]


def table_of(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a table with the columns of ``COLUMNS``, also where there are none."""
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({name: kind for name, kind in COLUMNS.items() if kind})


def write_results(out: Path, rows: Sequence[dict[str, Any]], shard: Shard | None = None) -> Path:
    """Publish the table of ``rows`` in ``out`` by one rename."""
    content = io.BytesIO()
    table = table_of(rows)
    table.attrs = {MARK: {"schema": SCHEMA}}
    table.to_parquet(content, index=False)
    path = out / file_of(RESULTS, shard)
    write_atomically(path, content.getvalue())
    return path


def write_failures(
    out: Path, failed: Sequence[Outcome], manifests: Sequence[Manifest] = (), shard: Shard | None = None
) -> Path:
    """Publish what failed, each with its cell, in ``out`` by one rename; an empty list where nothing did.

    No path and no name of ``manifests`` is in it: whoever ran the study has read them on the screen.
    """
    content = [
        {
            "cell": outcome.cell.key,
            "encoder": without_private(outcome.cell.encoder, ()),
            "task": without_private(outcome.cell.task, ()),
            "heads": list(outcome.cell.heads or ()),
            "adaptation": outcome.cell.adaptation,
            "shots": outcome.cell.shots,
            "episodes": outcome.cell.episodes,
            "label_fraction": outcome.cell.label_fraction,
            "seconds": round(outcome.seconds, 3),
            **{**asdict(outcome.failure), "sentence": without_private(outcome.failure.sentence, manifests)},
        }
        for outcome in failed
        if outcome.failure is not None
    ]
    path = out / file_of(FAILURES, shard)
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def _primaries(run: Run) -> set[str]:
    """The metric that decides; for masks of several findings one of each."""
    if run.primary in run.metrics:
        return {run.primary}
    return {f"{run.primary}_{name}" for name in run.record.data.class_names} & set(run.metrics)
