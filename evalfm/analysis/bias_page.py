"""The subgroup report as sections: one page, Markdown, JSON and the terminal say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from evalfm.analysis.bias import (
    ALPHA,
    SHOWN,
    AttributeReport,
    Bias,
    Gap,
    LevelContrast,
    Stratum,
    ValueBias,
    ValueOutcome,
)
from evalfm.analysis.figures import describe, p_words
from evalfm.analysis.pages import Section, page
from evalfm.analysis.report.details import curve_drawings, curves_table, decodability_table
from evalfm.analysis.report.tables import Signed, Table, Value, Worded, plain_markdown, table
from evalfm.analysis.shortcuts import Curve, Decoded
from evalfm.statistics.association import Effect
from evalfm.statistics.estimate import Estimate

TITLE = "Subgroups and shortcuts"
MOST_COLUMNS = 4
"""Models compared."""
QUESTION = (
    "Does the score depend on the attribute when the label is fixed? The test is among images without the finding: "
    "there a score that looks at the finding alone has no reason to differ. All statements are associations."
)
LEVELS = (
    "Within each level, at the threshold that belongs to each image, where there is one (~ interval approximate: few "
    "patients of a class)"
)
FIXED = "At fixed label: how well the score tells the attribute (.5: not at all), and the adjusted difference"
ACROSS = (
    "Across levels (descriptive: severity alone can move these). AUROC at the level minus elsewhere, p uncorrected, "
    "and what would have been detected with 80 % power. Conflicting pairs: positives elsewhere against negatives at "
    "the level; aligned pairs: positives at the level against negatives elsewhere (so named for a level that goes with "
    "the finding; for one that goes against it they change places); balanced: label and attribute made independent by "
    "weights."
)


@dataclass(frozen=True)
class BiasReport:
    """Several models, those of scores and those of masks and measurements, and what was made to look for shortcuts.

    Attributes:
        absent: which models could not be reported, and why.
    """

    scores: Sequence[Bias] = ()
    values: Sequence[ValueBias] = ()
    decoded: Sequence[Decoded] = ()
    curves: Sequence[Curve] = ()
    absent: Sequence[str] = ()

    @property
    def cautions(self) -> list[str]:
        """What must stand beside the figures, each once."""
        every: list[Bias | ValueBias] = [*self.scores, *self.values]
        return sorted({caution for report in every for caution in report.cautions})

    @property
    def adjusted(self) -> str:
        """What the tests of scores are adjusted for, to be put behind them; nothing where that is nothing."""
        named = ", ".join(self.scores[0].adjusted_for if self.scores else ())
        return f", adjusted for {named}" if named else ""

    @cached_property
    def leaning(self) -> Table:
        """Each model's effect among negatives in words, by attribute and level.

        A column per model; of many models, or of one with many labels, a row.
        """
        found = [
            {f"{part.attribute} = {each.level}": effect_cell(each) for part in report.parts for each in part.contrasts}
            for report in self.scores
        ]
        caption = (
            "Difference of the score's logit at the level against all other levels, among images without the finding, "
            f"in standard deviations of that score{self.adjusted}; p corrected over all levels (Benjamini and "
            "Hochberg)."
        )
        models = [report.model for report in self.scores]
        if len(models) <= MOST_COLUMNS:
            return _side_by_side("leaning", "attribute", models, found, caption)
        names = list(dict.fromkeys(name for each in found for name in each))
        rows = [[model, *map(each.get, names)] for model, each in zip(models, found, strict=True)]
        return table("leaning", ["model", *names], rows, caption)

    @cached_property
    def differences(self) -> Table:
        """Per value, attribute and level, each model's difference in words."""
        found = [
            {f"{of.name}, {of.attribute} = {gap.level}": _difference(gap) for of, gap in report.gaps}
            for report in self.values
        ]
        caption = (
            "Mean at the level minus mean elsewhere, adjusted as each table below says; p corrected within the model "
            "(Benjamini and Hochberg)."
        )
        return _side_by_side("differences", "value and attribute", [each.model for each in self.values], found, caption)

    @property
    def verdicts(self) -> list[tuple[str, str, list[str]]]:
        """Per model its name, on whom it was tested, and what can be said, those of scores first."""
        of_scores = [
            (each.model, f"{each.images} images, {each.patients} {each.unit}", sentences(each)) for each in self.scores
        ]
        return of_scores + [(each.model, f"{each.images} images", value_sentences(each)) for each in self.values]

    @property
    def shortcuts(self) -> list[str]:
        """A sentence per probe for an attribute and per shortcut curve."""
        return [*map(_decoded_words, self.decoded), *map(_curve_words, self.curves)]

    @property
    def sections(self) -> list[Section]:
        """The page from top to bottom."""
        made = []
        if self.scores:
            in_words = [Section(each.model, points=sentences(each)) for each in self.scores]
            made.append(Section(words=QUESTION))
            made.append(Section("In words", sections=in_words))
            made.append(Section("Which model leans on what", tables=[("", self.leaning)]))
        if self.values:
            made.append(Section("Whose masks and measurements differ", tables=[("", self.differences)]))
        if self.decoded:
            made.append(Section("Can the features tell it", tables=[("", decodability_table("decoded", self.decoded))]))
        if self.curves:
            tables = [("", curves_table("curves", self.curves))]
            made.append(Section("Shortcut curve", drawings=curve_drawings(self.curves), tables=tables))
        made += [_of_scores(f"scores-{number}", each) for number, each in enumerate(self.scores)]
        made += [_of_values(f"values-{number}", each) for number, each in enumerate(self.values)]
        return made

    @property
    def html(self) -> str:
        """One page."""
        return page(TITLE, self.sections, [*self.cautions, *(f"Not shown: {reason}" for reason in self.absent)])

    @property
    def markdown(self) -> str:
        """The summary and the verdicts, for a pull request or a notebook."""
        lines = [f"# {TITLE}", ""]
        lines += [f"> {plain_markdown(caution)}" for caution in (*self.cautions, *self.absent)]
        if self.scores:
            lines += ["", *self.leaning.markdown, ""]
            lines += [
                "Difference of the score's logit among images without the finding, in standard deviations"
                f"{self.adjusted};",
                "p after Benjamini and Hochberg over all levels. Associations only.",
            ]
        if self.values:
            named = replace(self.differences, header=("value, attribute", *self.differences.header[1:]))
            lines += ["", *named.markdown, ""]
            lines += ["Mean at the level minus elsewhere, adjusted as the report says; p after Benjamini and Hochberg."]
        lines.append("")
        told = [(model, said) for model, _, said in self.verdicts]
        if self.shortcuts:
            told.append(("Decodability and shortcut curve", self.shortcuts))
        for heading, said in told:
            lines += [f"## {plain_markdown(heading)}", "", *(f"- {plain_markdown(each)}" for each in said), ""]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "models": [*map(asdict, self.scores), *map(asdict, self.values)],
            "decodability": list(map(asdict, self.decoded)),
            "curves": list(map(asdict, self.curves)),
            "not_shown": list(self.absent),
        }


