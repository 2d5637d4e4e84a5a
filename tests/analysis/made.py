"""Runs on disk with predictions of the test's choosing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from evalfm.cautions import Caution
from evalfm.features.cost import Cost
from evalfm.metrics.registry import compute_metrics
from evalfm.metrics.rows import Scored
from evalfm.publishing import publishing, run_folder, write_run
from evalfm.record import Provenance, Record, RefitSection
from evalfm.run import RECORD, Run
from evalfm.statistics.estimate import Estimate

METRICS = {
    "binary": "auroc",
    "segmentation": "dice_positive",
    "regression": "mae",
    "multiclass": "macro_auroc",
    "ordinal": "quadratic_kappa",
    "multilabel": "macro_auroc",
}
TASKS = {
    "binary": "ptx-cls",
    "segmentation": "ptx-seg",
    "regression": "ctr",
    "multiclass": "kind",
    "ordinal": "density",
    "multilabel": "chexpert5",
}


def provenance(**changes: Any) -> Provenance:
    facts: dict[str, Any] = {
        "versions": {},
        "git_commit": None,
        "device": "cpu",
        "precision": "float32",
        "seconds": 1.0,
        "peak_memory_bytes": 1,
        "weights_digest": None,
        "feature_key": "k",
        "split_hash": "s",
        "synthetic": False,
        "random_weights": False,
    }
    return Provenance(**{**facts, **changes})


def without_digests(run: Run) -> Run:
    """``run`` with a record that says nothing of its tables' bytes, so that what else is wrong in them is looked at."""
    content = json.loads((run.folder / RECORD).read_text())
    assert content.pop("tables")
    (run.folder / RECORD).write_text(json.dumps(content))
    return Run.read(run.folder)


def make_run(
    out: Path,
    table: pd.DataFrame,
    *,
    encoder: str = "one",
    kind: str = "binary",
    task: str | None = None,
    seed: int = 0,
    baseline: bool = False,
    head: str = "linear",
    card: dict[str, Any] | None = None,
    task_card: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    classes: tuple[str, ...] | None = None,
    cost: Cost | None = None,
    made: dict[str, Any] | None = None,
    val: pd.DataFrame | None = None,
    cautions: Sequence[Caution] = (),
    refits: Sequence[np.ndarray] | None = None,
    **data: Any,
) -> Run:
    """A run of ``encoder`` with test predictions ``table`` and those of ``val``; ``made`` changes its provenance.

    ``refits`` are scores in place of the run's, of one or several classes; none at all is a head that learns nothing.
    """
    table = table.assign(split="test")
    if classes is None:
        classes = () if kind == "regression" else ("ptx",)
    found = (
        compute_metrics(kind, Scored(table, classes, True))
        if kind != "segmentation"
        else {"dice_positive": Estimate(0.5)}
    )
    name = task or TASKS[kind]
    card_of_task = {"name": name, "title": "Is it?", "metrics": [METRICS[kind]], "kind": kind, "target": ["ptx"]}
    key = hashlib.sha256(f"{encoder}{name}{head}{seed}{baseline}{made or ''}".encode()).hexdigest()
    part = {"images": len(table), "patients": table["patient"].nunique(), "positive_images": positives(table, kind)}
    record = Record(
        schema=2,
        key=key,
        config={"baseline": baseline, "adaptation": "frozen", "seed": seed, **(settings or {})},
        encoder={"name": encoder, "pretraining_data": [], "parameters": 1, "licence": "MIT", **(card or {})},
        task=card_of_task | (task_card or {}),
        head={"name": head, "needs": ["pooled"]},
        data={
            "name": "toy",
            "test_name": "toy",
            "licence": "MIT",
            "citation": "",
            "derived_from": [],
            "label_source": {"ptx": "radiologist"},
            "class_names": list(classes),
            "patients_known": True,
            "folds": int(table["fold"].nunique()) if "fold" in table else None,
            "splits": {"train": part, "val": part, "test": part},
            "redistributable_images": False,
            **data,
        },
        metrics={name: estimate.to_json() for name, estimate in found.items()},
        chosen={},
        exclusions=[],
        cautions=list(cautions),
        provenance=provenance(**{"weights_digest": encoder, "cost": cost, **(made or {})}),
        refits=None
        if refits is None
        else RefitSection(numbers=list(range(len(refits))), looked_at=len(refits), learns=bool(len(refits))),
    )
    scored = [name for name in table if name == "prediction" or name.startswith("score_")]
    again = [
        table[["id"]].assign(
            refit=number,
            **dict(zip(scored, np.reshape(scores, (len(table), -1)).T, strict=True)),
            **{name: table[name] for name in table if name.startswith("threshold")},
        )
        for number, scores in enumerate(refits or ())
    ]
    folder = run_folder(out, encoder, name, head, "frozen", key)
    with publishing(out, folder) as work:
        rows = table if val is None else pd.concat([table, val.assign(split="val")], ignore_index=True)
        write_run(work, record, rows, {"weight": torch.zeros(1)}, None, pd.concat(again) if again else None)
    return Run.read(folder)


def positives(table: pd.DataFrame, kind: str) -> int:
    """How many images have the finding, or any of several."""
    if kind == "binary":
        return int((table["target"] == 1).sum())
    begin = {"segmentation": "area_true_", "multilabel": "target_"}.get(kind)
    return int((table.filter(regex=f"^{begin}") > 0).any(axis=1).sum()) if begin else 0


def binary_table(scores: np.ndarray, target: np.ndarray, patient: np.ndarray | None = None) -> pd.DataFrame:
    rows = range(len(target))
    return pd.DataFrame(
        {
            "id": [f"i{row:05}" for row in rows],
            "patient": [f"p{row:05}" for row in rows] if patient is None else patient,
            "target": target.astype(float),
            "score_ptx": scores,
            "threshold": 0.5,
        }
    )


def signal(target: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """A score in (0, 1) that is higher for positives by ``strength`` standard deviations."""
    noise = np.random.default_rng(seed).normal(size=len(target))
    return np.asarray(1 / (1 + np.exp(-(noise + strength * target))))


GRADES = ("A", "B", "C", "D")
LABELS = ("edema", "effusion", "mass")


def class_table(
    target: np.ndarray, scores: np.ndarray, images: int = 1, names: tuple[str, ...] = GRADES
) -> pd.DataFrame:
    """Class numbers [N] and scores [N, K], ``images`` of a patient after one another."""
    rows = range(len(target))
    identity = {"id": [f"i{row:05}" for row in rows], "patient": [f"p{row // images:05}" for row in rows]}
    columns = {f"score_{name}": scores[:, place] for place, name in enumerate(names)}
    return pd.DataFrame({**identity, "target": target.astype(float), **columns})


def class_scores(target: np.ndarray, strength: float, seed: int, classes: int = len(GRADES)) -> np.ndarray:
    """Probabilities [N, K], higher for the true class and its neighbours by ``strength``."""
    noise = np.random.default_rng(seed).normal(size=(len(target), classes))
    raw = np.exp(noise - strength * np.abs(target[:, None] - np.arange(classes)))
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def label_table(targets: np.ndarray, scores: np.ndarray, images: int = 1) -> pd.DataFrame:
    """Labels [N, K] with NaN where unknown, and scores [N, K]."""
    rows = range(len(targets))
    identity = {"id": [f"i{row:05}" for row in rows], "patient": [f"p{row // images:05}" for row in rows]}
    truth = {f"target_{name}": targets[:, place] for place, name in enumerate(LABELS)}
    return pd.DataFrame({**identity, **truth, **{f"score_{name}": scores[:, k] for k, name in enumerate(LABELS)}})
