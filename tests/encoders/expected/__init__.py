"""Facts of every built-in encoder as its authors publish them; nothing here is made by the code under test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Triple = tuple[float, ...]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Triple, Triple] = ((0.5,) * 3, (0.5,) * 3)
CLIP: tuple[Triple, Triple] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
PLAIN: tuple[Triple, Triple] = ((0.0,) * 3, (1.0,) * 3)


@dataclass(frozen=True)
class Expected:
    """One encoder.

    Attributes:
        source: where the figures were read.
        pooled: dimension of the published embedding; ``pooling`` its name on the card.
        parameters: of the image encoder without classifier, counted from the publication.
        maps: (channels, rows) of each map at the native input size.
        size: side of the square input; ``resize``: squash, crop (short edge to ``resize_to``, then the centre) or
            letterbox (to ``resize_to``, None: to ``size``).
        statistics: mean and std per channel on the scale of ``value_range``, to which 0 and 1 of the image go.
        crop: how the start of a centre crop is rounded: torchvision's ``even``, transformers' ``down``.
        first: filter of a letterbox before it is padded, sides cut to whole pixels; None: ``interpolation``, rounded.
        cut_overshoot: whether the last resize stays within the image's range.
        scaling: of the values, as on the card.
        prefix_tokens: before the patches.
        text: dimension and context length of the text tower, if there is one.
        small: a small side for fast tests; ``narrow``: changes of the card that make its model small too.
        meta: whether the full-size model is only laid out, on the meta device, for its memory.
    """

    source: str
    pooled: int
    pooling: str
    parameters: int
    maps: tuple[tuple[int, int], ...]
    size: int
    resize: Literal["squash", "crop", "letterbox"]
    resize_to: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    antialias: bool = True
    crop: Literal["even", "down"] = "even"
    first: Literal["lanczos"] | None = None
    cut_overshoot: bool = True
    statistics: tuple[Triple, Triple] = IMAGENET
    value_range: tuple[float, float] = (0.0, 1.0)
    scaling: Literal["range", "min-max-image", "equalize-image", "min-max-input", "z-score-input"] = "range"
    pad: Literal["centre", "start"] = "centre"
    prefix_tokens: int = 0
    text: tuple[int, int] | None = None
    small: int | None = None
    narrow: dict[str, Any] = field(default_factory=dict)
    meta: bool = False

    @property
    def channels(self) -> int:
        """What the model takes."""
        return len(self.statistics[0])


def _merged() -> dict[str, Expected]:
    from . import basic, clips, networks, ports, second, transformers

    every: dict[str, Expected] = {}
    for module in (basic, transformers, second, clips, networks, ports):
        twice = set(every) & set(module.EXPECTED)
        assert not twice, f"two rows for {sorted(twice)}"
        every |= module.EXPECTED
    return every


EXPECTED = _merged()
