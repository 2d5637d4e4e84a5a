from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow

from evalfm.data.images import dicom_attributes, image_digest, image_size, is_constant, read_image
from evalfm.data.masks import decode, encode, read_mask_file
from evalfm.data.report import looks_inverted

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")

CHEST = "dicom/RG1_J2KI.dcm"


def test_a_chest_radiograph_in_jpeg_2000_has_dark_air_and_bright_bone() -> None:
    image = read_image(CHEST, SHARED)
    assert image.pixels.shape == (1, 1955, 1841)
    assert image_size(CHEST, SHARED) == (1955, 1841)
    radiograph = image.pixels[0]
    air_beside_the_neck = radiograph[110:170, 10:90]
    lung, spine = radiograph[560:640, 1380:1460], radiograph[1150:1250, 900:980]
    assert air_beside_the_neck.mean() < 0.35
    assert air_beside_the_neck.mean() + 0.15 < lung.mean() < spine.mean() - 0.15
    assert image.rule == "DICOM stored values, window LINEAR, inverted; no spacing"
    # PixelSpacing is written as 0, 0.
    assert (image.unit, image.bits, image.spacing_mm) == ("unit-interval", 15, None)


def test_the_chest_radiograph_through_its_window_by_hand() -> None:
    dataset = pydicom.dcmread(SHARED / CHEST)
    centre, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    stored = dataset.pixel_array.astype(np.float64)
    expected = 1 - np.clip((stored - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    np.testing.assert_allclose(read_image(CHEST, SHARED).pixels[0], expected, atol=1e-6)


def test_of_the_header_only_the_allow_list_leaves() -> None:
    attributes = dicom_attributes(SHARED / CHEST)
    assert attributes == {
        "sex": "F",
        "age": None,
        "view": "PA",
        "manufacturer": "Philips Medical Systems",
        "modality": "CR",
        "spacing": None,
    }


def test_nih_radiographs() -> None:
    folder = SHARED / "nih-cxr14-starter" / "images"
    names = sorted(path.name for path in folder.glob("*.png"))[::25]
    assert len(names) == 25
    for name in names:
        image = read_image(name, folder)
        with Pillow.open(folder / name) as opened:
            expected = np.asarray(opened.convert("L"))
        assert image_size(name, folder) == expected.shape == image.pixels.shape[1:]
        np.testing.assert_array_equal(np.rint(image.pixels[0] * 255), expected)
        assert not is_constant(image)
    assert len({image_digest(name, folder) for name in names}) == 25


def test_medmnist_members() -> None:
    name = "medmnist/pneumoniamnist.npz"
    with np.load(SHARED / name) as archive:
        images = archive["val_images"]
    for index in (0, 17, len(images) - 1):
        image = read_image(f"{name}#val_images/{index}", SHARED)
        np.testing.assert_array_equal(np.rint(image.pixels[0] * 255), images[index])
    assert image_size(f"{name}#val_images/17", SHARED) == (28, 28)


def test_wingspan_masks_are_lungs_and_heart() -> None:
    folder = SHARED / "wingspan-ctr"
    name = min(path.name for path in (folder / "mask" / "heart").glob("*.png"))
    size = image_size(f"png/{name}", folder)
    heart, left, right = (
        read_mask_file(f"mask/{part}/{name}", folder) for part in ("heart", "left_lung", "right_lung")
    )
    for mask in (heart, left, right):
        assert mask.shape == size
        assert 0.02 < mask.mean() < 0.3
        for dialect in ("relative", "absolute", "coco"):
            np.testing.assert_array_equal(decode(dialect, encode(dialect, mask), size), mask)
    centre = {key: np.argwhere(mask)[:, 1].mean() for key, mask in (("h", heart), ("l", left), ("r", right))}
    assert min(centre["l"], centre["r"]) < centre["h"] < max(centre["l"], centre["r"])


@pytest.mark.parametrize("shade", [None, 0.0, 1.0])
def test_real_radiographs_and_their_negatives_are_told_apart_with_borders_and_without(shade: float | None) -> None:
    missed = called = count = 0
    for folder in ("nih-cxr14-starter/images", "wingspan-ctr/png"):
        for path in sorted((SHARED / folder).glob("*.png"))[::4]:
            radiograph = read_image(path.name, path.parent).pixels[0]
            border = ((20, 70), (60, 10))
            shown = [
                each if shade is None else np.pad(each, border, constant_values=shade)
                for each in (radiograph, 1 - radiograph)
            ]
            called += looks_inverted(shown[0])
            missed += not looks_inverted(shown[1])
            count += 1
    assert count == 221
    assert max(called, missed) <= 2
