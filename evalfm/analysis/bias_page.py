"""The subgroup report as sections: one page, Markdown, JSON and the terminal say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from evalfm.analysis.bias_sections import section_of_scores, section_of_values
from evalfm.analysis.contrasts import Bias, Gap, LevelContrast, ValueBias
from evalfm.analysis.figures import p_words
from evalfm.analysis.pages import Section, page
from evalfm.analysis.report.details import curve_drawings, curves_table, decodability_table
from evalfm.analysis.report.tables import Table, Value, Worded, plain_markdown, table
from evalfm.analysis.shortcuts import Curve, Decoded
from evalfm.analysis.verdicts import family_words, sentences, value_sentences, words

TITLE = "Subgroups and shortcuts"
MOST_COLUMNS = 4
"""Models compared."""
QUESTION = (
    "Does the score depend on the attribute when the label is fixed? The test is among images without the finding: "
    "there a score that looks at the finding alone has no reason to differ. All statements are associations."
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

    @property
    def families(self) -> list[str]:
        """How many p each correction was over, of scores and of values."""
        told = [family_words(each[0].families) for each in (self.scores, self.values) if each]
        return [each for each in told if each]

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
            f"in standard deviations of that score{self.adjusted}; p corrected over the page (Benjamini and "
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
            "Mean at the level minus mean elsewhere, adjusted as each table below says; p corrected over the page "
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
            made.append(Section("In words", sections=in_words, words=family_words(self.scores[0].families)))
            made.append(Section("Which model leans on what", tables=[("", self.leaning)]))
        if self.values:
            said = family_words(self.values[0].families)
            made.append(Section("Whose masks and measurements differ", words=said, tables=[("", self.differences)]))
        if self.decoded:
            made.append(Section("Can the features tell it", tables=[("", decodability_table("decoded", self.decoded))]))
        if self.curves:
            tables = [("", curves_table("curves", self.curves))]
            made.append(Section("Shortcut curve", drawings=curve_drawings(self.curves), tables=tables))
        made += [section_of_scores(f"scores-{number}", each) for number, each in enumerate(self.scores)]
        made += [section_of_values(f"values-{number}", each) for number, each in enumerate(self.values)]
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
                "p after Benjamini and Hochberg over the page. Associations only.",
            ]
        if self.values:
            named = replace(self.differences, header=("value, attribute", *self.differences.header[1:]))
            lines += ["", *named.markdown, ""]
            lines += ["Mean at the level minus elsewhere, adjusted as the report says; p after Benjamini and Hochberg."]
        lines += ["", *self.families, ""]
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
            "families": {
                "method": "Benjamini and Hochberg",
                "sizes": {name: count for each in (self.scores, self.values) if each for name, count in _sizes(each)},
            },
        }


def _sizes(reports: Sequence[Bias] | Sequence[ValueBias]) -> list[tuple[str, int]]:
    """Of all reports the same, but for tests within lesion sizes, which scores and masks count apart."""
    kind = "scores" if isinstance(reports[0], Bias) else "values"
    return [(f"{name} of {kind}" if "lesion" in name else name, count) for name, count in reports[0].families.items()]


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
