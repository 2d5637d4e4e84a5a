"""YAML read safely into a validated model: every card, dataset.yaml and study comes in here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from evalfm.errors import EvalfmError
from evalfm.paths import input_file


class CardModel(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; tags that would construct objects are refused.

    Raises:
        EvalfmError: the file is absent, not YAML, or not a mapping.
    """
    try:
        text = input_file(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalfmError(f"{path} cannot be read as text ({error}); check the path.") from None
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: a date that no calendar has.
        where = str(error).replace("\n", " ")
        raise EvalfmError(f"{path} is not plain YAML ({where}); mend the file.") from None
    if not isinstance(content, dict):
        raise EvalfmError(f"{path} must hold a YAML mapping of keys to values.")
    return content


def validate(model: type[Model], content: dict[str, Any], source: str) -> Model:
    """Build ``model`` from ``content``; every fault is named at once, with the key it stands at.

    Raises:
        EvalfmError: a key is unknown, missing or of the wrong type.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(_in_words(fault["loc"], fault["msg"]) for fault in error.errors())
        raise EvalfmError(f"{source} is not valid: {faults}.") from None


def _in_words(place: tuple[int | str, ...], message: str) -> str:
    """A fault with the key it stands at; one of the whole stands alone."""
    where = ".".join(map(str, place))
    told = message.removeprefix("Value error, ")
    return f"{where}: {told}" if where else told
