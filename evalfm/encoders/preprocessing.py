"""From an image to a model's input tensor, in float, with the geometry that leads back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as Pil
from torch import Tensor
from torch.nn import functional

from evalfm.cautions import Caution
from evalfm.data.geometry import Geometry
from evalfm.encoders.card import MAX_SIDE, EncoderCard, Preprocessing
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from evalfm.data.images import Image

Augment = Callable[[Tensor, Geometry], tuple[Tensor, Geometry]]
"""Changes a resized, not yet normalised tensor [C, h, w] and says so in the geometry."""

LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601 weights of red, green, blue, as in PIL's mode L."""


@dataclass(frozen=True)
class Preparer:
    """Prepares images for one encoder; small enough to be sent to loader workers without the model.

    Attributes:
        facts: the card's preprocessing, with the user's overrides.
        encoder: the encoder's name, for messages.
    """

    facts: Preprocessing
    encoder: str

    def geometry_of(self, height: int, width: int) -> Geometry:
        """How an image [height, width] lies in the model's input."""
        resized, top, left = self._plan(height, width)
        geometry = Geometry.identity((height, width)).resize(resized).crop(top, left, self._canvas)
        return geometry if geometry.output == self.facts.input_size else geometry.resize(self.facts.input_size)

    def notes(self, image: Image) -> tuple[str, ...]:
        """What a run must say of this image's preparation."""
        if image.pixels.shape[0] == 3 and self.facts.channels == 1:
            return (f"{self.encoder} takes one channel: colour was reduced to its luma.",)
        return ()

    def __call__(self, image: Image, augment: Augment | None = None) -> tuple[Tensor, Geometry]:
        """The model's input float32 [C, h, w] and where each of its pixels lies on the image.

        Bicubic overshoot is cut back to the unit interval after each axis (width, then height), as PIL does
        on 8 bits, with which encoders are trained; values are not rounded to 256 levels, so that images of 12
        and 16 bits keep their depth. HU and raw values are not cut.

        Raises:
            EvalfmError: the image's unit, channels or values are not what the encoder takes.
        """
        return self.finish(*self.resized(image), augment)

    def resized(self, image: Image) -> tuple[Tensor, Geometry]:
        """The image [C, h, w] resized and cropped, in its own unit and channels, before augmentation and scaling.

        Raises:
            EvalfmError: as a call.
        """
        pixels = self._checked(image)
        if pixels.shape[0] == 3 and self.facts.channels == 1:
            pixels = (pixels * torch.tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
        resized, top, left = self._plan(*pixels.shape[1:])
        geometry = self.geometry_of(*pixels.shape[1:])
        if self.facts.scaling == "min-max-image":
            pixels = _min_max(pixels)
        bounded = image.unit == "unit-interval" or self.facts.scaling == "min-max-image"
        first = self.facts.first_interpolation or self.facts.interpolation
        last = self._canvas == self.facts.input_size
        tensor = self._crop(
            self._resize(pixels, resized, first, bounded and (self.facts.cut_overshoot or not last)), top, left
        )
        cut = bounded and self.facts.cut_overshoot
        return self._resize(tensor, self.facts.input_size, self.facts.interpolation, cut), geometry

    def finish(self, tensor: Tensor, geometry: Geometry, augment: Augment | None = None) -> tuple[Tensor, Geometry]:
        """What ``resized`` gave, augmented and brought to the model's channels, range and statistics."""
        if augment is not None:
            tensor, geometry = augment(tensor, geometry)
        return self._normalise(tensor.expand(self.facts.channels, -1, -1)), geometry

    def _checked(self, image: Image) -> Tensor:
        if image.unit not in self.facts.units:
            raise EvalfmError(
                f"{self.encoder} takes images in {' or '.join(self.facts.units)}, not in {image.unit}; "
                "choose an encoder for this unit, or convert the images to the unit interval first."
            )
        pixels = torch.from_numpy(np.array(image.pixels, dtype=np.float32))
        if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
            raise EvalfmError(f"An image has shape {tuple(pixels.shape)}; encoders take [1, H, W] or [3, H, W].")
        low, high = (float(value) for value in torch.aminmax(pixels))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise EvalfmError("An image holds NaN or infinite pixels; fix or drop the file.")
        if image.unit == "unit-interval" and (low < -1e-4 or high > 1.0001):
            raise EvalfmError(
                f"An image said to be in the unit interval holds values from {low:g} to {high:g}; "
                "divide by 2^bits - 1 when reading it."
            )
        return pixels

    @property
    def _canvas(self) -> tuple[int, int]:
        """Size after the crop or padding: the input's, but for a letterbox that is padded at another size."""
        side = self.facts.resize_to
        return (side, side) if self.facts.resize == "letterbox" and side is not None else self.facts.input_size

    def _plan(self, height: int, width: int) -> tuple[tuple[int, int], int, int]:
        """Size to resize to, then top and left of the crop (negative: padding)."""
        target_h, target_w = self._canvas
        if self.facts.resize == "squash":
            return (target_h, target_w), 0, 0
        if self.facts.resize == "letterbox":
            scale = min(target_h / height, target_w / width)
            # A half goes up, as with SAM and its port in transformers.
            half = 0.5 if self.facts.side_rounding == "nearest" else 0.0
            resized = (
                max(1, min(target_h, int(height * scale + half))),
                max(1, min(target_w, int(width * scale + half))),
            )
            if self.facts.pad == "start":
                return resized, 0, 0
        else:
            short = self.facts.resize_to or max(target_h, target_w)
            # The long side is cut off to whole pixels, as torchvision and transformers do.
            resized = (
                short if height <= width else short * height // width,
                short if width <= height else short * width // height,
            )
        return resized, self._half(resized[0] - target_h), self._half(resized[1] - target_w)

    def _half(self, difference: int) -> int:
        """Half of what a crop cuts off (positive) or a padding adds (negative); the padding's odd pixel is last."""
        if difference < 0:
            return -(-difference // 2)
        return round(difference / 2) if self.facts.crop_rounding == "even" else difference // 2

    def _resize(self, pixels: Tensor, size: tuple[int, int], filter_: str, cut: bool) -> Tensor:
        """Resample [C, H, W]; ``cut`` brings overshoot back to the unit interval after each axis."""
        if tuple(pixels.shape[1:]) == size:
            return pixels
        if cut and filter_ in ("bicubic", "lanczos"):
            across = self._resampled(pixels, (pixels.shape[1], size[1]), filter_).clamp(0.0, 1.0)
            return self._resampled(across, size, filter_).clamp(0.0, 1.0)
        return self._resampled(pixels, size, filter_)

    def _resampled(self, pixels: Tensor, size: tuple[int, int], filter_: str) -> Tensor:
        if tuple(pixels.shape[1:]) == size:
            return pixels
        if filter_ == "nearest":
            return functional.interpolate(pixels[None], size=size, mode="nearest-exact")[0]
        if filter_ == "lanczos":
            # torch has this filter in late releases only.
            planes = [
                Pil.fromarray(plane).resize((size[1], size[0]), Pil.Resampling.LANCZOS) for plane in pixels.numpy()
            ]
            return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))
        return functional.interpolate(
            pixels[None], size=size, mode=filter_, antialias=self.facts.antialias, align_corners=False
        )[0]

    def _crop(self, tensor: Tensor, top: int, left: int) -> Tensor:
        height, width = self._canvas
        right, bottom = left + width - tensor.shape[2], top + height - tensor.shape[1]
        # Negative padding crops.
        return functional.pad(tensor, (-left, right, -top, bottom), value=self.facts.pad_value)

    def _normalise(self, tensor: Tensor) -> Tensor:
        if self.facts.scaling == "min-max-input":
            tensor = _min_max(tensor)
        elif self.facts.scaling == "z-score-input":
            tensor = _z_score(tensor)
        low, high = self.facts.input_range or (0.0, 1.0)
        mean = torch.tensor(self.facts.mean)[:, None, None]
        std = torch.tensor(self.facts.std)[:, None, None]
        return ((tensor * (high - low) + low - mean) / std).contiguous()


