"""From a study to its cells: every combination that makes sense, and why the others are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from evalfm.cards import CardModel
from evalfm.config import EPISODE_HEADS, EvaluationOptions, ProbeConfig, Shard
from evalfm.encoder_options import EncoderOptions
from evalfm.encoders.choice import ATTENTIVE
from evalfm.encoders.reference import EncoderRef, find_alias
from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.registry import find_head, head_names
from evalfm.probing.episodes import solves
from evalfm.probing.texts import TEXT, reads_text
from evalfm.split_options import DataOptions, SubsetOptions
from evalfm.statistics.classification import FEWEST_TO_HALVE
from evalfm.study.cohorts import TaskCohort, TaskCohorts, idle_without_shots, unserved
from evalfm.study.config import AdaptationEntry, EncoderEntry, Study, SupervisedEntry, TaskEntry
from evalfm.tasks.kinds import kind_of
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
        supervised: keys of the cells that stand beside the grid.
        left_out: what makes no sense, known before anything runs.
        faults: what the user must fix first, one sentence each.
    """

    cells: list[ProbeConfig] = field(default_factory=list)
    supervised: set[str] = field(default_factory=set)
    left_out: list[LeftOut] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def own(self) -> frozenset[str]:
        """What the cells measure in their own right, by address; for a cell of a shard that of all shards counts."""
        return frozenset[str]().union(*(cell.own_addresses for cell in self.cells))

    def of(self, shard: Shard | None) -> Grid:
        """The same with the cells of ``shard`` alone, in their order; None keeps all."""
        if shard is None:
            return self
        return replace(self, cells=[cell for cell in self.cells if shard.holds(cell.portable_key)])

    def leave_out(self, what: str, reason: str) -> None:
        """Note it once."""
        entry = LeftOut(what, reason)
        if entry not in self.left_out:
            self.left_out.append(entry)

    def refuse(self, error: Exception) -> None:
        """Note the fault once."""
        if str(error) not in self.faults:
            self.faults.append(str(error))

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Note the fault that comes up inside, and go on behind it."""
        try:
            yield
        except EvalfmError as error:
            self.refuse(error)


def expand(study: Study, cohorts: TaskCohorts) -> Grid:
    """The cells of ``study`` for the tasks that have a cohort: task by task, encoder by encoder, frozen first."""
    grid = Grid()
    named = [entry for entry in study.encoders if _no_alias(entry.name, grid) and _known(entry.name, grid)]
    encoders = _chosen(study, named, grid)
    adaptations = sorted(study.adaptations, key=lambda entry: entry.name != ONE_PASS)
    for adaptation in adaptations:
        _check_recipe(adaptation.name, adaptation.recipe, grid)
    _check_heads(study, grid)
    supervised = [_resolved(each, grid) for each in study.supervised if _known(each.encoder, grid)]
    cells: dict[str, ProbeConfig] = {}
    for task in study.tasks:
        cohort = cohorts.get((task.name, study.data_of(task)[0]))
        if cohort is None:
            continue
        for subset in study.subsets_of(task):
            if subset.base_to_novel and cohort.manifest is not None and cohort.classes < FEWEST_TO_HALVE:
                what = f"{task.name} on {cohort.data}, {subset.label}"
                grid.leave_out(what, f"of {cohort.classes} classes a half would be one, in which every answer is right")
                continue
            reason = unserved(subset, cohort.card)
            if reason is not None:
                grid.leave_out(f"{task.name}, {subset.label}", reason)
                continue
            row = _Row(study, task, cohort, subset, grid)
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
    cohort: TaskCohort
    subset: SubsetOptions
    grid: Grid

    def cells(
        self, encoders: list[EncoderEntry], adaptations: list[AdaptationEntry], supervised: list[SupervisedEntry]
    ) -> Iterator[ProbeConfig]:
        """Frozen encoders with all their heads, trained ones head by head, then networks beside the grid."""
        for encoder in encoders:
            first = True
            for adaptation in adaptations:
                heads = (ATTENTIVE,) if encoder.pooling == ATTENTIVE else self._heads(adaptation)
                heads = self._serving(heads, encoder.name, adaptation.name)
                heads = self._anew(heads, encoder, encoders, adaptation)
                together = [heads] if adaptation.name == ONE_PASS else [(head,) for head in heads]
                for names in filter(None, together):
                    # Baselines of a task are the same for all; random weights of an encoder come with its first cell.
                    baselines = self.study.baselines if first or self.study.baselines != "all" else "default"
                    yield from self._cell(encoder.name, encoder, names, adaptation, baselines)
                    first = False
        for network in supervised:
            if network.tasks is not None and self.task.name not in network.tasks:
                continue
            heads = (network.head,) if network.head is not None else self.cohort.card.heads[:1]
            adaptation = AdaptationEntry(name=network.trained, recipe=network.recipe)
            baselines = "default" if self.study.baselines == "all" else self.study.baselines
            for head in self._serving(heads, network.encoder, network.trained):
                for cell in self._cell(network.encoder, network, (head,), adaptation, baselines):
                    self.grid.supervised.add(cell.key)
                    yield cell

    def _cell(
        self, name: str, encoder: EncoderOptions, heads: tuple[str, ...], adaptation: AdaptationEntry, baselines: str
    ) -> Iterator[ProbeConfig]:
        """The cell, or none where its options do not go together, which is a fault."""
        study = self.study
        groups: tuple[type[CardModel], ...] = (DataOptions, EvaluationOptions)
        options: dict[str, Any] = {name: getattr(study, name) for each in groups for name in each.model_fields}
        options |= {name: getattr(encoder, name) for name in EncoderOptions.model_fields}
        options |= self.subset.model_dump()
        options |= study.images_of(self.task)
        options["baselines"] = baselines
        if not kind_of(self.cohort.card.kind).yes_or_no:
            options["threshold"] = None
        options |= idle_without_shots(study, self.subset)
        if self.subset.episodes is not None and adaptation.episodes is not None:
            options["episodes"] = min(self.subset.episodes, adaptation.episodes)
            if any(each.name == ONE_PASS for each in study.adaptations):
                # Those of all episodes come with the frozen encoder.
                options["baselines"] = "none"
        if self.subset.episodes is None or adaptation.name != ONE_PASS or "linear" not in heads:
            options["strength"] = None
        if adaptation.name == "scratch":
            # Every weight is drawn, whatever the encoder could start from.
            options["weights"] = None
        if any(map(self._reads_text, heads)):
            options["prompts"] = self.task.prompts
        training = {"adaptation": adaptation.name, "recipe": adaptation.recipe}
        with self.grid.refusing():
            yield ProbeConfig.checked(encoder=name, task=self.task.name, heads=heads, **training, **options)

    def _reads_text(self, head: str) -> bool:
        return reads_text(load_head(head, self.cohort.card.kind))

    def _heads(self, adaptation: AdaptationEntry) -> tuple[str, ...]:
        """The heads of this task: its entry's, else the study's, else the card's; narrowed by the adaptation."""
        study, card = self.study, self.cohort.card
        if self.task.heads is not None:
            heads = self.task.heads
        elif isinstance(study.heads, dict):
            heads = study.heads.get(card.kind, card.heads)
        elif study.heads is None and self.subset.episodes is not None:
            heads = EPISODE_HEADS
        else:
            heads = study.heads if study.heads is not None else card.heads
        return heads if adaptation.heads is None else tuple(head for head in heads if head in adaptation.heads)

    def _anew(
        self, heads: tuple[str, ...], encoder: EncoderEntry, encoders: list[EncoderEntry], adaptation: AdaptationEntry
    ) -> tuple[str, ...]:
        """Those of ``heads`` for which the pooling of ``encoder`` makes another run than the grid has already."""
        own = encoder.pooling
        plain = encoder.model_copy(update={"name": encoder.name.replace(f"@{own}", "", 1), "pooling": None})
        others = [each for each in encoders if each is not encoder and each.pooling != ATTENTIVE]
        there = own is not None and any(each.model_copy(update={"pooling": None}) == plain for each in others)
        if not there or (own == ATTENTIVE and ATTENTIVE not in self._heads(adaptation)):
            return heads
        kept = tuple(head for head in heads if {"pooled", TEXT} & load_head(head, self.cohort.card.kind).needs)
        for head in (head for head in heads if head not in kept):
            self.grid.leave_out(
                f"{encoder.name} × {self.task.name}: {head}", "it reads maps alone, so it is there already"
            )
        return kept

    def _serving(self, heads: tuple[str, ...], encoder: str, adaptation: str) -> tuple[str, ...]:
        """Those of ``heads`` that can work with the task, the encoder and the adaptation."""
        kind = self.cohort.card.kind
        known = head_names()
        kept = []
        for name in (head for head in dict.fromkeys(heads) if head in known):
            try:
                find_head(name, kind)
            except EvalfmError:
                self.grid.leave_out(f"{name} on {self.task.name}", f"it does not serve {kind} tasks")
                continue
            head = load_head(name, kind)
            reason = _hindrance(encoder, adaptation, needs=head.needs, kind=kind)
            if reason is None and self.subset.base_to_novel and not (adaptation == ONE_PASS and TEXT in head.needs):
                reason = "base-to-novel has classes that were never seen, which only a frozen text head can name"
            if reason is not None:
                self.grid.leave_out(f"{encoder} × {self.task.name}: {name}, {adaptation}", reason)
                continue
            if self.subset.episodes and adaptation == ONE_PASS and not solves(head):
                self.grid.leave_out(
                    f"{name}, {self.subset.label}", "it would choose on val, of which an episode has none"
                )
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
        if reads_maps or kind_of(kind).pixelwise:
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


