"""Pickles of plain values read by their opcodes alone: nothing that they name is imported, built or called."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

_MARK = object()
_SCALARS = (str, int, float, bool, type(None))
_FORMATS = {
    **{f"{kind}{size}": letter for kind, letters in (("i", "bhiq"), ("u", "BHIQ")) for size, letter in
       zip((1, 2, 4, 8), letters, strict=True)},
    **{"b1": "?", "f2": "e", "f4": "f", "f8": "d"},
}  # fmt: skip
"""Struct formats of numpy's kinds of numbers."""


class ForeignError(Exception):
    """A pickle holds something else than plain values."""


@dataclass(eq=False, slots=True)
class _Name:
    """A class or function that a pickle names: a word and nothing behind it."""

    word: str


@dataclass(eq=False, slots=True)
class _Kind:
    """What stands for a numpy dtype: the code of one number, and its byte order."""

    code: str
    order: str = "<"


def read_plain_pickle(path: Path) -> Any:
    """What the pickle ``path`` holds, of any protocol: dicts, lists, tuples, texts and numbers, numpy's among them.

    Ordered, default and counting dicts become plain ones. The opcodes are followed one by one; no foreign type is
    made, not even a known one, so that no file can lead numpy or the standard library astray. Keys are texts and
    numbers only, and size and steps are bounded, so that a small file cannot take for ever.

    Raises:
        EvalfmError: damaged, too large, or asking for anything else.
    """
    if path.stat().st_size > MOST_BYTES:
        raise EvalfmError(f"{path} has more than {MOST_BYTES // 2**20} MiB, too much for a pickle; write it as CSV.")
    try:
        return _Reader().follow(path.read_bytes())
    except ForeignError as error:
        raise EvalfmError(
            f"{path} was refused: besides plain values it holds {error}, which could do harm; write it as CSV."
        ) from None
    except OSError as error:
        raise EvalfmError(f"{path} cannot be read ({error.strerror}); check the file.") from None
    except (ValueError, TypeError, LookupError, ArithmeticError, struct.error) as error:
        # What a damaged stream trips over: a stack that is empty, text that is none, an opcode that is not known.
        raise EvalfmError(f"{path} is damaged or cut short ({type(error).__name__}); fetch it again.") from None


class _Reader:
    """The stack machine of pickle, without what makes objects."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._spent = 0
        """Steps beside the opcodes."""

    def follow(self, content: bytes) -> Any:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            name = opcode.name
            if step + self._spent > MOST_STEPS:
                raise ForeignError(f"more than {MOST_STEPS:,} steps to follow")
            if name in _PUSHED:
                self._stack.append(_checked(argument))
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name == "STOP":
                return self._stack.pop()
            else:
                raise ForeignError(f"what the opcode {name} makes")
        raise ValueError("no STOP")

    def skip(self, _: object) -> None:
        """Of the protocol and of a frame, which says how far to read ahead; nobody does here."""

    def put(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def pop(self, _: object) -> None:
        self._stack.pop()

    def pop_to_mark(self, _: object) -> None:
        self._taken()

    def repeat(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _taken(self) -> list[Any]:
        """What lies above the last mark; both are taken away."""
        above = []
        while (value := self._stack.pop()) is not _MARK:
            above.append(value)
        return above[::-1]

    def tuple_to_mark(self, _: object) -> None:
        self._stack.append(tuple(self._taken()))

    def tuple_of_1(self, _: object) -> None:
        self._stack.append((self._stack.pop(),))

    def tuple_of_2(self, _: object) -> None:
        second = self._stack.pop()
        self._stack.append((self._stack.pop(), second))

    def tuple_of_3(self, _: object) -> None:
        third, second = self._stack.pop(), self._stack.pop()
        self._stack.append((self._stack.pop(), second, third))

    def new_list(self, _: object) -> None:
        self._stack.append([])

    def list_to_mark(self, _: object) -> None:
        self._stack.append(self._taken())

    def append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    def append_to_mark(self, _: object) -> None:
        self._extend(self._taken())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ForeignError("items of no list")
        target.extend(items)

    def new_dict(self, _: object) -> None:
        self._stack.append({})

    def dict_to_mark(self, _: object) -> None:
        items = self._taken()
        self._stack.append({})
        self._set(items)

    def set_item(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def set_to_mark(self, _: object) -> None:
        self._set(self._taken())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise ForeignError("items of no dict")
        _fill(target, zip(items[::2], items[1::2], strict=True))

    def name(self, words: str) -> None:
        self._name(*words.split(" ", 1))

    def name_on_stack(self, _: object) -> None:
        attribute, module = self._stack.pop(), self._stack.pop()
        self._name(module, attribute)

    def _name(self, module: object, attribute: object) -> None:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ForeignError("a name that is no text")
        word = f"{module}.{attribute}"
        if word not in _CALLS and word not in _FACTORIES:
            raise ForeignError(word if word.isprintable() and len(word) <= SHOWN else repr(word[:SHOWN]))
        self._stack.append(_Name(word))

    def call(self, _: object) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, _Name) or called.word not in _CALLS or not isinstance(arguments, tuple):
            raise ForeignError("a call of what cannot be called")
        # What a call copies may have been named a thousand times.
        for argument in arguments:
            if isinstance(argument, (str, bytes)):
                self._spent += len(argument) // BYTES_A_STEP
            elif isinstance(argument, (list, tuple, dict)):
                self._spent += len(argument)
        self._stack.append(_CALLS[called.word](*arguments))

    def set_state(self, _: object) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        # (version, byte order, subtype, names, fields, size, alignment, flags); of a number only the order is set.
        plain = isinstance(state, tuple) and len(state) in (8, 9) and all(each is None for each in state[2:5])
        if not isinstance(target, _Kind) or not plain or state[1] not in ("<", ">", "=", "|"):
            raise ForeignError("a state of an object")
        # "=" is the order of the machine that wrote it, which numpy never writes and every machine today shares.
        target.order = ">" if state[1] == ">" else "<"


def _checked(value: Any) -> Any:
    """``value`` where it can be kept: a number that is not too long, text that can be written."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ForeignError(f"a whole number of more than {MOST_BITS} bits")
    if isinstance(value, str):
        value.encode()
    return value


