"""Names that a caller gives, looked up before data are read and before anything heavy is imported."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evalfm.data.phantom import BUILT_IN
from evalfm.data.phantom import LABELS as PHANTOM_LABELS
from evalfm.data.registered import registered
from evalfm.encoders.reference import EncoderLike, EncoderRef, find_alias
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.heads.registry import find_head
from evalfm.tasks.task import TaskCard, label_columns, load_task, task_names
from evalfm.training.recipe import recipe_of

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest
Result = TypeVar("Result")

RUN_FILE = "run.json"


def check_names(*given: Any, **named: Any) -> None:
    """Raise the faults of ``name_faults``, which has the same arguments.

    Raises:
        UnknownNameError: one name is unknown.
        EvalfmError: several are, or something else is wrong; the message lists all.
    """
    raise_all(name_faults(*given, **named))


def name_faults(
    encoders: Iterable[EncoderLike] = (),
    tasks: Iterable[str] = (),
    heads: Iterable[str] = (),
    data: Iterable[str | Path | Manifest | None] = (),
    *,
    adaptation: str | None = None,
    recipe: Mapping[str, object] | None = None,
    aliases: bool = False,
    before: Iterable[EvalfmError] = (),
) -> list[EvalfmError]:
    """Look up every name; torch is imported only for encoders that timm or a plug-in knows.

    Args:
        encoders: as ``probe`` takes them. heads: each must serve the kind of every task that has a card.
        tasks: cards, or label columns of the first of ``data``.
        data: the data set, and the separate test data if any; a manifest and None are taken as they are.
        adaptation: the adaptation, whose ``recipe`` is checked where it is given.
        aliases: whether words for whole supervised baselines are encoders too.
        before: faults that are known already; the others come behind them.
    """
    faults = list(before)
    encoders, data = list(encoders), list(data)
    cards = [_checked(faults, check_task, name, data[0] if data else None) for name in tasks]
    kinds: list[str | None] = [*sorted({card.kind for card in cards if card is not None})]
    for head in heads:
        for kind in kinds or [None]:
            _checked(faults, find_head, head, kind)
    for each in data:
        _checked(faults, check_data, each)
    baselines = [find_alias(each) if aliases else None for each in encoders]
    if recipe is not None:
        for alias in baselines:
            _checked(faults, recipe_of, adaptation or (alias.adaptation if alias is not None else "frozen"), recipe)
    names = [each if alias is None else alias.encoder for each, alias in zip(encoders, baselines, strict=True)]
    refs = [ref for name in names if (ref := _checked(faults, EncoderRef.parse, name)) is not None]
    for ref in refs:
        if not ref.is_slow:
            _checked(faults, ref.check)
    if not faults:
        for ref in refs:
            if ref.is_slow:
                _checked(faults, ref.check)
    return faults


def _checked(faults: list[EvalfmError], check: Callable[..., Result], *given: Any) -> Result | None:
    """What ``check`` gives, or None where it refuses, which is added to ``faults``."""
    try:
        return check(*given)
    except EvalfmError as error:
        faults.append(error)
        return None


def raise_all(faults: Sequence[EvalfmError]) -> None:
    """Raise what went wrong: one error as it is, several as one that lists each once.

    Raises:
        EvalfmError: there are any.
    """
    sentences = list(dict.fromkeys(map(str, faults)))
    if len(sentences) == 1:
        raise faults[0]
    if sentences:
        raise EvalfmError(
            "\n".join([f"{len(sentences)} names or settings cannot be used:", *(f"  {each}" for each in sentences)])
        )


def check_task(name: str, data: str | Path | Manifest | None = None) -> TaskCard | None:
    """The card called ``name``; None where it is a label column of ``data``, or may be one.

    Raises:
        UnknownNameError: it is neither, as far as the header of the table shows.

    >>> check_task("ptx-cls").kind
    'binary'
    """
    if name in task_names() or name.endswith((".yaml", ".yml")):
        return load_task(name)
    known = _labels_of(name if data is None and name in registered() else data)
    if known is not None and name not in known:
        raise UnknownNameError("task or label column", name, [*task_names(), *known])
    return None


def check_data(data: str | Path | Manifest | None) -> None:
    """Refuse a data set that is not there.

    Raises:
        EvalfmError: there is no such folder, table or registered name.
    """
    if isinstance(data, str | Path) and not _is_phantom(data):
        from evalfm.data.manifest import find_folder

        folder = find_folder(data)
        if not os.path.exists(folder):
            raise EvalfmError(f"There is no folder or manifest {folder}; check the path.")


def check_run(folder: Path) -> None:
    """Refuse a folder that holds no run, before anything is imported that reads one.

    Raises:
        EvalfmError: there is no run.json.
    """
    if not os.path.isfile(folder / RUN_FILE):
        raise EvalfmError(f"{folder} is no run: it has no {RUN_FILE}; `evalfm ls runs` lists those under runs/.")


def is_encoder_path(text: str) -> bool:
    """Whether a text with commas is one encoder: its card, code or embeddings are there."""
    try:
        path = EncoderRef.parse(text).path
    except EvalfmError:
        return False
    return path is not None and os.path.exists(path)


def is_task(text: str, data: str | Path | Manifest | None = None) -> bool:
    """Whether a text with commas is one task: the path of a card, or a column of ``data``.

    >>> is_task("pneumothorax")
    True
    """
    return os.path.exists(text) or text in (_labels_of(data) or ())


def _is_phantom(data: object) -> bool:
    return data is None or (isinstance(data, str) and data in BUILT_IN and data not in registered())


def _labels_of(data: str | Path | Manifest | None) -> list[str] | None:
    """Label columns of a data set by the header of its table alone; None where it cannot be read."""
    if _is_phantom(data):
        return list(PHANTOM_LABELS)
    if not isinstance(data, str | Path):
        return None if data is None else label_columns(data.table.columns)
    from evalfm.data.manifest import CSV_FILE, PARQUET_FILE, find_folder

    try:
        place = find_folder(data)
        tables = [place] if os.path.isfile(place) else [place / PARQUET_FILE, place / CSV_FILE]
        (table,) = [each for each in tables if os.path.isfile(each)]
        if table.suffix.lower() in (".parquet", ".pq"):
            from pyarrow.parquet import read_schema

            return label_columns(read_schema(table).names)
        if table.suffix.lower() == ".csv":
            with table.open(encoding="utf-8-sig", newline="") as stream:
                return label_columns(name.strip() for name in next(csv.reader(stream)))
    except (EvalfmError, OSError, ValueError, StopIteration, csv.Error):
        # What is wrong with the table is said where it is read whole.
        return None
    return None
