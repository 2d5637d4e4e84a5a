"""The catalogue: which encoders have a licence, a domain, a size; and each card as a person reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from evalfm.encoders.card import AbsentCard, EncoderCard, Preprocessing, WeightsFacts
from evalfm.encoders.choice import is_column, layer_shapes, poolings_of
from evalfm.encoders.registry import list_absent, list_cards
from evalfm.errors import EvalfmError

COMMERCIAL = {"yes": "commercial use allowed", "no": "no commercial use", "ask": "read it before commercial use"}

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}


@dataclass(frozen=True)
class Wanted:
    """What an encoder must be; None and False exclude nothing.

    Attributes:
        paradigm, commercial: exactly this.
        domain, licence: a part of it, whatever the case.
        gated: True: only behind a licence to accept; False: only others.
        text: only with a text tower.
        least, most: parameters.
    """

    paradigm: str | None = None
    domain: str | None = None
    licence: str | None = None
    commercial: str | None = None
    gated: bool | None = None
    text: bool = False
    least: int | None = None
    most: int | None = None

    def matches(self, card: EncoderCard | AbsentCard) -> bool:
        """Whether ``card`` is what is wanted; a size that is not known lies in no bounds."""
        size = card.parameters if isinstance(card, EncoderCard) else None
        tower = card.text_tower if isinstance(card, EncoderCard) else None
        return (
            self.paradigm in (None, card.paradigm)
            and self.commercial in (None, card.commercial_use)
            and self.gated in (None, card.gated)
            and (self.domain or "").lower() in card.domain.lower()
            and (self.licence or "").lower() in card.licence.lower()
            and (not self.text or tower is not None)
            and (self.least is None or (size is not None and size >= self.least))
            and (self.most is None or (size is not None and size <= self.most))
        )


def parameters_of(text: str) -> int:
    """A number of parameters such as ``90M`` or ``1.2B``.

    Raises:
        EvalfmError: it is none.

    >>> parameters_of("1.2B")
    1200000000
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMBG]?)\s*", text, re.IGNORECASE)
    if match is None:
        raise EvalfmError(f"{text!r} is no number of parameters; write it as 90M or 1.2B.")
    return round(float(match[1]) * UNITS[match[2].upper()])


def catalogue(wanted: Wanted | None = None) -> dict[str, EncoderCard | AbsentCard]:
    """Cards by name, those that are offered through precomputed embeddings only after the others.

    Raises:
        EvalfmError: none is what is wanted.

    >>> "rad-dino" in catalogue(Wanted(domain="chest", commercial="yes"))
    True
    """
    every: dict[str, EncoderCard | AbsentCard] = {**list_cards(), **list_absent()}
    kept = {name: card for name, card in every.items() if wanted is None or wanted.matches(card)}
    if not kept:
        domains = ", ".join(sorted({card.domain for card in every.values() if card.domain != "none"}))
        raise EvalfmError(f"No encoder meets all conditions; leave one out (domains: {domains}).")
    return kept


def shown_size(parameters: int) -> str:
    """A number of parameters as a person says it.

    >>> shown_size(86_580_480)
    '86.6M'
    """
    return f"{parameters / 1e6:.1f}M" if parameters else "0"


def pretraining(sets: Iterable[object]) -> str:
    """Pre-training sets in a line."""
    return ", ".join(f"{getattr(each, 'name', '')} ({getattr(each, 'what', '')})" for each in sets) or "none"


def described(card: EncoderCard | AbsentCard) -> list[tuple[str, list[str]]]:
    """Sections of plain lines, by their titles.

    >>> from evalfm.encoders import find_card
    >>> dict(described(find_card("hog")))["Weights"]
    ['none']
    """
    sections = [("", [f"{card.name}: {card.summary}"])]
    sections += _absent(card) if isinstance(card, AbsentCard) else _loadable(card)
    terms = [f"{card.licence}; {COMMERCIAL[card.commercial_use]}"]
    if card.gated:
        terms.append("behind a form or a licence that must be accepted first")
    sections.append(("Licence", terms))
    if card.paradigm != "none":
        origin = [f"{card.paradigm}, on {card.domain}", f"data: {pretraining(card.pretraining_data)}"]
        sections.append(("Pre-training", [*origin, *([f"paper: {card.paper}"] if card.paper else [])]))
    if isinstance(card, EncoderCard):
        sections.append(("Confirmed", list(card.confirmed)))
    sections.append(("Not confirmed", list(card.unconfirmed)))
    return [(title, lines) for title, lines in sections if lines]


def _absent(card: AbsentCard) -> list[tuple[str, list[str]]]:
    lines = [card.reason, card.embeddings, "Give them as --encoder precomputed:FILE, a table joined by image id."]
    if card.pooled_dim is not None:
        lines.append(f"embedding of {card.pooled_dim} dimensions")
    return [("evalfm does not load it", lines)]


