"""How options are read: one value is never replaced by a second in silence, several stand with commas between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

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
