"""Run by test_store_kills.py in a process of its own: kills, company and a full disk, reported as JSON."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from evalfm.data.work_folders import WRITING
from evalfm.errors import EvalfmError
from evalfm.features.feature_arrays import FeatureArrays

ROWS, BATCH, KILLS = 6, 2, 5
NAMES = [f"row {number}" for number in range(ROWS)]
SIZES = [(number, number + 1) for number in range(ROWS)]
SHALLOW = np.random.default_rng(0).random((ROWS, 3, 4, 4), np.float32)
DEEP = np.random.default_rng(1).random((ROWS, 2, 2, 2), np.float32)
SHALLOW[5, 0, 0, 0] = 1e6
"""Of a row that half precision cannot hold."""


def expected(number: int, shift: float = 0.0) -> list[np.ndarray]:
    arrays = [SHALLOW[number] + shift, DEEP[number] + shift]
    return [each if each.max() > 65504 else each.astype(np.float16).astype(np.float32) for each in arrays]


def write(folder: Path, flushed: Callable[[int], None] = lambda count: None, shift: float = 0.0) -> None:
    """Write what is missing, committing after each batch."""
    rows = FeatureArrays(folder, half=True)
    lacking = [NAMES.index(name) for name in rows.missing(NAMES)]
    with rows.writer() as writer:
        for first in range(0, len(lacking), BATCH):
            some = lacking[first : first + BATCH]
            names, sizes = [NAMES[number] for number in some], [SIZES[number] for number in some]
            writer.append(names, sizes, [SHALLOW[some] + shift, DEEP[some] + shift])
            writer.flush()
            flushed(first + len(some))


def stored(folder: Path, shifts: tuple[float, ...] = (0.0,)) -> tuple[int, bool]:
    """How many rows there are for a process that comes anew, and whether each is one that was written."""
    rows = FeatureArrays(folder, half=True)
    absent = set(rows.missing(NAMES))
    right = True
    for number, name in enumerate(NAMES):
        if name not in absent:
            read = [tensor[0].float().numpy() for tensor in rows.read([name])]
            right &= rows.size(name) == SIZES[number]
            right &= any(all(map(np.array_equal, read, expected(number, shift))) for shift in shifts)
    return ROWS - len(absent), right


def in_child(work: Callable[..., None], *arguments: object) -> int:
    process = os.fork()
    if process == 0:
        try:
            # Torch's own pool does not survive a fork; the first thread to ask makes a new one.
            torch.set_num_threads(1)
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return process


def code(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def tap(reach: Callable[[str], None]) -> None:
    """Call ``reach`` before and after everything this process changes on the disk, and in the middle of a write."""

    def tapped(name: str) -> Callable[..., object]:
        call = getattr(os, name)

        def with_tap(*arguments: object, **options: object) -> object:
            reach(f"before {name}")
            result = call(*arguments, **options)
            reach(f"after {name}")
            return result

        return with_tap

    opened = os.open

    def open_(path: object, flags: int, *arguments: int) -> int:
        file = opened(path, flags, *arguments)  # type: ignore[arg-type]
        if flags & os.O_CREAT:
            reach("after open")
        return file

    def pwritev(file: int, views: list[memoryview], position: int) -> int:
        content = b"".join(views)
        half = len(content) // 2
        kind = "index" if content[:7] == b"evalfmS" else "data"
        reach(f"before {kind}")
        for stage, part, place in (("half of", content[:half], 0), ("after", content[half:], half)):
            os.pwrite(file, part, position + place)
            reach(f"{stage} {kind}")
        return len(content)

    for name in ("mkdir", "rename", "unlink", "fsync", "fdatasync", "truncate", "ftruncate"):
        setattr(os, name, tapped(name))
    os.open, os.pwritev = open_, pwritev  # type: ignore[assignment]


def write_and_die(folder: Path, point: int) -> None:
    counter = itertools.count()

    def reach(name: str) -> None:
        if next(counter) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    tap(reach)
    write(folder / "rows")


def write_and_copy(folder: Path, copies: Path) -> None:
    """Write, and copy what is on the disk whenever it changes: what a kill at that point would leave."""
    guard, busy, flushed, counter = threading.RLock(), [False], [0], itertools.count()

    def reach(name: str) -> None:
        with guard:
            if not busy[0]:
                busy[0] = True
                shutil.copytree(folder, copies / f"{next(counter)} {flushed[0]} {name}")
                busy[0] = False

    tap(reach)
    write(folder / "rows", lambda count: flushed.__setitem__(0, count))


def look(here: Path, boundary: str, least: int) -> tuple[int, list[list[str]]]:
    """How many rows there are after a kill, and what is wrong with them or after the others are written."""
    wrong = []
    there, right = stored(here)
    if not right:
        wrong.append([boundary, "other features"])
    if there < least:
        wrong.append([boundary, f"{there} stored, {least} said to be"])
    write(here)
    if stored(here) != (ROWS, True):
        wrong.append([boundary, "other features afterwards"])
    left = sorted(path.suffix if WRITING not in path.name else path.name for path in here.iterdir())
    if left != [".data", ".index", ".lock"]:
        wrong.append([boundary, f"{left} are left"])
    return there, wrong


def kill_everywhere(start: Path, folder: Path) -> dict[str, object]:
    """A writer that starts from a copy of ``start`` and is killed at each point; look, and write the rest."""
    before, _ = stored(start / "rows")
    wrong, resumed, boundaries, ends = [], set(), [], []
    shutil.copytree(start, folder / "written")
    code(in_child(write_and_copy, folder / "written", folder / "copies"))
    copies = sorted((folder / "copies").iterdir(), key=lambda copy: int(copy.name.split()[0]))
    for copy in copies:
        _, flushed, boundary = copy.name.split(" ", 2)
        boundaries.append(boundary)
        there, faults = look(copy / "rows", boundary, before + int(flushed))
        resumed.add(there)
        wrong += faults
    # And killed in earnest, with threads at work and the lock held.
    for point in np.linspace(0, len(copies) - 1, KILLS).astype(int).tolist():
        here = folder / f"killed {point}"
        shutil.copytree(start, here)
        ends.append(code(in_child(write_and_die, here, point)))
        wrong += look(here / "rows", f"killed: {boundaries[point]}", before)[1]
    return {"wrong": wrong, "resumed": sorted(resumed), "boundaries": boundaries, "ends": ends}


def kills(folder: Path) -> dict[str, object]:
    empty, torn = folder / "empty", folder / "torn"
    for name in ("new", "taken"):
        (folder / name / "copies").mkdir(parents=True)
    empty.mkdir()
    answers: dict[str, object] = {"new": kill_everywhere(empty, folder / "new")}
    # A writer that died in the middle of its second block of rows, with data behind what is committed.
    boundaries = answers["new"]["boundaries"]  # type: ignore[index]
    blocks = [point for point, name in enumerate(boundaries) if name == "half of index"]
    torn.mkdir()
    code(in_child(write_and_die, torn, blocks[2]))
    answers["torn"] = stored(torn / "rows")
    answers["taken"] = kill_everywhere(torn, folder / "taken")
    return answers


def company(folder: Path) -> dict[str, object]:
    """Two write the same rows with other values, and one reads beside them."""
    ready, go = os.pipe()

    def work(shift: float) -> None:
        os.close(go)
        os.read(ready, 1)
        write(folder, shift=shift)

    def read() -> None:
        os.close(go)
        os.read(ready, 1)
        warnings.simplefilter("error")
        until = 0
        while until < ROWS:
            there, right = stored(folder, (0.0, 0.25))
            assert right
            assert there >= until
            until = there

    processes = [in_child(work, 0.0), in_child(work, 0.25), in_child(read)]
    os.close(ready)
    os.close(go)
    codes = [code(process) for process in processes]
    segments = len(list(folder.glob("*.index")))
    again = [code(in_child(write, folder)) for _ in range(3)]
    return {
        "codes": codes + again,
        "segments": [segments, len(list(folder.glob("*.index")))],
        "stored": stored(folder, (0.0, 0.25)),
        "temporary": len(list(folder.glob(f"*{WRITING}*"))),
    }


def full(folder: Path) -> list[dict[str, object]]:
    """No file may grow beyond a limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (folder / "reference").mkdir()
    write(folder / "reference")
    sizes = [path.stat().st_size for path in (folder / "reference").iterdir()]
    scenes: list[dict[str, object]] = []
    for limit in (0, 100, min(filter(None, sizes)) - 1, max(sizes) - 1):
        here = folder / str(limit)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            write(here)
            message = ""
        except EvalfmError as error:
            message = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        there, right = stored(here)
        files = len(list(here.iterdir()))
        write(here)
        after = stored(here)
        scenes.append({"message": message, "stored": there, "right": right, "files": files, "after": after})
    return scenes


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    result = {}
    for name, scene in (("kills", kills), ("company", company), ("full", full)):
        (folder / name).mkdir()
        result[name] = scene(folder / name)
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
