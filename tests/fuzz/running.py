"""Run cases of the fuzzer and gather the faults; from the command line as many as asked for.

``python -m tests.fuzz.running --cases 3000 --seed 1 [--target dicom]`` prints every fault with the case that shows it;
``--target T --seed S --case N`` runs that one case again.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = (
    *("manifest", "yaml", "picture", "dicom", "weights", "join", "embeddings", "import", "rle", "where"),
    *("runs", "options", "sources", "files", "applied", "bombs"),
)
WAIT = 120
"""Seconds of the wall clock after which a case that uses no processor time hangs too."""


@dataclass(frozen=True)
class Fault:
    """What one case did that no input may do."""

    target: str
    seed: int
    case: int
    what: str

    def __str__(self) -> str:
        return f"{self.target} --seed {self.seed} --case {self.case}: {self.what}"


class Workers:
    """Processes for cases, forked from one that has loaded all libraries; a context manager."""

    _process: int | None = None

    def __enter__(self) -> Workers:
        root = Path(__file__).resolve().parents[2]
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        # Threads of numerical libraries reserve memory that the case does not use.
        limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        self._errors = tempfile.TemporaryFile()
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=root,
            env={**os.environ, **limits, "PYTHONPATH": path},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._nursery.communicate()
        self._errors.close()

    def fuzz(self, target: str, seed: int, first: int, last: int) -> list[Fault]:
        """Run cases from ``first`` on; a process that dies or hangs is a fault, and the next case starts another."""
        faults = []
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            at = first
            while at < last:
                at, found = self._serve(target, seed, at, last, folder)
                faults += found
        return faults

    def _serve(self, target: str, seed: int, first: int, last: int, folder: str) -> tuple[int, list[Fault]]:
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(json.dumps([target, seed, first, last, folder]).encode() + b"\n")
        self._nursery.stdin.flush()
        self._process, case, faults, status = None, None, [], None
        for told in self._lines():
            self._process = told.get("process", self._process)
            case = told.get("case", case)
            if told.get("fault"):
                faults.append(Fault(target, seed, told["done"], told["fault"]))
            if "ended" in told:
                status = told["ended"]
                break
        if status == 0:
            return last, faults
        if case is None or status is None:
            self._errors.seek(0)
            raise RuntimeError(self._errors.read().decode()[-3000:])
        what = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return case + 1, [*faults, Fault(target, seed, case, what)]

    def _lines(self) -> Iterator[dict[str, Any]]:
        """What is told, until nobody tells any more; a process that says nothing for too long is killed."""
        assert self._nursery.stdout is not None
        rest, last_word = b"", time.monotonic()
        while True:
            if select.select([self._nursery.stdout], [], [], 1)[0]:
                read = os.read(self._nursery.stdout.fileno(), 1 << 16)
                if not read:
                    return
                *lines, rest = (rest + read).split(b"\n")
                last_word = time.monotonic()
                yield from map(json.loads, lines)
            elif time.monotonic() - last_word > WAIT:
                os.kill(self._process or self._nursery.pid, signal.SIGKILL)
                last_word = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="cases of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--case", type=int, help="run this one case again")
    asked = parser.parse_args()
    first, last = (0, asked.cases) if asked.case is None else (asked.case, asked.case + 1)
    total = 0
    for target in asked.target or TARGETS:
        started = time.monotonic()
        with Workers() as workers:
            faults = workers.fuzz(target, asked.seed, first, last)
        total += len(faults)
        seconds = time.monotonic() - started
        sys.stdout.write(f"{target}: {last - first} cases, {len(faults)} faults, {seconds:.0f} s\n")
        for fault in faults:
            sys.stdout.write(f"  {fault}\n")
        sys.stdout.flush()
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
