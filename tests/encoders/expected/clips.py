"""Rows of the encoders of clips."""

from __future__ import annotations

from . import Expected

EXPECTED: dict[str, Expected] = {}
