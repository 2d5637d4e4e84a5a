"""How options are read, and made from the fields of config models: nothing is replaced in silence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from evalfm.cards import flag_of, option_of
from evalfm.errors import EvalfmError, UnknownNameError

Verb = TypeVar("Verb", bound=Callable[..., Any])


class OnceCommand(TyperCommand):
    """A verb that refuses an option given twice where the second value would replace the first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line as ever, once no option stands in it too often.

        Raises:
            EvalfmError: an option that takes one value is repeated, or a switch is said to be on and off.
        """
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for option in dict.fromkeys(order):
                times = order.count(option)
                if times > 1 and option.param_type_name == "option" and _takes_one(option):
                    name = max(option.opts, key=len)
                    raise EvalfmError(f"{name} takes one value and was given {times} times; give it once.")
        return super().parse_args(ctx, args)


def _takes_one(option: Any) -> bool:
    """Whether a second value replaces the first; saying the same switch again changes nothing."""
    if option.multiple or option.count:
        return False
    return not option.is_flag or bool(option.secondary_opts)


class Verbs(typer.Typer):
    """A group of verbs, each a ``OnceCommand``."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Verb], Verb]:
        """Register a verb."""
        settings.setdefault("cls", OnceCommand)
        decorate: Callable[[Verb], Verb] = super().command(name, **settings)
        return decorate


def listed(values: Iterable[str] | None, option: str, is_one: Callable[[str], bool] = lambda text: False) -> list[str]:
    """The names that an option was given, repeated or with commas between, each once and in order.

    Text that ``is_one`` knows as one name stays whole, commas and all: the longest such from the left.

    Raises:
        EvalfmError: the option was given without any name.
    """
    names: list[str] = []
    given = list(values or ())
    for value in given:
        pieces = value.split(",")
        start = 0
        while start < len(pieces):
            # One piece alone needs no look: it is a name in any case.
            ends = range(len(pieces), start + 1, -1)
            whole = (end for end in ends if is_one(",".join(pieces[start:end]).strip()))
            end = next(whole, start + 1)
            names.append(",".join(pieces[start:end]).strip())
            start = end
    unique = [name for name in dict.fromkeys(names) if name]
    if given and not unique:
        raise EvalfmError(f"{option} was given without a name; say which, with commas between several.")
    return unique


def listed_words(values: Iterable[str] | None, option: str, known: Iterable[str]) -> list[str]:
    """The same for words of a fixed set.

    Raises:
        UnknownNameError: a word is none of ``known``.
    """
    words, wanted = listed(values, option), [str(each) for each in known]
    for word in words:
        if word not in wanted:
            raise UnknownNameError(f"value of {option}", word, wanted)
    return words


OPTIONS, PAIR = "options", "NAME=VALUE"
PLAIN = (str, int, float, bool, Path)


def configured(*models: type[BaseModel]) -> Callable[[Verb], Callable[..., Any]]:
    """Decorate a verb so that each field of ``models`` is an option of it.

    The verb gets a mapping, its parameter ``options``: of each option that the user gave the field's name and value.
    What was not given is not in it, so the model's own default holds. An option's help is its field's description, its
    choices are those of a ``Literal``, and panel, names and metavar those of its ``Option``. A field with a tuple takes
    several values, repeated or with commas between; one with a mapping takes ``NAME=VALUE``, repeated; one with a model
    takes the path of its YAML file, which the model that holds it reads. Of a field of which a verb takes ``several``,
    each for a configuration of its own, the verb gets the list as it was typed, numbers read.

    Args:
        models: configurations; a field that two of them share is one option.

    Raises:
        TypeError: a field has no description, or a type that no option can have.
    """
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    fields = {name: field for name, field in fields.items() if not option_of(field).hidden}

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        own = [each for name, each in inspect.signature(verb, eval_str=True).parameters.items() if name != OPTIONS]
        made = [_parameter(name, field) for name, field in fields.items()]

        @wraps(verb)
        def with_options(**values: Any) -> Any:
            said = {name: _value(name, field, values.pop(name)) for name, field in fields.items()}
            return verb(**values, **{OPTIONS: {name: value for name, value in said.items() if value is not None}})

        # What the verb needs without an option comes first, its switches such as --json last.
        first = [each for each in own if each.default is inspect.Parameter.empty]
        made.sort(key=lambda each: each.default is not inspect.Parameter.empty)
        signature = [*first, *made, *(each for each in own if each not in first)]
        signature = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in signature]
        vars(with_options)["__signature__"] = inspect.Signature(signature)
        with_options.__annotations__ = {each.name: each.annotation for each in signature}
        return with_options

    return decorate


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """The parameter from which typer makes the option of ``field``."""
    if not field.description:
        raise TypeError(f"The field {name} has no description, which is its help.")
    option, plain = option_of(field), _plain(name, field.annotation)
    if option.several:
        plain = list[str]
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    flags = option.names or (flag_of(name, field),)
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    usual = "" if default is None or default is False or shown in ("", {}) else f" Default: {shown}."
    info = typer.Option(
        *flags,
        help=field.description + usual,
        metavar=option.metavar or _metavar(field),
        rich_help_panel=option.panel,
        show_default=False,
    )
    needed = field.is_required()
    annotation = plain if needed else plain | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[annotation, info],
        default=inspect.Parameter.empty if needed else None,
    )


