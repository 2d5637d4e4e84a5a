"""Extraction of a RAD-DINO-sized encoder on a GPU against the card's own dense matrix product, in bf16.

    python benchmarks/gpu_extraction.py [--images 512] [--batch 32]

Counts the FLOPs of one forward pass (PyTorch's own counter), measures the card's rate on an 8192³ bf16 product, and
prints the share of it that extraction reaches, with a profile of the slowest operations. Random weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from evalfm.data.phantom import make_phantom
from evalfm.encoders import load_encoder
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore


def matmul_rate(size: int = 8192, rounds: int = 50) -> float:
    """FLOP/s of a dense bf16 product."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        left @ right
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(rounds):
        left @ right
    torch.cuda.synchronize()
    return rounds * 2 * size**3 / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="rad-dino")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here; run this on a machine that has one.")
    encoder = load_encoder(options.encoder, weights="random", precision="bfloat16", device="cuda")
    batch = torch.randn(options.batch, encoder.preparer.facts.channels, *encoder.input_size, device="cuda")
    with FlopCounterMode(display=False) as counter:
        encoder.encode(batch)
    per_image = counter.get_total_flops() / options.batch
    rate = matmul_rate()
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_phantom(Path(folder) / "data", n=options.images, size=512)
        source = EncodedSource(encoder, manifest, FeatureStore(Path(folder) / "store"), batch_size=options.batch)
        started = time.perf_counter()
        source.prefetch(range(options.images))
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    reached = options.images * per_image / seconds
    print(
        f"{reached / rate:.3f} ({options.images / seconds:.1f} images/s, {per_image / 1e9:.1f} GFLOPs an image, "
        f"{reached / 1e12:.1f} of {rate / 1e12:.1f} TFLOP/s on {torch.cuda.get_device_name()})"
    )
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        encoder.encode(batch)
    print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=12))


if __name__ == "__main__":
    main()
