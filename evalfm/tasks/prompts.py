"""Prompts: the sentences of a task's classes that a text tower reads, from prompt cards or files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from evalfm.cards import CardModel, read_json, read_yaml, validate
from evalfm.errors import EvalfmError
from evalfm.paths import user_path
from evalfm.tasks.kinds import kind_of

SLOT = "{}"
FROM_FILE = "a file of the caller's own"
"""In place of its name, which may name a person or a place."""


class Phrases(CardModel):
    """How one class is called.

    Attributes:
        names: what goes into the templates, the first one for learners of a context.
        sentences: whole sentences about it, the ensemble that BiomedCoOp and Biomed-DPT learn towards.
    """

    names: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    @field_validator("names", "sentences")
    @classmethod
    def _texts_fit(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if any(not text.strip() for text in texts):
            raise ValueError("a name or sentence is empty; fill it in or take it out")
        repeated = sorted(text for text, times in Counter(texts).items() if times > 1)
        if repeated:
            raise ValueError(f"{repeated[0]!r} stands twice; each name and sentence stands once")
        return texts


class PromptCard(CardModel):
    """Sentences for the classes of one task.

    Attributes:
        name: the task's name.
        source: where the sentences come from, in words.
        templates: sentences with ``{}`` where a name goes; none takes the encoder's own.
        context: the template whose first words learners of a context start from; None takes that of their authors.
        classes: per class; of a yes-or-no label the finding itself.
        absent: per yes-or-no label the phrases for its absence; None puts "no" before each of its names.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str
    source: str = "evalfm's choice"
    templates: tuple[str, ...] = ()
    context: str | None = None
    classes: dict[str, Phrases]
    absent: dict[str, Phrases] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> PromptCard:
        for template in self.templates:
            if template.count(SLOT) != 1:
                raise ValueError(f"the template {template!r} needs {SLOT} once, where the class's name goes")
        if self.context is not None and (self.context.count(SLOT) != 1 or not self.context.partition(SLOT)[0].strip()):
            raise ValueError(f"the context {self.context!r} needs words and then {SLOT}, once")
        if len(set(self.templates)) < len(self.templates):
            raise ValueError("a template stands twice; each stands once")
        strange = sorted(set(self.absent) - set(self.classes))
        if strange:
            raise ValueError(f"absent names {', '.join(strange)}, which classes does not name")
        return self


@dataclass(frozen=True)
class PromptRow:
    """One row of a text classifier: a class, or a label that is there or not.

    Attributes:
        label: the class; ``present``: False for the row of its absence.
        name: its first name, for learners of a context.
        prompts: per template one sentence for each name.
        sentences: the ensemble of whole sentences, possibly empty.
    """

    label: str
    present: bool
    name: str
    prompts: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """All sentences that a text head has for a task.

    Attributes:
        kind: of the task.
        templates: as they are shown; each row has its prompts in this order.
        rows: of exclusive classes one each, in order; of yes-or-no labels two each, absent before present.
        source: where names and sentences come from.
        only_sentences: a file gave whole sentences and nothing else, so that heads that read names and templates gain
            nothing from it.
        context: the template that learners of a context start from, if the card names one.
    """

    kind: str
    templates: tuple[str, ...]
    rows: tuple[PromptRow, ...]
    source: str
    only_sentences: bool = False
    context: str | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Each class or label once, in order."""
        return tuple(dict.fromkeys(row.label for row in self.rows))

    def of(self, names: Sequence[str]) -> PromptSet:
        """The rows of these classes alone, in their order.

        >>> prompt_set("t", "multiclass", ["edema", "mass"], Own()).of(["mass"]).class_names
        ('mass',)
        """
        return replace(self, rows=tuple(row for name in names for row in self.rows if row.label == name))

    def plain(self) -> dict[str, Any]:
        """Plain values: part of the run key, and shown in run.json."""
        return {
            "source": self.source,
            "templates": list(self.templates),
            "context": self.context,
            "rows": [
                {
                    "label": row.label,
                    "present": row.present,
                    "name": row.name,
                    "prompts": [list(each) for each in row.prompts],
                    "sentences": list(row.sentences),
                }
                for row in self.rows
            ],
        }


@dataclass(frozen=True)
class Own:
    """The encoder's own prompts: templates for a finding that is there, and for one that is not."""

    present: str = SLOT
    absent: str = f"no {SLOT}"


