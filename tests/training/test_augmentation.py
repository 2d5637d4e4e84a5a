"""Radiographs and masks are moved as one, hearts stay on the left, and the same draw comes anywhere."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from evalfm.data.geometry import Geometry
from evalfm.data.images import Image
from evalfm.encoders import find_card
from evalfm.encoders.card import Preprocessing
from evalfm.encoders.model_input import model_input
from evalfm.encoders.preprocessing import Preparer
from evalfm.training.augmentation import OFF, Augmentation, Augmenter

MOVE = Augmentation(rotation_degrees=15, scale=(0.8, 1.2), translation=0.08, brightness=0, contrast=0, gamma=0)
RADIOGRAPHS = [(300, 200), (190, 310), (256, 256)]
POLICIES = {
    "squash": {"resize": "squash", "resize_to": None, "input_size": (128, 128)},
    "crop": {"resize": "shortest-edge-crop", "resize_to": 140, "input_size": (126, 126)},
    "letterbox": {"resize": "letterbox", "resize_to": None, "input_size": (128, 128)},
    "oblong": {"resize": "squash", "resize_to": None, "input_size": (160, 96)},
}


Augment = Callable[[Tensor, Geometry], tuple[Tensor, Geometry]]


def augmenter(
    augmentation: Augmentation, seed: int, epoch: int, row: int, *, is_unit_interval: bool, pad_value: float = 0.0
) -> Augment:
    """The change of one image alone."""

    def change(tensor: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
        drawn = Augmenter(augmentation, seed, is_unit_interval, pad_value).draw(epoch, [row], [geometry])
        batch = tensor[None]
        changed = drawn.images(batch)
        return tensor if changed is batch else changed[0], drawn.geometries[0]

    return change


class Prepare:
    """An image prepared, changed, and brought to the model's input."""

    def __init__(self, preparer: Preparer) -> None:
        self.preparer, self.geometry_of = preparer, preparer.geometry_of

    def __call__(self, given: Image, augment: Augment = lambda tensor, geometry: (tensor, geometry)) -> Any:
        prepared = self.preparer(given)
        pixels = torch.from_numpy(prepared.pixels.astype(np.float32) * np.float32(prepared.scale))
        tensor, geometry = augment(pixels, prepared.geometry)
        return model_input(tensor[None], self.preparer.facts)[0], geometry


def preparer(policy: str, **facts: object) -> Prepare:
    """Prepares as the policy says, and leaves values as they are."""
    plain = {"channels": 1, "mean": (0.0,), "std": (1.0,), "input_range": (0.0, 1.0), "interpolation": "bilinear"}
    return Prepare(
        Preparer(
            Preprocessing(**find_card("rad-dino").preprocessing.model_dump() | plain | POLICIES[policy] | facts), policy
        )
    )


def image(pixels: Tensor) -> Image:
    return Image(pixels=pixels.numpy(), unit="unit-interval", bits=16, spacing_mm=None, rule="test")


def disc(size: tuple[int, int], y: float, x: float, radius: float) -> Tensor:
    """A disc [1, H, W] about a continuous point of the radiograph."""
    rows, columns = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1])[None, :] + 0.5
    return ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).float()[None]


def centroid(mass: Tensor) -> tuple[float, float]:
    rows, columns = torch.arange(mass.shape[1])[:, None] + 0.5, torch.arange(mass.shape[2])[None, :] + 0.5
    total = mass[0].double().sum()
    return float((mass[0] * rows).sum() / total), float((mass[0] * columns).sum() / total)


def mapped(geometry: Geometry, y: float, x: float) -> tuple[float, float]:
    (a, b, c), (d, e, f) = geometry.matrix
    return a * y + b * x + c, d * y + e * x + f


