"""The truth of a task: labels, masks and measurements on masks, read off a manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.manifest import Manifest
from evalfm.data.mask_facts import MaskFact, mask_facts
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.tasks.kinds import kind_of
from evalfm.tasks.task import TaskCard

LUNGS = "lungs"
EACH_LUNG = ("left_lung", "right_lung")


def parts_of(finding: str, columns: Collection[str]) -> tuple[str, ...]:
    """The findings whose masks together are ``finding``: both lungs where ``columns`` has no mask of the lungs.

    >>> parts_of("lungs", ["left_lung_mask", "right_lung_mask"]), parts_of("heart", ["heart_mask"])
    (('left_lung', 'right_lung'), ('heart',))
    """
    if finding == LUNGS and "lungs_mask" not in columns and all(f"{lung}_mask" in columns for lung in EACH_LUNG):
        return EACH_LUNG
    return (finding,)


@dataclass(frozen=True)
class Truth:
    """What is true of each row.

    Attributes:
        target: a label, class number or measurement, [N]; several labels [N, K]; NaN where unknown; [N, 0] for masks.
        positive: whether the finding is there, [N].
        known: whether there is a truth, of several labels any, [N].
        class_names: one per score column or mask channel.
        label_source: where the truth comes from, per target.
    """

    target: NDArray[np.float64]
    positive: NDArray[np.bool_]
    known: NDArray[np.bool_]
    class_names: tuple[str, ...]
    label_source: dict[str, str]


def read_truth(task: TaskCard, manifest: Manifest, rows: NDArray[np.intp]) -> Truth:
    """The truth of ``rows`` [N] of ``manifest`` by the kind of ``task``.

    Raises:
        UnknownNameError: the manifest lacks a column that the task needs.
        EvalfmError: a label has other values than the kind of task allows.
    """
    return READERS[kind_of(task.kind).target].read(task, manifest, rows)


def masks_of(task: TaskCard, manifest: Manifest) -> tuple[str, ...]:
    """The findings of ``manifest`` whose masks are the truth of ``task`` or measure it; no other mask is read."""
    columns = manifest.table.columns
    wanted = READERS[kind_of(task.kind).target].masks(task, columns)
    parts = dict.fromkeys(part for finding in wanted for part in parts_of(finding, columns))
    return tuple(part for part in parts if part in manifest.findings)


def _label_truth(task: TaskCard, manifest: Manifest, rows: NDArray[np.intp]) -> Truth:
    """0 or 1; of several labels each is learnt and measured where it is known."""
    columns = [binary_label(manifest, name, rows) for name in task.target]
    target = np.stack([column for column, _ in columns], axis=1)
    sources = {name: source for name, (_, source) in zip(task.target, columns, strict=True)}
    positive, known = np.asarray((np.nan_to_num(target) > 0).any(axis=1)), np.asarray(~np.isnan(target).all(axis=1))
    if kind_of(task.kind).several_labels:
        return Truth(target, positive, known, task.target, sources)
    return Truth(target[:, 0], positive, known, (_positive_name(task, manifest),), sources)


def _class_truth(task: TaskCard, manifest: Manifest, rows: NDArray[np.intp]) -> Truth:
    """The number of each row's level among those of the column."""
    (name,) = task.target
    values = _column(manifest, name).iloc[rows]
    levels = levels_of(manifest, name, values)
    codes = pd.Categorical(values, categories=levels).codes.astype(np.float64)
    codes[codes < 0] = np.nan
    source = {name: manifest.info.label_source.get(name, "unstated")}
    known = ~np.isnan(codes)
    return Truth(codes, known, known, tuple(plain_level(level) for level in levels), source)


def _mask_truth(task: TaskCard, manifest: Manifest, rows: NDArray[np.intp]) -> Truth:
    """Which rows have every mask, and which of these show anything."""
    known = np.ones(len(rows), dtype=bool)
    positive = np.zeros(len(rows), dtype=bool)
    for finding in task.target:
        has_mask = _has_mask(manifest, finding, rows)
        known &= has_mask
        facts = facts_of_masks(manifest, finding, rows[has_mask])
        positive[has_mask] |= np.array([fact.pixels > 0 for fact in facts], dtype=bool)
    sources = {name: _mask_source(manifest, name) for name in task.target}
    return Truth(np.empty((len(rows), 0)), positive, known, task.target, sources)


def measured_on(task: TaskCard) -> tuple[str, ...]:
    """The findings whose masks the target can be measured on."""
    on_lungs = {"lung-fraction": (*task.target, LUNGS), "ctr": ("heart", LUNGS)}
    return task.target if task.measure == "area-fraction" else on_lungs.get(task.measure, ())


def _masks_measured(task: TaskCard, columns: Collection[str]) -> tuple[str, ...]:
    """The same; none where a column gives the ratio."""
    return () if task.measure == "ctr" and task.target[0] in columns else measured_on(task)


def _measured_truth(task: TaskCard, manifest: Manifest, rows: NDArray[np.intp]) -> Truth:
    """The measurement [N] of each row, from its column or its masks."""
    (name,) = task.target
    everywhere = np.ones(len(rows), dtype=bool)
    findings = _masks_measured(task, manifest.table.columns)
    if not findings:
        values = pd.to_numeric(_column(manifest, name), errors="coerce").to_numpy(np.float64, na_value=np.nan)[rows]
        source = manifest.info.label_source.get(name, "unstated")
        return Truth(values, everywhere, ~np.isnan(values), task.target, {name: source})
    has_masks = np.logical_and.reduce([_has_mask(manifest, finding, rows) for finding in findings])
    values = np.full(len(rows), np.nan)
    values[has_masks] = list(_on_masks(task.measure, manifest, findings, rows[has_masks]))
    positive = everywhere if task.measure == "ctr" else np.nan_to_num(values) > 0
    return Truth(values, positive, ~np.isnan(values), task.target, {name: _mask_source(manifest, *findings)})


