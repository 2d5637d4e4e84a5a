"""Draw docs/images/phantom.png: six phantom images and what is known of each.

python docs/figures/make_contact_sheet.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt

from evalfm.data.phantom import Radiograph, render, trace

SEED = 0
SIZE = 512
TARGET = Path(__file__).resolve().parents[1] / "images" / "phantom.png"


def first(wanted: Callable[[Radiograph], bool], start: int = 0) -> int:
    """The first image from ``start`` on whose truth is as ``wanted``."""
    index = start
    while not wanted(trace(SEED, index, 64)):
        index += 1
    return index


def panels() -> Iterator[tuple[Radiograph, str, bool]]:
    """Images with their titles, and whether their masks are drawn."""
    healthy = first(
        lambda image: not (image.pneumothorax or image.ecg_leads or image.chest_tube or image.cardiomegaly), 1
    )
    yield render(SEED, healthy, SIZE), "no finding", False
    collapsed = first(lambda image: image.pneumothorax_area > 0.03 and not image.ecg_leads, 40)
    yield render(SEED, collapsed, SIZE, tube=False), "pneumothorax", False
    yield render(SEED, collapsed, SIZE, tube=True), "the same with a tube", False
    yield render(SEED, collapsed, SIZE, tube=True), "its truth", True
    lying = first(lambda image: image.view == "AP" and image.ecg_leads and not image.chest_tube, 10)
    yield render(SEED, lying, SIZE), "AP image, ECG leads", False
    wide = first(lambda image: image.ctr > 0.56 and image.view == "PA" and not image.ecg_leads, 60)
    yield render(SEED, wide, SIZE), "cardiomegaly", False


def main() -> None:
    """Draw the sheet."""
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 6.9), layout="constrained", facecolor="white")
    for axis, (image, title, truth) in zip(axes.flat, panels(), strict=True):
        axis.imshow(image.pixels, cmap="gray", vmin=0, vmax=1, interpolation="lanczos")
        if truth:
            for name, colour in (
                ("left_lung", "#66c2ff"),
                ("right_lung", "#66c2ff"),
                ("heart", "#ff8a80"),
                ("pneumothorax", "#ffd54f"),
                ("chest_tube", "#b9f6ca"),
            ):
                axis.contour(image.masks[name], levels=[0.5], colors=colour, linewidths=1.1)
        axis.set_title(f"{title} ({image.sex}, {image.age}, {image.view}, CTR {image.ctr:.2f})", fontsize=9)
        axis.axis("off")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(TARGET, dpi=110, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
