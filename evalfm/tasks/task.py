"""A task: what is asked of an image, of which images, and by which metrics the answers are judged.

It is a short YAML card in ``cards/``, which may inherit from another. Its kind (:mod:`evalfm.tasks.kinds`) decides
what a head learns and what its predictions hold; :mod:`evalfm.tasks.cohort` says which rows of a data set it is asked
of, and :mod:`evalfm.tasks.truth` reads what is true of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from evalfm.cards import CardModel, read_yaml, validate
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.paths import user_path
from evalfm.plugins import PlugIn, find_plugins, load_all
from evalfm.tasks.kinds import KINDS, Kind, KindName

Measure = Literal["column", "area-fraction", "lung-fraction", "ctr"]


SHIPPED = {"shipped": True}
"""Context of cards whose metrics a test has checked: a list of tasks does without the libraries that metrics need."""


class TaskCard(CardModel):
    """What is predicted of an image, on which rows, and by which metrics.

    Attributes:
        name: the word on the command line.
        version: raised whenever a result could change.
        kind: decides heads, columns of the predictions and metrics.
        title: the task in words, a question.
        target: label columns, or findings whose ``<finding>_mask`` holds the truth; ``lungs`` are both lungs together
            where the data have one mask of each.
        measure: how a regression target is had: a column; the mask's area as a fraction of the image or of the lungs;
            or the cardiothoracic ratio from heart and lung masks where no column gives it.
        where: the cohort, as an expression over the manifest's columns; skipped (and said) where a column lacks.
        positives_only: keep only images whose mask is not empty.
        metrics: names of the metrics to show, the primary first.
        heads: the linear head first, then the stronger one.
        subgroups: attributes that a subgroup report looks at by default.
        nsd_tolerance_mm: tolerance of the normalised surface Dice, in mm.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str
    version: int = 1
    kind: KindName
    title: str
    target: tuple[str, ...]
    measure: Measure = "column"
    where: str | None = None
    positives_only: bool = False
    metrics: tuple[str, ...]
    heads: tuple[str, ...]
    subgroups: tuple[str, ...] = ("sex", "age", "view")
    nsd_tolerance_mm: float = 2.0

    @model_validator(mode="after")
    def _targets_fit(self, info: ValidationInfo) -> TaskCard:
        if not self.target or not self.metrics or not self.heads:
            raise ValueError("target, metrics and heads each need at least one name")
        if len(self.target) > 1 and not KINDS[self.kind].several_targets:
            raise ValueError(
                f"a {self.kind} task has one target, not {len(self.target)}; split it, or make it multilabel"
            )
        if info.context != SHIPPED:
            self._metrics_fit()
        return self

    def _metrics_fit(self) -> None:
        from evalfm.metrics.registry import check_metrics, metric_of

        try:
            check_metrics(self.metrics, self.kind)
        except EvalfmError as error:
            raise ValueError(str(error).rstrip(".")) from None
        if metric_of(self.primary).better is None:
            raise ValueError(f"{self.primary} has no better and worse, so it cannot stand first; name it further down")

    @property
    def primary(self) -> str:
        """The metric that a table sorts by."""
        return self.metrics[0]


def _folder() -> Path:
    return Path(str(resources.files("evalfm.tasks"))) / "cards"


def list_tasks() -> dict[str, TaskCard]:
    """Every task card by name, those of other packages last; broken plug-ins are left out.

    >>> "ptx-cls" in list_tasks()
    True
    """
    plugged = load_all(task_plugins())[0]
    return {**{name: _built_in_card(path) for name, path in _built_in().items()}, **plugged}


def task_names() -> list[str]:
    """The names of all task cards; no plug-in is imported.

    >>> "ptx-cls" in task_names()
    True
    """
    return sorted({*_built_in(), *task_plugins()})


def load_task(name: str) -> TaskCard:
    """The task ``name``: a built-in card, a plug-in or the path of a YAML card.

    Raises:
        UnknownNameError: there is no card of that name.
        EvalfmError: the card is not valid, or its plug-in is broken.

    >>> task = load_task("ptx-cls")
    >>> task.kind, task.target, task.primary
    ('binary', ('pneumothorax',), 'auroc')
    """
    if name.endswith((".yaml", ".yml")):
        return read_card(user_path(name, "--task"))
    plugin = task_plugins().get(name)
    if plugin is not None:
        return plugin.load()
    if name not in _built_in():
        raise UnknownNameError("task", name, task_names())
    return _built_in_card(_built_in()[name])


def task_plugins() -> dict[str, PlugIn[TaskCard]]:
    """The tasks that other packages bring, by name; none is imported."""
    return find_plugins("task", _built_in(), _plugged_card)


@cache
def _built_in() -> dict[str, Path]:
    return {path.stem: path for path in sorted(_folder().glob("*.yaml")) if not path.stem.startswith("_")}


@cache
def _built_in_card(path: Path) -> TaskCard:
    return TaskCard.model_validate(with_defaults(_inherited(path, ())), context=SHIPPED)


def _plugged_card(name: str, loaded: Any) -> TaskCard:
    card = read_card(Path(loaded)) if isinstance(loaded, str | Path) else loaded
    if not isinstance(card, TaskCard):
        raise EvalfmError(f"it is {type(loaded).__name__}, not a TaskCard or a card's path")
    if card.name != name:
        raise EvalfmError(f"its card is called {card.name!r}")
    return card


def read_card(path: Path, seen: tuple[Path, ...] = ()) -> TaskCard:
    """Read one card, filling what it leaves out from its ``base`` and the defaults of its kind."""
    return validate(TaskCard, with_defaults(_inherited(path, seen)), f"task card {path.name}")


def label_columns(columns: Iterable[object]) -> list[str]:
    """Those of a table's columns that can be targets: all but the paths of images and masks, ids and splits.

    >>> label_columns(["id", "image", "patient", "edema", "edema_mask"])
    ['edema']
    """
    bookkeeping = {"id", "image", "patient", "study", "group", "slice", "split"}
    return [str(name) for name in columns if name not in bookkeeping and not str(name).endswith("_mask")]


def with_defaults(content: dict[str, Any]) -> dict[str, Any]:
    """Fill metrics and heads by the task's kind where ``content`` names none.

    >>> with_defaults({"kind": "regression", "heads": ["mlp"]})
    {'metrics': ('mae', 'r2', 'spearman'), 'heads': ['mlp'], 'kind': 'regression'}
    """
    kind = KINDS.get(str(content.get("kind")), Kind(name="unknown"))
    return {"metrics": kind.metrics, "heads": kind.heads, **content}


def _inherited(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise EvalfmError(f"Task card {path.name} inherits from itself; fix its base.")
    content = read_yaml(path)
    base = content.pop("base", None)
    if base is None:
        return content
    candidates = [user_path(f"{base}.yaml", f"The base of {path.name}", beside=path.parent), _folder() / f"{base}.yaml"]
    parent = next((candidate for candidate in candidates if candidate.is_file()), None)
    if parent is None:
        raise EvalfmError(f"Task card {path.name} has base {base!r}, but there is no {candidates[0].name} beside it.")
    return {**_inherited(parent, (*seen, path)), **content}