def _loadable(card: EncoderCard) -> list[tuple[str, list[str]]]:
    library = "its own code" if card.family == "own" else card.family
    model = [f"{card.architecture} ({library}), {shown_size(card.parameters)} parameters"]
    taken = card.base_name != card.name
    offered = {card.pooling: card.pooled_dim} if taken else poolings_of(card)
    poolings = [
        f"{name}: {dim} dimensions" + ("" if name == card.pooling else f"; take it with --pooling {name}")
        for name, dim in sorted(offered.items(), key=lambda pair: pair[0] != card.pooling)
    ]
    if card.pooled_layer is not None:
        poolings.append(f"of layer {card.pooled_layer}, the deepest of its maps, and not of the network's end")
    if taken:
        poolings.append(f"chosen of {card.base_name}, whose others `evalfm show encoder {card.base_name}` lists")
    return [
        ("Model", model),
        ("Input", _input(card)),
        ("Embedding", poolings),
        ("Variants", _variants(card)),
        ("Maps", _maps(card)),
        ("Text", _text(card)),
        ("Weights", _weights(card.weights)),
    ]


def _variants(card: EncoderCard) -> list[str]:
    return [
        f"{name}: {variant.summary}" + (" (taken)" if name == card.variant else f" Take it as {card.base_name}@{name}.")
        for name, variant in card.variants.items()
    ]


def _input(card: EncoderCard) -> list[str]:
    facts = card.preprocessing
    height, width = facts.input_size
    size = f"{height} × {width}, {_resize(facts)}, {facts.interpolation}{' antialiased' if facts.antialias else ''}"
    if card.fixed_input_size:
        other = "no other size"
    elif card.size_multiple > 1:
        other = f"other sizes in multiples of {card.size_multiple} with --input-size"
    else:
        other = "other sizes with --input-size"
    channels = "grey is repeated to three channels" if facts.channels == 3 else "one channel; colour is reduced to luma"
    return [size, other, channels, _scaling(facts), f"takes {' or '.join(facts.units)} images"]


def _resize(facts: Preprocessing) -> str:
    if facts.resize == "squash":
        if facts.resize_to is not None:
            return f"the whole image squashed to {facts.resize_to} × {facts.resize_to}, then the centre"
        return "the whole image squashed to it"
    if facts.resize == "shortest-edge-crop":
        return f"shortest edge to {facts.resize_to}, then the centre (the rest is not seen)"
    side = f"a square of {facts.resize_to}" if facts.resize_to else "it"
    return f"longest edge fitted into {side}, filled with {facts.pad_value:g} from the {facts.pad}"


def _scaling(facts: Preprocessing) -> str:
    if facts.scaling == "z-score-input":
        return "each input less its own mean, divided by its own standard deviation"
    statistics = f"mean {_numbers(facts.mean)}, standard deviation {_numbers(facts.std)}"
    if facts.input_range is None:
        return f"values as they are, {statistics}"
    low, high = facts.input_range
    ends = {
        "range": "black and white",
        "min-max-image": "the image's smallest and largest value",
        "equalize-image": "the image's histogram is made flat; black and white",
    }
    what = ends.get(facts.scaling, "the smallest and largest input value")
    return f"{what} become {low:g} and {high:g}; then {statistics}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.10g}" for value in (values[:1] if len(set(values)) == 1 else values))


def _maps(card: EncoderCard) -> list[str]:
    if not card.map_layers:
        return ["none: it cannot say where something is"]
    kind = "block" if is_column(card) else "layer"
    where = f"{kind}{'s' if len(card.map_layers) > 1 else ''} {_listed(card.map_layers)}"
    cells = f"one cell per {_listed(card.map_strides)} pixels of the input"
    lines = [f"{where}: {_listed(card.map_channels)} channels, {cells}"]
    if card.base_name == card.name and len(layer_shapes(card)) > 1:
        lines.append(_others(card))
    if card.prefix_tokens:
        lines.append(f"{card.prefix_tokens} prefix token{'s' if card.prefix_tokens > 1 else ''} dropped")
    if card.map_norm == "final":
        lines.append("the model's last norm is applied to each")
    return lines


def _others(card: EncoderCard) -> str:
    """Which layers ``--layers`` can choose; of stages, with the stride of each."""
    shapes = layer_shapes(card)
    if is_column(card):
        return f"--layers chooses others of the blocks 0 to {max(shapes)}, such as --layers {max(shapes) // 2} or last4"
    strides = ", ".join(f"{layer} (stride {stride})" for layer, (_, stride) in shapes.items())
    return f"--layers chooses among {strides}"


def _listed(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))


def _text(card: EncoderCard) -> list[str]:
    tower = card.text_tower
    if tower is None:
        return []
    prompts = f"a finding is {tower.present.format('FINDING')!r}, its absence {tower.absent.format('FINDING')!r}"
    shared = f"{card.base_name}@{tower.pooling}"
    space = f"sentences of up to {tower.context_length} tokens, {tower.dim} dimensions, shared with {shared}"
    return [space, prompts]


def _weights(facts: WeightsFacts) -> list[str]:
    if facts.source == "none":
        return ["none"]
    if facts.source == "hub":
        lines = [f"{facts.repository}, {facts.file}, revision {facts.revision}"]
    elif facts.source == "package":
        lines = [f"{facts.file} of the package {facts.distribution or facts.package}"]
    else:
        lines = [
            f"give the file as --weights PATH; it comes from {facts.request}"
            if facts.request
            else "give the file as --weights PATH"
        ]
    return lines + ([f"SHA-256 {facts.sha256}"] if facts.sha256 else [])
