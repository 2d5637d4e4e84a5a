"""What of an encoder's features is taken: which pooling, of which layer, which maps, and which variant of its forward.

A choice is words behind the encoder's name, each after an ``@``, so that all that has a name has the choice: a run, its
folder, its key, the key of its features, a line of a table. ``rad-dino@mean@layers-9`` is what ``--encoder rad-dino
--pooling mean --layers 9`` stands for. A word that says what the card says already changes nothing, so that a default
that is named is the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from evalfm.encoders.card import EncoderCard
from evalfm.errors import EvalfmError, UnknownNameError, shown

ATTENTIVE = "attentive"
"""No pooling of an encoder but a head that learns one: ``--pooling attentive`` is ``--head attentive``."""

OF_A_LAYER = ("cls", "mean", "cls-mean", "gap", "max")
"""Poolings of tokens or cells, which any layer has; all others are what a model computes behind its last layer."""

REASONS = {
    "cls": "has no class token",
    "cls-mean": "has no class token",
    "mean": "has no cells to average",
    "max": "is no network of convolutions",
}
"""Why an encoder lacks a pooling of tokens or cells."""

LAYERS = "layers-"
_LAYERS = re.compile(r"(?P<last>last(?P<count>[1-9]\d{0,2})?)|\d{1,4}([-,]\d{1,4})*")


def layers_text(layers: object) -> str:
    """The layers as ``--layers`` takes them, from such a text, one number or several.

    Raises:
        EvalfmError: it is neither numbers nor ``last`` or ``last4``.

    >>> layers_text((3, 6, 9)), layers_text("last4"), layers_text(" 9, 3")
    ('3,6,9', 'last4', '9,3')
    """
    several = layers if isinstance(layers, list | tuple) else [layers]
    text = "".join(",".join(map(str, several)).split())
    if not _LAYERS.fullmatch(text) or "-" in text:
        raise EvalfmError(
            f"--layers {shown(str(layers))} are no layers; name some by their numbers, such as 3,6,9, or say last or "
            "last4."
        )
    return text


def layer_shapes(card: EncoderCard) -> dict[int, tuple[int, int]]:
    """Channels and stride of every layer that maps and poolings can be taken from, by its number in the library.

    Of a column of equal blocks, which is a plain vision transformer, any block up to the card's last; of a network
    whose stages differ, those on its card.

    >>> from evalfm.encoders import find_card
    >>> len(layer_shapes(find_card("rad-dino"))), layer_shapes(find_card("ark-plus"))[2]
    (12, (768, 16))
    """
    shapes = list(zip(card.map_channels, card.map_strides, strict=True))
    if is_column(card):
        return dict.fromkeys(range(card.map_layers[-1] + 1), shapes[0])
    return dict(zip(card.map_layers, shapes, strict=True))


def is_column(card: EncoderCard) -> bool:
    """Whether its layers are equal blocks over the same patches, of which the card names some."""
    shapes = set(zip(card.map_channels, card.map_strides, strict=True))
    return len(card.map_layers) > 1 and len(shapes) == 1 and card.map_strides[0] == card.size_multiple


def poolings_of(card: EncoderCard, layer: int | None = None) -> dict[str, int]:
    """Dimensions of every pooling that can be chosen: at the end of the network, or with ``layer`` the deepest named.

    Beside those on the card: ``mean`` over patches or cells, ``cls-mean``, the class token and the mean side by side,
    and ``max`` over the cells of a convolutional network.

    >>> from evalfm.encoders import find_card
    >>> poolings_of(find_card("dinov2-base"), 5)
    {'cls': 768, 'mean': 768, 'cls-mean': 1536}
    >>> poolings_of(find_card("ark-plus")), poolings_of(find_card("ark-plus"), 2)["mean"]
    ({'projector': 1376, 'mean': 1536}, 768)
    """
    found, shapes = dict(card.poolings), layer_shapes(card)
    if not shapes or not card.parameters:
        return found
    inner = layer is not None and layer != max(shapes)
    channels = shapes[max(shapes) if layer is None else layer][0]
    cells = "gap" if "gap" in found else "mean"
    for name in ["cls", cells] if card.prefix_tokens else [cells]:
        found[name] = channels if inner else found.get(name, channels)
    if card.prefix_tokens:
        found["cls-mean"] = found["cls"] + found[cells]
    if cells == "gap":
        found["max"] = found["gap"]
    return found


def chosen(card: EncoderCard, words: Sequence[str]) -> EncoderCard:
    """``card`` with what ``words`` choose, under a name that says each choice that is not its own, in one order.

    The maps are those of the layers named, and so is the embedding: a pooling of tokens or cells is taken of the
    deepest of them, as its map is (with the model's last norm, or without). What the model computes behind its last
    layer (a projection, an attention pool) stays. Where the last layer is among those named, the embedding is the
    card's.

    Raises:
        EvalfmError: there is no such pooling, variant or layer, or two of one kind are named.

    >>> from evalfm.encoders import find_card
    >>> card = chosen(find_card("rad-dino"), ["layers-9-3", "mean"])
    >>> card.name, card.pooled_layer, card.pooled_dim, card.map_layers
    ('rad-dino@mean@layers-3-9', 9, 768, (3, 9))
    >>> chosen(card, []).name, chosen(find_card("rad-dino"), ["cls"]).name
    ('rad-dino@mean@layers-3-9', 'rad-dino')
    """
    if not words:
        return card
    if card.name != card.base_name:
        raise EvalfmError(f"{card.name} is a choice already; choose from {card.base_name}.")
    named: dict[str, str] = {}
    for word in words:
        kind = "layers" if word.startswith(LAYERS) else "variant" if word in card.variants else "pooling"
        if named.setdefault(kind, word) != word:
            raise EvalfmError(f"{card.name}@{'@'.join(words)} names two {kind.removesuffix('s')}s; keep one of them.")
    layers = _layers(card, named["layers"].removeprefix(LAYERS)) if "layers" in named else card.map_layers
    shapes = layer_shapes(card)
    deepest = layers[-1] if layers else None
    known = poolings_of(card, deepest)
    pooling = named.get("pooling", card.pooling)
    pooling = "gap" if pooling == "mean" and "mean" not in known and "gap" in known else pooling
    if pooling not in known:
        raise _unknown(card, pooling, known)
    variant = named.get("variant", card.variant)
    said = [
        *([pooling] if pooling != card.pooling else []),
        *([variant] if variant is not None and variant != card.variant else []),
        *([LAYERS + "-".join(map(str, layers))] if layers != card.map_layers else []),
    ]
    if not said:
        return card
    # Where the model's own end gives none, its last layer does.
    inner = bool(shapes) and deepest != max(shapes)
    missing = pooling == "mean" and "mean" not in card.poolings and not is_column(card)
    changes: dict[str, Any] = {
        "name": "@".join([card.name, *said]),
        "pooling": pooling,
        "poolings": card.poolings
        if not inner and pooling in card.poolings
        else card.poolings | {pooling: known[pooling]},
        "pooled_layer": deepest if pooling in OF_A_LAYER and (inner or missing) else None,
        "variant": variant,
        "map_layers": layers,
        "map_channels": tuple(shapes[each][0] for each in layers),
        "map_strides": tuple(shapes[each][1] for each in layers),
        # A golden embedding is of the card as it is published.
        "golden": None,
    }
    return card.model_copy(update=changes)


def _layers(card: EncoderCard, text: str) -> tuple[int, ...]:
    """The layers that ``text`` names, shallow to deep."""
    match = _LAYERS.fullmatch(text)
    if match is None:
        raise EvalfmError(f"{card.name}@{LAYERS}{text} names no layers; write it as {card.name}@{LAYERS}3-6-9.")
    known = sorted(layer_shapes(card))
    if not known:
        raise EvalfmError(f"{card.name} has no maps, so there are no layers to choose from; leave --layers out.")
    if match["last"]:
        count = int(match["count"] or 1)
        if count > len(known):
            raise EvalfmError(f"{card.name} has no {count} layers but {_numbers(card, known)}; name fewer.")
        return tuple(known[-count:])
    wanted = sorted({int(each) for each in re.split("[-,]", text)})
    absent = [str(each) for each in wanted if each not in known]
    if absent:
        raise EvalfmError(
            f"{card.name} has no layer {', '.join(absent)}; it has {_numbers(card, known)}, which `evalfm show encoder "
            f"{card.name}` lists with their strides."
        )
    return tuple(wanted)


def _numbers(card: EncoderCard, known: Sequence[int]) -> str:
    if is_column(card):
        return f"blocks {known[0]} to {known[-1]}, counted from 0"
    return f"the layers {', '.join(map(str, known))}"


def _unknown(card: EncoderCard, pooling: str, known: Iterable[str]) -> EvalfmError:
    if pooling == ATTENTIVE:
        return EvalfmError(
            f"{ATTENTIVE} is no embedding of {card.name}: a head learns it from the cells of the deepest map; take "
            f"`evalfm probe --head {ATTENTIVE}`."
        )
    if pooling in REASONS:
        return EvalfmError(
            f"There is no pooling of {card.name} {pooling!r}, for it {REASONS[pooling]}; it has {', '.join(known)}."
        )
    kinds = "pooling or variant" if card.variants else "pooling"
    return UnknownNameError(f"{kinds} of {card.name}", pooling, [*known, *card.variants])
