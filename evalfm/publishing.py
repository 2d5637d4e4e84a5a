"""How a run is written: its key, its folder, and the rename by which it is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalfm.cautions import BESIDE_FIGURES
from evalfm.data.work_folders import flush_folder, remove_stale, replace, work_name
from evalfm.errors import EvalfmError
from evalfm.paths import file_digest, user_path
from evalfm.predictions import EPISODES, LESIONS, PREDICTIONS
from evalfm.record import Record, write_record
from evalfm.refits import REFITS
from evalfm.run import ENCODER, HEAD, MARK, RECORD, WORK

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


def content_key(content: Mapping[str, Any]) -> str:
    """SHA-256 over ``content`` as canonical JSON, in hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def run_folder(out: Path, encoder: str, task: str, head: str, adaptation: str, key: str) -> Path:
    """Where the run with ``key`` stands under ``out``."""
    return out / _plain(encoder) / _plain(task) / f"{_plain(head)}-{_plain(adaptation)}-{key[:8]}"


def check_writable(out: Path, option: str = "--out") -> None:
    """Ask, before anything is computed, whether the folder ``out`` can be written; nothing is made.

    Raises:
        EvalfmError: it cannot, or something else stands in its place.
    """
    out = user_path(out, option)
    nearest = next(folder for folder in (out, *out.absolute().parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        kind = "a file" if nearest.is_file() else "no folder"
        raise EvalfmError(f"{out} cannot be written ({nearest} is {kind}); name another folder with {option}.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise EvalfmError(f"{out} cannot be written ({nearest} is read-only); name another folder with {option}.")


class IfExists(Enum):
    """What becomes of a folder that stands already where another is to be published."""

    KEPT = auto()
    REPLACED = auto()
    REFUSED = auto()


@contextmanager
def publishing(out: Path, final: Path, if_exists: IfExists = IfExists.KEPT) -> Iterator[Path]:
    """Give a work folder that becomes ``final`` by one rename when the block ends well, and vanishes otherwise.

    A run that another process published there meanwhile is kept unless ``if_exists`` says otherwise: it has the
    same key, so it holds the same. What is no whole run is replaced.

    Raises:
        EvalfmError: ``out`` cannot be written, or ``final`` is there and is neither kept nor replaced.
    """
    work = out / WORK / work_name()
    try:
        work.mkdir(parents=True)
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvalfmError(f"{out} cannot be written ({error.strerror}); name another folder with --out.") from None
    try:
        yield work
        _flush(work)
        _place(work, final, if_exists)
        flush_folder(final.parent)
    except OSError as error:
        raise EvalfmError(
            f"The run could not be written under {out} ({error.strerror or error}); free disk or name another --out."
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def remove_leftovers(out: Path) -> None:
    """Remove what processes that died while they wrote have left under ``out``."""
    remove_stale(out / WORK)


def write_run(
    folder: Path,
    record: Record,
    predictions: pd.DataFrame,
    tensors: dict[str, Tensor],
    encoder: dict[str, Tensor] | None = None,
    refits: pd.DataFrame | None = None,
    *,
    lesions: pd.DataFrame | None = None,
) -> None:
    """Write the files of a run into ``folder``, run.json last; ``encoder``, ``refits`` and ``lesions`` where there are.

    Of few-shot episodes ``predictions`` is their table, and nothing that was learnt is kept.
    """
    from safetensors.torch import save

    predictions = predictions.copy(deep=False)
    predictions.attrs = {MARK: _mark(record)}
    predictions.to_parquet(folder / (PREDICTIONS if record.episodes is None else EPISODES), index=False)
    digests = {}
    for name, table in ((REFITS, refits), (LESIONS, lesions)):
        if table is not None:
            table.to_parquet(folder / name, index=False)
            digests[name] = file_digest(folder / name)
    for name, content in ((HEAD, tensors), (ENCODER, encoder)):
        # Written here and not by safetensors, whose errors on a full disk are no OSError.
        if content or (name == HEAD and record.episodes is None):
            plain = {key: value.detach().cpu().contiguous() for key, value in (content or {}).items()}
            (folder / name).write_bytes(save(plain))
    write_record(folder / RECORD, record.model_copy(update={"tables": digests}))


def _mark(record: Record) -> dict[str, Any]:
    """What a table of predictions must say of itself to be read as its run's wherever it is copied to."""
    return {
        "schema": 2,
        "kind": record.kind,
        "class_names": list(record.data.class_names),
        "patients_known": record.data.patients_known,
        "folds": record.data.folds,
        "model": record.model_name,
        "cautions": [asdict(each) for each in record.cautions if each.code in BESIDE_FIGURES],
    }


def _flush(work: Path) -> None:
    """Bring every file of ``work`` to the disk, so that after a power cut too a run is whole or not there."""
    for folder, _, files in os.walk(work):
        for name in files:
            with (Path(folder) / name).open("rb+") as stream:
                os.fsync(stream.fileno())
        flush_folder(Path(folder))


def _place(work: Path, final: Path, if_exists: IfExists) -> None:
    """Put ``work`` at ``final``; what stands there already stays, or takes the place of ``work``."""
    try:
        # A folder is renamed onto nothing or an empty folder, never onto files, whoever puts them there meanwhile.
        work.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        if if_exists is IfExists.REFUSED:
            raise EvalfmError(f"{final} is there already; name another folder with --out.") from None
        if if_exists is IfExists.REPLACED or not (final / RECORD).is_file():
            replace(work, final)


def _plain(name: str) -> str:
    """A name as one folder: what a path would misread becomes a hyphen."""
    return "".join(letter if letter.isalnum() or letter in "._-@+" else "-" for letter in name).strip(".") or "unnamed"