def _min_max(pixels: Tensor) -> Tensor:
    """The smallest value at 0, the largest at 1; a flat image at 0."""
    low, high = torch.aminmax(pixels)
    return (pixels - low) / (high - low).clamp_min(1e-8)


def _z_score(pixels: Tensor) -> Tensor:
    """Mean 0 and unbiased standard deviation 1; a flat image is centred only."""
    centred = pixels - pixels.mean()
    deviation = centred.std()
    return centred / deviation if float(deviation) >= 1e-6 else centred


def override(
    card: EncoderCard, input_size: int | tuple[int, int] | None, resize: str | None
) -> tuple[Preprocessing, tuple[Caution, ...]]:
    """The card's preprocessing with another input size or resize policy, and cautions that say so.

    The share that a centre crop cuts off is kept when the size changes.

    Raises:
        EvalfmError: the size is no multiple that the model takes, or the policy is unknown.

    >>> from evalfm.encoders import find_card
    >>> [caution.sentence for caution in override(find_card("pixels"), 128, None)[1]]
    ['The input is 128 x 128 instead of 256 x 256.']
    """
    facts, cautions = card.preprocessing, []
    changes: dict[str, object] = {}
    if resize is not None and resize != facts.resize:
        if resize not in ("squash", "shortest-edge-crop", "letterbox"):
            raise EvalfmError(f"There is no resize policy {resize!r}; take squash, shortest-edge-crop or letterbox.")
        changes |= {"resize": resize, "resize_to": None, "first_interpolation": None, "side_rounding": "nearest"}
        if resize == "shortest-edge-crop":
            changes["resize_to"] = max(facts.input_size)
        cautions.append(Caution("input-changed", f"Images are resized by {resize} instead of {facts.resize}."))
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if size is not None and tuple(size) != facts.input_size:
        if card.fixed_input_size:
            raise EvalfmError(
                f"{card.name} takes {facts.input_size[0]} x {facts.input_size[1]} pixels only; leave --input-size out."
            )
        _check_multiple(card, size)
        if max(size) > MAX_SIDE:
            raise EvalfmError(
                f"An input of {size[0]} x {size[1]} is larger than the {MAX_SIDE} pixels along a side that evalfm "
                f"prepares; {card.name} was made for {facts.input_size[0]} x {facts.input_size[1]}, lower --input-size."
            )
        resize_to = changes.get("resize_to", facts.resize_to)
        if isinstance(resize_to, int):
            changes["resize_to"] = resize_to * max(size) // max(facts.input_size)
        changes["input_size"] = (int(size[0]), int(size[1]))
        words = f"The input is {size[0]} x {size[1]} instead of {facts.input_size[0]} x {facts.input_size[1]}."
        cautions.append(Caution("input-changed", words))
    return facts.model_copy(update=changes), tuple(cautions)


def _check_multiple(card: EncoderCard, size: tuple[int, int]) -> None:
    step = card.size_multiple
    nearest = [max(step, step * round(side / step)) for side in size]
    if tuple(nearest) != tuple(size):
        raise EvalfmError(
            f"{card.name} needs an input size in multiples of {step}, not {size[0]} x {size[1]}; "
            f"the nearest is {nearest[0]} x {nearest[1]}."
        )
