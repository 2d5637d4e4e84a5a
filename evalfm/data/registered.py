"""Data sets known by name on this machine, and where evalfm keeps what it remembers."""

from __future__ import annotations

import json
import os
from pathlib import Path

from evalfm.cards import read_json
from evalfm.data.atomic import write_atomically
from evalfm.data.dataset_info import DATASET_FILE
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.paths import user_path


def home_folder() -> Path:
    """Where evalfm keeps its own files: the environment variable EVALFM_HOME, else ``~/.evalfm``.

    Raises:
        EvalfmError: that names no folder that could be made.
    """
    folder = user_path(os.environ.get("EVALFM_HOME") or "~/.evalfm", "EVALFM_HOME")
    if folder.exists() and not folder.is_dir():
        raise EvalfmError(f"EVALFM_HOME {folder} is no folder; set it to one that you can write.")
    return folder


def cache_folder() -> Path:
    """Where things lie that can be computed again; not created here."""
    return home_folder() / "cache"


def registered() -> dict[str, Path]:
    """Registered names and the folders of their data sets, by name.

    Raises:
        EvalfmError: the list is damaged.
    """
    path = _list_path()
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except EvalfmError as error:
        raise EvalfmError(f"{str(error).split(';')[0]}; remove it and register again.") from None
    if not isinstance(content, dict) or not all(isinstance(folder, str) for folder in content.values()):
        raise EvalfmError(f"{path} must map names to folders; remove it and register again.")
    return {name: Path(content[name]) for name in sorted(content)}


def register(name: str, folder: Path) -> None:
    """Let ``name`` stand for the data set in ``folder``; an earlier meaning of the name is replaced.

    Raises:
        EvalfmError: the name could be taken for a path, or the folder holds no data set.
    """
    if not name or name.startswith(".") or any(character in name for character in "/\\") or name != name.strip():
        raise EvalfmError(f"{name!r} cannot name a data set; use a plain word such as 'siim-acr'.")
    if not (folder / DATASET_FILE).is_file():
        raise EvalfmError(f"{folder} holds no {DATASET_FILE}; import the data first with `evalfm data import`.")
    known = registered() | {name: folder.resolve()}
    content = {key: str(known[key]) for key in sorted(known)}
    write_atomically(_list_path(), (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def registered_folder(name: str) -> Path:
    """The folder that ``name`` stands for.

    Raises:
        UnknownNameError: no data set is registered under this name.
        EvalfmError: its folder is gone.
    """
    known = registered()
    if name not in known:
        raise UnknownNameError("folder, manifest or registered data set", name, known)
    if not known[name].is_dir():
        raise EvalfmError(
            f"The data set {name!r} was registered at {known[name]}, which is gone; "
            f"register it anew with `evalfm data register DIR --name {name}`."
        )
    return known[name]


def _list_path() -> Path:
    return home_folder() / "data.json"
