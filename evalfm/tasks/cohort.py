"""A task applied to a manifest: the rows of its cohort, and the truth of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.data.expressions import columns_of
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.tasks.kinds import BINARY, MULTICLASS, ORDINAL, REGRESSION, Kind, kind_of
from evalfm.tasks.task import TaskCard, label_columns, load_task, task_names, with_defaults
from evalfm.tasks.truth import facts_of_masks, in_words, known_mask, levels_of, plain_level, read_truth

FEW_LEVELS = 10
"""A plain number column with more distinct values than this is a regression target."""


@dataclass(frozen=True)
class Exclusion:
    """How many images left the cohort, and why."""

    reason: str
    images: int


@dataclass(frozen=True)
class Cohort:
    """A task applied to one manifest: made by ``select_cohort``.

    Attributes:
        task: the card, completed from the data where it was a plain column.
        manifest: the whole manifest; ``rows`` are positions in it.
        rows: [N] rows of the cohort with known truth, in the order of their ids: no result depends on that of the
            table.
        target: [N] or [N, K] labels or measurements; [N, 0] for segmentation.
        positive: [N] True where the finding is there (False throughout for regression).
        class_names: one per score column or mask channel.
        exclusions: why the other rows are not in it.
        label_source: where the truth comes from, per target.
        cautions: cautions that belong in the run.
    """

    task: TaskCard
    manifest: Manifest
    rows: NDArray[np.intp]
    target: NDArray[np.float64]
    positive: NDArray[np.bool_]
    class_names: tuple[str, ...]
    exclusions: tuple[Exclusion, ...]
    label_source: dict[str, str]
    cautions: tuple[Caution, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def kind(self) -> Kind:
        """What is known of tasks of its kind."""
        return kind_of(self.task.kind)

    @property
    def strata(self) -> NDArray[np.intp]:
        """The class of each image, of those that are counted out or shared in proportion, [N]."""
        return (self.target if self.kind.exclusive else self.positive).astype(np.intp)

    def masks(self, row: int) -> NDArray[np.bool_]:
        """The truth of ``row``, bool [K, H, W], on the stored image's grid."""
        return np.stack([known_mask(self.manifest, row, finding) for finding in self.task.target])

    def truths(self) -> list[Any]:
        """The target of each row, in order, or the SHA-256 of its masks packed to bits: an edited mask is another."""
        if not self.kind.pixelwise:
            return list(self.target.tolist())
        each = [facts_of_masks(self.manifest, finding, self.rows) for finding in self.task.target]
        return [[fact.digest for fact in facts] for facts in zip(*each, strict=True)]

    def keep(self, chosen: NDArray[np.bool_], reason: str) -> Cohort:
        """The same cohort with only the rows where ``chosen`` [N] is True; the others are counted under ``reason``."""
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

    Args:
        name: a built-in task, the path of a YAML card, or a label column.
        manifest: the table whose column it may be.

    Raises:
        UnknownNameError: there is neither a task nor a column of that name.

    >>> from pathlib import Path
    >>> from evalfm.data.dataset_info import DatasetInfo
    >>> table = pd.DataFrame({"id": ["a", "b"], "patient": ["p", "q"], "image": ["a.png", "b.png"], "edema": [0, 1]})
    >>> manifest = Manifest(DatasetInfo(name="small"), table, Path())
    >>> resolve_task("edema", manifest).kind, resolve_task("ptx-cls", manifest).primary
    ('binary', 'auroc')
    """
    if name in task_names() or name.endswith((".yaml", ".yml")):
        return load_task(name)
    if name in label_columns(manifest.table.columns):
        return card_of_column(name, manifest)
    raise UnknownNameError("task or label column", name, [*task_names(), *label_columns(manifest.table.columns)])


def select_cohort(task: TaskCard, manifest: Manifest, where: str | None = None) -> Cohort:
    """The rows of ``manifest`` that ``task`` is about, with the truth of each.

    Args:
        task: its ``where`` is applied where the columns are there, else noted.
        manifest: the table of images.
        where: a further condition, an expression over the manifest's columns.

    Raises:
        EvalfmError: the target is absent or unknown throughout, or nothing is left.

    >>> from pathlib import Path
    >>> from evalfm.data.dataset_info import DatasetInfo
    >>> columns = {"id": ["a", "b", "c"], "patient": ["p", "q", "r"], "image": ["a.png", "b.png", "c.png"]}
    >>> table = pd.DataFrame({**columns, "edema": [0, 1, None], "age": [40, 60, 70]})
    >>> manifest = Manifest(DatasetInfo(name="small"), table, Path())
    >>> cohort = select_cohort(resolve_task("edema", manifest), manifest, where="age > 50")
    >>> cohort.rows.tolist(), cohort.target.tolist(), [item.reason for item in cohort.exclusions]
    ([1], [1.0], ['outside age > 50', 'target unknown'])
    """
    inside = task_rows(task, manifest, where)
    rows = _by_id(manifest, np.flatnonzero(inside.keep))
    truth = read_truth(task, manifest, rows)
    cohort = Cohort(
        task=task,
        manifest=manifest,
        rows=rows,
        target=truth.target,
        positive=truth.positive,
        class_names=truth.class_names,
        exclusions=inside.exclusions,
        label_source=truth.label_source,
        cautions=inside.cautions,
    ).keep(truth.known, "target unknown")
    if task.positives_only:
        cohort = cohort.keep(cohort.positive, "no lesion (the task is of positives only)")
    if not len(cohort):
        reasons = "; ".join(f"{item.images} {item.reason}" for item in cohort.exclusions) or "the manifest has no rows"
        raise EvalfmError(f"Task {task.name} has no image left ({reasons}); check the label column and --where.")
    return cohort


def _by_id(manifest: Manifest, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    # Not as an array of letters, in which every id takes the room of the longest.
    ids = list(map(str, manifest.table["id"].to_numpy(dtype=object)[rows]))
    return rows[np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.intp)]


@dataclass(frozen=True)
class TaskRows:
    """Which rows a task is about.

    Attributes:
        keep: [rows of the manifest] True for those inside.
        exclusions: how many fell out at each condition.
        cautions: conditions that could not be applied.
    """

    keep: NDArray[np.bool_]
    exclusions: tuple[Exclusion, ...]
    cautions: tuple[Caution, ...]


def task_rows(task: TaskCard, manifest: Manifest, where: str | None) -> TaskRows:
    """Apply the card's condition (if its columns are there) and the caller's ``where``, in this order."""
    keep = np.ones(len(manifest), dtype=bool)
    exclusions: list[Exclusion] = []
    cautions: list[Caution] = []
    missing = sorted(set(columns_of(task.where)) - set(manifest.table.columns)) if task.where else []
    if missing:
        words = f"The task's cohort ({task.where}) was not applied: no column {', '.join(missing)}."
        cautions.append(Caution("cohort-not-applied", words))
    for expression in (None if missing else task.where, where):
        if expression is None:
            continue
        inside = manifest.where(expression)
        dropped = int((keep & ~inside).sum())
        if dropped:
            exclusions.append(Exclusion(f"outside {expression}", dropped))
        keep &= inside
    return TaskRows(keep, tuple(exclusions), tuple(cautions))


def card_of_column(name: str, manifest: Manifest) -> TaskCard:
    """A card for a plain label column: as declared, else by its values (two, many numbers, few)."""
    column, declared = manifest.table[name], manifest.info.label_kinds.get(name)
    levels = levels_of(manifest, name, column)
    if not levels:
        raise EvalfmError(f"Column {name!r} is unknown throughout; fill it in or take another column.")
    many = pd.api.types.is_numeric_dtype(column) and len(levels) > FEW_LEVELS and declared != "class"
    several = ORDINAL if name in manifest.info.levels else REGRESSION if many else MULTICLASS
    kind = REGRESSION if declared == "number" else several if len(levels) > 2 else BINARY
    title = kind.title.format(name)
    if kind.one_label and len(levels) == 2 and in_words(manifest, name):
        title = f"{name}: {plain_level(levels[1])} or {plain_level(levels[0])}?"
    content = with_defaults({"name": name, "kind": kind.name, "title": title, "target": [name], "schema": 1})
    return TaskCard.model_validate(content)
