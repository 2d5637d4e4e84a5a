"""A data set on which the right answer is plain to see: bright squares in noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest

SIDE = 64


def make_squares(folder: Path, patients: int = 60, seed: int = 0, **info: object) -> Manifest:
    """Images of 64×64, two for every third patient; positives hold a bright square, wider for some than for others."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for patient in range(patients):
        for radiograph in range(2 if patient % 3 == 0 else 1):
            positive = patient % 2
            pixels = generator.normal(90, 18, (SIDE, SIDE))
            mask = np.zeros((SIDE, SIDE), dtype=bool)
            if positive:
                side = int(generator.integers(12, 22))
                top, left = generator.integers(2, SIDE - side - 2, 2)
                mask[top : top + side, left : left + side] = True
                pixels[mask] += 90
            name = f"s{patient}-{radiograph}"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}-mask.png")
            lines.append(
                {
                    "id": name,
                    "patient": f"s{patient}",
                    "image": f"{name}.png",
                    "split": "train" if patient < patients * 0.5 else "val" if patient < patients * 0.65 else "test",
                    "square": positive,
                    "square_mask": f"{name}-mask.png",
                    "size": float(mask.mean()),
                    "sex": "F" if generator.random() < 0.5 else "M",
                    "age": float(generator.integers(20, 95)),
                }
            )
    facts: dict[str, object] = {
        "name": "squares",
        "public_ids": True,
        "redistributable_images": True,
        "label_source": {"square": "mask", "size": "mask"},
        "label_kinds": {"size": "number"},
        "mask_dialects": {"square": "file"},
        "attributes": ["sex", "age"],
        **info,
    }
    manifest = Manifest(DatasetInfo(**facts), pd.DataFrame(lines), folder)  # type: ignore[arg-type]
    manifest.write(folder)
    return Manifest.read(folder)
