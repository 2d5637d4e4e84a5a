"""Images that are members of NPZ and NPY files; nothing in them is ever unpickled."""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfm.data.stored import Stored, channels_first
from evalfm.errors import EvalfmError

LARGEST_BYTES = 8 * 1024**3
"""A compressed member that unpacks to more is refused."""


def is_array_file(path: Path) -> bool:
    """Whether ``path`` is an NPZ or NPY, by its name."""
    return path.suffix.lower() in (".npz", ".npy")


def read_array(path: Path, member: str | None) -> Stored:
    """One image of an array file: ``name/index`` of an NPZ, ``index`` of an NPY, or the only image there is.

    Raises:
        EvalfmError: no such member or index, an array of objects, or a shape that is no image.
    """
    name, index = _address(path, member)
    whole = _load(path, path.stat().st_mtime_ns, name)
    if index is not None:
        if not 0 <= index < len(whole):
            raise EvalfmError(f"{path.name}#{member} asks for image {index} of {len(whole)}; count from 0.")
        whole = whole[index]
    values = channels_first(np.asarray(whole))
    if values is None or values.dtype.kind not in "buif":
        raise EvalfmError(
            f"{path.name}#{member or ''} has shape {list(whole.shape)} of {whole.dtype}, which is no image; "
            "name one image as file.npz#member/index."
        )
    bits = 1 if values.dtype == bool else values.dtype.itemsize * 8
    return Stored(values.astype(np.uint8) if values.dtype == bool else values, bits, "array")


def _address(path: Path, member: str | None) -> tuple[str, int | None]:
    """Member name (empty for an NPY) and index."""
    if path.suffix.lower() == ".npy":
        name, last = "", member
    else:
        name, _, last = (member or "").partition("/")
        if not name:
            raise EvalfmError(f"{path.name} holds several arrays; name one as {path.name}#member/index.")
    if not last:
        return name, None
    if not last.isdecimal():
        raise EvalfmError(f"{path.name}#{member} ends in no index; write {path.name}#member/17.")
    return name, int(last)


@lru_cache(maxsize=4)
def _load(path: Path, modified: int, name: str) -> NDArray[Any]:
    """A whole member, kept for the next image of it; ``modified`` makes an edited file another one."""
    try:
        if not name:
            loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return loaded
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if name not in members:
            raise EvalfmError(f"{path.name} has no member {name!r}; it has {', '.join(sorted(members))}.")
        if members[name].file_size > LARGEST_BYTES:
            raise EvalfmError(f"Member {name} of {path.name} unpacks to more than 8 GiB; split it.")
        with np.load(path, allow_pickle=False) as opened:
            found: NDArray[Any] = opened[name]
            return found
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = "holds Python objects" if "allow_pickle" in str(error) else "is damaged or no array file"
        raise EvalfmError(f"{path.name} {reason}; export it again as plain numbers.") from None
