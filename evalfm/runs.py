"""The run directory: one encoder × task × head × adaptation × subset × seed, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, ValidationError
from safetensors.torch import load_file, save
from torch import Tensor

from evalfm.cards import CardModel
from evalfm.data.work_folders import flush_folder, remove_stale, replace, work_name
from evalfm.errors import EvalfmError
from evalfm.features.cost import Cost
from evalfm.paths import user_path
from evalfm.statistics.estimate import Estimate
from evalfm.tasks.kinds import BASE_TO_NOVEL

RECORD = "run.json"
PREDICTIONS = "predictions.parquet"
HEAD = "head.safetensors"
ENCODER = "encoder.safetensors"
WORK = ".work"
MARK = "evalfm"
"""Under which predictions say in their Parquet file what they are; pandas keeps it as ``attrs``."""
MARKED_NOTES = ("Synthetic", "Random", "Patients unknown")
"""How notes begin that belong beside every figure of a run."""


class Provenance(CardModel):
    """Where, when and with what a run was made; no host name, user or path.

    Attributes:
        cost: of one image, of the encoder before any training; None where no encoder ran, as for tables of features,
            and in runs of older versions.
    """

    versions: dict[str, str]
    git_commit: str | None
    device: str
    precision: str
    seconds: float
    peak_memory_bytes: int | None
    weights_digest: str | None
    feature_key: str
    split_hash: str
    synthetic: bool
    random_weights: bool
    cost: Cost | None = None


class Record(CardModel):
    """Everything that run.json holds.

    Attributes:
        key: hash of all that decides the result.
        config: the settings as they were asked for, enough to ask again.
        encoder, task: the cards, whole.
        head: its name and grid.
        data: name, licence, label sources, sizes of the parts, whether patients are known.
        metrics: per metric the estimate on test with interval, n and unit.
        chosen: what val decided: hyper-parameters and thresholds, per fold where there are folds.
        exclusions: how many images were not asked, by reason.
        prompts: of a head that reads text its sentences, and of zero-shot the primary metric by each template alone.
        notes: cautions to print with the result.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    key: str
    config: dict[str, Any]
    encoder: dict[str, Any]
    task: dict[str, Any]
    head: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    chosen: dict[str, Any]
    exclusions: list[dict[str, Any]]
    prompts: dict[str, Any] | None = None
    notes: list[str]
    provenance: Provenance


@dataclass(frozen=True)
class Run:
    """A finished run on disk."""

    folder: Path

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """Open the run in ``folder``.

        Raises:
            EvalfmError: there is no whole run there.
        """
        run = cls(user_path(folder, "The run"))
        if not (run.folder / RECORD).is_file():
            raise EvalfmError(f"{folder} is no run: it has no {RECORD}; `evalfm ls runs` lists those under runs/.")
        _ = run.record
        return run

    @cached_property
    def record(self) -> Record:
        """The content of run.json."""
        path = self.folder / RECORD
        try:
            return Record.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError, ValueError) as error:
            raise EvalfmError(
                f"{path} cannot be read as a run of schema 1 ({_first_line(error)}); run it again with --force."
            ) from None

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return str(self.record.encoder["name"])

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.record.task["name"])

    @property
    def head(self) -> str:
        """The head's name."""
        return str(self.record.head["name"])

    @property
    def adaptation(self) -> str:
        """What of the encoder was trained."""
        return str(self.record.config["adaptation"])

    @property
    def kind(self) -> str:
        """The kind of its task, or ``base-to-novel`` where classes were tried in halves."""
        return BASE_TO_NOVEL if self.record.config.get("base_to_novel") else str(self.record.task["kind"])

    @property
    def primary(self) -> str:
        """The metric that decides."""
        return str(self.record.task["metrics"][0])

    @property
    def is_floor(self) -> bool:
        """True for a baseline that knows nothing."""
        return bool(self.record.config["floor"])

    @cached_property
    def metrics(self) -> dict[str, Estimate]:
        """Every metric on test."""
        return {name: Estimate.from_json(content) for name, content in self.record.metrics.items()}

    def predictions(self) -> pd.DataFrame:
        """One row per val and test example, with the kind's columns and the declared attributes."""
        return pd.read_parquet(self.folder / PREDICTIONS)

    def head_tensors(self) -> dict[str, Tensor]:
        """What the head learnt."""
        tensors: dict[str, Tensor] = load_file(self.folder / HEAD)
        return tensors

    def encoder_tensors(self) -> dict[str, Tensor]:
        """What of the encoder was trained with the head; empty where it was frozen."""
        path = self.folder / ENCODER
        tensors: dict[str, Tensor] = load_file(path) if path.is_file() else {}
        return tensors


