"""From thicknesses to an image: Beer-Lambert along the ray, scatter, quantum noise, processing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from evalfm.data.phantom.frame import Field, bands, enlarge

WATER = 7.5
"""Effective attenuation of soft tissue per image side (.175 per cm at chest energies, 43 cm)."""


@dataclass(frozen=True)
class Look:
    """How a scanner exposes and processes.

    Attributes:
        scanner: its name.
        low, high: attenuations shown black and white, relative to the image's own level.
        gamma: of the display curve; shoulder: how softly it saturates.
        equalise: how far slow differences in brightness are evened out (0 to 1).
        sharpen: gain of the unsharp mask.
        noise: relative quantum noise per pixel behind no patient, on an image of 256 pixels.
        scatter: share of scattered over primary radiation, on average.
        collimation: dark margins (left, top, right, bottom), in image sides.
    """

    scanner: str
    low: float
    high: float
    gamma: float
    shoulder: float
    equalise: float
    sharpen: float
    noise: float
    scatter: float
    collimation: tuple[float, float, float, float]


_SCANNERS = {
    "A": {"gamma": 1.00, "equalise": 0.30, "sharpen": 0.30, "noise": 0.0040, "scatter": 0.20},
    "B": {"gamma": 1.20, "equalise": 0.15, "sharpen": 0.12, "noise": 0.0060, "scatter": 0.17},
    "C": {"gamma": 0.85, "equalise": 0.45, "sharpen": 0.55, "noise": 0.0035, "scatter": 0.17},
}


def draw_look(rng: np.random.Generator, *, lying: bool) -> Look:
    """A scanner and its settings for one image; a portable (AP) image scatters more and is noisier."""
    scanner = "ABC"[int(rng.choice(3, p=(0.30, 0.45, 0.25) if lying else (0.45, 0.30, 0.25)))]
    base = _SCANNERS[scanner]
    margins = np.where(rng.random(4) < 0.16, rng.uniform(0.008, 0.05, 4), 0.0)
    return Look(
        scanner=scanner,
        low=float(rng.normal(0.55, 0.13)),
        high=float(rng.normal(3.35, 0.22)),
        gamma=float(base["gamma"] * np.exp(rng.normal(0, 0.10))),
        shoulder=float(rng.uniform(3.0, 5.0)),
        equalise=float(np.clip(base["equalise"] + rng.normal(0, 0.06), 0, 0.7)),
        sharpen=float(base["sharpen"] * np.exp(rng.normal(0, 0.2))),
        noise=float(base["noise"] * (1.5 if lying else 1.0) * np.exp(rng.normal(0, 0.25))),
        scatter=float(base["scatter"] * (1.35 if lying else 1.0) * np.exp(rng.normal(0, 0.12))),
        collimation=(float(margins[0]), float(margins[1]), float(margins[2]), float(margins[3])),
    )


def expose(body: Field, devices: Field, lead: Field, look: Look, noise: Field) -> Field:
    """The image [H, W] in [0, 1], air dark and bone bright.

    Args:
        body: line integral of attenuation through the patient.
        devices: the same for devices, 0 where there is none.
        lead: the same for what lies on the detector and stops scatter too.
        look: the scanner's settings.
        noise: standard normal, one value per pixel.

    Scatter and neighbourhood operations see the body alone: a device changes only the pixels it covers.
    """
    size = body.shape[0]
    primary = np.exp(-body)
    scattered = enlarge(_slow(primary, 0.05) * np.float32(look.scatter), size) + np.float32(0.003)
    plain = -np.log(primary + scattered)
    slow = _slow(plain, 0.085)
    mean = np.float32(np.clip(slow, 0, 4).mean())
    lift = enlarge(np.float32(look.equalise) * (slow - mean), size)
    near = enlarge(_slow(plain, 0.010, 128), size)
    grain = np.float32(look.noise * size / 256)
    level = np.float32(0.75 * (mean - 2.1))
    image = np.empty_like(body)
    for band in bands((slice(0, size), slice(0, size))):
        seen = plain[band]
        processed = np.float32(look.sharpen) * (seen - near[band]) - lift[band] * np.clip(seen, 0, 1) - level
        arriving = (primary[band] * np.exp(-devices[band]) + scattered[band]) * np.exp(-lead[band])
        image[band] = _display(processed - np.log(arriving) + grain * noise[band] / np.sqrt(arriving), look)
    return _collimate(image, look)


def _slow(field: Field, sigma: float, grid: int = 64) -> Field:
    """``field`` blurred by ``sigma`` image sides, on a grid of at most ``grid`` x ``grid``."""
    size = field.shape[0]
    coarse = min(size, grid)
    whole = size % coarse == 0
    small = np.asarray(Image.fromarray(field).reduce(size // coarse)) if whole else enlarge(field, coarse)
    return np.asarray(gaussian_filter(small, sigma * coarse, truncate=3.0, mode="nearest"))


def _display(shown: Field, look: Look) -> Field:
    """Window, gamma, and a shoulder that approaches white without reaching it."""
    value = np.maximum((shown - np.float32(look.low)) / np.float32(look.high - look.low), 0)
    value **= np.float32(look.gamma)
    power = np.float32(look.shoulder)
    return np.asarray(value * (1 + value**power) ** (-1 / power), dtype=np.float32)


def _collimate(image: Field, look: Look) -> Field:
    size = image.shape[0]
    left, top, right, bottom = (round(margin * size) for margin in look.collimation)
    for width, axis, far in ((left, 1, False), (top, 0, False), (right, 1, True), (bottom, 0, True)):
        if width:
            edge = slice(size - width, size) if far else slice(0, width)
            image[(slice(None), edge) if axis else (edge, slice(None))] *= np.float32(0.04)
    return image
