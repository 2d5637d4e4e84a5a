"""Rows of the encoders of ports."""

from __future__ import annotations

from . import Expected

EXPECTED: dict[str, Expected] = {}
