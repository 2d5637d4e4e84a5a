"""One file of weights to its content: the format from the bytes, sizes checked before anything is made of them."""

from __future__ import annotations

import re
import shlex
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from evalfm.cards import read_json
from evalfm.data.arrays import read_npy_header
from evalfm.data.pickle_streams import Storage, StreamError, Survey, survey
from evalfm.encoders.card import WeightsFacts
from evalfm.errors import EvalfmError

SHOWN = 8
"""How many tensor names an error lists."""

REBUILD = frozenset(
    f"torch._utils._rebuild_{kind}"
    for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state")
)
"""How plain tensors are put together; sparse, quantised and foreign ones are not read."""

HARMLESS = REBUILD | {
    *("collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device", "_codecs.encode"),
    *("builtins.set", "__builtin__.set", "torch.nn.parameter.Parameter", "torch._tensor._rebuild_from_type_v2"),
    *(f"torch.{name}" for name in vars(torch) if isinstance(getattr(torch, name), torch.dtype)),
}

STORAGES = {
    **{"torch.DoubleStorage": 8, "torch.FloatStorage": 4, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2},
    **{"torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ShortStorage": 2, "torch.CharStorage": 1},
    **{"torch.ByteStorage": 1, "torch.BoolStorage": 1, "torch.UntypedStorage": 1, "torch.storage.UntypedStorage": 1},
    **{"torch.ComplexFloatStorage": 8, "torch.ComplexDoubleStorage": 16},
}
"""Classes of raw numbers, and bytes per value."""

MAGIC_LENGTH, AFTER_MAGIC = 30, 4
"""A file in torch's older format begins with a short pickle, its magic number; four more follow."""

INDEX = ".index.json"
"""How the name of an index ends, after the name that one file would have."""

COUNTED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[A-Za-z]+)")


class Unread:
    """What stands in a pickle for a data class on the card's list: empty, whatever it is given."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Unread:
        """An empty instance."""
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Leave the state out."""


def allowance(size: int) -> int:
    """Bytes that a file of ``size`` bytes may unfold to, compressed or repeated."""
    return 256 * 2**20 + 50 * size


def read_content(path: Path, facts: WeightsFacts) -> object:
    """What the file holds: safetensors and npz give tensors by name, a file of torch whatever was saved.

    Raises:
        EvalfmError: damaged, of no known format, holding code, or asking for more than it can hold.
    """
    try:
        kind = kind_of_weights(path)
        if kind == "safetensors":
            return safetensors.torch.load_file(path)
        if kind == "npz":
            return _read_npz(path, zip_members(path))
        if kind == "torch":
            return _read_torch(path, facts)
    except EvalfmError:
        raise
    except MemoryError:
        raise EvalfmError(f"{path} needs more memory than there is; free some, or take a smaller model.") from None
    except Exception as error:
        # Each format's reader raises whatever a damaged file makes it trip over.
        raise EvalfmError(f"{path} is damaged or incomplete ({_first_line(error)}); fetch it again.") from None
    raise EvalfmError(
        f"{path} is neither safetensors, npz nor a torch checkpoint, or it is incomplete; "
        "fetch it again, or save it with safetensors.torch.save_file."
    )


