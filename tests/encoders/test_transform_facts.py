"""Transforms of torchvision, open_clip and transformers as facts, and those that facts cannot say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from open_clip import image_transform
from PIL import Image as Pil
from torchvision import transforms

from evalfm.encoders.preprocessing import Preparer
from evalfm.encoders.transform_facts import facts_of
from evalfm.errors import EvalfmError

from .images import drawn, model_tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
END = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
BICUBIC = transforms.InterpolationMode.BICUBIC


def steps(*first: Any) -> Callable[[Any], Any]:
    return transforms.Compose([*first, *END])


def processor(kind: str, **settings: Any) -> Callable[[Any], Any]:
    made = getattr(transformers, kind)(image_mean=list(MEAN), image_std=list(STD), **settings)
    return lambda picture: made(images=picture, return_tensors="pt")["pixel_values"][0]


SQUARE = {"height": 64, "width": 64}
KNOWN: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "torchvision": (
        steps(transforms.Resize(72), transforms.CenterCrop(64)),
        {"resize": "shortest-edge-crop", "resize_to": 72, "interpolation": "bilinear", "crop_rounding": "even"},
    ),
    "no share cut off": (
        steps(transforms.Resize(64, BICUBIC), transforms.CenterCrop(64)),
        {"resize": "shortest-edge-crop", "resize_to": 64, "interpolation": "bicubic", "cut_overshoot": True},
    ),
    "squash to no square": (
        steps(transforms.Resize((48, 80))),
        {"resize": "squash", "resize_to": None, "input_size": (48, 80), "antialias": True},
    ),
    "squash, then the centre": (
        steps(transforms.Resize((73, 73)), transforms.CenterCrop(64)),
        {"resize": "squash", "resize_to": 73},
    ),
    "floats before the resize": (
        transforms.Compose([transforms.ToTensor(), transforms.Resize((64, 64), BICUBIC), END[1]]),
        {"resize": "squash", "interpolation": "bicubic", "cut_overshoot": False},
    ),
    "no antialias": (
        transforms.Compose([transforms.ToTensor(), transforms.Resize((64, 64), antialias=False), END[1]]),
        {"resize": "squash", "interpolation": "bilinear", "antialias": False},
    ),
    "open_clip's letterbox": (
        image_transform(64, is_train=False, mean=MEAN, std=STD, resize_mode="longest"),
        {"resize": "letterbox", "pad": "centre", "pad_value": 0.0, "interpolation": "bicubic"},
    ),
    "BiT's": (
        processor("BitImageProcessor", size={"shortest_edge": 70}, crop_size=SQUARE),
        {"resize": "shortest-edge-crop", "resize_to": 70, "interpolation": "bicubic", "crop_rounding": "down"},
    ),
    "ConvNeXt's own share": (
        processor("ConvNextImageProcessor", size={"shortest_edge": 64}),
        {"resize": "shortest-edge-crop", "resize_to": 73, "crop_rounding": "down"},
    ),
    "DeiT's": (
        processor("DeiTImageProcessor", size={"height": 72, "width": 72}, crop_size=SQUARE),
        {"resize": "squash", "resize_to": 72, "interpolation": "bicubic"},
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_facts_are_those_of_the_transform_and_prepare_the_same_pixels(name: str) -> None:
    transform, expected = KNOWN[name]
    facts = facts_of(transform, name)
    assert {key: getattr(facts, key) for key in expected} == expected
    assert np.allclose(facts.mean, MEAN, atol=1e-6)
    assert np.allclose(facts.std, STD, atol=1e-6)
    for height, width in ((131, 230), (240, 101), (97, 98)):
        picture = drawn(height, width)
        levels = np.rint(picture.pixels[0] * 255).astype(np.uint8)
        theirs = torch.as_tensor(transform(Pil.fromarray(levels).convert("RGB")))
        own = model_tensor(Preparer(facts, name), picture)[0]
        apart = ((own - theirs) * 255 * torch.tensor(STD)[:, None, None]).square().mean().sqrt()
        assert float(apart) < 1.0, (height, width)


def test_published_statistics_are_taken_only_where_they_are_what_it_does() -> None:
    transform = steps(transforms.Resize((64, 64)))
    exact = ((0.48500001, 0.456, 0.406), STD)
    assert facts_of(transform, "x", statistics=exact).mean[0] == 0.48500001
    assert facts_of(transform, "x", statistics=((0.5, 0.456, 0.406), STD)).mean == pytest.approx(MEAN)
    assert facts_of(transform, "x", statistics=((0.5,), (0.5,))).mean == pytest.approx(MEAN)


def test_levels_that_are_not_brought_to_the_unit_interval_are_scaled_as_they_are() -> None:
    transform = transforms.Compose([transforms.Resize((64, 64)), transforms.PILToTensor()])
    facts = facts_of(transform, "x")
    own = model_tensor(Preparer(facts, "x"), drawn(64, 64))[0]
    assert float(own.max()) == pytest.approx(255, abs=1)
    assert facts.std == pytest.approx((1 / 255,) * 3, rel=1e-5)


def test_one_channel() -> None:
    facts = facts_of(transforms.Compose([transforms.Grayscale(1), transforms.Resize((64, 64)), END[0]]), "x")
    assert (facts.channels, facts.mean, facts.std) == (1, (0.0,), (1.0,))


REFUSED: dict[str, tuple[Any, str]] = {
    "random": (steps(transforms.RandomResizedCrop(64)), "it is random"),
    "of no fixed size": (steps(transforms.Resize(64)), "the size that it gives depends on the image"),
    "mirrored": (steps(transforms.RandomHorizontalFlip(1.0), transforms.Resize((64, 64))), "mirrors the image"),
    "inverted": (steps(transforms.RandomInvert(1.0), transforms.Resize((64, 64))), "changes grey levels"),
    "blurred": (steps(transforms.Resize((64, 64)), transforms.GaussianBlur(5, 2.0)), "more than resize"),
    "equalised": (steps(transforms.RandomEqualize(1.0), transforms.Resize((64, 64))), "more than resize|grey levels"),
    "without colour": (steps(transforms.Grayscale(3), transforms.Resize((64, 64))), "it changes colours"),
    "a picture": (transforms.Resize((64, 64)), r"gives \[64, 64, 3\] and not"),
    "of arrays": (lambda array: torch.as_tensor(array["image"]), "no tensor of a PIL image: TypeError"),
    "not finite": (lambda picture: torch.full((3, 64, 64), float("nan")), "NaN"),
    "blind": (lambda picture: torch.zeros(3, 64, 64), "changes grey levels"),
    "of the first pixel": (
        lambda picture: transforms.ToTensor()(picture)[:, :64, :64],
        "the size that it gives|more than resize|mirrors|otherwise",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_facts_cannot_say_is_one_sentence(name: str) -> None:
    transform, words = REFUSED[name]
    with pytest.raises(EvalfmError, match=words) as refusal:
        facts_of(transform, "mine")
    assert str(refusal.value).startswith("The transform of mine cannot be said in facts (")
    assert "\n" not in str(refusal.value)
