"""Verdicts of a subgroup report in words: associations by stated rules, and nothing is ever called free of bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evalfm.analysis.contrasts import (
    ALPHA,
    AttributeReport,
    Bias,
    BySize,
    Gap,
    LevelContrast,
    SizeTest,
    ValueBias,
    ValueOutcome,
)
from evalfm.analysis.figures import describe, p_words
from evalfm.statistics.adjusted import AdjustedEffect
from evalfm.statistics.association import Effect
from evalfm.statistics.estimate import Estimate

FIGURES = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "mean_error": "mean score − prevalence",
    "intercept": "calibration intercept",
}
"""Figures at the operating point in words, in the order of tables."""
CAUSES = "an association that missed findings or other disease may also produce"


def verdict(attribute: str, contrast: LevelContrast, adjusted_for: Sequence[str] = ()) -> str:
    """What can be said of a score at one level, among images without the finding.

    "Associated" needs the adjusted effect and the AUROC to be significant after correction and of one direction. Where
    one alone is, that is said with both numbers, as where they point in opposite ways.
    """
    return _direction(f"{attribute} = {contrast.level}", contrast, adjusted_for) + _conditions(
        contrast.fixed[0].effect, adjusted_for
    )


def conflicting_pairs(contrast: LevelContrast) -> Estimate:
    """AUROC of the pairs in which level and finding disagree, as the level goes with the finding or against it."""
    area = contrast.fixed[0].auroc.value
    return contrast.cross["bnsp" if area is not None and area < 0.5 else "bpsn"]


def shortcut_words(attribute: str, contrast: LevelContrast) -> str | None:
    """What is said where a score follows a level rather than the finding; None where that was not found.

    It needs the association among negatives and conflicting pairs whose whole interval lies below .5.
    """
    pairs = conflicting_pairs(contrast)
    if not contrast.associated or pairs.high is None or pairs.high >= 0.5:
        return None
    with_it, without = f"with {attribute} = {contrast.level}", "without it"
    first, second = (without, with_it) if _way(contrast) == "higher" else (with_it, without)
    return (
        f"A shortcut: where {attribute} and the finding disagree the score follows {attribute}. Images with the "
        f"finding {first} rank below images without the finding {second}: AUROC of these conflicting pairs "
        f"{words(pairs)}, .5 being no order."
    )


def _direction(what: str, contrast: LevelContrast, adjusted_for: Sequence[str]) -> str:
    negatives = contrast.fixed[0]
    named = ", ".join(adjusted_for)
    if negatives.separated and negatives.auroc.value is not None:
        way = "higher" if negatives.auroc.value > 0.5 else "lower"
        return f"Among negatives every score with {what} is {way} than every other: {CAUSES}."
    area, effect = _area_words(contrast), _effect_words(contrast)
    if not contrast.is_tested:
        reason = negatives.effect.reason or negatives.auroc.reason or "the score has no spread"
        alone = ""
        if contrast.area_found:
            alone = f" Without adjustment the score is {_way_of_area(contrast)} with it ({area})."
        elif contrast.effect_found:
            alone = f" The adjusted score is {_way(contrast)} with it ({effect})."
        return f"Cannot be said for {what}: {reason}.{alone}"
    if contrast.associated:
        return f"Among negatives the score is {_way(contrast)} with {what}: {CAUSES}."
    if contrast.effect_found and contrast.area_found:
        if not named:
            return (
                f"Among negatives the score goes with {what}, but its mean and its ranks point in opposite ways "
                f"({effect}; {area}): an association without a direction."
            )
        return (
            f"Among negatives adjustment for {named} reverses the direction with {what}: without it the score is "
            f"{_way_of_area(contrast)} ({area}), with it {_way(contrast)} ({effect}). An association whose direction "
            "hangs on what it is adjusted for."
        )
    if contrast.effect_found:
        if not named:
            return (
                f"Among negatives the mean score is {_way(contrast)} with {what} ({effect}), but its AUROC for that "
                f"does not differ from .5 ({area}): by the rule, which needs both, no association was found."
            )
        return (
            f"Among negatives the score is associated with {what} after adjustment for {named}; not without: "
            f"{_way(contrast)} with it ({effect}), without adjustment {area}."
        )
    if contrast.area_found:
        if not named:
            return (
                f"Among negatives the score ranks {_way_of_area(contrast)} with {what} ({area}), but its mean does not "
                f"differ ({effect}): by the rule, which needs both, no association was found."
            )
        return (
            f"Among negatives the score is associated with {what} without adjustment; not after adjustment for "
            f"{named}: {_way_of_area(contrast)} with it ({area}), adjusted {effect}."
        )
    detectable = negatives.effect.detectable
    could = (
        f"an effect of {detectable:.2f} standard deviations" if detectable is not None else "no effect of known size"
    )
    return f"No association with {what} was detected among negatives; {could} could have been detected with 80 % power."


def _conditions(effect: AdjustedEffect, adjusted_for: Sequence[str]) -> str:
    """Of whom the effect is, where that is not every image without the finding."""
    words = ""
    if effect.left_out and effect.value is not None:
        words += (
            f" The adjusted effect leaves out {effect.left_out} images without a known {' or '.join(adjusted_for)} "
            "(taken as missing completely at random)."
        )
    if effect.value is not None and effect.unit == "patients":
        words += " Few patients: the effect is of patient means, by permutations."
    return words


def _way(contrast: LevelContrast) -> str:
    return "higher" if (contrast.fixed[0].effect.value or 0.0) > 0 else "lower"


def _way_of_area(contrast: LevelContrast) -> str:
    return "higher" if (contrast.fixed[0].auroc.value or 0.0) > 0.5 else "lower"


def _area_words(contrast: LevelContrast) -> str:
    value = contrast.fixed[0].auroc.value
    return "no AUROC" if value is None else f"AUROC {value:.3f}, p {p_words(contrast.corrected_auroc)}"


def _effect_words(contrast: LevelContrast) -> str:
    effect = contrast.fixed[0].effect
    if effect.standardised is None:
        return "no effect" if effect.value is None else f"{effect.value:+.2f}, p {p_words(contrast.corrected)}"
    return f"{effect.standardised:+.2f} standard deviations, p {p_words(contrast.corrected)}"


def value_verdict(outcome: ValueOutcome, gap: Gap, p: float | None) -> str:
    """What can be said of the mean of a value at one level."""
    what = f"{outcome.attribute} = {gap.level}"
    found = gap.difference
    lost = ""
    if found.left_out:
        lost = f" {found.left_out} images lack a covariate and are left out (taken as missing completely at random)."
    if found.value is not None and found.unit == "patients":
        lost += " Few patients: of patient means, by permutations."
    if p is None or found.value is None or found.low is None or found.high is None:
        return f"{outcome.name}: cannot be said for {what} ({found.reason or 'it has no spread'})."
    if p < ALPHA:
        way = "higher" if found.value > 0 else "lower"
        near, far = sorted((abs(found.low), abs(found.high)))
        reach = f"[{near:.3g}, {far:.3g}]"
        return f"{outcome.name} is {way} with {what} by {abs(found.value):.3g} {reach}: an association.{lost}"
    could = f"one of {found.detectable:.3g} could have been detected with 80 % power"
    return f"{outcome.name}: no difference with {what} was detected; {could}.{lost}"


def size_verdict(what: str, attribute: str, test: SizeTest) -> str:
    """What can be said of a level among images with the finding, within strata of lesion size."""
    where = f"Among images with the finding, within strata of lesion size, {what}"
    level, found = f"{attribute} = {test.level}", test.effect
    if test.corrected is None or found.value is None:
        return f"{where}: cannot be said for {level} ({found.reason or 'it has no spread'})."
    if test.corrected < ALPHA:
        way = "higher" if found.value > 0 else "lower"
        return f"{where} is {way} with {level} by {abs(found.value):.3g} (p {p_words(test.corrected)}): an association."
    could = (
        "" if found.detectable is None else f"; one of {found.detectable:.3g} could have been detected with 80 % power"
    )
    return f"{where}: no difference with {level} was detected{could}."


def gap_reach(found: Effect) -> str:
    """A gap with its interval, or why there is none."""
    if found.value is None:
        return f"– ({found.reason})"
    if found.low is None:
        return f"{found.value:+.3f} [no interval]"
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def gap_words(part: AttributeReport) -> list[str]:
    """Per level how its AUROC differs from that elsewhere, and what difference the test set could have shown."""
    words = []
    for each in part.contrasts:
        found = each.gap
        if found.p is None:
            continue
        could = f"one of {found.detectable:.3f} could have been detected with 80 % power"
        ending = (
            f"not detected; {could}"
            if found.p >= ALPHA
            else f"p {p_words(found.p)}, uncorrected; severity alone can do that"
        )
        words.append(f"AUROC with {part.attribute} = {each.level} minus elsewhere: {gap_reach(found)}, {ending}.")
    return words


def operating_words(part: AttributeReport, prevalence: float | None = None) -> list[str]:
    """Which figures at the operating point differ at a level after correction, and which do not."""
    words = []
    at = "" if prevalence is None else f" at a prevalence of {prevalence:.3g}"
    figures = {name: f"{figure}{at}" if name in ("ppv", "npv") else figure for name, figure in FIGURES.items()}
    for each in part.contrasts:
        tested = [name for name in FIGURES if each.corrected_gaps.get(name) is not None]
        found = [name for name in tested if (each.corrected_gaps[name] or 0.0) < ALPHA]
        what = f"{part.attribute} = {each.level}"
        for name in found:
            gap = gap_reach(each.gaps[name].difference)
            words.append(
                f"{_capital(figures[name])} with {what} minus elsewhere: {gap}, p {p_words(each.corrected_gaps[name])}."
            )
        others = [figures[name] for name in tested if name not in found]
        if others:
            words.append(f"No gap with {what} was detected in {', '.join(others)}.")
    return words


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def sentences(report: Bias) -> list[str]:
    """The verdicts of a report, and what its strata differ by."""
    every = []
    for part in report.parts:
        every += [contrast.verdict for contrast in part.contrasts]
        every += filter(None, (shortcut_words(part.attribute, contrast) for contrast in part.contrasts))
        every += gap_words(part)
        every += operating_words(part, report.prevalence)
        if part.by_size is not None:
            every += size_words(part.attribute, part.by_size)
        # Of two levels the difference says which.
        if part.worst is not None and len(part.strata) > 2:
            every.append(f"The lowest AUROC by {part.attribute} is that of {part.worst}.")
    return every + list(report.left_out)


def value_sentences(report: ValueBias) -> list[str]:
    """The verdicts of a report of masks or measurements, and what nothing could be said by."""
    sizes = [words for each in report.by_size for words in size_words(each.attribute, each.by_size)]
    return [*(gap.verdict for _, gap in report.gaps), *sizes, *report.left_out]


def size_words(attribute: str, sizes: BySize) -> list[str]:
    """A sentence per level tested within strata of lesion size."""
    return [size_verdict(sizes.what, attribute, test) for test in sizes.tests]


def family_words(families: Mapping[str, int]) -> str:
    """How many p each correction was over; nothing where none was made."""
    told = [f"{count} {name}" for name, count in families.items() if count]
    if not told:
        return ""
    return (
        f"p corrected (Benjamini and Hochberg) over all models, attributes and labels here: {', '.join(told)}, each a "
        "family of its own. A verdict can change when a model joins."
    )


def words(estimate: Estimate) -> str:
    """An estimate with its interval, ``~`` where that is approximate, or why there is none."""
    return describe(estimate) + (" ~" if estimate.note else "")
