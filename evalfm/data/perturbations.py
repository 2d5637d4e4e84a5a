"""What happens to a radiograph between patient and model: less dose, blur, another grey scale, JPEG, a turn, a marker.

Images are changed at their own resolution, before an encoder prepares them, so that all encoders see the same pixels.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalfm.data.columns import SPACING_COLUMNS
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    from evalfm.data.images import Image

Pixels = NDArray[np.float32]

FIELD_MM = 430.0
"""Length of the long side where no pixel spacing is known: that of a 35 × 43 cm radiograph."""
PHOTONS_PER_MM2 = 50_000.0
"""At full dose, where a pixel is mid-grey: a convention, of a chest radiograph's order, and not the image's own."""
EXPOSURE_RANGE = 100.0
"""Ratio of the photons at value 0 (air) to those at value 1: pixel values are taken to follow the logarithm."""
VERSION = 1
"""Raise it whenever a perturbed pixel could change, so that no stored feature is taken for a new one."""


@dataclass(frozen=True)
class Family:
    """One way in which images are changed.

    Attributes:
        words: what it is, in a sentence.
        unit: of its strength.
        strengths: that are tried unless others are named, from mild to strong.
        neutral: the strength that changes nothing, exactly; None where there is none.
        low, high: strengths beyond these are none.
        apply: from pixels [C, H, W] in the unit interval, the strength, (row, column) spacing in mm and a generator to
            changed pixels.
    """

    words: str
    unit: str
    strengths: tuple[float, ...]
    neutral: float | None
    low: float
    high: float
    apply: Callable[[Pixels, float, tuple[float, float], np.random.Generator], NDArray[np.floating]]


@dataclass(frozen=True)
class Perturbation:
    """A family at one strength.

    Raises:
        EvalfmError: there is no such family, or it has no such strength.

    >>> Perturbation("blur", 2).label
    'blur 2 mm'
    """

    name: str
    strength: float

    def __post_init__(self) -> None:
        if self.name not in FAMILIES:
            raise UnknownNameError("perturbation", self.name, list(FAMILIES))
        family = self.family
        if not family.low <= self.strength <= family.high:
            raise EvalfmError(
                f"{self.name} has strengths from {family.low:g} to {family.high:g} {family.unit}".rstrip()
                + f", not {self.strength:g}."
            )

    @property
    def family(self) -> Family:
        """What it is a strength of."""
        return FAMILIES[self.name]

    @property
    def label(self) -> str:
        """Name, strength and unit."""
        return f"{self.name} {self.strength:g} {self.family.unit}".rstrip()

    @property
    def severity(self) -> float:
        """How far from changing nothing, by which strengths of one family are ordered.

        >>> Perturbation("dose", 0.1).severity > Perturbation("dose", 0.5).severity
        True
        """
        neutral = self.family.neutral
        if neutral is None:
            return -self.strength
        return abs(math.log(self.strength)) if neutral == 1 else self.strength

    def __call__(
        self, pixels: Pixels, spacing_mm: tuple[float, float] | None, generator: np.random.Generator
    ) -> Pixels:
        """Changed pixels, float32 [C, H, W] in the unit interval; the very same at the neutral strength.

        Args:
            pixels: float32 [C, H, W] in the unit interval, air dark.
            spacing_mm: (row, column) spacing; None takes the long side for 430 mm.
            generator: whatever is drawn (noise, the sign of a turn, the letter and corner of a marker).

        >>> flat = np.full((1, 2, 2), 0.25, dtype=np.float32)
        >>> Perturbation("inversion", 1)(flat, None, np.random.default_rng(0))[0, 0].tolist()
        [0.75, 0.75]
        """
        if self.strength == self.family.neutral:
            return pixels
        pixel_mm = (FIELD_MM / max(pixels.shape[1:]),) * 2 if spacing_mm is None else spacing_mm
        changed = self.family.apply(pixels, self.strength, pixel_mm, generator)
        return np.asarray(np.clip(changed, 0, 1), dtype=np.float32)


def parse_perturbations(words: Sequence[str] | None = None) -> tuple[Perturbation, ...]:
    """Perturbations by name (all strengths that are tried) or as ``name=strength``; all of all families where None.

    Raises:
        EvalfmError: a name or strength is none.

    >>> [each.label for each in parse_perturbations(["inversion", "jpeg=30"])]
    ['inversion 1', 'jpeg 30 quality']
    """
    found: dict[Perturbation, None] = {}
    for word in FAMILIES if words is None else words:
        name, mark, said = word.partition("=")
        if name not in FAMILIES:
            raise UnknownNameError("perturbation", name, list(FAMILIES))
        try:
            strengths = (float(said),) if mark else FAMILIES[name].strengths
        except ValueError:
            raise EvalfmError(f"{word!r} gives no number; write {name}={FAMILIES[name].strengths[0]:g}.") from None
        found |= dict.fromkeys(Perturbation(name, strength) for strength in strengths)
    return tuple(found)


@dataclass(frozen=True, eq=False)
class ChangedImages(Manifest):
    """A manifest whose images are changed in memory; what is changed enters their digests, so the keys of features."""

    @abstractmethod
    def changed(self, image: Image, row: int) -> Image:
        """What becomes of the image of ``row``."""

    @abstractmethod
    def mark(self, row: int) -> bytes:
        """All that decides what becomes of the image of ``row``, beside its stored bytes."""

    def image(self, row: int) -> Image:
        """The changed image of ``row``."""
        return self.changed(super().image(row), row)

    def digest(self, row: int) -> str:
        """Of the stored bytes and of what is changed."""
        return self._marked(super().digest(row), row)

    def digests(self, rows: Sequence[int] | None = None, *, progress: Progress = SILENT) -> NDArray[np.object_]:
        """As ``digest``, of ``rows``."""
        wanted = range(len(self)) if rows is None else rows
        digests = super().digests(rows, progress=progress)
        return np.array([self._marked(each, row) for each, row in zip(digests, wanted, strict=True)], dtype=object)

    def _marked(self, digest: str, row: int) -> str:
        return hashlib.sha256(f"{digest} ".encode() + self.mark(row)).hexdigest()


@dataclass(frozen=True, eq=False)
class PerturbedImages(ChangedImages):
    """A manifest whose images are perturbed alike for all encoders: what is drawn follows from ``seed`` and id.

    Attributes:
        perturbation: None leaves the pixels as they are; they are prepared from the same float32 as changed ones.
        seed: of what is drawn.

    >>> from evalfm.data.phantom import make_phantom
    >>> made = make_phantom("radiographs", n=2, size=64)
    >>> darker = PerturbedImages.of(made, Perturbation("gamma", 2))
    >>> bool((darker.image(0).pixels == made.image(0).pixels ** 2).all()), darker.digest(0) == made.digest(0)
    (True, False)
    """

    perturbation: Perturbation | None
    seed: int

    @classmethod
    def of(cls, manifest: Manifest, perturbation: Perturbation | None, seed: int = 0) -> PerturbedImages:
        """The images of ``manifest``, perturbed."""
        return cls(manifest.info, manifest.table, manifest.folder, perturbation, seed)

    def changed(self, image: Image, row: int) -> Image:
        """The perturbed image of ``row``.

        Raises:
            EvalfmError: its values are not of the unit interval.
        """
        if image.unit != "unit-interval":
            raise EvalfmError(
                f"Perturbations are of images in the unit interval, and {self.locator(row)} is in {image.unit}; "
                "name data of radiographs or photographs."
            )
        if self.perturbation is None:
            return image
        drawn = f"{self.seed}\n{self.perturbation.name}\n{self.table['id'].iat[row]}"
        generator = np.random.default_rng(int.from_bytes(hashlib.sha256(drawn.encode()).digest()))
        return replace(image, pixels=self.perturbation(image.pixels, image.spacing_mm, generator))

    def mark(self, row: int) -> bytes:
        """Perturbation, seed, id and the table's spacing; versions of the libraries that change pixels."""
        import PIL
        import scipy

        what = None if self.perturbation is None else (self.perturbation.name, float(self.perturbation.strength))
        place = [self.table[name].iat[row] for name in SPACING_COLUMNS if name in self.table]
        versions = np.__version__, scipy.__version__, PIL.__version__
        return repr((VERSION, what, self.seed, str(self.table["id"].iat[row]), *map(str, place), *versions)).encode()


