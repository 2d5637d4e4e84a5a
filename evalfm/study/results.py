"""The results of a study as one tidy table, and its failures beside it; both appear whole."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

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


@dataclass(frozen=True)
class ResultRow:
    """One metric of one run.

    Attributes:
        study: name of the study.
        encoder: name of the encoder.
        weights: ``hub``, ``random`` or ``file``; null for a table of features.
        task: name of the task.
        kind: of the task.
        head: name of the head.
        adaptation: ``frozen``, ``lora``, ``full`` or ``scratch``.
        rank: of LoRA; null for the others.
        shots: training images per class; null where not given.
        episodes: how many few-shot episodes the value is the mean of; null where not given.
        label_fraction: of the training patients; null where not given.
        associate: the attribute tied to the label in train, and how strongly; null where not given.
        base_to_novel: whether the first half of the classes alone was learnt from.
        seed: number of the seed.
        baseline: whether it is a baseline that knows nothing.
        metric: name of the metric.
        primary: whether it is the one that decides.
        value: the estimate on test; null with a reason.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        n: units behind it.
        unit: ``patients`` or ``images``.
        reason: why value or interval is absent.
        data: name of the data set.
        test_data: name of the data set that was tested.
        where: which rows of the cohort were kept; null is all.
        test_where: whose patients were put into test; null where not given.
        folds: how many, of out-of-fold predictions; null for one split.
        test_digest: hash of the test images: figures of two are of two cohorts.
        precision: of the encoder's forward pass.
        input_size: in pixels, where another than the card's was given; null else.
        resize: likewise, the policy.
        feature_key: hash of all that decides the features.
        limit: most images; null is all.
        synthetic: whether the data are synthetic.
        random_weights: whether the encoder had learnt nothing.
        seconds: that the run took when it was made; heads on one frozen encoder share them evenly.
        run_key: of the run.
        run: folder of the run, relative to the table.
    """

    study: str
    encoder: str
    weights: str | None
    task: str
    kind: str
    head: str
    adaptation: str
    rank: int | None
    shots: int | None
    episodes: int | None
    label_fraction: float | None
    associate: str | None
    base_to_novel: bool
    seed: int
    baseline: bool
    metric: str
    primary: bool
    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    reason: str | None
    data: str
    test_data: str
    where: str | None
    test_where: str | None
    folds: int | None
    test_digest: str | None
    precision: str
    input_size: int | None
    resize: str | None
    feature_key: str
    limit: int | None
    synthetic: bool
    random_weights: bool
    seconds: float
    run_key: str
    run: str


COLUMNS = tuple(field.name for field in fields(ResultRow))
TYPES = {
    "rank": "Int64",
    "shots": "Int64",
    "episodes": "Int64",
    "limit": "Int64",
    "folds": "Int64",
    "input_size": "Int64",
    "where": "string",
    "test_where": "string",
    "test_digest": "string",
    "resize": "string",
    "label_fraction": "Float64",
    "associate": "string",
    "value": "Float64",
    "low": "Float64",
    "high": "Float64",
    "weights": "string",
    "reason": "string",
}
"""Columns that may be null keep their type even where all is null."""


def rows_of(study: str, run: Run, out: Path) -> list[ResultRow]:
    """One row a metric of ``run``, which lies under ``out``."""
    record = run.record
    config = record.config
    primaries = _primaries(run)
    return [
        ResultRow(
            study=study,
            encoder=run.encoder,
            weights=config.encoder.weights,
            task=run.task,
            kind=record.task.kind,
            head=run.head,
            adaptation=run.adaptation,
            rank=config.recipe.get("rank") if run.adaptation == "lora" else None,
            shots=config.shots,
            episodes=config.episodes,
            label_fraction=config.label_fraction,
            associate=config.associate,
            base_to_novel=config.base_to_novel,
            seed=config.seed,
            baseline=run.is_baseline,
            metric=name,
            primary=name in primaries,
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            n=estimate.n,
            unit=estimate.unit,
            reason=estimate.reason,
            data=record.data.name,
            test_data=record.data.test_name,
            where=config.where,
            test_where=config.test_where,
            folds=record.data.folds,
            test_digest=record.data.test_digest,
            precision=record.provenance.precision,
            input_size=config.encoder.input_size,
            resize=config.encoder.resize,
            feature_key=record.provenance.feature_key,
            limit=config.limit,
            synthetic=record.provenance.synthetic,
            random_weights=record.provenance.random_weights,
            seconds=record.provenance.seconds,
            run_key=record.key,
            run=run.folder.resolve().relative_to(out.resolve()).as_posix(),
        )
        for name, estimate in run.metrics.items()
    ]


def table_of(rows: Iterable[ResultRow]) -> pd.DataFrame:
    """The rows as a table with the columns of ``ResultRow``, also where there are none."""
    return pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS)).astype(TYPES)


def write_results(out: Path, rows: Sequence[ResultRow], shard: Shard | None = None) -> Path:
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
