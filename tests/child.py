"""Run by test_kills.py and test_company.py in a process of its own: whole probes killed, side by side and on a full
disk, told as JSON.

Each probe runs in a fork, so that the libraries are imported once.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from PIL import Image

from evalfm.analysis import run_figures
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.work_folders import WRITING
from evalfm.errors import EvalfmError
from evalfm.predictions import PREDICTIONS
from evalfm.probing import head_group
from evalfm.probing.probe import probe
from evalfm.refits import REFITS
from evalfm.run import HEAD, RECORD, Run, find_runs

RADIOGRAPHS = 24
SIDE = 48
FILES = {RECORD, PREDICTIONS, REFITS, HEAD, "figures/roc.png"}
"""Of the pictures one: the others are written in the same way, and each kill is a whole probe."""
OLD = "The run that was there before."
Scene = Callable[[Path], dict[str, object]]


def make_radiographs(folder: Path) -> Manifest:
    """Radiographs whose positives are a little brighter, so that scores differ and not one is perfect."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    lines = []
    for radiograph in range(RADIOGRAPHS):
        pixels = generator.normal(100 + 6 * (radiograph % 2), 30, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{radiograph}.png")
        split = "train" if radiograph < RADIOGRAPHS // 2 else "val" if radiograph < RADIOGRAPHS * 3 // 4 else "test"
        lines.append(
            {
                "id": f"f{radiograph}",
                "image": f"{radiograph}.png",
                "patient": f"p{radiograph}",
                "split": split,
                "sign": radiograph % 2,
            }
        )
    info = DatasetInfo(name="films", public_ids=True, label_source={"sign": "mask"})
    Manifest(info, pd.DataFrame(lines), folder).write(folder)
    return Manifest.read(folder)


def run_probe(folder: Path, data: Manifest, **options: object) -> None:
    os.environ["EVALFM_HOME"] = str(folder / "home")
    options = {"encoder": "pixels", **options}
    with mock.patch.multiple(run_figures, draw_calibration=mock.DEFAULT, draw_net_benefit=mock.DEFAULT):
        probe(task="sign", data=data, heads=["linear"], baselines="none", out=folder / "out", **options)  # type: ignore[arg-type]


def fork(work: Callable[..., None], *arguments: object, **options: object) -> int:
    process = os.fork()
    if process == 0:
        try:
            # Torch's own pool does not survive a fork; the first thread to ask makes a new one.
            torch.set_num_threads(1)
            work(*arguments, **options)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return process


def finished(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Result:
    """What a run gave, as bytes and plain values; the seconds it took are not part of it."""

    def __init__(self, run: Run) -> None:
        here = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
        self.files = here
        self.old = OLD in map(str, run.record.cautions)
        self.content = (
            (run.folder / PREDICTIONS).read_bytes(),
            (run.folder / REFITS).read_bytes(),
            (run.folder / HEAD).read_bytes(),
            run.record.model_dump_json(include={"metrics", "chosen", "key"}),
        )


def listed(folder: Path) -> list[Result]:
    return [Result(run) for run in find_runs(folder / "out")] if (folder / "out").exists() else []


def left(folder: Path) -> list[str]:
    """Work folders that nobody will finish, in the run directory and in the store."""
    return [path.name for path in folder.rglob(WRITING + "*")]


class Tapped(io.FileIO):
    """A file that tells of every write that reaches the system, before it and in the middle of it."""

    tell_of: Callable[[str], None]

    def write(self, content: bytes) -> int:  # type: ignore[override]
        type(self).tell_of("write")
        half = len(content) // 2
        if half:
            super().write(memoryview(content)[:half])
            type(self).tell_of("half a write")
        return half + super().write(memoryview(content)[half:])


def tap(folder: Path, tell_of: Callable[[str], None]) -> None:
    """Call ``tell_of`` before everything that this process, in whatever thread, changes in the file system."""

    def tapped(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def with_tap(*arguments: object, **options: object) -> object:
            tell_of(name)
            return call(*arguments, **options)

        return with_tap

    changes = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "fdatasync", "pwritev", "truncate", "chmod")
    for name in changes:
        setattr(os, name, tapped(name, getattr(os, name)))
    library = ctypes.CDLL

    def with_exchange(name: str | None, *arguments: object, **options: object) -> object:
        # The C library is opened by its users each time; of evalfm that is who exchanges two folders.
        if name is None:
            tell_of("exchange")
        return library(name, *arguments, **options)  # type: ignore[arg-type]

    ctypes.CDLL = with_exchange  # type: ignore[assignment, misc]
    plain, Tapped.tell_of = io.open, staticmethod(tell_of)

    def opened(file: object, mode: str = "r", buffering: int = -1, *text: object, **options: object) -> object:
        if not set(mode) & set("wax+"):
            return plain(file, mode, buffering, *text, **options)  # type: ignore[call-overload]
        tell_of("open")
        raw = Tapped(file, mode.replace("b", "").replace("t", ""))  # type: ignore[arg-type]
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, **{"encoding": "utf-8"} | options)  # type: ignore[arg-type]

    import builtins

    io.open = builtins.open = opened  # type: ignore[assignment]


def killed_probe(folder: Path, data: Manifest, point: int, phase: Path, **options: object) -> None:
    """Probe, and die at the boundary number ``point``, which is written down beside."""
    seen = 0
    record = os.open(phase, os.O_WRONLY | os.O_CREAT)

    def tell_of(name: str) -> None:
        nonlocal seen
        if seen == point:
            os.write(record, f"{name}".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    if options.pop("in_two_steps", False):
        ctypes.CDLL = lambda *_, **__: None  # type: ignore[assignment, misc]
    tap(folder, tell_of)
    run_probe(folder, data, **options)


def watched_probe(folder: Path, data: Manifest, told: Path, **options: object) -> None:
    """Probe, and list the runs at every boundary; tell how many boundaries there were and what was not whole."""
    names: list[str] = []
    faults: list[str] = []
    busy = False

    def tell_of(name: str) -> None:
        nonlocal busy
        names.append(name)
        if busy:
            return
        busy = True
        try:
            faults.extend(f"{name}: {sorted(result.files)}" for result in listed(folder) if result.files != FILES)
        except EvalfmError as error:
            faults.append(f"{name}: {error}")
        finally:
            busy = False

    tap(folder, tell_of)
    run_probe(folder, data, **options)
    os.write(os.open(told, os.O_WRONLY | os.O_CREAT), json.dumps([names, faults]).encode())


def make_old(folder: Path) -> None:
    """Mark the run as one of before, by a caution and by other predictions."""
    (run,) = find_runs(folder / "out")
    record = json.loads((run.folder / RECORD).read_text())
    record["cautions"].append({"code": "other", "sentence": OLD})
    (run.folder / RECORD).write_text(json.dumps(record))
    (run.folder / PREDICTIONS).write_bytes(b"old")


def kill_everywhere(
    start: Path, folder: Path, data: Manifest, points: list[int], **options: object
) -> dict[str, object]:
    """Kill a probe that starts from a copy of ``start`` at each point, look, and call it again."""
    (reference,) = listed(folder / "undisturbed")
    signals, wrong, phases, states = [], [], {}, set()
    for point in points:
        here = folder / f"{options.get('force', False)}-{point}"
        shutil.copytree(start, here)
        phase = folder / "phase"
        signals.append(-finished(fork(killed_probe, here, data, point, phase, **options)))
        phases[phase.read_text()] = phases.get(phase.read_text(), 0) + 1
        phase.unlink()
        after = listed(here)
        states.add("none" if not after else "old" if after[0].old else "new")
        if any(result.files != FILES for result in after) or len(after) > 1:
            wrong.append([point, "a half run is listed"])
        again = {name: value for name, value in options.items() if name != "in_two_steps"}
        if finished(fork(run_probe, here, data, **again)):
            wrong.append([point, "the next call failed"])
            continue
        after = listed(here)
        if [result.content for result in after] != [reference.content] or after[0].files != FILES:
            wrong.append([point, "another result"])
        if left(here):
            wrong.append([point, f"left: {left(here)}"])
        shutil.rmtree(here)
    return {"signals": signals, "wrong": wrong, "boundaries": phases, "states": sorted(states)}


def kills(folder: Path) -> dict[str, object]:
    data = make_radiographs(folder / "films")
    undisturbed, empty, stored, old = (folder / name for name in ("undisturbed", "empty", "stored", "old"))
    empty.mkdir()
    told: dict[str, object] = {}
    codes = [finished(fork(watched_probe, undisturbed, data, folder / "first"))]
    first, faults = json.loads((folder / "first").read_text())
    # The run directory is written last; with its features stored, a probe writes nothing else.
    shutil.copytree(undisturbed / "home", stored / "home")
    shutil.copytree(undisturbed, old)
    make_old(old)
    shutil.copytree(stored, folder / "run-only")
    codes.append(finished(fork(watched_probe, folder / "run-only", data, folder / "second")))
    of_run, more = json.loads((folder / "second").read_text())
    shutil.copytree(undisturbed, folder / "forced")
    codes.append(finished(fork(watched_probe, folder / "forced", data, folder / "third", force=True)))
    forced, most = json.loads((folder / "third").read_text())
    in_store = len(first) - len(of_run)
    some = np.random.default_rng(0).choice(in_store, min(6, in_store), replace=False).tolist()
    told = {"codes": codes, "half": faults + more + most, "of_run": len(of_run), "of_forced": len(forced)}
    told["store"] = kill_everywhere(empty, folder, data, sorted(some))
    told["run"] = kill_everywhere(stored, folder, data, list(range(len(of_run))))
    published = forced.index("exchange")
    told["force"] = kill_everywhere(
        old, folder, data, [published - 1, published, published + 1, len(forced) - 1], force=True
    )
    steps = [published + step for step in (1, 2, 3)]
    told["in_two_steps"] = kill_everywhere(old, folder, data, steps, force=True, in_two_steps=True)
    return told


def meet(folder: Path, number: int, count: int = 2) -> None:
    """Wait until ``count`` processes are here."""
    (folder / f"here-{number}").write_text("")
    until = time.monotonic() + 60
    while len(list(folder.glob("here-*"))) < count and time.monotonic() < until:
        time.sleep(0.005)


def probe_in_company(folder: Path, data: Manifest, number: int, **options: object) -> None:
    write_run = head_group.write_run

    def write_together(*arguments: object, **named: object) -> None:
        # Both have found no run and are about to publish theirs.
        meet(folder, number)
        write_run(*arguments, **named)  # type: ignore[arg-type]

    head_group.write_run = write_together  # type: ignore[assignment]
    run_probe(folder, data, **options)


def company(folder: Path) -> dict[str, object]:
    data = make_radiographs(folder / "films")
    codes = [finished(fork(run_probe, folder / "alone", data))]
    told: dict[str, object] = {}
    for name, force in (("new", False), ("forced", True)):
        here = folder / name
        if force:
            shutil.copytree(folder / "alone", here)
        else:
            here.mkdir()
        processes = [fork(probe_in_company, here, data, number, force=force) for number in (1, 2)]
        codes += [finished(process) for process in processes]
        alone, together = listed(folder / "alone"), listed(here)
        told[name] = {
            "met": len(list(here.glob("here-*"))),
            "as_alone": [result.content for result in together] == [result.content for result in alone],
            "whole": [result.files == FILES for result in together],
            "left": left(here),
        }
    return told | {"codes": codes}


def limited_probe(folder: Path, data: Manifest, limit: int, told: Path) -> None:
    answer = os.open(told, os.O_WRONLY | os.O_CREAT)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ, so a write beyond the limit fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        run_probe(folder, data)
        message = ""
    except EvalfmError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    os.write(answer, message.encode())


def full(folder: Path) -> dict[str, object]:
    """No file may grow beyond a limit that each file of a run hits in turn; features are stored or not."""
    data = make_radiographs(folder / "films")
    codes = [finished(fork(run_probe, folder / "alone", data))]
    (reference,) = find_runs(folder / "alone" / "out")
    sizes = sorted((reference.folder / name).stat().st_size for name in FILES)
    cases = [("stored", size - 1) for size in sizes] + [("empty", limit) for limit in (0, 600, 3000)]
    scenes = []
    for start, limit in cases:
        here = folder / f"{start}-{limit}"
        here.mkdir()
        if start == "stored":
            shutil.copytree(folder / "alone" / "home", here / "home")
        codes.append(finished(fork(limited_probe, here, data, limit, folder / "message")))
        message = (folder / "message").read_text()
        (folder / "message").unlink()
        scene = {"start": start, "limit": limit, "message": message, "listed": len(listed(here)), "left": left(here)}
        codes.append(finished(fork(run_probe, here, data)))
        scene["after"] = [result.content for result in listed(here)] == [Result(reference).content]
        scenes.append(scene)
    return {"codes": codes, "scenes": scenes}


SCENES: dict[str, Scene] = {"kills": kills, "company": company, "full": full}


if __name__ == "__main__":
    torch.set_num_threads(1)
    scratch = Path(sys.argv[1])
    # Everything that a probe imports is imported before the first fork.
    (scratch / "warm").mkdir()
    run_probe(scratch / "warm", make_radiographs(scratch / "warm" / "films"))
    answers = {}
    for name in sys.argv[2:]:
        (scratch / name).mkdir()
        answers[name] = SCENES[name](scratch / name)
    print(json.dumps(answers))
