"""Extraction by several processes against one, each with one thread, side by side in one run.

    python benchmarks/devices.py [--encoder random:resnet18] [--images 600] [--rounds 3] [--devices cpu,cpu]

Each round measures ``evalfm probe`` of one encoder on one task three times in a store of its own: by one process, by
several, and by several again, when everything is stored. The difference of the last two is what several needed for the
images alone; of one process the same is measured. Prints images a second of both, their ratio (the median of the
rounds), how many images each process encoded, and whether the metrics are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WANTED = 1.3


def run(options: argparse.Namespace, home: Path, out: Path, devices: str) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of the command, and the tables that it printed."""
    words = ["probe", "--encoder", options.encoder, "--task", "ptx-cls", "--head", "linear", "--baselines", "none"]
    words += ["--data", str(home / "phantom"), "--devices", devices, "--workers", "1", "--out", str(out), "--json"]
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "evalfm", *words],
        env=os.environ | threads | {"EVALFM_HOME": str(home / f"home-{devices}")},
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - started, json.loads(done.stdout)


def figures(tables: list[dict[str, Any]]) -> str:
    """The estimates alone: folders and seconds may differ."""
    return json.dumps([[line["metrics"] for line in table["lines"]] for table in tables], sort_keys=True)


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", default="random:resnet18")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", default="cpu,cpu")
    options = parser.parse_args()
    from evalfm.data.phantom import make_phantom

    ratios, equal = [], True
    with tempfile.TemporaryDirectory() as folder:
        make_phantom(Path(folder) / "phantom", n=options.images, size=512)
        for number in range(options.rounds):
            rates, found = [], []
            for devices in ("cpu", options.devices):
                home = Path(folder) / f"round-{number}"
                home.mkdir(exist_ok=True)
                (home / "phantom").exists() or (home / "phantom").symlink_to(Path(folder) / "phantom")
                cold, tables = run(options, home, home / f"runs-{devices}", devices)
                warm, _ = run(options, home, home / f"again-{devices}", devices)
                rates.append(options.images / (cold - warm))
                found.append(figures(tables))
                print(f"round {number + 1}, {devices}: {cold:.1f} s, {warm:.1f} s when stored", flush=True)
            ratios.append(rates[1] / rates[0])
            equal &= found[0] == found[1]
            print(f"round {number + 1}: {rates[0]:.1f} and {rates[1]:.1f} images/s, ratio {ratios[-1]:.2f}", flush=True)
    print(f"ratio {statistics.median(ratios):.2f} (wanted {WANTED}); metrics {'equal' if equal else 'DIFFER'}")


if __name__ == "__main__":
    main()
