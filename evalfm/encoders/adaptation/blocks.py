"""Where a network repeats itself: its residual blocks, shallow to deep, whatever library built it."""

from __future__ import annotations

from torch import nn

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LORA = "lora_"
"""With this peft begins the names of what it adds."""


def blocks(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The innermost repeated parts of ``module`` with their names, in the order in which they were built.

    A block is a member of a list (``Sequential``, ``ModuleList``, ``ModuleDict``) that holds at least two
    weight matrices and is no list itself; one that holds several blocks is a stage, and its blocks are taken
    instead. Empty for a plain chain of layers.
    """
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        inner = blocks(child, f"{path}.")
        member = isinstance(module, LISTS) and not isinstance(child, LISTS) and _matrices(child) >= 2
        # A squeeze-and-excitation inside a block is one part of it, not a stage's only block.
        found += [(path, child)] if member and len(inner) < 2 else inner
    return found


def _matrices(module: nn.Module) -> int:
    return sum(each.ndim >= 2 for name, each in module.named_parameters() if LORA not in name)
