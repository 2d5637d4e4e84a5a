"""A pickled mapping of ids to plain values, read without importing, building or calling anything that it names."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalfm.data.pickle_streams import StreamError, survey
from evalfm.errors import EvalfmError

MOST_BYTES = 2**27
MOST_STEPS = 5_000_000
"""Opcodes that are followed, which takes seconds; a million ids and their labels need fewer."""
BYTES_A_STEP = 16
"""Letters or bytes that are converted for the price of one step."""
MOST_BITS = 64
"""Of a whole number; longer ones are no label, and slow to convert."""

SHOWN = 80
"""Letters of a foreign name that a message repeats."""

Scalar = str | int | float | None
_FORMATS = {
    **{f"{kind}{size}": letter for kind, letters in (("i", "bhiq"), ("u", "BHIQ")) for size, letter in
       zip((1, 2, 4, 8), letters, strict=True)},
    **{"b1": "?", "f2": "e", "f4": "f", "f8": "d"},
}  # fmt: skip
"""Struct formats of numpy's kinds of numbers."""


class ForeignError(Exception):
    """A pickle holds something else than plain values."""


def read_plain_mapping(path: Path) -> dict[Scalar, Scalar]:
    """The mapping that the pickle ``path`` holds, of any protocol: texts and numbers, numpy's among them, by id.

    Ordered, default and counting dicts become plain ones. The stream is surveyed before it is read, so that a small
    file cannot take for ever, and whatever it names is one of ``_CALLS`` or refused: no foreign type is made, not even
    a known one, so that no file can lead numpy or the standard library astray.

    Raises:
        EvalfmError: damaged, too large, asking for anything else, or no mapping to plain values.
    """
    if path.stat().st_size > MOST_BYTES:
        raise EvalfmError(f"{path} has more than {MOST_BYTES // 2**20} MiB, too much for a pickle; write it as CSV.")
    try:
        content = path.read_bytes()
        for name in sorted(survey(io.BytesIO(content), most=MOST_STEPS).names):
            _stand_in(name)
        mapping = _Reader(io.BytesIO(content), encoding="latin1").load()
    except OSError as error:
        raise EvalfmError(f"{path} cannot be read ({error.strerror}); check the file.") from None
    except ForeignError as error:
        raise EvalfmError(
            f"{path} was refused: besides plain values it holds {error}, which could do harm; write it as CSV."
        ) from None
    except StreamError as error:
        raise EvalfmError(
            f"{path} is damaged, cut short or asks for too much ({error}); fetch it again, or write it as CSV."
        ) from None
    except Exception as error:
        # What a damaged stream trips over: a stack that is empty, text that is none.
        raise EvalfmError(f"{path} is damaged or cut short ({type(error).__name__}); fetch it again.") from None
    if not isinstance(mapping, dict) or not mapping or not all(map(_is_plain, [*mapping, *mapping.values()])):
        raise EvalfmError(f"{path} holds no mapping of ids to plain values; write it as a CSV of two columns.")
    return mapping


def _is_plain(value: object) -> bool:
    """Whether it is a number that is not too long, text that can be written, or nothing."""
    if isinstance(value, str):
        return value.encode(errors="ignore").decode() == value
    return isinstance(value, Scalar) and not (isinstance(value, int) and value.bit_length() > MOST_BITS)


class _Reader(pickle.Unpickler):
    """Python's own, for which every name is a stand-in."""

    _spent = 0

    def find_class(self, module: str, name: str) -> _StandIn:
        """What stands for ``module.name``."""
        return _stand_in(f"{module}.{name}", self._pay)

    def _pay(self, arguments: tuple[object, ...]) -> None:
        """Count what a call copies, which may have been named a thousand times."""
        self._spent += sum(len(each) for each in arguments if isinstance(each, str | bytes)) // BYTES_A_STEP
        if self._spent > MOST_STEPS:
            raise ForeignError(f"more than {MOST_STEPS:,} steps to follow")


@dataclass(frozen=True, slots=True)
class _StandIn:
    """A class or function that a pickle names: what is called in its place, if it may be called at all."""

    function: Callable[..., Any] | None
    pay: Callable[[tuple[object, ...]], None]

    def __call__(self, *arguments: object) -> Any:
        if self.function is None:
            raise ForeignError("a call of what cannot be called")
        self.pay(arguments)
        return self.function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ForeignError("a state of an object")


def _stand_in(word: str, pay: Callable[[tuple[object, ...]], None] = lambda _: None) -> _StandIn:
    if word not in _CALLS and word not in _FACTORIES:
        raise ForeignError(word if word.isprintable() and len(word) <= SHOWN else repr(word[:SHOWN]))
    return _StandIn(_CALLS.get(word), pay)


class _Kind:
    """What stands for a numpy dtype: the code of one number, and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_: object) -> None:
        plain = code.lstrip("<|=") if isinstance(code, str) else ""
        is_text = plain[:1] == "U" and plain[1:].isdecimal() and len(plain) < 8
        if plain not in _FORMATS and not is_text:
            raise ForeignError(f"values of numpy of the kind {str(code)[:20]!r}")
        self.code, self.order = "U" if is_text else plain, "<"

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subtype, names, fields, size, alignment, flags); of a number only the order is set.
        plain = isinstance(state, tuple) and len(state) in (8, 9) and all(each is None for each in state[2:5])
        if not plain or state[1] not in ("<", ">", "=", "|"):  # type: ignore[index]
            raise ForeignError("a state of an object")
        # "=" is the order of the machine that wrote it, which numpy never writes and every machine today shares.
        self.order = ">" if state[1] == ">" else "<"  # type: ignore[index]


def _scalar(kind: object, data: object) -> Any:
    """A number or text of numpy's as a plain one."""
    # Protocols before the third write bytes as text.
    content = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(kind, _Kind) or not isinstance(content, bytes):
        raise ForeignError("a number of numpy without its bytes")
    if kind.code == "U":
        return content.decode("utf-32-be" if kind.order == ">" else "utf-32-le").rstrip("\0")
    return struct.unpack(kind.order + _FORMATS[kind.code], content)[0]


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """Bytes, as old protocols write them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ForeignError("text in another encoding")
    return text.encode("latin1")


def _mapping(given: object = ()) -> dict[Any, Any]:
    """A plain dict in place of one of ``collections``: of pairs, of counts, or empty, for a default's pairs follow."""
    if isinstance(given, _StandIn | None):
        return {}
    if not isinstance(given, list | tuple | dict):
        raise ForeignError("a dict of no pairs")
    return dict(given)


_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Kind,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encoded,
    "builtins.bytes": lambda: b"",
    "__builtin__.bytes": lambda: b"",
    **{f"collections.{name}": _mapping for name in ("OrderedDict", "defaultdict", "Counter")},
}
"""What a pickle of plain values may call, and what is done in its place."""

_FACTORIES = frozenset(
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("bool", "int", "long", "float", "str", "unicode", "list", "dict")
)
"""What a default dict may make its values with; it is never called."""
