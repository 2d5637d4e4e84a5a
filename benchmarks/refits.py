"""Seconds of refits on resampled training patients, at the chosen hyper-parameter, beside those of the fit itself.

    python benchmarks/refits.py [--images 20000] [--features 768] [--refits 20] [--threads 2]

Features of images have few strong directions and many weak ones. Each refit is scored on val and test (a fifth of the
images each) with its own threshold and temperature, as `probe` does it.
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace

import numpy as np
import torch

from evalfm.heads import load_head
from evalfm.heads.head import Context, Drawn, HeldExamples, PooledHead
from evalfm.probing.operating import Operating
from evalfm.probing.refitting import multiplicities
from evalfm.tasks.kinds import kind_of

HEADS = (("linear", "binary"), ("linear", "multiclass"), ("ridge", "regression"), ("prototypes", "binary"))
CLASSES = 4


def drawn(images: int, width: int, kind: str, seed: int = 0) -> list[HeldExamples]:
    """Train of ``images``, val and test of a fifth each."""
    generator = np.random.default_rng(seed)
    count = images + 2 * (images // 5)
    factors = generator.normal(size=(count, 64)).astype(np.float32)
    features = factors @ generator.normal(size=(64, width)).astype(np.float32)
    features += 0.5 * generator.normal(size=features.shape).astype(np.float32)
    score = factors[:, 0] + generator.normal(size=count)
    cuts = np.quantile(score, np.linspace(0, 1, CLASSES + 1)[1:-1] if kind == "multiclass" else [0.8])
    target = score if kind == "regression" else np.digitize(score, cuts).astype(float)
    patients = np.array([f"p{row}" for row in range(count)], dtype=object)
    source = SimpleNamespace(pooled_dim=width)
    parts = np.split(np.arange(count), [images, images + images // 5])
    return [HeldExamples(source, rows, target[rows], patients[rows], held=features[rows]) for rows in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--refits", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| head | kind | fit, s | refits, s |\n|---|---|---|---|", flush=True)
    for name, kind in HEADS:
        train, val, test = drawn(options.images, options.features, kind)
        names = tuple(f"class {number}" for number in range(CLASSES)) if kind == "multiclass" else ("finding",)
        head, context = load_head(name, kind), Context(kind, names)
        assert isinstance(head, PooledHead)
        start = time.perf_counter()
        head.fit(train, val, context)
        fitted = time.perf_counter()
        times = Drawn(*(multiplicities(each.patients, range(options.refits)) for each in (train, val)))
        for of_val, each in zip(times.val, head.refits(train, val, context, times, choose=False), strict=True):
            again = val.repeated(of_val)
            scores = each.predict(again)
            Operating.chosen(kind_of(kind), names, again.target, scores, "youden").columns(
                kind_of(kind), names, each.predict(test)
            )
        end = time.perf_counter()
        print(f"| {name} | {kind} | {fitted - start:.1f} | {end - fitted:.1f} |", flush=True)


if __name__ == "__main__":
    main()
