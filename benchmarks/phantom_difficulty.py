"""How hard the phantom is: probes that see little, and an ImageNet SqueezeNet, on 1,000 training radiographs.

    python benchmarks/phantom_difficulty.py [--squeezenet WEIGHTS.npz] [--radiographs 1800] [--seed 11]

Test AUROC of an L2 logistic regression (C by the AUROC on 300 validation radiographs) from 32 x 32
pixels, the 16 x 16 lowest cosine coefficients, sex, age and view, and the global mean of SqueezeNet 1.0's
last map (torchvision's key names, RGB 0-255 less 123, 117, 104). Bounds that the phantom is made to keep:
pneumothorax at most .75 from pixels, .45-.55 from the metadata, at most .97 from SqueezeNet.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evalfm.data.phantom import render

TRAIN, VALIDATION = 1000, 300
STRENGTHS = 10.0 ** np.arange(-6, 3)


@dataclass
class Radiographs:
    """What the probes see of the radiographs, and the truth."""

    rows: dict[str, list[object]] = field(default_factory=dict)
    pixels: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, **values: object) -> None:
        """Append one radiograph's truth."""
        for name, value in values.items():
            self.rows.setdefault(name, []).append(value)

    def column(self, name: str) -> NDArray[np.float64]:
        """One truth of all radiographs, as numbers."""
        return np.array(self.rows[name], dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squeezenet", type=Path)
    parser.add_argument("--radiographs", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    start = time.process_time()
    radiographs = draw(options.radiographs, options.seed)
    print(f"{options.radiographs / (time.process_time() - start):.0f} images a processor second at 256 pixels")
    known = radiographs.column("pneumothorax") == 1
    area = 100 * radiographs.column("area")[known]
    print("area %:", " ".join(f"p{p} {np.percentile(area, p):.2f}" for p in (5, 25, 50, 75, 95)))
    inputs = {
        "pixels": np.stack([shrunk(image) for image in radiographs.pixels]),
        "cosines": np.stack([cosines(image) for image in radiographs.pixels]),
        "metadata": np.stack([radiographs.column(name) for name in ("female", "age", "lying")], axis=1),
    }
    if options.squeezenet:
        inputs["squeezenet"] = squeezenet(radiographs.pixels, options.squeezenet)
    print(f"{'test AUROC':12}" + "".join(f"{label:>16}" for label in ("pneumothorax", "cardiomegaly", "tube")))
    for name, features in inputs.items():
        scores = [probe(features, radiographs.column(label)) for label in ("pneumothorax", "cardiomegaly", "tube")]
        print(f"{name:12}" + "".join(f"{score:16.3f}" for score in scores), flush=True)


def draw(count: int, seed: int) -> Radiographs:
    radiographs = Radiographs()
    for index in range(count):
        radiograph = render(seed, index, 256)
        radiographs.pixels.append(np.rint(radiograph.pixels * 255).astype(np.uint8))
        radiographs.add(
            pneumothorax=radiograph.pneumothorax,
            cardiomegaly=radiograph.cardiomegaly,
            tube=radiograph.chest_tube,
            area=radiograph.pneumothorax_area,
            female=radiograph.sex == "F",
            age=radiograph.age,
            lying=radiograph.view == "AP",
        )
    return radiographs


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX), dtype=float).ravel()


def cosines(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(dctn(image.astype(float), norm="ortho")[:16, :16].ravel())


def squeezenet(images: list[NDArray[np.uint8]], weights: Path) -> NDArray[np.float32]:
    import torch
    from torchvision.models import squeezenet1_0

    net = squeezenet1_0(weights=None).eval()
    with np.load(weights) as stored:
        state = {name: torch.from_numpy(stored[name]) for name in stored}
    net.load_state_dict(state, strict=True)
    mean = torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1)
    features = []
    with torch.inference_mode():
        for begin in range(0, len(images), 50):
            batch = torch.from_numpy(np.stack(images[begin : begin + 50])).float()[:, None].expand(-1, 3, -1, -1)
            features.append(net.features(batch - mean).mean((2, 3)).numpy())
    return np.concatenate(features)


def probe(features: NDArray[np.floating], target: NDArray[np.float64]) -> float:
    """Test AUROC of the regularisation that does best on the validation radiographs."""
    fitted, chosen = slice(0, TRAIN), slice(TRAIN, TRAIN + VALIDATION)
    tested = slice(TRAIN + VALIDATION, None)
    best = (-1.0, 0.5)
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        score = model.fit(features[fitted], target[fitted]).decision_function(features)
        result = roc_auc_score(target[chosen], score[chosen]), roc_auc_score(target[tested], score[tested])
        best = max(best, result, key=lambda pair: pair[0])
    return best[1]


if __name__ == "__main__":
    main()
