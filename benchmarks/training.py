"""Fine-tuning through evalfm against a bare loop over the same tensors: images per second, ours ÷ bare.

    python benchmarks/training.py [--encoder random:resnet18] [--images 64] [--epochs 3] [--device auto]
    python benchmarks/training.py --encoder rad-dino --images 256 --epochs 4        (on a GPU; wanted: at least .85)

Ours decodes, augments, averages weights, scores val and writes checkpoints; val and checkpoints are in its time. The
bare loop has the radiographs prepared in memory and does forward, backward and AdamW in the same precision.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from evalfm.data.phantom import make_phantom
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Precision
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.heads import load_head
from evalfm.heads.head import Context
from evalfm.probing.labelled import LabelledFeatures
from evalfm.tasks.card import load_task
from evalfm.tasks.cohort import select_cohort
from evalfm.training.job import EncoderWithHead
from evalfm.training.recipe import recipe_of
from evalfm.training.tuning import TrainingEnvironment, tune

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="random:resnet18")
    parser.add_argument("--images", type=int, default=64, help="of train; val has an eighth of them")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="of the images, in pixels")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    gpu = torch.cuda.is_available() if options.device == "auto" else options.device.startswith("cuda")
    device = torch.device("cuda" if gpu else "cpu")
    precision: Precision = "bfloat16" if gpu else "float32"
    weights = "hub" if options.encoder.startswith("random:") else "random"
    encoder = load_encoder(options.encoder, weights=weights, precision=precision, device=device)
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_phantom(Path(folder) / "data", n=options.images * 9 // 8, size=options.size)
        cohort = select_cohort(load_task("heart-seg"), manifest)
        rows = np.arange(len(cohort))
        store = FeatureStore(Path(folder) / "features")

        def source_of(each):
            return EncodedSource(each, manifest, store, maps="stream")

        side = LabelledFeatures(cohort, source_of(encoder))
        head = load_head("multiscale", "segmentation")
        context = Context("segmentation", cohort.class_names, 0, device)
        recipe = recipe_of("full", {"epochs": options.epochs, "least_steps": 0, "probe_start": False})
        assert recipe is not None
        started = time.perf_counter()
        tuned = tune(
            encoder,
            head,
            side.examples(rows[: options.images]),
            side.examples(rows[options.images :]),
            context,
            adaptation="full",
            recipe=recipe,
            manifest=manifest,
            setting=TrainingEnvironment(Path(folder) / "work", device, precision, options.workers),
            source_of=source_of,
            progress=context.progress,
        )
        ours = options.images * options.epochs / (time.perf_counter() - started)
        layout = head.layout(side.source, context)
        module = head.new_module(layout, torch.Generator()).to(device)
        objective = head.objective(side.examples(rows), context)
        radiographs = torch.stack([encoder.prepare(manifest.image(int(row)))[0] for row in rows[:BATCH]]).to(device)
        target = objective.read(side.examples(rows[:BATCH]), layout.grid, context.progress, "train").to(device)
    model = EncoderWithHead(tuned.encoder.train(), module.train())
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
    steps = options.images * options.epochs // BATCH

    def step() -> None:
        optimiser.zero_grad()
        torch.autograd.backward(objective.loss(model(radiographs)[None], target).sum())
        optimiser.step()

    step()
    if gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if gpu:
        torch.cuda.synchronize()
    bare = steps * BATCH / (time.perf_counter() - started)
    print(f"{ours / bare:.3f} (ours {ours:.1f}, bare loop {bare:.1f} images/s, {device.type}, {precision})")


if __name__ == "__main__":
    main()