def prompt_set(task: str, kind: str, class_names: Sequence[str], own: Own, file: str | Path | None = None) -> PromptSet:
    """The sentences for ``class_names``: from ``file``, else the task's prompt card, else the bare names.

    A file is a prompt card, or a mapping of each class to a list of sentences (YAML or JSON, as the authors of
    BiomedCoOp keep theirs), which are added to the task's own names.

    Args:
        task: its name.
        kind: of the task.
        class_names: the classes or labels, in order.
        own: the encoder's own templates, used where a card has none.
        file: of the caller.

    Raises:
        EvalfmError: the kind has no classes, the file is not valid, or a class is missing or called like another.

    >>> prompts = prompt_set("edema", "binary", ["edema"], Own())
    >>> [(row.name, row.present, row.prompts) for row in prompts.rows]
    [('no edema', False, (('no edema',),)), ('edema', True, (('edema',),))]
    """
    if not kind_of(kind).has_classes:
        raise EvalfmError(f"A {kind} task has no classes that sentences could name; take a head that reads no text.")
    card, only_sentences = _built_in().get(task) or _bare(task, class_names), False
    if file is not None:
        card, only_sentences = _from_file(user_path(file, "--prompts"), card)
    if kind_of(kind).exclusive and card.absent:
        raise EvalfmError(
            f"The prompts of {card.name} describe the absence of {', '.join(card.absent)}, and one of the "
            f"classes of a {kind} task is always there; leave that out."
        )
    missing = [name for name in class_names if name not in card.classes]
    if missing:
        known = ", ".join(card.classes)
        raise EvalfmError(
            f"The prompts of {card.name} name {known} and lack {', '.join(missing)}; add them, or give others with "
            "--prompts FILE."
        )
    rows = tuple(_rows(card, kind, class_names, own))
    _refuse_repeats(rows)
    templates = card.templates or (own.present,)
    return PromptSet(kind, templates, rows, card.source, only_sentences, card.context)


def list_prompts() -> dict[str, PromptCard]:
    """The built-in prompt cards by the name of their task.

    >>> "ptx-cls" in list_prompts()
    True
    """
    return dict(_built_in())


def _rows(card: PromptCard, kind: str, class_names: Sequence[str], own: Own) -> Iterator[PromptRow]:
    templates = card.templates or (own.present,)
    for name in class_names:
        present = _named(name, card.classes[name])
        if kind_of(kind).yes_or_no:
            # The encoder's own sentence for absence says "no" itself.
            absent = card.absent.get(name)
            if absent is not None:
                yield _row(name, False, _named(f"no {name}", absent), templates)
            elif card.templates:
                yield _row(name, False, Phrases(names=tuple(f"no {each}" for each in present.names)), templates)
            else:
                denied = _row(name, False, present, (own.absent,))
                yield replace(denied, name=f"no {denied.name}")
        yield _row(name, True, present, templates)


def _named(label: str, phrases: Phrases) -> Phrases:
    """A class without a name is called by its label, with spaces."""
    return phrases if phrases.names else phrases.model_copy(update={"names": (label.replace("_", " "),)})


def _row(label: str, present: bool, phrases: Phrases, templates: Sequence[str]) -> PromptRow:
    prompts = tuple(tuple(template.replace(SLOT, name) for name in phrases.names) for template in templates)
    return PromptRow(label, present, phrases.names[0], prompts, phrases.sentences)


def _refuse_repeats(rows: Sequence[PromptRow]) -> None:
    """Refuse two rows with the same sentences, which no image can distinguish.

    The absence of one label is never weighed against another label, so that several may share ``clear lungs``.

    Raises:
        EvalfmError: two rows have a name, or all their prompts, in common.
    """
    seen: dict[object, PromptRow] = {}
    for row in rows:
        for text in (row.name.casefold(), row.prompts):
            other = seen.setdefault(text, row)
            if other is not row and (other.label == row.label or (other.present and row.present)):
                raise EvalfmError(
                    f"The classes {other.label!r} and {row.label!r} are both called {row.name!r}; give each a name of "
                    "its own with --prompts FILE."
                )


def _bare(task: str, class_names: Sequence[str]) -> PromptCard:
    return PromptCard(name=task, source="the classes' own names", classes={name: Phrases() for name in class_names})


@cache
def _built_in() -> dict[str, PromptCard]:
    folder = Path(str(resources.files("evalfm.tasks"))) / "prompts"
    cards = [
        validate(PromptCard, read_yaml(path), f"prompt card {path.name}") for path in sorted(folder.glob("*.yaml"))
    ]
    return {card.name: card for card in cards}


def _from_file(path: Path, card: PromptCard) -> tuple[PromptCard, bool]:
    """The card in ``path``, or ``card`` with the sentences in it; and whether sentences are all that it gave."""
    content = _read_json(path) if path.suffix.lower() == ".json" else read_yaml(path)
    if "classes" in content:
        return validate(PromptCard, {"name": card.name, "source": FROM_FILE, **content}, str(path)), False
    if not all(isinstance(sentences, list) and sentences for sentences in content.values()):
        raise EvalfmError(f"{path} must map each class to a list of sentences, or be a prompt card with classes.")
    classes, absent = dict(card.classes), dict(card.absent)
    for label, sentences in content.items():
        kept, name = classes, str(label)
        # A class may itself be called "no finding".
        if name not in card.classes and name.startswith("no "):
            kept, name = absent, name.removeprefix("no ")
        if name not in card.classes:
            raise EvalfmError(f"{path} names {label!r}; the task has {', '.join(card.classes)}.")
        old = kept.get(name, Phrases())
        kept[name] = validate(Phrases, {"names": old.names, "sentences": sentences}, f"{path}, {label}")
    return card.model_copy(update={"classes": classes, "absent": absent, "source": FROM_FILE}), True


def _read_json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise EvalfmError(f"{path} must hold a JSON object of classes and their sentences.")
    return content
