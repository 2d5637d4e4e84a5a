"""From a study to its cells: every combination that makes sense, and why the others are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evalfm.encoders.reference import EncoderRef, find_alias
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.heads import list_heads, load_head
from evalfm.probing.texts import TEXT, reads_text
from evalfm.statistics.classification import FEWEST_TO_HALVE
from evalfm.study.cell import Cell, subset_label
from evalfm.study.cohorts import WITHOUT_SHOTS, Asked, Posed
from evalfm.study.config import AdaptationEntry, EncoderEntry, Study, Subset, SupervisedEntry, TaskEntry
from evalfm.tasks.metrics.binary import THRESHOLD_RULE
from evalfm.tasks.prompts import EXCLUSIVE, LABELS
from evalfm.training.recipe import recipe_of
from evalfm.training.tuning import check_trainable

ONE_PASS = "frozen"


@dataclass(frozen=True)
class LeftOut:
    """A combination that is not run, and why."""

    what: str
    reason: str


@dataclass
class Grid:
    """The cells of a study in the order in which they run.

    Attributes:
        left_out: what makes no sense, known before anything runs.
        faults: what the user must mend first, one sentence each.
    """

    cells: list[Cell] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def leave_out(self, what: str, reason: str) -> None:
        """Note it once."""
        entry = LeftOut(what, reason)
        if entry not in self.left_out:
            self.left_out.append(entry)

    def refuse(self, error: Exception) -> None:
        """Note the fault once."""
        if str(error) not in self.faults:
            self.faults.append(str(error))


def expand(study: Study, asked: Posed) -> Grid:
    """The cells of ``study`` for the tasks that could be posed: task by task, encoder by encoder, frozen first."""
    grid = Grid()
    encoders = [entry for entry in study.encoders if _no_alias(entry.name, grid) and _known(entry.name, grid)]
    adaptations = sorted(study.adaptations, key=lambda entry: entry.name != ONE_PASS)
    for adaptation in adaptations:
        _check_recipe(adaptation.name, adaptation.recipe, grid)
    _check_heads(study, grid)
    supervised = [_resolved(each, grid) for each in study.supervised if _known(each.encoder, grid)]
    cells: dict[str, Cell] = {}
    for task in study.tasks:
        posed = asked.get((task.name, study.data_of(task)[0]))
        if posed is None:
            continue
        for subset in study.subsets_of(task):
            if subset.base_to_novel and posed.manifest is not None and posed.classes < FEWEST_TO_HALVE:
                what = f"{task.name} on {posed.data}, {subset_label(subset)}"
                grid.leave_out(what, f"of {posed.classes} classes a half would be one, in which every answer is right")
                continue
            if subset.base_to_novel and posed.card.kind not in EXCLUSIVE:
                grid.leave_out(f"{task.name}, {subset_label(subset)}", f"{posed.card.kind} has no classes to halve")
                continue
            if subset.shots is not None and posed.card.kind in WITHOUT_SHOTS:
                kind = posed.card.kind
                grid.leave_out(
                    f"{task.name}, {subset_label(subset)}",
                    f"shots count images per class, which {kind} has not; label_fractions serve it",
                )
                continue
            row = _Row(study, task, posed, subset, grid)
            for cell in row.cells(encoders, adaptations, supervised):
                cells.setdefault(cell.key, cell)
    grid.cells = list(cells.values())
    for task in (task for task in study.tasks if task.prompts is not None):
        if not any(cell.prompts for cell in grid.cells if cell.task == task.name):
            grid.refuse(EvalfmError(f"The prompts of {task.name} are read by text heads alone, and no cell has one."))
    return grid


@dataclass(frozen=True)
class _Row:
    """The cells of one task and subset."""

    study: Study
    task: TaskEntry
    asked: Asked
    subset: Subset
    grid: Grid

    def cells(
        self, encoders: list[EncoderEntry], adaptations: list[AdaptationEntry], supervised: list[SupervisedEntry]
    ) -> Iterator[Cell]:
        """Frozen encoders with all their heads, trained ones head by head, then baselines."""
        for encoder in encoders:
            first = True
            for adaptation in adaptations:
                heads = self._serving(self._heads(adaptation), encoder.name, adaptation.name)
                together = [heads] if adaptation.name == ONE_PASS else [(head,) for head in heads]
                for names in filter(None, together):
                    # Baselines of a task are the same for all; random weights of an encoder come with its first cell.
                    baselines = self.study.baselines if first or self.study.baselines != "all" else "default"
                    yield self._cell(encoder, names, adaptation, baselines=baselines)
                    first = False
        for network in supervised:
            if network.tasks is not None and self.task.name not in network.tasks:
                continue
            shape = {"input_size": network.input_size, "resize": network.resize}
            entry = EncoderEntry.model_validate({"name": network.encoder, "weights": network.weights, **shape})
            assert network.adaptation is not None
            wanted = (network.head,) if network.head is not None else self.asked.card.heads[:1]
            adaptation = AdaptationEntry(name=network.adaptation, recipe=network.recipe)
            baselines = "default" if self.study.baselines == "all" else self.study.baselines
            for head in self._serving(wanted, network.encoder, network.adaptation):
                yield self._cell(entry, (head,), adaptation, baselines=baselines, supervised=True)

    def _cell(
        self,
        encoder: EncoderEntry,
        heads: tuple[str, ...],
        adaptation: AdaptationEntry,
        *,
        baselines: str,
        supervised: bool = False,
    ) -> Cell:
        study = self.study
        data, test_where = study.data_of(self.task)
        content: dict[str, Any] = {
            "study": study.name,
            "encoder": encoder,
            "task": self.task.name,
            "heads": heads,
            "adaptation": adaptation.name,
            "recipe": adaptation.recipe,
            "data": data,
            "test_data": study.test_data,
            "where": study.where,
            "test_where": test_where,
            "folds": study.folds,
            "limit": study.limit,
            **self.subset._asdict(),
            "val_shots": study.val_shots,
            "threshold": study.threshold if self.asked.card.kind in LABELS else THRESHOLD_RULE,
            "prompts": self.task.prompts if any(map(self._reads_text, heads)) else None,
            "seeds": study.seeds,
            "baselines": baselines,
            "supervised": supervised,
        }
        return Cell(**content)

    def _reads_text(self, head: str) -> bool:
        return reads_text(load_head(head, self.asked.card.kind))

    def _heads(self, adaptation: AdaptationEntry) -> tuple[str, ...]:
        """The heads asked of this task: its entry's, else the study's, else the card's; narrowed by the adaptation."""
        study, card = self.study, self.asked.card
        if self.task.heads is not None:
            heads = self.task.heads
        elif isinstance(study.heads, dict):
            heads = study.heads.get(card.kind, card.heads)
        else:
            heads = study.heads if study.heads is not None else card.heads
        return heads if adaptation.heads is None else tuple(head for head in heads if head in adaptation.heads)

    def _serving(self, heads: tuple[str, ...], encoder: str, adaptation: str) -> tuple[str, ...]:
        """Those of ``heads`` that can work with the task, the encoder and the adaptation."""
        kind = self.asked.card.kind
        known = {entry.name for entry in list_heads()}
        kept = []
        for name in (head for head in dict.fromkeys(heads) if head in known):
            try:
                head = load_head(name, kind)
            except EvalfmError:
                self.grid.leave_out(f"{name} on {self.task.name}", f"it does not serve {kind} tasks")
                continue
            reason = _hindrance(encoder, adaptation, needs=head.needs, kind=kind)
            if reason is None and self.subset.base_to_novel and not (adaptation == ONE_PASS and TEXT in head.needs):
                reason = "base-to-novel asks for classes that were never seen, which only a frozen text head can name"
            if reason is not None:
                self.grid.leave_out(f"{encoder} × {self.task.name}: {name}, {adaptation}", reason)
                continue
            if adaptation != ONE_PASS:
                try:
                    check_trainable(head, adaptation)
                except EvalfmError:
                    self.grid.leave_out(f"{name}, {adaptation}", "the head is not trained by gradient")
                    continue
            kept.append(name)
        return tuple(kept)


