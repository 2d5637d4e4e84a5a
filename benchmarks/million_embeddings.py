"""A linear probe on stored embeddings, from 10,000 images to a million: seconds and memory of every stage.

    python benchmarks/million_embeddings.py [--rows 10000 100000 1000000] [--limit-gb 16] [--folder build/embeddings]

The data are synthetic: embeddings [N, 768] with a falling spectrum, of patients with three images each, a yes-or-no
label drawn from a logistic model of them, and for every image a file of a few pixels. For each size `evalfm probe` with
`--encoder precomputed:FILE`, the linear head with its 24 C, no baselines, and intervals of 2,000 resamples runs in a
process of its own. Prints per stage the seconds by the clock and those of all cores, the peak of memory, and the
exponent by which the seconds of all cores grow between the two largest sizes: 1 is linear. Beside the AUROC of the
probe stands that of the model that the labels were drawn from.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IMAGES_A_PATIENT = 3
FILES_A_FOLDER = 1000
CHUNK = 50_000
LIMIT_GB = 16


def small_png(number: int) -> bytes:
    """A grey image of 4 × 1 pixels that no other number gives."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 4, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">I", number))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels) + part(b"IEND", b"")


def make(folder: Path, rows: int, dimension: int) -> None:
    """Write manifest, images and embeddings of ``rows`` images."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from evalfm.statistics.auroc import auroc

    draw = np.random.default_rng(0)
    number = np.arange(rows)
    names = [f"image-{each:08d}" for each in number]
    places = [f"images/{each // FILES_A_FOLDER:04d}/{each:08d}.png" for each in number]
    os.makedirs(folder)
    for each in number.tolist():
        path = os.path.join(folder, places[each])
        if each % FILES_A_FOLDER == 0:
            os.makedirs(os.path.dirname(path))
        with open(path, "wb") as stream:
            stream.write(small_png(each))
    basis = np.linalg.qr(draw.normal(size=(dimension, dimension)))[0]
    spread = (np.arange(1, dimension + 1) ** -0.5)[:, None] * basis
    direction = draw.normal(size=dimension)
    direction *= 2 / np.linalg.norm(spread @ direction)
    schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32()))])
    margin = np.empty(rows)
    with pq.ParquetWriter(folder / "embeddings.parquet", schema, use_dictionary=["id"]) as writer:
        for start in range(0, rows, CHUNK):
            stop = min(start + CHUNK, rows)
            # Half of the variance is the patient's, half the image's. A chunk may divide a patient: then of one part.
            patient = number[start:stop] // IMAGES_A_PATIENT
            shared = draw.normal(size=(patient[-1] - patient[0] + 1, dimension))[patient - patient[0]]
            values = ((shared + draw.normal(size=(stop - start, dimension))) / math.sqrt(2)) @ spread
            margin[start:stop] = values @ direction
            offsets = np.arange(0, (stop - start + 1) * dimension, dimension, dtype=np.int32)
            lists = pa.ListArray.from_arrays(offsets, values.astype(np.float32).ravel())
            writer.write_table(pa.table([pa.array(names[start:stop]), lists], schema=schema))
    label = (draw.random(rows) < 1 / (1 + np.exp(1.5 - margin))).astype(float)
    patient = number // IMAGES_A_PATIENT
    split = np.array(["train"] * 7 + ["val"] + ["test"] * 2)[patient % 10]
    table = pd.DataFrame(
        {
            "id": names,
            "image": places,
            "patient": [f"patient-{each:07d}" for each in patient],
            "split": split,
            "age": 20.0 + patient % 70,
            "sex": np.array(["F", "M"])[patient % 2],
            "finding": label,
        }
    )
    table.to_parquet(folder / "manifest.parquet", index=False)
    (folder / "dataset.yaml").write_text(
        "schema: 1\nname: made-up-embeddings\nsynthetic: true\npublic_ids: true\n"
        "label_source: {finding: simulated}\nattributes: [age, sex]\n",
        encoding="utf-8",
    )
    tested = split == "test"
    facts = {"auroc": auroc(label[tested], margin[tested]), "positive": float(label.mean())}
    (folder / "truth.json").write_text(json.dumps(facts), encoding="utf-8")


def peak_gb() -> float:
    """The most memory that this process has held since the last reset, in GB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return 0.0


def reset_peak() -> None:
    """Begin to count anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class Stages:
    """Seconds by the clock and of all cores, and the peak of memory in GB, by the name of the stage.

    A stage within another is taken from it.
    """

    def __init__(self) -> None:
        self.measured: dict[str, list[float]] = {}
        self._open = ["others"]
        self._since = (time.perf_counter(), time.process_time())
        reset_peak()

    def _close(self) -> None:
        clock, cores = time.perf_counter(), time.process_time()
        of_stage = self.measured.setdefault(self._open[-1], [0.0, 0.0, 0.0])
        of_stage[0] += clock - self._since[0]
        of_stage[1] += cores - self._since[1]
        of_stage[2] = max(of_stage[2], peak_gb())
        self._since = (clock, cores)
        reset_peak()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is done inside belongs to ``name``."""
        self._close()
        self._open.append(name)
        try:
            yield
        finally:
            self._close()
            said = self.measured[self._open.pop()]
            print(f"{name}: {said[0]:.1f} s, {said[1]:.1f} s of cores, {said[2]:.2f} GB", file=sys.stderr, flush=True)

    def wrap(self, place: Any, function: str, name: str) -> None:
        """Let ``place.function`` be a stage."""
        inner: Callable[..., Any] = getattr(place, function)

        def timed(*given: Any, **named: Any) -> Any:
            with self.stage(name):
                return inner(*given, **named)

        setattr(place, function, timed)

    def end(self) -> dict[str, list[float]]:
        """All stages."""
        self._close()
        return self.measured


