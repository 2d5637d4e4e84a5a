"""One random stream per component, so that drawing one thing never moves another."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Components with a stream of their own; the numbers are part of the data's identity and never change."""

    PATIENT = 0
    ANATOMY = 1
    VESSELS = 2
    VISIT = 3
    DISEASE_OF_PATIENT = 4
    DISEASE_OF_VISIT = 5
    PNEUMOTHORAX_SHAPE = 6
    HAS_TUBE = 7
    TUBE = 8
    HAS_LEADS = 9
    LEADS = 10
    TEXTURE = 11
    GAS = 12
    LOOK = 13
    NOISE = 14
    TISSUE = 15
    HEART_OF_PATIENT = 16
    MARKER = 17


def generator(seed: int, stream: Stream, key: int) -> np.random.Generator:
    """The generator of ``stream`` for patient or film number ``key``."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(stream), key)))
