"""Every card's preprocessing against PIL's float resize and numpy, with the facts written out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Pil
from torch import Tensor

from evalfm.data.geometry import Geometry
from evalfm.data.images import Image
from evalfm.encoders.preprocessing import Preparer, override
from evalfm.encoders.registry import find_card
from evalfm.errors import EvalfmError

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)
# name: input size, short edge before the crop (None: squash), PIL filter, range, mean and std.
# Sources: preprocessor_config.json of microsoft/rad-dino and facebook/dinov2-base (BitImageProcessor), timm's
# pretrained_cfg (floor(224 / .95) = 235, floor(224 / .9) = 248,
# floor(320 / .875) = 365, floor(224 / .875) = 256), the Caffe model's mean colour; the floors
# are evalfm's own.
FACTS: dict[str, tuple[int, int | None, int, float, tuple[list[float], list[float]]]] = {
    "rad-dino": (518, 518, Pil.Resampling.BICUBIC, 1.0, ([0.5307] * 3, [0.2583] * 3)),
    "dinov2-base": (224, 256, Pil.Resampling.BICUBIC, 1.0, IMAGENET),
    "resnet50": (224, 235, Pil.Resampling.BICUBIC, 1.0, IMAGENET),
    "resnet34": (224, 235, Pil.Resampling.BICUBIC, 1.0, IMAGENET),
    "efficientnet-b4": (320, 365, Pil.Resampling.BICUBIC, 1.0, IMAGENET),
    "densenet121": (224, 256, Pil.Resampling.BICUBIC, 1.0, IMAGENET),
    "vit-small": (224, 248, Pil.Resampling.BICUBIC, 1.0, HALF),
    "squeezenet1-0.caffe": (224, None, Pil.Resampling.BILINEAR, 255.0, ([123.0, 117.0, 104.0], [1.0] * 3)),
    "pixels": (256, None, Pil.Resampling.BILINEAR, 1.0, ([0.0], [1.0])),
    "hog": (256, None, Pil.Resampling.BILINEAR, 1.0, ([0.0], [1.0])),
    "light-cnn": (64, None, Pil.Resampling.BILINEAR, 1.0, ([0.5], [0.25])),
}


def film(height: int, width: int, bits: int = 8, channels: int = 1, seed: int = 0) -> Image:
    """Smooth shapes, hard edges and noise, stored in ``bits``."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    shapes = 0.5 + 0.4 * np.sin(x / 17) * np.cos(y / 23)
    shapes[height // 4 : height // 3] = 1.0
    shapes[:, width // 3 : width // 2] *= 0.0
    stack = np.stack([np.clip(shapes + 0.1 * generator.random((height, width)), 0, 1) for _ in range(channels)])
    levels = 2**bits - 1
    return image((np.round(stack * levels) / levels).astype(np.float32), bits)


def image(pixels: NDArray[np.float32], bits: int = 8, unit: str = "unit-interval") -> Image:
    return Image(pixels=pixels, unit=unit, bits=bits, spacing_mm=None, rule="test")


def by_hand(name: str, given: Image) -> NDArray[np.float64]:
    size, short, resample, scale, (mean, std) = FACTS[name]
    planes = []
    for plane in np.asarray(given.pixels):
        height, width = plane.shape
        if short is None:
            target = (size, size)
        elif height <= width:
            target = (short, int(short * width / height))
        else:
            target = (int(short * height / width), short)
        # PIL's mode F resizes in float; its 8-bit modes also cut at black and white, after each axis.
        across = np.clip(np.asarray(Pil.fromarray(plane).resize((target[1], height), resample)), 0, 1)
        resized = np.asarray(Pil.fromarray(across).resize(target[::-1], resample))
        top, left = (target[0] - size) // 2, (target[1] - size) // 2
        planes.append(np.clip(resized, 0, 1)[top : top + size, left : left + size].astype(np.float64))
    if len(mean) == 3 and len(planes) == 1:
        planes *= 3
    return np.stack([(plane * scale - m) / s for plane, m, s in zip(planes, mean, std, strict=True)])


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize(("height", "width", "bits"), [(300, 231, 8), (190, 640, 12), (600, 600, 16), (64, 50, 16)])
def test_every_card_prepares_as_pil_does_in_float(name: str, height: int, width: int, bits: int) -> None:
    given = film(height, width, bits)
    tensor, geometry = Preparer(find_card(name).preprocessing, name)(given)
    expected = by_hand(name, given)
    assert tensor.dtype == torch.float32
    assert tensor.shape == expected.shape
    scale = FACTS[name][3] / min(FACTS[name][4][1])
    assert np.abs(tensor.numpy() - expected).max() < 2e-5 * scale
    assert geometry.source == (height, width)
    assert geometry.output == tuple(tensor.shape[1:])


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if len(facts[4][0]) == 3])
def test_colour_stays_colour(name: str) -> None:
    given = film(120, 97, channels=3)
    tensor, _ = Preparer(find_card(name).preprocessing, name)(given)
    assert np.abs(tensor.numpy() - by_hand(name, given)).max() < 1e-4 * FACTS[name][3] + 1e-4
    assert float((tensor[0] - tensor[1]).abs().max()) > 0.05


