"""What one image costs an encoder: milliseconds and operations of a forward pass on the device at hand."""

from __future__ import annotations

import platform
import re
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

from pydantic import ConfigDict

from evalfm.cards import CardModel

if TYPE_CHECKING:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from evalfm.encoders.encoder import Encoder

BATCH = 1
"""Images of the pass that is timed: what one image waits for, not what a full batch gets through."""
GPU_BATCH = 8
"""Images of a trial on a GPU, where one would measure the waiting."""
FEWEST_PASSES, MOST_PASSES, ENOUGH_SECONDS = 3, 20, 1.0
CPU_FACTS = Path("/proc/cpuinfo")


class Cost(CardModel):
    """What one image costs an encoder.

    Attributes:
        milliseconds: of a forward pass, the median of several.
        gigaflops: of a forward pass; a multiplication and an addition are two.
        batch: images of the pass.
        input_size: height and width.
        device: by name, with the threads of a CPU: times on two devices do not compare.
        precision: of the weights.
    """

    model_config = ConfigDict(extra="ignore")

    milliseconds: float
    gigaflops: float
    batch: int
    input_size: tuple[int, int]
    device: str
    precision: str


def measure_cost(encoder: Encoder) -> Cost:
    """Time ``encoder``, without its preprocessing, on noise of its input size; the first pass only warms up.

    At least three passes are timed, more until a second has gone by, at most twenty.
    """
    # A run's record holds a Cost, and is read without torch.
    import torch

    from evalfm.features.forward import device_of

    device = device_of(encoder)
    shape = (BATCH, encoder.preparer.facts.channels, *encoder.input_size)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    with operation_counter() as counter:
        encoder.encode(image).pooled.cpu()
    seconds: list[float] = []
    while len(seconds) < FEWEST_PASSES or (len(seconds) < MOST_PASSES and sum(seconds) < ENOUGH_SECONDS):
        started = time.perf_counter()
        # The result is waited for: a GPU returns before it has computed.
        encoder.encode(image).pooled.cpu()
        seconds.append(time.perf_counter() - started)
    return Cost(
        milliseconds=1000 * median(seconds) / BATCH,
        gigaflops=counter.get_total_flops() / BATCH / 1e9,
        batch=BATCH,
        input_size=encoder.input_size,
        device=device_words(device),
        precision=encoder.precision,
    )


def seconds_per_image(encoder: Encoder) -> float:
    """Of a forward pass, by a trial on blank images after another has warmed the model up.

    A GPU gets several at once: one alone would measure the waiting.
    """
    import torch

    from evalfm.features.forward import device_of

    device = device_of(encoder)
    images = GPU_BATCH if device.type == "cuda" else 1
    blank = torch.zeros(images, encoder.preparer.facts.channels, *encoder.input_size, device=device)
    encoder.encode(blank).pooled.cpu()
    started = time.perf_counter()
    encoder.encode(blank).pooled.cpu()
    return (time.perf_counter() - started) / images


def device_words(device: torch.device) -> str:
    """The device by name: the GPU's, or the processor's with how many threads torch uses of it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    found = re.search(r"^model name\s*:\s*(.+)$", CPU_FACTS.read_text(), re.M) if CPU_FACTS.is_file() else None
    name = found[1].strip() if found else platform.processor() or platform.machine() or "CPU"
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}"


def operation_counter() -> FlopCounterMode:
    """A counter that knows attention on the CPU as it does on a GPU; torch's own leaves it out there."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def count(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        """Of shapes [B, heads, tokens, D], which the counter gives in place of tensors."""
        return int(cast(Any, sdpa_flop_count)(query, key, value))

    attention: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    return FlopCounterMode(display=False, custom_mapping={} if attention is None else {attention: count})
