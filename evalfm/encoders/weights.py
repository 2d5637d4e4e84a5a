"""Checkpoints read without running code in them, and fitted to a model with no tensor over or missing."""

from __future__ import annotations

import hashlib
import importlib
import json
import pickletools
import shlex
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from evalfm.encoders.card import WeightsFacts
from evalfm.errors import EvalfmError

SHOWN = 8
"""How many tensor names an error lists."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a file by name, unwrapped, with the file's SHA-256.

    ``config`` is the ``config.json`` that lay beside the file in a folder, if any.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    config: dict[str, Any] | None = None


def read_checkpoint(location: Path, facts: WeightsFacts) -> Checkpoint:
    """Read the checkpoint at ``location``, a file or a folder that holds one.

    The content decides the format, never the extension: safetensors, npz, torch's zip and legacy files.
    Pickles are read by torch's restricted unpickler, which builds tensors and plain containers; beside these
    only the data classes on the card's reviewed list are admitted.

    Raises:
        EvalfmError: nothing there, damaged, of no known format, holding code, or holding NaN.
    """
    path = _find(location, facts)
    content = _read(path, facts)
    tensors = _unwrap(content, facts, path)
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        raise EvalfmError(f"{path} holds NaN or infinite values in {_listed(bad)}; fetch the file again.")
    config_path = path.parent / "config.json"
    config = None
    if location.is_dir() and config_path.is_file():
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
        except ValueError:
            raise EvalfmError(f"{config_path} is not valid JSON; fetch it again or remove it.") from None
    return Checkpoint(path, file_digest(path), tensors, config)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], facts: WeightsFacts, origin: Path) -> None:
    """Copy ``tensors`` into ``model``: none missing or of another shape, none over but the card's own list.

    Raises:
        EvalfmError: names every tensor that does not fit; the model is left as it was.
    """
    expected = model.state_dict()
    check_fit(
        missing=[name for name in expected if name not in tensors],
        unexpected=[name for name in tensors if name not in expected],
        mismatched=[
            f"{name} {list(tensors[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ],
        facts=facts,
        origin=origin,
    )
    model.load_state_dict({name: tensors[name] for name in expected})


def check_fit(
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Iterable[str],
    facts: WeightsFacts,
    origin: Path,
) -> None:
    """Refuse a checkpoint that does not fit, naming its tensors; ``mismatched`` entries say name and shapes.

    Raises:
        EvalfmError: anything is missing or of another shape, or left over and not on the card's list.
    """
    left_over = [
        name for name in unexpected if not any(fnmatchcase(name, pattern) for pattern in facts.unexpected_keys)
    ]
    faults = {
        "missing": sorted(missing),
        "of another shape": sorted(mismatched),
        "not known to the model": sorted(left_over),
    }
    found = [f"{what}: {_listed(names)}" for what, names in faults.items() if names]
    if found:
        raise EvalfmError(
            f"{origin} does not fit the encoder ({'; '.join(found)}); give the weights that the card names."
        )


def _find(location: Path, facts: WeightsFacts) -> Path:
    if location.is_file():
        return location
    if not location.is_dir():
        raise EvalfmError(f"There is no file or folder {location}; check --weights.")
    for name in (facts.file, "model.safetensors", "pytorch_model.bin"):
        if name is not None and (location / name).is_file():
            return location / name
    candidates = sorted(
        each for each in location.iterdir() if each.suffix in (".safetensors", ".npz", ".pt", ".pth") and each.is_file()
    )
    if len(candidates) != 1:
        found = ", ".join(each.name for each in candidates) or "none"
        raise EvalfmError(f"{location} must hold one file of weights (found: {found}); give the file to --weights.")
    return candidates[0]


def _read(path: Path, facts: WeightsFacts) -> object:
    with path.open("rb") as file:
        head = file.read(9)
    try:
        if len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
            return safetensors.torch.load_file(path)
        if head[:2] == b"PK":
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
            if members and all(name.endswith(".npy") for name in members):
                return _read_npz(path)
            return _read_torch(path, facts)
        if head[:1] == b"\x80":
            return _read_torch(path, facts)
    except (
        SafetensorError,
        zipfile.BadZipFile,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
    ) as error:
        raise EvalfmError(f"{path} is damaged or cut short ({_first_line(error)}); fetch it again.") from None
    raise EvalfmError(
        f"{path} is neither safetensors, npz nor a torch checkpoint, or it is cut short; "
        "fetch it again, or save it with safetensors.torch.save_file."
    )


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {}
        for name in archive.files:
            try:
                arrays[name] = torch.from_numpy(archive[name])
            except (ValueError, TypeError) as error:
                raise EvalfmError(
                    f"{path}: array {name!r} cannot be read as plain numbers ({_first_line(error)}); "
                    "save plain number arrays only."
                ) from None
    return arrays


def _read_torch(path: Path, facts: WeightsFacts) -> object:
    allowed: list[Any] = [(_reviewed(name), name) for name in facts.pickle_globals]
    try:
        # An open file: given a path, torch trusts the extension.
        with torch.serialization.safe_globals(allowed), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler of a damaged stream raises whatever it trips over.
        unsafe = unsafe_globals(path, facts)
        if unsafe:
            converted = shlex.quote(f"{path.stem}.safetensors")
            raise EvalfmError(
                f"{path} was refused: besides tensors it holds {_listed(unsafe)}, which could run code; if you know "
                f"where it comes from, take its tensors out with `evalfm convert {shlex.quote(str(path))} "
                f"--out {converted}` and give that file."
            ) from None
        raise EvalfmError(f"{path} is damaged or cut short ({_first_line(error)}); fetch it again.") from None


def _reviewed(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    # numpy 2 renamed its core package; the old pickles ask for the same objects.
    module = module.replace("numpy.core.", "numpy._core.")
    return getattr(importlib.import_module(module), attribute)


def unsafe_globals(path: Path, facts: WeightsFacts) -> list[str]:
    """What torch's file ``path`` would import beyond torch's own data types and the card's, sorted.

    Found by disassembly; nothing is run.

    Raises:
        OSError, zipfile.BadZipFile: the file cannot be read.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".pkl")]
            streams = [archive.read(name) for name in members]
    else:
        streams = [path.read_bytes()]
    named: set[str] = set()
    for stream in streams:
        named |= _globals_of(stream)
    harmless = ("torch._utils._rebuild", "torch.storage.", "collections.OrderedDict")
    storages = {
        f"torch.{kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")
    }
    return sorted(
        name
        for name in named
        if not name.startswith(harmless) and name not in storages and name not in facts.pickle_globals
    )