# Families


def _dose(
    pixels: Pixels, share: float, pixel_mm: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.floating]:
    """The noise that an image with ``share`` of the photons has beyond what it shows already.

    The logarithm of a count N has variance 1/N; with share f it is 1/(fN), so that (1 − f)/(fN) is added: that of the
    logarithm of a Poisson count with mean fN/(1 − f).
    """
    photons = PHOTONS_PER_MM2 * pixel_mm[0] * pixel_mm[1] * EXPOSURE_RANGE ** (0.5 - pixels.astype(np.float64))
    mean = photons * share / (1 - share)
    counted = np.maximum(generator.poisson(mean), 0.5)
    return np.asarray(pixels - np.log(counted / mean) / math.log(EXPOSURE_RANGE))


def _blur(
    pixels: Pixels, sigma_mm: float, pixel_mm: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.floating]:
    from scipy.ndimage import gaussian_filter

    sigma = (0, sigma_mm / pixel_mm[0], sigma_mm / pixel_mm[1])
    return np.asarray(gaussian_filter(pixels, sigma, mode="nearest"))


def _gamma(
    pixels: Pixels, exponent: float, pixel_mm: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.floating]:
    return np.asarray(np.clip(pixels, 0, 1) ** np.float32(exponent))


def _jpeg(
    pixels: Pixels, quality: float, pixel_mm: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.floating]:
    """JPEG has 8 bits: deeper images are rounded to them first, as whoever exports them does."""
    import PIL.Image

    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    stream = BytesIO()
    PIL.Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)).save(
        stream, "JPEG", quality=round(quality)
    )
    again = np.asarray(PIL.Image.open(stream), dtype=np.float32) / np.float32(255)
    return again[None] if again.ndim == 2 else again.transpose(2, 0, 1)


