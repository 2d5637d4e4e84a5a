"""A task posed to a manifest: which rows are asked, and what the truth of each is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.data.expressions import columns_of
from evalfm.data.manifest import Manifest
from evalfm.data.mask_facts import MaskFact, mask_facts
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.tasks.card import TaskCard, label_columns, list_tasks, load_task, with_defaults
from evalfm.tasks.measures import LUNGS, parts_of

FEW_LEVELS = 10
"""A plain number column with more distinct values than this is a regression target."""


TITLES = {
    "binary": "{}: yes or no?",
    "multiclass": "{}: which class?",
    "ordinal": "{}: which level?",
    "regression": "{}: what value?",
}
"""The question of a plain column, whatever its name is."""


@dataclass(frozen=True)
class Exclusion:
    """How many images left the cohort, and why."""

    reason: str
    images: int


@dataclass(frozen=True)
class Cohort:
    """A task posed to one manifest.

    Attributes:
        task: the card, completed from the data where it was a plain column.
        manifest: the whole manifest; ``rows`` are positions in it.
        rows: [N] rows of the cohort with known truth, in the order of their ids: no result depends on that of the
            table.
        target: [N] or [N, K] labels or measurements; [N, 0] for segmentation.
        positive: [N] True where the finding is there (False throughout for regression).
        class_names: one per score column or mask channel.
        exclusions: why the other rows are not asked.
        label_source: where the truth comes from, per target.
        notes: cautions that belong in the run.
    """

    task: TaskCard
    manifest: Manifest
    rows: NDArray[np.intp]
    target: NDArray[np.float64]
    positive: NDArray[np.bool_]
    class_names: tuple[str, ...]
    exclusions: tuple[Exclusion, ...]
    label_source: dict[str, str]
    notes: tuple[Caution, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def masks(self, row: int) -> NDArray[np.bool_]:
        """The truth of ``row``, bool [K, H, W], on the stored film's grid."""
        return np.stack([_known_mask(self.manifest, row, finding) for finding in self.task.target])

    def mask_digests(self) -> list[list[str]]:
        """Of each row, in order, the SHA-256 of its masks packed to bits: an edited mask is another truth."""
        each = [_facts(self.manifest, finding, self.rows) for finding in self.task.target]
        return [[fact.digest for fact in facts] for facts in zip(*each, strict=True)]

    def keep(self, chosen: NDArray[np.bool_], reason: str) -> Cohort:
        """The same question for the rows where ``chosen`` [N] is True; the others are counted under ``reason``."""
        dropped = int((~chosen).sum())
        if not dropped:
            return self
        return replace(
            self,
            rows=self.rows[chosen],
            target=self.target[chosen],
            positive=self.positive[chosen],
            exclusions=(*self.exclusions, Exclusion(reason, dropped)),
        )


def resolve_task(name: str, manifest: Manifest) -> TaskCard:
    """The card of ``name``, or a card made for a plain label column of ``manifest``.

    Raises:
        UnknownNameError: neither a task nor a column answers to ``name``.
    """
    if name in list_tasks() or name.endswith((".yaml", ".yml")):
        return load_task(name)
    if name in label_columns(manifest.table.columns):
        return _card_of_column(name, manifest)
    raise UnknownNameError("task or label column", name, [*list_tasks(), *label_columns(manifest.table.columns)])


def select_cohort(task: TaskCard, manifest: Manifest, where: str | None = None) -> Cohort:
    """Ask ``task`` of ``manifest``: apply its cohort and ``where``, and find the truth of every row.

    Raises:
        EvalfmError: the target is absent or unknown throughout, or nothing is left.
    """
    inside = task_rows(task, manifest, where)
    cohort = Cohort(
        task,
        manifest,
        _by_id(manifest, np.flatnonzero(inside.keep)),
        np.empty((0, 0)),
        np.empty(0, dtype=bool),
        task.target,
        (),
        {},
    )
    truth = _truth(task, manifest, cohort.rows)
    known = truth.known
    if truth.target.size:
        unknown = np.isnan(truth.target)
        # Of several labels each is learnt and measured where it is known; a row leaves when none is.
        known = np.asarray(~(unknown.all(axis=1) if task.kind == "multilabel" else unknown.any(axis=1)))
    cohort = replace(
        cohort,
        target=truth.target,
        positive=truth.positive,
        class_names=truth.class_names,
        exclusions=inside.exclusions,
        label_source=truth.label_source,
        notes=inside.notes,
    ).keep(known & truth.known, "target unknown")
    if task.positives_only:
        cohort = cohort.keep(cohort.positive, "no lesion (the task asks positives only)")
    if not len(cohort):
        reasons = "; ".join(f"{item.images} {item.reason}" for item in cohort.exclusions) or "the manifest has no rows"
        raise EvalfmError(f"Task {task.name} has no image left to ask ({reasons}); check the label column and --where.")
    if task.kind not in ("multilabel", "segmentation"):
        cohort = replace(cohort, target=cohort.target[:, 0])
    return cohort


