"""Rows of the encoders of networks."""

from __future__ import annotations

from . import Expected

EXPECTED: dict[str, Expected] = {}
