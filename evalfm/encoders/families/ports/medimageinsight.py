"""MedImageInsight: timm's DaViT under the authors' names, with their projection behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.weights import Checkpoint, load_into

if TYPE_CHECKING:
    from evalfm.encoders.text import TextTower

NAMES = (
    (r"^convs\.0\.proj\.", "stem.conv."),
    (r"^convs\.0\.norm\.", "stem.norm."),
    (r"^convs\.(\d+)\.proj\.", r"stages.\1.downsample.conv."),
    (r"^convs\.(\d+)\.norm\.", r"stages.\1.downsample.norm."),
    (r"^blocks\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.conv1\.fn\.dw\.", ".cpe1.proj."),
    (r"\.conv2\.fn\.dw\.", ".cpe2.proj."),
    (r"(?<=\.spatial_block)\.window_attn\.norm\.", ".norm1."),
    (r"(?<=\.channel_block)\.channel_attn\.norm\.", ".norm1."),
    (r"(?<=\.spatial_block)\.window_attn\.fn\.", ".attn."),
    (r"(?<=\.channel_block)\.channel_attn\.fn\.", ".attn."),
    (r"\.ffn\.norm\.", ".norm2."),
    (r"\.ffn\.fn\.net\.", ".mlp."),
    (r"^norms\.", "head.norm."),
)
"""The authors' names and timm's, as expressions; the card's ``rename`` has taken ``image_encoder.`` off."""


class MedImageInsightEncoder(Encoder):
    """DaViT, mean over the cells, layer norm, projection to length 1: the published embedding ``projection``.

    ``features`` is what goes into the projection. The card's ``arguments``: ``backbone``, timm's name of the DaViT;
    ``projection``, the embedding's dimension; the rest goes to timm. Maps are the stages.

    Source: Codella et al., MedImageInsight: an open-source embedding model for general domain medical imaging, 2024
    (arXiv 2410.06542); the authors' ``UniCLModel.encode_image``.
    """

    def __init__(self, card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> None:
        super().__init__(card, state)
        arguments = dict(card.arguments)
        backbone, projected = arguments.pop("backbone"), arguments.pop("projection")
        model: Any = timm.create_model(backbone, pretrained=False, num_classes=0, **arguments)
        projection = nn.Parameter(torch.empty(model.num_features, projected))
        nn.init.trunc_normal_(projection, std=0.02)
        # A part of timm's model, so that one list of names serves.
        model.register_parameter("image_projection", projection)
        self.model: Any = model
        if checkpoint is not None:
            load_into(self.model, as_timm_names(checkpoint.tensors), card.weights, checkpoint.path)

    def _forward(self, batch: Tensor) -> RawFeatures:
        final, layers = self.model.forward_intermediates(batch, indices=list(self.card.map_layers), output_fmt="NCHW")
        features = self.model.forward_head(final, pre_logits=True)
        projected = functional.normalize(features @ self.model.image_projection, dim=-1)
        return RawFeatures(layers=tuple(layers), pooled={"projection": projected, "features": features})

    def _text_tower(self) -> TextTower:
        from evalfm.encoders.families.ports.medimageinsight_text import MedImageInsightTextTower

        return MedImageInsightTextTower(self.card, self.state)


def as_timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' DaViT tensors under timm's names; names that are neither's stay as they are."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed
