"""The feature store beside a plain file on the same disk: bytes a second written with fsync, read, and a million rows.

    python benchmarks/store.py [--folder FOLDER] [--gigabytes 2] [--rows 1000000] [--repeats 3]

Writes map rows of 10.5 MB (half precision) and pooled rows of 3 kB, each beside a plain write and fsync of the same
bytes in turn, then reads the maps back from the page cache, the first time with checksums, beside a plain sequential
read. Prints medians and their ratios (wanted: .8 of the plain rates). Then opens an index of a million rows and asks
for all of them (wanted: seconds, and below 400 MB).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from evalfm.features.feature_arrays import FeatureArrays

MAP, MAP_BATCH = (768, 83, 83), 16
POOLED, POOLED_BATCH = 768, 256


def names(count: int) -> list[str]:
    """Addresses like digests."""
    digits = np.random.default_rng(0).bytes(32 * count).hex()
    return [digits[first : first + 64] for first in range(0, len(digits), 64)]


def seconds(work: Callable[[], object]) -> float:
    os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def plain_write(path: Path, batch: np.ndarray, batches: int) -> None:
    """What the disk can do: the same bytes, one fsync."""
    with path.open("wb", buffering=0) as file:
        for _ in range(batches):
            file.write(batch.data)
        os.fsync(file.fileno())


def plain_read(path: Path, batch: torch.Tensor, batches: int) -> None:
    """What memory can do: into one buffer, again and again."""
    view = batch.numpy().reshape(-1).view(np.uint8).data
    with path.open("rb", buffering=0) as file:
        for _ in range(batches):
            file.readinto(view)


def store_write(rows: FeatureArrays, addresses: list[str], batch: np.ndarray, batches: int) -> None:
    count = len(batch)
    with rows.writer() as writer:
        for number in range(batches):
            writer.append(addresses[number * count : (number + 1) * count], [(512, 512)] * count, [batch])


def store_read(rows: FeatureArrays, addresses: list[str], batch: torch.Tensor, batches: int) -> None:
    count = len(batch)
    for number in range(batches):
        rows.read(addresses[number * count : (number + 1) * count], (batch,))


def rates(folder: Path, kind: str, gigabytes: float, repeats: int) -> None:
    generator = np.random.default_rng(0)
    if kind == "maps":
        batch = generator.random((MAP_BATCH, *MAP), np.float32).astype(np.float16)
    else:
        batch = generator.random((POOLED_BATCH, POOLED), np.float32)
    batches = max(2, int(gigabytes * 1e9 / batch.nbytes))
    addresses = names(batches * len(batch))
    buffer = torch.from_numpy(np.empty_like(batch))
    runs = [once(folder / str(number), batch, buffer, batches, addresses) for number in range(repeats)]
    rate = {name: batches * batch.nbytes / statistics.median(run[name] for run in runs) / 1e6 for name in runs[0]}
    for what, plain in (("write", "plain write"), ("read", "plain read"), ("checked read", "plain read")):
        ratio = rate[what] / rate[plain]
        print(f"{kind}: {what} {ratio:.2f} of a {plain} ({rate[what]:,.0f} against {rate[plain]:,.0f} MB/s)")


def once(folder: Path, batch: np.ndarray, buffer: torch.Tensor, batches: int, addresses: list[str]) -> dict[str, float]:
    """Seconds of each way, in turn."""
    folder.mkdir()
    plain, place = folder / "plain", folder / "rows"
    own, other = FeatureArrays(place), FeatureArrays(place)
    taken = {
        "plain write": seconds(lambda: plain_write(plain, batch, batches)),
        "write": seconds(lambda: store_write(own, addresses, batch, batches)),
    }
    other.missing(addresses)
    plain_read(plain, buffer, batches)  # into the page cache
    taken["plain read"] = seconds(lambda: plain_read(plain, buffer, batches))
    taken["checked read"] = seconds(lambda: store_read(other, addresses, buffer, batches))
    taken["read"] = seconds(lambda: store_read(other, addresses, buffer, batches))
    shutil.rmtree(folder)
    return taken


OPEN = r"""
import sys, time
from pathlib import Path
import re
from evalfm.features.feature_arrays import FeatureArrays
from benchmarks.store import names
addresses = names(int(sys.argv[2]))
peak = lambda: int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1e3
before, started, processor = peak(), time.perf_counter(), time.process_time()
rows = FeatureArrays(Path(sys.argv[1]))
assert rows.missing(addresses) == []
opened = time.perf_counter()
assert rows.missing(addresses) == []
again = time.perf_counter()
rows.missing(addresses[:256])
print(f"{len(addresses):,} rows: {opened - started:.2f} s to open and ask for all, {again - opened:.2f} s again, "
      f"{1e3 * (time.perf_counter() - again):.2f} ms for 256, {peak() - before:,.0f} MB more at the peak, "
      f"{time.process_time() - processor:.2f} CPU-seconds")
"""


def million(folder: Path, count: int) -> None:
    addresses = names(count)
    batch = np.zeros((POOLED_BATCH, 4), np.float32)
    rows = FeatureArrays(folder / "many")
    started = time.perf_counter()
    with rows.writer() as writer:
        for first in range(0, count, POOLED_BATCH):
            some = addresses[first : first + POOLED_BATCH]
            writer.append(some, [(512, 512)] * len(some), [batch[: len(some)]])
    print(f"{count:,} rows: appended in {time.perf_counter() - started:.1f} s")
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", OPEN, str(folder / "many"), str(count)], cwd=root, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk that is meant; temporary by default")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for kind in ("maps", "pooled"):
            rates(Path(folder), kind, options.gigabytes, options.repeats)
        if options.rows:
            million(Path(folder), options.rows)


if __name__ == "__main__":
    main()
