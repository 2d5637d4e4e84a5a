"""The subgroup report as tables of words: one page, or Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from evalfm.analysis.bias import ALPHA, SHOWN, AttributeReport, Bias, Contrast, Stratum
from evalfm.analysis.bias_values import Gap, ValueBias
from evalfm.analysis.figures import describe, p_words
from evalfm.analysis.pages import render
from evalfm.analysis.report.details import curve_drawings, curves_table, decodability_table
from evalfm.analysis.shortcuts import Curve, Decoded
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.fixed_label import Effect
from evalfm.statistics.subgroups import StratumGap

TITLE = "Subgroups and shortcuts"
MOST_COLUMNS = 4
"""Models compared."""
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|[\\|`*]|\](?=\()")
"""What of a name or level, which may come from others, Markdown would take for HTML, a cell, code, stress or a link."""


def bias_page(
    reports: Sequence[Bias],
    values: Sequence[ValueBias] = (),
    decoded: Sequence[Decoded] = (),
    curves: Sequence[Curve] = (),
    absent: Sequence[str] = (),
) -> str:
    """One HTML page for several models, those of scores and those of masks and measurements.

    ``absent`` says which models could not be reported, and why.
    """
    return render(
        "bias.html",
        title=TITLE,
        metrics=[name.upper() if name.startswith("au") else name for name in SHOWN],
        cautions=cautions_of(reports, values),
        adjusted=adjusted_words(reports),
        summary=summary(reports),
        value_summary=[{"name": name, "cells": cells} for name, cells in value_summary(values)],
        reports=[_report(report) for report in reports],
        values=[_values(report) for report in values],
        decoded=decodability_table("decoded", decoded) if decoded else None,
        curves=curves_table("curves", curves) if curves else None,
        drawings=curve_drawings(curves),
        absent=absent,
    )


def cautions_of(reports: Sequence[Bias], values: Sequence[ValueBias]) -> list[str]:
    """What must stand beside the figures, each once."""
    every: list[Bias | ValueBias] = [*reports, *values]
    return sorted({caution for report in every for caution in report.cautions})


def summary(reports: Sequence[Bias]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each model's effect among negatives in words, by attribute and level.

    A column per model; of many models, or of one with many labels, a row.
    """
    rows: dict[str, list[str]] = {}
    for number, report in enumerate(reports):
        for part in report.parts:
            for contrast in part.contrasts:
                cells = rows.setdefault(f"{part.attribute} = {contrast.level}", ["–"] * len(reports))
                cells[number] = effect_words(contrast.fixed[0].effect, contrast.corrected)
    models = [report.model for report in reports]
    if len(reports) <= MOST_COLUMNS:
        return ["attribute", *models], [[name, *cells] for name, cells in rows.items()]
    turned = [[model, *(cells[place] for cells in rows.values())] for place, model in enumerate(models)]
    return ["model", *rows], turned


def adjusted_words(reports: Sequence[Bias]) -> str:
    """What the tests of scores are adjusted for, to be put behind them; nothing where that is nothing."""
    named = ", ".join(reports[0].adjusted_for if reports else ())
    return f", adjusted for {named}" if named else ""


def value_summary(values: Sequence[ValueBias]) -> list[tuple[str, list[str]]]:
    """Per value, attribute and level, each model's difference in words."""
    rows: dict[str, list[str]] = {}
    for number, report in enumerate(values):
        for outcome in report.outcomes:
            for gap in outcome.gaps:
                name = f"{outcome.name}, {outcome.attribute} = {gap.level}"
                cells = rows.setdefault(name, ["–"] * len(values))
                _, difference, p, _ = _gap(gap)
                cells[number] = difference if gap.corrected is None else f"{difference}, p {p}"
    return list(rows.items())


def effect_words(effect: Effect, corrected: float | None) -> str:
    """An effect in standard deviations with its corrected p."""
    if effect.standardised is None:
        return "–"
    return f"{effect.standardised:+.2f}, p {p_words(corrected)}"