def _downsample(
    pixels: Pixels, factor: float, pixel_mm: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.floating]:
    """Means over cells, then back by bicubic interpolation."""
    import PIL.Image

    height, width = pixels.shape[1:]
    smaller = max(1, round(width / factor)), max(1, round(height / factor))
    channels = []
    for channel in pixels:
        small = PIL.Image.fromarray(np.ascontiguousarray(channel)).resize(smaller, PIL.Image.Resampling.BOX)
        channels.append(np.asarray(small.resize((width, height), PIL.Image.Resampling.BICUBIC)))
    return np.stack(channels)


def _rotation(
    pixels: Pixels, degrees: float, pixel_mm: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.floating]:
    """About the centre, to the left or to the right; corners that come in are 0, as behind a collimator."""
    from scipy.ndimage import rotate

    angle = degrees * generator.choice([-1, 1])
    return np.asarray(rotate(pixels, angle, axes=(1, 2), reshape=False, order=1, mode="constant", cval=0.0))


def _marker(
    pixels: Pixels, height_mm: float, pixel_mm: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.floating]:
    """An L or R of value 1, in an upper corner, half its height from the edges."""
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

    letter, right = "LR"[generator.integers(2)], bool(generator.integers(2))
    rows, columns = pixels.shape[1:]
    height = max(1, min(round(height_mm / pixel_mm[0]), rows // 2))
    font = PIL.ImageFont.load_default(400)
    left, top, end, bottom = map(int, font.getbbox(letter))
    drawn = PIL.Image.new("L", (end - left, bottom - top))
    PIL.ImageDraw.Draw(drawn).text((-left, -top), letter, fill=255, font=font)
    width = max(1, min(round(height * drawn.width / drawn.height * pixel_mm[0] / pixel_mm[1]), columns // 2))
    opacity = np.asarray(drawn.resize((width, height)), dtype=np.float32) / 255
    y, x = min(height // 2, rows - height), min(height // 2, columns - width)
    x = columns - width - x if right else x
    marked = pixels.copy()
    place = marked[:, y : y + height, x : x + width]
    place += opacity * (1 - place)
    return marked


def _inversion(
    pixels: Pixels, share: float, pixel_mm: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.floating]:
    return np.asarray((1 - share) * pixels + share * (1 - pixels))


FAMILIES: dict[str, Family] = {
    "dose": Family(
        "Poisson noise, as of an exposure with this share of the photons",
        "of the photons",
        (0.25, 0.05, 0.01),
        neutral=1,
        low=0.001,
        high=1,
        apply=_dose,
    ),
    "blur": Family("Gaussian blur of this standard deviation", "mm", (0.5, 1, 2), 0, 0, 100, _blur),
    "gamma": Family("values raised to this power", "", (0.5, 0.7, 1.4, 2), 1, 0.1, 10, _gamma),
    "jpeg": Family("saved as JPEG of 8 bits in this quality", "quality", (90, 50, 10), None, 1, 100, _jpeg),
    "downsample": Family("made smaller by this factor, and large again", "×", (2, 4, 8), 1, 1, 64, _downsample),
    "rotation": Family("turned by this angle, to the left or to the right", "°", (2, 5, 10), 0, 0, 180, _rotation),
    "marker": Family("a white L or R of this height in an upper corner", "mm", (10, 20, 40), 0, 0, 200, _marker),
    "inversion": Family("dark and bright exchanged", "", (1,), 0, 0, 1, _inversion),
}
"""Every family by its name."""
