"""A plan on paper: images × encoders × map layers in bytes, hours and network, from figures that were measured.

    python benchmarks/paper_plan.py [--images 1000000] [--gpu-tflops F] [--image-megabytes 2.1] [--network-gigabits 10]
    python benchmarks/paper_plan.py --count rad-dino resnet50      (how GFLOP and core-seconds of an image were had)

Bytes follow from the shapes on the cards. Hours follow from ``MEASURED`` and ``ENCODERS``, each figure with the command
that gave it. What a GPU sustains was not measured here, so hours of GPUs are only given with ``--gpu-tflops``: yours,
as ``benchmarks/gpu_pipeline.py`` and GFLOP an image give it (images/s × GFLOP / 1000).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from evalfm.encoders import find_card, load_encoder

HOUR = 3600.0


@dataclass(frozen=True)
class Rates:
    """What one core and one disk did.

    Attributes:
        png_core_seconds, dicom_core_seconds: of an image from file to stored embedding, with an encoder that
            costs nothing (``extraction_loader.py``: 222 and 145 images/s on two cores; 512² PNG, 1024² 16-bit DICOM).
        digest_core_seconds: of an image's first digest and checks but for its bytes (``million_embeddings.py``).
        digest_bytes: that one core hashes in a second (``hashlib.sha256`` of 64 MB blocks).
        pooled_bytes: of pooled embeddings written in a second, flushed (``store.py``).
        maps_written: bytes of maps from the encoder to the disk in a second, flushed (``stored_maps.py --rate``).
        maps_read: bytes of maps read the first time in a second, with checksums, from the page cache (``store.py``).
        fit_core_seconds: of a linear head's 24 C on a million images of 768 features (``million_embeddings.py``).
        rest_core_seconds: of that probe's other stages but checks and digests; they do not depend on the features.
    """

    png_core_seconds: float = 2 / 222
    dicom_core_seconds: float = 2 / 145
    digest_core_seconds: float = 129e-6
    digest_bytes: float = 2.0e9
    pooled_bytes: float = 668e6
    maps_written: float = 665e6
    maps_read: float = 4404e6
    fit_core_seconds: float = 43.0
    rest_core_seconds: float = 91.0


MEASURED = Rates()


@dataclass(frozen=True)
class Cost:
    """Of one image: GFLOP counted (two a multiplication with addition), and seconds of one core, float32."""

    gflop: float
    core_seconds: float


ENCODERS: Mapping[str, Cost] = {
    "ark-plus@mean": Cost(831.34, 10.01),
    "biomedclip": Cost(35.13, 0.385),
    "chexagent": Cost(727.49, 7.985),
    "medimageinsight": Cost(625.43, 7.179),
    "medsiglip": Cost(979.18, 10.202),
    "rad-dino": Cost(303.15, 3.354),
    "dinov2-base": Cost(46.32, 0.515),
    "siglip2-so400m": Cost(518.94, 5.162),
}
"""The eight encoders of the study ``feature-quality``; its ninth is a plain network to compare with."""


@dataclass(frozen=True)
class Shapes:
    """What a card says of an encoder's features: dimension of the embedding, numbers of all maps of one image."""

    pooled: int
    maps: int
    layers: int
    input_size: tuple[int, int]

    @property
    def pooled_bytes(self) -> int:
        """Of one image: float32."""
        return 4 * self.pooled

    @property
    def map_bytes(self) -> int:
        """Of one image, all layers: float16."""
        return 2 * self.maps


def shapes_of(name: str) -> Shapes:
    """The shapes on the card of ``name``, which may say a pooling: ``card@pooling``.

    >>> shapes_of("rad-dino").map_bytes == 2 * 5 * 768 * 37 * 37
    True
    """
    name, _, pooling = name.partition("@")
    card = find_card(name)
    height, width = card.preprocessing.input_size
    cells = [math.ceil(height / stride) * math.ceil(width / stride) for stride in card.map_strides]
    numbers = sum(channels * each for channels, each in zip(card.map_channels, cells, strict=True))
    return Shapes(card.poolings[pooling or card.pooling], numbers, len(cells), (height, width))


def hours(images: float, seconds: float) -> float:
    """Of ``images`` at so many seconds each.

    >>> hours(3600, 2.0)
    2.0
    """
    return images * seconds / HOUR


def gpu_hours(images: float, gflop: float, tflops: float) -> float:
    """Of one GPU that sustains ``tflops`` (10¹² operations a second).

    >>> gpu_hours(1_000_000, 360.0, 100.0)
    1.0
    """
    return images * gflop / (1000 * tflops) / HOUR


def passes_to_store(recompute: float, read: float, write: float) -> float:
    """How often maps must be read for storing them to be sooner done than computing them in every pass.

    The rule of ``map_costs``: stored, an image costs ``max(recompute, write)`` once and ``read`` a pass, else
    ``recompute`` a pass; all in seconds. Infinite where reading takes as long as computing.

    >>> passes_to_store(recompute=0.05, read=0.01, write=0.02)
    1.25
    """
    return max(recompute, write) / (recompute - read) if recompute > read else math.inf


def probe_core_seconds(images: float, dimension: int, rates: Rates = MEASURED) -> float:
    """Of a linear probe with intervals on stored embeddings: the fit grows with the dimension, the rest does not.

    >>> probe_core_seconds(1_000_000, 768) == MEASURED.fit_core_seconds + MEASURED.rest_core_seconds
    True
    """
    return images / 1e6 * (rates.fit_core_seconds * dimension / 768 + rates.rest_core_seconds)


