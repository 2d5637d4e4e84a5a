"""`evalfm data check` against decoding the same images in two bare processes: the share of their rate that it reaches.

    python benchmarks/check.py [--images 10000] [--side 512]

Images are phantom-like noise as PNG; each is read once by loop and once by the check, which also hashes it and looks
at its pixels. Peak memory is printed for the whole set and for a tenth of it.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.report import check


def radiographs(root: Path, count: int, side: int) -> Manifest:
    """``count`` smooth radiographs that no two are alike."""
    generator = np.random.default_rng(0)
    base = np.asarray(Image.fromarray(generator.integers(0, 256, (16, 16), dtype=np.uint8)).resize((side, side), 2))
    names = []
    for number in range(count):
        radiograph = np.roll(base, (number % side, number // side), (0, 1)) // 2
        radiograph[0, :4] = number % 256, number // 256, 255, 0
        names.append(f"{number}.png")
        Image.fromarray(radiograph).save(root / names[-1], compress_level=1)
    table = pd.DataFrame({"id": names, "image": names})
    return Manifest(DatasetInfo(name="noise", public_ids=True), table, root)


def decode(path: str) -> float:
    """What a bare loop does with a radiograph."""
    return float(np.asarray(Image.open(path)).astype(np.float32).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = radiographs(root, options.images, options.side)
        paths = [str(root / name) for name in data.table["image"]]
        with ProcessPoolExecutor(2) as pool:
            list(pool.map(decode, paths[:100]))
            started = time.perf_counter()
            list(pool.map(decode, paths, chunksize=64))
            bare = time.perf_counter() - started
        check(data.select(range(len(data) // 10)))
        few = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        report = check(data)
        ours = time.perf_counter() - started
        many = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert report.passed, report.faults[:3]
    print(
        f"{bare / ours:.2f} of the bare rate ({options.images / ours:,.0f} against "
        f"{options.images / bare:,.0f} images/s); memory {many:.0f} MB, of a tenth {few:.0f} MB"
    )


if __name__ == "__main__":
    main()