def _side_by_side(
    name: str, first: str, models: Sequence[str], found: Sequence[Mapping[str, Value]], caption: str
) -> Table:
    """A column per model, a row per name that any of them has."""
    names = dict.fromkeys(each for of_model in found for each in of_model)
    return table(name, [first, *models], [[each, *(of.get(each) for of in found)] for each in names], caption)


def effect_cell(each: LevelContrast) -> Worded:
    """An effect among negatives in standard deviations with its corrected p."""
    size = each.fixed[0].effect.standardised
    return Worded("–" if size is None else f"{size:+.2f}, p {p_words(each.corrected)}", size, whole=True)


def _difference(gap: Gap) -> Value:
    """A difference with its interval and corrected p."""
    found = gap.difference
    if found.value is None:
        return f"– ({found.reason})"
    p = "" if gap.corrected is None else f", p {p_words(gap.corrected)}"
    return Worded(f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]{p}", found.value, whole=True)


def value_sentences(report: ValueBias) -> list[str]:
    """The verdicts of a report of masks or measurements, and what nothing could be said by."""
    return [*(gap.verdict for _, gap in report.gaps), *report.left_out]


def _decoded_words(each: Decoded) -> str:
    baseline = "" if each.baseline is None else f"; on random weights {words(each.baseline)}"
    return (
        f"{each.encoder} · {each.head} on {each.data}: a probe for {each.attribute} among images without "
        f"{each.finding} has AUROC {words(each.auroc)}{baseline}."
    )


