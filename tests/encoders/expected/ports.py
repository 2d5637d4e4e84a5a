"""Rows of the small ports and of torchxrayvision's DenseNet."""

from __future__ import annotations

from . import PLAIN, Expected


def _swin_block(width: int, heads: int) -> int:
    """Attention and MLP (ratio 4) with their norms, and the table of positions of a 12 x 12 window."""
    return 12 * width**2 + 13 * width + (2 * 12 - 1) ** 2 * heads


def _davit_half(width: int) -> int:
    """Two depthwise 3 x 3, two norms, attention and MLP (ratio 4), all with biases: spatial and channel alike."""
    return 12 * width**2 + (2 * (9 + 1) + 2 * 2 + 4 + 5) * width


STAGES = (192, 384, 768, 1536)
ARK_PARAMETERS = (
    3 * 4 * 4 * 192
    + 192
    + 2 * 192  # patch embedding and its norm
    + sum(
        depth * _swin_block(width, heads)
        for width, depth, heads in zip(STAGES, (2, 2, 18, 2), (6, 12, 24, 48), strict=True)
    )
    + sum(2 * 4 * width + 4 * width * 2 * width for width in STAGES[:-1])  # norm and reduction between stages
    + 2 * 1536  # last norm
    + 1536 * 1376
    + 1376  # projector
)

WIDTHS = (256, 512, 1024, 2048)
DAVIT_PARAMETERS = (
    3 * 7 * 7 * 256
    + 256
    + 2 * 256  # stem and its norm
    + sum(2 * depth * _davit_half(width) for width, depth in zip(WIDTHS, (1, 1, 9, 1), strict=True))
    + sum(2 * width + 3 * 3 * width * 2 * width + 2 * width for width in WIDTHS[:-1])  # norm and 3 x 3 between stages
    + 2 * 2048  # last norm
    + 2048 * 1024  # projection
)

RESNET50 = 25_557_032 - 2048 * 1000 - 1000  # torchvision's model table less the classifier
BIOVILT_PARAMETERS = (
    RESNET50
    + 2048 * 256
    + 256  # 1 x 1 convolution; the missing previous radiograph
    + 512 * 128
    + 2 * 128
    + 128 * 128
    + 128  # projector: convolution, batch norm, convolution with bias
)

XRV_PARAMETERS = 7_978_856 - 1024 * 1000 - 1000 - 2 * 7 * 7 * 64  # torchvision's less the classifier and two channels

EXPECTED: dict[str, Expected] = {
    "ark-plus": Expected(
        source="jlianglab/Ark, Ark_Plus: Zeroshot/Ark+zeroshot-pred.ipynb and Pretraining/models.py (counted above)",
        pooled=1376,
        pooling="projector",
        parameters=ARK_PARAMETERS,
        maps=((192, 192), (384, 96), (768, 48), (1536, 24)),
        size=768,
        resize="squash",
        small=96,
        narrow={
            "arguments": {
                "backbone": "swin_large_patch4_window12_384",
                "projector": 20,
                "embed_dim": 16,
                "depths": (2, 2, 2, 2),
                "num_heads": (1, 2, 4, 8),
                "window_size": 3,
            },
            "size_multiple": 96,
            "poolings": {"projector": 20, "mean": 128},
            "map_channels": (16, 32, 64, 128),
        },
        meta=True,
    ),
    "medimageinsight": Expected(
        source="config.yaml and MedImageInsight/ beside the weights, in a copy of their repository (counted above)",
        pooled=1024,
        pooling="projection",
        parameters=DAVIT_PARAMETERS,
        maps=((256, 120), (512, 60), (1024, 30), (2048, 15)),
        size=480,
        resize="squash",
        text=(1024, 77),
        small=96,
        narrow={
            "arguments": {
                "backbone": "davit_huge_fl",
                "projection": 20,
                "embed_dims": (16, 32, 64, 128),
                "num_heads": (1, 2, 4, 8),
                "depths": (1, 1, 2, 1),
            },
            "poolings": {"projection": 20, "features": 128},
            "map_channels": (16, 32, 64, 128),
        },
        meta=True,
    ),
    "biovil-t": Expected(
        source="microsoft/hi-ml, hi-ml-multimodal: image/model, image/utils.py, image/data (counted above)",
        pooled=128,
        pooling="projection",
        parameters=BIOVILT_PARAMETERS,
        maps=((256, 112), (512, 56), (1024, 28), (2048, 14), (512, 14)),
        size=448,
        resize="crop",
        resize_to=512,
        interpolation="bilinear",
        statistics=PLAIN,
        scaling="min-max-image",
        text=(128, 512),
        small=64,
        narrow={"arguments": {"layers": [1, 1, 1, 1]}},
    ),
    "xrv-densenet121-all": Expected(
        source="mlmed/torchxrayvision: models.py, datasets.py (normalize to -1024 .. 1024, central square, 224)",
        pooled=1024,
        pooling="gap",
        parameters=XRV_PARAMETERS,
        maps=((256, 56), (512, 28), (1024, 14), (1024, 7)),
        size=224,
        resize="crop",
        resize_to=224,
        interpolation="bilinear",
        statistics=((0.0,), (1.0,)),
        value_range=(-1024.0, 1024.0),
        small=64,
    ),
}