def test_colour_is_reduced_only_for_a_card_of_one_channel_and_said() -> None:
    preparer = Preparer(find_card("pixels").preprocessing, "pixels")
    pixels = np.zeros((3, 256, 256), dtype=np.float32)
    pixels[1] = 1.0
    tensor, _ = preparer(image(pixels))
    assert tensor.shape == (1, 256, 256)
    assert torch.allclose(tensor, torch.tensor(0.587))
    assert preparer.notes(image(pixels)) == ("pixels takes one channel: colour was reduced to its luma.",)
    assert preparer.notes(image(pixels[:1])) == ()
    assert Preparer(find_card("resnet50").preprocessing, "resnet50").notes(image(pixels)) == ()


@pytest.mark.parametrize("name", FACTS)
def test_two_neighbouring_levels_of_16_bits_stay_apart(name: str) -> None:
    preparer = Preparer(find_card(name).preprocessing, name)
    _, _, _, scale, (_, std) = FACTS[name]
    low, high = (np.full((1, 300, 300), level / 65535, dtype=np.float32) for level in (30000, 30001))
    step = preparer(image(high, 16))[0] - preparer(image(low, 16))[0]
    expected = scale / 65535 / np.array(std)
    assert np.abs(step.mean((1, 2)).numpy() / expected - 1).max() < 0.2


@pytest.mark.parametrize("name", ["rad-dino", "resnet50"])
def test_bicubic_overshoot_is_cut_as_the_8_bit_libraries_do(name: str) -> None:
    given = film(200, 200)
    tensor, _ = Preparer(find_card(name).preprocessing, name)(given)
    _, short, resample, _, (mean, std) = FACTS[name]
    assert short is not None
    restored = tensor * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    assert float(restored.min()) >= -1e-6
    assert float(restored.max()) <= 1 + 1e-6
    bytes_ = np.round(np.asarray(given.pixels[0]) * 255).astype(np.uint8)
    eight = np.asarray(Pil.fromarray(bytes_).resize((short, short), resample)).astype(np.float64) / 255
    margin = (short - tensor.shape[1]) // 2
    cut = eight[margin : margin + tensor.shape[1], margin : margin + tensor.shape[2]]
    # PIL rounds to whole levels after each axis.
    assert np.abs(restored[0].numpy() - cut).max() < 1.3 / 255


