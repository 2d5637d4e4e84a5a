"""Torchvision models whose backbone is one sequence called ``features``: SqueezeNet, VGG, DenseNet …"""

from __future__ import annotations

import torchvision.models
from torch import Tensor, nn

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.weights import Checkpoint, load_into
from evalfm.errors import EvalfmError, UnknownNameError


class TorchvisionEncoder(Encoder):
    """Runs ``features`` and keeps what the card's ``map_layers`` (indices of its children) give."""

    def __init__(self, card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> None:
        super().__init__(card, state)
        if card.architecture not in torchvision.models.list_models():
            raise UnknownNameError("torchvision model", card.architecture, torchvision.models.list_models())
        model = torchvision.models.get_model(card.architecture, weights=None, **card.arguments)
        features = getattr(model, "features", None)
        if not isinstance(features, nn.Sequential):
            raise EvalfmError(f"torchvision's {card.architecture} has no sequence 'features'; take timm's instead.")
        self.model = nn.ModuleDict({"features": features})
        if checkpoint is not None:
            named = checkpoint.named_for(self.model.state_dict())
            self.add_cautions(*named.cautions[len(checkpoint.cautions) :])
            load_into(self.model, named.tensors, card.weights, checkpoint.path)

    def _forward(self, batch: Tensor) -> RawFeatures:
        kept = {}
        for index, layer in enumerate(self.model["features"].children()):
            batch = layer(batch)
            kept[index] = batch
        return RawFeatures(layers=tuple(kept[index] for index in self.card.map_layers), final=batch)


def build(card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> Encoder:
    """The card's torchvision model, with the checkpoint's tensors or random ones."""
    return TorchvisionEncoder(card, state, checkpoint)
