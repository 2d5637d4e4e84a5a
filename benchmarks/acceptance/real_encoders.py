"""Three really trained encoders on real radiographs: linear probes over five folds, against yardsticks taken elsewhere.

    python benchmarks/acceptance/real_encoders.py --shared ../shared/data --out build/acceptance

Writes benchmarks/acceptance/real_encoders.md: the figures with the command and the commit. Cards for weights that no
built-in card names are written to --out first.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import yaml

import evalfm
from evalfm.data.importing import import_data
from evalfm.encoders import find_card

TABLE = Path(__file__).with_suffix(".md")

TASKS = ("sex", "view", "ptx-cls", "cardiomegaly-cls")

YARDSTICKS = {
    "dinov2-small": (0.943, 0.983, 0.648, 0.633),
    "efficientnet-lite0": (0.937, 0.982, 0.651, 0.694),
    "squeezenet1-0.caffe": (0.928, 0.981, 0.661, 0.646),
}
"""AUROC of sex, AP view, pneumothorax and cardiomegaly, measured apart on the same radiographs and weights."""

TOLERANCE = 0.01

FILES = {
    "dinov2-small": "dinov2-small.npz",
    "efficientnet-lite0": "efficientnet-lite0.safetensors",
    "squeezenet1-0.caffe": "squeezenet1_0_torchvision_keys_rgb255.npz",
}


def dinov2_small() -> dict[str, Any]:
    """DINOv2 ViT-S/14: the card of its larger sibling with other widths."""
    content = find_card("dinov2-base").model_dump(mode="json", by_alias=True)
    return content | {
        "name": "dinov2-small",
        "summary": "DINOv2 ViT-S/14 on 142 million curated photographs.",
        "arguments": {**content["arguments"], "hidden_size": 384, "num_attention_heads": 6},
        "weights": {"source": "path"},
        "parameters": 22_056_576,
        "poolings": {"cls": 384, "mean": 384},
        "map_channels": [384] * 5,
        "golden": None,
        "confirmed": [],
        "unconfirmed": ["The weights are those of a package for saliency; whether it tuned them is not known."],
    }


def efficientnet_lite0() -> dict[str, Any]:
    """EfficientNet-Lite0: timm's architecture, with the statistics of its TensorFlow weights."""
    content = find_card("resnet50").model_dump(mode="json", by_alias=True)
    return content | {
        "name": "efficientnet-lite0",
        "summary": "EfficientNet-Lite0 on ImageNet-1k.",
        "architecture": "tf_efficientnet_lite0",
        "weights": {"source": "path", "unexpected_keys": ["classifier.*"]},
        "licence": "Apache-2.0",
        "parameters": 3_371_008,
        "preprocessing": {
            **content["preprocessing"],
            "resize_to": 256,
            "interpolation": "bicubic",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
        "poolings": {"gap": 1280},
        "pooling": "gap",
        "map_layers": [1, 2, 3, 4],
        "map_channels": [24, 40, 112, 320],
        "map_strides": [4, 8, 16, 32],
        "paper": "Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, ICML 2019",
        "golden": None,
        "confirmed": [],
        "unconfirmed": ["The share that the centre crop cuts off is timm's, not the package's."],
    }


def encoders(out: Path) -> dict[str, str]:
    """What ``evalfm.probe`` is given for each encoder; cards that are not built in are written to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    given = {"squeezenet1-0.caffe": "squeezenet1-0.caffe"}
    for content in (dinov2_small(), efficientnet_lite0()):
        path = out / f"{content['name']}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        given[content["name"]] = str(path)
    return given


def auroc(encoder: str, task: str, weights: Path, data: Any, out: Path, **options: Any) -> Any:
    """The AUROC, with its interval, of the linear head on frozen features over five folds by patient."""
    (run,) = evalfm.probe(
        encoder, task, weights=weights, data=data, folds=5, heads=["linear"], baselines="none", out=out, **options
    )
    return run.metrics["auroc"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/acceptance"))
    options = parser.parse_args()
    nih = import_data("nih-cxr14", options.shared / "nih-cxr14-starter", options.out / "nih", force=True)
    given = encoders(options.out / "cards")
    lines, farthest = [], 0.0
    for name, yardsticks in YARDSTICKS.items():
        cells = []
        for task, yardstick in zip(TASKS, yardsticks, strict=True):
            weights = options.shared / "weights" / FILES[name]
            found = auroc(given[name], task, weights, nih, options.out / "runs")
            cells.append(f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}] ({yardstick:.3f})")
            farthest = max(farthest, abs(found.value - yardstick))
            print(name, task, cells[-1], flush=True)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    TABLE.write_text(
        "\n".join(
            [
                "# Really trained encoders on real images",
                "",
                f"`python benchmarks/acceptance/real_encoders.py` at commit `{commit[:12]}`. AUROC of the linear head",
                "on frozen features of 621 NIH images, one a patient, out of five folds; 95 % interval over patients,",
                "and in brackets the yardstick measured apart on the same images and weights. Labels are text-mined;",
                "44 cases of pneumothorax and 56 of cardiomegaly settle no ranking.",
                "",
                "| encoder | " + " | ".join(TASKS) + " |",
                "|---" * (1 + len(TASKS)) + "|",
                *lines,
                "",
                f"Farthest from its yardstick: {farthest:.3f}; asked for: at most {TOLERANCE}.",
                "",
            ]
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
