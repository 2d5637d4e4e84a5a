"""Stochastic depth: in training a residual block is sometimes left out, the deeper the oftener."""

from __future__ import annotations

from torch import nn

from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError


def set_drop_path(encoder: Encoder, rate: float) -> tuple[float, ...]:
    """Let each residual block's branch be dropped, per image, with a probability that rises with depth.

    Block i of n is dropped with ``rate`` · i / (n - 1) (a single block with ``rate``) in training mode, and
    what is kept is divided by its probability, so that the mean is unchanged; in evaluation nothing changes.
    The places are those where timm, transformers and torchvision have their own. Rate 0 takes back what an
    architecture brings by default (timm's Swin: .1) and leaves all others as they are. The global torch
    generator decides what is dropped.

    Source: Huang et al., Deep networks with stochastic depth, ECCV 2016, equation 4.

    Returns:
        The rate of every block, shallow to deep.

    Raises:
        EvalfmError: the rate is not in [0, 1), or it is over 0 and the network has no such places.

    >>> from evalfm.encoders import load_encoder
    >>> set_drop_path(load_encoder("random:test_vit"), 0.0)[-1]
    0.0
    """
    if not 0 <= rate < 1:
        raise EvalfmError(f"A drop-path rate of {rate:g} is not in [0, 1); take 0.1 or so.")
    places = [(module, names) for module in encoder.modules() if (names := _places(module))]
    if not places:
        if rate > 0:
            raise EvalfmError(f"{encoder.card.name} has no residual blocks that can be dropped; take a drop path of 0.")
        return ()
    rates = tuple(rate * (index / (len(places) - 1) if len(places) > 1 else 1.0) for index in range(len(places)))
    for (block, names), own in zip(places, rates, strict=True):
        for name in names:
            _set(block, name, own)
    return rates


def _places(module: nn.Module) -> list[str]:
    """Names under which a block holds what drops its branches."""
    # timm's ResNet blocks hold None where nothing is dropped.
    empty = module.__module__.startswith("timm.") and vars(module).get("drop_path", "") is None
    return (["drop_path"] if empty else []) + [
        name for name, child in module.named_children() if _is_place(name, child)
    ]


def _is_place(name: str, child: nn.Module) -> bool:
    kind = type(child).__name__
    if name.startswith("drop_path"):
        return isinstance(child, nn.Identity) or kind.endswith("DropPath")
    return kind == "StochasticDepth"


def _set(block: nn.Module, name: str, rate: float) -> None:
    present = getattr(block, name)
    if type(present).__name__ == "StochasticDepth":
        present.p = rate
    elif rate > 0 or not (present is None or isinstance(present, nn.Identity)):
        from timm.layers.drop import DropPath

        setattr(block, name, DropPath(rate))
        getattr(block, name).train(block.training)