def _metavar(field: FieldInfo) -> str | None:
    """What stands for the values of an option that takes several; None for that of its type."""
    if _is_mapping(field):
        return PAIR
    if words := _words(field):
        return f"[{'|'.join(words)}]"
    items = _items(field) or (_alternatives(field.annotation) if option_of(field).several else [])
    return "NUMBER,…" if int in items else "NAME,…" if items else None


def _plain(name: str, annotation: Any) -> Any:
    """The type of the option for a field of type ``annotation``."""
    kinds = [each for each in _alternatives(annotation) if each is not NoneType]
    for kind in kinds:
        origin = get_origin(kind) or kind
        if origin in (tuple, dict):
            return list[str]
    if len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel):
        return Path
    if len(kinds) == 1 and (get_origin(kinds[0]) is Literal or kinds[0] in PLAIN):
        return kinds[0]
    if str in kinds:
        return str
    raise TypeError(f"The field {name} has the type {annotation}, which no option can have.")


def _alternatives(annotation: Any) -> list[Any]:
    """The types that ``annotation`` allows."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [inner for each in get_args(annotation) for inner in _alternatives(each)]
    return [annotation]


def _is_mapping(field: FieldInfo) -> bool:
    return any((get_origin(kind) or kind) is dict for kind in _alternatives(field.annotation))


def _items(field: FieldInfo) -> list[Any]:
    """The types of the items of a field with a tuple; none for others."""
    tuples = [each for each in _alternatives(field.annotation) if get_origin(each) is tuple]
    return [item for each in tuples for item in _alternatives(get_args(each)[0])]


def _words(field: FieldInfo) -> list[str]:
    """What the items of a field with a tuple may be, where these are words of a fixed set."""
    return [str(word) for item in _items(field) if get_origin(item) is Literal for word in get_args(item)]


def _numbers(values: list[str], flag: str) -> tuple[int, ...]:
    pieces = [piece for value in values for piece in value.split(",")]
    try:
        return tuple(int(piece) for piece in pieces)
    except ValueError:
        text = ",".join(values)
        raise EvalfmError(f"{flag} takes whole numbers with commas between, such as 1,2,5, not {text!r}.") from None


def _value(name: str, field: FieldInfo, value: Any) -> Any:
    """What the model is given for what typer has read; None where the option was not given."""
    if value is None or value == []:
        return None
    option, flag = option_of(field), flag_of(name, field)
    if not isinstance(value, list):
        return value
    if option.several:
        return _numbers(value, flag) if int in _alternatives(field.annotation) else value
    if not _is_mapping(field):
        words = _words(field)
        if words:
            return tuple(listed_words(value, flag, words))
        if int in _items(field):
            return _numbers(value, flag)
        return tuple(listed(value, flag))
    pairs: dict[str, str] = {}
    for item in value:
        key, mark, text = item.partition("=")
        if option.bare and not mark:
            mark, text = "=", key
        if not (key.strip() and mark and text.strip()) or key.strip() in pairs:
            again = ", each name once" if key.strip() in pairs else ""
            raise EvalfmError(f"{flag} {item} is not {option.metavar or PAIR}{again}; write it so.")
        pairs[key.strip()] = text.strip()
    return pairs
