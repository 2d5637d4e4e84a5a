"""Seconds and peak memory of `evalfm bias TABLE.csv` with a million rows of some other model's predictions.

python benchmarks/bias_table.py [--rows 1000000] [--by chest_tube]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--by", default="chest_tube")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.csv"
        predictions(options.rows).to_csv(path, index=False)
        command = [sys.executable, "-m", "evalfm", "bias", str(path), "--by", options.by, "--threshold", "0.5"]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{seconds:.0f} s ({used.ru_utime + used.ru_stime:.0f} s of processor time) for {options.rows:,} rows by "
        f"{options.by}, {used.ru_maxrss / 1024:,.0f} MB at the peak"
    )


def predictions(rows: int) -> pd.DataFrame:
    """Two images a patient; tubes go with the label, sex is the patient's."""
    generator = np.random.default_rng(0)
    patient = np.arange(rows) // 2
    y = generator.random(rows) < 0.2
    return pd.DataFrame(
        {
            "patient": patient,
            "target": y.astype(int),
            "score": 1 / (1 + np.exp(-(y + generator.normal(size=rows)))),
            "chest_tube": (generator.random(rows) < 0.1 + 0.4 * y).astype(int),
            "sex": np.where(generator.random(patient[-1] + 1) < 0.5, "F", "M")[patient],
        }
    )


if __name__ == "__main__":
    main()
