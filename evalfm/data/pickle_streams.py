"""What a pickle would do, seen by walking its opcodes with stand-ins on a stack; nothing of it is run."""

from __future__ import annotations

import pickletools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any

MAX_OPCODES = 1_000_000
MAX_DEPTH = 100
"""How deep containers may stand in each other: hashing and freeing them recurses."""

MAX_VALUES = 20_000_000
"""How many values a container may stand for, and how many may be hashed in all; sixty nested pairs are 2^60."""

SCALARS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "NONE", "NEWTRUE", "NEWFALSE"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT"),
        *("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    }
)
"""Opcodes that push a number, a text, nothing, or an empty container."""

_NONE, _ALL, _KEYS = slice(0), slice(None), slice(None, None, 2)
MAKES = {
    **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST"), _NONE),
    **dict.fromkeys(("DICT", "FROZENSET", "INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX"), _ALL),
}
"""Opcodes that make a container or an object of values on the stack, and which of these are looked up or copied."""
FILLS = {"APPEND": _NONE, "APPENDS": _NONE, "BUILD": _NONE, "ADDITEMS": _ALL, "SETITEM": _KEYS, "SETITEMS": _KEYS}
"""Opcodes that put values into the container below them."""


class StreamError(ValueError):
    """A stream that is damaged, or asks for more than a file of weights can need."""


@dataclass(frozen=True)
class Storage:
    """Raw numbers that a pickle of torch asks for: the storage's class, its key in the file, how many values."""

    kind: str
    key: str
    count: int


@dataclass
class Survey:
    """What a stream names: classes and functions by module and name, and storages."""

    names: set[str] = field(default_factory=set)
    storages: list[Storage] = field(default_factory=list)


@dataclass(slots=True)
class _Value:
    """What stands for an object: a scalar or a global's name, or a container and how much it holds."""

    plain: Any = None
    items: tuple[_Value, ...] = ()
    size: int = 1
    depth: int = 0

    def take(self, values: Iterable[_Value]) -> _Value:
        """Put ``values`` into this container."""
        for each in values:
            self.size += each.size
            self.depth = max(self.depth, each.depth + 1)
        if self.depth > MAX_DEPTH:
            raise StreamError(f"it nests containers more than {MAX_DEPTH} deep")
        if self.size > MAX_VALUES:
            raise StreamError(f"it nests containers into more than {MAX_VALUES:,} values")
        return self


_MARK = _Value()


class _Machine:
    """The stack and the memo of an unpickler, with stand-ins."""

    def __init__(self, survey: Survey, most: int) -> None:
        self.survey, self.most = survey, most
        self.stack: list[_Value] = []
        self.memo: dict[int, _Value] = {}
        self.hashed = 0

    def pop(self) -> _Value:
        value = self.stack.pop()
        if value is _MARK:
            raise StreamError("a mark stands where a value should")
        return value

    def popped(self) -> list[_Value]:
        """What lies above the last mark."""
        values: list[_Value] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def top(self) -> _Value:
        if self.stack[-1] is _MARK:
            raise StreamError("a mark stands where a value should")
        return self.stack[-1]

    def hash(self, values: Iterable[_Value]) -> None:
        self.hashed += sum(each.size for each in values)
        if self.hashed > MAX_VALUES:
            raise StreamError(f"it has more than {MAX_VALUES:,} values looked up or copied")

    def named(self, name: str) -> None:
        self.survey.names.add(name)
        self.stack.append(_Value(name))

    def keep(self, index: int) -> None:
        # An unpickler in C makes room for every number below.
        if index > self.most:
            raise StreamError("it numbers its objects beyond bounds")
        self.memo[index] = self.top()

    def storage(self, value: _Value) -> None:
        what = [each.plain for each in value.items]
        if what[:1] == ["module"]:
            # A class with its source, of a whole model in torch's older format.
            self.stack.append(_Value())
            return
        known = len(what) >= 5 and what[0] == "storage" and isinstance(what[1], str) and isinstance(what[4], int)
        if not known or what[4] < 0:
            raise StreamError("it refers to something outside that is no storage of tensors")
        self.survey.storages.append(Storage(what[1], str(what[2]), what[4]))
        self.stack.append(_Value())

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Run one opcode."""
        name, stack = opcode.name, self.stack
        if name in SCALARS:
            stack.append(_Value(argument))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.popped()
        elif name == "DUP":
            stack.append(self.top())
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.keep(len(self.memo) if argument is None else int(argument))
        elif name == "GLOBAL":
            self.named(str(argument).replace(" ", "."))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            self.named(f"{module.plain or '?'}.{attribute.plain or '?'}")
        elif name in ("EXT1", "EXT2", "EXT4"):
            self.named(f"copyreg.extension {argument}")
        elif name in MAKES or name in FILLS:
            if name == "INST":
                self.survey.names.add(str(argument).replace(" ", "."))
            self.contain(name, opcode.stack_before)
        elif name == "BINPERSID":
            self.storage(self.pop())
        elif name == "PERSID":
            raise StreamError("it refers to something outside that is no storage of tensors")
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise StreamError(f"it holds the opcode {name}, which no file of plain values needs")

    def contain(self, name: str, before: list[pickletools.StackObject]) -> None:
        """Run an opcode that puts what stands ``before`` it on the stack into a container, old or new."""
        below = before.index(pickletools.markobject) if pickletools.markobject in before else len(before)
        above = self.popped() if below < len(before) else []
        values = [*[self.pop() for _ in range(below)][::-1], *above]
        container = values.pop(0) if name in FILLS else _Value()
        self.hash(values[(MAKES | FILLS)[name]])
        if name.startswith("TUPLE") and len(values) < 10:
            container.items = tuple(values)
        self.stack.append(container.take(values))


def survey(file: IO[bytes], pickles: int = 1, most: int = MAX_OPCODES) -> Survey:
    """What ``pickles`` pickles in a row, from the file's place on, would import and ask for.

    Raises:
        StreamError: the stream is damaged or beyond bounds, such as ``most`` opcodes.
    """
    contents = Survey()
    count = 0
    for _ in range(pickles):
        machine = _Machine(contents, most)
        try:
            for opcode, argument, _position in pickletools.genops(file):
                machine.step(opcode, argument)
                count += 1
                if count > most:
                    raise StreamError(f"it has more than {most:,} steps")
        except StreamError:
            raise
        except Exception as error:
            # pickletools raises whatever a damaged stream makes it trip over.
            raise StreamError(str(error).split("\n")[0][:200] or type(error).__name__) from None
    return contents
