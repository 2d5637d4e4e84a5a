"""YAML and JSON read safely and within bounds: every card, dataset.yaml and study comes in here."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from evalfm.errors import EvalfmError, UnknownNameError

MAX_BYTES = 2_000_000
"""Length of a YAML file, in bytes."""

MAX_DEPTH = 40
"""How deep lists and mappings may stand in each other."""

MAX_VALUES = 200_000
"""How many keys and values a YAML file may hold, each alias counted as often as it stands for something."""

MAX_NUMBER = 2**63
"""Whole numbers reach no further; nothing that a file can need is as large."""


class CardModel(BaseModel):
    """A frozen model that refuses keys it does not know, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Option:
    """How a field of a configuration stands on the command line; its help is the field's description.

    Attributes:
        panel: heading under which ``--help`` lists it; None for the everyday options that come first.
        names: such as ``("--adaptation", "-a")``; empty for ``--`` and the field's name with hyphens.
        metavar: what stands for its value in the help; empty for that of its type.
        hidden: whether it is no option of the command line at all.
        bare: of a mapping, whether a name without ``=`` stands for itself.
        several: whether a verb takes several values of it, each a configuration of its own.
        in_key: whether it enters the run key as it is. So it is unless said otherwise: what was forgotten makes two
            runs of one, and never one of two.
    """

    panel: str | None = None
    names: tuple[str, ...] = ()
    metavar: str = ""
    hidden: bool = False
    bare: bool = False
    several: bool = False
    in_key: bool = True


def option_of(field: FieldInfo) -> Option:
    """How ``field`` stands on the command line and in the run key."""
    return next((each for each in field.metadata if isinstance(each, Option)), Option())


def flag_of(name: str, field: FieldInfo) -> str:
    """The long name of the option of a field, such as ``--test-data``."""
    return max(option_of(field).names, key=len, default=f"--{name.replace('_', '-')}")


Model = TypeVar("Model", bound=BaseModel)
Function = TypeVar("Function", bound=Callable[..., Any])


def read_yaml(path: Path, *, number_keys: bool = False) -> dict[str, Any]:
    """Read one YAML mapping of text keys to plain values: text, numbers, yes or no, nothing, lists and mappings.

    Dates are read as text. ``number_keys``: keys that are whole numbers come as their text, for files of others.

    Raises:
        EvalfmError: the file is absent, too long, not plain YAML (see :func:`parse_yaml`), or not a mapping.
    """
    content = parse_yaml(read_text(path, MAX_BYTES), str(path), number_keys=number_keys)
    if not isinstance(content, dict):
        raise EvalfmError(f"{path} must hold a YAML mapping of keys to values.")
    return content


def parse_yaml(text: str, source: str, *, number_keys: bool = False) -> Any:
    """The plain value in ``text``; ``source`` names it in messages, ``number_keys`` as for :func:`read_yaml`.

    Raises:
        EvalfmError: not YAML; a tag, a key that is no text or stands twice, aliases that multiply into more values
            than a file may hold, lists and mappings too deep in each other, or a number too large.

    >>> parse_yaml("name: hog", "card.yaml")
    {'name': 'hog'}
    """
    try:
        _check_bounds(text)
        loader = _PlainLoader(text)
        try:
            node = loader.get_single_node()
            _check_keys(node, number_keys=number_keys)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        # Beside its own errors, the library lets through those of the numbers it makes.
        where = str(error).replace("\n", " ")
        raise EvalfmError(f"{source} is not plain YAML ({where}); fix the file.") from None


def read_json(path: Path) -> Any:
    """Read one JSON value of any length.

    Raises:
        EvalfmError: the file is absent, no JSON, or too deep.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str | bytes, source: str) -> Any:
    """The value in ``text``; ``source`` names it in messages.

    Raises:
        EvalfmError: no JSON, or lists and mappings more than ``MAX_DEPTH`` deep in each other.

    >>> parse_json("[1, 2]", "list.json")
    [1, 2]
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise EvalfmError(f"{source} is too deep ({MAX_DEPTH} levels are read); fetch or write it again.") from None
    except ValueError as error:
        raise EvalfmError(f"{source} is not JSON ({error}); fetch or write it again.") from None
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return content
    raise EvalfmError(f"{source} is too deep ({MAX_DEPTH} levels are read); fetch or write it again.")


