"""Synthetic frontal chest radiographs with full truth: ``render`` a film, ``make_phantom`` a data set."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalfm.data.phantom.dataset import make_phantom
    from evalfm.data.phantom.dials import Dials
    from evalfm.data.phantom.film import Film, render, trace

__all__ = ["Dials", "Film", "make_phantom", "render", "trace"]

LABELS = (
    *("sex", "age", "view", "scanner", "pneumothorax", "cardiomegaly", "chest_tube", "ecg_leads"),
    *("ctr", "pneumothorax_area"),
)
"""Columns of a phantom that can be asked for, known before one is drawn."""

_HOME = {"Dials": "dials", "Film": "film", "make_phantom": "dataset", "render": "film", "trace": "film"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: pandas and scipy are not loaded before."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
