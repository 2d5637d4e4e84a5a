"""Names of whole supervised baselines: an encoder, a head and a training from scratch in one word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalfm.errors import EvalfmError


@dataclass(frozen=True)
class Alias:
    """What a word stands for.

    Attributes:
        name: the word. encoder, head, adaptation, resize: as they would be asked for one by one. The whole image is
            squashed to the input, for nothing was learnt with the crop that the encoder's card has.
    """

    name: str
    encoder: str
    head: str
    adaptation: str
    resize: str = "squash"

    def applied(self, adaptation: str | None, heads: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
        """Adaptation and heads, where the caller said nothing else.

        Raises:
            EvalfmError: the caller asked for something else.
        """
        if adaptation not in (None, self.adaptation) or (heads and tuple(heads) != (self.head,)):
            raise EvalfmError(
                f"{self.name} stands for --encoder {self.encoder} --head {self.head} --adaptation {self.adaptation}; "
                f"say --encoder {self.encoder} to choose another head or adaptation."
            )
        return self.adaptation, (self.head,)


ALIASES = {
    alias.name: alias
    for alias in (
        Alias("unet-resnet34", "resnet34", "unet", "scratch"),
        Alias("unet-efficientnet-b4", "efficientnet-b4", "unet", "scratch"),
    )
}


def find_alias(name: str) -> Alias | None:
    """What ``name`` stands for, or None where it is no alias."""
    return ALIASES.get(name)