def encoder_table(images: int, tflops: float | None) -> list[str]:
    """A line an encoder, and one of their sums."""
    head = ["encoder", "input", "GFLOP an image", "core-hours", "pooled, GB", "layers", "maps, MB an image", "maps, TB"]
    head += ["hours to write them", "to read them once"]
    head += [f"GPU-hours at {tflops:g} TFLOP/s", "passes from which stored maps pay there"] if tflops else []
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    sums = [0.0] * 7
    for name, cost in ENCODERS.items():
        shapes = shapes_of(name)
        of_maps = images * shapes.map_bytes
        figures = [
            hours(images, cost.core_seconds),
            images * shapes.pooled_bytes / 1e9,
            shapes.map_bytes / 1e6,
            of_maps / 1e12,
            of_maps / MEASURED.maps_written / HOUR,
            of_maps / MEASURED.maps_read / HOUR,
            gpu_hours(images, cost.gflop, tflops) if tflops else 0.0,
        ]
        sums = [total + each for total, each in zip(sums, figures, strict=True)]
        cells = [
            name,
            " × ".join(map(str, shapes.input_size)),
            f"{cost.gflop:.0f}",
            *_shown(figures, str(shapes.layers)),
        ]
        if tflops:
            needed = passes_to_store(
                cost.gflop / (1000 * tflops),
                shapes.map_bytes / MEASURED.maps_read,
                shapes.map_bytes / MEASURED.maps_written,
            )
            cells += [f"{figures[-1]:.1f}", "never" if math.isinf(needed) else f"{needed:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    whole = ["all eight", "", f"{sum(cost.gflop for cost in ENCODERS.values()):.0f}", *_shown(sums, "")]
    return [*lines, f"| {' | '.join(whole + ([f'{sums[-1]:.1f}', ''] if tflops else []))} |"]


def _shown(figures: list[float], layers: str) -> list[str]:
    core, pooled, each, whole, write, read, _ = figures
    return [f"{core:,.0f}", f"{pooled:.1f}", layers, f"{each:.1f}", f"{whole:.1f}", f"{write:.1f}", f"{read:.1f}"]


def other_lines(images: int, image_bytes: float, network_bytes: float) -> list[str]:
    """What the encoders' own table lacks: reading, digests, network, storing embeddings, probes."""
    shapes = {name: shapes_of(name) for name in ENCODERS}
    every = len(ENCODERS) * images
    pooled = sum(images * each.pooled_bytes for each in shapes.values())
    maps = sum(images * each.map_bytes for each in shapes.values())
    probes = sum(probe_core_seconds(images, each.pooled) for each in shapes.values())
    digest = images * (MEASURED.digest_core_seconds + image_bytes / MEASURED.digest_bytes)
    rows = {
        "images read and prepared, once an encoder: core-hours, 512² PNG / 1024² DICOM": (
            f"{hours(every, MEASURED.png_core_seconds):.0f} / {hours(every, MEASURED.dicom_core_seconds):.0f}"
        ),
        "first checks and digests: core-hours": f"{digest / HOUR:.1f}",
        f"images over the network, {1 + len(ENCODERS)} times {images * image_bytes / 1e12:.1f} TB: hours": (
            f"{(every + images) * image_bytes / network_bytes / HOUR:.1f}"
        ),
        f"pooled embeddings stored, {pooled / 1e9:.0f} GB: minutes": f"{pooled / MEASURED.pooled_bytes / 60:.1f}",
        f"all maps over the network once, {maps / 1e12:.0f} TB: hours": f"{maps / network_bytes / HOUR:.0f}",
        "eight linear probes with intervals: core-minutes": f"{probes / 60:.0f}",
    }
    return ["| what | |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in rows.items())]


def count(name: str) -> Cost:
    """GFLOP of one image counted, and seconds of one core: the shorter of two passes after a first one."""
    import torch

    from evalfm.features.cost import operation_counter

    torch.set_num_threads(1)
    encoder = load_encoder(name, weights="random")
    blank = torch.zeros(1, encoder.preparer.facts.channels, *encoder.input_size)
    counter = operation_counter()
    seconds = []
    with torch.inference_mode():
        with counter:
            encoder.encode(blank)
        for _ in range(2):
            began = time.process_time()
            encoder.encode(blank)
            seconds.append(time.process_time() - began)
    return Cost(counter.get_total_flops() / 1e9, min(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--gpu-tflops", type=float, help="what your GPU sustains, in 10^12 operations a second")
    parser.add_argument(
        "--image-megabytes", type=float, default=1024 * 1024 * 2 / 1e6, help="of a file; 1024² of 16 bits"
    )
    parser.add_argument("--network-gigabits", type=float, default=10.0, help="of the link to the shared folder")
    parser.add_argument("--count", nargs="+", metavar="ENCODER", help="count and time these, and nothing more")
    options = parser.parse_args()
    for name in options.count or ():
        print(f"{name}: {count(name)}")
    if options.count:
        return
    print("\n".join(encoder_table(options.images, options.gpu_tflops)), end="\n\n")
    print("\n".join(other_lines(options.images, options.image_megabytes * 1e6, options.network_gigabits * 1e9 / 8)))


if __name__ == "__main__":
    main()
