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
from dataclasses import dataclass
from pathlib import Path

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


def fuzz(target: str, seed: int, first: int, last: int) -> list[Fault]:
    """Run cases ``first`` to ``last``; a process that dies or hangs is a fault, and the next case starts another."""
    faults = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        at = first
        while at < last:
            at, found = _serve(target, seed, at, last, folder)
            faults += found
    return faults


def _serve(target: str, seed: int, first: int, last: int, folder: str) -> tuple[int, list[Fault]]:
    words = [sys.executable, "-m", "tests.fuzz.worker", target, str(seed), str(first), str(last), folder]
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    # Threads of numerical libraries reserve memory that the case does not use.
    limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    environment = {**os.environ, **limits, "PYTHONPATH": path}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, cwd=root, env=environment)
        assert process.stdout is not None
        case, faults, rest, last_word = None, [], b"", time.monotonic()
        while True:
            ready, _, _ = select.select([process.stdout], [], [], 1)
            if ready:
                read = os.read(process.stdout.fileno(), 1 << 16)
                if not read:
                    break
                *lines, rest = (rest + read).split(b"\n")
                for told in map(json.loads, lines):
                    last_word = time.monotonic()
                    case = told.get("case")
                    if told.get("fault"):
                        faults.append(Fault(target, seed, told["done"], told["fault"]))
                    first = told["done"] + 1 if "done" in told else first
            elif time.monotonic() - last_word > WAIT:
                process.kill()
        status = process.wait()
        if status == 0:
            return last, faults
        if case is None:
            errors.seek(0)
            raise RuntimeError(errors.read().decode()[-3000:])
    what = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return case + 1, [*faults, Fault(target, seed, case, what)]


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
        faults = fuzz(target, asked.seed, first, last)
        total += len(faults)
        seconds = time.monotonic() - started
        sys.stdout.write(f"{target}: {last - first} cases, {len(faults)} faults, {seconds:.0f} s\n")
        for fault in faults:
            sys.stdout.write(f"  {fault}\n")
        sys.stdout.flush()
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
