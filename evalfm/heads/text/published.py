"""Weights and templates of prompt learners by data set, read from published.yaml, where their sources stand."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, model_validator

from evalfm.cards import CardModel, read_yaml, validate
from evalfm.tasks.prompts import SLOT

TrainingEnvironment = Literal["few-shot", "base-to-novel"]
DEFAULT = "default"
FILE = Path(__file__).with_name("published.yaml")

Value = TypeVar("Value")


class Weights(CardModel):
    """Weights of the terms beside the cross-entropy.

    Attributes:
        consistency: of the difference between learnt texts and sentences (λ1).
        distillation: of the divergence from what the sentences say of the images (λ2).
        tau: largest standard score of a sentence that is kept; from 1 on, below which none might be.
    """

    consistency: float = Field(0.0, ge=0)
    distillation: float = Field(0.0, ge=0)
    tau: float = Field(math.inf, ge=1, allow_inf_nan=True)


class Published(CardModel):
    """The file: ``weights`` by head, setting and data set, ``templates`` by head and data set or task."""

    schema_version: Literal[1] = Field(1, alias="schema")
    weights: dict[str, dict[TrainingEnvironment, dict[str, Weights]]]
    templates: dict[str, dict[str, str]]

    @model_validator(mode="after")
    def _fits(self) -> Published:
        keys = [set(table) for settings in self.weights.values() for table in settings.values()]
        keys += [set(table) for table in self.templates.values()]
        if any(DEFAULT not in each for each in keys):
            raise ValueError(f"every table needs {DEFAULT!r}")
        every = [template for table in self.templates.values() for template in table.values()]
        wrong = [template for template in every if template.count(SLOT) != 1 or f" {SLOT}" not in template[1:]]
        if wrong:
            raise ValueError(f"the template {wrong[0]!r} needs words before {SLOT}, which it holds once")
        return self


@cache
def published() -> Published:
    """The content of published.yaml."""
    return validate(Published, read_yaml(FILE), str(FILE))


def weights_of(head: str, setting: TrainingEnvironment, names: Sequence[str]) -> tuple[str, Weights]:
    """The weights of the first of ``names`` (data set, task) that has some, after its name.

    >>> weights_of("coop", "few-shot", ("my-data", "ptx-cls"))[0]
    'default'
    """
    settings = published().weights.get(head)
    return (DEFAULT, Weights()) if settings is None else _first(settings[setting], names)


def template_of(head: str, names: Sequence[str]) -> str:
    """The template of the first of ``names`` (data set, task) that has one, ``{}`` standing for the class."""
    return _first(published().templates[head], names)[1]


def table_digest(head: str, setting: TrainingEnvironment) -> str:
    """SHA-256 of all entries for a head and a setting, which are part of the run key."""
    content = published()
    weights = content.weights.get(head, {}).get(setting, {})
    content_of_head = [{name: each.model_dump_json() for name, each in weights.items()}, content.templates[head]]
    return hashlib.sha256(json.dumps(content_of_head, sort_keys=True).encode()).hexdigest()


def _first(table: Mapping[str, Value], names: Sequence[str]) -> tuple[str, Value]:
    name = next((name.lower() for name in names if name.lower() in table), DEFAULT)
    return name, table[name]
