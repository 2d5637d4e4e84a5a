"""A transform of somebody else's as facts, read off what it does to test images; what facts cannot say is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pil
from torch import Tensor

from evalfm.data.images import Image
from evalfm.encoders.card import MAX_SIDE, Preprocessing
from evalfm.encoders.model_input import model_input
from evalfm.encoders.preprocessing import Preparer
from evalfm.errors import EvalfmError

MOST_LEVELS = 1.5
"""Largest root mean square of differences: libraries of 8 bits round to a whole level along each axis, and Pillow from
13 on resizes some tall images by their height first."""

SURELY_LEVELS = 0.6
"""Below it no other way to resize is tried."""

FILTER = ("interpolation", "antialias", "cut_overshoot")
FILTERS = (
    *(("bilinear", True, True), ("bicubic", True, True), ("bicubic", True, False)),
    *(("bilinear", False, True), ("bicubic", False, True), ("bicubic", False, False), ("nearest", False, True)),
)
UNIT: dict[str, Any] = {"units": ("unit-interval",), "input_range": (0.0, 1.0)}

Transform = Callable[[Any], Any]
Levels = NDArray[np.uint8]


def facts_of(
    transform: Transform,
    who: str,
    *,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    channels: Literal[1, 3] = 3,
) -> Preprocessing:
    """The preprocessing that ``transform`` is: it takes a PIL image and gives a tensor [C, h, w].

    Flat images tell its statistics, a ramp how it resizes and crops, noise its filter; then evalfm's own preparation
    must give the same pixels of images of other shapes, in grey and in colour.

    Args:
        transform: of torchvision, timm, open_clip, transformers or one's own; as it is for evaluation.
        who: what it belongs to, for messages.
        statistics: mean and standard deviation as they are published, taken where they are what it does.
        channels: of the picture that is handed to it.

    Raises:
        EvalfmError: it takes no PIL image, is random, gives something else than pixels of one size, or does more than
            resize, crop, fill and scale.

    >>> from torchvision import transforms
    >>> steps = [transforms.Resize(72), transforms.CenterCrop(64), transforms.ToTensor()]
    >>> facts = facts_of(transforms.Compose(steps), "the example")
    >>> facts.resize, facts.resize_to, facts.interpolation, facts.input_size
    ('shortest-edge-crop', 72, 'bilinear', (64, 64))
    """
    run = _Run(transform, who, channels)
    first = run(np.zeros((256, 256), np.uint8))
    size = first.shape[1], first.shape[2]
    # Larger than the input, so that the filter shows.
    short = max(64, round(1.3 * max(size)))
    black, white, middle = (_centre(run(np.full((short, short), level, np.uint8))) for level in (0, 255, 102))
    if not bool(((white > black) & (((middle - black) / (white - black) - 0.4).abs() < 0.01)).all()):
        raise run.refusal("it changes grey levels other than by mean and standard deviation")

    def seen(levels: Levels) -> Tensor:
        """The first channel [h, w] of what the model would get, 0 where black and 1 where white."""
        return ((run(levels)[0] - black[0]) / (white[0] - black[0])).double()

    ramp = _ramp(short, 3 * short // 2)
    down, across = _length(seen(ramp)[:, size[1] // 2]), _length(seen(ramp.T)[size[0] // 2])
    corners = seen(np.full(ramp.shape, 255, np.uint8))[[0, -1], [0, -1]].tolist()
    side = round((down + across) / 2)
    if side > MAX_SIDE:
        raise run.refusal("it turns or mirrors the image, or shows only a part")
    scale = _statistics(black, white, statistics) | {"channels": len(first), "input_size": size}
    best, apart = None, float("inf")
    for plan in _plans(size, down, across, corners):
        edge = plan.get("resize_to", side)
        # Wide, for Pillow's orders differ on tall ones, and one that is enlarged, where filters overshoot most.
        drawn = _noise(short, _odd(short, edge, size[1]), 1), _noise(short // 2, short // 2, 2)
        for filtered in FILTERS if apart > SURELY_LEVELS else ():
            facts = Preprocessing(**UNIT, **scale, **plan, **dict(zip(FILTER, filtered, strict=True)))
            worst = max(_apart(facts, run, each) for each in drawn)
            if worst < apart:
                best, apart = facts, worst
    if best is None or apart > MOST_LEVELS:
        raise run.refusal("it does more than resize, crop or fill")
    for shape in ((short + 41, 2 * short + 3), (2 * short + 6, short + 55), (_odd(short, side, size[0]), short)):
        if _apart(best, run, _noise(*shape, 3)) > MOST_LEVELS:
            raise run.refusal(f"it prepares images of {shape[0]} x {shape[1]} otherwise than others")
    if channels == 3 and _apart(best, run, np.stack([_noise(short, short, seed) for seed in range(3)])) > MOST_LEVELS:
        raise run.refusal("it changes colours; leave that out, for grey images are repeated")
    return best


class _Run:
    """The transform on pictures given as levels [H, W] or [3, H, W]: a float tensor, checked."""

    def __init__(self, transform: Transform, who: str, channels: int) -> None:
        self._transform, self._who, self._mode = transform, who, "RGB" if channels == 3 else "L"
        self._shape: tuple[int, ...] | None = None
        self._seen: dict[bytes, Tensor] = {}

    def refusal(self, reason: str) -> EvalfmError:
        return EvalfmError(
            f"The transform of {self._who} cannot be said in facts ({reason}); take one that resizes, crops and "
            "normalises, or write a card or an Encoder of your own."
        )

    def __call__(self, levels: Levels) -> Tensor:
        key = bytes(str(levels.shape), "ascii") + levels.tobytes()
        if key not in self._seen:
            self._seen = {key: self._of(levels)} | dict(list(self._seen.items())[:3])
        return self._seen[key]

    def _of(self, levels: Levels) -> Tensor:
        picture = Pil.fromarray(np.ascontiguousarray(levels if levels.ndim == 2 else levels.transpose(1, 2, 0)))
        picture = picture.convert(self._mode)
        try:
            given = [_tensor(self._transform(picture.copy())) for _ in range(2)]
        except Exception as error:
            # Whatever the transform trips over.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise self.refusal(f"it gives no tensor of a PIL image: {type(error).__name__}: {reason}") from None
        tensor = given[0].float()
        if tensor.ndim != 3 or len(tensor) not in (1, 3):
            raise self.refusal(f"it gives {list(tensor.shape)} and not [1 or 3, h, w]")
        if not bool(torch.isfinite(tensor).all()):
            raise self.refusal("it gives NaN or infinite values")
        if not torch.equal(*given):
            raise self.refusal("it is random: the same image gave two results")
        if self._shape not in (None, tuple(tensor.shape)):
            raise self.refusal("the size that it gives depends on the image")
        self._shape = tuple(tensor.shape)
        return tensor


def _tensor(given: Any) -> Tensor:
    return given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))


def _statistics(
    black: Tensor, white: Tensor, published: tuple[Sequence[float], Sequence[float]] | None
) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation per channel by which 0 and 1 become ``black`` and ``white``."""
    low, high = black.double(), white.double()
    if published is not None:
        mean, std = (torch.tensor(tuple(each), dtype=torch.float64) for each in published)
        stated = torch.stack([-mean / std, (1 - mean) / std])
        if len(mean) == len(low) and torch.allclose(torch.stack([low, high]), stated, rtol=1e-5, atol=1e-5):
            return {"mean": tuple(mean.tolist()), "std": tuple(std.tolist())}
    std = 1 / (high - low)
    mean = -low * std
    # What is left over is the rounding of single precision.
    return {name: tuple(float(f"{value:.6g}") + 0.0 for value in each) for name, each in (("mean", mean), ("std", std))}


