"""Encoders of open_clip; parameters of an image tower counted from its width, depth and patch."""

from __future__ import annotations

from typing import Any

from . import CLIP, Expected


def tower(width: int, depth: int, patch: int, size: int, projection: int, norms: int) -> int:
    """A ViT with a projection without bias; ``norms`` outside the blocks, patches without bias where there are two."""
    block = 4 * (width * width + width) + 2 * 4 * width * width + 5 * width + 4 * width
    tokens = (size // patch) ** 2 + 1
    bias = width if norms == 1 else 0
    embedding = 3 * patch * patch * width + bias + width + tokens * width
    return embedding + depth * block + 2 * norms * width + width * projection


def native(width: int, depth: int, patch: int, size: int, projection: int, context: int, **facts: Any) -> Expected:
    """open_clip's own vision transformer."""
    text = {"bert": {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}}
    narrow = {
        "arguments": {
            "embed_dim": 24,
            "quick_gelu": True,
            "vision_cfg": {
                "image_size": size,
                "layers": depth,
                "width": 48,
                "patch_size": patch,
                "head_width": 24,
            },
            "text_cfg": text,
        },
        "poolings": {"projection": 24},
        "map_channels": (48,) * 5,
        # At the only size that these models take, parameters are counted on loading.
        "parameters": tower(48, depth, patch, size, 24, 2),
    }
    given: dict[str, Any] = {"resize": "crop", "resize_to": size, "statistics": CLIP, **facts}
    given.setdefault("source", "the published configuration; counted above")
    return Expected(
        pooled=projection,
        pooling="projection",
        parameters=tower(width, depth, patch, size, projection, 2),
        maps=((width, size // patch),) * 5,
        size=size,
        prefix_tokens=1,
        text=(projection, context),
        narrow=narrow,
        meta=True,
        **given,
    )


UNIMED = "mbzuai-oryx/UniMed-CLIP: app, configurations, README; hub listing; counted above"

EXPECTED: dict[str, Expected] = {
    "biomedclip": Expected(
        source="open_clip_config.json of the repository; counted above",
        pooled=512,
        pooling="projection",
        parameters=tower(768, 12, 16, 224, 512, 1),
        maps=((768, 14),) * 5,
        size=224,
        resize="crop",
        resize_to=224,
        statistics=CLIP,
        prefix_tokens=1,
        text=(512, 256),
        narrow={
            "arguments": {
                "embed_dim": 24,
                "vision_cfg": {
                    "timm_model_name": "vit_tiny_patch16_224",
                    "timm_pool": "",
                    "timm_proj": "linear",
                    "image_size": 224,
                },
                "text_cfg": {},
            },
            "poolings": {"projection": 24, "cls": 192},
            "parameters": tower(192, 12, 16, 224, 24, 1),
            "map_channels": (192,) * 5,
        },
        meta=True,
    ),
    "chexzero": native(
        768,
        12,
        32,
        224,
        512,
        77,
        resize="letterbox",
        resize_to=320,
        statistics=((101.48761,) * 3, (83.43944,) * 3),
        value_range=(0.0, 255.0),
        first="lanczos",
        cut_overshoot=False,
        source="rajpurkarlab/CheXzero, data_process.py and zero_shot.py; counted above",
    ),
    "unimed-clip-b16": native(768, 12, 16, 224, 512, 256, source=UNIMED),
    "unimed-clip-l14": native(1024, 24, 14, 336, 768, 256, source=UNIMED),
}