def bias_markdown(
    reports: Sequence[Bias],
    values: Sequence[ValueBias] = (),
    decoded: Sequence[Decoded] = (),
    curves: Sequence[Curve] = (),
    absent: Sequence[str] = (),
) -> str:
    """The summary and the verdicts, for a pull request or a notebook."""
    lines = [f"# {TITLE}", ""]
    lines += [f"> {plain_markdown(caution)}" for caution in (*cautions_of(reports, values), *absent)]
    if reports:
        header, rows = summary(reports)
        header, rows = [*map(plain_markdown, header)], [[*map(plain_markdown, row)] for row in rows]
        lines += ["", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += [
            "",
            "Difference of the score's logit among images without the finding, in standard deviations"
            f"{adjusted_words(reports)};",
            "p after Benjamini and Hochberg over all levels. Associations only.",
        ]
    if values:
        lines += ["", "| value, attribute | " + " | ".join(plain_markdown(each.model) for each in values) + " |"]
        lines += ["|---" * (1 + len(values)) + "|"]
        lines += [
            "| " + " | ".join(map(plain_markdown, [name, *cells])) + " |" for name, cells in value_summary(values)
        ]
        lines += ["", "Mean at the level minus elsewhere, adjusted as the report says; p after Benjamini and Hochberg."]
    lines.append("")
    for report in reports:
        lines += [f"## {plain_markdown(report.model)}", ""]
        lines += [f"- {plain_markdown(sentence)}" for sentence in sentences(report)]
        lines.append("")
    for each in values:
        lines += [f"## {plain_markdown(each.model)}", ""]
        lines += [f"- {plain_markdown(sentence)}" for sentence in value_sentences(each)]
        lines.append("")
    told_of_shortcuts = shortcut_words(decoded, curves)
    if told_of_shortcuts:
        lines += [
            "## Decodability and shortcut curve",
            "",
            *(f"- {plain_markdown(each)}" for each in told_of_shortcuts),
            "",
        ]
    return "\n".join(lines)


def plain_markdown(text: str) -> str:
    """``text`` as Markdown shows it: on one line, no HTML, no cell, no link."""
    return _MARKUP.sub(lambda found: "&lt;" if found[0] == "<" else f"\\{found[0]}", " ".join(text.split()))


def value_sentences(report: ValueBias) -> list[str]:
    """The verdicts of a report of masks or measurements, and what nothing could be said by."""
    return [*(gap.verdict for each in report.outcomes for gap in each.gaps), *report.left_out]


def shortcut_words(decoded: Sequence[Decoded], curves: Sequence[Curve]) -> list[str]:
    """A sentence per probe for an attribute and per shortcut curve."""
    lines = []
    for each in decoded:
        baseline = "" if each.baseline is None else f"; on random weights {words(each.baseline)}"
        lines.append(
            f"{each.encoder} · {each.head} on {each.data}: a probe for {each.attribute} among images without "
            f"{each.finding} has AUROC {words(each.auroc)}{baseline}."
        )
    for curve in curves:
        points = ", ".join(f"{words(point.estimate)} at {point.strength:g}" for point in curve.points)
        slope = curve.slope
        found = (
            f"no slope ({curve.reason})"
            if slope is None or slope.low is None or slope.high is None
            else (
                f"slope {slope.value:+.3f} [{slope.low:+.3f}, {slope.high:+.3f}] per unit of phi, p {p_words(slope.p)}"
            )
        )
        lines.append(
            f"{curve.model}, {curve.task} on {curve.data}: with {curve.attribute} tied to the label in train the "
            f"{curve.metric} is {points}; {found}."
        )
    return lines


def _values(report: ValueBias) -> dict[str, Any]:
    outcomes = [
        {
            "name": f"{each.name}, by {each.attribute}",
            "held": ", ".join(each.held),
            "unknown": each.unknown,
            "levels": [
                [level.level, str(level.images), str(level.patients), words(level.mean)] for level in each.levels
            ],
            "gaps": [_gap(gap) for gap in each.gaps],
        }
        for each in report.outcomes
    ]
    verdicts = value_sentences(report)
    return {
        "model": report.model,
        "images": report.images,
        "unit": report.unit,
        "outcomes": outcomes,
        "verdicts": verdicts,
    }


def _gap(gap: Gap) -> list[str]:
    found = gap.difference
    if found.value is None:
        return [gap.level, f"– ({found.reason})", "–", "–"]
    return [
        gap.level,
        f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]",
        p_words(gap.corrected),
        f"{found.detectable:.3g}",
    ]


def _report(report: Bias) -> dict[str, Any]:
    parts = [
        {
            "attribute": part.attribute,
            "unknown": part.unknown,
            "strata": [_stratum(each, part.worst) for each in part.strata],
            "tests": [_tests(each) for each in part.contrasts],
            "descriptive": [_descriptive(each) for each in part.contrasts],
        }
        for part in report.parts
    ]
    return {
        "model": report.model,
        "images": report.images,
        "patients": report.patients,
        "unit": report.unit,
        "sentences": sentences(report),
        "parts": parts,
    }


def _stratum(each: Stratum, worst: str | None) -> list[str]:
    level = f"{each.level} (lowest AUROC)" if each.level == worst else each.level
    cells = [level, str(each.images), str(each.patients), f"{each.events} ({100 * each.prevalence:.1f} %)"]
    cells += [words(each.metrics[name]) for name in SHOWN]
    return [*cells, "–" if each.calibration_in_the_large is None else f"{each.calibration_in_the_large:+.3f}"]


def _tests(each: Contrast) -> list[str]:
    without, with_it = each.fixed[0], each.fixed[1]
    effect = without.effect
    adjusted = effect.reason or "–"
    if effect.standardised is not None:
        adjusted = f"{effect.standardised:+.2f}"
    detectable = "–" if effect.detectable is None else f"{effect.detectable:.2f}"
    areas = [words(without.auroc), p_words(without.p), words(with_it.auroc), p_words(with_it.p)]
    return [each.level, *areas, adjusted, p_words(each.corrected), detectable]


def _descriptive(each: Contrast) -> list[str]:
    cross = [words(each.cross[name]) for name in ("bpsn", "bnsp", "gap")]
    balanced = ["–" if value is None else f"{value:.3f}" for value in (each.balanced, each.drop)]
    found = each.gap
    detectable = "–" if found.detectable is None else f"{found.detectable:.3f}"
    return [each.level, _gap_value(found), p_words(found.p), detectable, *cross, *balanced]


def _gap_value(found: StratumGap) -> str:
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
        words.append(f"AUROC with {part.attribute} = {each.level} minus elsewhere: {_gap_value(found)}, {ending}.")
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
