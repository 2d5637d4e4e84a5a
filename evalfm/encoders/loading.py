"""An encoder from its name: the card, the weights, the model, checked against each other."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch

from evalfm.cautions import Caution
from evalfm.encoders.blocks import apply_variant
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.drawing import drawn_once
from evalfm.encoders.encoder import PRECISIONS, Encoder, EncoderState, is_precision
from evalfm.encoders.families import builder
from evalfm.encoders.frozen import automatic_precision
from evalfm.encoders.preprocessing import override
from evalfm.encoders.reference import EncoderLike, EncoderRef, find_card
from evalfm.encoders.weight_sources import find_weights
from evalfm.encoders.weights import Checkpoint, read_checkpoint
from evalfm.errors import EvalfmError
from evalfm.paths import file_digest, input_file, user_path

SEED = 0
"""From which random weights are drawn, the same in every run of a frozen encoder."""


def load_encoder(
    name: EncoderLike,
    *,
    weights: str | Path = "hub",
    input_size: int | tuple[int, int] | None = None,
    resize: str | None = None,
    pooling: str | None = None,
    layers: str | Sequence[int] | None = None,
    precision: str = "float32",
    compile: bool = False,
    device: str | torch.device = "cpu",
    seed: int = SEED,
) -> Encoder:
    """An encoder in evaluation mode on ``device``.

    Args:
        name: a card's name (``rad-dino``, ``rad-dino@mean``, ``biomedclip@zero-prompt``), a library's model
            (``hf:ORG/MODEL``, ``timm:NAME``, ``random:<timm model>``), a path of a card, ``file.py:build`` (that file
            is run), a card, an :class:`Encoder`, or a function that makes one.
        weights: ``hub`` (the encoder's own source, whatever it is), ``random`` (seeded; the global generator is left
            alone), or the path of a checkpoint.
        input_size, resize: override the card; recorded in ``cautions`` and in ``key``.
        pooling, layers: what of its features is taken, in place of the card's; part of its name from then on.
        precision: in which the model runs; features are float32 in any case. ``auto`` takes the fastest on ``device``
            that stays close to float32, see :func:`evalfm.encoders.frozen.automatic_precision`.
        compile: run the frozen model through torch.compile; where that fails it runs as it is, with a caution.
        device: where the model runs; ``auto`` takes a GPU if there is one.
        seed: from which random weights are drawn.

    Raises:
        EvalfmError: unknown name, weights that cannot be had or do not fit, or options that the encoder
            cannot take.

    >>> import torch
    >>> features = load_encoder("random:test_vit").encode(torch.zeros(2, 3, 160, 160))
    >>> features.pooled.shape
    torch.Size([2, 64])
    """
    if precision != "auto" and not is_precision(precision):
        raise EvalfmError(f"There is no precision {precision!r}; take auto, {', '.join(PRECISIONS)}.")
    place = _device(device)
    ref = EncoderRef.parse(name).choosing(pooling, layers)
    made = _from_code(ref)
    if made is not None:
        if (str(weights), input_size, resize) != ("hub", None, None) or precision not in ("auto", "float32"):
            raise EvalfmError(
                "An encoder from code decides its own weights, input size, resize policy and precision; "
                "set them where it is built."
            )
        made.seal()
        made.eval().to(place)
        return _compiled(made) if compile else made
    card = find_card(ref)
    facts, cautions = override(card, input_size, resize)
    checkpoint, drawn = _weights(card, ref.folder if weights == "hub" and ref.folder else str(weights))
    state = EncoderState(
        preprocessing=facts,
        random_weights=drawn,
        weights_file=checkpoint.sha256 if checkpoint else None,
        origin=checkpoint.path if checkpoint else None,
        cautions=(*cautions, *_caution(card, checkpoint, drawn)),
    )
    build = builder(card.family)
    # Building draws initial weights; the caller's generator must not feel it.
    with drawn_once(seed):
        encoder = build(card, state, checkpoint)
    _check_size(encoder, card)
    apply_variant(encoder)
    encoder.seal()
    encoder.eval().to(place)
    chosen = automatic_precision(encoder, place) if precision == "auto" else precision
    assert is_precision(chosen)
    encoder.state = replace(encoder.state, precision=chosen)
    return _compiled(encoder) if compile else encoder


def _compiled(encoder: Encoder) -> Encoder:
    encoder.state = replace(encoder.state, compiled=True)
    # Compiled here, so that the caution of a failure is there from the start.
    assert encoder.feature_path
    return encoder


def _from_code(ref: EncoderRef) -> Encoder | None:
    """The encoder that the user's code gives, or None where the name is a card's."""
    digest = None
    factory = ref.factory()
    if ref.kind == "code":
        factory, digest = _import_factory(user_path(ref.path or "", "--encoder"), ref.attribute or "")
    if factory is None:
        return None
    made = factory()
    if not isinstance(made, Encoder):
        raise EvalfmError(f"{ref.label} must give an evalfm Encoder, not a {type(made).__name__}.")
    if digest is not None:
        # An encoder made of a module says by its own digest what its tensors do not.
        both = (
            digest
            if made.state.code_digest is None
            else sha256(f"{digest} {made.state.code_digest}".encode()).hexdigest()
        )
        made.state = replace(made.state, code_digest=both)
    return made


def _import_factory(path: Path, attribute: str) -> tuple[Callable[[], Encoder], str]:
    digest = file_digest(input_file(path, "check --encoder"))
    specification = importlib.util.spec_from_file_location(f"evalfm_user_{digest[:16]}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise EvalfmError(f"{path} has no function {attribute!r}; name the one that makes the encoder.")
    return factory, digest


def _weights(card: EncoderCard, weights: str) -> tuple[Checkpoint | None, bool]:
    """The checkpoint to load, if any, and whether random weights stay."""
    if card.weights.source == "none":
        # Without parameters it is a baseline that is not trained; with some, they are always drawn.
        drawn = card.parameters > 0
        if weights not in ("hub", "random") or (weights == "random" and not drawn):
            raise EvalfmError(f"{card.name} takes no weights; leave --weights out.")
        return None, drawn
    if weights == "random":
        return None, True
    if weights != "hub":
        return read_checkpoint(user_path(weights, "--weights"), card.weights), False
    path = find_weights(card)
    checkpoint = read_checkpoint(path, card.weights)
    if card.weights.sha256 not in (None, checkpoint.sha256):
        raise EvalfmError(f"{path} is not the file that the card of {card.name} pins by its SHA-256; fetch it again.")
    return checkpoint, False


def _caution(card: EncoderCard, checkpoint: Checkpoint | None, drawn: bool) -> list[Caution]:
    cautions: list[Caution] = []
    if drawn:
        cautions.append(Caution("random-weights", f"{card.name} has random weights: it has learnt nothing."))
    elif checkpoint is not None and card.weights.sha256 not in (None, checkpoint.sha256):
        words = f"The weights of {card.name} are another file than the one its card pins."
        cautions.append(Caution("other-weights", words))
    if checkpoint is not None and card.weights.revision == "main" and card.weights.sha256 is None:
        words = f"No commit of the weights of {card.name} is pinned; SHA-256 of the file read: {checkpoint.sha256}."
        cautions.append(Caution("unpinned-weights", words))
    cautions += checkpoint.cautions if checkpoint is not None else ()
    if not drawn:
        cautions += [Caution("unconfirmed-card", f"Unconfirmed: {sentence}") for sentence in card.unconfirmed]
    return cautions


def _check_size(encoder: Encoder, card: EncoderCard) -> None:
    if encoder.input_size != card.preprocessing.input_size:
        return
    count = sum(parameter.numel() for parameter in encoder.parameters())
    if count != card.parameters:
        raise EvalfmError(
            f"{card.name} has {count:,} parameters where its card says {card.parameters:,}; "
            "fix the card, or install the library version it was written for."
        )


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise EvalfmError(f"There is no device {device!r}; take cpu, cuda, cuda:0 or mps.") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise EvalfmError("There is no usable GPU here; take --device cpu.")
    return place
