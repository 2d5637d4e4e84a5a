"""Dense heads against bare loops, ViT-S maps at 224², on the CPU in CPU seconds.

    python benchmarks/dense_heads.py [--images 64] [--steps 60] [--stream] [--encoder vit-small]

Memory: maps lie in memory in half precision. Each head is trained by `fit_together` and by a bare loop of the same
module on the same batches: index the maps, float32, logits, loss, backward, AdamW, and as many looks at val. Prints
seconds of the bare loop / seconds of `fit_together`, in rounds that take turns; what both share (reading masks, the
statistics) is measured apart and taken off.

--stream: twelve heads trained on the fly in one pass of the encoder against one head: `linear` and `multiscale` at six
rates each against `multiscale` at one. Prints the ratio of seconds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evalfm.data.geometry import Geometry
from evalfm.data.phantom import make_phantom
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Features
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.heads.head import Context, Examples
from evalfm.heads.segmentation.light import LinearDenseHead, MultiscaleHead
from evalfm.heads.segmentation.masks import PooledDice, pixel_loss, read_targets
from evalfm.heads.trained import Schedule, TrainedHead
from evalfm.heads.training import fit_together
from evalfm.probing.labelled import LabelledFeatures
from evalfm.progress import SILENT
from evalfm.tasks.cohort import select_cohort
from evalfm.tasks.task import load_task

RATES = (5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2)
SIZE, STRIDE, CHANNELS, LEVELS = 224, 16, 384, 5


class InMemory:
    """Maps in half precision in memory, as the tier of main memory gives them."""

    name = key = "in memory"
    pooled_dim = CHANNELS
    map_channels = (CHANNELS,) * LEVELS
    map_strides = (STRIDE,) * LEVELS
    input_size = (SIZE, SIZE)

    def __init__(self, images: int) -> None:
        generator = torch.Generator().manual_seed(0)
        cells = SIZE // STRIDE
        shape = (images, CHANNELS, cells, cells)
        self.maps = tuple(torch.randn(shape, generator=generator).half() for _ in range(LEVELS))
        self.pooled = torch.randn(images, CHANNELS, generator=generator)

    def features(self, rows: Sequence[int], *, maps: bool = False) -> Features:
        """Pooled features and maps of ``rows``."""
        index = torch.as_tensor(rows)
        return Features(self.pooled[index], tuple(level[index] for level in self.maps) if maps else ())

    def geometry(self, row: int) -> Geometry:
        """The input itself."""
        return Geometry.identity((SIZE, SIZE))


def masks(row: int) -> np.ndarray:
    drawn = np.zeros((1, SIZE, SIZE), bool)
    if row % 2:
        drawn[:, 40 : 60 + row % 30, 80:130] = True
    return drawn


def bare(
    head: TrainedHead, source: InMemory, train: Tensor, val: Tensor, truth: Tensor, epochs: int, steps: int
) -> None:
    """Every rate of ``head`` as a module of its own, as one would write it."""
    context = Context("segmentation", ("lesion",))
    layout = head.layout(source, context)
    generator = torch.Generator().manual_seed(0)
    modules = [head.new_module(layout, generator) for _ in head.learning_rates]
    optimisers = [
        torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01)
        for module, rate in zip(modules, head.learning_rates, strict=True)
    ]
    size = head.schedule.batch_size

    def batch(positions: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        maps = tuple(level[positions].float() for level in source.maps)
        return maps, source.pooled[positions], truth[positions].float() / 255

    for _ in range(epochs):
        for _ in range(steps):
            maps, pooled, target = batch(train[torch.randperm(len(train), generator=generator)[:size]])
            for module, optimiser in zip(modules, optimisers, strict=True):
                optimiser.zero_grad()
                pixel_loss(module(maps, pooled)[None], target)[0].backward()
                optimiser.step()
        tallies = [PooledDice(1, 1) for _ in modules]
        with torch.no_grad():
            for positions in torch.split(val, size):
                maps, pooled, target = batch(positions)
                for module, tally in zip(modules, tallies, strict=True):
                    tally.add(module(maps, pooled)[None], target)
        for tally in tallies:
            float(tally.score())


def cpu_seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def from_memory(images: int, steps: int, rounds: int) -> None:
    source = InMemory(images)
    rows = np.arange(images)
    sides = [
        Examples(source, part, np.zeros((len(part), 0)), part.astype(str), masks)
        for part in (rows[: -images // 4], rows[-images // 4 :])
    ]
    context = Context("segmentation", ("lesion",))
    train, val = (torch.from_numpy(side.rows) for side in sides)
    for kind in (LinearDenseHead, MultiscaleHead):
        for rates in ((1e-3,), (1e-3, 3e-3, 1e-2)):
            schedule = Schedule(epochs=2, least_steps=steps, most_steps=steps, patience=100)
            nothing = Schedule(epochs=1, least_steps=1, most_steps=1, patience=100)
            looks = max(1, min(2, steps // (4 * -(-len(val) // schedule.batch_size))))
            truth = read_targets(
                Examples(source, rows, np.zeros((len(rows), 0)), rows.astype(str), masks), (56, 56), SILENT, "all"
            )
            found = []
            alone = partial(bare, kind(schedule, rates), source, train, val, truth, looks, steps // looks)
            for number in range(rounds + 1):
                pair = [alone, partial(fit_together, [kind(schedule, rates)], *sides, context)]
                taken = {index: cpu_seconds(pair[index]) for index in ((0, 1) if number % 2 else (1, 0))}
                shared = cpu_seconds(partial(fit_together, [kind(nothing, rates)], *sides, context))
                step = taken[0] / steps
                # The short fit has a step and a look of its own.
                if number:
                    found.append((taken[0], taken[1] - shared + step))
            ratio = statistics.median(one / other for one, other in found)
            plain, ours = (statistics.median(column) for column in zip(*found, strict=True))
            print(
                f"{kind.name}, {len(rates)} rates: bare / fit_together {ratio:.2f} ({1000 * plain / steps:.1f} ms and "
                f"{1000 * ours / steps:.1f} ms a step)",
                flush=True,
            )


def streamed(name: str, images: int, steps: int) -> None:
    encoder = load_encoder(name, weights="random")
    schedule = Schedule(epochs=1, least_steps=steps, most_steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_phantom(Path(folder) / "data", n=images, size=224)
        cohort = select_cohort(load_task("heart-seg"), manifest)
        rows = np.arange(len(cohort))
        train, val = rows[: -len(rows) // 4], rows[-len(rows) // 4 :]

        def seconds(heads: list[TrainedHead]) -> tuple[float, int]:
            source = EncodedSource(encoder, manifest, FeatureStore(Path(folder) / "store"), maps="stream")
            side = LabelledFeatures(cohort, source)
            context = Context("segmentation", cohort.class_names)
            started = time.perf_counter()
            fit_together(heads, side.examples(train), side.examples(val), context)
            return time.perf_counter() - started, source.encoder_calls

        one: list[TrainedHead] = [MultiscaleHead(schedule, RATES[1:2])]
        twelve: list[TrainedHead] = [LinearDenseHead(schedule, RATES), MultiscaleHead(schedule, RATES)]
        seconds(one)
        alone, calls = seconds(one)
        together, calls_together = seconds(twelve)
    print(
        f"{together / alone:.2f} (twelve heads {together:.1f} s, {calls_together} encoder calls; "
        f"one head {alone:.1f} s, {calls} calls; {steps} steps)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="vit-small")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stream", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stream:
        streamed(options.encoder, options.images, options.steps)
    else:
        from_memory(options.images, options.steps, options.rounds)


if __name__ == "__main__":
    main()