def read_text(path: Path, max_bytes: int | None = None) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        EvalfmError: there is none, it is no text, or longer than ``max_bytes``.
    """
    try:
        if path.exists() and not path.is_file():
            raise EvalfmError(f"{path} is no file; check the path.")
        with path.open("rb") as file:
            content = file.read() if max_bytes is None else file.read(max_bytes + 1)
        if max_bytes is not None and len(content) > max_bytes:
            raise EvalfmError(f"{path} is longer than the {max_bytes:,} bytes that are read of such a file.")
        return content.decode("utf-8")
    except FileNotFoundError:
        raise EvalfmError(f"There is no file {path}; check the path.") from None
    except (OSError, ValueError) as error:
        # ValueError: bytes that are no UTF-8, or a path with a null byte.
        raise EvalfmError(f"{path} cannot be read as text ({error}); check the path.") from None


def _inside(value: Any) -> Iterator[Any]:
    """The lists and mappings that stand in ``value``."""
    if isinstance(value, dict):
        value = list(value.values())
    return (each for each in value if isinstance(each, (dict, list))) if isinstance(value, list) else iter(())


def _check_bounds(text: str) -> None:
    """Count what ``text`` stands for, event by event, before anything is built of it.

    Raises:
        yaml.YAMLError: too deep or too much, or an alias of what it stands in.
    """
    sizes: dict[str, int] = {}
    # Values so far in each unfinished list or mapping, and the anchor that it bears.
    levels: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_PARSER):
        if isinstance(event, yaml.CollectionStartEvent):
            levels.append((event.anchor, total))
            if len(levels) > MAX_DEPTH:
                raise yaml.YAMLError(f"lists and mappings more than {MAX_DEPTH} deep")
            total += 1
            if event.anchor is not None:
                sizes.pop(event.anchor, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = levels.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise yaml.YAMLError(f"the alias *{event.anchor} of nothing that stands before it")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if total > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES:,} values, those that aliases repeat counted")


def _check_keys(root: Any, *, number_keys: bool) -> None:
    """Refuse keys that are no text or stand twice in one mapping; merged ones (``<<``) may be overridden.

    With ``number_keys``, whole numbers are made text where they stand.

    Raises:
        yaml.YAMLError: there is one.
    """
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        names: set[str] = set()
        for place, (key, value) in enumerate(pairs):
            if number_keys and key.tag == NUMBER and WHOLE.fullmatch(key.value):
                # A key of its own: an alias of it elsewhere stays a number.
                key = yaml.ScalarNode(TEXT, key.value, key.start_mark, key.end_mark)
                node.value[place] = (key, value)
            where, shown = f"line {key.start_mark.line + 1}", ""
            if key.tag == MERGE:
                continue
            if isinstance(key, yaml.ScalarNode):
                shown = f" {key.value[:60]}"
            if key.tag != TEXT or not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"{where}: the key{shown} is no text; put it in quotes")
            if key.value in names:
                raise yaml.YAMLError(f"{where}: the key{shown} stands twice")
            names.add(key.value)
        inner = [value for _, value in pairs] if pairs else node.value if isinstance(node, yaml.SequenceNode) else []
        for each in inner:
            if id(each) not in seen:
                seen.add(id(each))
                waiting.append(each)


MERGE, TEXT, NUMBER = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"
WHOLE = re.compile(r"0|-?[1-9][0-9]*")

# libyaml's, ten times as fast, where PyYAML was built with it.
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _PlainLoader(_PARSER):  # type: ignore[misc]
    """PyYAML's safe loader without dates, sets and numbers beyond bounds."""

    def plain_int(self, node: Any) -> int:
        """A whole number within bounds."""
        # A number in base 60 grows with the square of its length.
        value: int = MAX_NUMBER if len(str(node.value)) > 80 else self.construct_yaml_int(node)
        if abs(value) >= MAX_NUMBER:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the number {node.value[:20]}… is too large")
        return value

    def refused(self, node: Any) -> Any:
        """No value: a tag names something that is not plain."""
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the tag {node.tag[:80]} is not read")


