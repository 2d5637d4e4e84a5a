"""The tables of a subgroup report: a section per model, in it a part per attribute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from evalfm.analysis.bias import SHOWN
from evalfm.analysis.contrasts import Bias, BySize, Gap, LevelContrast, Stratum, ValueBias, ValueOutcome
from evalfm.analysis.pages import Section
from evalfm.analysis.report.tables import Signed, Table, Value, Worded, table
from evalfm.analysis.verdicts import FIGURES, gap_reach, value_sentences

LEVELS = (
    "Within each level, at the threshold that belongs to each image, where there is one (~ interval approximate: few "
    "patients of a class)"
)
FIXED = (
    "At fixed label: how well the score tells the attribute (.5: not at all), and the adjusted difference, fitted "
    "within the label. Left out: images with an unknown covariate. Tested by permutations where the smaller level has "
    "fewer than 50 patients or 30 effective ones (where the attribute is a patient's, on patients: the difference is "
    "then of patient means), else by errors clustered by patient and t."
)
ACROSS = (
    "Across levels (descriptive: severity alone can move these). AUROC at the level minus elsewhere, p uncorrected, "
    "and what would have been detected with 80 % power. Conflicting pairs: positives elsewhere against negatives at "
    "the level; aligned pairs: positives at the level against negatives elsewhere (so named for a level that goes with "
    "the finding; for one that goes against it they change places); balanced: label and attribute made independent by "
    "weights."
)


NAMED = {"auroc": "AUROC", "auprc": "AUPRC", "auprc_chance": "AUPRC by chance"}
MEASURED = (*(NAMED.get(name, name) for name in SHOWN), "mean score − prevalence")
TESTS = (
    *("level", "AUROC without the finding", "p", "p, corrected", "AUROC with the finding", "p"),
    *("difference in standard deviations", "p, corrected", "detectable", "left out", "fitted on", "tested by"),
)
GAPS = ("level", "figure", "at the level", "elsewhere", "difference", "p, corrected", "detectable")
DESCRIBED = (
    *("level", "AUROC minus elsewhere", "p", "detectable", "conflicting pairs", "aligned pairs", "gap"),
    *("balanced AUROC", "drop"),
)


def section_of_scores(anchor: str, report: Bias) -> Section:
    """Tables of one model's scores by every attribute."""
    made = Section(report.model, counts=f"{report.images} test images, {report.patients} {report.unit}.")
    strata = ["level", "images", report.unit, "positive", *MEASURED]
    for number, part in enumerate(report.parts):
        name = f"{anchor}-{number}"
        tables = [
            table(f"{name}-levels", strata, (_stratum(each, part.worst) for each in part.strata), LEVELS),
            table(f"{name}-fixed", TESTS, map(_tests, part.contrasts), FIXED),
            table(f"{name}-gaps", GAPS, operating_rows(part.contrasts), operating_caption(report)),
            table(f"{name}-across", DESCRIBED, map(_descriptive, part.contrasts), ACROSS),
        ]
        if part.by_size is not None and part.by_size.cells:
            tables += _sizes(name, part.by_size)
        made.sections.append(_of_attribute(part.attribute, part.unknown, tables))
    return made


def section_of_values(anchor: str, report: ValueBias) -> Section:
    """Tables of one model's masks or measurements by every attribute."""
    made = Section(report.model, counts=f"{report.images} test images.", points=value_sentences(report))
    for number, each in enumerate(report.outcomes):
        rows = ((level.level, level.images, level.patients, level.mean) for level in each.levels)
        levels = table(f"{anchor}-{number}-levels", ["level", "images", report.unit, "mean"], rows)
        tables = [levels, _gaps(f"{anchor}-{number}-gaps", each)]
        made.sections.append(_of_attribute(f"{each.name}, by {each.attribute}", each.unknown, tables))
    for number, sized in enumerate(report.by_size):
        if sized.by_size.cells:
            title = f"{sized.mask} by size of the lesion and {sized.attribute}"
            made.sections.append(_of_attribute(title, 0, _sizes(f"{anchor}-size-{number}", sized.by_size)))
    return made


def _of_attribute(title: str, unknown: int, tables: Sequence[Table]) -> Section:
    counts = f"{unknown} images are unknown and in no row." if unknown else ""
    return Section(title, counts=counts, tables=[("", each) for each in tables])


def _gaps(name: str, outcome: ValueOutcome) -> Table:
    held = f", adjusted for {', '.join(outcome.held)}" if outcome.held else ""
    caption = (
        f"Against all other levels{held}; errors clustered by patient, p corrected over the report (Benjamini and "
        "Hochberg)"
    )
    return table(name, ["level", "difference", "p, corrected", "detectable"], map(_gap, outcome.gaps), caption)


