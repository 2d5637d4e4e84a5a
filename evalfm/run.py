"""The run directory: one encoder × task × head × adaptation × subset × seed, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evalfm.cautions import BESIDE_FIGURES
from evalfm.data.work_folders import flush_folder, remove_stale, replace, work_name
from evalfm.errors import EvalfmError
from evalfm.paths import user_path
from evalfm.predictions import EPISODES, PREDICTIONS, read_episodes, read_predictions
from evalfm.record import Record, read_record, write_record
from evalfm.statistics.estimate import Estimate

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

RECORD = "run.json"
HEAD = "head.safetensors"
ENCODER = "encoder.safetensors"
WORK = ".work"
MARK = "evalfm"
"""Under which predictions say in their Parquet file what they are; pandas keeps it as ``attrs``."""

Item = TypeVar("Item")


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
        return read_record(self.folder / RECORD, Record, "a run")

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return self.record.encoder.name

    @property
    def task(self) -> str:
        """The task's name."""
        return self.record.task.name

    @property
    def head(self) -> str:
        """The head's name."""
        return self.record.head.name

    @property
    def adaptation(self) -> str:
        """Which weights were trained: ``frozen``, ``lora``, ``full`` or ``scratch``."""
        return self.record.config.adaptation

    @property
    def kind(self) -> str:
        """The kind of its task, or ``base-to-novel`` where classes were tried in halves."""
        return self.record.kind

    @property
    def primary(self) -> str:
        """The metric that decides."""
        return self.record.task.metrics[0]

    @property
    def seed(self) -> int:
        """The seed's number."""
        return self.record.config.seed

    @property
    def is_baseline(self) -> bool:
        """True for a baseline, which has not seen the disease."""
        return self.record.config.baseline

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Every metric on test."""
        return self.record.metrics

    def estimate(self, metric: str) -> Estimate:
        """A metric on test; absent where this run was not measured by it."""
        absent = Estimate.absent("not measured by the version that made the run; run it again with --force")
        return self.metrics.get(metric, absent)

    def predictions(self) -> pd.DataFrame:
        """One row per val and test example, with the kind's columns and the declared attributes.

        Raises:
            EvalfmError: there is no such table, or it is not what the record says, or the run is of episodes.
        """
        if self.record.episodes is not None:
            raise EvalfmError(
                f"{self.folder} is of few-shot episodes, which overlap and have no predictions to compare or to look "
                "into; `evalfm report` and `evalfm ls runs` show its figures."
            )
        return read_predictions(self.folder, self.kind, self.record.data)

    def test_predictions(self) -> pd.DataFrame:
        """The rows of ``predictions`` that are of test, numbered from 0."""
        table = self.predictions()
        return table[table["split"] == "test"].reset_index(drop=True)

    def episodes(self) -> pd.DataFrame:
        """Of few-shot episodes one row each: ``episode, shots, macro_auroc``, lists ``support`` and ``query`` of ids.

        The lists go class after class; of a binary task first the images without the finding.

        Raises:
            EvalfmError: there is no such table, or it is damaged.
        """
        return read_episodes(self.folder)

    def head_tensors(self) -> dict[str, Tensor]:
        """What the head learnt.

        Raises:
            EvalfmError: the file is gone or damaged.
        """
        return _tensors(self.folder / HEAD)

    def encoder_tensors(self) -> dict[str, Tensor]:
        """What of the encoder was trained with the head; empty where it was frozen.

        Raises:
            EvalfmError: the file is damaged.
        """
        path = self.folder / ENCODER
        return _tensors(path) if path.is_file() else {}


def _tensors(path: Path) -> dict[str, Tensor]:
    # A finished run is read without torch; only what it learnt needs it.
    import torch
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
        wild = [name for name, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]
    except Exception as error:
        # Whatever a damaged file makes the library raise is a fault of the file.
        lines = str(error).splitlines() or [type(error).__name__]
        raise EvalfmError(f"{path} cannot be read ({lines[0][:200]}); copy the whole run again.") from None
    if wild:
        raise EvalfmError(f"{path} holds what is no finite number ({wild[0][:100]}); copy the whole run again.")
    return tensors


def content_key(content: Mapping[str, Any]) -> str:
    """SHA-256 over ``content`` as canonical JSON, in hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def run_folder(out: Path, encoder: str, task: str, head: str, adaptation: str, key: str) -> Path:
    """Where the run with ``key`` stands under ``out``."""
    return out / _plain(encoder) / _plain(task) / f"{_plain(head)}-{_plain(adaptation)}-{key[:8]}"


def warn(sentence: str) -> None:
    """Say that something was left out, to whoever calls from Python."""
    warnings.warn(sentence, stacklevel=3)


def find_runs(out: str | Path, *, with_predictions: bool = False, say: Callable[[str], None] = warn) -> list[Run]:
    """Every whole run under ``out``, sorted by path; work in progress is never listed.

    Args:
        out: a folder that holds runs, or a run's own.
        with_predictions: look at the predictions, or episodes, of each run too, which whoever compares runs needs.
        say: is given a sentence for each run that is left out because it is damaged; by default a warning.

    Raises:
        EvalfmError: ``out`` is a run's own folder, and the run is damaged.

    >>> find_runs("no-runs-here")
    []
    """

    def read(folder: Path) -> Run:
        run = Run.read(folder)
        if with_predictions:
            run.predictions() if run.record.episodes is None else run.episodes()
        return run

    root = user_path(out, "The folder of runs")
    if (root / RECORD).is_file():
        return [read(root)]
    return whole(folders_with(RECORD, root), read, say)


def whole(folders: Iterable[Path], read: Callable[[Path], Item], say: Callable[[str], None]) -> list[Item]:
    """What ``read`` makes of each folder; of one that is damaged ``say`` is given the reason."""
    items = []
    for folder in folders:
        try:
            items.append(read(folder))
        except EvalfmError as error:
            say(f"Left out: {error}")
    return items


def folders_with(record: str, root: Path) -> list[Path]:
    """Folders from ``root`` down that hold a file called ``record``, sorted; work in progress is left out."""
    folders = []
    for folder, inside, files in os.walk(root):
        # Not entered at all: what another process writes there comes and goes.
        inside[:] = [name for name in inside if name != WORK]
        if record in files:
            folders.append(Path(folder))
    return sorted(folders)


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
) -> None:
    """Write the files of a run into ``folder``, run.json last; ``encoder`` where it was trained.

    Of few-shot episodes ``predictions`` is their table, and nothing that was learnt is kept.
    """
    from safetensors.torch import save

    predictions = predictions.copy(deep=False)
    predictions.attrs = {MARK: _mark(record)}
    predictions.to_parquet(folder / (PREDICTIONS if record.episodes is None else EPISODES), index=False)
    for name, content in ((HEAD, tensors), (ENCODER, encoder)):
        # Written here and not by safetensors, whose errors on a full disk are no OSError.
        if content or (name == HEAD and record.episodes is None):
            plain = {key: value.detach().cpu().contiguous() for key, value in (content or {}).items()}
            (folder / name).write_bytes(save(plain))
    write_record(folder / RECORD, record)


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