def _centre(tensor: Tensor) -> Tensor:
    return tensor[:, tensor.shape[1] // 2, tensor.shape[2] // 2]


def _ramp(height: int, width: int) -> Levels:
    """Levels that rise from top to bottom."""
    rows = np.rint(np.linspace(0, 255, height)).astype(np.uint8)
    return np.repeat(rows[:, None], width, axis=1)


def _noise(height: int, width: int, seed: int) -> Levels:
    """Levels without a pattern over coarse waves; many are black or white, where a filter overshoots."""
    fine = np.random.default_rng(seed).integers(0, 256, (height, width))
    y, x = np.mgrid[0:height, 0:width]
    return np.asarray(fine + 160 * np.sin(x / 19) * np.cos(y / 23)).clip(0, 255).astype(np.uint8)


def _odd(short: int, side: int, size: int) -> int:
    """A long edge that, resized, leaves a crop to ``size`` half a pixel that the two roundings put apart."""
    return next(long for long in range(4 * short // 3, 3 * short) if (long * side // short - size) % 4 == 3)


def _plans(size: tuple[int, int], down: float, across: float, corners: list[float]) -> Iterator[dict[str, Any]]:
    """Ways to resize, the likely first.

    ``down``, ``across``: how long the short edges of a wide and of a tall image become, as the ramps say.
    ``corners``: of a wide white image, where a letterbox shows its filling.
    """
    side = round((down + across) / 2)
    if abs(down - size[0]) < 2 and abs(across - size[1]) < 2:
        yield {"resize": "squash"}
    for near in (side, side - 1, side + 1):
        for rounding in ("even", "down") if near >= max(size) else ():
            yield {"resize": "shortest-edge-crop", "resize_to": near, "crop_rounding": rounding}
        for rounding in ("even", "down") if near > size[0] == size[1] else ():
            yield {"resize": "squash", "resize_to": near, "crop_rounding": rounding}
    if side < min(size):
        for place, filling in (("centre", corners[0]), ("start", corners[1])):
            for rounding in ("nearest", "down"):
                value = float(f"{filling:.4g}")
                yield {"resize": "letterbox", "pad": place, "pad_value": value, "side_rounding": rounding}


def _length(line: Tensor) -> float:
    """How many pixels a ramp from 0 to 1 would take, by its slope in the middle of a line."""
    # A letterbox of a ramp half as long again fills a sixth at either end.
    inner = line[len(line) // 5 : -(len(line) // 5) or None]
    steps = torch.arange(len(inner), dtype=torch.float64)
    steps -= steps.mean()
    slope = float((steps * (inner - inner.mean())).sum() / (steps * steps).sum())
    return 1 / max(slope, 1e-6)


def _apart(facts: Preprocessing, run: _Run, levels: Levels) -> float:
    """How far evalfm's own preparation is from the transform: root mean square, in levels of 255."""
    pixels = (levels if levels.ndim == 3 else levels[None]).astype(np.float32) / np.float32(255)
    prepared = Preparer(facts, "the transform")(Image(pixels, "unit-interval", 8, None, "drawn"))
    own = model_input(torch.from_numpy(prepared.pixels)[None], facts)[0].expand(facts.channels, -1, -1)
    level = torch.tensor(facts.std)[:, None, None] * 255
    return float(((run(levels) - own) * level).square().mean().sqrt())
