"""`evalfm benchmark` of a really trained encoder over two real data sets: how long it takes, and what it says.

    python benchmarks/acceptance/benchmark_real.py --shared ../shared/data --out build/acceptance

Writes benchmarks/acceptance/benchmark_real.md: command, commit, time, and the table that the command ends with. The
card of DINOv2 ViT-S/14 is that of real_encoders.py; the page lies in OUT/benchmark/report.html.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from pathlib import Path

from real_encoders import FILES, encoders

from evalfm.data.importing import import_data

TABLE = Path(__file__).with_suffix(".md")
SETS = {"nih-cxr14": "nih-cxr14-starter", "wingspan-ctr": "wingspan-ctr"}
ENCODER = "dinov2-small"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/acceptance"))
    options = parser.parse_args()
    data = []
    for source, folder in SETS.items():
        place = options.out / source
        if not (place / "dataset.yaml").is_file():
            import_data(source, options.shared / folder, place)
        data += ["--data", str(place)]
    card, out = encoders(options.out / "cards")[ENCODER], options.out / "benchmark"
    weights = options.shared / "weights" / FILES[ENCODER]
    call = ["evalfm", "benchmark", card, "--weights", str(weights), *data, "--out", str(out)]
    started = time.monotonic()
    done = subprocess.run(["python", "-m", *call], check=False)
    seconds = time.monotonic() - started
    found = json.loads((out / "benchmark.json").read_text(encoding="utf-8"))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    TABLE.write_text(_page(found, seconds, done.returncode, commit, out / found["page"]), encoding="utf-8")


def _page(found: dict, seconds: float, status: int, commit: str, page: Path) -> str:
    said = f"{found['runs']} runs in {seconds / 60:.0f} minutes on {platform.machine()}, {_cores()} cores shared with"
    lines = [
        "# A benchmark of a really trained encoder on real images",
        "",
        f"`python benchmarks/acceptance/benchmark_real.py` at commit `{commit[:12]}`: `evalfm benchmark` of",
        f"{ENCODER} over 621 NIH radiographs (text-mined labels) and 259 of Wingspan (heart and lung masks,",
        f"cardiothoracic ratio), five folds. {said} other work; exit status {status}; page of",
        f"{page.stat().st_size / 1e6:.1f} MB. Few positives: wide intervals.",
        "",
        "| task | on | head | metric | value | nearest baseline | gain | p | verdict |",
        "|---" * 9 + "|",
    ]
    for each in found["standings"]:
        gain = each["gain"]
        shown = "–" if gain is None else _reach(gain)
        p = "–" if each["p"] is None else f"{each['p']:.3f}"
        cells = [each["task"], each["cohort"], each["head"], each["metric"], _reach(each["estimate"])]
        cells += [each["baseline"] or "–", shown, p, each["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "To beware of, in its words:", "", *(f"- {each}" for each in found["beware"])]
    lines += ["", "Left out:", "", *(f"- {each['what']}: {each['reason']}" for each in found["left_out"])]
    lines += (
        ["", "Failed:", "", *(f"- {each['what']}: {each['reason']}" for each in found["failed"])]
        if found["failed"]
        else []
    )
    return "\n".join([*lines, ""])


def _reach(found: dict) -> str:
    if found["value"] is None:
        return f"– ({found['reason']})"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _cores() -> int:
    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
