"""Preparation against the libraries' own transforms, run on 8-bit images of many sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from open_clip.transform import image_transform
from PIL import Image as Pil
from timm.data import create_transform, resolve_data_config
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvision_functional
from transformers import BitImageProcessor, CLIPImageProcessor, SegformerImageProcessor, ViTImageProcessor

from evalfm.encoders import find_card
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.preprocessing import Preparer
from evalfm.encoders.registry import CARDS

from .expected import EXPECTED
from .images import drawn, model_tensor

SIZES = [(300, 231), (257, 256), (231, 300), (245, 400), (256, 259), (640, 633), (401, 300), (230, 227), (512, 509)]


def from_timm(architecture: str) -> Callable[[Pil.Image], Tensor]:
    model = timm.create_model(architecture, pretrained=False)
    transform: Any = create_transform(**resolve_data_config({}, model=model), is_training=False)
    return lambda picture: transform(picture)


def from_transformers(processor: Any) -> Callable[[Pil.Image], Tensor]:
    return lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0]


def dinov2(short: int, crop: int, mean: Any, std: Any) -> Callable[[Pil.Image], Tensor]:
    return from_transformers(
        BitImageProcessor(
            size={"shortest_edge": short},
            crop_size={"height": crop, "width": crop},
            image_mean=list(mean),
            image_std=list(std),
            resample=3,
        )
    )


def cxr_clip(picture: Pil.Image) -> Tensor:
    steps = [transforms.Resize(224), transforms.CenterCrop(224), transforms.ToTensor()]
    made: Tensor = transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.5] * 3)])(picture)
    return made


def chexzero(picture: Pil.Image) -> Tensor:
    """data_process.preprocess, then the transform of zero_shot.py."""
    ratio = float(320) / max(picture.size)
    width, height = (int(side * ratio) for side in picture.size)
    canvas = Pil.new("L", (320, 320))
    smaller = picture.convert("L").resize((width, height), Pil.Resampling.LANCZOS)
    canvas.paste(smaller, ((320 - width) // 2, (320 - height) // 2))
    levels = torch.from_numpy(np.array(canvas).astype(np.float32)).expand(3, -1, -1)
    steps = [transforms.Normalize((101.48761,) * 3, (83.43944,) * 3), transforms.Resize(224, InterpolationMode.BICUBIC)]
    made: Tensor = transforms.Compose(steps)(levels)
    return made


def preset(architecture: str) -> Callable[[Pil.Image], Tensor]:
    from torchvision.models import get_model_weights

    transform = get_model_weights(architecture)["IMAGENET1K_V1"].transforms()
    return lambda picture: transform(picture)


def library(name: str) -> Callable[[Pil.Image], Tensor]:
    """The transform that the card's authors or library publish."""
    facts = EXPECTED[name]
    if name in ("cxr-clip-swint", "chexzero"):
        return {"cxr-clip-swint": cxr_clip, "chexzero": chexzero}[name]
    if name in ("biomedclip", "unimed-clip-b16"):
        made = image_transform(224, is_train=False, mean=facts.statistics[0], std=facts.statistics[1])
        return lambda picture: made(picture)
    if name in ("rad-dino", "dinov2-base"):
        assert facts.resize_to is not None
        return dinov2(facts.resize_to, facts.size, *facts.statistics)
    if name == "segformer-b4":
        return from_transformers(SegformerImageProcessor(do_reduce_labels=True))
    if name == "vit-b16-in21k":
        return from_transformers(ViTImageProcessor())
    if name in ("pubmedclip", "clip-b16"):
        return from_transformers(CLIPImageProcessor())
    if name == "resnet50.tv":
        return preset("resnet50")
    return from_timm(find_card(name).architecture)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet50", "resnet18", "efficientnet-b4", "densenet121", "vit-small", "swin-base", "resnet50.tv"),
        *("resnet101", "pe-core-b16", "c-radio-b16", "tipsv2-b14", "segformer-b4", "clip-b16", "vit-b16-in21k"),
        *("rad-dino", "dinov2-base", "pubmedclip", "biomedclip", "unimed-clip-b16", "cxr-clip-swint", "chexzero"),
    ],
)
def test_radiographs_of_many_sizes_are_what_the_library_makes_of_them(name: str) -> None:
    preparer, given = Preparer(find_card(name).preprocessing, name), library(name)
    low, high = EXPECTED[name].value_range
    level = (high - low) / 255 / torch.tensor(EXPECTED[name].statistics[1])[:, None, None]
    for height, width in SIZES[:: 3 if EXPECTED[name].size > 400 else 1]:
        picture = drawn(height, width, seed=height)
        bytes_ = np.round(np.asarray(picture.pixels[0]) * 255).astype(np.uint8)
        expected = given(Pil.fromarray(bytes_).convert("RGB"))
        tensor, _ = model_tensor(preparer, picture)
        assert tensor.shape == expected.shape
        # 8-bit libraries round to whole levels after each axis; a crop one pixel off is tens of levels away.
        assert float(((tensor - expected) / level).abs().max()) < 2.5, (height, width)


def cards_that_crop() -> list[EncoderCard]:
    cards = [find_card(path.name.removesuffix(".yaml")) for path in sorted(CARDS.glob("*.yaml"))]
    return [card for card in cards if card.preprocessing.resize == "shortest-edge-crop"]


@pytest.mark.parametrize("card", cards_that_crop(), ids=lambda card: card.name)
def test_every_crop_begins_where_its_library_begins_it(card: EncoderCard) -> None:
    facts = card.preprocessing
    short, (crop, _) = facts.resize_to, facts.input_size
    assert short is not None
    own = card.family == "transformers" and card.name != "cxr-clip-swint"
    for height in range(short, short + 200):
        top = Preparer(facts, card.name).geometry_of(height, short).matrix[0][2]
        rows = torch.arange(height)[None, :, None].expand(1, height, max(crop, 8))
        seen = torchvision_functional.center_crop(rows, [crop, crop])[0, 0, 0]
        assert -top == ((height - crop) // 2 if own else int(seen)), height


def test_a_crop_rounds_as_its_family_does_unless_the_card_says_otherwise() -> None:
    content = find_card("resnet18").model_dump(mode="json", by_alias=True)
    del content["preprocessing"]["crop_rounding"]
    for family, rounding in (
        ("timm", "even"),
        ("torchvision", "even"),
        ("open_clip", "even"),
        ("transformers", "down"),
    ):
        assert EncoderCard(**{**content, "family": family}).preprocessing.crop_rounding == rounding
    content["preprocessing"]["crop_rounding"] = "even"
    assert EncoderCard(**{**content, "family": "transformers"}).preprocessing.crop_rounding == "even"


def test_a_derived_card_prepares_as_timm_does_where_nothing_is_cut_off() -> None:
    """A share of 1 still brings the short edge to size and takes the centre."""
    name = "vit_tiny_patch16_384.augreg_in21k_ft_in1k"
    card = find_card(f"random:{name}")
    assert timm.get_pretrained_cfg(name).crop_pct == 1.0
    picture = drawn(400, 501)
    bytes_ = np.round(np.asarray(picture.pixels[0]) * 255).astype(np.uint8)
    expected = from_timm(name)(Pil.fromarray(bytes_).convert("RGB"))
    assert (
        float((model_tensor(Preparer(card.preprocessing, name), picture)[0] - expected).abs().max()) < 2.5 / 255 / 0.5
    )
