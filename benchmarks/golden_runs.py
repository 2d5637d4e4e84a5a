"""The figures of small runs of every kind, head, adaptation and split: recorded once, compared after each change.

    python benchmarks/golden_runs.py record            (writes benchmarks/golden_runs.json)
    python benchmarks/golden_runs.py compare           (exit 1 if any figure moved by more than its tolerance)

Every metric, threshold and chosen value of every run is held: to 1e-9 where a head has a closed or convex solution on
pooled features, to 1e-6 where anything is trained by gradient steps. Figures belong to one machine: record on the
commit before a change, compare on the one after it. Runs on real radiographs need ../shared/data and are left out,
and said, without it. A pattern after the verb runs only what it fits: `compare 'ptx*'`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = Path(__file__).with_suffix(".json")
SHARED = ROOT.parent / "shared" / "data"
POOLED, TRAINED = 1e-9, 1e-6
SHORT = {"epochs": 2, "least_steps": 0}
SMALL = {"input_size": 64}


@dataclass(frozen=True)
class Golden:
    """One call of ``probe`` and how near its figures must stay."""

    name: str
    encoder: str
    task: str
    tolerance: float = POOLED
    data: str = "squares"
    options: dict[str, Any] = field(default_factory=dict)


GOLDEN = [
    Golden("binary-linear-knn", "hog", "ptx-cls", data="phantom", options={"heads": ["linear", "knn"]}),
    Golden("binary-folds", "pixels", "square", options={"heads": ["linear"], "folds": 5}),
    Golden("binary-shots", "hog", "square", options={"heads": ["linear"], "shots": 4, "seeds": 3}),
    Golden("binary-fraction", "hog", "square", options={"heads": ["linear"], "label_fraction": 0.5, "seeds": 2}),
    Golden("binary-threshold", "hog", "square", options={"heads": ["linear"], "threshold": "sensitivity=.9"}),
    Golden("binary-test-where", "hog", "square", options={"heads": ["linear"], "test_where": "age > 70"}),
    Golden("binary-associate", "hog", "square", options={"heads": ["linear"], "associate": "sex=0.5"}),
    Golden("binary-mlp", "hog", "square", TRAINED, options={"heads": ["mlp"]}),
    Golden(
        "binary-attentive", "random:resnet18", "square", TRAINED, options={"heads": ["attentive"], "input_size": 64}
    ),
    Golden("multiclass", "hog", "shape", options={"heads": ["linear", "knn"]}),
    Golden("ordinal", "hog", "grade.yaml", options={"heads": ["linear", "knn"]}),
    Golden("multilabel", "hog", "multilabel.yaml", options={"heads": ["linear"]}),
    Golden("regression", "hog", "size", options={"heads": ["ridge"]}),
    Golden("regression-phantom", "hog", "ctr", data="phantom", options={"heads": ["ridge"]}),
    Golden("segmentation", "hog", "seg.yaml", TRAINED, options={"heads": ["linear", "multiscale"]}),
    Golden(
        "segmentation-global-local",
        "random:resnet18",
        "seg.yaml",
        TRAINED,
        options={"heads": ["global-local"], "input_size": 64},
    ),
    Golden("regression-fraction", "hog", "size", TRAINED, options={"heads": ["ridge", "mlp"], "label_fraction": 0.5}),
    Golden(
        "full",
        "random:resnet18",
        "square",
        TRAINED,
        options={"adaptation": "full", "heads": ["linear"], "recipe": SHORT, **SMALL},
    ),
    Golden(
        "lora",
        "random:vit_tiny_patch16_224",
        "square",
        TRAINED,
        options={"adaptation": "lora", "heads": ["linear"], "recipe": SHORT, **SMALL},
    ),
    Golden(
        "scratch-seg",
        "unet-resnet34",
        "seg.yaml",
        TRAINED,
        options={"recipe": SHORT, **SMALL},
    ),
    Golden("zeroshot", "seer", "square", options={"heads": ["zeroshot"], "threshold": "f1"}),
    Golden("coop", "clip", "shape", TRAINED, options={"heads": ["coop"], "shots": 2}),
    Golden("base-to-novel", "clip", "four", TRAINED, options={"heads": ["coop"], "shots": 2, "base_to_novel": True}),
    Golden("nih-folds", "squeezenet1-0.caffe", "ptx-cls", data="nih", options={"heads": ["linear"], "folds": 5}),
    Golden("wingspan-ctr", "squeezenet1-0.caffe", "ctr", data="wingspan", options={"heads": ["ridge"]}),
]


def make_squares(folder: Path) -> Path:
    """Ninety patients with a bright shape, or none, in noise: every kind of label, masks, sex and age."""
    import numpy as np
    import pandas as pd
    import yaml
    from PIL import Image

    draw = np.random.default_rng(7)
    side, rows = 64, []
    folder.mkdir(parents=True)
    for patient in range(90):
        pixels, mask = draw.normal(90, 25, (side, side)), np.zeros((side, side), dtype=bool)
        shape = (0, 1, 2, 0, 3, 0)[patient % 6]
        if shape:
            size = int(draw.integers(10, 24))
            top, left = draw.integers(2, side - size - 2, 2)
            box = np.zeros_like(mask)
            box[top : top + size, left : left + size] = True
            across, down = np.meshgrid(np.arange(side) - left, np.arange(side) - top)
            mask = box & ((shape != 2) | (across > down)) & ((shape != 3) | ((across // 4 + down // 4) % 2 == 0))
            pixels[mask] += 35
        name = f"g{patient}"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}-mask.png")
        area = float(mask.mean())
        row = {"id": name, "patient": f"p{patient // 2 * 2}", "image": f"{name}.png", "square": int(shape > 0)}
        row |= {"split": "train" if patient < 48 else "val" if patient < 66 else "test"}
        row |= {"square_mask": f"{name}-mask.png", "size": area, "shape": ("none", "box", "odd", "odd")[shape]}
        row["four"] = ("none", "box", "wedge", "chequer")[shape]
        row |= {"grade": int(np.digitize(area, (0.01, 0.04, 0.08))), "large": int(area > 0.06), "odd": int(shape == 3)}
        rows.append(row | {"sex": "FM"[int(draw.random() < 0.5)], "age": float(draw.integers(20, 95))})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    labels = ("square", "size", "shape", "four", "grade", "large", "odd")
    facts = {
        "schema": 1,
        "name": "golden",
        "public_ids": True,
        "label_source": dict.fromkeys(labels, "made"),
        "label_kinds": {"size": "number", "shape": "class", "four": "class", "grade": "class"},
        "mask_dialects": {"square": "file"},
        "attributes": ["sex", "age"],
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(facts))
    return folder


def make_cards(folder: Path) -> None:
    """Tasks that no card of the package names."""
    (folder / "grade.yaml").write_text(
        "name: golden-grade\nschema: 1\nkind: ordinal\ntitle: How large?\ntarget: [grade]\n"
    )
    (folder / "seg.yaml").write_text(
        "name: golden-seg\nschema: 1\nkind: segmentation\ntitle: Where is the shape?\ntarget: [square]\n"
    )
    (folder / "multilabel.yaml").write_text(
        "name: golden-several\nschema: 1\nkind: multilabel\ntitle: Which?\ntarget: [square, large, odd]\n"
    )


def make_clip(folder: Path) -> str:
    """A card of a small image tower and BERT that have learnt nothing, with a tokenizer of its own."""
    import yaml

    from evalfm.encoders.families import _tokenizer
    from tests.encoders.families import test_open_clip as tiny

    (folder / "clip.yaml").write_text(yaml.safe_dump(tiny.small_content()))
    tiny.tokenizer(folder)
    _tokenizer.fetch_beside = lambda *_: folder / "tokenizer.json"  # type: ignore[assignment]
    return str(folder / "clip.yaml")


def figures(run: Any) -> dict[str, float]:
    """Every number that a run says of its test images and of what val chose, by its place in run.json."""
    record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    return dict(_numbers(record["metrics"], "metrics")) | dict(_numbers(record["chosen"], "chosen"))


def _numbers(content: Any, place: str) -> list[tuple[str, float]]:
    if isinstance(content, bool) or content is None or isinstance(content, str):
        return []
    if isinstance(content, int | float):
        return [(place, float(content))]
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return [found for name, inner in items for found in _numbers(inner, f"{place}.{name}")]


def measure(golden: Golden, folder: Path, data: dict[str, Any]) -> dict[str, float]:
    """Run one of them; the figures of all of its heads and seeds."""
    sys.path.insert(0, str(ROOT))
    from evalfm.probing.probe import probe
    from tests.readers import Seer

    encoder: Any = golden.encoder
    options: dict[str, Any] = {"baselines": "none", "out": folder / "runs" / golden.name, **golden.options}
    if encoder == "seer":
        encoder = Seer()
    elif encoder == "clip":
        encoder, options["weights"] = make_clip(folder), "random"
    elif encoder.startswith("squeezenet"):
        options["weights"] = SHARED / "weights" / "squeezenet1_0_torchvision_keys_rgb255.npz"
    task = str(folder / golden.task) if golden.task.endswith(".yaml") else golden.task
    found: dict[str, float] = {}
    for run in probe(encoder, task, data=data[golden.data], **options):
        seed = run.record.config.seed
        found |= {f"{run.head}.{seed}.{place}": value for place, value in figures(run).items()}
    return found


def all_figures(wanted: str) -> dict[str, dict[str, float]]:
    """Every golden run whose name fits, in a home of its own."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ.update(EVALFM_HOME=str(folder / "home"), HF_HUB_OFFLINE="1")
        from evalfm.data.importing import import_data
        from evalfm.data.manifest import Manifest
        from evalfm.data.phantom import make_phantom

        data: dict[str, Any] = {"squares": make_squares(folder / "golden")}
        make_cards(folder)
        data["phantom"] = make_phantom(folder / "phantom", n=160, size=128)
        if SHARED.is_dir():
            data["nih"] = import_data("nih-cxr14", SHARED / "nih-cxr14-starter", folder / "nih")
            drawn = import_data("wingspan-ctr", SHARED / "wingspan-ctr", folder / "wingspan")
            # Hashed ids, and so the order of the rows under the bootstrap, follow the salt that an import draws.
            info = drawn.info.model_copy(update={"salt": "0" * 32})
            data["wingspan"] = Manifest(info, drawn.table, drawn.folder)
        found = {}
        for golden in GOLDEN:
            if not fnmatch.fnmatch(golden.name, wanted):
                continue
            if golden.data not in data:
                print(f"{golden.name}: left out, ../shared/data is absent")
                continue
            started = time.monotonic()
            found[golden.name] = measure(golden, folder, data)
            print(f"{golden.name}: {len(found[golden.name])} figures, {time.monotonic() - started:.1f} s", flush=True)
        return found


