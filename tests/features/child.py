"""Run by test_store_kills.py in a process of its own: kills, company and a full disk, told as JSON."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from conftest import CountingEncoder, Radiographs

from evalfm.data.work_folders import WRITING
from evalfm.errors import EvalfmError
from evalfm.features import extraction
from evalfm.features.chunks import Chunk
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore

IMAGES = 8
ROWS = list(range(IMAGES))
BOUNDARIES = {"mkdir", "open", "write", "flush", "fsync", "rename"}


def source(folder: Path) -> EncodedSource:
    return EncodedSource(CountingEncoder(), Radiographs(ROWS), FeatureStore(folder), maps="store", batch_size=2)


def chunks(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/*/*/*/index.json") if WRITING not in str(path))


def temporary(folder: Path) -> list[Path]:
    return list(folder.rglob(WRITING + "*"))


def die_at(point: int) -> None:
    """Kill this process after the call number ``point`` that writes, in whatever thread."""
    counter = itertools.count()

    def hook(frame: object, event: str, called: object) -> None:
        if event != "c_return" or getattr(called, "__name__", "") not in BOUNDARIES:
            return
        caller = frame.f_code.co_filename  # type: ignore[attr-defined]
        if (caller.endswith(("chunks.py", "work_folders.py")) or "pathlib" in caller) and next(counter) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(hook)
    sys.setprofile(hook)


def in_child(work: object, *arguments: object) -> int:
    process = os.fork()
    if process == 0:
        try:
            # Torch's own pool does not survive a fork; the first thread to ask makes a new one.
            torch.set_num_threads(1)
            work(*arguments)  # type: ignore[operator]
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return process


def extract_and_die(folder: Path, point: int) -> None:
    opened = source(folder)
    die_at(point)
    opened.features(ROWS, maps=True)


def same(one: object, other: object) -> bool:
    pairs = zip((one.pooled, *one.maps), (other.pooled, *other.maps), strict=True)  # type: ignore[attr-defined]
    return all(torch.equal(left, right) for left, right in pairs)


def kills(folder: Path) -> dict[str, object]:
    undisturbed = source(folder / "undisturbed").features(ROWS, maps=True)
    signals, wrong, resumed = [], [], set()
    for point in itertools.count():
        here = folder / str(point)
        _, status = os.waitpid(in_child(extract_and_die, here, point), 0)
        if not os.WIFSIGNALED(status):
            return {
                "signals": signals,
                "wrong": wrong,
                "resumed": sorted(resumed),
                "end": os.waitstatus_to_exitcode(status),
            }
        signals.append(os.WTERMSIG(status))
        listed = [Chunk.read(path) for path in chunks(here)]
        for chunk in listed:
            chunk.open()
        stored = sum(len(chunk.addresses) for chunk in listed if chunk.folder.parent.name == "maps")
        again = source(here)
        if not same(again.features(ROWS, maps=True), undisturbed):
            wrong.append([point, "other features"])
        if again.encoded_images != IMAGES - stored:
            # The maps are published before the pooled: a kill in between costs the pooled once more.
            pooled = sum(len(chunk.addresses) for chunk in listed if chunk.folder.parent.name == "pooled")
            if again.encoded_images != IMAGES - pooled:
                wrong.append([point, f"{again.encoded_images} encoded, {stored} stored"])
        if temporary(here):
            wrong.append([point, "temporary folders are left"])
        resumed.add(stored)
    raise AssertionError


def company(folder: Path) -> dict[str, object]:
    start = time.time() + 0.3

    def work(number: int) -> None:
        opened = source(folder / "shared")
        opened.encoder.seconds = 0.02
        time.sleep(max(0.0, start - time.time()))
        features = opened.features(ROWS, maps=True)
        torch.save([features.pooled, *features.maps, opened.encoded_images], folder / f"{number}.pt")

    processes = [in_child(work, number) for number in (1, 2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    one, two = (torch.load(folder / f"{number}.pt") for number in (1, 2))
    alone = source(folder / "alone").features(ROWS, maps=True)
    return {
        "codes": codes,
        "equal": all(torch.equal(a, b) for a, b in zip(one[:-1], two[:-1], strict=True)),
        "as_alone": all(torch.equal(a, b) for a, b in zip(one[:-1], [alone.pooled, *alone.maps], strict=True)),
        "encoded": [one[-1], two[-1]],
        "same_files": [path.name for path in chunks(folder / "shared")]
        == [path.name for path in chunks(folder / "alone")],
        "temporary": len(temporary(folder / "shared")),
    }


def full(folder: Path) -> dict[str, object]:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    opened = source(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        opened.features(ROWS, maps=True)
        message = ""
    except EvalfmError as error:
        message = str(error)
    left = len(temporary(folder))
    listed = len(chunks(folder))
    pooled = opened.features(ROWS).pooled
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    reference = source(folder.with_name("reference")).features(ROWS, maps=True)
    return {
        "message": message,
        "temporary": left,
        "listed": listed,
        "pooled": torch.equal(pooled, reference.pooled),
        "after": same(opened.features(ROWS, maps=True), reference),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    extraction.CHUNK_ROWS = 4
    result = {}
    for name, scene in (("kills", kills), ("company", company), ("full", full)):
        (folder / name).mkdir()
        result[name] = scene(folder / name)
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
