"""What a subgroup report holds: strata, contrasts of levels with their corrected p, families, values of masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from evalfm.statistics.adjusted import AdjustedEffect
from evalfm.statistics.association import Effect
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.fixed_label import FixedLabel
from evalfm.statistics.gaps import LevelGap

ALPHA = 0.05


@dataclass(frozen=True)
class Stratum:
    """One level: its size and metrics, and how far its mean score is from its prevalence."""

    level: str
    images: int
    patients: int
    events: int
    prevalence: float
    metrics: dict[str, Estimate]
    calibration_in_the_large: float | None


@dataclass(frozen=True)
class SizeCell:
    """Images with the finding of one stratum of lesion size at one level.

    Attributes:
        low, high: the smallest and the largest area of the stratum.
        found: share of the images whose finding was found: called at the threshold, or a mask that meets the lesion.
        dice: mean, of masks; None of scores.
    """

    stratum: int
    low: float
    high: float
    level: str
    images: int
    patients: int
    found: Estimate
    dice: Estimate | None = None


@dataclass(frozen=True)
class SizeTest:
    """One level against all others among images with the finding, combined across strata of lesion size."""

    level: str
    effect: AdjustedEffect
    corrected: float | None = None


@dataclass(frozen=True)
class BySize:
    """Images with the finding by an attribute and the size of the lesion.

    Attributes:
        what: whose mean the tests compare, in words.
        cells: a row per stratum and level.
        tests: of each contrasted level.
        without_area: images with the finding whose lesion has no known area; they are in no row.
    """

    what: str
    cells: tuple[SizeCell, ...]
    tests: tuple[SizeTest, ...]
    without_area: int = 0


@dataclass(frozen=True)
class LevelContrast:
    """One level against all others that are known.

    Attributes:
        cross: AUROCs within and across (descriptive).
        balanced: AUROC with label and attribute made independent, and ``drop`` to it from the plain one (descriptive).
        fixed: the tests, at label 0 and 1.
        gap: AUROC at the level minus AUROC elsewhere, with its p (uncorrected; severity alone moves it too).
        corrected: p of the adjusted effect among negatives after Benjamini and Hochberg over the page.
        verdict: in words.
        corrected_auroc: the same of the AUROC for the attribute among negatives, a family of its own.
        gaps: at the operating point, by name; ``corrected_gaps`` their p after the same over all gaps of the page.
    """

    level: str
    cross: dict[str, Estimate]
    balanced: float | None
    drop: float | None
    fixed: dict[int, FixedLabel]
    gap: Effect
    corrected: float | None
    verdict: str
    corrected_auroc: float | None = None
    gaps: dict[str, LevelGap] = field(default_factory=dict)
    corrected_gaps: dict[str, float | None] = field(default_factory=dict)

    @property
    def is_tested(self) -> bool:
        """Whether anything can be said: both tests among negatives have a p."""
        return self.corrected is not None and self.corrected_auroc is not None

    @property
    def effect_found(self) -> bool:
        """Whether the adjusted effect among negatives is significant after correction."""
        return self.corrected is not None and self.corrected < ALPHA

    @property
    def area_found(self) -> bool:
        """Whether the AUROC among negatives differs from .5 after correction, or the levels lie wholly apart."""
        return self.fixed[0].separated or (self.corrected_auroc is not None and self.corrected_auroc < ALPHA)

    @property
    def agree(self) -> bool:
        """Whether adjusted effect and AUROC point the same way."""
        effect, area = self.fixed[0].effect.value, self.fixed[0].auroc.value
        return effect is not None and area is not None and (effect > 0) == (area > 0.5)

    @property
    def associated(self) -> bool:
        """The stated rule: both significant after correction, and of one direction."""
        return self.effect_found and self.area_found and self.agree


@dataclass(frozen=True)
class AttributeReport:
    """All that is said of one attribute; ``worst`` is the level of the lowest AUROC where two have one."""

    attribute: str
    unknown: int
    strata: tuple[Stratum, ...]
    contrasts: tuple[LevelContrast, ...]
    worst: str | None
    by_size: BySize | None = None


@dataclass(frozen=True)
class Bias:
    """The subgroup report of one model.

    Attributes:
        left_out: of which attributes nothing could be said, and why.
        prevalence: of predictive values, and whether it was ``given`` or is that of the test set.
        families: how many p each correction was over, by what they are of.
    """

    model: str
    images: int
    patients: int
    unit: str
    adjusted_for: tuple[str, ...]
    parts: tuple[AttributeReport, ...]
    cautions: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    prevalence: float | None = None
    prevalence_given: bool = False
    families: Mapping[str, int] = field(default_factory=dict)

    @property
    def contrasts(self) -> Iterator[tuple[AttributeReport, LevelContrast]]:
        """Every contrast with what it is of."""
        return ((part, each) for part in self.parts for each in part.contrasts)


@dataclass(frozen=True)
class Level:
    """One level: its size and the mean of the value."""

    level: str
    images: int
    patients: int
    mean: Estimate


@dataclass(frozen=True)
class Gap:
    """One level against all others that are known; ``corrected`` is p after Benjamini and Hochberg over the page."""

    level: str
    difference: AdjustedEffect
    corrected: float | None
    verdict: str


@dataclass(frozen=True)
class ValueOutcome:
    """One value by one attribute.

    Attributes:
        name: what is measured, and on which images.
        held: what the gaps are adjusted for.
    """

    name: str
    attribute: str
    held: tuple[str, ...]
    unknown: int
    levels: tuple[Level, ...]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class SizeReport:
    """One attribute of masks by the size of the lesion; ``mask`` names the finding."""

    mask: str
    attribute: str
    by_size: BySize


@dataclass(frozen=True)
class ValueBias:
    """The subgroup report of one model of masks or measurements; ``left_out`` and ``families`` as in ``Bias``."""

    model: str
    images: int
    unit: str
    outcomes: tuple[ValueOutcome, ...]
    cautions: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    by_size: tuple[SizeReport, ...] = ()
    families: Mapping[str, int] = field(default_factory=dict)

    @property
    def gaps(self) -> list[tuple[ValueOutcome, Gap]]:
        """Every gap with what it is of."""
        return [(outcome, gap) for outcome in self.outcomes for gap in outcome.gaps]
