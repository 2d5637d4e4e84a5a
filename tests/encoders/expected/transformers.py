"""Encoders of the transformers library.

Parameters are those of the library's own classes of the published settings, counted apart (transformers 5.23 on the
meta device): Dinov2Model, SiglipVisionModel, CLIPVisionModelWithProjection, ViTModel, IJepaModel without pooler.
"""

from __future__ import annotations

from typing import Any

from . import CLIP, HALF, Expected
from .basic import NARROW, VIT_B14_PARAMETERS

LIBRARY = "transformers' own model of the published settings; preprocessor_config.json as in the card's paper or page"


def slim(patch: int, size: int, depth: int) -> dict[str, Any]:
    """Settings of a thin vision tower of the same depth."""
    return {
        "image_size": size,
        "patch_size": patch,
        "hidden_size": 48,
        "num_hidden_layers": depth,
        "num_attention_heads": 2,
        "intermediate_size": 96,
    }


SLIM_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def siglip(dim: int, patch: int, size: int, depth: int, parameters: int, **facts: Any) -> Expected:
    rows = size // patch
    narrow = {
        "arguments": {"vision_config": slim(patch, size, depth), "text_config": {**SLIM_TEXT, "projection_size": 48}},
        "poolings": {"map": 48, "mean": 48},
        "map_channels": (48,) * 5,
    }
    given = {"interpolation": "bilinear", **facts}
    return Expected(
        source=LIBRARY,
        pooled=dim,
        pooling="map",
        parameters=parameters,
        maps=((dim, rows),) * 5,
        size=size,
        resize="squash",
        statistics=HALF,
        text=(dim, 64),
        small=4 * patch,
        narrow=narrow,
        meta=True,
        **given,
    )


def clip(dim: int, patch: int, depth: int, projection: int, pooling: str, parameters: int) -> Expected:
    narrow = {
        "arguments": {"projection_dim": 24, "vision_config": slim(patch, 224, depth), "text_config": SLIM_TEXT},
        "poolings": {"cls": 48, "projection": 24, "mean": 48},
        "map_channels": (48,) * 5,
    }
    return Expected(
        source=LIBRARY,
        pooled=projection if pooling == "projection" else dim,
        pooling=pooling,
        parameters=parameters,
        maps=((dim, 224 // patch),) * 5,
        size=224,
        resize="crop",
        crop="down",
        resize_to=224,
        statistics=CLIP,
        prefix_tokens=1,
        text=(projection, 77),
        small=4 * patch,
        narrow=narrow,
        meta=True,
    )


def curia() -> Expected:
    arguments = {**NARROW["arguments"], "image_size": 512, "patch_size": 16, "num_channels": 1}
    return Expected(
        source=LIBRARY,
        pooled=768,
        pooling="cls",
        parameters=86_060_544,
        maps=((768, 32),) * 5,
        size=512,
        resize="squash",
        statistics=((0.0,), (1.0,)),
        scaling="z-score-input",
        prefix_tokens=1,
        small=64,
        narrow={**NARROW, "arguments": arguments},
        meta=True,
    )


EXPECTED: dict[str, Expected] = {
    "rad-dino-maira-2": Expected(
        source="the settings of rad-dino; the hub's tree page (revision, licence)",
        pooled=768,
        pooling="cls",
        parameters=VIT_B14_PARAMETERS,
        maps=((768, 37),) * 5,
        size=518,
        resize="crop",
        crop="down",
        resize_to=518,
        statistics=((0.5307,) * 3, (0.2583,) * 3),
        prefix_tokens=1,
        small=70,
        narrow=NARROW,
        meta=True,
    ),
    "dinov2-large": Expected(
        source=LIBRARY,
        pooled=1024,
        pooling="cls",
        parameters=304_368_640,
        maps=((1024, 16),) * 5,
        size=224,
        resize="crop",
        crop="down",
        resize_to=256,
        prefix_tokens=1,
        small=70,
        narrow={**NARROW, "arguments": {**NARROW["arguments"], "num_hidden_layers": 24}},
        meta=True,
    ),
    "curia": curia(),
    "curia-2": curia(),
    "chexagent": siglip(1024, 16, 512, 24, 316_742_656, interpolation="bicubic"),
    "medsiglip": siglip(1152, 14, 448, 27, 428_565_440, antialias=False),
    "siglip2-base": siglip(768, 16, 224, 12, 92_884_224),
    "siglip2-large": siglip(1024, 16, 256, 24, 315_956_224),
    "siglip2-so400m": siglip(1152, 16, 384, 27, 428_256_704),
    "clip-l14": clip(1024, 14, 24, 768, "cls", 303_966_208),
    "pubmedclip": clip(768, 32, 12, 512, "projection", 87_849_216),
    "mae-b16": Expected(
        source=LIBRARY,
        pooled=768,
        pooling="cls",
        parameters=85_798_656,
        maps=((768, 14),) * 5,
        size=224,
        resize="squash",
        interpolation="bilinear",
        prefix_tokens=1,
        small=64,
        narrow={"arguments": slim(16, 224, 12), "poolings": {"cls": 48, "mean": 48}, "map_channels": (48,) * 5},
        meta=True,
    ),
    "ijepa-h14": Expected(
        source=LIBRARY,
        pooled=1280,
        pooling="mean",
        parameters=630_762_240,
        maps=((1280, 16),) * 5,
        size=224,
        resize="squash",
        interpolation="bilinear",
        small=56,
        narrow={"arguments": slim(14, 224, 32), "poolings": {"mean": 48}, "map_channels": (48,) * 5},
        meta=True,
    ),
    "cxr-clip-swint": Expected(
        source="Liu et al., Swin-T, 28,288,354 less the classifier of 1000 classes; kakaobrain/cxr-clip: clip.py, "
        "modules/projection.py, data_utils.py",
        pooled=512,
        pooling="projection",
        parameters=28_288_354 - 768 * 1000 - 1000 + 768 * 512 + 512,
        maps=((96, 56), (192, 28), (384, 14), (768, 7)),
        size=224,
        resize="crop",
        resize_to=224,
        interpolation="bilinear",
        statistics=HALF,
        text=(512, 256),
    ),
}
