"""What every preparation does, whatever the card, without torch: depth, overshoot, refusals, geometry, overrides."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from evalfm.data.images import StoredImage
from evalfm.encoders import find_card
from evalfm.encoders.model_input import model_input
from evalfm.encoders.preprocessing import Preparer, override
from evalfm.errors import EvalfmError

from .images import drawn, ellipse, image, model_tensor, overlap


def test_colour_is_reduced_only_for_a_card_of_one_channel_and_said() -> None:
    preparer = Preparer(find_card("pixels").preprocessing, "pixels")
    pixels = np.zeros((3, 256, 256), dtype=np.float32)
    pixels[1] = 1.0
    tensor, _ = model_tensor(preparer, image(pixels))
    assert tensor.shape == (1, 256, 256)
    assert torch.allclose(tensor, torch.tensor(0.587), atol=1e-5)
    assert preparer.notes(image(pixels)) == ("pixels takes one channel: colour was reduced to its luma.",)
    assert preparer.notes(image(pixels[:1])) == ()
    assert Preparer(find_card("resnet50").preprocessing, "resnet50").notes(image(pixels)) == ()


def test_a_histogram_is_made_flat_before_the_resize_and_colour_is_its_luma() -> None:
    preparer = Preparer(find_card("cxformer-b").preprocessing, "cxformer-b")
    levels = np.repeat(np.array([[10, 10, 20, 200]], np.uint8), 4, axis=0)
    # 8 darkest pixels go to black; 4 of the 8 others to half of 255, which is rounded to even.
    flat = np.array([0, 0, 128, 255], np.float32) / 255
    stored = StoredImage(np.repeat(np.repeat(levels, 200, 0), 200, 1)[None], "unit-interval", 8, None, "test")
    middle = preparer(stored).pixels[0, 259].astype(np.float32) / 65535
    assert middle[[5, 380, 510]] == pytest.approx(flat[[0, 2, 3]], abs=1e-4)
    colour = np.stack([np.full((32, 32), 0.2), np.linspace(0, 1, 1024).reshape(32, 32), np.full((32, 32), 0.9)])
    tensor, _ = model_tensor(preparer, image(colour.astype(np.float32)))
    mean, std = (np.array(each)[:, None, None] for each in (preparer.facts.mean, preparer.facts.std))
    planes = tensor.numpy() * std + mean
    assert np.abs(planes - planes[:1]).max() < 1e-5
    assert "colour was reduced to its luma" in preparer.notes(image(colour.astype(np.float32)))[0]
    constant, _ = model_tensor(preparer, image(np.full((1, 64, 64), 0.5, np.float32)))
    assert np.abs(constant.numpy() * std + mean - 128 / 255).max() < 1e-5


def test_raw_values_are_neither_cut_nor_scaled() -> None:
    facts = find_card("resnet50").preprocessing.model_copy(
        update={"units": ("HU",), "input_range": None, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    )
    pixels = np.full((1, 300, 300), -1000, dtype=np.float32)
    pixels[:, 100:200, 100:200] = 3071
    tensor, _ = model_tensor(Preparer(facts, "ct"), image(pixels, 12, unit="HU"))
    assert float(tensor.max()) > 3071
    assert float(tensor.min()) < -1000
    assert float(tensor[0, 112, 112]) == pytest.approx(3071)


def test_a_tomogram_is_refused_by_a_radiograph_encoder() -> None:
    pixels = np.zeros((1, 64, 64), dtype=np.float32)
    with pytest.raises(EvalfmError, match="rad-dino takes images in unit-interval, not in HU"):
        model_tensor(Preparer(find_card("rad-dino").preprocessing, "rad-dino"), image(pixels, unit="HU"))


@pytest.mark.parametrize(("value", "said"), [(255.0, "from 0 to 255"), (-1.0, "from -1 to 0"), (np.nan, "NaN")])
def test_values_outside_the_unit_interval_are_refused(value: float, said: str) -> None:
    pixels = np.zeros((1, 64, 64), dtype=np.float32)
    pixels[0, 3, 5] = value
    with pytest.raises(EvalfmError, match=said):
        model_tensor(Preparer(find_card("resnet50").preprocessing, "resnet50"), image(pixels))


def test_two_channels_are_no_image() -> None:
    with pytest.raises(EvalfmError, match=r"\(2, 64, 64\)"):
        model_tensor(
            Preparer(find_card("resnet50").preprocessing, "resnet50"), image(np.zeros((2, 64, 64), dtype=np.float32))
        )


@pytest.mark.parametrize("policy", ["squash", "shortest-edge-crop", "letterbox"])
@pytest.mark.parametrize(("height", "width"), [(300, 231), (190, 301), (97, 97)])
def test_the_geometry_says_where_each_pixel_came_from(policy: str, height: int, width: int) -> None:
    facts, _ = override(find_card("pixels"), 128, policy)
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    preparer = Preparer(facts, "pixels")
    seen = [model_tensor(preparer, image(plane[None].astype(np.float32)))[0][0].numpy() for plane in (y, x)]
    geometry = preparer.geometry_of(height, width)
    matrix = np.asarray(geometry.inverse().matrix)
    rows, columns = np.mgrid[0:128, 0:128] + 0.5
    source_y = (matrix[0, 0] * rows + matrix[0, 1] * columns + matrix[0, 2]) / height
    source_x = (matrix[1, 0] * rows + matrix[1, 1] * columns + matrix[1, 2]) / width
    # A linear ramp is kept by resampling, but for a filter's width from the image's border.
    edge = 6 / min(height, width) + 6 / 128
    inner = (np.minimum(source_y, source_x) > edge) & (np.maximum(source_y, source_x) < 1 - edge)
    assert inner.sum() > 2000
    assert np.abs(seen[0] - source_y)[inner].max() < 0.05 / 128
    assert np.abs(seen[1] - source_x)[inner].max() < 0.05 / 128


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


def test_a_letterbox_pads_with_the_cards_value() -> None:
    facts, cautions = override(find_card("vit-small"), None, "letterbox")
    facts = facts.model_copy(update={"pad_value": 0.25})
    tensor, geometry = model_tensor(Preparer(facts, "vit-small"), image(np.ones((1, 100, 50), dtype=np.float32)))
    assert torch.allclose(tensor[:, :, :56], torch.tensor((0.25 - 0.5) / 0.5), atol=2e-5)
    assert torch.allclose(tensor[:, :, 56:168], torch.tensor(1.0))
    assert geometry.matrix == ((2.24, 0.0, 0.0), (0.0, 2.24, 56.0))
    assert [each.sentence for each in cautions] == ["Images are resized by letterbox instead of shortest-edge-crop."]


def test_the_image_itself_is_left_alone() -> None:
    given = drawn(224, 224)
    before = np.array(given.pixels)
    prepared = Preparer(find_card("pixels").preprocessing.model_copy(update={"input_size": (224, 224)}), "p")(given)
    prepared.pixels[:] = 1
    assert np.array_equal(before, given.pixels)
    frozen = np.array(given.pixels)
    frozen.flags.writeable = False
    Preparer(find_card("resnet50").preprocessing, "r")(dataclasses.replace(given, pixels=frozen))


def test_another_input_size_keeps_the_crop_and_names_the_nearest_multiple() -> None:
    facts, cautions = override(find_card("dinov2-base"), 448, None)
    assert (facts.input_size, facts.resize_to) == ((448, 448), 512)
    assert [each.sentence for each in cautions] == ["The input is 448 x 448 instead of 224 x 224."]
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


@pytest.mark.parametrize("bits", [1, 8, 12, 16])
def test_resized_images_have_16_bits(bits: int) -> None:
    given = drawn(300, 260, bits)
    prepared = Preparer(find_card("resnet50").preprocessing, "r")(given)
    assert (prepared.pixels.dtype, prepared.scale) == (np.uint16, 1 / 65535)
    assert prepared.pixels.shape == (1, 224, 224)
    assert prepared.geometry.source == (300, 260)


@pytest.mark.parametrize("pad_value", [0.0, 0.2, 0.25])
def test_bytes_that_are_not_resized_stay_bytes_and_what_they_are(pad_value: float) -> None:
    """Unless a border lies between two levels."""
    facts, _ = override(find_card("vit-small"), None, "letterbox")
    preparer = Preparer(facts.model_copy(update={"pad_value": pad_value}), "v")
    given = drawn(224, 100)
    levels = np.rint(given.pixels * 255).astype(np.uint8)
    stored = preparer(StoredImage(levels, given.unit, 8, None, "test"))
    assert stored.pixels.dtype == (np.uint16 if pad_value == 0.25 else np.uint8)
    as_float = preparer(given)
    assert as_float.pixels.dtype == np.uint16
    one, other = (model_input(torch.from_numpy(each.pixels)[None], preparer.facts) for each in (stored, as_float))
    assert torch.equal(one, other)


def test_what_may_leave_the_unit_interval_stays_float() -> None:
    free = find_card("resnet50").preprocessing.model_copy(update={"cut_overshoot": False})
    prepared = Preparer(free, "r")(drawn(300, 260))
    assert (prepared.pixels.dtype, prepared.scale) == (np.float32, 1.0)
    assert prepared.pixels.max() > 1


def test_preparation_and_reading_need_neither_torch_nor_pandas() -> None:
    code = (
        "import sys, evalfm.encoders.preprocessing, evalfm.data.images;"
        "print([name for name in ('torch', 'pandas', 'pydantic', 'scipy') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
