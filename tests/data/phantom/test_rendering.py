from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evalfm.data.phantom.rendering import Look, draw_look, expose

LOOK = replace(draw_look(np.random.default_rng(0), lying=False), collimation=(0.0, 0.0, 0.0, 0.0))


def exposed(size: int, look: Look, body: float = 2.0, device: float = 0.0, grain: bool = True) -> np.ndarray:
    field = np.full((size, size), body, dtype=np.float32)
    devices = np.zeros_like(field)
    devices[: size // 2] = device
    noise = np.random.default_rng(1).standard_normal((size, size), dtype=np.float32) * grain
    return expose(field, devices, np.zeros_like(field), look, noise)


def test_noise_averages_out_to_the_same_at_every_size() -> None:
    small, large = exposed(128, LOOK), exposed(256, LOOK)
    assert large.std() == pytest.approx(2 * small.std(), rel=0.03)
    assert large.reshape(128, 2, 128, 2).mean(axis=(1, 3)).std() == pytest.approx(small.std(), rel=0.03)


def test_more_attenuation_is_brighter_and_noisier() -> None:
    levels = [exposed(64, LOOK, device=device, grain=False)[:32].mean() for device in (0.0, 0.2, 0.5, 1.0, 4.0)]
    assert np.all(np.diff(levels) > 0)
    image = exposed(128, replace(LOOK, gamma=1.0, shoulder=50.0), device=0.6)
    assert image[:64].std() > 1.1 * image[64:].std()


def test_scatter_lowers_contrast() -> None:
    contrast = []
    for scatter in (0.0, 0.5):
        image = exposed(64, replace(LOOK, scatter=scatter), device=0.5, grain=False)
        contrast.append(image[:32].mean() - image[32:].mean())
    assert contrast[1] < contrast[0]


def test_collimation_darkens_the_margins_requested() -> None:
    image = exposed(64, replace(LOOK, collimation=(0.125, 0.0, 0.25, 0.0)), grain=False)
    dark = image[32] < 0.1 * image[32, 32]
    assert np.flatnonzero(~dark)[[0, -1]].tolist() == [8, 47]
