"""Tensors out of a pickled model without running anything that it names; run as a script, on its own.

``python -I _unpickling.py SOURCE TARGET METADATA`` writes TARGET as safetensors and prints one line of JSON. Every
class and function that the pickle asks for becomes an empty stand-in, but for those that put tensors and plain
containers together. The process ends, and TARGET is removed with its folder, when its standard input closes: that is
when its parent is gone.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import json
import os
import pickle
import sys
import threading
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state")
CONTAINERS = (
    "dict",
    "list",
    "tuple",
    "set",
    "frozenset",
    "int",
    "float",
    "complex",
    "bool",
    "str",
)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
PLAIN_TYPES = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


ITEMS = "items of a pickled mapping"
"""Under which a stand-in keeps them; no attribute can be called so."""


class StandIn:
    """What a pickled object becomes: it keeps its state and its items, and does nothing with them."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> StandIn:
        """An empty instance, whatever is given."""
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **keywords: Any) -> StandIn:
        """A stand-in for whatever the call would have given."""
        return StandIn()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update({str(name): value for name, value in state.items()})

    def __setitem__(self, key: Any, value: Any) -> None:
        vars(self).setdefault(ITEMS, {})[key] = value

    def append(self, value: Any) -> None:
        """Drop an item of a pickled list."""

    def extend(self, values: Any) -> None:
        """Drop items of a pickled list."""

    def add(self, value: Any) -> None:
        """Drop an item of a pickled set."""

    def __hash__(self) -> int:
        return id(self)


def resolve(module: str, name: str) -> Any:
    """What stands for ``module.name`` in the pickle."""
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    if (module, name) in _KNOWN:
        return _KNOWN[module, name]
    if module.split(".")[0] == "torch" and name.startswith("_rebuild"):
        raise pickle.UnpicklingError(f"it holds a tensor made by {module}.{name}")
    return type(name.rpartition(".")[2] or "StandIn", (StandIn,), {"__module__": module})


def _read_bytes(content: Any = b"", *rest: Any) -> bytes:
    """Bytes from what is there; a number would ask for so many zeros."""
    return bytes(content, *rest) if isinstance(content, (bytes, bytearray, str, list, tuple)) else b""


def _reconstruct(kind: Any, base: Any, state: Any) -> Any:
    """How pickles of protocol 0 and 1 begin an object."""
    return object.__new__(kind) if isinstance(kind, type) and issubclass(kind, StandIn) else StandIn()


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "bytes"): _read_bytes,
    ("builtins", "bytearray"): _read_bytes,
    ("copyreg", "_reconstructor"): _reconstruct,
    ("torch", "Size"): torch.Size,
    **{("builtins", name): getattr(builtins, name) for name in CONTAINERS},
    **{("torch._utils", name): getattr(torch._utils, name) for name in REBUILD},
    **{("torch", name): each for name, each in vars(torch).items() if isinstance(each, torch.dtype)},
}
"""What is what it says; whatever else a pickle names is a stand-in."""


class Unpickler(pickle.Unpickler):
    """Python's, with ``resolve`` in place of its imports."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for the class or function ``module.name``."""
        return resolve(module, name)


def _load(file: Any, **keywords: Any) -> Any:
    return Unpickler(file, **keywords).load()


def read(source: str) -> Any:
    """The content of torch's file ``source``, of either of its formats, with stand-ins."""
    reader: Any = types.ModuleType("evalfm_unpickling")
    reader.Unpickler, reader.load = Unpickler, _load
    with warnings.catch_warnings(), open(source, "rb") as file:
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", pickle_module=reader, weights_only=False)


MAX_ENTRIES = 1_000_000
"""How many entries are looked into; mappings that share their parts stand for more than a file can hold."""


