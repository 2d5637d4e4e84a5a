"""The residual blocks of a network, shallow to deep, and the changes of them that a card offers as a variant."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from evalfm.encoders.card import Variant
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LORA = "lora_"
"""With this peft begins the names of what it adds."""


def blocks(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The innermost repeated parts of ``module`` with their names, in the order in which they were built.

    A block is a member of a list (``Sequential``, ``ModuleList``, ``ModuleDict``) that holds at least two
    weight matrices and is no list itself; one that holds several blocks is a stage, and its blocks are taken
    instead. Empty for a plain chain of layers.

    >>> chain = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2) for _ in range(3)))
    >>> [name for name, _ in blocks(chain)]
    ['0', '1', '2']
    """
    members: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        inner = blocks(child, f"{path}.")
        member = isinstance(module, LISTS) and not isinstance(child, LISTS) and _matrices(child) >= 2
        # A squeeze-and-excitation inside a block is one part of it, not a stage's only block.
        members += [(path, child)] if member and len(inner) < 2 else inner
    return members


def _matrices(module: nn.Module) -> int:
    return sum(each.ndim >= 2 for name, each in module.named_parameters() if LORA not in name)


def apply_variant(encoder: Encoder) -> None:
    """Change the forward pass as the card's ``variant`` says; nothing where it takes none.

    Raises:
        EvalfmError: the model has no blocks, or these pass no tokens on.
    """
    card = encoder.card
    if card.variant is None:
        return
    change = ZeroTokens(card.name, card.taken(card.variant), card.prefix_tokens)
    members = blocks(encoder)
    if not members:
        raise EvalfmError(f"{card.name} has no blocks of a transformer; its card cannot offer {card.variant!r}.")
    for _, block in members:
        block.register_forward_pre_hook(change)


class ZeroTokens:
    """Overwrites the first tokens after the prefix with zeros on their way into a block.

    Biomed-DPT's vision prompt (Peng et al., arXiv 2505.05189): the number of tokens stays, and what the first patches
    show reaches no other token. An object and not a closure, so that a copy of the model keeps it.
    """

    def __init__(self, name: str, variant: Variant, prefix: int) -> None:
        self._name, self._first, self._last = name, prefix, prefix + variant.zero_tokens

    def __call__(self, _block: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """The block's inputs, of which the first are tokens [B, N, C], with zeros."""
        tokens, rest = (given[0], given[1:]) if given else (None, ())
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[1] <= self._last:
            raise EvalfmError(f"The blocks of {self._name} pass no {self._last} tokens on; its card is wrong.")
        tokens = tokens.clone()
        tokens[:, self._first : self._last] = 0
        return (tokens, *rest)