def probed(folder: Path, limit_gb: float) -> dict[str, Any]:
    """The probe of the data in ``folder``, stage by stage, with its AUROC and the peak of memory."""
    if limit_gb:
        # Of what the process writes to, in memory of its own; files that are mapped do not count.
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 2**30),) * 2)
    began = time.perf_counter()
    stages = Stages()
    with stages.stage("import"):
        from evalfm.heads.linear import LinearHead
        from evalfm.probing import fitting, head_group, labelled, measure, pictures, recording
        from evalfm.probing import probe as probing

    stages.wrap(measure, "load_cohort", "manifest and checks")
    stages.wrap(measure, "make_splits", "split")
    stages.wrap(labelled, "data_key", "keys of data and facts")
    stages.wrap(labelled, "facts_key", "keys of data and facts")
    stages.wrap(measure, "open_session", "embeddings read and joined")
    stages.wrap(LinearHead, "fit", "24 C fitted, one chosen")
    stages.wrap(fitting, "_score", "scores, threshold, temperature")
    stages.wrap(head_group, "predictions_table", "predictions and record")
    stages.wrap(head_group, "make_record", "predictions and record")
    stages.wrap(recording, "compute_metrics", "metrics with intervals")
    stages.wrap(head_group, "write_run", "run written")
    stages.wrap(pictures, "draw_pictures", "picture")
    (run,) = probing.probe(
        f"precomputed:{folder / 'embeddings.parquet'}",
        "finding",
        data=folder,
        heads="linear",
        baselines="none",
        out=folder / "runs",
    )
    measured = stages.end()
    auroc = run.metrics["auroc"]
    return {
        "stages": measured,
        "seconds": time.perf_counter() - began,
        "cores": time.process_time(),
        "peak_gb": max(peak for _, _, peak in measured.values()),
        "auroc": [auroc.value, auroc.low, auroc.high],
        "chosen": run.record.chosen.head["C"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--folder", type=Path, default=Path("build/embeddings"))
    parser.add_argument("--limit-gb", type=float, default=LIMIT_GB, help="memory that a probe may ask for; 0: any")
    parser.add_argument("--keep", action="store_true", help="leave the data and use what is there")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(probed(options.child, options.limit_gb)))
        return
    by_rows = {}
    for rows in sorted(options.rows):
        folder = options.folder.resolve() / f"{rows}x{options.dimension}"
        if not options.keep or not (folder / "truth.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder, rows, options.dimension)
        for used in ("home", "runs"):
            shutil.rmtree(folder / used, ignore_errors=True)
        command = [sys.executable, __file__, "--child", str(folder), "--limit-gb", str(options.limit_gb)]
        environment = {**os.environ, "EVALFM_HOME": str(folder / "home")}
        said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        by_rows[rows] = {**json.loads(said), "truth": truth["auroc"]}
        if not options.keep:
            shutil.rmtree(folder)
    print_curves(by_rows, options.limit_gb)


def print_curves(by_rows: dict[int, dict[str, Any]], limit_gb: float) -> None:
    """Print a line a stage: by the clock / of all cores, peak; with the exponent between the two largest sizes."""
    sizes = list(by_rows)
    print("| stage | " + " | ".join(f"{rows:,} images" for rows in sizes) + " | exponent |")
    print("|---" * (len(sizes) + 2) + "|")
    whole = {rows: [of["seconds"], of["cores"], of["peak_gb"]] for rows, of in by_rows.items()}
    for stage in [*by_rows[sizes[-1]]["stages"], "all"]:
        each = [whole[rows] if stage == "all" else by_rows[rows]["stages"][stage] for rows in sizes]
        cells = " | ".join(f"{clock:.1f} s / {cores:.1f} s, {peak:.2f} GB" for clock, cores, peak in each)
        power = "–"
        if len(sizes) > 1 and each[-2][1] > 0.05:
            power = f"{math.log(each[-1][1] / each[-2][1]) / math.log(sizes[-1] / sizes[-2]):.2f}"
        print(f"| {stage} | {cells} | {power} |")
    for rows, of in by_rows.items():
        value, low, high = of["auroc"]
        print(
            f"{rows:,}: AUROC {value:.5f} ({low:.5f} to {high:.5f}), of the model behind the labels {of['truth']:.5f}; "
            f"C {of['chosen']}; at most {of['peak_gb']:.2f} of {limit_gb:g} GB"
        )


if __name__ == "__main__":
    main()
