"""What runs say, for a paper: results as a table of numbers or a typeset one, methods, checklist, vector figures."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalfm import __version__
from evalfm.analysis.figures import Caption, Panel, PanelRow, draw_forest
from evalfm.analysis.latex import latex_paragraph, latex_table
from evalfm.analysis.report.methods import (
    CHECKLISTS,
    LEFT_OUT,
    LEFT_TO_AUTHORS,
    SUBGROUPS,
    methods_paragraph,
    untrained_words,
)
from evalfm.analysis.report.tables import Seeded, Table, plain_markdown, table
from evalfm.analysis.run_figures import cautions, draw_curves
from evalfm.analysis.series import model_names
from evalfm.analysis.table import Line, TaskTable, every_metric, facts_of, task_tables, with_metrics
from evalfm.cautions import ON_TOP, RANDOM_WEIGHTS, sentences
from evalfm.data.atomic import csv_text, harmless, write_atomically
from evalfm.errors import EvalfmError
from evalfm.run import Run

FIGURE_FORMATS = ("pdf", "svg", "png", "none")
ALL = "all"
"""In place of names of metrics."""

ELSEWHERE = {
    LEFT_OUT[0]: "not here: `evalfm data check SET --html`",
    SUBGROUPS[0]: "not here: `evalfm report`, `evalfm bias`",
}
"""What of the checklists another page covers."""
COLUMNS = (
    *("task", "data", "test_cohort", "encoder", "head", "adaptation", "baseline", "seeds"),
    *("metric", "unit", "better", "value", "low", "high", "level", "seed_sd", "n", "n_of", "interval", "remark"),
    *("synthetic", "random_weights", "runs"),
)
"""Of the tables of numbers, one row per model, task and metric."""


@dataclass(frozen=True)
class Results:
    """All that is exported.

    Attributes:
        tables: one per task and test cohort, with the metrics that were asked for.
        rows: the same as plain values by ``COLUMNS``, a row per model and metric.
        methods: a paragraph.
        cautions: what must be read with every figure.
    """

    tables: tuple[TaskTable, ...]
    rows: tuple[dict[str, Any], ...]
    methods: str
    cautions: tuple[str, ...]

    @classmethod
    def of(cls, runs: Sequence[Run], metrics: Sequence[str] = ()) -> Results:
        """Results of ``runs``; of these ``metrics``, of ``["all"]``, or of those that a table shows.

        Raises:
            EvalfmError: there is no run, or no run of a task has such a metric.
        """
        if not runs:
            raise EvalfmError("There is no run to export; make some with `evalfm probe`.")
        tables = [_with(each, metrics) for each in task_tables(runs)]
        absent = [name for name in metrics if name != ALL and not any(name in each.metric_names for each in tables)]
        if absent:
            with_metrics(tables[0], absent)
        rows = [row for each in tables for line in each.lines for row in _rows(each, line)]
        of_all = ON_TOP - {RANDOM_WEIGHTS.code}
        said = dict.fromkeys(each for run in runs for each in sentences(run.record.cautions, of_all))
        # Baselines alone may be untrained, and then the sentence must say so.
        said |= dict.fromkeys(filter(None, [untrained_words(runs)]))
        return cls(tuple(tables), tuple(rows), methods_paragraph(runs, compared=False), tuple(said))

    def typeset(self) -> list[Table]:
        """A table per task: a line per model, a column per metric."""
        return [_typeset(each) for each in self.tables]


def export_runs(
    runs: Sequence[Run],
    out: Path,
    *,
    formats: Sequence[str] = ("latex",),
    figures: str = "pdf",
    metrics: Sequence[str] = (),
) -> list[Path]:
    """Write what a paper needs of ``runs`` into the folder ``out``; the paths written.

    Args:
        runs: of any tasks.
        out: results.tex, .md, .csv, .xlsx or .json, methods and checklist, and figures/ come here.
        formats: of ``FORMATS``.
        figures: of ``FIGURE_FORMATS``.
        metrics: names, ``["all"]``, or those that the tables of `evalfm compare` show.

    Raises:
        EvalfmError: there is no run, a run's predictions are gone, or a package for the format is not installed.

    >>> import evalfm, tempfile
    >>> runs = evalfm.probe("pixels", "ptx-cls", heads=["linear"], baselines="none", out=tempfile.mkdtemp())
    >>> paths = export_runs(runs, Path(tempfile.mkdtemp()), formats=["csv"], figures="none")
    >>> [path.name for path in paths]
    ['results.csv', 'methods.md', 'checklist.md']
    """
    results = Results.of(runs, metrics)
    written: list[Path] = []
    for each in formats:
        suffix, write = FORMATS[each]
        written.append(_write(out / f"results.{suffix}", write(results)))
    written.append(_write(out / "methods.md", "\n".join(_methods(results)).encode()))
    written.append(_write(out / "checklist.md", "\n".join(_checklist()).encode()))
    return written if figures == "none" else written + _figures(results, out / "figures", f".{figures}")


def _with(found: TaskTable, metrics: Sequence[str]) -> TaskTable:
    known = every_metric(found)
    named = known if list(metrics) == [ALL] else [name for name in metrics if name in known]
    return with_metrics(found, named) if named else found


def _rows(found: TaskTable, line: Line) -> list[dict[str, Any]]:
    first = line.runs[0].record
    rows = []
    for name, estimate in line.metrics.items():
        facts = facts_of(name, line.runs)
        remark = [each for each in (estimate.reason, estimate.note) if each]
        rows.append(
            {
                "task": found.task,
                "data": found.data,
                "test_cohort": found.cohort,
                "encoder": line.encoder,
                "head": line.head,
                "adaptation": line.adaptation,
                "baseline": line.baseline,
                "seeds": len(line.runs),
                "metric": name,
                "unit": facts.unit,
                "better": facts.better,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "level": None if estimate.low is None else 0.95,
                "seed_sd": line.sd(name),
                "n": estimate.n,
                "n_of": estimate.unit,
                "interval": estimate.method,
                "remark": "; ".join(remark),
                "synthetic": first.provenance.synthetic,
                "random_weights": first.provenance.random_weights,
                "runs": " ".join(run.record.key for run in line.runs),
            }
        )
    return rows


def _typeset(found: TaskTable) -> Table:
    several = len({(line.head, line.adaptation) for line in found.lines}) > 1
    rows = []
    for line in found.lines:
        model = " · ".join([line.encoder, *([line.head] if several or line.baseline else [])])
        model += f" · {line.adaptation}" if line.adaptation != "frozen" else ""
        shown = [Seeded.of(line, name) for name in found.metric_names]
        rows.append([f"{model} (baseline)" if line.baseline else model, *shown])
    caption = f"{found.title} on {found.data}: {found.cohort}; {found.unit_counts}. 95 % intervals in brackets."
    return table(found.task, ["model", *map(_header(found), found.metric_names)], rows, caption, found.cautions)


def _header(found: TaskTable) -> Callable[[str], str]:
    runs = [run for line in found.lines for run in line.runs]

    def header(name: str) -> str:
        unit = facts_of(name, runs).unit
        return f"{name} ({unit})" if unit else name

    return header


def _csv(results: Results) -> bytes:
    return csv_text(COLUMNS, [row.values() for row in results.rows]).encode()


def _json(results: Results) -> bytes:
    content = {"evalfm": __version__, "methods": results.methods, "cautions": list(results.cautions)}
    return json.dumps({**content, "results": list(results.rows)}, indent=1, allow_nan=False).encode()


def _xlsx(results: Results) -> bytes:
    try:
        from openpyxl import Workbook
    except ImportError as error:
        raise EvalfmError('Spreadsheets need openpyxl: pip install "evalfm[xlsx]", or take --format csv.') from error
    book = Workbook(write_only=True)
    sheet = book.create_sheet("results")
    sheet.freeze_panes = "A2"
    sheet.append(list(COLUMNS))
    for row in results.rows:
        sheet.append([harmless(value) for value in row.values()])
    said = book.create_sheet("methods")
    for sentence in (*results.cautions, results.methods):
        said.append([harmless(sentence)])
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def _markdown(results: Results) -> bytes:
    lines = [f"**{plain_markdown(each)}**\n" for each in results.cautions]
    for found, each in zip(results.tables, results.typeset(), strict=True):
        lines += [f"## {plain_markdown(found.title)}", "", plain_markdown(each.caption), "", *each.markdown, ""]
        lines += [f"{plain_markdown(note)}  " for note in each.notes]
    return "\n".join([*lines, ""]).encode()


def _latex(results: Results) -> bytes:
    parts = ["% Needs \\usepackage{booktabs}."]
    parts += [latex_table(each, f"tab:{number}-{each.name}") for number, each in enumerate(results.typeset(), 1)]
    return "\n\n".join([*parts, latex_paragraph(" ".join([*results.cautions, results.methods])), ""]).encode()


FORMATS: Mapping[str, tuple[str, Callable[[Results], bytes]]] = {
    "latex": ("tex", _latex),
    "markdown": ("md", _markdown),
    "csv": ("csv", _csv),
    "xlsx": ("xlsx", _xlsx),
    "json": ("json", _json),
}
"""The suffix of the file, and what writes it."""


def _methods(results: Results) -> list[str]:
    return ["# Methods", "", *(f"**{plain_markdown(each)}**\n" for each in results.cautions), results.methods, ""]


def _checklist() -> list[str]:
    rows = [[what, item, ELSEWHERE.get(what, "methods.md")] for what, item in CHECKLISTS]
    covered = table("checklist", ["what", "heading or item", "where"], rows)
    return ["# CLAIM 2024 and TRIPOD+AI", "", *covered.markdown, "", LEFT_TO_AUTHORS, ""]


def _figures(results: Results, folder: Path, suffix: str) -> list[Path]:
    """A forest plot per task, and of every run of the first seed what its predictions show."""
    folder.mkdir(parents=True, exist_ok=True)
    stems = []
    for number, found in enumerate(results.tables, 1):
        runs = [line.runs[0] for line in found.lines]
        marks = tuple(dict.fromkeys(mark for run in runs if not run.is_baseline for mark in cautions(run.record)))
        lines = [
            (name, line.metrics[found.metric_names[0]], line.baseline)
            for name, line in zip(model_names(runs), found.lines, strict=True)
        ]
        stem = f"{number}-{found.task}".replace("/", "-")
        stems.append(f"{stem}-forest")
        row = PanelRow([Panel(found.metric_names[0], lines)])
        draw_forest(folder / f"{stem}-forest{suffix}", [row], Caption(found.title, marks))
        for run in (run for run in runs if run.record.episodes is None):
            prefix = re.sub(r"[^A-Za-z0-9.]+", "-", f"{stem}-{run.encoder}-{run.head}-{run.record.key[:8]}-")
            draw_curves(folder, run.record, run.test_predictions(), suffix=suffix, prefix=prefix)
            stems.append(prefix)
    return sorted(path for path in folder.iterdir() if path.suffix == suffix and path.name.startswith(tuple(stems)))


def _write(path: Path, content: bytes) -> Path:
    write_atomically(path, content)
    return path
