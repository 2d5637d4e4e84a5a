"""The whole way from files to features, maps, heads and fine-tuning on one GPU, each stage against what bounds it.

    python -u benchmarks/gpu_pipeline.py                           (under 8 minutes on an H100 with 16 cores)
    python -u benchmarks/gpu_pipeline.py --device cpu --quick      (shows that it runs; its figures mean nothing)

Prints, each with what is wanted: the device's own bf16 product and the disk's plain rate; `encode` against the
library's model (plain and compiled); extraction from 512² PNG against the slower of `encode` and a bare DataLoader;
extraction with maps on disk against half of `encode` or .8 of the disk; fine-tuning against a bare loop; the seconds
of `probe --task ptx-seg` with both light heads on 400 images, with the seconds of each stage; and whether two
extractions on one device are bit-equal. Weights are random, images are the phantom's. A part that fails is said and
stops no other; one that would begin after --minutes is left out and said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch.utils.data import DataLoader, Dataset

from evalfm.data.manifest import Manifest
from evalfm.data.phantom import make_phantom
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder
from evalfm.features.encoded import EncodedSource
from evalfm.features.forward import automatic_batch_size
from evalfm.features.map_costs import disk_rates
from evalfm.features.profile import StageTimes
from evalfm.features.store import FeatureStore, estimate_bytes
from evalfm.probing.probe import probe

HERE = Path(__file__).parent
PRODUCT_SIZE, PRODUCT_ROUNDS = 8192, 50


@dataclass
class Bench:
    """What the parts share.

    Attributes:
        folder: on the disk that is measured.
        rates: images a second that were measured, by name.
    """

    device: str
    quick: bool
    folder: Path
    encoders: tuple[str, ...]
    images: int
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether there is one to wait for."""
        return self.device.startswith("cuda")

    def encoder(self, name: str) -> Encoder:
        """``name`` with random weights, in the precision that the device is given of itself."""
        weights = "hub" if name.startswith("random:") else "random"
        return load_encoder(name, weights=weights, precision="auto", device=self.device)

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def manifest(self, images: int) -> Manifest:
        """Phantoms of 512²."""
        place = self.folder / f"phantom-{images}"
        workers = min(16, os.cpu_count() or 1)
        return make_phantom(place, n=images, size=512, workers=workers) if not place.exists() else Manifest.read(place)

    def script(self, *words: str) -> None:
        """Run another benchmark and show what it prints."""
        subprocess.run([sys.executable, "-u", str(HERE / words[0]), *words[1:]], check=True, timeout=400)


def machine(bench: Bench) -> None:
    """The rates that bound everything else."""
    dtype, size = torch.bfloat16, PRODUCT_SIZE if bench.on_gpu else 1024
    left, right = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    bench.wait()
    started = time.perf_counter()
    for _ in range(PRODUCT_ROUNDS):
        left @ right
    bench.wait()
    teraflops = PRODUCT_ROUNDS * 2 * size**3 / (time.perf_counter() - started) / 1e12
    name = torch.cuda.get_device_name() if bench.on_gpu else "processor"
    rates = disk_rates(bench.folder)
    print(f"{name}, torch {torch.__version__}, {os.cpu_count()} cores; bf16 product {teraflops:.1f} TFLOP/s")
    if rates is not None:
        bench.rates["disk"] = rates.write
        print(f"disk: {rates.write / 1e6:.0f} MB/s written and flushed, {rates.read / 1e6:.0f} MB/s read")


