"""Synthetic frontal chest radiographs with full truth: ``render`` an image, ``make_phantom`` a data set."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalfm.data.phantom.dataset import make_phantom
    from evalfm.data.phantom.patients import Dials
    from evalfm.data.phantom.radiograph import Radiograph, render, trace

__all__ = ["BUILT_IN", "Dials", "Radiograph", "make_phantom", "render", "trace"]

LABELS = (
    *("sex", "age", "view", "scanner", "pneumothorax", "cardiomegaly", "chest_tube", "ecg_leads"),
    *("ctr", "pneumothorax_area"),
)
"""Columns of a phantom, known before one is drawn."""

BUILT_IN: dict[str, tuple[int, dict[str, float]]] = {
    "phantom": (400, {}),
    "phantom-tied": (600, {"tube_given_pneumothorax": 0.8, "tube_given_none": 0.05}),
    "phantom-untied": (600, {"tube_given_pneumothorax": 0.3, "tube_given_none": 0.3}),
}
"""Data sets that are drawn where they are named: images, and dials other than the default.

The second and the third are of the same patients: in one a chest tube goes with the pneumothorax, in the other not.
"""

_HOME = {
    "Dials": "patients",
    "Radiograph": "radiograph",
    "make_phantom": "dataset",
    "render": "radiograph",
    "trace": "radiograph",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: pandas and scipy are not loaded before."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
