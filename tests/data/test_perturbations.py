"""Perturbations against what physics and libraries say, the same for every encoder, never under a clean key."""

from __future__ import annotations

import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.images import Image, read_image
from evalfm.data.manifest import Manifest
from evalfm.data.perturbations import (
    EXPOSURE_RANGE,
    FAMILIES,
    FIELD_MM,
    PHOTONS_PER_MM2,
    Perturbation,
    PerturbedImages,
    parse_perturbations,
)
from evalfm.errors import EvalfmError, UnknownNameError

from ..dicoms import dicom_header

HALF_MM = (0.5, 0.5)
EVERY = parse_perturbations()


def radiograph(channels: int = 1, height: int = 90, width: int = 130) -> np.ndarray:
    """Something with edges, shades and noise, float32 in the unit interval."""
    y, x = np.mgrid[:height, :width]
    field = 0.5 + 0.3 * np.sin(x / 9) * np.cos(y / 7)
    field[20:50, 40:70] += 0.15
    noise = np.random.default_rng(0).normal(0, 0.02, (channels, height, width))
    return np.clip(field + noise, 0, 1).astype(np.float32)


def perturbed(what: str, strength: float, pixels: np.ndarray, spacing=HALF_MM, seed: int = 0) -> np.ndarray:
    return Perturbation(what, strength)(pixels, spacing, np.random.default_rng(seed))


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.neutral is not None])
def test_the_neutral_strength_changes_nothing(name: str) -> None:
    pixels = radiograph()
    neutral = FAMILIES[name].neutral
    assert neutral is not None
    assert perturbed(name, neutral, pixels) is pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("each", EVERY, ids=lambda each: each.label)
def test_every_strength_changes_pixels_within_the_unit_interval(each: Perturbation, channels: int) -> None:
    pixels = radiograph(channels)
    kept = pixels.copy()
    found = each(pixels, HALF_MM, np.random.default_rng(1))
    assert (found.shape, found.dtype) == (pixels.shape, np.float32)
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.abs(found - pixels).mean() > 1e-4
    # What is given is never written to: other perturbations read the same image.
    assert np.array_equal(pixels, kept)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_severer_the_strength_the_larger_the_change(name: str) -> None:
    pixels = radiograph()
    strengths = [each for each in EVERY if each.name == name]
    sides = [[each for each in strengths if each.strength <= 1], [each for each in strengths if each.strength > 1]]
    for side in sides if name == "gamma" else [strengths]:
        ordered = sorted(side, key=lambda each: each.severity)
        changes = [float(np.abs(perturbed(name, each.strength, pixels) - pixels).mean()) for each in ordered]
        assert changes == sorted(changes)


