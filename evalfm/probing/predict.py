"""A finished run, its head and threshold, applied to other data; labels are not needed."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter

import evalfm
from evalfm.analysis.images import located
from evalfm.cards import read_json
from evalfm.cautions import Caution
from evalfm.data.atomic import csv_text, write_atomically
from evalfm.data.columns import SPACING_COLUMNS
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_table
from evalfm.data.table_bounds import check_parquet
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.paths import user_path
from evalfm.predictions import PREDICTIONS
from evalfm.probing.applying import RunPredictor, check_applicable
from evalfm.probing.cohort import load_manifest, task_of
from evalfm.probing.session import EncoderSession
from evalfm.progress import SILENT, Progress
from evalfm.publishing import IfExists, check_writable, content_key, publishing, remove_leftovers
from evalfm.run import Run
from evalfm.tasks.cohort import task_rows

SUMMARY = "predict.json"
LOCAL_IDS = "local_ids.csv"


@dataclass(frozen=True)
class Predicted:
    """Predictions of a run on other data.

    Attributes:
        folder: where they were written.
        table: one row per image: who it is, the kind's columns, and the decision at the run's threshold.
        cautions: to print beside them.
    """

    folder: Path
    table: pd.DataFrame
    cautions: tuple[Caution, ...]


def predict(
    run: str | Path | Run,
    data: str | Path | Manifest,
    *,
    weights: str | Path | None = None,
    encoder: str | Encoder | None = None,
    out: str | Path = "predictions",
    device: str = "auto",
    local_ids: bool = False,
    progress: Progress = SILENT,
) -> Predicted:
    """Apply the head of ``run``, and the threshold it chose on val, to every image of ``data``.

    Args:
        weights: the checkpoint, where the run's came from a file.
        encoder: an encoder's code file or object, where the run's is not in the catalogue.
        out: a new folder, which gets predictions.parquet and predict.json; where it holds those of the same run on the
            same images, they are returned.
        local_ids: write local_ids.csv beside them too: which image of ``data`` each id is, and where its file lies. It
            is for the owner of the data and leaves nothing hidden.

    Raises:
        EvalfmError: the weights are others than the run's, or ``out`` holds something else.

    >>> from evalfm.data.phantom import make_phantom
    >>> from evalfm.probing.probe import probe
    >>> data = make_phantom("small", n=100, size=64)
    >>> (run,) = probe("pixels", "ptx-cls", data=data, heads="linear", baselines="none", out="runs")
    >>> len(predict(run, data, out="predictions").table)
    100
    """
    run = run if isinstance(run, Run) else Run.read(run)
    check_applicable(run)
    out = user_path(out, "--out")
    taken = f"{out} is there already and holds something else; name another folder with --out."
    if os.path.lexists(out) and not (out / SUMMARY).is_file():
        raise EvalfmError(taken)
    check_writable(out.parent)
    task = task_of(run)
    manifest = load_manifest(data, task.name, progress)
    manifest.validate(deep=True, findings=())
    rows = np.flatnonzero(task_rows(task, manifest, None).keep)
    if not len(rows):
        raise EvalfmError(f"No image of {manifest.info.name} belongs to the cohort of {task.name} ({task.where}).")
    who = public_table(manifest, rows).drop(columns="split")
    key = _key(run, manifest, rows, who)
    if out.exists():
        # Of the same command, perhaps killed after its last step.
        existing = _existing(out, key, who)
        if existing is None:
            raise EvalfmError(taken)
        table, cautions = existing
        if local_ids:
            _write_local_ids(out, manifest, table)
        again = f"{out} holds these predictions already; they are returned as they are."
        return Predicted(out, table, (*cautions, Caution("existing", again)))
    ready = RunPredictor.of(run, manifest, weights, encoder, device, progress)
    with closing(ready.session):
        columns = ready.answers(rows)
    table = pd.concat([who, columns], axis=1)
    cautions = _cautions(run, manifest, ready.session, len(manifest) - len(rows))
    remove_leftovers(out.parent)
    with publishing(out.parent, out, IfExists.REFUSED) as work:
        table.to_parquet(work / PREDICTIONS, index=False)
        summary = {"schema": 2, "run": run.record.key, "key": key, "data": manifest.info.name, "images": len(rows)}
        summary["cautions"] = [asdict(each) for each in cautions]
        (work / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        if local_ids:
            _write_local_ids(work, manifest, table)
    return Predicted(out, table, tuple(cautions))


def _write_local_ids(folder: Path, manifest: Manifest, table: pd.DataFrame) -> None:
    found = located(manifest, table["id"].tolist())
    write_atomically(folder / LOCAL_IDS, csv_text(list(found.columns), found.itertuples(index=False)).encode())


def _key(run: Run, manifest: Manifest, rows: NDArray[np.intp], who: pd.DataFrame) -> str:
    """Hash over all that decides the predictions: the run, the images, and what is said of them."""
    content = {"evalfm": evalfm.__version__, "run": run.record.key, "images": manifest.digests(rows.tolist()).tolist()}
    spacing = manifest.table.iloc[rows][[name for name in SPACING_COLUMNS if name in manifest.table]]
    read = {"bits": manifest.info.bits, "unit": manifest.info.unit, "spacing": spacing.to_csv(index=False)}
    return content_key({**content, "read": read, "who": who.to_csv(index=False)})


def _existing(out: Path, key: str, who: pd.DataFrame) -> tuple[pd.DataFrame, list[Caution]] | None:
    """The predictions in ``out`` and their cautions, or None where they are not those with ``key``, or damaged."""
    try:
        summary = read_json(out / SUMMARY)
        if summary["key"] != key:
            return None
        cautions = _CAUTIONS.validate_python(summary["cautions"])
    except (EvalfmError, LookupError, TypeError, ValueError):
        return None
    try:
        check_parquet(out / PREDICTIONS)
        table = pd.read_parquet(out / PREDICTIONS)
    except Exception:
        # Whatever a damaged file makes the library raise is a fault of the file.
        return None
    whole = len(table) == len(who) and list(table.columns[: who.shape[1]]) == list(who.columns)
    return (table, cautions) if whole else None


def _cautions(run: Run, manifest: Manifest, session: EncoderSession, outside: int) -> list[Caution]:
    cautions = [each for each in run.record.cautions if each.code in ("synthetic", "random-weights")]
    if manifest.info.synthetic and not run.record.provenance.synthetic:
        cautions.append(Caution("synthetic", "Synthetic data: these predictions are not about patients."))
    if outside:
        cautions.append(Caution("outside-cohort", f"{outside} image(s) outside the task's cohort were left out."))
    if folds := run.record.data.folds:
        words = f"Mean of the {folds} heads of the folds; the threshold is their median."
        cautions.append(Caution("mean-of-folds", words))
    if session.source.key != run.record.provenance.feature_key:
        words = "Library versions or settings differ from the run's: features may differ slightly."
        cautions.append(Caution("features-differ", words))
    return cautions


_CAUTIONS = TypeAdapter(list[Caution])


def as_plain(predicted: Predicted) -> dict[str, Any]:
    """What `predict` did, as plain values."""
    return {
        "folder": str(predicted.folder),
        "images": len(predicted.table),
        "cautions": [asdict(each) for each in predicted.cautions],
    }