def encode(bench: Bench) -> None:
    """`encode` alone, as extraction calls it."""
    for name in bench.encoders:
        encoder = bench.encoder(name)
        size = automatic_batch_size(encoder) if not bench.quick else 2
        batch = torch.randn(size, encoder.preparer.facts.channels, *encoder.input_size, device=bench.device)
        encoder.encode(batch, check=False)
        bench.wait()
        rounds = max(2, (512 if bench.on_gpu else 4) // size)
        started = time.perf_counter()
        for _ in range(rounds):
            encoder.encode(batch, check=False)
        bench.wait()
        rate = rounds * size / (time.perf_counter() - started)
        bench.rates[f"encode {name}"] = rate
        print(f"{name}: encode {rate:.1f} images/s in batches of {size}, path {encoder.feature_path.name}")


def against_library(bench: Bench) -> None:
    """The same model by its library (wanted: at least .95)."""
    precision = "bfloat16" if bench.on_gpu else "float32"
    models = ["--models", "resnet50", "--rounds", "1"] if bench.quick else ["--rounds", "5"]
    bench.script("encode.py", "--device", bench.device, "--precision", precision, *models)
    if bench.on_gpu:
        bench.script("encode.py", "--device", bench.device, "--precision", precision, *models, "--compile")


class PlainImages(Dataset):
    """The same files and filter in a few lines."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]) -> None:
        self._paths, self._size = paths, size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> np.ndarray:
        with PIL.Image.open(self._paths[row]) as picture:
            return np.array(picture.resize(self._size[::-1], PIL.Image.Resampling.BICUBIC))


def loader_rate(bench: Bench, encoder: Encoder, manifest: Manifest, workers: int) -> float:
    paths = [manifest.root / manifest.locator(row) for row in range(len(manifest))]
    data = PlainImages(paths, encoder.input_size)
    loader = DataLoader(data, batch_size=32, num_workers=workers, multiprocessing_context="spawn")
    batches = iter(loader)
    next(batches)
    started = time.perf_counter()
    read = sum(len(batch) for batch in batches)
    return read / (time.perf_counter() - started)


def extraction(bench: Bench) -> None:
    """From files to stored embeddings (wanted: at least .9 of the slower of `encode` and the loader)."""
    manifest, workers = bench.manifest(bench.images), min(16, os.cpu_count() or 1)
    for name in bench.encoders:
        encoder, times = bench.encoder(name), StageTimes()
        bare = loader_rate(bench, encoder, manifest, workers)
        with tempfile.TemporaryDirectory(dir=bench.folder) as place:
            source = EncodedSource(encoder, manifest, FeatureStore(place), times=times)
            with source:
                rows = range(len(manifest))
                manifest.digests()
                # Starting readers and finding the batch are not the steady state.
                source.prefetch(rows[: len(rows) // 4])
                started = time.perf_counter()
                source.prefetch(rows)
                rate = (len(rows) - len(rows) // 4) / (time.perf_counter() - started)
        bound = min(bare, bench.rates.get(f"encode {name}", bare))
        print(f"{name}: extraction {rate:.1f} images/s, loader {bare:.1f}; {rate / bound:.3f} of the slower bound")
        print("\n".join(f"  {line}" for line in times.table()))


def maps(bench: Bench) -> None:
    """With maps on disk (wanted: at least .5 of `encode` or .8 of the disk)."""
    name = bench.encoders[0]
    encoder, manifest = bench.encoder(name), bench.manifest(min(bench.images, 400))
    with tempfile.TemporaryDirectory(dir=bench.folder) as place:
        source = EncodedSource(encoder, manifest, FeatureStore(place), maps="store")
        with source:
            manifest.digests()
            started = time.perf_counter()
            source.prefetch(range(len(manifest)), maps=True)
            seconds = time.perf_counter() - started
    rate, nbytes = len(manifest) / seconds, estimate_bytes(source, len(manifest)) / seconds
    disk = f", {nbytes / bench.rates['disk']:.3f} of the disk" if "disk" in bench.rates else ""
    encoded = bench.rates.get(f"encode {name}")
    share = f", {rate / encoded:.3f} of encode" if encoded else ""
    print(f"{name}: maps stored {rate:.1f} images/s, {nbytes / 1e6:.0f} MB/s{disk}{share}; start-up included")


def fine_tuning(bench: Bench) -> None:
    """Against a bare loop over cached images (wanted: at least .85)."""
    words = ["--images", "16", "--epochs", "2"] if bench.quick else ["--images", "800", "--epochs", "4"]
    name = "random:resnet18" if bench.quick else bench.encoders[0]
    bench.script("training.py", "--encoder", name, *words, "--device", bench.device)


def segmentation(bench: Bench) -> None:
    """`probe --task ptx-seg` with both light heads (wanted: under 60 s)."""
    images = 24 if bench.quick else 400
    manifest, times = bench.manifest(images), StageTimes()
    name = "random:resnet18" if bench.quick else bench.encoders[0]
    weights = "hub" if name.startswith("random:") else "random"
    with tempfile.TemporaryDirectory(dir=bench.folder) as place:
        os.environ["EVALFM_HOME"] = f"{place}/home"
        started = time.perf_counter()
        options = {"weights": weights, "baselines": "none", "devices": bench.device, "out": f"{place}/runs"}
        runs = probe(name, "ptx-seg", data=manifest, heads=["linear", "multiscale"], times=times, **options)
        seconds = time.perf_counter() - started
    print(f"{name}: ptx-seg, {len(runs)} heads, {images} images: {seconds:.1f} s (random weights)")
    print("\n".join(f"  {line}" for line in times.table()))


def determinism(bench: Bench) -> None:
    """Two extractions on one device (wanted: bit-equal)."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    name, manifest = bench.encoders[-1], bench.manifest(24 if bench.quick else 400)
    found = []
    for _ in range(2):
        place = bench.folder / f"determinism-{len(found)}"
        with EncodedSource(bench.encoder(name), manifest, FeatureStore(place), batch_size=16) as source:
            found.append(source.features(range(24 if bench.quick else 48), maps=True))
    same = torch.equal(found[0].pooled, found[1].pooled)
    same = same and all(torch.equal(*pair) for pair in zip(found[0].maps, found[1].maps, strict=True))
    print(f"{name}: two extractions are {'bit-equal' if same else 'NOT equal'}")
    torch.use_deterministic_algorithms(False)


PARTS: tuple[Callable[[Bench], None], ...] = (
    machine,
    encode,
    extraction,
    segmentation,
    maps,
    against_library,
    fine_tuning,
    determinism,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, help="on the disk that is meant; temporary by default")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("There is no GPU here; run this on a machine that has one, or with --device cpu --quick.")
    encoders = ("random:resnet18",) if options.quick else ("rad-dino", "random:vit_base_patch16_224")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    started, failed = time.perf_counter(), []
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        images = 96 if options.quick else options.images
        bench = Bench(options.device, options.quick, Path(place), encoders, images)
        for part in PARTS:
            since = time.perf_counter()
            if since - started > 60 * options.minutes:
                print(f"{part.__name__}: left out, the time is up", flush=True)
                failed.append(part.__name__)
                continue
            print(f"== {part.__name__}: {(part.__doc__ or '').strip()}", flush=True)
            try:
                part(bench)
            except Exception:
                traceback.print_exc()
                failed.append(part.__name__)
            print(f"   {time.perf_counter() - since:.1f} s", flush=True)
    if failed:
        sys.exit(f"Failed or left out: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