@pytest.mark.parametrize("value", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_less_dose_adds_the_noise_of_fewer_photons(value: float, share: float) -> None:
    flat = np.full((1, 300, 300), value, dtype=np.float32)
    found = perturbed("dose", share, flat, (0.8, 0.5))
    photons = PHOTONS_PER_MM2 * 0.4 * EXPOSURE_RANGE ** (0.5 - value)
    # Of log N the variance is 1 / N: at the share f it is 1 / fN, of which 1 / N is in the image already.
    expected = math.sqrt((1 / share - 1) / photons) / math.log(EXPOSURE_RANGE)
    assert found.std() == pytest.approx(expected, rel=0.02)
    assert found.mean() == pytest.approx(value, abs=expected / 20)


def test_bone_is_noisier_than_air_and_large_pixels_less() -> None:
    air, bone = (np.full((1, 100, 100), value, dtype=np.float32) for value in (0.1, 0.9))
    assert perturbed("dose", 0.1, bone).std() > 4 * perturbed("dose", 0.1, air).std()
    ratio = perturbed("dose", 0.1, air, (0.1, 0.1)).std() / perturbed("dose", 0.1, air, (0.2, 0.2)).std()
    assert ratio == pytest.approx(2, rel=0.05)


def test_blur_has_its_width_in_millimetres_in_both_directions() -> None:
    point = np.zeros((1, 101, 101), dtype=np.float32)
    point[0, 50, 50] = 1
    found = perturbed("blur", 2, point, (0.5, 1.0)).astype(np.float64)[0]
    away = np.arange(101) - 50
    for axis, spacing in ((1, 0.5), (0, 1.0)):
        profile = found.sum(axis=axis) / found.sum()
        assert math.sqrt((profile * (away * spacing) ** 2).sum()) == pytest.approx(2, rel=0.03)


def test_without_spacing_the_long_side_is_that_of_a_film() -> None:
    pixels = radiograph()
    as_film = FIELD_MM / 130
    assert np.array_equal(perturbed("blur", 5, pixels, None), perturbed("blur", 5, pixels, (as_film, as_film)))
    assert not np.array_equal(perturbed("blur", 5, pixels, None), perturbed("blur", 5, pixels, HALF_MM))


def test_gamma_and_inversion_are_their_formulas() -> None:
    pixels = radiograph()
    assert np.allclose(perturbed("gamma", 1.4, pixels), pixels**1.4, atol=1e-6)
    assert np.array_equal(perturbed("inversion", 1, pixels), 1 - pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_deep_images_is_rounded_to_a_byte_and_not_cut(channels: int) -> None:
    # Sixteen bits, with which a library would clip to white or keep eight low bits.
    deep = (np.rint(radiograph(channels) * 65535) / 65535).astype(np.float32)
    found = perturbed("jpeg", 95, deep)
    assert np.abs(found - deep).mean() < 0.02
    assert np.allclose(found * 255, np.rint(found * 255), atol=1e-4)
    stream = BytesIO()
    levels = np.rint(deep * 255).astype(np.uint8)
    PIL.Image.fromarray(levels[0] if channels == 1 else levels.transpose(1, 2, 0)).save(stream, "JPEG", quality=95)
    again = np.asarray(PIL.Image.open(stream)) / np.float32(255)
    assert np.array_equal(found, again[None] if channels == 1 else again.transpose(2, 0, 1))


def test_down_sampling_takes_means_over_cells() -> None:
    checks = (np.indices((64, 96)).sum(axis=0) % 2).astype(np.float32)[None]
    assert np.allclose(perturbed("downsample", 2, checks), 0.5)
    steps = np.kron(np.random.default_rng(0).random((8, 12)), np.ones((8, 8))).astype(np.float32)[None]
    means = steps[0].reshape(8, 8, 12, 8).mean(axis=(1, 3))
    large = np.asarray(PIL.Image.fromarray(means).resize((96, 64), PIL.Image.Resampling.BICUBIC))
    assert np.allclose(perturbed("downsample", 8, steps)[0], large.clip(0, 1), atol=1e-5)


def test_a_turn_is_about_the_centre_by_its_angle_with_dark_corners() -> None:
    white = np.ones((1, 101, 101), dtype=np.float32)
    white[0, 50, 90] = 0
    signs = set()
    for seed in range(8):
        found = perturbed("rotation", 30, white, seed=seed)[0]
        assert found[0, 0] == found[-1, -1] == 0
        y, x = np.mgrid[:101, :101] - 50
        place = np.where(x**2 + y**2 < 45**2, found, 1).argmin()
        angle = math.degrees(math.atan2(y.flat[place], x.flat[place]))
        assert abs(angle) == pytest.approx(30, abs=1)
        signs.add(angle > 0)
    assert signs == {True, False}


def test_a_marker_is_a_white_letter_of_its_height_in_an_upper_corner() -> None:
    pixels = np.full((1, 200, 300), 0.25, dtype=np.float32)
    corners, letters = set(), set()
    for seed in range(16):
        found = perturbed("marker", 20, pixels, (0.5, 0.25), seed=seed)[0]
        rows, columns = np.nonzero(found != 0.25)
        assert found.max() == 1
        assert rows.max() - rows.min() + 1 == pytest.approx(40, abs=1)
        assert rows.max() < 100
        assert columns.max() < 150 or columns.min() >= 150
        corners.add(bool(columns.min() >= 150))
        drawn = found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] > 0.6
        # An L has nothing at its upper right, an R has.
        letters.add(bool(drawn[: len(drawn) // 3, drawn.shape[1] // 2 :].any()))
    assert corners == letters == {True, False}


def test_negatives_stored_either_way_are_perturbed_alike(tmp_path: Path) -> None:
    levels = np.rint(radiograph()[0] * 4095).astype(np.uint16)
    found = {}
    for name, stored in (("MONOCHROME2", levels), ("MONOCHROME1", 4095 - levels)):
        dataset = dicom_header(ExplicitVRLittleEndian)
        dataset.PhotometricInterpretation = name
        dataset.Rows, dataset.Columns = levels.shape
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
        dataset.PixelData = stored.tobytes()
        dataset.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
        found[name] = read_image(f"{name}.dcm", tmp_path)
    one, other = found["MONOCHROME1"].pixels, found["MONOCHROME2"].pixels
    for each in EVERY:
        kept, turned = (each(pixels, HALF_MM, np.random.default_rng(3)) for pixels in (one, other))
        # Noise follows the bone, whichever way the file has it; values differ by a level of 12 bits at most.
        assert np.abs(kept - turned).mean() < 2e-3, each.label
    assert perturbed("inversion", 1, one)[0, 35, 55] < 0.5 < one[0, 35, 55]


# As images of a manifest


def test_images_are_perturbed_alike_whatever_their_order_and_apart_from_each_other(squares: Manifest) -> None:
    dose = Perturbation("dose", 0.05)
    here = PerturbedImages.of(squares, dose)
    backwards = PerturbedImages.of(squares.select(np.arange(len(squares))[::-1]), dose)
    assert np.array_equal(here.image(3).pixels, backwards.image(len(squares) - 4).pixels)
    assert np.array_equal(here.image(3).pixels, here.image(3).pixels)
    noises = [here.image(row).pixels - squares.image(row).pixels for row in (3, 4)]
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.1
    other_seed = PerturbedImages.of(squares, dose, seed=1)
    assert not np.array_equal(here.image(3).pixels, other_seed.image(3).pixels)
    assert other_seed.digest(3) != here.digest(3)


def test_every_perturbation_has_a_key_of_its_own(squares: Manifest) -> None:
    keys = {squares.digest(0)}
    for each in (None, *EVERY):
        found = PerturbedImages.of(squares, each)
        keys.add(found.digest(0))
        assert found.digests([1, 0]).tolist() == [found.digest(1), found.digest(0)]
    assert len(keys) == 2 + len(EVERY)


def test_what_is_drawn_by_the_id_and_scaled_by_the_spacing_is_in_the_key(squares: Manifest) -> None:
    dose = Perturbation("dose", 0.05)
    key = PerturbedImages.of(squares, dose).digest(0)
    renamed = squares.table.assign(id=squares.table["id"] + "x")
    spaced = squares.table.assign(spacing_row_mm=0.2, spacing_column_mm=0.2)
    for table in (renamed, spaced):
        assert PerturbedImages.of(Manifest(squares.info, table, squares.folder), dose).digest(0) != key


def test_the_tables_spacing_is_that_of_the_perturbation(squares: Manifest) -> None:
    table = squares.table.assign(spacing_row_mm=0.5, spacing_column_mm=0.25)
    manifest = Manifest(squares.info, table, squares.folder)
    found = PerturbedImages.of(manifest, Perturbation("blur", 1)).image(0)
    assert np.array_equal(found.pixels, perturbed("blur", 1, manifest.image(0).pixels, (0.5, 0.25)))
    assert replace(found, pixels=manifest.image(0).pixels).spacing_mm == (0.5, 0.25)


def test_other_units_are_refused(tmp_path: Path) -> None:
    import pandas as pd

    np.save(tmp_path / "slice.npy", np.linspace(-1000, 1000, 64 * 64).reshape(64, 64).astype(np.float32))
    table = pd.DataFrame({"id": ["a"], "image": ["slice.npy"]})
    manifest = Manifest(DatasetInfo(name="ct", unit="HU"), table, tmp_path)
    for each in (None, Perturbation("blur", 1)):
        with pytest.raises(EvalfmError, match=r"unit interval, and slice\.npy is in HU"):
            PerturbedImages.of(manifest, each).image(0)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("blurr", "blurr"),
        ("blur=much", "write blur="),
        ("jpeg=0", "from 1 to 100 quality"),
        ("dose=0", "of the photons, not 0"),
        ("dose=2", "of the photons, not 2"),
        ("blur=nan", "not nan"),
        ("rotation=-5", "not -5"),
    ],
)
def test_a_word_that_is_no_perturbation_is_refused(word: str, says: str) -> None:
    with pytest.raises(EvalfmError, match=says):
        parse_perturbations([word])


def test_names_and_strengths_are_each_taken_once() -> None:
    assert [each.label for each in parse_perturbations(["blur=1", "blur", "blur=1"])] == [
        "blur 1 mm", "blur 0.5 mm", "blur 2 mm",
    ]  # fmt: skip
    assert {each.name for each in EVERY} == set(FAMILIES)
    with pytest.raises(UnknownNameError, match="blur"):
        Perturbation("blurr", 1)


def test_the_page_on_methods_has_every_strength() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methodology.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line.split("|")[3].strip() for line in page.splitlines() if line.startswith("| `")}
    for name, family in FAMILIES.items():
        assert rows[name] == ", ".join(f"{each:g}" for each in family.strengths)


def test_an_image_is_still_an_image(squares: Manifest) -> None:
    found = PerturbedImages.of(squares, Perturbation("marker", 40)).image(0)
    assert isinstance(found, Image)
    assert (found.unit, found.bits) == ("unit-interval", 8)
