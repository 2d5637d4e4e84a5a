"""Features in two bytes beside float32: cosines of the three really trained networks on real radiographs, and AUROC.

    python benchmarks/precision.py [--shared ../shared/data] [--images 621] [--encoders dinov2-small,…]

Each network encodes the images in float32, in bfloat16 and float16 with converted weights (as `encode` does), and in
bfloat16 under autocast (as `forward` does). Prints the mean and the least cosine to float32 of the pooled embedding and
of every map, flattened, and with 300 images or more the AUROC of a linear head (C = .01, five folds) for sex and view.
On a processor float16 takes ten times as long as float32.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from evalfm.data.importing import import_data
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder, Features

BATCH = 32
ENOUGH_FOR_AUROC = 300


def acceptance() -> Any:
    """The long run, whose files are used here."""
    path = Path(__file__).parent / "acceptance" / "real_encoders.py"
    specification = importlib.util.spec_from_file_location("real_encoders", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def auroc(pooled: Tensor, truth: np.ndarray) -> float:
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_predict(head, pooled.double().numpy(), truth, cv=folds, method="decision_function")
    return float(roc_auc_score(truth, scores))


def cosines(one: Features, other: Features) -> Tensor:
    """[B, 1 + maps]."""
    pairs = zip((one.pooled, *one.maps), (other.pooled, *other.maps), strict=True)
    return torch.stack([torch.cosine_similarity(a.flatten(1).double(), b.flatten(1).double()) for a, b in pairs], 1)


def autocast(encoder: Encoder) -> Callable[[Tensor], Features]:
    """``forward``, whose weights are cast at every call."""

    @torch.no_grad()
    def run(batch: Tensor) -> Features:
        features: Features = encoder(batch)
        return features

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=621)
    parser.add_argument("--encoders", default="squeezenet1-0.caffe,efficientnet-lite0,dinov2-small")
    parser.add_argument("--modes", default="bfloat16,autocast,float16")
    options = parser.parse_args()
    long_run = acceptance()
    with tempfile.TemporaryDirectory() as folder:
        nih = import_data("nih-cxr14", options.shared / "nih-cxr14-starter", Path(folder) / "nih")
        for name in options.encoders.split(","):
            exact = load_encoder(name, weights=options.shared / "weights" / long_run.FILES[name])
            rows = range(min(options.images, len(nih)))
            batches = torch.split(torch.stack([exact.prepare(nih.image(row))[0] for row in rows]), BATCH)
            expected = [exact.encode(batch) for batch in batches]
            for mode in ["float32", *options.modes.split(",")]:
                other = load_encoder(name, weights=options.shared / "weights" / long_run.FILES[name])
                precision: Any = "bfloat16" if mode == "autocast" else mode
                other.state = replace(other.state, precision=precision)
                run = autocast(other) if mode == "autocast" else other.encode
                found = [run(batch) for batch in batches]
                apart = torch.cat([cosines(one, same) for one, same in zip(found, expected, strict=True)])
                line = " ".join(
                    f"{mean:.6f} ({least:.6f})" for mean, least in zip(apart.mean(0), apart.amin(0), strict=True)
                )
                pooled = torch.cat([each.pooled for each in found])
                if len(pooled) >= ENOUGH_FOR_AUROC:
                    for column in ("sex", "view"):
                        values = nih.table[column].to_numpy()[: len(pooled)]
                        line += f" {column} {auroc(pooled, (values == sorted(set(values))[0]).astype(int)):.4f}"
                print(f"{name}, {mode}: {line}", flush=True)


if __name__ == "__main__":
    main()