def tensors_of(
    content: Any, left_out: list[str], prefix: str = "", within: tuple[int, ...] = (), seen: list[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name: of a module as its ``state_dict`` has it, of a mapping by its keys.

    Names of a mapping's other entries are added to ``left_out``; ``seen`` counts the entries looked into.

    Raises:
        ValueError: a parameter or buffer is no plain tensor, or there are more entries than a model has.
    """
    seen = [0] if seen is None else seen
    seen[0] += 1
    if seen[0] > MAX_ENTRIES or len(within) > 100:
        raise ValueError("its entries are more, or deeper in each other, than a model's")
    if isinstance(content, Tensor):
        yield prefix, content
    elif id(content) in within:
        return
    elif isinstance(content, Mapping) or (isinstance(content, StandIn) and ITEMS in vars(content)):
        items = content if isinstance(content, Mapping) else vars(content)[ITEMS]
        for name, value in items.items():
            yield from tensors_of(value, left_out, _joined(prefix, name), (*within, id(content)), seen)
    elif isinstance(content, StandIn) and isinstance(vars(content).get("_modules"), Mapping):
        state = vars(content)
        passing = state.get("_non_persistent_buffers_set")
        passing = passing if isinstance(passing, set) else set()
        own = {**_entries(state, "_parameters"), **_entries(state, "_buffers")}
        for name, value in own.items():
            if value is None or name in passing:
                continue
            if not isinstance(value, Tensor):
                raise ValueError(f"{_joined(prefix, name)} is no plain tensor")
            yield _joined(prefix, name), value
        for name, value in _entries(state, "_modules").items():
            if value is not None:
                yield from tensors_of(value, left_out, _joined(prefix, name), (*within, id(content)), seen)
    else:
        left_out.append(prefix)


def _entries(state: dict[str, Any], kind: str) -> dict[Any, Any]:
    entries = state.get(kind)
    return dict(entries) if isinstance(entries, Mapping) else {}


def _joined(prefix: str, name: Any) -> str:
    own = str(name) if isinstance(name, (str, int)) else type(name).__name__
    return f"{prefix}.{own}" if prefix else own


def convert(source: str, target: str, metadata: dict[str, str]) -> dict[str, Any]:
    """Write the tensors of ``source`` to ``target``; what they are, or ``error`` as a sentence's end."""
    left_out: list[str] = []
    try:
        every = list(tensors_of(read(source), left_out))
    except Exception as error:
        said = (str(error).strip().split("\n")[0] or type(error).__name__)[:200]
        return {"error": f"is damaged, incomplete or no checkpoint of plain tensors ({said}); fetch it again"}
    tensors: dict[str, Tensor] = {}
    total = sum(tensor.numel() * tensor.element_size() for _, tensor in every)
    if total > 256 * 2**20 + 50 * os.path.getsize(source):
        return {"error": f"declares tensors of {total} bytes, which it cannot hold; fetch it again"}
    for name, tensor in every:
        if name in tensors:
            return {"error": f"holds two tensors of the name {name}; save its state dict where its library is at hand"}
        if not name or tensor.layout != torch.strided or tensor.dtype not in PLAIN_TYPES:
            kind = f"{name or 'one'} of {tensor.layout} and {tensor.dtype}"
            return {"error": f"holds a tensor that safetensors cannot ({kind}); save its state dict with plain tensors"}
        # Names that share a tensor get one each: safetensors keeps no ties, and a loader asks for every name.
        tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    if not tensors:
        return {"error": "holds no tensors by name; save its state dict where its library is at hand"}
    save_file(tensors, target, metadata=metadata)
    return {"tensors": len(tensors), "values": sum(each.numel() for each in tensors.values()), "left_out": left_out}


def _end_with_parent(target: str) -> None:
    sys.stdin.buffer.read()
    with contextlib.suppress(OSError):
        os.unlink(target)
        # The parent made a folder for it alone.
        os.rmdir(os.path.dirname(target))
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, args=(sys.argv[2],), daemon=True).start()
    print(json.dumps(convert(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
