"""What a checkpoint costs: seconds in which training waits, seconds of writing beside it, and its share of the time.

    python benchmarks/checkpoints.py [--encoder random:resnet18] [--folder .]

Encoder, its moving average and AdamW's moments are written as a training writes them, beside the way that an archive
made in memory first would take. Wanted: less than a tenth of the interval.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from evalfm.encoders import load_encoder
from evalfm.training import checkpoint
from evalfm.training.average import MovingAverage
from evalfm.training.checkpoint import CheckpointWriter, TrainingState, in_memory, read_state


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="random:resnet18")
    parser.add_argument("--folder", type=Path, help="on the disk that is asked; default: the temporary one")
    options = parser.parse_args()
    weights = "hub" if options.encoder.startswith("random:") else "random"
    encoder = load_encoder(options.encoder, weights=weights).train().requires_grad_(True)
    tensors = encoder.state_dict(keep_vars=True)
    average = MovingAverage(tensors, 0.99)
    optimiser = torch.optim.AdamW(encoder.parameters())
    for parameter in encoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    best = in_memory(tensors)
    copying: list[float] = []

    def copy() -> TrainingState:
        began = time.perf_counter()
        state = TrainingState(
            1, in_memory(tensors), in_memory(average.tensors), 1, in_memory(optimiser.state_dict()), best_tensors=best
        )
        copying.append(time.perf_counter() - began)
        return state

    def timed(work: Callable[[], object]) -> tuple[float, float]:
        before, began = peak(), time.perf_counter()
        work()
        return time.perf_counter() - began, peak() - before

    checkpoint.INTERVAL_SECONDS = 0.0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        writer = CheckpointWriter(folder)
        began = time.perf_counter()
        writer.offer(copy)
        waited = time.perf_counter() - began
        ours, ours_memory = timed(writer.wait)
        ours += waited
        size = (folder / checkpoint.STATE).stat().st_size / 1e6
        assert read_state(folder) is not None

        def archived() -> None:
            stream = io.BytesIO()
            torch.save(vars(copy()), stream)
            (folder / "archive").write_bytes(stream.getbuffer().tobytes())
            with (folder / "archive").open("rb") as file:
                os.fsync(file.fileno())

        old, old_memory = timed(archived)
    interval = max(60.0, ours / checkpoint.LARGEST_SHARE)
    print(
        f"{ours / (interval + ours):.4f} of the time: {size:,.0f} MB, training waits {waited:.2f} s, "
        f"whole {ours:.2f} s, {ours_memory:+,.0f} MB beside the copy; through an archive in memory {old:.2f} s, all of "
        f"it waited for, {old_memory:+,.0f} MB"
    )


if __name__ == "__main__":
    main()