def _globals_of(stream: bytes) -> set[str]:
    found: set[str] = set()
    offset = 0
    # A legacy file is several pickles in a row, then raw storage.
    while offset < len(stream):
        # What was pushed last, and what was kept under a number to be pushed again; None is no text.
        pushed: list[str | None] = []
        kept: dict[int, str | None] = {}
        end = None
        try:
            for opcode, argument, position in pickletools.genops(stream[offset:]):
                if opcode.name == "GLOBAL":
                    found.add(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    found.add(".".join(each or "?" for each in pushed[-2:]))
                if opcode.name == "MEMOIZE":
                    kept[len(kept)] = pushed[-1] if pushed else None
                elif opcode.name.endswith("PUT"):
                    kept[int(argument or 0)] = pushed[-1] if pushed else None
                elif opcode.name.endswith("GET"):
                    pushed.append(kept.get(int(argument or 0)))
                elif opcode.stack_after:
                    pushed.append(argument if isinstance(argument, str) else None)
                end = position
        except Exception:
            # Raw storage, or a damaged stream: pickletools raises whatever it trips over.
            return found
        if end is None:
            return found
        offset += end + 1
    return found


def _unwrap(content: object, facts: WeightsFacts, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise EvalfmError(f"{path} holds a {type(content).__name__}, not tensors by name; save its state dict.")
    flat = all(isinstance(value, Tensor) for value in content.values())
    for step in () if flat else facts.wrapper:
        if not isinstance(content, Mapping) or step not in content:
            raise EvalfmError(f"{path} has no entry {step!r}, where the card looks for the tensors.")
        content = content[step]
    assert isinstance(content, Mapping)
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange or not content:
        raise EvalfmError(
            f"{path} holds entries that are no tensors ({_listed(strange) if strange else 'it is empty'}); "
            "give a state dict, or name the wrapper's keys in the card's weights.wrapper."
        )
    tensors = {_renamed(str(name), facts): value for name, value in content.items()}
    if len(tensors) < len(content):
        raise EvalfmError(
            f"{path} holds two tensors of one name once the card's strip_prefix {facts.strip_prefix!r} and rename "
            "are applied; mend the card."
        )
    return tensors


def _renamed(name: str, facts: WeightsFacts) -> str:
    name = name.removeprefix(facts.strip_prefix)
    for beginning, replacement in facts.rename.items():
        if name.startswith(beginning):
            return replacement + name.removeprefix(beginning)
    return name


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    rest = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + rest


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
