"""Import of all 112,120 rows of NIH ChestX-ray14, in seconds.

    python benchmarks/import_nih.py [--rows 112120]

The table and the images are made here: links to a few PNG files of 64 x 64, in the published layout. Nothing is hashed.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from evalfm.data.importing import import_data

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
FINDINGS = ("No Finding", "Pneumothorax", "Cardiomegaly|Effusion", "Infiltration", "Mass|Nodule|Atelectasis")
FOLDER = 10_000


def layout(root: Path, rows: int) -> None:
    """The published layout with ``rows`` radiographs of which many are one file."""
    generator = np.random.default_rng(0)
    sources = []
    for number in range(16):
        sources.append(root / f"source{number}.png")
        Image.fromarray(generator.integers(0, 256, (64, 64), dtype=np.uint8)).save(sources[-1])
    lines = []
    for row in range(rows):
        patient, visit = row // 4, row % 4
        folder = root / f"images_{row // FOLDER + 1:03}/images"
        if row % FOLDER == 0:
            folder.mkdir(parents=True)
        name = f"{patient:08}_{visit:03}.png"
        os.link(sources[row % 16], folder / name)
        lines.append(f"{name},{FINDINGS[row % 5]},{visit},{patient},{20 + row % 60},M,PA,2500,2048,0.143,0.143\n")
    (root / "Data_Entry_2017_v2020.csv").write_text(HEADER + "".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=112_120)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "nih"
        root.mkdir()
        layout(root, options.rows)
        started = time.perf_counter()
        data = import_data("nih-cxr14", root, Path(folder) / "out")
        seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{seconds:.1f} s for {len(data):,} rows ({len(data) / seconds:,.0f} rows/s), {memory:.0f} MB at the peak")


if __name__ == "__main__":
    main()