def _fill(target: dict[Any, Any], pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """``target`` with ``pairs``; only what is hashed in one step may be a key."""
    for key, value in pairs:
        if not isinstance(key, _SCALARS):
            raise ForeignError(f"a key that is neither text nor number ({type(key).__name__.strip('_').lower()})")
        target[key] = value
    return target


def _kind(code: object, *_: object) -> _Kind:
    plain = code.lstrip("<|=") if isinstance(code, str) else ""
    if plain in _FORMATS:
        return _Kind(plain)
    if plain[:1] == "U" and plain[1:].isdecimal() and len(plain) < 8:
        return _Kind("U")
    raise ForeignError(f"values of numpy of the kind {str(code)[:20]!r}")


def _scalar(kind: object, data: object) -> Any:
    """A number or text of numpy's as a plain one."""
    # Protocols before the third write bytes as text.
    content = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(kind, _Kind) or not isinstance(content, bytes):
        raise ForeignError("a number of numpy without its bytes")
    if kind.code == "U":
        return _checked(content.decode("utf-32-be" if kind.order == ">" else "utf-32-le").rstrip("\0"))
    (value,) = struct.unpack(kind.order + _FORMATS[kind.code], content)
    return value


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """Bytes, as old protocols write them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ForeignError("text in another encoding")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _ordered(pairs: object = ()) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    ):
        raise ForeignError("a dict of no pairs")
    return _fill({}, (tuple(pair) for pair in pairs))


def _defaults(factory: object = None) -> dict[Any, Any]:
    if factory is not None and not isinstance(factory, _Name):
        raise ForeignError("a default of an unknown kind")
    return {}


def _counted(counts: object = None) -> dict[Any, Any]:
    if not isinstance(counts, dict | None):
        raise ForeignError("counts of no dict")
    return dict(counts or {})


_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _kind,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encoded,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _defaults,
    "collections.Counter": _counted,
}
"""What a pickle of plain values may call, and what is done in its place."""

_FACTORIES = frozenset(
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("bool", "int", "long", "float", "str", "unicode", "list", "dict")
)
"""What a default dict may make its values with; it is never called."""

_PUSHED = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
})  # fmt: skip
"""Opcodes whose argument is a value."""

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK, "EMPTY_TUPLE": ()}

_STEPS: dict[str, Callable[[_Reader, Any], None]] = {
    "PROTO": _Reader.skip,
    "FRAME": _Reader.skip,
    "POP": _Reader.pop,
    "POP_MARK": _Reader.pop_to_mark,
    "DUP": _Reader.repeat,
    "MEMOIZE": _Reader.put,
    "PUT": _Reader.put,
    "BINPUT": _Reader.put,
    "LONG_BINPUT": _Reader.put,
    "GET": _Reader.get,
    "BINGET": _Reader.get,
    "LONG_BINGET": _Reader.get,
    "TUPLE": _Reader.tuple_to_mark,
    "TUPLE1": _Reader.tuple_of_1,
    "TUPLE2": _Reader.tuple_of_2,
    "TUPLE3": _Reader.tuple_of_3,
    "EMPTY_LIST": _Reader.new_list,
    "LIST": _Reader.list_to_mark,
    "APPEND": _Reader.append,
    "APPENDS": _Reader.append_to_mark,
    "EMPTY_DICT": _Reader.new_dict,
    "DICT": _Reader.dict_to_mark,
    "SETITEM": _Reader.set_item,
    "SETITEMS": _Reader.set_to_mark,
    "GLOBAL": _Reader.name,
    "STACK_GLOBAL": _Reader.name_on_stack,
    "REDUCE": _Reader.call,
    "BUILD": _Reader.set_state,
}