def content_key(content: Mapping[str, Any]) -> str:
    """SHA-256 over ``content`` as canonical JSON, in hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def run_folder(out: Path, encoder: str, task: str, head: str, adaptation: str, key: str) -> Path:
    """Where the run with ``key`` stands under ``out``."""
    return out / _plain(encoder) / _plain(task) / f"{_plain(head)}-{_plain(adaptation)}-{key[:8]}"


def find_runs(out: str | Path) -> list[Run]:
    """Every whole run under ``out``, sorted by path; work in progress is never listed."""
    root = user_path(out, "The folder of runs")
    if (root / RECORD).is_file():
        return [Run.read(root)]
    return [Run.read(folder) for folder in folders_with(RECORD, root)]


def folders_with(record: str, root: Path) -> list[Path]:
    """Folders from ``root`` down that hold a file called ``record``, sorted; work in progress is left out."""
    found = []
    for folder, inside, files in os.walk(root):
        # Not entered at all: what another process writes there comes and goes.
        inside[:] = [name for name in inside if name != WORK]
        if record in files:
            found.append(Path(folder))
    return sorted(found)


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


class InTheWay(Enum):
    """What becomes of a folder that stands already where another is to be published."""

    KEPT = auto()
    REPLACED = auto()
    REFUSED = auto()


@contextmanager
def publishing(out: Path, final: Path, in_the_way: InTheWay = InTheWay.KEPT) -> Iterator[Path]:
    """Give a work folder that becomes ``final`` by one rename when the block ends well, and vanishes otherwise.

    A run that another process published there meanwhile is kept unless ``in_the_way`` says otherwise: it has the
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
        _place(work, final, in_the_way)
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
) -> None:
    """Write the files of a run into ``folder``, run.json last; ``encoder`` where it was trained."""
    predictions = predictions.copy(deep=False)
    predictions.attrs = {MARK: _mark(record)}
    predictions.to_parquet(folder / PREDICTIONS, index=False)
    for name, content in ((HEAD, tensors), (ENCODER, encoder)):
        # Written here and not by safetensors, whose errors on a full disk are no OSError.
        if content or name == HEAD:
            plain = {key: value.detach().cpu().contiguous() for key, value in (content or {}).items()}
            (folder / name).write_bytes(save(plain))
    text = json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _mark(record: Record) -> dict[str, Any]:
    """What a table of predictions must say of itself to be read as its run's wherever it is copied to."""
    kind = BASE_TO_NOVEL if record.config.get("base_to_novel") else record.task.get("kind")
    named = (record.encoder.get("name"), record.head.get("name"), record.config.get("adaptation"))
    return {
        "schema": 1,
        "kind": kind,
        "class_names": list(record.data.get("class_names", ())),
        "patients_known": bool(record.data.get("patients_known")),
        "folds": record.data.get("folds"),
        "model": " · ".join(map(str, named)),
        "notes": [note for note in record.notes if note.startswith(MARKED_NOTES)],
    }


def _flush(work: Path) -> None:
    """Bring every file of ``work`` to the disk, so that after a power cut too a run is whole or not there."""
    for folder, _, files in os.walk(work):
        for name in files:
            with (Path(folder) / name).open("rb+") as stream:
                os.fsync(stream.fileno())
        flush_folder(Path(folder))


def _place(work: Path, final: Path, in_the_way: InTheWay) -> None:
    """Put ``work`` at ``final``; what stands there already stays, or takes the place of ``work``."""
    try:
        # A folder is renamed onto nothing or an empty folder, never onto files, whoever puts them there meanwhile.
        work.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        if in_the_way is InTheWay.REFUSED:
            raise EvalfmError(f"{final} is there already; name another folder with --out.") from None
        if in_the_way is InTheWay.REPLACED or not (final / RECORD).is_file():
            replace(work, final)


def _plain(name: str) -> str:
    """A name as one folder: what a path would misread becomes a hyphen."""
    return "".join(letter if letter.isalnum() or letter in "._-@+" else "-" for letter in name).strip(".") or "unnamed"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
