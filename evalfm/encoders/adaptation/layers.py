"""Learning rates by depth: what lies nearer to the image is changed more slowly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn import Parameter

from evalfm.encoders.blocks import blocks
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError

Layer = list[tuple[str, Parameter]]
"""Parameters with their names."""

_TRAILING = 99999
"""With this timm's matchers mark what belongs to the group before."""

_NO_DECAY = re.compile(
    r"(^|[._])((cls|class|dist|distillation|reg|register|mask)_?(token|tokens|embedding)"
    r"|(pos|position|absolute_pos|relative_pos(ition)?)_?(embed|embedding|embeddings|bias)(_table)?)\b"
    r"|(^|\.)layer_scale\b|\.bias$"
)


def layer_groups(encoder: Encoder) -> list[Layer]:
    """Trainable parameters by depth, shallow to deep, every one exactly once, with their names in ``encoder``.

    The first group is what comes before the blocks (patch embedding, positions, tokens, stem), then one
    group per block, and the last what comes after them (final norm); first and last may be empty. What lies
    between two blocks goes with the next one. timm models say themselves which parameters form a block
    (``group_matcher``); elsewhere it is a residual block, or, in a plain chain of layers, one layer.

    >>> from evalfm.encoders import load_encoder
    >>> len(layer_groups(load_encoder("random:test_vit")))
    8
    """
    groups = _by_matcher(encoder) or _by_blocks(encoder)
    return [[(name, each) for name, each in group if each.requires_grad] for group in groups]


def parameter_groups(
    encoder: Encoder, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser such as AdamW, with a learning rate that falls towards the image.

    A group at distance d from the head has ``learning_rate`` · ``layer_decay`` ** d, counted as in MAE and
    BEiT: the head has d = 0 (its own group is the caller's to add, with ``learning_rate``), and so has what
    comes after the last block, as the final norm; the last block has d = 1, the first of n blocks d = n, the
    embeddings d = n + 1. Decay 1 gives one rate. Biases, all one-dimensional parameters, tokens and position
    embeddings have no weight decay.

    Source: He et al., Masked autoencoders are scalable vision learners, CVPR 2022, and its ``lr_decay.py``;
    Bao et al., BEiT, ICLR 2022.

    Returns:
        Mappings with ``params``, ``lr``, ``weight_decay``, and for records ``names`` and ``lr_scale``.

    Raises:
        EvalfmError: the decay is not in (0, 1], or nothing in the encoder is trainable.
    """
    if not 0 < layer_decay <= 1:
        raise EvalfmError(f"A layer decay of {layer_decay:g} is not in (0, 1]; take 0.75, or 1 for one rate.")
    groups = layer_groups(encoder)
    made: list[dict[str, Any]] = []
    for index, group in enumerate(groups):
        scale = layer_decay ** (len(groups) - 1 - index)
        for decayed in (True, False):
            chosen = [(name, each) for name, each in group if _is_decayed(name, each) == decayed]
            if chosen:
                made.append(
                    {
                        "params": [each for _, each in chosen],
                        "lr": learning_rate * scale,
                        "weight_decay": weight_decay if decayed else 0.0,
                        "names": [name for name, _ in chosen],
                        "lr_scale": scale,
                    }
                )
    if not made:
        raise EvalfmError(f"{encoder.card.name} has no trainable parameters; adapt it with lora, full or scratch.")
    return made


def _is_decayed(name: str, parameter: Parameter) -> bool:
    return parameter.ndim >= 2 and _NO_DECAY.search(name) is None


def _by_matcher(encoder: Encoder) -> list[Layer] | None:
    """Groups as the timm model in ``encoder`` forms them; None without one that says."""
    model: Any = getattr(encoder, "model", None)
    if not hasattr(model, "group_matcher") or [name for name, _ in encoder.named_children()] != ["model"]:
        return None
    matcher = model.group_matcher(coarse=False)
    if not isinstance(matcher, dict):
        return None
    from timm.models import group_parameters

    ordinals: dict[str, int] = group_parameters(model, _without_trailing(matcher), reverse=True)
    # timm gives what no pattern matches the highest number, but does not say that it did.
    patterns = [re.compile(each) for spec in _without_trailing(matcher).values() for each in _patterns(spec)]
    free = {name for name in ordinals if not any(pattern.match(name) for pattern in patterns)}
    stem = {number for name, number in ordinals.items() if name not in free and _is_stem(matcher, name)}
    numbers = sorted({ordinals[name] for name in ordinals if name not in free} - stem)
    if not numbers:
        return None
    inner = {number: index + 1 for index, number in enumerate(numbers)}
    own = [(name, each) for name, each in model.named_parameters()]
    begun = min(index for index, (name, _) in enumerate(own) if name not in free and ordinals[name] in inner)
    groups: list[Layer] = [[] for _ in range(len(numbers) + 2)]
    for index, (name, each) in enumerate(own):
        place = inner.get(ordinals[name], 0) if name not in free else (0 if index < begun else -1)
        groups[place].append((f"model.{name}", each))
    return groups


def _is_stem(matcher: dict[str, Any], name: str) -> bool:
    return any(re.match(pattern, name) for pattern in _patterns(matcher.get("stem")))


def _patterns(specification: Any) -> list[str]:
    if specification is None:
        return []
    return [specification] if isinstance(specification, str) else [each[0] for each in specification]


def _without_trailing(matcher: dict[str, Any]) -> dict[str, Any]:
    """The matcher without what it adds to the last block, as the final norm, which stands with the head here."""
    last = list(matcher)[-1]
    if isinstance(matcher[last], str):
        return matcher
    kept = [
        (pattern, suffix)
        for pattern, suffix in matcher[last]
        if suffix != (_TRAILING,) or re.compile(pattern).groups > 0
    ]
    return matcher | {last: kept}


def _by_blocks(encoder: nn.Module) -> list[Layer]:
    """Groups by residual blocks, or by the layers of a chain."""
    units = [name for name, _ in blocks(encoder)] or _chain(encoder)
    groups: list[Layer] = [[] for _ in range(len(units) + 2)]
    reached = 0
    waiting: Layer = []
    for name, each in encoder.named_parameters():
        position = _position(name, units)
        if position is None:
            waiting.append((name, each))
            continue
        # What is met between two blocks goes with the next; before the first one, with the embeddings.
        groups[0 if reached == 0 else position + 1] += waiting
        groups[position + 1].append((name, each))
        waiting, reached = [], position + 1
    groups[-1 if reached else 0] += waiting
    return groups


def _position(name: str, units: Sequence[str]) -> int | None:
    return next((index for index, unit in enumerate(units) if name.startswith(f"{unit}.")), None)


def _chain(encoder: nn.Module) -> list[str]:
    """Members with parameters of the first list of layers."""
    for path, module in encoder.named_modules():
        if isinstance(module, nn.Sequential):
            return [
                f"{path}.{name}" if path else name
                for name, child in module.named_children()
                if any(True for _ in child.parameters())
            ]
    return []
