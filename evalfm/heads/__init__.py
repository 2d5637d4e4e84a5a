"""What learns on features: heads by name, loaded lazily."""

from __future__ import annotations

from evalfm.heads.registry import HeadEntry, list_heads, load_head

__all__ = ["HeadEntry", "list_heads", "load_head"]
