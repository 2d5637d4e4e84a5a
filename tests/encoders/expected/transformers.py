"""Rows of the encoders of transformers."""

from __future__ import annotations

from . import Expected

EXPECTED: dict[str, Expected] = {}