def overlap(first: Tensor, second: Tensor) -> float:
    one, other = first > 0.5, second > 0.5
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", RADIOGRAPHS)
def test_a_mask_follows_its_radiograph(policy: str, size: tuple[int, int]) -> None:
    prepare = preparer(policy)
    y, x, radius = size[0] * 0.53, size[1] * 0.45, min(size) * 0.2
    mask = disc(size, y, x, radius)
    for row in range(6):
        shown, geometry = prepare(image(mask), augmenter(MOVE, 0, 0, row, is_unit_interval=True))
        assert geometry != prepare.geometry_of(*size)
        assert overlap(shown, geometry.to_input(mask)) > 0.97
        # The centre of mass goes where the matrix says.
        assert np.allclose(centroid(shown), mapped(geometry, y, x), atol=0.25)
        # And the way back brings the mask onto the radiograph.
        assert overlap(geometry.to_source((shown > 0.5).float()), mask) > 0.95


def test_a_mask_that_stays_behind_would_be_seen() -> None:
    size = RADIOGRAPHS[0]
    prepare = preparer("squash")
    mask = disc(size, 160, 90, 40)
    overlaps = []
    for row in range(6):
        shown, _ = prepare(image(mask), augmenter(MOVE, 0, 0, row, is_unit_interval=True))
        overlaps.append(overlap(shown, prepare.geometry_of(*size).to_input(mask)))
    assert min(overlaps) < 0.8


def test_what_the_crop_cut_away_is_no_lesion_in_the_corner() -> None:
    size = (300, 200)
    prepare = preparer("crop")
    everywhere = torch.ones(1, *size)
    seen = prepare.geometry_of(*size).visible()
    apart = []
    for row in range(8):
        shown, geometry = prepare(image(everywhere), augmenter(MOVE, 0, 0, row, is_unit_interval=True))
        assert overlap(shown, geometry.to_input(everywhere * seen)) > 0.985
        apart.append(overlap(shown, geometry.to_input(everywhere)))
    assert min(apart) < 0.97


@pytest.mark.parametrize("policy", POLICIES)
def test_on_the_radiograph_a_move_is_a_similarity(policy: str) -> None:
    size = (300, 200)
    prepare = preparer(policy)
    plain = np.asarray(prepare.geometry_of(*size).matrix)[:, :2]
    angles, factors = [], []
    for row in range(200):
        _, geometry = prepare(image(torch.zeros(1, *size)), augmenter(MOVE, 3, 1, row, is_unit_interval=True))
        onto = np.linalg.inv(plain) @ np.asarray(geometry.matrix)[:, :2]
        factor = math.sqrt(np.linalg.det(onto))
        assert np.allclose(onto @ onto.T, factor**2 * np.eye(2), atol=1e-9)
        angles.append(math.degrees(math.atan2(onto[0, 1], onto[0, 0])))
        factors.append(factor)
        middle = np.asarray(geometry.output) / 2
        source = np.linalg.solve(
            np.asarray(prepare.geometry_of(*size).matrix)[:, :2],
            middle - np.asarray(prepare.geometry_of(*size).matrix)[:, 2],
        )
        shift = (np.asarray(mapped(geometry, *source)) - middle) / geometry.output
        assert np.abs(shift).max() <= MOVE.translation + 1e-9
    # Even draws reach near both ends, and go no further.
    assert 13 < max(angles) <= 15
    assert -15 <= min(angles) < -13
    assert 1.17 < max(factors) <= 1.2
    assert 0.8 <= min(factors) < 0.83


def matrices(augmentation: Augmentation, count: int) -> list[np.ndarray]:
    geometry, tensor = Geometry.identity((8, 8)), torch.zeros(1, 8, 8)
    changes = [augmenter(augmentation, 0, 0, row, is_unit_interval=True) for row in range(count)]
    return [np.asarray(change(tensor, geometry)[1].matrix) for change in changes]


def test_a_heart_never_turns_to_the_right() -> None:
    assert min(np.linalg.det(matrix[:, :2]) for matrix in matrices(Augmentation(), 1000)) > 0.7