def kind_of_weights(path: Path) -> Literal["safetensors", "npz", "torch"] | None:
    """What ``path`` is by its bytes; None where it is none of these.

    Raises:
        EvalfmError, OSError, zipfile.BadZipFile: as for ``zip_members``.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if head[:2] == b"PK":
        members = zip_members(path)
        return "npz" if members and all(name.endswith(".npy") for name in members) else "torch"
    return "torch" if head[:1] == b"\x80" else None


def zip_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by name, whose stated sizes can be true.

    Raises:
        EvalfmError: they cannot, or two members have one name.
        OSError, zipfile.BadZipFile: the file cannot be read.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    # torch finds a member whatever its case.
    if len({each.filename.lower() for each in members}) < len(members):
        raise EvalfmError(f"{path} is damaged: two of its members have one name; fetch it again.")
    stored = [each for each in members if each.compress_type == zipfile.ZIP_STORED]
    if sum(each.compress_size for each in members) > size or any(
        each.file_size != each.compress_size for each in stored
    ):
        raise EvalfmError(f"{path} is damaged: it states more than its {size:,} bytes can hold; fetch it again.")
    _check_total(path, sum(each.file_size for each in members))
    return {each.filename: each for each in members}


def _check_total(path: Path, total: int) -> None:
    size = path.stat().st_size
    if total > allowance(size):
        raise EvalfmError(
            f"{path} has {size:,} bytes and declares {total:,}, which no trained weights do; fetch it again, or save "
            "it without compression."
        )


def _read_npz(path: Path, members: dict[str, zipfile.ZipInfo]) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        for name, member in members.items():
            with archive.open(member) as file:
                shape, _, dtype = read_npy_header(file)
                held = member.file_size - file.tell()
            if dtype.hasobject:
                raise EvalfmError(
                    f"{path}: array {name.removesuffix('.npy')!r} cannot be read as plain numbers (it holds objects); "
                    "save plain number arrays only."
                )
            if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != held:
                raise EvalfmError(
                    f"{path} is damaged: array {name.removesuffix('.npy')!r} declares {list(shape)} of {dtype}, "
                    f"and {held:,} bytes are there; fetch it again."
                )
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
    unsafe = unsafe_globals(path, facts)
    if unsafe:
        converted = shlex.quote(f"{path.stem}.safetensors")
        raise EvalfmError(
            f"{path} was refused: besides tensors it holds {listed(unsafe)}, which could run code; if you know "
            f"where it comes from, take its tensors out with `evalfm convert {shlex.quote(str(path))} "
            f"--out {converted}` and give that file."
        )
    allowed: list[Any] = [(Unread, name) for name in facts.pickle_globals]
    # An open file: given a path, torch trusts the extension.
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def unsafe_globals(path: Path, facts: WeightsFacts) -> list[str]:
    """What torch's file ``path`` would import beyond torch's own data types and the card's, sorted.

    Found by disassembly; nothing is run.

    Raises:
        EvalfmError: it is damaged, or needs more than it holds or than a checkpoint can need.
        OSError, zipfile.BadZipFile: the file cannot be read.
    """
    contents = Survey()
    try:
        if zipfile.is_zipfile(path):
            members = zip_members(path)
            with zipfile.ZipFile(path) as archive:
                for name in members:
                    if name.endswith(".pkl"):
                        with archive.open(name) as file:
                            part = survey(file)
                        contents.names |= part.names
                        _check_records(path, name, part, members)
        else:
            with path.open("rb") as file:
                contents = survey(file)
                if file.tell() < MAGIC_LENGTH:
                    contents = survey(file, AFTER_MAGIC)
            wanted = {each.key: _bytes_of(each, path) for each in contents.storages}
            if sum(wanted.values()) > path.stat().st_size:
                raise StreamError(f"it declares {sum(wanted.values()):,} bytes of tensors")
    except StreamError as error:
        raise EvalfmError(f"{path} is damaged or incomplete ({error}); fetch it again.") from None
    return sorted(
        name
        for name in contents.names
        if name not in HARMLESS and name not in STORAGES and name not in facts.pickle_globals
    )


def _check_records(path: Path, name: str, part: Survey, members: dict[str, zipfile.ZipInfo]) -> None:
    """torch takes a storage's stated length on trust, and would read beyond a record that is shorter."""
    folder = name.rpartition("/")[0]
    for each in part.storages:
        record = members.get(f"{folder}/data/{each.key}" if folder else f"data/{each.key}")
        wanted = _bytes_of(each, path)
        if record is None or record.file_size < wanted:
            raise StreamError(f"storage {each.key[:40]} of {wanted:,} bytes is not there or shorter")


def _bytes_of(storage: Storage, path: Path) -> int:
    if storage.kind not in STORAGES:
        raise EvalfmError(
            f"{path} holds tensors made of {storage.kind[:60]}, which are not plain numbers; save its state dict with "
            "plain tensors."
        )
    return STORAGES[storage.kind] * storage.count