def _by_id(manifest: Manifest, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    ids = manifest.table["id"].to_numpy(dtype=object)[rows].astype(str)
    return rows[np.argsort(ids, kind="stable")]


@dataclass(frozen=True)
class TaskRows:
    """Which rows a task is about.

    Attributes:
        keep: [rows of the manifest] True for those inside.
        exclusions: how many fell out at each condition.
        notes: conditions that could not be applied.
    """

    keep: NDArray[np.bool_]
    exclusions: tuple[Exclusion, ...]
    notes: tuple[Caution, ...]


def task_rows(task: TaskCard, manifest: Manifest, where: str | None) -> TaskRows:
    """Apply the card's condition (if its columns are there) and the caller's ``where``, in this order."""
    keep = np.ones(len(manifest), dtype=bool)
    exclusions: list[Exclusion] = []
    notes: list[Caution] = []
    missing = sorted(set(columns_of(task.where)) - set(manifest.table.columns)) if task.where else []
    if missing:
        words = f"The task's cohort ({task.where}) was not applied: no column {', '.join(missing)}."
        notes.append(Caution("cohort-not-applied", words))
    for expression in (None if missing else task.where, where):
        if expression is None:
            continue
        inside = manifest.where(expression)
        dropped = int((keep & ~inside).sum())
        if dropped:
            exclusions.append(Exclusion(f"outside {expression}", dropped))
        keep &= inside
    return TaskRows(keep, tuple(exclusions), tuple(notes))


@dataclass(frozen=True)
class _Truth:
    target: NDArray[np.float64]
    positive: NDArray[np.bool_]
    known: NDArray[np.bool_]
    class_names: tuple[str, ...]
    label_source: dict[str, str]


def _truth(task: TaskCard, manifest: Manifest, rows: NDArray[np.intp]) -> _Truth:
    if task.kind == "segmentation":
        return _mask_truth(task, manifest, rows)
    if task.kind == "regression":
        return _measured_truth(task, manifest, rows)
    if task.kind in ("binary", "multilabel"):
        columns = [binary_label(manifest, name, rows) for name in task.target]
        target = np.stack([column for column, _ in columns], axis=1)
        sources = {name: source for name, (_, source) in zip(task.target, columns, strict=True)}
        known = np.ones(len(rows), dtype=bool)
        names = task.target if task.kind == "multilabel" else (_positive_name(task, manifest),)
        positive = np.asarray((np.nan_to_num(target) > 0).any(axis=1))
        return _Truth(target, positive, known, names, sources)
    (name,) = task.target
    values = _column(manifest, name).iloc[rows]
    levels = _levels(manifest, name, values)
    codes = pd.Categorical(values, categories=levels).codes.astype(np.float64)
    codes[codes < 0] = np.nan
    source = {name: manifest.info.label_source.get(name, "unstated")}
    known = ~np.isnan(codes)
    return _Truth(codes[:, None], known, known, tuple(_plain(level) for level in levels), source)


def _mask_truth(task: TaskCard, manifest: Manifest, rows: NDArray[np.intp]) -> _Truth:
    known = np.ones(len(rows), dtype=bool)
    positive = np.zeros(len(rows), dtype=bool)
    for finding in task.target:
        has_mask = _has_mask(manifest, finding, rows)
        known &= has_mask
        facts = _facts(manifest, finding, rows[has_mask])
        positive[has_mask] |= np.array([fact.pixels > 0 for fact in facts], dtype=bool)
    sources = {name: _mask_source(manifest, name) for name in task.target}
    return _Truth(np.empty((len(rows), 0)), positive, known, task.target, sources)


def _measured_truth(task: TaskCard, manifest: Manifest, rows: NDArray[np.intp]) -> _Truth:
    (name,) = task.target
    known = np.ones(len(rows), dtype=bool)
    if task.measure == "area-fraction":
        has_mask = _has_mask(manifest, name, rows)
        values = np.full(len(rows), np.nan)
        values[has_mask] = [fact.pixels / fact.size for fact in _facts(manifest, name, rows[has_mask])]
        source = {name: _mask_source(manifest, name)}
        return _Truth(values[:, None], np.nan_to_num(values) > 0, known, task.target, source)
    if task.measure == "lung-fraction":
        values = np.full(len(rows), np.nan)
        has_both = _has_mask(manifest, name, rows) & _has_mask(manifest, LUNGS, rows)
        asked = [_facts(manifest, finding, rows[has_both]) for finding in ((name,), (LUNGS,), (name, LUNGS))]
        values[has_both] = [
            lesion.pixels / both.pixels if lungs.pixels else np.nan for lesion, lungs, both in zip(*asked, strict=True)
        ]
        source = {name: _mask_source(manifest, name, LUNGS)}
        return _Truth(values[:, None], np.nan_to_num(values) > 0, known, task.target, source)
    if task.measure == "ctr" and name not in manifest.table.columns:
        values = np.full(len(rows), np.nan)
        has_both = _has_mask(manifest, "heart", rows) & _has_mask(manifest, LUNGS, rows)
        hearts, lungs = (_facts(manifest, finding, rows[has_both]) for finding in ("heart", LUNGS))
        values[has_both] = [
            heart.extent / thorax.extent if heart.extent and thorax.extent else np.nan
            for heart, thorax in zip(hearts, lungs, strict=True)
        ]
        return _Truth(values[:, None], known, known, task.target, {name: _mask_source(manifest, "heart", LUNGS)})
    values = pd.to_numeric(_column(manifest, name), errors="coerce").to_numpy(np.float64, na_value=np.nan)[rows]
    source = {name: manifest.info.label_source.get(name, "unstated")}
    return _Truth(values[:, None], known, known, task.target, source)


def binary_label(manifest: Manifest, name: str, rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], str]:
    """A 0/1 label [N] with its source: the column, else whether the mask of that name holds anything; NaN is unknown.

    Raises:
        EvalfmError: there is neither, or the column holds something else.
    """
    if name in manifest.table.columns or f"{name}_mask" not in manifest.table.columns:
        column = _column(manifest, name).iloc[rows]
        if _in_words(manifest, name):
            column = column.map(_plain, na_action="ignore").astype(object)
        return _as_binary(name, column, _levels(manifest, name, column)), manifest.info.label_source.get(
            name, "unstated"
        )
    has_mask = _has_mask(manifest, name, rows)
    values = np.full(len(rows), np.nan)
    values[has_mask] = [float(fact.pixels > 0) for fact in _facts(manifest, name, rows[has_mask])]
    return values, _mask_source(manifest, name)