_AS_TEXT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in _AS_TEXT]
    for first, rules in _PARSER.yaml_implicit_resolvers.items()
}
_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.plain_int)
for _kind in ("binary", "timestamp", "omap", "pairs", "set"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _PlainLoader.refused)
_PlainLoader.add_constructor(None, _PlainLoader.refused)


def refuse(faults: Mapping[str, object]) -> None:
    """Refuse a model of which one of ``faults`` holds, each a sentence with whether it does.

    Raises:
        ValueError: the first that holds.

    >>> refuse({"std must be positive": False})
    """
    for sentence, holds in faults.items():
        if holds:
            raise ValueError(sentence)


def validate(model: type[Model], content: dict[str, Any], source: str, context: object = None) -> Model:
    """Build ``model`` from ``content``; every fault is named at once, with the key it stands at.

    Raises:
        EvalfmError: a key is unknown, missing or of the wrong type.
    """
    try:
        return model.model_validate(content, context=context)
    except ValidationError as error:
        faults = "; ".join(in_words(fault["loc"], fault["msg"]) for fault in error.errors())
        raise EvalfmError(f"{source} is not valid: {faults}.") from None


def in_words(place: tuple[int | str, ...], message: str) -> str:
    """A fault with the key it stands at; one of the whole stands alone.

    >>> in_words(("weights", "file"), "Field required")
    'weights.file: Field required'
    """
    where = ".".join(map(str, place))
    sentence = message.removeprefix("Value error, ")
    return f"{where}: {sentence}" if where else sentence


def checked(model: type[Model], options: Mapping[str, object]) -> Model:
    """Build ``model`` from the options of a call; one that is None has its default.

    Raises:
        UnknownNameError: there is no such option.
        EvalfmError: names every option that is not valid.
    """
    for name in options:
        if name not in model.model_fields:
            raise UnknownNameError("option", name, model.model_fields)
    return validate(model, {name: value for name, value in options.items() if value is not None}, "The call")


def group_of(model: type[Model], options: Mapping[str, object]) -> Model:
    """The options of ``model`` among those of a call.

    Raises:
        EvalfmError: names every option that is not valid.
    """
    return checked(model, {name: options[name] for name in model.model_fields if name in options})


def takes(*models: type[BaseModel]) -> Callable[[Function], Function]:
    """Decorate a function whose ``**options`` are fields of ``models``, so that ``help`` and editors show each of them.

    Fields that the function has as parameters of its own stand as these.

    >>> class Draw(CardModel):
    ...     seed: int = 0
    >>> @takes(Draw)
    ... def draw(encoder: str, **options: object) -> None:
    ...     "Draw."
    >>> list(inspect.signature(draw).parameters)
    ['encoder', 'seed']
    """
    fields = {name: field for model in models for name, field in model.model_fields.items()}

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = list(signature.parameters.values())
        named = {each.name for each in own}
        listed = {name: field for name, field in fields.items() if name not in named}
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=field.annotation,
                default=inspect.Parameter.empty
                if field.is_required()
                else field.get_default(call_default_factory=True),
            )
            for name, field in listed.items()
        ]
        positional = [each for each in own if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        after = [each for each in own if each.kind is inspect.Parameter.KEYWORD_ONLY]
        vars(function)["__signature__"] = signature.replace(parameters=[*positional, *options, *after])
        lines = [f"        {name}: {field.description}" for name, field in listed.items()]
        function.__doc__ = "\n".join([f"{function.__doc__ or ''}\n    Options:", *lines, "    "])
        return function

    return decorate