def _chosen(study: Study, named: list[EncoderEntry], grid: Grid) -> list[EncoderEntry]:
    """The encoders with every pooling and layers of the grid that they have, each once under the name that says them.

    A pooling or layers that no encoder of the grid has is a fault, as is one that its own entry names.
    """
    found: dict[str, EncoderEntry] = {}
    refused: dict[tuple[str | None, str | None], EvalfmError] = {}
    taken: set[tuple[str | None, str | None]] = set()
    for own in named:
        for entry in study.choices_of(own):
            pooling, layers = entry.pooling, entry.layers
            by_head = pooling == ATTENTIVE
            try:
                label = EncoderRef.parse(entry.name).choosing(None if by_head else pooling, layers).label
            except EvalfmError as error:
                if own.pooling is not None or own.layers is not None:
                    grid.refuse(error)
                refused.setdefault((pooling, layers), error)
                what = [f"pooling {pooling}"] * (pooling is not None) + [f"layers {layers}"] * (layers is not None)
                grid.leave_out(", ".join([entry.name, *what]), str(error))
                continue
            taken.add((pooling, layers))
            chosen = entry.model_copy(update={"name": label, "layers": None, "pooling": pooling})
            found.setdefault(
                chosen.model_copy(update={"pooling": ATTENTIVE if by_head else None}).model_dump_json(), chosen
            )
    for pair, reason in refused.items():
        if pair not in taken:
            grid.refuse(reason)
    return list(found.values())