def _curve_words(curve: Curve) -> str:
    points = ", ".join(f"{words(point.estimate)} at {point.strength:g}" for point in curve.points)
    slope = curve.slope
    found = (
        f"no slope ({curve.reason})"
        if slope is None or slope.low is None or slope.high is None
        else f"slope {slope.value:+.3f} [{slope.low:+.3f}, {slope.high:+.3f}] per unit of phi, p {p_words(slope.p)}"
    )
    return (
        f"{curve.model}, {curve.task} on {curve.data}: with {curve.attribute} tied to the label in train the "
        f"{curve.metric} is {points}; {found}."
    )


NAMED = {"auroc": "AUROC", "auprc": "AUPRC", "auprc_chance": "AUPRC by chance"}
MEASURED = (*(NAMED.get(name, name) for name in SHOWN), "mean score − prevalence")
TESTS = (
    *("level", "AUROC without the finding", "p", "AUROC with the finding", "p"),
    *("difference in standard deviations", "p, corrected", "detectable"),
)
DESCRIBED = (
    *("level", "AUROC minus elsewhere", "p", "detectable", "conflicting pairs", "aligned pairs", "gap"),
    *("balanced AUROC", "drop"),
)


def _of_scores(anchor: str, report: Bias) -> Section:
    made = Section(report.model, counts=f"{report.images} test images, {report.patients} {report.unit}.")
    strata = ["level", "images", report.unit, "positive", *MEASURED]
    for number, part in enumerate(report.parts):
        name = f"{anchor}-{number}"
        tables = [
            table(f"{name}-levels", strata, (_stratum(each, part.worst) for each in part.strata), LEVELS),
            table(f"{name}-fixed", TESTS, map(_tests, part.contrasts), FIXED),
            table(f"{name}-across", DESCRIBED, map(_descriptive, part.contrasts), ACROSS),
        ]
        made.sections.append(_of_attribute(part.attribute, part.unknown, tables))
    return made


def _of_values(anchor: str, report: ValueBias) -> Section:
    made = Section(report.model, counts=f"{report.images} test images.", points=value_sentences(report))
    for number, each in enumerate(report.outcomes):
        rows = ((level.level, level.images, level.patients, level.mean) for level in each.levels)
        levels = table(f"{anchor}-{number}-levels", ["level", "images", report.unit, "mean"], rows)
        tables = [levels, _gaps(f"{anchor}-{number}-gaps", each)]
        made.sections.append(_of_attribute(f"{each.name}, by {each.attribute}", each.unknown, tables))
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
        *(without.auroc, Worded.p(without.p), with_it.auroc, Worded.p(with_it.p)),
        effect.reason if effect.standardised is None else Worded.number(effect.standardised, "+.2f"),
        Worded.p(each.corrected),
        Worded.number(effect.detectable, ".2f"),
    ]


def _descriptive(each: LevelContrast) -> list[Value]:
    found = each.gap
    nothing = found.value is None or found.low is None
    return [
        each.level,
        _gap_words(found) if nothing else Signed(float(found.value or 0.0), found.low, found.high, ".3f"),
        Worded.p(found.p),
        Worded.number(found.detectable, ".3f"),
        *(each.cross[name] for name in ("bpsn", "bnsp", "gap")),
        *(Worded.number(value, ".3f") for value in (each.balanced, each.drop)),
    ]


def _gap_words(found: Effect) -> str:
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
        words.append(f"AUROC with {part.attribute} = {each.level} minus elsewhere: {_gap_words(found)}, {ending}.")
    return words


def sentences(report: Bias) -> list[str]:
    """The verdicts of a report, and what its strata differ by."""
    every = []
    for part in report.parts:
        every += [contrast.verdict for contrast in part.contrasts]
        every += gap_words(part)
        # Of two levels the difference says which.
        if part.worst is not None and len(part.strata) > 2:
            every.append(f"The lowest AUROC by {part.attribute} is that of {part.worst}.")
    return every + list(report.left_out)


def words(estimate: Estimate) -> str:
    """An estimate with its interval, ``~`` where that is approximate, or why there is none."""
    return describe(estimate) + (" ~" if estimate.note else "")
