"""Heads and adaptations on real radiographs (Wingspan) and on the phantom: what does training the encoder add?

    python benchmarks/acceptance/adaptation.py --shared ../shared/data --out build/adaptation
    python benchmarks/acceptance/adaptation.py --encoder dinov2-small --phantom 0 --frozen-only

Writes benchmarks/acceptance/adaptation.md, of another encoder adaptation-ENCODER.md: every table with the command and
the commit. On Wingspan every recipe is the default; on the phantom all trainings have ten epochs, for the time of three
seeds on a CPU.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalfm.analysis.figures import describe
from evalfm.analysis.table import task_tables
from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest
from evalfm.data.phantom import make_phantom
from evalfm.probing.probe import probe
from evalfm.progress import Progress
from evalfm.run import Run

TABLE = Path(__file__).with_suffix(".md")
FILES = {
    "squeezenet1-0.caffe": "squeezenet1_0_torchvision_keys_rgb255.npz",
    "dinov2-small": "dinov2-small.npz",
    "efficientnet-lite0": "efficientnet-lite0.safetensors",
}
"""The really trained weights at hand."""


@dataclass(frozen=True)
class Printed:
    """Progress as plain lines."""

    def track(self, items, label, total=None):
        """Yield ``items``."""
        yield from items

    def say(self, message: str) -> None:
        """Print it."""
        print(message, flush=True)


@dataclass(frozen=True)
class Grid:
    """What is run on one data set."""

    encoder: str
    data: Manifest
    weights: Path
    out: Path
    recipe: dict[str, object]
    progress: Progress

    def heads(self, task: str, heads: Sequence[str], seeds: int) -> list[Run]:
        """Frozen features under several heads, with the baselines."""
        return probe(
            self.encoder,
            task,
            weights=self.weights,
            data=self.data,
            heads=heads,
            seeds=seeds,
            out=self.out,
            progress=self.progress,
        )

    def trained(self, task: str, head: str, adaptation: str, seeds: int) -> list[Run]:
        """The encoder trained with one head."""
        return probe(
            self.encoder,
            task,
            weights=self.weights,
            data=self.data,
            heads=[head],
            adaptation=adaptation,
            recipe=self.recipe,
            seeds=seeds,
            baselines="none",
            out=self.out,
            progress=self.progress,
        )

    def unet(self, task: str, seeds: int, size: int = 256) -> list[Run]:
        """The supervised baseline."""
        return probe(
            "unet-resnet34",
            task,
            data=self.data,
            input_size=size,
            recipe=self.recipe,
            seeds=seeds,
            baselines="none",
            out=self.out,
            progress=self.progress,
        )


def as_markdown(runs: list[Run]) -> list[str]:
    """One Markdown table per task."""
    lines: list[str] = []
    for table in task_tables(runs):
        lines += [f"### {table.task} on {table.data}", "", f"{table.unit_counts}.", *table.cautions, ""]
        lines += ["| encoder | head | adaptation | " + " | ".join(table.metric_names) + " | seed sd | minutes |"]
        lines += ["|---" * (5 + len(table.metric_names)) + "|"]
        for line in table.lines:
            name = line.encoder + (" (baseline)" if line.baseline else "")
            cells = " | ".join(describe(line.metrics[metric]) for metric in table.metric_names)
            spread = "–" if line.seed_sd is None else f"{line.seed_sd:.4f}"
            minutes = sum(run.record.provenance.seconds for run in line.runs) / len(line.runs) / 60
            lines.append(f"| {name} | {line.head} | {line.adaptation} | {cells} | {spread} | {minutes:.1f} |")
        lines.append("")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/adaptation"))
    parser.add_argument("--encoder", choices=FILES, default="squeezenet1-0.caffe")
    parser.add_argument("--frozen-only", action="store_true", help="without LoRA, full training and the U-Net")
    parser.add_argument("--phantom", type=int, default=160, help="images of the phantom; 0 leaves it out")
    parser.add_argument("--seeds", type=int, default=3, help="on the phantom")
    options = parser.parse_args()
    weights = options.shared / "weights" / FILES[options.encoder]
    progress = Printed()
    adaptations = () if options.frozen_only else ("lora", "full")
    wingspan = import_data("wingspan-ctr", options.shared / "wingspan-ctr", options.out / "wingspan", force=True)
    real = Grid(options.encoder, wingspan, weights, options.out / "runs", {}, progress)
    runs = real.heads("heart-seg", ["linear", "multiscale", "global-local", "upernet"], 1)
    runs += real.heads("ctr", ["ridge", "attentive", "from-mask"], 1)
    for adaptation in adaptations:
        runs += real.trained("heart-seg", "multiscale", adaptation, 1)
        runs += real.trained("ctr", "from-mask", adaptation, 1)
    if adaptations:
        runs += real.unet("heart-seg", 1)
    if options.phantom:
        folder = options.out / "phantom"
        if not (folder / "dataset.yaml").is_file():
            make_phantom(folder, n=options.phantom, size=256)
        brief = {"epochs": 10, "least_steps": 0}
        made = Grid(options.encoder, Manifest.read(folder), weights, options.out / "runs", brief, progress)
        runs += made.heads("ptx-seg", ["linear", "multiscale", "global-local", "upernet"], options.seeds)
        for adaptation in adaptations:
            runs += made.trained("ptx-seg", "multiscale", adaptation, options.seeds)
        if adaptations:
            # A quarter of the pixels, for the time of three seeds on a CPU.
            runs += made.unet("ptx-seg", options.seeds, size=128)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    command = f"python benchmarks/acceptance/adaptation.py --encoder {options.encoder} --phantom {options.phantom}"
    command += f" --seeds {options.seeds}" + " --frozen-only" * options.frozen_only
    table = TABLE if options.encoder == "squeezenet1-0.caffe" else TABLE.with_stem(f"{TABLE.stem}-{options.encoder}")
    lines = [
        "# Heads and adaptations on real images and on the phantom",
        "",
        f"`{command}` at commit `{commit[:12]}`. Wingspan: default recipes; phantom: ten epochs, U-Net at 128².",
        "The U-Net's ResNet-34 is trained from random weights.",
        "",
        *as_markdown(runs),
    ]
    table.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
