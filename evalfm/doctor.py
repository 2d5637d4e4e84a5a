"""Looks at the machine and at one encoder, and says a remedy for whatever is wrong."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalfm.data.registered import cache_folder
from evalfm.errors import SHOWN, EvalfmError

if TYPE_CHECKING:
    from torch import Tensor

    from evalfm.encoders import Encoder

NEEDED_DISK_BYTES = 2 * 1024**3
HUB_TIMEOUT_SECONDS = 3.0
LIBRARY = "beside the library"
MOST_APART = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}
"""Largest difference, as a share of the largest value, between an image encoded alone and in a batch, by precision."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what was looked at.
        fine: False where something must be done before work; None where it only limits what can be done.
        said: what was seen.
        remedy: what to do, where something is wrong.
    """

    name: str
    fine: bool | None
    said: str
    remedy: str = ""


def examine(encoder: str | None = None, *, golden: bool = False, verify: bool = False, **how: Any) -> Iterator[Finding]:
    """Look at versions, device, hub, disk and stored features, then send a test image through ``encoder``, if named.

    With ``verify`` the encoder is held against its library's plain model. With ``golden`` its embedding is written down
    for later looks; ``how`` are arguments of ``load_encoder``.
    """
    for look in (_versions, _device, _disk, _features, _hub):
        yield look()
    if encoder is not None:
        yield from _encoder(encoder, golden, how)
        if verify:
            yield _beside_library(encoder, how)


def _beside_library(name: str, how: dict[str, Any]) -> Finding:
    """The encoder beside the plain model of its library; not fine where any part differs."""
    from evalfm.encoders import load_encoder
    from evalfm.encoders.beside_library import as_table, beside_library

    try:
        encoder = load_encoder(name, **how | {"device": "cpu"})
        found = beside_library(encoder)
    except EvalfmError as error:
        return Finding("library", False, f"not compared: {error}", "Leave --verify out, or see the sentence before.")
    said = f"{'the same' if found.same else 'NOT the same'}\n{as_table(encoder, found)}"
    remedy = "" if found.same else "Do not use its figures; send this table to evalfm's issues."
    return Finding(LIBRARY, found.same, said, remedy)


def _versions() -> Finding:
    from evalfm.probing.provenance import versions

    installed = versions()
    missing = [name for name, version in installed.items() if version == "not installed"]
    said = ", ".join(f"{name} {version}" for name, version in installed.items())
    if missing:
        return Finding(
            "versions", False, said, f"Install evalfm again in a fresh environment: {', '.join(missing)} missing."
        )
    try:
        import torchvision.ops  # noqa: F401  (a torchvision that does not fit the torch build fails right here)
    except (ImportError, RuntimeError) as error:
        return Finding("versions", False, f"{said}; {error}", "Install torch and torchvision together from one index.")
    return Finding("versions", True, said)


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Finding("device", True, f"{properties.name}, {properties.total_memory / 1024**3:.0f} GiB")
    remedy = "Fine for small encoders; large ones want a GPU and a torch build for it."
    return Finding("device", None, f"no GPU, CPU with {os.cpu_count()} cores", remedy)


def _disk() -> Finding:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Finding("cache", False, f"not writable ({error.strerror})", "Set EVALFM_HOME to a folder you can write.")
    free = shutil.disk_usage(folder).free
    said = f"{free / 1024**3:.1f} GiB free for features"
    if free < NEEDED_DISK_BYTES:
        return Finding("cache", False, said, "Free at least 2 GiB, or set EVALFM_HOME to another disk.")
    return Finding("cache", True, said)


def _features() -> Finding:
    from evalfm.features.store import FeatureStore, old_format_folders

    folder = cache_folder() / "features"
    said = f"{FeatureStore(folder).map_bytes / 1024**3:.1f} GiB of feature maps stored"
    old = old_format_folders(folder)
    if old:
        said += f"; those of {old:,} encoder{'s' * (old > 1)} in an older format, which are not read any more"
        return Finding("features", None, said, f"`rm -r {folder}/*/1` frees their disk.")
    return Finding("features", True, said)


def _hub() -> Finding:
    from huggingface_hub import constants

    host = constants.ENDPOINT.split("//")[-1].split("/")[0]
    remedy = "Encoders from the hub need --weights PATH; squeezenet1-0.caffe, pixels and hog need none."
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", None, "HF_HUB_OFFLINE is set: only what is in its cache can be loaded", remedy)
    try:
        with socket.create_connection((host, 443), timeout=HUB_TIMEOUT_SECONDS):
            return Finding("hub", True, "Hugging Face can be reached")
    except OSError as error:
        return Finding("hub", None, f"Hugging Face cannot be reached ({error})", remedy)


def _encoder(name: str, golden: bool, how: dict[str, Any]) -> Iterator[Finding]:
    """Load ``name``, run the test image through it alone and in a batch, and measure."""
    import torch

    from evalfm.encoders import load_encoder
    from evalfm.encoders.golden import golden_image, write_golden
    from evalfm.features.forward import device_of

    try:
        encoder = load_encoder(name, **how)
        tensor = encoder.prepare(golden_image())[0].to(device_of(encoder))
        first, second = (encoder.encode(tensor[None]) for _ in range(2))
        batched = encoder.encode(torch.stack([torch.zeros_like(tensor), tensor]))
        written = write_golden(encoder) if golden else None
    except EvalfmError as error:
        yield Finding(f"encoder {name[:SHOWN]}", False, str(error), "See the sentence before this one.")
        return
    shapes = ", ".join("×".join(map(str, level.shape[1:])) for level in first.maps) or "none"
    tensors = f"{len(encoder.state_dict())} tensors"
    said = f"pooled {first.pooled.shape[1]}, maps {shapes}, {'random weights' if encoder.random_weights else tensors}"
    if not torch.equal(first.pooled, second.pooled):
        remedy = "The same image gave two embeddings: dropout or sampling is left on."
        yield Finding(f"encoder {name}", False, said, remedy)
        return
    yield Finding(f"encoder {name}", True, said)
    apart = float((batched.pooled[1] - first.pooled[0]).abs().max() / first.pooled.abs().max().clamp_min(1e-12))
    fine = apart < MOST_APART[encoder.precision]
    remedy = "" if fine else "Another image in the batch changes the features; batch norm may be in training."
    yield Finding("batches", fine, f"an image alone and in a batch differ by {apart:.1e} at most", remedy)
    yield _golden(encoder)
    if written is not None:
        yield Finding("golden embedding written", True, f"{written}; its block can stand under `golden:` on the card")
    if encoder.card.text_tower is not None:
        yield _text(encoder)
    yield _speed(encoder, tensor)


def _golden(encoder: Encoder) -> Finding:
    from evalfm.encoders.golden import compare, find_golden

    golden = find_golden(encoder.card)
    if golden is None:
        return Finding("golden embedding", None, "none on the card", "With the true weights, --write-golden keeps one.")
    if encoder.preparer.facts != encoder.card.preprocessing or encoder.precision != "float32":
        said = "not compared: it was made at the card's own input size, in float32"
        return Finding("golden embedding", None, said, "Leave --input-size and --precision out.")
    drift = compare(encoder, golden)
    if drift is None:
        return Finding("golden embedding", None, "it was made with other weights, so it is not compared")
    said = f"differs by {drift.difference:.1e} of a typical value"
    if drift.same:
        return Finding("golden embedding", True, said)
    made = ", ".join(f"{name} {version}" for name, version in drift.libraries.items())
    return Finding("golden embedding", False, said, f"The features have drifted; it was made with {made}.")


def _text(encoder: Encoder) -> Finding:
    assert encoder.card.text_tower is not None
    tower = encoder.card.text_tower
    try:
        texts = encoder.encode_text([tower.present.format("pneumothorax"), tower.absent.format("pneumothorax")])
    except EvalfmError as error:
        return Finding("text tower", None, str(error))
    scale = encoder.text_tower().logit_scale
    said = f"{texts.shape[1]} dimensions, reads {tower.context_length} tokens, scale {scale:.3g}"
    return Finding("text tower", True, said)


def _speed(encoder: Encoder, tensor: Tensor) -> Finding:
    """Images a second at the automatic batch size, and what one image costs."""
    import time

    from evalfm.features.cost import measure_cost
    from evalfm.features.forward import automatic_batch_size
    from evalfm.probing.provenance import peak_memory_bytes

    cost = measure_cost(encoder)
    size = automatic_batch_size(encoder)
    batch = tensor[None].repeat(size, 1, 1, 1)
    encoder.encode(batch)
    started = time.perf_counter()
    encoder.encode(batch).pooled.cpu()
    seconds = time.perf_counter() - started
    count = sum(parameter.numel() for parameter in encoder.parameters())
    peak = peak_memory_bytes()
    memory = "" if peak is None else f", {peak / 1024**3:.1f} GiB at the process's peak"
    return Finding(
        "cost",
        True,
        f"{cost.milliseconds:.1f} ms for one image, {size / seconds:.1f} images/s in batches of {size} on "
        f"{cost.device}, {cost.gigaflops:.1f} GFLOP an image (a multiplication and an addition are two), "
        f"{count / 1e6:.1f} million parameters{memory}",
    )
