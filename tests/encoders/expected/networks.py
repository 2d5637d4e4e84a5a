"""Encoders of timm: figures of the publications (with their classifiers of 1000 classes) and timm's pretrained_cfg."""

from __future__ import annotations

from typing import Any, Literal

from . import HALF, IMAGENET, PLAIN, Expected

TIMM = "timm's model table and pretrained_cfg"
MAPS = tuple[tuple[int, int], ...]


def thin(**arguments: Any) -> dict[str, Any]:
    """A plain ViT of 48 channels."""
    return {"arguments": {"embed_dim": 48, **arguments}, "map_channels": (48,) * 5}


def dinov3(dim: int, parameters: int, depth: int = 12) -> Expected:
    # Parameters: timm 1.0's model, which its authors list as 21.6, 85.6 and 303.1 million.
    narrow = {**thin(num_heads=2, depth=depth), "poolings": {"cls": 48, "mean": 48}}
    return Expected(
        source="timm's model table; DINOv3's model card (CLS and four registers)",
        pooled=dim,
        pooling="cls",
        parameters=parameters,
        maps=((dim, 16),) * 5,
        size=256,
        resize="crop",
        resize_to=256,
        prefix_tokens=5,
        small=64,
        narrow=narrow,
        meta=True,
    )


def eva_x(dim: int, parameters: int) -> Expected:
    arguments = {"patch_size": 16, "ref_feat_shape": [14, 14], "num_heads": 2}
    return Expected(
        source="EVA-X's repository: eva_x.py and its datasets' statistics; timm's Eva of these settings counted apart",
        pooled=dim,
        pooling="head",
        parameters=parameters,
        maps=((dim, 14),) * 5,
        size=224,
        resize="crop",
        resize_to=256,
        statistics=((0.49185243,) * 3, (0.28509309,) * 3),
        prefix_tokens=1,
        small=64,
        narrow={**thin(**arguments), "poolings": {"head": 48, "cls": 48}},
        meta=True,
    )


def sam(resize: Literal["letterbox", "squash"], **facts: Any) -> Expected:
    return Expected(
        source="segment_anything/build_sam.py, MedSAM's pre_CT_MR.py; timm's model counted apart",
        pooled=256,
        pooling="gap",
        parameters=89_670_912,
        maps=((768, 64),) * 5,
        size=1024,
        resize=resize,
        small=256,
        narrow=thin(num_heads=2),
        meta=True,
        **facts,
    )


def classifier(parameters: int, dim: int, maps: MAPS, pooling: str, resize_to: int, **facts: Any) -> Expected:
    """A network trained on ImageNet-1k at 224², without its classifier."""
    return Expected(
        source=TIMM,
        pooled=dim,
        pooling=pooling,
        parameters=parameters - 1000 * dim - 1000,
        maps=maps,
        size=224,
        resize="crop",
        resize_to=resize_to,
        small=64,
        **facts,
    )


EXPECTED: dict[str, Expected] = {
    "dinov3-vits16": dinov3(384, 21_586_944),
    "dinov3-vitb16": dinov3(768, 85_641_216),
    "dinov3-vitl16": dinov3(1024, 303_079_424, 24),
    "eva-x-ti": eva_x(192, 5_525_184),
    "eva-x-s": eva_x(384, 21_667_200),
    "eva-x-b": eva_x(768, 85_850_880),
    "sam-b": sam("letterbox", pad="start", statistics=IMAGENET),
    "medsam": sam("squash", scaling="min-max-input", statistics=PLAIN),
    "mermed-fm": Expected(
        source="ViT-B/16: 86,567,656 with its classifier of 1000 classes; yangzhou12/MerMED, main_mermed.py",
        statistics=((0.50756656,) * 3, (0.31223216,) * 3),
        pooled=768,
        pooling="cls",
        parameters=86_567_656 - 768 * 1000 - 1000,
        maps=((768, 14),) * 5,
        size=224,
        resize="squash",
        prefix_tokens=1,
        small=64,
        narrow={**thin(num_heads=2), "poolings": {"cls": 48, "mean": 48}},
        meta=True,
    ),
    "convnext-base": classifier(
        88_591_464,
        1024,
        ((128, 56), (256, 28), (512, 14), (1024, 7)),
        "head",
        256,
        narrow={
            "arguments": {"depths": [1, 1, 1, 1], "dims": [16, 32, 48, 64]},
            "map_channels": (16, 32, 48, 64),
            "poolings": {"head": 64},
        },
        meta=True,
    ),
    "resnet18": classifier(11_689_512, 512, ((64, 56), (128, 28), (256, 14), (512, 7)), "gap", 235),
    "resnet50.tv": classifier(
        25_557_032,
        2048,
        ((256, 56), (512, 28), (1024, 14), (2048, 7)),
        "gap",
        256,
        interpolation="bilinear",
    ),
    "vit-base": classifier(
        86_567_656,
        768,
        ((768, 14),) * 5,
        "cls",
        248,
        statistics=HALF,
        prefix_tokens=1,
        narrow={**thin(num_heads=2), "poolings": {"cls": 48, "mean": 48}},
        meta=True,
    ),
    "swin-base": classifier(
        87_768_224,
        1024,
        ((128, 56), (256, 28), (512, 14), (1024, 7)),
        "head",
        248,
        narrow={
            "arguments": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]},
            "map_channels": (16, 32, 64, 128),
            "poolings": {"head": 128},
        },
        meta=True,
    ),
}
