"""From an image to the encoder's input grid, in the image's stored depth and without torch.

What follows on the device (scaling, channels, statistics) is ``evalfm.encoders.model_input``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.data.geometry import Geometry
from evalfm.data.images import Image, StoredImage
from evalfm.encoders.sampling import in_unit, resample
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from evalfm.encoders.card import EncoderCard, Preprocessing

Pixels = NDArray[Any]

LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601 weights of red, green, blue, as in PIL's mode L."""

SCALES = {np.dtype(np.uint8): 1 / 255, np.dtype(np.uint16): 1 / 65535, np.dtype(np.float32): 1.0}
"""What one level of a prepared image stands for, by its type."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image on the encoder's input grid, before what is done on the device.

    Attributes:
        pixels: [1 or 3, h, w]: uint8 (255 stands for 1) of bytes that were not resampled, uint16 (65535 stands for 1)
            of all else in the unit interval, or float32 of HU, raw values, and what may leave the unit interval.
        geometry: where each pixel lies on the stored image, whose size is ``geometry.source``.
        unit: the image's unit; pixels are in ``unit-interval`` too where the card scales by the image's own values.
    """

    pixels: Pixels
    geometry: Geometry
    unit: str

    @property
    def scale(self) -> float:
        """What one level of ``pixels`` stands for: 1/255, 1/65535 or 1."""
        return SCALES[self.pixels.dtype]


@dataclass(frozen=True)
class Preparer:
    """Prepares images for one encoder; small enough to be sent to reader processes without the model.

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

    def notes(self, image: Image | StoredImage) -> tuple[str, ...]:
        """What a run must say of this image's preparation."""
        if image.pixels.shape[0] == 3 and self.facts.scaling == "equalize-image":
            return (f"{self.encoder} takes grey levels made flat in their histogram: colour was reduced to its luma.",)
        if image.pixels.shape[0] == 3 and self.facts.channels == 1:
            return (f"{self.encoder} takes one channel: colour was reduced to its luma.",)
        return ()

    def __call__(self, image: Image | StoredImage) -> Prepared:
        """The image checked, resized and cropped.

        Images in the unit interval are resized in single precision, cut back to it after each axis (width, then
        height) as PIL does in 8 bits, and rounded to 16 bits (half to even): 8 bits, with which encoders are trained,
        move features more. HU and raw values stay float and are not cut.

        Raises:
            EvalfmError: the image's unit, channels or values are not what the encoder takes.
        """
        pixels = self._checked(image)
        if pixels.shape[0] == 3 and self.facts.channels == 1:
            pixels = _luma(pixels)
        if self.facts.scaling == "min-max-image":
            pixels = _min_max(pixels)
        elif self.facts.scaling == "equalize-image":
            pixels = _equalised(pixels)
        facts, unit = self.facts, image.unit
        bounded = unit == "unit-interval" or facts.scaling == "min-max-image"
        resized, top, left = self._plan(*pixels.shape[1:])
        geometry = self.geometry_of(*pixels.shape[1:])
        first, last = facts.first_interpolation or facts.interpolation, self._canvas == facts.input_size
        pixels = resample(pixels, resized, first, facts.antialias, cut=bounded and (facts.cut_overshoot or not last))
        pixels = self._crop(pixels, top, left)
        pixels = resample(
            pixels, facts.input_size, facts.interpolation, facts.antialias, cut=bounded and facts.cut_overshoot
        )
        if pixels.dtype == np.float32 and bounded and facts.cut_overshoot:
            pixels = _in_16_bits(pixels)
        # A copy, so that nobody changes the image through it.
        return Prepared(np.array(pixels, order="C"), geometry, unit)

    def _checked(self, image: Image | StoredImage) -> Pixels:
        if image.unit not in self.facts.units:
            raise EvalfmError(
                f"{self.encoder} takes images in {' or '.join(self.facts.units)}, not in {image.unit}; "
                "choose an encoder for this unit, or convert the images to the unit interval first."
            )
        pixels: Pixels = image.pixels
        if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
            raise EvalfmError(f"An image has shape {tuple(pixels.shape)}; encoders take [1, H, W] or [3, H, W].")
        if isinstance(image, StoredImage):
            # Its reader has seen to all that follows.
            return pixels
        pixels = pixels.astype(np.float32, copy=False)
        low, high = float(pixels.min()), float(pixels.max())
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
            resized = (target_h, target_w) if self.facts.resize_to is None else (self.facts.resize_to,) * 2
        elif self.facts.resize == "letterbox":
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

    def _crop(self, pixels: Pixels, top: int, left: int) -> Pixels:
        """The part [C, h, w] of the canvas, filled with ``pad_value`` where there is no image."""
        height, width = self._canvas
        bottom, right = top + height, left + width
        seen = pixels[:, max(top, 0) : bottom, max(left, 0) : right]
        if seen.shape[1:] == (height, width):
            return seen
        fill = self.facts.pad_value / SCALES[pixels.dtype]
        if pixels.dtype == np.uint8 and fill != round(fill):
            seen, fill = in_unit(seen), self.facts.pad_value
        whole = np.full((len(pixels), height, width), fill, seen.dtype)
        y, x = max(-top, 0), max(-left, 0)
        whole[:, y : y + seen.shape[1], x : x + seen.shape[2]] = seen
        return whole


def _luma(pixels: Pixels) -> Pixels:
    """One channel [1, H, W] of three, in float32."""
    return np.asarray((in_unit(pixels) * np.array(LUMA, np.float32)[:, None, None]).sum(0, keepdims=True))


def _min_max(pixels: Pixels) -> Pixels:
    """The smallest value at 0, the largest at 1, in float32; a flat image at 0."""
    values = in_unit(pixels)
    low, high = values.min(), values.max()
    return np.asarray((values - low) / np.maximum(high - low, np.float32(1e-8)))


def _equalised(pixels: Pixels) -> Pixels:
    """Levels [1, H, W] of 8 bits, each as high as the share of pixels up to it, as OpenCV's ``equalizeHist`` gives."""
    grey = _luma(pixels) if len(pixels) == 3 else in_unit(pixels)
    levels = np.rint(grey * np.float32(255)).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256)
    lowest = counts[counts.nonzero()[0][0]]
    if lowest == levels.size:
        return levels
    reached = (counts.cumsum() - lowest).clip(0).astype(np.float32) * np.float32(255 / (levels.size - lowest))
    return np.asarray(np.rint(reached).astype(np.uint8)[levels])


def _in_16_bits(pixels: Pixels) -> Pixels:
    """Values of the unit interval as levels of 16 bits, half to even."""
    levels = pixels * np.float32(65535)
    return np.clip(np.rint(levels, out=levels), 0, 65535, out=levels).astype(np.uint16)


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
    from evalfm.encoders.card import MAX_SIDE

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