def _gap(gap: Gap) -> list[Value]:
    found = gap.difference
    if found.value is None:
        return [gap.level, f"– ({found.reason})", None, None]
    size = Signed(found.value, found.low, found.high, ".3g")
    return [gap.level, size, Worded.p(gap.corrected), Worded.number(found.detectable, ".3g")]


def _stratum(each: Stratum, worst: str | None) -> list[Value]:
    return [
        f"{each.level} (lowest AUROC)" if each.level == worst else each.level,
        each.images,
        each.patients,
        Worded(f"{each.events} ({100 * each.prevalence:.1f} %)", each.events),
        *(each.metrics[name] for name in SHOWN),
        Worded.number(each.calibration_in_the_large, "+.3f"),
    ]


def _tests(each: LevelContrast) -> list[Value]:
    without, with_it = each.fixed[0], each.fixed[1]
    effect = without.effect
    return [
        each.level,
        *(without.auroc, Worded.p(without.p), Worded.p(each.corrected_auroc), with_it.auroc, Worded.p(with_it.p)),
        effect.reason if effect.standardised is None else Worded.number(effect.standardised, "+.2f"),
        Worded.p(each.corrected),
        Worded.number(effect.detectable, ".2f"),
        effect.left_out,
        effect.unit if effect.value is not None else None,
        _short(effect.method),
    ]


def _short(method: str) -> str | None:
    """How p came about, in a word."""
    if not method:
        return None
    return "permutations" if "permutations" in method else "clustered t"


def operating_rows(contrasts: Iterable[LevelContrast]) -> Iterator[list[Value]]:
    """A row per level and figure at the operating point, under ``GAPS``."""
    for each in contrasts:
        for name, gap in each.gaps.items():
            found = gap.difference
            yield [
                each.level,
                FIGURES[name],
                *(Worded.number(value, ".3f") for value in (gap.here, gap.elsewhere)),
                found.reason if found.value is None else Signed(found.value, found.low, found.high, ".3f"),
                Worded.p(each.corrected_gaps.get(name)),
                Worded.number(found.detectable, ".3f"),
            ]


def operating_caption(report: Bias) -> str:
    """What the gaps at the operating point are, and at what prevalence."""
    whose = "given" if report.prevalence_given else "that of the test set"
    at = "" if report.prevalence is None else f" PPV and NPV at a prevalence of {report.prevalence:.3g} ({whose})."
    return (
        "At the operating point: figures at the level minus elsewhere, all images together, intervals clustered by "
        f"patient, p corrected over all gaps of the page.{at} The intercept is in logits, positive where probabilities "
        "are too low."
    )


def _sizes(name: str, sizes: BySize) -> list[Table]:
    """Cells and tests by size of the lesion."""
    masks = any(cell.dice is not None for cell in sizes.cells)
    header = ["lesion size", "area", "level", "images", "patients", "found", *(["Dice"] if masks else [])]
    rows: list[list[Value]] = []
    count = max(cell.stratum for cell in sizes.cells) + 1
    for cell in sizes.cells:
        shown: list[Value] = [f"{cell.stratum + 1} of {count}", f"{cell.low:.3g} to {cell.high:.3g}", cell.level]
        rows.append([*shown, cell.images, cell.patients, cell.found, *([cell.dice] if masks else [])])
    how = "a mask that meets the lesion" if masks else "called at the threshold"
    lost = f" {sizes.without_area} images with the finding have no known area." if sizes.without_area else ""
    caption = (
        f"Images with the finding by the size of the lesion (strata of patients, by their mean); found: {how}.{lost}"
    )
    tests = table(
        f"{name}-within-sizes",
        ["level", f"difference of {sizes.what}", "p, corrected", "detectable", "tested by"],
        (
            [
                test.level,
                test.effect.reason
                if test.effect.value is None
                else Signed(test.effect.value, test.effect.low, test.effect.high, ".3g"),
                Worded.p(test.corrected),
                Worded.number(test.effect.detectable, ".3g"),
                _short(test.effect.method),
            ]
            for test in sizes.tests
        ),
        "Images with the finding, combined across strata of lesion size: a mean for each stratum and a spline of the "
        "area's logarithm.",
    )
    return [table(f"{name}-sizes", header, rows, caption), tests]


def _descriptive(each: LevelContrast) -> list[Value]:
    found = each.gap
    nothing = found.value is None or found.low is None
    return [
        each.level,
        gap_reach(found) if nothing else Signed(float(found.value or 0.0), found.low, found.high, ".3f"),
        Worded.p(found.p),
        Worded.number(found.detectable, ".3f"),
        *(each.cross[name] for name in ("bpsn", "bnsp", "gap")),
        *(Worded.number(value, ".3f") for value in (each.balanced, each.drop)),
    ]
