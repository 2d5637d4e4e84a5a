"""Ark+: timm's Swin Transformer with the authors' projector behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import timm
from timm.models.swin_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.weights import Checkpoint, check_fit, load_into, other_shapes


class ArkEncoder(Encoder):
    """Swin, last norm, mean over the cells, projector; the published embedding is the projector's output.

    The card's ``arguments``: ``backbone``, timm's name of the Swin; ``projector``, the embedding's dimension; the rest
    goes to timm. Maps are the stages, before the last norm.

    Source: Ma et al., A fully open AI foundation model applied to chest radiography, Nature 2025; the authors'
    ``generate_embeddings``.
    """

    def __init__(self, card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> None:
        super().__init__(card, state)
        arguments = dict(card.arguments)
        backbone, projected = arguments.pop("backbone"), arguments.pop("projector")
        arguments |= {"num_classes": 0, "img_size": self.input_size}
        model: Any = timm.create_model(backbone, pretrained=False, **arguments)
        # A part of timm's model, so that the names are those of the authors' file.
        model.add_module("projector", nn.Linear(model.num_features, projected))
        self.model: Any = model
        if checkpoint is not None:
            load_into(self.model, _as_timm_names(checkpoint, self.model, card), card.weights, checkpoint.path)

    def _forward(self, batch: Tensor) -> RawFeatures:
        final, layers = self.model.forward_intermediates(
            batch, indices=list(self.card.map_layers), norm=False, output_fmt="NCHW"
        )
        # The last norm's cells come channels last.
        mean = final.mean((1, 2))
        return RawFeatures(layers=tuple(layers), pooled={"projector": self.model.projector(mean), "mean": mean})


def _as_timm_names(checkpoint: Checkpoint, model: Any, card: EncoderCard) -> Mapping[str, Tensor]:
    """The tensors under the names of today's timm: releases before 0.9 counted ``downsample`` to the stage before.

    timm's filter resamples a patch embedding or a table of relative positions of another size; neither can be right
    here, so these are refused first.
    """
    mismatched = [
        fault
        for name, fault in other_shapes(checkpoint.tensors, model.state_dict()).items()
        if re.search(r"patch_embed\.|relative_position_bias_table$", name)
    ]
    check_fit(mismatched=mismatched, facts=card.weights, origin=checkpoint.path)
    return checkpoint_filter_fn(dict(checkpoint.tensors), model)
