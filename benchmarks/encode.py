"""`Encoder.encode` (maps, norms, checks) against the library's own model on the same batch.

    python benchmarks/encode.py [--rounds 7] [--device cpu] [--compile]

A ViT-B/14 at 518² (rad-dino's architecture, transformers) and a ResNet-50 at 224² (timm), random weights. Both sides
take turns in one process; prints the median over the rounds of (seconds of the bare model / seconds of encode), on the
CPU in CPU seconds of this process, which other processes disturb least. --compile adds a row with torch.compile.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
import transformers
from torch import Tensor, nn

from evalfm.encoders import load_encoder

RAD_DINO = transformers.Dinov2Config(image_size=518, patch_size=14)


def seconds(call: Callable[[], object], device: str) -> float:
    if device == "cpu":
        started = time.process_time()
        call()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - started


@torch.no_grad()
def ratio(bare: Callable[[Tensor], object], encode: Callable[[Tensor], object], batch: Tensor, rounds: int) -> float:
    device = batch.device.type
    found = []
    for number in range(rounds + 1):
        pair = [(bare, 0), (encode, 1)] if number % 2 else [(encode, 1), (bare, 0)]
        taken = [0.0, 0.0]
        for call, place in pair:
            taken[place] = seconds(lambda call=call: call(batch), device)
        # The first round warms both up.
        if number:
            found.append(taken[0] / taken[1])
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    models: list[tuple[str, nn.Module, int, int]] = [
        ("rad-dino", transformers.Dinov2Model(RAD_DINO), 518, 2),
        ("resnet50", timm.create_model("resnet50", num_classes=0), 224, 16),
    ]
    for name, bare, size, images in models:
        model = bare.eval().to(options.device)
        encoder = load_encoder(name, weights="random", device=options.device)
        batch = torch.randn(images, 3, size, size, device=options.device)
        print(f"{name}: bare / encode {ratio(model, encoder.encode, batch, options.rounds):.3f}", flush=True)
        if options.compile:
            compiled = torch.compile(model)
            print(f"{name}: bare, compiled / encode {ratio(compiled, encoder.encode, batch, options.rounds):.3f}")


if __name__ == "__main__":
    main()