def _hindrance(encoder: str, adaptation: str, *, needs: frozenset[str], kind: str) -> str | None:
    """Why ``encoder`` cannot go with a head that ``needs`` this or an adaptation, as far as its card tells."""
    reads_maps = "maps" in needs
    ref = EncoderRef.parse(encoder)
    if ref.is_table:
        if reads_maps or kind == "segmentation":
            return "a table of features has no maps"
        if TEXT in needs:
            return "a table of features reads no text"
        return "a table of features cannot be trained" if adaptation != ONE_PASS else None
    card = ref.card()
    if card is None:
        return None
    if reads_maps and not card.map_channels:
        return "the encoder has no maps"
    if TEXT in needs and card.text_tower is None:
        return "the encoder reads no text"
    return "the encoder has no weights to train" if adaptation != ONE_PASS and card.parameters == 0 else None


def _no_alias(name: str, grid: Grid) -> bool:
    """Whether ``name`` is an encoder and no word for a whole baseline; else a fault is noted."""
    if find_alias(name) is None:
        return True
    grid.refuse(EvalfmError(f"{name} stands for encoder, head and training at once; list it under supervised."))
    return False


def _known(name: str, grid: Grid) -> bool:
    """Whether an encoder answers to ``name``; else a fault is noted."""
    alias = find_alias(name)
    try:
        EncoderRef.parse(name if alias is None else alias.encoder).check()
    except EvalfmError as error:
        grid.refuse(error)
        return False
    return True


def _check_heads(study: Study, grid: Grid) -> None:
    """Note every head that nobody answers to, wherever the study names it."""
    of_study = study.heads.values() if isinstance(study.heads, dict) else [study.heads]
    of_tasks = [task.heads for task in study.tasks]
    of_adaptations = [adaptation.heads for adaptation in study.adaptations]
    of_baselines = [(network.head,) if network.head is not None else None for network in study.supervised]
    known = {entry.name for entry in list_heads()}
    for heads in (*of_study, *of_tasks, *of_adaptations, *of_baselines):
        for name in heads or ():
            if name not in known:
                grid.refuse(UnknownNameError("head", name, known))


def _check_recipe(adaptation: str, recipe: Mapping[str, object], grid: Grid) -> None:
    try:
        recipe_of(adaptation, recipe)
    except EvalfmError as error:
        grid.refuse(error)


def _resolved(network: SupervisedEntry, grid: Grid) -> SupervisedEntry:
    """The baseline with its alias written out and its adaptation stated."""
    alias = find_alias(network.encoder)
    changes: dict[str, Any] = {"adaptation": network.trained}
    if alias is not None:
        try:
            adaptation, (head,) = alias.applied(network.adaptation, None if network.head is None else [network.head])
            resize = network.resize or alias.resize
            changes = {"encoder": alias.encoder, "head": head, "adaptation": adaptation, "resize": resize}
        except EvalfmError as error:
            grid.refuse(error)
    _check_recipe(changes["adaptation"], network.recipe, grid)
    return network.model_copy(update=changes)
