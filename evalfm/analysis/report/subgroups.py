"""The subgroup section of one task: strata of the best line, and what the best ones lean on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from evalfm.analysis.attributes import attributes
from evalfm.analysis.bias import bias_of_questions, one_family
from evalfm.analysis.bias_of_values import bias_of_values, one_family_of_values
from evalfm.analysis.bias_page import effect_cell
from evalfm.analysis.bias_sections import GAPS, operating_caption, operating_rows
from evalfm.analysis.contrasts import Bias, ValueBias
from evalfm.analysis.figures import p_words
from evalfm.analysis.pages import Section
from evalfm.analysis.report import charts
from evalfm.analysis.report.tables import Signed, Table, Value, table
from evalfm.analysis.scores import asks_questions, questions_of_run
from evalfm.analysis.table import Line
from evalfm.analysis.verdicts import family_words, sentences, shortcut_words, value_sentences
from evalfm.errors import EvalfmError
from evalfm.metrics.metric import THRESHOLD
from evalfm.metrics.registry import metrics_in
from evalfm.run import Run
from evalfm.tasks.kinds import kind_of

Found = TypeVar("Found")

AGE_THRESHOLD = 65
"""Threshold of ages in the report; `evalfm bias` takes any."""
MOST_MODELS = 4
"""The best ones; of a task of many labels or classes the best one alone, all of its labels."""


def add_subgroups(made: Section, best: Sequence[Line]) -> None:
    """By the attributes that the task's card names: tables, verdicts per model, and what cannot be shown and why."""
    lines = [line for line in best if not line.baseline][:MOST_MODELS]
    by = _attributes(made, lines[0].runs[0]) if lines else []
    if not by:
        return
    run = lines[0].runs[0]
    if asks_questions(run):
        scored = _of_each(
            made,
            lines if kind_of(run.kind).one_label else lines[:1],
            lambda line: bias_of_questions(questions_of_run(line.runs[0], model=charts.name_of(line)), by),
        )
        if scored:
            every = one_family([report for _, reports in scored for report in reports])
            joined = iter(every)
            scored = [(line, [next(joined) for _ in reports]) for line, reports in scored]
            made.words = " ".join([made.words, *_shortcuts(every)])
            made.tables += [
                _strata(f"{made.anchor}-strata", *scored[0]),
                _leaning(f"{made.anchor}-leaning", every),
                _operating(f"{made.anchor}-operating-gaps", *scored[0]),
            ]
        models = [Section(charts.name_of(line), points=_verdicts(reports)) for line, reports in scored]
        families = family_words(scored[0][1][0].families) if scored else ""
    else:
        found = _of_each(
            made, lines, lambda line: replace(bias_of_values(line.runs[0], by), model=charts.name_of(line))
        )
        values = one_family_of_values([each for _, each in found])
        if values:
            made.tables += [_levels(f"{made.anchor}-strata", values[0]), _gaps(f"{made.anchor}-differences", values)]
        models = [Section(each.model, points=value_sentences(each)) for each in values]
        families = family_words(values[0].families) if values else ""
    if models:
        made.sections.append(Section("Subgroups and shortcuts in words", words=families, sections=models))


def _of_each(made: Section, lines: Sequence[Line], report: Callable[[Line], Found]) -> list[tuple[Line, Found]]:
    """Each line with its report; of those that have none, the reason is said."""
    found = []
    for line in lines:
        try:
            found.append((line, report(line)))
        except EvalfmError as error:
            made.absent.append(f"Subgroups of {charts.name_of(line)}: {error}")
    return found


def _attributes(made: Section, run: Run) -> list[str]:
    """Those of the card that the test images can be parted by; the others are said with the reason."""
    test = run.test_predictions()
    found = []
    for name in run.record.task.subgroups:
        by = f"{name}:{AGE_THRESHOLD}" if name == "age" else str(name)
        try:
            attributes(test, [by])
        except EvalfmError as error:
            made.absent.append(f"Subgroups by {name}: {error}")
        else:
            found.append(by)
    return found


def _levels(name: str, values: ValueBias) -> tuple[str, Table]:
    rows: list[list[Value]] = [
        [each.name, each.attribute, level.level, level.images, level.patients, level.mean]
        for each in values.outcomes
        for level in each.levels
    ]
    header = ["value", "attribute", "level", "images", values.unit, "mean"]
    return f"Subgroups of {values.model}", table(name, header, rows)


