"""Fine-tuning through evalfm against a bare loop over cached images: processor seconds, bare ÷ ours.

    python benchmarks/training.py [--encoder random:resnet18] [--images 64] [--epochs 4]     (wanted: at least .9)
    python benchmarks/training.py --encoder rad-dino --images 512 --epochs 8     (on a GPU, in seconds; at least .85)

Counted from the second epoch on: of all processes together on a CPU, by the clock on a GPU. Both change images and
masks by the same functions, validate after each epoch and take a step of AdamW; ours clips, averages the weights,
checks what is finite, counts the Dice of val and keeps the best besides. The bare loop runs before and after ours.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalfm.data.phantom import make_phantom
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Precision
from evalfm.encoders.model_input import model_input
from evalfm.features import readers
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.heads import load_head
from evalfm.heads.head import Context
from evalfm.probing.labelled import LabelledFeatures
from evalfm.tasks.cohort import select_cohort
from evalfm.tasks.task import load_task
from evalfm.training import augmentation, average, checkpoint, distributed, job, masks
from evalfm.training.augmentation import Augmentation, Augmenter
from evalfm.training.job import EncoderWithHead
from evalfm.training.masks import InputMasks
from evalfm.training.recipe import recipe_of
from evalfm.training.tuning import FineTuneConfig, TrainingData, TrainingEnvironment, tune

BATCH = 16
STAGES = {
    "read": (readers.ImageReader, "batches"),
    "draw": (augmentation.Augmenter, "draw"),
    "change images": (augmentation.BatchChange, "images"),
    "change masks": (augmentation.BatchChange, "masks"),
    "stack masks": (masks.InputMasks, "stack"),
    "on the device": (job.TrainingBatch, "micro_batches"),
    "forward": (EncoderWithHead, "forward"),
    "backward": (distributed.Distributed, "backward"),
    "clip": (distributed.Distributed, "clip"),
    "average": (average.MovingAverage, "update"),
    "checkpoint": (checkpoint.CheckpointWriter, "offer"),
}
"""Where the time of a training goes; changes are part of what is on the device."""


def cpu_seconds() -> float:
    """Of this process and those that it started and that still run."""
    ticks = os.sysconf("SC_CLK_TCK")
    own = f" {os.getpid()} "
    total = time.process_time()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if f" {fields[1]} " == own:
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


class Watch:
    """Reads the clock at every line that a training says, which is one an epoch, and times its stages."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.read: list[float] = []
        self.stages: dict[str, float] = {}

    def track(self, items: Any, label: str, total: int | None = None) -> Iterator[Any]:
        """Show nothing."""
        yield from items

    def say(self, message: str) -> None:
        """Read the clock; stages are counted from the end of the first epoch on."""
        self.read.append(self.clock())
        if len(self.read) == 2:
            self.stages.clear()

    def time_stages(self) -> None:
        """Time every stage from now on."""
        for name, (owner, method) in STAGES.items():
            setattr(owner, method, self._timed(name, getattr(owner, method)))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def add(began: float) -> None:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - began

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = method(*arguments, **options)
            add(began)
            return each(result) if isinstance(result, Iterator) else result

        def each(items: Iterator[Any]) -> Iterator[Any]:
            while True:
                began = time.perf_counter()
                item = next(items, None)
                add(began)
                if item is None:
                    return
                yield item

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="random:resnet18")
    parser.add_argument("--images", type=int, default=64, help="of train; val has an eighth of them")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=512, help="of the images, in pixels")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    gpu = torch.cuda.is_available() if options.device == "auto" else options.device.startswith("cuda")
    device = torch.device("cuda" if gpu else "cpu")
    precision: Precision = "bfloat16" if gpu else "float32"
    weights = "hub" if options.encoder.startswith("random:") else "random"
    encoder = load_encoder(options.encoder, weights=weights, precision=precision, device=device)

    def clock() -> float:
        if not gpu:
            return cpu_seconds()
        torch.cuda.synchronize()
        return time.perf_counter()

    watch = Watch(clock)
    with tempfile.TemporaryDirectory() as folder:
        images = options.images * 9 // 8
        manifest = make_phantom(Path(folder) / "data", n=images, size=options.size, workers=os.cpu_count() or 1)
        cohort = select_cohort(load_task("heart-seg"), manifest)
        rows = np.arange(len(cohort))
        store = FeatureStore(Path(folder) / "features")

        def source_of(each: Any) -> EncodedSource:
            return EncodedSource(each, manifest, store, maps="stream")

        side = LabelledFeatures(cohort, source_of(encoder))
        train, val = side.examples(rows[: options.images]), side.examples(rows[options.images :])
        head = load_head("multiscale", "segmentation")
        context = Context("segmentation", cohort.class_names, 0, device, watch)
        recipe = recipe_of("full", {"epochs": options.epochs, "least_steps": 0, "probe_start": False, "patience": 99})
        assert recipe is not None
        layout = head.layout(side.source, context)
        objective = head.objective(train, context)
        facts = encoder.preparer.facts
        bounds = Augmentation(
            rotation_degrees=recipe.rotation_degrees,
            scale=(1 - recipe.scale, 1 + recipe.scale),
            translation=recipe.translation,
            brightness=recipe.brightness,
            contrast=recipe.contrast,
        )
        augment = Augmenter(bounds, 0, facts.bounded, facts.pad_value)
        prepared = [encoder.preparer(manifest.image(int(row))) for row in rows]
        pixels = torch.from_numpy(np.stack([each.pixels for each in prepared]))
        geometries = [each.geometry for each in prepared]
        with InputMasks(train, facts.input_size) as fractions:
            objective.read(fractions.examples, layout.grid, context.progress, "train")

            def bare() -> float:
                """Seconds of an epoch."""
                model = EncoderWithHead(
                    load_encoder(options.encoder, weights=weights, precision=precision, device=device),
                    head.new_module(layout, torch.Generator()).to(device),
                ).requires_grad_(True)
                optimiser = torch.optim.AdamW(model.parameters(), 1e-4)

                def inputs(part: range, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
                    # On a CPU one by one, as ours, which is faster.
                    for few in [part] if gpu else [range(each, each + 1) for each in part]:
                        change = augment.draw(epoch, list(few), [geometries[each] for each in few], device)
                        sent = pixels[few.start : few.stop].to(device, non_blocking=True)
                        truth = fractions.stack(list(few)).to(device, non_blocking=True).float() / 255
                        yield model_input(sent, facts, change.images), change.masks(truth, layout.grid)

                times = []
                for epoch in range(3):
                    times.append(clock())
                    model.train()
                    for start in range(0, options.images, BATCH):
                        part = range(start, min(start + BATCH, options.images))
                        images, truth = (torch.cat(each) for each in zip(*inputs(part, epoch), strict=True))
                        optimiser.zero_grad()
                        torch.autograd.backward(objective.loss(model(images)[None], truth).sum())
                        optimiser.step()
                    with torch.no_grad():
                        model.eval()
                        for start in range(options.images, len(rows), BATCH):
                            model(model_input(pixels[start : start + BATCH].to(device), facts))
                return (clock() - times[1]) / 2

            before = bare()
            watch.time_stages()
            tune(
                encoder,
                head,
                TrainingData(train, val, manifest, source_of),
                context,
                FineTuneConfig("full", recipe),
                TrainingEnvironment(Path(folder) / "work", device, precision, options.workers),
            )
            stages = dict(watch.stages)
            after = bare()
    epochs = options.epochs - 1
    ours = (watch.read[-1] - watch.read[1]) / epochs
    mean = (before + after) / 2
    print(
        f"{mean / ours:.3f} (an epoch of {options.images} images: ours {ours:.2f} s, bare loop {before:.2f} and "
        f"{after:.2f} s, {device.type}, {precision})"
    )
    for name, seconds in sorted(stages.items(), key=lambda each: -each[1]):
        print(f"  {name:14} {seconds / epochs:8.3f} s an epoch by the clock")


if __name__ == "__main__":
    main()
