"""`Encoder.encode` (maps, norms, checks) against the library's own model on the same batch, in the same mode.

    python benchmarks/encode.py [--rounds 7] [--device cpu] [--precision float32,bfloat16] [--compile]

A ViT-B/14 at 518² (rad-dino's architecture, transformers) and a ResNet-50 at 224² (timm), random weights. The library's
model has its weights in the precision, lies channels last where it is a network of convolutions (but for float32 on a
processor), and goes through torch.compile with --compile, as the encoder does. Both sides take turns in one process;
prints the median over the rounds of (seconds of the library's model / seconds of encode), on the CPU in CPU seconds of
this process, which other processes disturb least.
"""

from __future__ import annotations

import argparse
import itertools
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
    parser.add_argument("--precision", default="float32,bfloat16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--models", default="rad-dino,resnet50")
    options = parser.parse_args()
    models: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
        "rad-dino": (lambda: transformers.Dinov2Model(RAD_DINO), 518, 2),
        "resnet50": (lambda: timm.create_model("resnet50", num_classes=0), 224, 16),
    }
    for name, precision in itertools.product(options.models.split(","), options.precision.split(",")):
        make, size, images = models[name]
        dtype = getattr(torch, precision)
        model = make().eval().to(options.device, dtype)
        batch = torch.randn(images, 3, size, size, device=options.device)
        given = batch.to(dtype)
        if name == "resnet50" and (dtype != torch.float32 or options.device != "cpu"):
            model = model.to(memory_format=torch.channels_last)
            given = given.contiguous(memory_format=torch.channels_last)
        encoder = load_encoder(
            name, weights="random", precision=precision, device=options.device, compile=options.compile
        )
        bare = torch.compile(model) if options.compile else model
        found = ratio(lambda _, bare=bare, given=given: bare(given), encoder.encode, batch, options.rounds)
        print(f"{name}, {encoder.feature_path.name}: library / encode {found:.3f}", flush=True)


if __name__ == "__main__":
    main()