def test_mirroring_is_left_to_right_and_half_of_the_time() -> None:
    flipped = [np.linalg.det(matrix[:, :2]) < 0 for matrix in matrices(Augmentation(flip=True), 1000)]
    assert 440 < sum(flipped) < 560
    only = OFF.model_copy(update={"flip": True})
    ramp = torch.arange(6.0).expand(1, 4, 6) / 6 + torch.arange(4.0)[:, None] / 100
    seen = set()
    for row in range(20):
        moved, geometry = augmenter(only, 0, 0, row, is_unit_interval=True)(ramp, Geometry.identity((4, 6)))
        expected = ramp if geometry == Geometry.identity((4, 6)) else ramp.flip(2)
        assert torch.allclose(moved, expected, atol=1e-5)
        seen.add(geometry)
    assert seen == {
        Geometry.identity((4, 6)),
        Geometry.identity((4, 6)).then((4, 6), ((1.0, 0.0, 0.0), (0.0, -1.0, 6.0))),
    }


def test_equal_places_are_equal_and_others_are_not() -> None:
    radiograph = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    geometry = Geometry.identity((32, 32))
    loud = Augmentation()

    def shown(*place: int) -> Tensor:
        return augmenter(loud, *place, is_unit_interval=True)(radiograph.clone(), geometry)[0]

    first = shown(1, 2, 3)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    sent: Augmenter = pickle.loads(pickle.dumps(Augmenter(loud, 1, True)))
    assert torch.equal(first, shown(1, 2, 3))
    assert torch.equal(first, sent.draw(2, [3], [geometry]).images(radiograph[None])[0])
    others = [shown(1, 2, 4), shown(1, 3, 3), shown(2, 2, 3), shown(3, 2, 1), shown(1, 3, 2)]
    assert all(not torch.allclose(one, other, atol=1e-3) for one, other in pairwise([first, *others]))


LOUD = Augmentation(flip=True)
UNMOVED = Augmentation(rotation_degrees=0, scale=(1, 1), translation=0)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("facts", "threads"), [(LOUD, 1), (LOUD, 3), (UNMOVED, 3)])
def test_what_an_image_becomes_does_not_depend_on_its_batch(policy: str, facts: Augmentation, threads: int) -> None:
    """Bit for bit, alone or among others, in any order, with any number of threads."""
    sizes = [(300, 200), (190, 310), (256, 256)] * 3
    geometries = [preparer(policy).geometry_of(*size) for size in sizes]
    values = torch.rand(9, 3, *geometries[0].output, generator=torch.Generator().manual_seed(0))
    fractions = torch.rand(9, 2, *geometries[0].output, generator=torch.Generator().manual_seed(1))
    augment, before = Augmenter(facts, 5, True, 0.25), torch.get_num_threads()

    def changed(places: list[int]) -> tuple[Tensor, Tensor]:
        change = augment.draw(3, [40 + place for place in places], [geometries[place] for place in places])
        return change.images(values[places]), change.masks(fractions[places], (32, 24))

    whole, masks = changed(list(range(9)))
    torch.set_num_threads(threads)
    try:
        for places in ([4], [8, 4, 0], [7, 6, 5, 4, 3, 2, 1, 0]):
            part, own = changed(places)
            assert torch.equal(part, whole[places])
            assert torch.equal(own, masks[places])
    finally:
        torch.set_num_threads(before)


