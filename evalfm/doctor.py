"""Looks at the machine and at one encoder, and says a remedy for whatever is wrong."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from evalfm.data.registered import cache_folder
from evalfm.errors import EvalfmError

NEEDED_DISK_BYTES = 2 * 1024**3
HUB_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what was looked at.
        fine: False where something must be done before work; None where it only limits what can be done.
        said: what was found.
        remedy: what to do, where something is wrong.
    """

    name: str
    fine: bool | None
    said: str
    remedy: str = ""


def examine(encoder: str | None = None, weights: str = "hub") -> Iterator[Finding]:
    """Look at versions, device, hub, disk and cache, then send a test image through ``encoder`` if one is named."""
    for look in (_versions, _device, _disk, _hub):
        yield look()
    if encoder is not None:
        yield _encoder(encoder, weights)


def _versions() -> Finding:
    from evalfm.probing.provenance import versions

    found = versions()
    missing = [name for name, version in found.items() if version == "not installed"]
    said = ", ".join(f"{name} {version}" for name, version in found.items())
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


def _hub() -> Finding:
    from huggingface_hub import constants

    host = constants.ENDPOINT.split("//")[-1].split("/")[0]
    remedy = "Encoders from the hub need --weights PATH; pixels, hog and random:resnet18 need none."
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", None, "HF_HUB_OFFLINE is set: only what is in its cache can be loaded", remedy)
    try:
        with socket.create_connection((host, 443), timeout=HUB_TIMEOUT_SECONDS):
            return Finding("hub", True, "Hugging Face can be reached")
    except OSError as error:
        return Finding("hub", None, f"Hugging Face cannot be reached ({error})", remedy)


def _encoder(name: str, weights: str) -> Finding:
    """Load ``name``, run one phantom film through it twice and compare."""
    import torch

    from evalfm.data.images import Image
    from evalfm.data.phantom import render
    from evalfm.encoders import load_encoder

    try:
        encoder = load_encoder(name, weights=weights)
        film = render(0, 0, 256)
        image = Image(film.pixels[None], "unit-interval", 8, None, "phantom")
        tensor, _ = encoder.prepare(image)
        first, second = (encoder.encode(tensor[None]) for _ in range(2))
    except EvalfmError as error:
        return Finding(f"encoder {name}", False, str(error), "See the sentence before this one.")
    shapes = ", ".join("×".join(map(str, level.shape[1:])) for level in first.maps) or "none"
    said = f"pooled {first.pooled.shape[1]}, maps {shapes}" + (", random weights" if encoder.random_weights else "")
    if not bool(torch.isfinite(first.pooled).all()):
        return Finding(f"encoder {name}", False, said, "Features are not finite: the weights or the card are wrong.")
    if not torch.equal(first.pooled, second.pooled):
        return Finding(
            f"encoder {name}", False, said, "The same film gave two answers: dropout or sampling is left on."
        )
    return Finding(f"encoder {name}", True, said)