def _no_alias(name: str, grid: Grid) -> bool:
    """Whether ``name`` is an encoder and no word for a whole supervised network; else a fault is noted."""
    if find_alias(name) is None:
        return True
    grid.refuse(EvalfmError(f"{name} stands for encoder, head and training at once; list it under supervised."))
    return False


def _known(name: str, grid: Grid) -> bool:
    """Whether there is an encoder ``name``; else a fault is noted."""
    alias = find_alias(name)
    with grid.refusing():
        EncoderRef.parse(name if alias is None else alias.encoder).check()
        return True
    return False


def _check_heads(study: Study, grid: Grid) -> None:
    """Note every unknown head, wherever the study names it."""
    for name in study.named_heads:
        with grid.refusing():
            find_head(name)


def _check_recipe(adaptation: str, recipe: Mapping[str, object], grid: Grid) -> None:
    with grid.refusing():
        recipe_of(adaptation, recipe)


def _resolved(network: SupervisedEntry, grid: Grid) -> SupervisedEntry:
    """The network with its alias written out and its adaptation stated."""
    alias = find_alias(network.encoder)
    changes: dict[str, Any] = {"adaptation": network.trained}
    if alias is not None:
        with grid.refusing():
            adaptation, (head,) = alias.applied(network.adaptation, None if network.head is None else [network.head])
            resize = network.resize or alias.resize
            changes = {"encoder": alias.encoder, "head": head, "adaptation": adaptation, "resize": resize}
    _check_recipe(changes["adaptation"], network.recipe, grid)
    return network.model_copy(update=changes)