def _levels(manifest: Manifest, name: str, column: pd.Series) -> list[Any]:
    """The different values of a column, in the data set's order where it says one."""
    order = {level: place for place, level in enumerate(manifest.info.levels.get(name, ()))}
    return sorted(sorted(column.dropna().unique().tolist()), key=lambda level: order.get(_plain(level), 0))


def _as_binary(name: str, column: pd.Series, levels: list[Any]) -> NDArray[np.float64]:
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(np.float64, na_value=np.nan)
        wrong = ~np.isnan(values) & (values != 0) & (values != 1)
        if wrong.any():
            raise EvalfmError(f"Label {name!r} must be 0, 1 or empty, but holds {values[wrong][0]:g}; map its values.")
        return values
    if len(levels) > 2:
        raise EvalfmError(f"Label {name!r} has {len(levels)} levels where two are asked; map them to 0 and 1.")
    values = (column == levels[-1]).to_numpy(np.float64, na_value=np.nan) if levels else np.full(len(column), np.nan)
    values[column.isna().to_numpy()] = np.nan
    return values


def _in_words(manifest: Manifest, name: str) -> bool:
    """Whether the values of a column are names of levels; those of a class label may be numbers, such as 1 and 2."""
    column = manifest.table[name]
    if not pd.api.types.is_numeric_dtype(column):
        return True
    return manifest.info.label_kinds.get(name) == "class" and not set(column.dropna().unique()) <= {0, 1}


