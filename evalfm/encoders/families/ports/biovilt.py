"""BioViL-T's image encoder for a single radiograph, from torchvision's ResNet-50."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.weights import Checkpoint, load_into

if TYPE_CHECKING:
    from evalfm.encoders.text import TextTower

STATIC = 256
"""Channels of the image itself, and as many for its change since a previous radiograph."""

JOINT = 128
"""Dimensions of the space that images and sentences share."""


class BioVilTEncoder(Encoder):
    """ResNet-50, a 1 x 1 convolution to 256 channels, 256 more for the missing previous radiograph, projector to 128.

    Without a previous radiograph the authors' model never runs its transformer: the change since then is one learnt
    vector, the same in every cell. Its tensors are left in the file. ``projection`` is the published embedding,
    the mean of the projected cells (not the projection of their mean); ``fused`` the mean of the 512 channels. Maps
    are the ResNet's stages, then the 512 channels.

    Source: Bannur et al., Learning to exploit temporal structure for biomedical vision-language processing, CVPR
    2023; the authors' hi-ml-multimodal package.
    """

    def __init__(self, card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> None:
        super().__init__(card, state)
        self.model = ImageModel(list(card.arguments["layers"]))
        if checkpoint is not None:
            load_into(self.model, checkpoint.tensors, card.weights, checkpoint.path)

    def _forward(self, batch: Tensor) -> RawFeatures:
        stages, fused, projected = self.model(batch)
        every = (*stages, fused)
        return RawFeatures(
            layers=tuple(every[index] for index in self.card.map_layers),
            pooled={"projection": projected.mean((2, 3)), "fused": fused.mean((2, 3))},
        )

    def _text_tower(self) -> TextTower:
        from evalfm.encoders.families.ports.biovilt_text import BioVilTTextTower

        return BioVilTTextTower(self.card, self.state)


class ImageModel(nn.Module):
    """The parts that a single radiograph needs, under the names of the authors' file."""

    def __init__(self, layers: list[int]) -> None:
        super().__init__()
        self.encoder = SingleImageEncoder(layers)
        self.projector = nn.ModuleDict(
            {
                "model": nn.Sequential(
                    nn.Conv2d(2 * STATIC, JOINT, 1, bias=False),
                    nn.BatchNorm2d(JOINT),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(JOINT, JOINT, 1),
                )
            }
        )

    def forward(self, batch: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The four stages, the fused cells [B, 512, h, w] and the projected cells [B, 128, h, w]."""
        stages, fused = self.encoder(batch)
        return stages, fused, self.projector["model"](fused)


class SingleImageEncoder(nn.Module):
    """The ResNet and what stands for a previous radiograph that there is not."""

    def __init__(self, layers: list[int]) -> None:
        super().__init__()
        self.encoder = ResNet(Bottleneck, layers)
        # The authors' file holds torchvision's classifier too, which nothing uses.
        del self.encoder.fc
        self.backbone_to_vit = nn.Conv2d(2048, STATIC, 1, bias=False)
        self.missing_previous_emb = nn.Parameter(torch.empty(1, STATIC, 1, 1))
        nn.init.trunc_normal_(self.missing_previous_emb, std=0.02)

    def forward(self, batch: Tensor) -> tuple[list[Tensor], Tensor]:
        """The four stages, and the image's cells beside those of the missing one [B, 512, h, w]."""
        net = self.encoder
        batch = net.maxpool(net.relu(net.bn1(net.conv1(batch))))
        stages = []
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            batch = stage(batch)
            stages.append(batch)
        cells = self.backbone_to_vit(batch)
        missing = self.missing_previous_emb.to(cells.dtype).expand(len(cells), -1, *cells.shape[2:])
        return stages, torch.cat([cells, missing], dim=1)