def by_the_book(tensor: Tensor, geometry: Geometry, facts: Augmentation, place: tuple[int, int, int]) -> Tensor:
    """One image [C, h, w] of the unit interval changed in float64, from the draws on."""
    seed, epoch, row = place
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0x4157, epoch, row)))
    turn, size, *shift, light, spread, bend = generator.uniform(-1, 1, 7)
    mirrored = generator.random() < 0.5 and facts.flip
    angle, sides = np.deg2rad(facts.rotation_degrees * turn), np.array(geometry.output, dtype=float)
    low, high = facts.scale
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = turned @ np.diag([1.0, -1.0 if mirrored else 1.0]) * ((low + high) / 2 + size * (high - low) / 2)
    lengths = np.diag(np.asarray(geometry.matrix)[:, :2])
    linear = turned * (lengths[:, None] / lengths[None, :])
    rows, columns = np.meshgrid(np.arange(sides[0]) + 0.5, np.arange(sides[1]) + 0.5, indexing="ij")
    onto = np.stack([rows, columns], -1) - sides / 2 - np.array(shift) * facts.translation * sides
    y, x = np.moveaxis(onto @ np.linalg.inv(linear).T + sides / 2, -1, 0)
    at = torch.from_numpy(np.stack([x / sides[1], y / sides[0]], -1) * 2 - 1)
    moved = functional.grid_sample(
        tensor[None].double(), at[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    scale, place_on = np.diag(np.asarray(geometry.matrix)[:, :2]), np.asarray(geometry.matrix)[:, 2]
    on_image = [(one - add) / by for one, add, by in zip((y, x), place_on, scale, strict=True)]
    seen = np.ones(geometry.output, dtype=bool)
    for one, most in zip((y, x, *on_image), (*sides, *geometry.source), strict=True):
        seen &= (one >= 0) & (one <= most)
    inside = torch.from_numpy(((y >= 0) & (y <= sides[0])) & ((x >= 0) & (x <= sides[1])))
    moved = torch.where(inside, moved, 0.25)
    film = torch.from_numpy(seen)
    mean = moved[:, film].mean()
    changed = (moved - mean) * (1 + spread * facts.contrast) + mean + light * facts.brightness
    return torch.where(film, changed.clamp(0, 1) ** np.exp(bend * facts.gamma), moved)


@pytest.mark.parametrize("policy", [*POLICIES, "cropped and padded"])
@pytest.mark.parametrize("size", [(300, 200), (190, 310)])
def test_a_batch_is_changed_as_the_formulas_have_it(policy: str, size: tuple[int, int]) -> None:
    facts, half = Augmentation(flip=True), (size[0] // 2, size[1] // 2)
    if policy in POLICIES:
        geometry = preparer(policy).geometry_of(*size)
    else:
        geometry = Geometry.identity(size).resize(half).crop((half[0] - 126) // 2, (half[1] - 126) // 2, (126, 126))
    values = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    values = functional.interpolate(values, geometry.output, mode="bilinear")
    found = Augmenter(facts, 7, True, 0.25).draw(2, range(8), [geometry] * 8).images(values)
    expected = torch.stack([by_the_book(each, geometry, facts, (7, 2, row)) for row, each in enumerate(values)])
    # At the image's edge a pixel may fall on either side.
    difference = (found - expected).abs()
    assert float((difference > 2e-4).float().mean()) < 1e-4
    assert float(difference.median()) < 2e-6


def test_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    augmenter(Augmentation(), 0, 0, 0, is_unit_interval=True)(
        torch.rand(1, 8, 8, generator=torch.Generator()), Geometry.identity((8, 8))
    )
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_switching_one_change_off_leaves_the_others() -> None:
    _, with_light = augmenter(Augmentation(), 0, 0, 5, is_unit_interval=True)(
        torch.zeros(1, 8, 8), Geometry.identity((8, 8))
    )
    _, without = augmenter(Augmentation(brightness=0), 0, 0, 5, is_unit_interval=True)(
        torch.zeros(1, 8, 8), Geometry.identity((8, 8))
    )
    assert with_light == without


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [(301, 199), (97, 193)])
def test_off_gives_back_what_came(policy: str, size: tuple[int, int]) -> None:
    geometry = preparer(policy).geometry_of(*size)
    radiograph = torch.rand(1, *geometry.output)
    kept = radiograph.clone()
    for row in range(20):
        moved, same = augmenter(OFF, 0, 0, row, is_unit_interval=True)(radiograph, geometry)
        assert moved is radiograph
        assert same is geometry
    assert torch.equal(radiograph, kept)


LIGHT = OFF.model_copy(update={"brightness": 0.3, "contrast": 0.3, "gamma": 0.5})


def test_intensities_change_within_the_unit_interval_and_only_on_radiograph() -> None:
    prepare = preparer("letterbox", pad_value=0.25)
    radiograph = torch.rand(1, 300, 150, generator=torch.Generator().manual_seed(1))
    plain, geometry = prepare(image(radiograph))
    for row in range(20):
        change = augmenter(LIGHT, 0, 0, row, is_unit_interval=True, pad_value=0.25)
        shown, same = prepare(image(radiograph), change)
        assert same == geometry
        assert 0 <= float(shown.min()) <= float(shown.max()) <= 1
        assert float((shown[:, :, :32] - 0.25).abs().max()) < 1e-5
        assert float((shown[:, :, 96:] - 0.25).abs().max()) < 1e-5
        assert float((shown - plain)[:, :, 32:96].abs().mean()) > 0.002
    # Beyond a moved radiograph and its blended edge stands what stands beside it unmoved.
    moved, geometry = prepare(image(radiograph), augmenter(MOVE, 0, 0, 1, is_unit_interval=True, pad_value=0.25))
    beyond = functional.max_pool2d(geometry.to_input(torch.ones(1, 300, 150)), 3, stride=1, padding=1) == 0
    assert int(beyond.sum()) > 1000
    assert torch.allclose(moved[beyond], torch.tensor(0.25), atol=1e-5)


FORMULAS: dict[str, tuple[float, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "brightness": (0.2, lambda pixel, mean, draw: pixel + 0.2 * draw),
    "contrast": (0.4, lambda pixel, mean, draw: mean + (pixel - mean) * (1 + 0.4 * draw)),
    "gamma": (0.5, lambda pixel, mean, draw: pixel ** torch.exp(0.5 * draw)),
}


@pytest.mark.parametrize("change", FORMULAS)
def test_each_intensity_is_its_formula(change: str) -> None:
    largest, formula = FORMULAS[change]
    radiograph = 0.3 + 0.4 * torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(2))
    draws = torch.linspace(-1, 1, 4001)
    found = []
    for row in range(40):
        change_it = augmenter(OFF.model_copy(update={change: largest}), 0, 0, row, is_unit_interval=True)
        shown, _ = change_it(radiograph, Geometry.identity((16, 16)))
        # The draw is read off one pixel's change; the formula then holds for all.
        draw = draws[(formula(radiograph[0, 0, 0], radiograph.mean(), draws) - shown[0, 0, 0]).abs().argmin()]
        assert torch.allclose(shown, formula(radiograph, radiograph.mean(), draw), atol=5e-4)
        found.append(float(draw))
    assert -1 <= min(found) < -0.8
    assert 0.8 < max(found) <= 1


def test_hounsfield_units_are_moved_and_never_rescaled() -> None:
    radiograph = torch.full((1, 64, 64), -700.0)
    radiograph[:, 20:40, 20:40] = 55.0
    everything = LIGHT.model_copy(update={"rotation_degrees": 10.0})
    for row in range(10):
        change = augmenter(everything, 0, 0, row, is_unit_interval=False, pad_value=-1000.0)
        shown, geometry = change(radiograph, Geometry.identity((64, 64)))
        assert geometry != Geometry.identity((64, 64))
        assert float(shown.max()) == pytest.approx(55, abs=1e-3)
        assert {-1000.0} == {float(each) for each in shown[shown < -701]} or not bool((shown < -701).any())
        assert float(shown[shown > -701].min()) == pytest.approx(-700, abs=1e-3)


@pytest.mark.parametrize("place", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_negative_places_are_refused(place: tuple[int, int, int]) -> None:
    seed, epoch, row = place
    with pytest.raises(ValueError, match="at least 0"):
        Augmenter(OFF, seed, True).draw(epoch, [0, row], [Geometry.identity((8, 8))] * 2)


@pytest.mark.parametrize(
    "wrong",
    [{"scale": (1.1, 0.9)}, {"scale": (0, 1)}, {"rotation_degrees": -5}, {"translation": 1.0}, {"shear": 1}],
)
def test_ranges_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Augmentation(**wrong)  # type: ignore[arg-type]