def _gaps(name: str, of_values: Sequence[ValueBias]) -> tuple[str, Table]:
    rows: list[list[Value]] = []
    for values in of_values:
        for each, gap in values.gaps:
            found = gap.difference
            shown: Value = found.reason if found.value is None else Signed(found.value, found.low, found.high)
            first: list[Value] = [each.name, f"{each.attribute} = {gap.level}", values.model]
            rows.append([*first, shown, p_words(gap.corrected), found.detectable])
    header = ["value", "attribute", "model", "difference", "p", "detectable"]
    caption = (
        "Mean at the level minus mean elsewhere: Dice adjusted for the logarithm of the lesion's area, errors for the "
        "truth. p after Benjamini and Hochberg over these models. detectable: with 80 % power. Associations only."
    )
    return "Whose masks or measurements differ", table(name, header, rows, caption)


def _strata(name: str, line: Line, reports: Sequence[Bias]) -> tuple[str, Table]:
    several, thresholds = len(reports) > 1, kind_of(line.runs[0].kind).one_label
    shown = metrics_in("strata of a report", "binary")
    metrics = [each.name for each in shown if thresholds or each.needs != THRESHOLD]
    rows: list[list[Value]] = []
    for report in reports:
        for part in report.parts:
            for stratum in part.strata:
                first = [*([_class_of(report)] if several else []), part.attribute, stratum.level]
                cells = [stratum.metrics[each] for each in metrics]
                rows.append([*first, stratum.images, stratum.patients, stratum.events, *cells])
    header = [*(["class"] if several else []), "attribute", "level", "images", reports[0].unit, "positive", *metrics]
    folds = line.runs[0].record.data.folds
    at = "At the threshold that the val of each fold chose." if folds else "At the one threshold of the run."
    caption = at if thresholds else "Each class or label against all else."
    return f"Subgroups of {charts.name_of(line)}", table(name, header, rows, caption)


def _leaning(name: str, reports: Sequence[Bias]) -> tuple[str, Table]:
    rows: list[list[Value]] = []
    for report in reports:
        for part in report.parts:
            for each in part.contrasts:
                negatives = each.fixed[0]
                first: list[Value] = [f"{part.attribute} = {each.level}", report.model, effect_cell(each)]
                rows.append([*first, negatives.effect.detectable, negatives.auroc])
    header = ["attribute", "model", "difference in standard deviations", "detectable", "AUROC for the attribute"]
    caption = (
        "Among images without the finding; p after Benjamini and Hochberg over these models. detectable: the "
        "difference that would have been found with 80 % power. Associations only."
    )
    return "What a score leans on", table(name, header, rows, caption)


def _operating(name: str, line: Line, reports: Sequence[Bias]) -> tuple[str, Table]:
    several = len(reports) > 1
    rows: list[list[Value]] = []
    for report in reports:
        for part in report.parts:
            first: list[Value] = [*([_class_of(report)] if several else []), part.attribute]
            rows += [[*first, *row] for row in operating_rows(part.contrasts)]
    header = [*(["class"] if several else []), "attribute", *GAPS]
    caption = operating_caption(reports[0])
    if several:
        caption = (
            "Each class or label against all else, level minus elsewhere, images of all folds together, p corrected "
            "over all gaps here; PPV and NPV at the class's prevalence in the test set."
        )
    return f"Gaps of {charts.name_of(line)} at the operating point", table(name, header, rows, caption)


def _shortcuts(reports: Sequence[Bias]) -> list[str]:
    """What stands in the summary: every shortcut that was found, with the model."""
    found = [
        (report.model, shortcut_words(part.attribute, each)) for report in reports for part, each in report.contrasts
    ]
    return [f"{model}: {words}" for model, words in found if words is not None]


def _verdicts(reports: Sequence[Bias]) -> list[str]:
    """Of one question all; of many labels or classes those that found something, and how many did not."""
    every = [(report, each) for report in reports for part in report.parts for each in part.contrasts]
    if len(reports) == 1:
        return sentences(reports[0])
    found = [f"{_class_of(report)}: {each.verdict}" for report, each in every if each.associated]
    tested = sum(each.is_tested for _, each in every)
    others = [
        f"Of {len(every)} questions, a class by a level each, {tested} could be tested and {len(found)} found an "
        "association; what could have been detected stands in the table."
    ]
    return found + others


def _class_of(report: Bias) -> str:
    return report.model.rpartition(" · ")[2]
