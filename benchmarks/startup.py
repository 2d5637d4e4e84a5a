"""Seconds until the help and the list of encoders stand on the screen, the best of five, beside a bare interpreter.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time


def seconds(*command: str) -> float:
    """The best of five calls."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    bare = seconds("-c", "pass")
    for words in (["--help"], ["ls", "encoders"]):
        took = seconds("-m", "evalfm", *words)
        print(f"{took / bare:.1f} (evalfm {' '.join(words)} {took:.2f} s, bare interpreter {bare:.2f} s)")


if __name__ == "__main__":
    main()
