"""evalfm: how good the features of a radiology foundation model are, and which encoder to take."""

from __future__ import annotations

__version__ = "0.1.0"
