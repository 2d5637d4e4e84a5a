"""A tube painted out of a phantom against the radiograph drawn without it, in the tube and in the whole painted region.

    python benchmarks/inpainting.py

Root mean squared difference in grey values of 0 to 1, noise included, over 100 images of seed 9001. What the control
changes is what painting over does where there is no tube: the least that can remain after painting the tube out.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from evalfm.data.inpainting import Region, control_region, inpainted, widened, widening
from evalfm.data.phantom import render

RADIOGRAPHS = 100


def distance(one: NDArray[np.float32], other: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
    return float(np.sqrt(((one - other)[where].astype(np.float64) ** 2).mean()))


def main() -> None:
    print(
        "| side | images | in the tube: before | after | widened outline: before | after | nearer | no control "
        "| overlaps | changed outside | control changes | seconds a image |"
    )
    print("|---" * 12 + "|")
    for size in (256, 512, 1024):
        rows, homeless, seconds = [], 0, 0.0
        for index in range(RADIOGRAPHS):
            with_tube, without = (render(9001, index, size, tube=tube) for tube in (True, False))
            radiograph, goal, tube = with_tube.pixels, without.pixels, with_tube.masks["chest_tube"]
            started = time.perf_counter()
            wide = widened(tube, widening(size))
            region = Region.of(wide)
            lesion = with_tube.masks["pneumothorax"]
            blank = (radiograph == radiograph.min()) | (radiograph == radiograph.max())
            control = control_region(region, wide | lesion, blank)
            painted = inpainted(radiograph[None], region)[0]
            seconds += time.perf_counter() - started
            if control is None:
                homeless += 1
                continue
            place = control.mask(tube.shape)
            beside = inpainted(radiograph[None], control)[0]
            rows.append((
                distance(radiograph, goal, tube), distance(painted, goal, tube),
                distance(radiograph, goal, wide), distance(painted, goal, wide),
                float(distance(painted, goal, tube) < distance(radiograph, goal, tube)),
                float((place & (wide | lesion)).any() or place.sum() != wide.sum()),
                float((beside != radiograph)[~place].any() or (painted != radiograph)[~wide].any()),
                distance(beside, radiograph, place),
            ))  # fmt: skip
        means = np.mean(rows, axis=0)
        shown = " | ".join(f"{value:.4f}" for value in means[:4])
        print(f"| {size} | {len(rows)} | {shown} | {100 * means[4]:.0f} % | {homeless} | {means[5]:g} | {means[6]:g} "
              f"| {means[7]:.4f} | {seconds / RADIOGRAPHS:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
