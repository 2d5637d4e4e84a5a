"""Checkpoints into models of the transformers library: old names converted, no tensor missing or left over."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.utils import logging as library_logging

from evalfm.encoders.card import EncoderCard, WeightsFacts
from evalfm.encoders.weights import Checkpoint, check_fit
from evalfm.errors import EvalfmError

DECISIVE = ("layer_norm_eps", "hidden_act", "use_swiglu_ffn")
"""EncoderState of a config.json that change features and leave every tensor's shape as it is."""

INITIAL = ("layerscale_value", "layer_scale_init_value", "initializer_range", "initializer_factor")
"""EncoderState that only say how tensors were drawn before training."""


def config_of(card: EncoderCard) -> Any:
    """The library's configuration of the card's model.

    Raises:
        EvalfmError: the library has no such model.
    """
    arguments = {name: value for name, value in card.arguments.items() if name != "projection"}
    return _kind(card).config_class(**arguments)


def model_of(card: EncoderCard, config: Any) -> Any:
    """The card's whole model with random weights, without the poolers that no checkpoint holds."""
    return _kind(card)(config, **options_of(_kind(card)))


def named_for(card: EncoderCard, config: Any, checkpoint: Checkpoint) -> Checkpoint:
    """``checkpoint`` without the one prefix that a training script put before all names of the card's model."""
    with torch.device("meta"):
        expected = model_of(card, config).state_dict()
    return checkpoint.named_for(expected)


def load(card: EncoderCard, config: Any, checkpoint: Checkpoint) -> Any:
    """The card's whole model with the tensors of ``checkpoint``.

    Raises:
        EvalfmError: a tensor is missing, of another shape or unknown, or the config.json beside describes another
            model.
    """
    _check_config(checkpoint, card, config)
    return pretrained(_kind(card), config, checkpoint.tensors, card.weights, checkpoint.path)


def pretrained(
    kind: Any,
    config: Any,
    tensors: Mapping[str, Tensor],
    facts: WeightsFacts,
    origin: Path,
    prefix: str = "",
    left_over: Iterable[str] = (),
) -> Any:
    """A model of class ``kind`` with ``tensors``; the library knows the names of older releases.

    Raises:
        EvalfmError: a tensor is missing, of another shape or unknown, as those ``left_over`` are; names begin with
            ``prefix`` in the file ``origin``.
    """
    with quiet():
        try:
            model, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(tensors),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype="float32",
                **options_of(kind),
            )
        except RuntimeError as error:
            raise EvalfmError(
                f"{origin} does not fit the encoder ({str(error).splitlines()[0]}); "
                "give the weights that the card names."
            ) from None
    shapes = report["mismatched_keys"]
    check_fit(
        missing=[prefix + name for name in report["missing_keys"]],
        unexpected=[*(prefix + name for name in report["unexpected_keys"]), *left_over],
        mismatched=[f"{prefix}{name} {list(theirs)} instead of {list(own)}" for name, theirs, own in shapes],
        facts=facts,
        origin=origin,
    )
    return model


def _kind(card: EncoderCard) -> Any:
    kind = getattr(transformers, card.architecture, None)
    if not (inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)):
        raise EvalfmError(f"transformers has no model class {card.architecture!r}; fix the card's architecture.")
    return kind


def options_of(kind: Any) -> dict[str, bool]:
    """What a class is built with beside its settings: no poolers that no checkpoint holds."""
    # BEiT's pooler is its mean and its norm; others' are layers that no checkpoint holds.
    if kind is transformers.BeitModel:
        return {}
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}


def _check_config(checkpoint: Checkpoint, card: EncoderCard, config: Any) -> None:
    """Compare the config.json beside the weights with the card: equal shapes may still mean another model."""
    if checkpoint.config is None:
        return
    # Older files of CLIP say a tower's settings twice; those under the longer name count, as the library reads them.
    twice = {key.removesuffix("_dict"): said for key, said in checkpoint.config.items() if key.endswith("_config_dict")}
    theirs = dict(checkpoint.config) | {
        key: (checkpoint.config.get(key) or {}) | said for key, said in twice.items() if isinstance(said, dict)
    }
    differing = list(_differences(theirs, config.to_dict(), card.arguments, ""))
    if differing:
        raise EvalfmError(
            f"The config.json beside {checkpoint.path} describes another model than the card "
            f"({', '.join(differing)}); give the weights that the card names, or write a card for these."
        )


def _differences(
    theirs: Mapping[str, Any], own: Mapping[str, Any], named: Mapping[str, Any], inside: str
) -> Iterator[str]:
    """Settings of ``theirs`` that are not the model's own, where the card names them or they decide features."""
    for name in own:
        if name not in theirs or name in INITIAL or (name not in named and name not in DECISIVE):
            continue
        if isinstance(named.get(name), dict) and isinstance(theirs[name], dict):
            yield from _differences(theirs[name], own[name], named[name], f"{inside}{name}.")
        elif theirs[name] != own[name]:
            yield f"{inside}{name} {theirs[name]!r} instead of {own[name]!r}"


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no table: what they say is checked and said in one sentence."""
    logging: Any = library_logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