def compare(new: dict[str, dict[str, float]], old: dict[str, dict[str, float]]) -> int:
    """Print what moved; how many runs did."""
    moved = 0
    for golden in GOLDEN:
        if golden.name not in new:
            continue
        before, after = old.get(golden.name, {}), new[golden.name]
        gone, come = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
        differences = {
            place: abs(after[place] - before[place])
            for place in before.keys() & after.keys()
            if not math.isclose(after[place], before[place], rel_tol=golden.tolerance, abs_tol=golden.tolerance)
        }
        if gone or come or differences:
            moved += 1
            worst = sorted(differences, key=differences.__getitem__, reverse=True)[:5]
            told = [f"{place} {before[place]:.9g} → {after[place]:.9g}" for place in worst]
            told += [f"gone: {place}" for place in gone[:5]] + [f"new: {place}" for place in come[:5]]
            print(f"{golden.name}: {len(differences)} moved, {len(gone)} gone, {len(come)} new\n  " + "\n  ".join(told))
    print(f"{len(new)} runs, {moved} differ")
    return moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("record", "compare"))
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--reference", type=Path, default=REFERENCE)
    asked = parser.parse_args()
    new = all_figures(asked.pattern)
    if asked.verb == "compare":
        sys.exit(1 if compare(new, json.loads(asked.reference.read_text())["runs"]) else 0)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    content = {"commit": commit.stdout.strip(), "runs": new}
    asked.reference.write_text(json.dumps(content, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