def test_raw_values_are_neither_cut_nor_scaled() -> None:
    facts = find_card("resnet50").preprocessing.model_copy(
        update={"units": ("HU",), "input_range": None, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    )
    pixels = np.full((1, 300, 300), -1000, dtype=np.float32)
    pixels[:, 100:200, 100:200] = 3071
    tensor, _ = Preparer(facts, "ct")(image(pixels, 12, unit="HU"))
    assert float(tensor.max()) > 3071
    assert float(tensor.min()) < -1000
    assert float(tensor[0, 112, 112]) == pytest.approx(3071)


def test_a_tomogram_is_refused_by_a_radiograph_encoder() -> None:
    pixels = np.zeros((1, 64, 64), dtype=np.float32)
    with pytest.raises(EvalfmError, match="rad-dino takes images in unit-interval, not in HU"):
        Preparer(find_card("rad-dino").preprocessing, "rad-dino")(image(pixels, unit="HU"))


@pytest.mark.parametrize(("value", "said"), [(255.0, "from 0 to 255"), (-1.0, "from -1 to 0"), (np.nan, "NaN")])
def test_values_outside_the_unit_interval_are_refused(value: float, said: str) -> None:
    pixels = np.zeros((1, 64, 64), dtype=np.float32)
    pixels[0, 3, 5] = value
    with pytest.raises(EvalfmError, match=said):
        Preparer(find_card("resnet50").preprocessing, "resnet50")(image(pixels))


def test_two_channels_are_no_image() -> None:
    with pytest.raises(EvalfmError, match=r"\(2, 64, 64\)"):
        Preparer(find_card("resnet50").preprocessing, "resnet50")(image(np.zeros((2, 64, 64), dtype=np.float32)))


@pytest.mark.parametrize("policy", ["squash", "shortest-edge-crop", "letterbox"])
@pytest.mark.parametrize(("height", "width"), [(300, 231), (190, 301), (97, 97)])
def test_the_geometry_says_where_each_pixel_came_from(policy: str, height: int, width: int) -> None:
    facts, _ = override(find_card("pixels"), 128, policy)
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    preparer = Preparer(facts, "pixels")
    seen = [preparer(image(plane[None].astype(np.float32)))[0][0].numpy() for plane in (y, x)]
    geometry = preparer.geometry_of(height, width)
    matrix = np.asarray(geometry.inverse().matrix)
    rows, columns = np.mgrid[0:128, 0:128] + 0.5
    source_y = (matrix[0, 0] * rows + matrix[0, 1] * columns + matrix[0, 2]) / height
    source_x = (matrix[1, 0] * rows + matrix[1, 1] * columns + matrix[1, 2]) / width
    # A linear ramp is kept by resampling, but for a filter's width from the film's border.
    edge = 6 / min(height, width) + 6 / 128
    inner = (np.minimum(source_y, source_x) > edge) & (np.maximum(source_y, source_x) < 1 - edge)
    assert inner.sum() > 2000
    assert np.abs(seen[0] - source_y)[inner].max() < 0.05 / 128
    assert np.abs(seen[1] - source_x)[inner].max() < 0.05 / 128


def ellipse(height: int, width: int) -> Tensor:
    y, x = np.mgrid[0:height, 0:width]
    inside = ((y - 0.45 * height) / (0.3 * height)) ** 2 + ((x - 0.55 * width) / (0.2 * width)) ** 2 < 1
    return torch.from_numpy(inside[None].astype(np.float32))


def overlap(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(
    ("name", "resize", "height", "width"),
    [
        ("rad-dino", None, 700, 700),
        ("rad-dino", "letterbox", 700, 512),
        ("squeezenet1-0.caffe", None, 300, 231),
        ("pixels", None, 320, 320),
        ("hog", None, 231, 300),
        ("resnet50", "squash", 320, 280),
        ("vit-small", "letterbox", 320, 280),
        ("dinov2-base", "squash", 280, 320),
    ],
)
def test_a_mask_comes_back_through_the_geometry(name: str, resize: str | None, height: int, width: int) -> None:
    facts, _ = override(find_card(name), None, resize)
    geometry = Preparer(facts, name).geometry_of(height, width)
    mask = ellipse(height, width)
    back = geometry.to_source(geometry.to_input(mask)) > 0.5
    assert overlap(back, mask > 0.5) >= 0.98
    assert bool(geometry.visible().all())


@pytest.mark.parametrize("name", FACTS)
def test_pixels_and_geometry_put_a_mask_in_the_same_place(name: str) -> None:
    mask = ellipse(321, 260)
    size, _, _, scale, (mean, std) = FACTS[name]
    tensor, geometry = Preparer(find_card(name).preprocessing, name)(image(mask.numpy()))
    seen = (tensor[:1] * std[0] + mean[0]) / scale > 0.5
    assert overlap(seen, geometry.to_input(mask) > 0.5) >= 0.98
    assert seen.shape == (1, size, size)


def test_a_letterbox_pads_with_the_cards_value() -> None:
    facts, notes = override(find_card("vit-small"), None, "letterbox")
    facts = facts.model_copy(update={"pad_value": 0.25})
    tensor, geometry = Preparer(facts, "vit-small")(image(np.ones((1, 100, 50), dtype=np.float32)))
    assert torch.allclose(tensor[:, :, :56], torch.tensor((0.25 - 0.5) / 0.5))
    assert torch.allclose(tensor[:, :, 56:168], torch.tensor(1.0))
    assert geometry.matrix == ((2.24, 0.0, 0.0), (0.0, 2.24, 56.0))
    assert notes == ("Films are resized by letterbox instead of shortest-edge-crop.",)


def test_an_augmentation_sees_pixels_before_their_normalisation_and_tells_the_geometry() -> None:
    given, ranges = film(300, 260), []

    def mirror(tensor: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
        ranges.append((float(tensor.min()), float(tensor.max())))
        return tensor.flip(2), geometry.flip_horizontal()

    preparer = Preparer(find_card("squeezenet1-0.caffe").preprocessing, "s")
    plain, geometry = preparer(given)
    mirrored, turned = preparer(given, mirror)
    assert torch.equal(mirrored, plain.flip(2))
    assert turned == geometry.flip_horizontal()
    assert 0 <= ranges[0][0] < 0.1 < 0.9 < ranges[0][1] <= 1 + 1e-6


def test_the_image_itself_is_left_alone() -> None:
    given = film(224, 224)
    before = np.array(given.pixels)
    tensor, _ = Preparer(find_card("pixels").preprocessing, "pixels")(given)
    tensor += 1
    assert np.array_equal(before, given.pixels)
    frozen = np.array(given.pixels)
    frozen.flags.writeable = False
    Preparer(find_card("resnet50").preprocessing, "r")(dataclasses.replace(given, pixels=frozen))


def test_another_input_size_keeps_the_crop_and_names_the_nearest_multiple() -> None:
    facts, notes = override(find_card("dinov2-base"), 448, None)
    assert (facts.input_size, facts.resize_to) == ((448, 448), 512)
    assert notes == ("The input is 448 x 448 instead of 224 x 224.",)
    with pytest.raises(EvalfmError, match=r"multiples of 14, not 450 x 450; the nearest is 448 x 448"):
        override(find_card("dinov2-base"), 450, None)
    with pytest.raises(EvalfmError, match="no resize policy 'stretch'"):
        override(find_card("dinov2-base"), None, "stretch")
    assert override(find_card("dinov2-base"), 224, "shortest-edge-crop") == (
        find_card("dinov2-base").preprocessing,
        (),
    )
    to_crop, _ = override(find_card("pixels"), 128, "shortest-edge-crop")
    assert to_crop.resize_to == 128