def _on_masks(measure: str, manifest: Manifest, findings: tuple[str, ...], rows: NDArray[np.intp]) -> Iterator[float]:
    """The measurement of each row; NaN where the lungs or the heart hold nothing."""
    first, *others = (facts_of_masks(manifest, finding, rows) for finding in findings)
    if not others:
        yield from (fact.pixels / fact.size for fact in first)
    elif measure == "ctr":
        for heart, thorax in zip(first, *others, strict=True):
            yield heart.extent / thorax.extent if heart.extent and thorax.extent else np.nan
    else:
        for lesion, lungs, both in zip(first, *others, facts_of_masks(manifest, findings, rows), strict=True):
            yield lesion.pixels / both.pixels if lungs.pixels else np.nan


@dataclass(frozen=True)
class Reader:
    """How the truth of a task is read, and the findings whose masks it needs where a manifest has some columns."""

    read: Callable[[TaskCard, Manifest, NDArray[np.intp]], Truth]
    masks: Callable[[TaskCard, Collection[str]], Iterable[str]]


READERS = {
    "labels": Reader(_label_truth, lambda task, columns: [name for name in task.target if name not in columns]),
    "classes": Reader(_class_truth, lambda task, columns: ()),
    "masks": Reader(_mask_truth, lambda task, columns: task.target),
    "values": Reader(_measured_truth, _masks_measured),
}
"""By what a head learns, see ``Kind.target``."""


def binary_label(manifest: Manifest, name: str, rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], str]:
    """A 0/1 label [N] with its source: the column, else whether the mask of that name holds anything; NaN is unknown.

    Raises:
        EvalfmError: there is neither, or the column holds something else.
    """
    if name in manifest.table.columns or f"{name}_mask" not in manifest.table.columns:
        column = _column(manifest, name).iloc[rows]
        if in_words(manifest, name):
            column = column.map(plain_level, na_action="ignore").astype(object)
        return _as_binary(name, column, levels_of(manifest, name, column)), manifest.info.label_source.get(
            name, "unstated"
        )
    has_mask = _has_mask(manifest, name, rows)
    values = np.full(len(rows), np.nan)
    values[has_mask] = [float(fact.pixels > 0) for fact in facts_of_masks(manifest, name, rows[has_mask])]
    return values, _mask_source(manifest, name)


def levels_of(manifest: Manifest, name: str, column: pd.Series) -> list[Any]:
    """The different values of a column, in the data set's order where it states one."""
    order = {level: place for place, level in enumerate(manifest.info.levels.get(name, ()))}
    return sorted(sorted(column.dropna().unique().tolist()), key=lambda level: order.get(plain_level(level), 0))


def _as_binary(name: str, column: pd.Series, levels: list[Any]) -> NDArray[np.float64]:
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(np.float64, na_value=np.nan)
        wrong = ~np.isnan(values) & (values != 0) & (values != 1)
        if wrong.any():
            raise EvalfmError(f"Label {name!r} must be 0, 1 or empty, but holds {values[wrong][0]:g}; map its values.")
        return values
    if len(levels) > 2:
        raise EvalfmError(f"Label {name!r} has {len(levels)} levels and two are needed; map them to 0 and 1.")
    values = (column == levels[-1]).to_numpy(np.float64, na_value=np.nan) if levels else np.full(len(column), np.nan)
    values[column.isna().to_numpy()] = np.nan
    return values


def in_words(manifest: Manifest, name: str) -> bool:
    """Whether the values of a column are names of levels; those of a class label may be numbers, such as 1 and 2."""
    column = manifest.table[name]
    if not pd.api.types.is_numeric_dtype(column):
        return True
    return manifest.info.label_kinds.get(name) == "class" and not set(column.dropna().unique()) <= {0, 1}


def _positive_name(task: TaskCard, manifest: Manifest) -> str:
    """What the score of a binary task is of: the label, or the level that counts as positive."""
    (name,) = task.target
    column = manifest.table.get(name)
    if column is None or not in_words(manifest, name):
        return name
    levels = levels_of(manifest, name, column)
    return f"{name}_{plain_level(levels[-1])}" if levels else name


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


def facts_of_masks(manifest: Manifest, finding: str | tuple[str, ...], rows: NDArray[np.intp]) -> list[MaskFact]:
    """The facts of the mask of ``finding`` (of several findings together) of each of ``rows``; all must be known."""
    findings = (finding,) if isinstance(finding, str) else finding
    parts = [part for each in findings for part in parts_of(each, manifest.table.columns)]
    facts = mask_facts(manifest, parts, rows.tolist())
    return [facts.known(row) for row in rows.tolist()]


def known_mask(manifest: Manifest, row: int, finding: str) -> NDArray[np.bool_]:
    """The mask of ``finding`` in ``row``, bool [H, W].

    Raises:
        EvalfmError: it is unknown.
    """
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


def plain_level(level: object) -> str:
    """A level as text, whole numbers without a decimal point.

    >>> plain_level(2.0), plain_level("mild")
    ('2', 'mild')
    """
    return f"{level:g}" if isinstance(level, float) else str(level)
