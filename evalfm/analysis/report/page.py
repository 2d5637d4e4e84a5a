"""The whole report as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evalfm.analysis.pages import Section, page
from evalfm.analysis.report.across import across_section
from evalfm.analysis.report.methods import (
    CHECKLISTS,
    LEFT_TO_AUTHORS,
    SUBGROUPS,
    methods_paragraph,
    untrained_words,
)
from evalfm.analysis.report.section import quality_tables
from evalfm.analysis.report.tables import Table, Value, table
from evalfm.analysis.report.task import TaskReport, sections
from evalfm.analysis.robustness import Robustness, robustness_section
from evalfm.cautions import ON_TOP, RANDOM_WEIGHTS, sentences
from evalfm.data.atomic import write_atomically
from evalfm.errors import EvalfmError
from evalfm.run import Run

UNTRAINED = RANDOM_WEIGHTS.code
NO_CLAIM = "Features are measured here, not devices: nothing in this report is a clinical claim."


def report_page(
    runs: Sequence[Run],
    title: str = "Encoders compared",
    features: Sequence[Mapping[str, Any]] = (),
    robustness: Sequence[Robustness] = (),
) -> str:
    """HTML of everything that ``runs`` say; it opens offline and prints.

    ``features`` holds the contents of ``features.json`` files and ``robustness`` those of ``robustness.json``, each a
    section.

    Raises:
        EvalfmError: there is no run.
    """
    if not runs:
        raise EvalfmError("There is no run to report on; make some with `evalfm probe`.")
    drawn = untrained_words(runs)
    cautions = [*dict.fromkeys(each for run in runs for each in sentences(run.record.cautions, ON_TOP - {UNTRAINED}))]
    cautions += [drawn] if drawn else []
    tasks = sections(runs)
    summary = [Section(words=Markup("<b>{}.</b> {}").format(each.title, each.words)) for each in tasks]
    summary.append(Section(words=NO_CLAIM, look="quiet"))
    shown = [
        Section("Summary", sections=summary),
        *(replace(each, words="") for each in tasks),
        *_across(tasks),
        *_features(features, robustness),
        _methods(runs, tasks),
        _provenance(runs),
    ]
    return page(title, shown, cautions)


def _methods(runs: Sequence[Run], tasks: Sequence[TaskReport]) -> Section:
    covered: list[list[Value]] = [
        [*each] for each in CHECKLISTS if each != SUBGROUPS or any(section.sections for section in tasks)
    ]
    caption = "What this report covers of two checklists"
    checklists = table("checklists", ["in this report", "heading or item"], covered, caption, [LEFT_TO_AUTHORS])
    citations = sorted({run.record.data.citation for run in runs if run.record.data.citation})
    return Section(
        "Methods",
        "methods",
        words=methods_paragraph(runs, compared=any(section.pairs for section in tasks)),
        sections=[Section(words=f"Data: {'; '.join(citations)}.")] if citations else [],
        tables=[("", checklists)],
    )


def _across(tasks: Sequence[TaskReport]) -> list[Section]:
    found = across_section([each.comparison for each in tasks if each.comparison is not None])
    return [] if found is None else [found]


def _features(features: Sequence[Mapping[str, Any]], robustness: Sequence[Robustness]) -> list[Section]:
    quality = [quality_tables(number, each) for number, each in enumerate(features)]
    return quality + [robustness_section(number, each) for number, each in enumerate(robustness)]


def _provenance(runs: Sequence[Run]) -> Section:
    tables = [("Runs", _made(runs)), ("Notes of single runs", _notes(runs))]
    return Section("Provenance", "provenance-section", tables=tables)


def _made(runs: Sequence[Run]) -> Table:
    header = ["encoder", "task", "head", "adaptation", "seed", "run", "weights", "features", "split", "commit"]
    header += ["device", "precision", "seconds"]
    rows: list[list[Value]] = []
    for run in runs:
        made = run.record.provenance
        row: list[Value] = [run.encoder, run.task, run.head, run.adaptation, run.record.config.seed]
        row += [_short(each) for each in (run.record.key, made.weights_digest, made.feature_key, made.split_hash)]
        rows.append([*row, _short(made.git_commit), made.device, made.precision, made.seconds])
    return table("provenance", header, rows, "First eight characters of each hash; run.json holds them whole.")


def _notes(runs: Sequence[Run]) -> Table:
    """What single runs noted, beside what stands at the top."""
    rows: dict[tuple[str, str, str], list[Value]] = {}
    for run in runs:
        for caution in run.record.cautions:
            if caution.code not in ON_TOP:
                rows[run.encoder, run.task, str(caution)] = [run.encoder, run.task, run.head, str(caution)]
    return table("notes", ["encoder", "task", "head", "note"], list(rows.values()) or [["–", "–", "–", "none"]])


def _short(digest: str | None) -> str | None:
    return None if digest is None else digest[:8]


def write_tables(
    runs: Sequence[Run],
    folder: Path,
    features: Sequence[Mapping[str, Any]] = (),
    robustness: Sequence[Robustness] = (),
) -> list[Path]:
    """Every table of the report as a CSV file in ``folder``; the paths written."""
    tasks = sections(runs)
    shown = [*tasks, *_across(tasks), *_features(features, robustness), _provenance(runs)]
    paths = []
    for each in (each for section in shown for each in section.every_table):
        path = folder / f"{each.name}.csv"
        write_atomically(path, each.csv.encode())
        paths.append(path)
    return paths
