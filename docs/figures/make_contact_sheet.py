"""Draw docs/images/phantom.png: six phantom films and what is known of each.

python docs/figures/make_contact_sheet.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt

from evalfm.data.phantom import Film, render, trace

SEED = 0
SIZE = 512
TARGET = Path(__file__).resolve().parents[1] / "images" / "phantom.png"


def first(wanted: Callable[[Film], bool], start: int = 0) -> int:
    """The first film from ``start`` on whose truth is as ``wanted``."""
    index = start
    while not wanted(trace(SEED, index, 64)):
        index += 1
    return index


def panels() -> Iterator[tuple[Film, str, bool]]:
    """Films with their titles, and whether their masks are drawn."""
    healthy = first(lambda film: not (film.pneumothorax or film.ecg_leads or film.chest_tube or film.cardiomegaly), 1)
    yield render(SEED, healthy, SIZE), "no finding", False
    collapsed = first(lambda film: film.pneumothorax_area > 0.03 and not film.ecg_leads, 40)
    yield render(SEED, collapsed, SIZE, tube=False), "pneumothorax", False
    yield render(SEED, collapsed, SIZE, tube=True), "the same with a tube", False
    yield render(SEED, collapsed, SIZE, tube=True), "its truth", True
    lying = first(lambda film: film.view == "AP" and film.ecg_leads and not film.chest_tube, 10)
    yield render(SEED, lying, SIZE), "AP film, ECG leads", False
    wide = first(lambda film: film.ctr > 0.56 and film.view == "PA" and not film.ecg_leads, 60)
    yield render(SEED, wide, SIZE), "cardiomegaly", False


def main() -> None:
    """Draw the sheet."""
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 6.9), layout="constrained", facecolor="white")
    for axis, (film, title, truth) in zip(axes.flat, panels(), strict=True):
        axis.imshow(film.pixels, cmap="gray", vmin=0, vmax=1, interpolation="lanczos")
        if truth:
            for name, colour in (
                ("left_lung", "#66c2ff"),
                ("right_lung", "#66c2ff"),
                ("heart", "#ff8a80"),
                ("pneumothorax", "#ffd54f"),
                ("chest_tube", "#b9f6ca"),
            ):
                axis.contour(film.masks[name], levels=[0.5], colors=colour, linewidths=1.1)
        axis.set_title(f"{title} ({film.sex}, {film.age}, {film.view}, CTR {film.ctr:.2f})", fontsize=9)
        axis.axis("off")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(TARGET, dpi=110, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
