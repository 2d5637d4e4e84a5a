"""JSRT's films: 2048 × 2048 numbers without any header, big-endian, bright where the film is dark."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evalfm.data.stored import Stored
from evalfm.errors import EvalfmError

SUFFIX = ".img"
SIDE = 2048
BITS = 12
BYTES = 2 * SIDE * SIDE


def is_raw_film(path: Path) -> bool:
    """Whether ``path`` is called and as long as a film of JSRT; there is no mark to know one by."""
    return path.suffix.lower() == SUFFIX and path.stat().st_size == BYTES


def read_raw_film(path: Path, locator: str) -> Stored:
    """The film with air dark: 4095 less the stored value.

    Raises:
        EvalfmError: a value has more than 12 bits, so that it is another format.
    """
    values = np.fromfile(path, dtype=">u2").reshape(1, SIDE, SIDE)
    top = 2**BITS - 1
    if values.max() > top:
        raise EvalfmError(
            f"{locator} holds values up to {values.max()}, where JSRT's films have 12 bits; check the file."
        )
    return Stored((top - values).astype(np.uint16), BITS, "JSRT raw, inverted")
