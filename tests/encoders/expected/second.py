"""The second round of encoders: chest radiographs, the baselines of published studies, and general controls.

Parameters are those of the libraries' own models of the published settings, counted apart on the meta device
(transformers 5.24, timm 1.0).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import CLIP, HALF, IMAGENET, Expected
from .basic import NARROW, TORCHVISION
from .networks import thin
from .transformers import SLIM_TEXT, clip, siglip, slim

M42 = "m42-health/CXformer: hf_small_readme.md, configs/pretrain, eval/image_features_cxr.py"
MEDMAE = "lambert-x/medical_mae: models_vit.py, util/datasets.py, PRETRAIN.md; the hub's pages"
COLLECTION = "the hub's collection of CheXagent's by-products, its tree pages and sizes of files"
WOERNER = "StefanoWoerner/medimeta-fsl-benchmark, load_all_models.py; transformers' own model"
TIMM = "timm's pretrained_cfg and model"


def dinov2(dim: int, parameters: int, depth: int = 12, registers: int = 0, **facts: Any) -> Expected:
    arguments = {**NARROW["arguments"], "num_hidden_layers": depth}
    arguments |= {"num_register_tokens": registers} if registers else {}
    given: dict[str, Any] = {"source": "Oquab et al.; Darcet et al.; facebookresearch/dinov2", "size": 224, **facts}
    return Expected(
        pooled=dim,
        pooling="cls",
        parameters=parameters,
        maps=((dim, given["size"] // 14),) * 5,
        resize="crop",
        crop="down",
        resize_to=518 if given["size"] == 518 else 256,
        prefix_tokens=1 + registers,
        small=70,
        narrow={**NARROW, "arguments": arguments},
        meta=True,
        **given,
    )


def cxformer(dim: int, parameters: int) -> Expected:
    return dinov2(dim, parameters, registers=4, size=518, scaling="equalize-image", source=M42)


def plain(dim: int, parameters: int, pooling: str = "cls", **facts: Any) -> Expected:
    """A plain vision transformer of timm, /16 at 224 unless ``facts`` say otherwise."""
    given: dict[str, Any] = {"size": 224, "prefix_tokens": 1, "narrow": {}, **facts}
    patch = given.pop("patch", 16)
    poolings = {"head": 48} if pooling == "head" else {"cls": 48, "mean": 48}
    narrow = {**thin(num_heads=2), "poolings": poolings}
    narrow["arguments"] |= given.pop("narrow")
    given.setdefault("resize_to", given["size"])
    return Expected(
        pooled=dim,
        pooling=pooling,
        parameters=parameters,
        maps=((dim, given["size"] // patch),) * 5,
        resize="crop",
        small=4 * patch,
        narrow=narrow,
        meta=True,
        **given,
    )


def medmae(dim: int, parameters: int, pooling: str = "cls") -> Expected:
    statistics = ((0.5056,) * 3, (0.252,) * 3)
    narrow = {"global_pool": "avg"} if pooling == "head" else {}
    return plain(dim, parameters, pooling, resize_to=256, statistics=statistics, narrow=narrow, source=MEDMAE)


def vit(dim: int, depth: int, patch: int, parameters: int) -> Expected:
    return Expected(
        source=WOERNER,
        pooled=dim,
        pooling="cls",
        parameters=parameters,
        maps=((dim, 224 // patch),) * 5,
        size=224,
        resize="squash",
        interpolation="bilinear",
        statistics=HALF,
        prefix_tokens=1,
        small=4 * patch,
        narrow={"arguments": slim(patch, 224, depth), "poolings": {"cls": 48, "mean": 48}, "map_channels": (48,) * 5},
        meta=True,
    )


def xray_clip(dim: int, patch: int, size: int, depth: int, projection: int, parameters: int) -> Expected:
    row = clip(dim, patch, depth, projection, "cls", parameters)
    arguments = {"projection_dim": 24, "vision_config": slim(patch, size, depth), "text_config": SLIM_TEXT}
    return replace(
        row,
        source=COLLECTION,
        size=size,
        resize="squash",
        resize_to=None,
        maps=((dim, size // patch),) * 5,
        narrow={**row.narrow, "arguments": arguments},
    )


def xray_siglip(dim: int, depth: int, parameters: int) -> Expected:
    return replace(siglip(dim, 16, 512, depth, parameters, interpolation="bicubic"), source=COLLECTION)


EXPECTED: dict[str, Expected] = {
    "dinov2-small": dinov2(384, 22_056_576),
    "dinov2-giant": dinov2(1536, 1_136_480_768, 40),
    "dinov2-reg-base": dinov2(768, 86_583_552, registers=4),
    "cxformer-s": cxformer(384, 22_058_112),
    "cxformer-b": cxformer(768, 86_583_552),
    "medmae-s": medmae(384, 21_665_664),
    "medmae-b": medmae(768, 85_798_656),
    "medmae-s-nih": medmae(384, 21_665_664, "head"),
    "medmae-b-nih": medmae(768, 85_798_656, "head"),
    "medmae-s-chexpert": medmae(384, 21_665_664, "head"),
    "medmae-b-chexpert": medmae(768, 85_798_656, "head"),
    "segformer-b4": Expected(
        source="Xie et al.; a configuration derived from the repository; transformers' own model",
        pooled=512,
        pooling="mean",
        parameters=60_842_688,
        maps=((64, 128), (128, 64), (320, 32), (512, 16)),
        size=512,
        resize="squash",
        interpolation="bilinear",
        statistics=IMAGENET,
        small=64,
        narrow={
            "arguments": {"depths": [1] * 4, "hidden_sizes": [16, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4]},
            "map_channels": (16, 16, 24, 32),
            "poolings": {"mean": 32},
        },
        meta=True,
    ),
    "siglip2-so400m-512": siglip(1152, 16, 512, 27, 428_772_800),
    "chexfound": plain(
        1024,
        304_627_968,
        size=512,
        prefix_tokens=5,
        narrow={"depth": 24, "patch_size": 16, "img_size": 512},
        source="copies of RPIDIAL/CheXFound: config.yaml of the weights, vision_transformer.py; timm's model",
    ),
    "xraysiglip-b16-512": xray_siglip(768, 12, 93_520_128),
    "xrayclip-b16-512": xray_siglip(768, 12, 93_520_128),
    "xrayclip-l16-512": xray_siglip(1024, 24, 316_742_656),
    "xrayclip-b16-laion": xray_clip(768, 16, 512, 12, 512, 86_828_544),
    "xraysiglip-b16-laion": xray_clip(768, 16, 512, 12, 512, 86_828_544),
    "xrayclip-l14-laion": xray_clip(1024, 14, 518, 24, 768, 305_105_920),
    "xraysiglip-l14-laion": xray_clip(1024, 14, 518, 24, 768, 305_105_920),
    "clip-b16": replace(clip(768, 16, 12, 512, "cls", 86_192_640), source=WOERNER),
    "clip-h14-laion2b": replace(
        clip(1280, 14, 32, 1024, "cls", 632_076_800), source="open_clip's ViT-H-14; " + WOERNER
    ),
    "clip-g14-laion2b": replace(
        clip(1408, 14, 40, 1024, "cls", 1_012_645_632), source="open_clip's ViT-g-14; " + WOERNER
    ),
    "vit-b16-in21k": vit(768, 12, 16, 85_798_656),
    "vit-b16-in1k": vit(768, 12, 16, 85_798_656),
    "vit-l16-in21k": vit(1024, 24, 16, 303_301_632),
    "vit-l16-in1k": vit(1024, 24, 16, 303_301_632),
    "vit-h14-in21k": vit(1280, 32, 14, 630_764_800),
    "resnet101": Expected(
        source=TORCHVISION,
        pooled=2048,
        pooling="gap",
        parameters=44_549_160 - 2048 * 1000 - 1000,
        maps=((256, 56), (512, 28), (1024, 14), (2048, 7)),
        size=224,
        resize="crop",
        resize_to=235,
        small=64,
        narrow={"arguments": {"layers": [1, 1, 1, 1]}},
        meta=True,
    ),
    "pe-core-b16": plain(768, 92_886_528, "head", statistics=HALF, source=TIMM),
    "pe-core-l14": plain(
        1024, 316_102_656, "head", patch=14, size=336, statistics=HALF, narrow={"depth": 24}, source=TIMM
    ),
    "c-radio-b16": plain(768, 86_456_064, size=512, prefix_tokens=8, statistics=CLIP, source=TIMM),
    "tipsv2-b14": plain(
        768, 86_314_752, patch=14, size=448, prefix_tokens=2, statistics=((0.0,) * 3, (1.0,) * 3), source=TIMM
    ),
}
