"""Vision transformers of the transformers library, through its native classes; remote code is never run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import transformers
from torch import Tensor
from transformers.utils import logging as library_logging

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, RawFeatures, Settings
from evalfm.encoders.weights import Checkpoint, check_fit
from evalfm.errors import EvalfmError


class TransformersEncoder(Encoder):
    """A model that gives ``last_hidden_state`` (after ``layernorm``) and ``hidden_states``.

    A checkpoint goes through ``from_pretrained``, which converts the key names of older releases; loading it
    directly would leave tensors out.
    """

    def __init__(self, card: EncoderCard, settings: Settings, checkpoint: Checkpoint | None) -> None:
        super().__init__(card, settings)
        kind = getattr(transformers, card.architecture, None)
        if not (inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)):
            raise EvalfmError(f"transformers has no model class {card.architecture!r}; mend the card's architecture.")
        config_kind: Any = kind.config_class
        config = config_kind(**card.arguments)
        self.model: Any
        if checkpoint is None:
            self.model = kind(config)
        else:
            _check_config(checkpoint, card, config)
            self.model = _load(kind, config, checkpoint, card)
        self.model.eval()
        trained = getattr(config, "image_size", None)
        if isinstance(trained, int) and self.input_size != (trained, trained):
            note = f"transformers interpolates the positions of {card.name}, made for {trained} pixels."
            self.settings = replace(self.settings, notes=(*self.settings.notes, note))
        takes = inspect.signature(self.model.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}

    def _forward(self, batch: Tensor) -> RawFeatures:
        output = self.model(pixel_values=batch, output_hidden_states=True, **self._options)
        # The first hidden state is the embedding, before any block.
        layers = tuple(output.hidden_states[index + 1] for index in self.card.map_layers)
        return RawFeatures(layers=layers, final=output.last_hidden_state)

    def _final_norm(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.model.layernorm(tokens)
        return normed


def _load(kind: Any, config: Any, checkpoint: Checkpoint, card: EncoderCard) -> Any:
    with _quiet():
        try:
            model, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(checkpoint.tensors),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype="float32",
            )
        except RuntimeError as error:
            raise EvalfmError(
                f"{checkpoint.path} does not fit the encoder ({str(error).splitlines()[0]}); "
                "give the weights that the card names."
            ) from None
    check_fit(
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        mismatched=[f"{name} {list(found)} instead of {list(own)}" for name, found, own in report["mismatched_keys"]],
        facts=card.weights,
        origin=checkpoint.path,
    )
    return model


def _check_config(checkpoint: Checkpoint, card: EncoderCard, config: Any) -> None:
    """Compare the config.json beside the weights with the card: equal shapes may still mean another model."""
    if checkpoint.config is None:
        return
    own = config.to_dict()
    decisive = [
        name
        for name in own
        if name in card.arguments or name in ("layer_norm_eps", "hidden_act", "layerscale_value", "use_swiglu_ffn")
    ]
    differing = [
        f"{name} {checkpoint.config[name]!r} instead of {own[name]!r}"
        for name in decisive
        if name in checkpoint.config and checkpoint.config[name] != own[name]
    ]
    if differing:
        raise EvalfmError(
            f"The config.json beside {checkpoint.path} describes another model than the card "
            f"({', '.join(differing)}); give the weights that the card names, or write a card for these."
        )


@contextmanager
def _quiet() -> Iterator[None]:
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


def build(card: EncoderCard, settings: Settings, checkpoint: Checkpoint | None) -> Encoder:
    """The card's transformers model, with the checkpoint's tensors or random ones."""
    return TransformersEncoder(card, settings, checkpoint)