def _positive_name(task: TaskCard, manifest: Manifest) -> str:
    """What the score of a binary task speaks for: the label, or the level that counts as positive."""
    (name,) = task.target
    column = manifest.table.get(name)
    if column is None or not _in_words(manifest, name):
        return name
    levels = _levels(manifest, name, column)
    return f"{name}_{_plain(levels[-1])}" if levels else name


def _mask_source(manifest: Manifest, *findings: str) -> str:
    """Where the masks of ``findings`` come from; ``mask`` where only the label of that name says its own source."""
    columns = manifest.table.columns
    parts = [part for finding in findings for part in parts_of(finding, columns)]
    named = [manifest.info.label_source.get(part, "mask") if part not in columns else "mask" for part in parts]
    return ", ".join(dict.fromkeys(named))


def _has_mask(manifest: Manifest, finding: str, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of ``rows`` have a known mask of ``finding``, of all its parts."""
    parts = parts_of(finding, manifest.table.columns)
    known = [_column(manifest, f"{part}_mask").iloc[rows].notna().to_numpy() for part in parts]
    return np.asarray(np.logical_and.reduce(known), dtype=bool)


def _facts(manifest: Manifest, finding: str | tuple[str, ...], rows: NDArray[np.intp]) -> list[MaskFact]:
    """Of each of ``rows`` the facts of its mask of ``finding``, of several findings together; all must be known."""
    findings = (finding,) if isinstance(finding, str) else finding
    parts = [part for each in findings for part in parts_of(each, manifest.table.columns)]
    facts = mask_facts(manifest, parts, rows.tolist())
    return [facts.known(row) for row in rows.tolist()]


def masks_of(task: TaskCard, manifest: Manifest) -> tuple[str, ...]:
    """The findings of ``manifest`` whose masks ``task`` is answered or its truth is measured by; no other is read."""
    columns = manifest.table.columns
    wanted: list[str] = []
    if task.kind == "segmentation" or task.measure in ("area-fraction", "lung-fraction"):
        wanted += task.target
    elif task.kind in ("binary", "multilabel"):
        wanted += [name for name in task.target if name not in columns]
    if task.measure == "lung-fraction":
        wanted.append(LUNGS)
    if task.measure == "ctr" and task.target[0] not in columns:
        wanted += ["heart", LUNGS]
    parts = dict.fromkeys(part for finding in wanted for part in parts_of(finding, columns))
    return tuple(part for part in parts if part in manifest.findings)


def _known_mask(manifest: Manifest, row: int, finding: str) -> NDArray[np.bool_]:
    masks = []
    for part in parts_of(finding, manifest.table.columns):
        mask = manifest.mask(row, part)
        if mask is None:
            raise EvalfmError(f"Row {row + 1} has no known {part} mask; leave it out of the cohort.")
        masks.append(mask)
    return np.asarray(np.logical_or.reduce(masks))


def _column(manifest: Manifest, name: str) -> pd.Series:
    if name not in manifest.table.columns:
        raise UnknownNameError(f"column (data set {manifest.info.name})", name, map(str, manifest.table.columns))
    return manifest.table[name]


def _card_of_column(name: str, manifest: Manifest) -> TaskCard:
    """A card for a plain label column: as declared, else by its values (two, many numbers, few)."""
    column, declared = manifest.table[name], manifest.info.label_kinds.get(name)
    levels = _levels(manifest, name, column)
    if not levels:
        raise EvalfmError(f"Column {name!r} is unknown throughout; fill it in or ask another column.")
    many = pd.api.types.is_numeric_dtype(column) and len(levels) > FEW_LEVELS and declared != "class"
    kind = "binary" if len(levels) <= 2 else "regression" if many else "multiclass"
    if name in manifest.info.levels and len(levels) > 2:
        kind = "ordinal"
    if declared == "number":
        kind = "regression"
    title = TITLES[kind].format(name)
    if kind == "binary" and len(levels) == 2 and _in_words(manifest, name):
        title = f"{name}: {_plain(levels[1])} or {_plain(levels[0])}?"
    content = with_defaults({"name": name, "kind": kind, "title": title, "target": [name], "schema": 1})
    return TaskCard.model_validate(content)


def _plain(level: object) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)