def check_plain(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain finite tensors on the CPU, as they are; 8-bit floats come as 32-bit ones of the same values.

    Raises:
        EvalfmError: some are sparse, quantised, complex or without values, together larger than the file can hold,
            or not finite.
    """
    strange = [
        name
        for name, each in tensors.items()
        if each.layout != torch.strided
        or each.is_quantized
        or each.device.type != "cpu"
        or each.dtype.is_complex
        or type(each) not in (Tensor, torch.nn.Parameter)
        or not (each.dtype.is_floating_point or each.dtype in WHOLE)
        or (each.dtype.itemsize == 1 and each.dtype.is_floating_point and each.dtype not in EIGHT_BITS)
    ]
    if strange:
        raise EvalfmError(
            f"{path} holds tensors that are no plain numbers ({listed(strange)}); save its state dict in float32."
        )
    _check_total(path, sum(each.numel() * each.element_size() for each in tensors.values()))
    tensors = {name: each.float() if each.dtype in EIGHT_BITS else each for name, each in tensors.items()}
    bad = [name for name, each in tensors.items() if each.is_floating_point() and not bool(each.isfinite().all())]
    if bad:
        raise EvalfmError(f"{path} holds NaN or infinite values in {listed(bad)}; fetch the file again.")
    return tensors


EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
WHOLE = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
)


def find_shards(path: Path) -> list[Path]:
    """The files that belong together with ``path``: an index, a shard named as such, or any other file, alone.

    Raises:
        EvalfmError: the index is damaged or names a file in another folder, or a shard is missing.
    """
    if path.name.endswith(INDEX):
        names = shard_names(path)
    elif (match := COUNTED.fullmatch(path.name)) and int(match["count"]) > 1:
        count = int(match["count"])
        # So many files are never there, and their names would fill the memory.
        if not 1 <= int(match["number"]) <= count <= 10_000:
            raise EvalfmError(f"{path} counts itself as shard {match['number']} of {count}; fetch the weights again.")
        names = [f"{match['stem']}-{number:05}-of-{count:05}{match['suffix']}" for number in range(1, count + 1)]
    else:
        return [path]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise EvalfmError(
            f"{path} is one of several files of weights, and {listed(missing)} is not beside it; fetch all of them "
            "into one folder."
        )
    return [path.parent / name for name in names]


def shard_names(index: Path) -> list[str]:
    """The files that an index names, sorted; they lie in its own folder.

    Raises:
        EvalfmError: the index is no index, or names anything but a file beside itself.
    """
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise EvalfmError(f"{index} is no index of weights (a weight_map of tensors and files); fetch it again.")
    every = sorted(set(names.values()))
    outside = [name for name in every if re.search(r"[/\\:\0]", name) or name in ("", ".", "..") or len(name) > 200]
    if outside:
        raise EvalfmError(f"{index} names {listed(outside)}, which is no file beside it; fetch the weights again.")
    if any(name.endswith(INDEX) for name in every):
        raise EvalfmError(f"{index} names an index, not files of weights; fetch the weights again.")
    return every


def has_shards(paths: Sequence[Path]) -> bool:
    """Whether ``paths`` are all shards of one set, by their names.

    >>> has_shards([Path("m-00001-of-00002.bin"), Path("m-00002-of-00002.bin")])
    True
    """
    matches = [COUNTED.fullmatch(path.name) for path in paths]
    return None not in matches and len({(each["stem"], each["count"], each["suffix"]) for each in matches if each}) == 1


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are.

    >>> listed(["a", "b"])
    'a, b'
    """
    every = [name if len(name) <= 100 else f"{name[:100]}…" for name in names]
    rest = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + rest


def _first_line(error: Exception) -> str:
    # torch's own advice, to read the file without restrictions, is none.
    return str(error).rpartition("WeightsUnpickler error:")[2].strip().split("\n")[0][:300] or type(error).__name__
