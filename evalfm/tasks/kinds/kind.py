"""What a kind of task is: its target, what its predictions hold, and what is learnt, shown and asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Names, lists and help do without the libraries that arrays and tables need.
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

LARGEST = 1e38
"""Of any number in a table; scores are float32."""
ALL = -1
"""As many classes as the task has, two at least."""


@dataclass(frozen=True)
class Column:
    """What a column of predictions must hold.

    Attributes:
        name: with ``{}`` where each class has its own.
        classes: of how many classes it holds numbers, from 0; None where it holds any numbers from ``low`` to ``high``.
        partly: whether cells may be empty.
    """

    name: str
    classes: int | None = None
    low: float = -LARGEST
    high: float = LARGEST
    partly: bool = False

    def of(self, names: Sequence[str]) -> list[Column]:
        """Itself, or that of each of the classes ``names``.

        >>> [each.name for each in Column("score_{}").of(["heart", "lungs"])]
        ['score_heart', 'score_lungs']
        """
        whole = replace(self, classes=max(2, len(names))) if self.classes == ALL else self
        return [replace(whole, name=self.name.format(name)) for name in names] if "{}" in self.name else [whole]

    @property
    def must(self) -> str:
        """What it must do, in words."""
        if self.classes is not None:
            return "hold 0, 1 or nothing" if self.partly else f"hold numbers of classes, 0 to {self.classes - 1}"
        anything = (self.low, self.high) == (-LARGEST, LARGEST)
        return "hold a finite number in every row" if anything else f"lie between {self.low:g} and {self.high:g}"

    def wrong(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of ``values`` [N], NaN where there is none, it must not hold.

        >>> import numpy as np
        >>> Column("target", classes=2).wrong(np.array([1, 2, np.nan])).tolist()
        [False, True, True]
        """
        import numpy as np

        inside = (values >= self.low) & (values <= self.high)
        if self.classes is not None:
            inside = np.isin(values, np.arange(self.classes))
        return np.asarray(~inside & ~(self.partly & np.isnan(values)))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of task: whoever needs to know something of it asks this object.

    Attributes:
        name: the word of a task card; metrics and heads say by it which kinds they serve.
        target: what a head learns: ``labels`` that are there or not, one of several ``classes``, ``masks`` or
            ``values``. Truth is read by ``tasks.truth.READERS``, and trained by ``heads.objectives.OBJECTIVES``.
        metrics: of a task whose card names none, the primary first.
        heads: likewise, the linear one first.
        title: of a task made of a label column, with ``{}`` for its name; empty where no column is one.
        several_targets: whether a task may have more than one target.
        ordered: whether classes are grades.
        fewest, most: names of classes that a task has.
        finding: what its positive images have, in words; empty where there are none.
        truth: columns of predictions that hold what is true of an image.
        score: column that holds the scores of a pooled head.
        beside: further columns without which a table is no predictions.
        halves: whether a table is known by rows that have no score of some classes.
        unsaid: what a table without its run leaves open.
        errors: what a subgroup report measures on each image: a name of ``analysis.scores.ERRORS``, or empty.
        unasked: why there is no such thing.
        picture: that a run draws: a name of ``analysis.run_figures.CURVES``, ``overlays``, or empty.
        parts: of its section of the report: names of ``analysis.report.task.PARTS``.
        baselines: encoders that know nothing of the disease.
        baseline_heads: their heads; none takes the task's first.
    """

    name: str
    target: str = ""
    metrics: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    title: str = ""
    several_targets: bool = False
    ordered: bool = False
    fewest: int = 1
    most: float = float("inf")
    finding: str = ""
    truth: tuple[Column, ...] = (Column("target"),)
    score: Column = Column("score_{}")
    beside: tuple[Column, ...] = ()
    halves: bool = False
    unsaid: str = ""
    errors: str = ""
    unasked: str = "is reported by its labels, which have no errors by image"
    picture: str = ""
    parts: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ("constant", "metadata", "pixels")
    baseline_heads: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def yes_or_no(self) -> bool:
        """Whether each label is there or not, with a threshold that val chooses."""
        return self.target == "labels"

    @property
    def exclusive(self) -> bool:
        """Whether an image is of one of several classes."""
        return self.target == "classes"

    @property
    def pixelwise(self) -> bool:
        """Whether the truth is masks, which dense heads learn."""
        return self.target == "masks"

    @property
    def measured(self) -> bool:
        """Whether the target is a measurement, which masks may give."""
        return self.target == "values"

    @property
    def several_labels(self) -> bool:
        """Whether an image has several labels, each of which may be unknown."""
        return self.yes_or_no and self.several_targets

    @property
    def one_label(self) -> bool:
        """Whether the task is one yes-or-no question."""
        return self.yes_or_no and not self.several_targets

    @property
    def one_class(self) -> bool:
        """Whether an image is of exactly one class, so that classes can be counted out."""
        return self.exclusive or self.one_label

    @property
    def has_classes(self) -> bool:
        """Whether each score is of a label or a class."""
        return self.yes_or_no or self.exclusive

    @property
    def has_finding(self) -> bool:
        """Whether an image has the finding or not."""
        return self.pixelwise or self.one_label

    @property
    def has_shots(self) -> bool:
        """Whether so many images of each class can be drawn, or with and without the finding."""
        return self.one_class or self.pixelwise

    def columns(self, names: Sequence[str]) -> list[Column]:
        """Columns without which a table is no predictions of a task with the classes ``names``."""
        return [each for column in (*self.truth, self.score, *self.beside) for each in column.of(names)]

    def truth_columns(self, names: Sequence[str]) -> list[str]:
        """Names of those that hold what is true of an image."""
        return [each.name for column in self.truth for each in column.of(names)]

    def positive(self, table: pd.DataFrame, names: Sequence[str]) -> NDArray[np.bool_]:
        """Which rows [N] of predictions have the finding, or any of several."""
        import numpy as np

        truth = table[self.truth_columns(names)].to_numpy(dtype=float, na_value=np.nan)
        return np.asarray((truth > 0).any(axis=1))

    def names_in(self, table: pd.DataFrame) -> tuple[str, ...] | None:
        """The classes of a table that looks like predictions of this kind; None for any other."""
        columns, start = list(map(str, table.columns)), self.score.name.removesuffix("{}")
        own = [each.removeprefix(start) for each in columns if each.startswith(start)]
        names = tuple(own) if start != self.score.name else ()
        if self.fewest <= len(names) <= self.most and {each.name for each in self.columns(names)} <= set(columns):
            scored = table[[each.name for each in self.score.of(names)]]
            return names if not self.halves or scored.isna().any(axis=None) else None
        return None
