"""`evalfm demo`: a really trained encoder beside baselines, and a planted shortcut, on what ships with evalfm."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalfm.cli.console import Bars, emit_json, print_overview, print_rows
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from evalfm.analysis.table import TaskTable
    from evalfm.statistics.estimate import Estimate
    from evalfm.study import StudyRuns

TIED, UNTIED = "phantom-tied", "phantom-untied"
ATTRIBUTE = "chest_tube"
NAMES, CHANCE = {"auroc": "AUROC"}, {"auroc": 0.5}
CAUTION = "phantom data: synthetic radiographs, no figure says anything about patients"


def demo(
    out: Annotated[Path, typer.Option(help="Where runs, picture and report are written.")] = Path("runs/demo"),
    force: Annotated[bool, typer.Option("--force", help="Run again what is there already.")] = False,
    show: Annotated[
        bool, typer.Option("--open", help="Open the report in a browser, where there is a screen.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print tables and shortcut as JSON.")] = False,
) -> None:
    """Measure a trained encoder beside baselines on phantom radiographs, and find the shortcut that was planted there.

    SqueezeNet's weights, trained on photographs, come with evalfm: nothing is downloaded. Beside it stand its own
    architecture with random weights, pixels, the metadata and a constant. In one of two data sets a chest tube goes
    with the pneumothorax; does the score follow the tube? The radiographs are synthetic: no figure says anything about
    patients. The same command again shows what is there; after an interrupt it goes on where it stopped.

    Examples:

        evalfm demo

        evalfm demo --out my-demo --open
    """
    from evalfm.analysis.table import as_json, task_tables
    from evalfm.study import load_study, run_study

    study = load_study("demo")
    bars = Bars()
    bars.say(f"{study.title}: {len(study.tasks)} questions, about two minutes")
    runs = run_study(study, out, bars, force=force)
    for outcome in runs.failed:
        assert outcome.failure is not None
        raise EvalfmError(f"A part of the demo failed ({outcome.cell.description}): {outcome.failure.sentence}")
    tables, leanings = task_tables(runs), _leanings(runs)
    picture, page = out / "demo.png", out / "report.html"
    if _older(picture, runs):
        _draw(picture, study.title, study.encoders[0].name, tables, leanings)
    if _older(page, runs):
        from evalfm.analysis.report.page import report_page
        from evalfm.data.atomic import write_atomically

        bars.say("writing the report")
        write_atomically(page, report_page(runs, study.title).encode())
    if show:
        show_page(page, bars)
    if json:
        paths = {"picture": str(picture), "report": str(page)}
        emit_json({"tables": [as_json(table) for table in tables], "shortcut": [*map(_plain, leanings)], **paths})
        return
    print_overview(study.title, tables)
    header = ["planted in", "AUROC", "pneumothorax without tube against tube without pneumothorax"]
    print_rows("Does the score follow the chest tube?", header, [each.cells for each in leanings])
    for each in leanings:
        typer.echo(f"{each.data}: {each.sentence}")
    typer.echo(f"\n{CAUTION[0].upper()}{CAUTION[1:]}.")
    typer.echo(f"Wrote {len(runs)} runs under {out}, the picture {picture} and the report {page}")
    run = leanings[0].folder if leanings else out
    typer.echo(f"Next: evalfm counterfactual {run}      (or: evalfm ls encoders, evalfm --help)")


@dataclass(frozen=True)
class Leaning:
    """What a score does with the chest tube in one data set.

    Attributes:
        data: its name, and how often a tube is there.
        pairs: AUROC of a pneumothorax without a tube against a tube without a pneumothorax.
        shortcut: the sentence where the score follows the tube; None where that was not found.
        verdict: what is said of the tube among images without a pneumothorax.
        tested: whether there are enough of these to say anything.
    """

    data: str
    planted: str
    model: str
    folder: Path
    auroc: Estimate
    pairs: Estimate
    shortcut: str | None
    verdict: str
    tested: bool

    @property
    def sentence(self) -> str:
        """The shortcut, that none was found, or that too few patients can tell."""
        return self.shortcut or (f"No shortcut was found. {self.verdict}" if self.tested else self.verdict)

    @property
    def cells(self) -> list[str]:
        """A row of a table."""
        from evalfm.analysis.verdicts import words

        return [f"{self.data}: {self.planted}", words(self.auroc), words(self.pairs)]


def _leanings(runs: StudyRuns) -> list[Leaning]:
    """Of the encoder's pneumothorax runs, one a data set, the tied one first; p is corrected over all."""
    from evalfm.analysis.bias import bias_of_questions
    from evalfm.analysis.scores import questions_of_run
    from evalfm.analysis.verdicts import conflicting_pairs, shortcut_words
    from evalfm.data.phantom import BUILT_IN

    asked = [run for run in runs if run.task == "ptx-cls" and not run.is_baseline]
    asked.sort(key=lambda run: run.record.data.test_name != TIED)
    reports = bias_of_questions([each for run in asked for each in questions_of_run(run)], [ATTRIBUTE])
    found = []
    for run, (part, contrast) in zip(asked, (each for report in reports for each in report.contrasts), strict=True):
        name = run.record.data.test_name
        dials = BUILT_IN[name][1]
        shares = (dials["tube_given_pneumothorax"], dials["tube_given_none"])
        planted = "tube in {:.0%} with and {:.0%} without pneumothorax".format(*shares).replace("%", " %")
        found.append(
            Leaning(
                name,
                planted,
                run.encoder,
                run.folder,
                run.metrics["auroc"],
                conflicting_pairs(contrast),
                shortcut_words(part.attribute, contrast),
                contrast.verdict,
                contrast.is_tested or contrast.fixed[0].separated,
            )
        )
    return found


def _plain(each: Leaning) -> dict[str, Any]:
    return {
        "data": each.data,
        "planted": each.planted,
        "encoder": each.model,
        "auroc": each.auroc.to_json(),
        "conflicting_pairs": each.pairs.to_json(),
        "shortcut": each.shortcut,
        "verdict": each.verdict,
        "tested": each.tested,
    }


def _older(path: Path, runs: StudyRuns) -> bool:
    """Whether ``path`` is not there, or a run was made after it."""
    if not path.is_file():
        return True
    return path.stat().st_mtime < max((run.folder / "run.json").stat().st_mtime for run in runs)


def _draw(path: Path, title: str, real: str, tables: Sequence[TaskTable], leanings: Sequence[Leaning]) -> None:
    """The primary metric of every encoder by task above, baselines hollow; the planted shortcut below."""
    from evalfm.analysis.figures import Caption, Panel, PanelRow, draw_forest
    from evalfm.statistics.estimate import Estimate

    plain = [table for table in tables if table.data != TIED]
    names = dict.fromkeys([real, *(line.encoder for table in plain for line in table.lines)])
    panels = []
    for table in plain:
        # Of several heads the best, which stands first.
        best = {line.encoder: line.metrics[table.metric_names[0]] for line in reversed(table.lines)}
        absent = Estimate.absent("not a baseline of this task")
        lines = [(name.replace(" (", "\n("), best.get(name, absent), name != real) for name in names]
        metric = table.metric_names[0]
        panels.append(Panel(f"{table.title}\n{NAMES.get(metric, metric)}", lines, CHANCE.get(metric)))
    rows = [PanelRow(panels)]
    below = []
    for each in leanings:
        untold = "no shortcut was found" if each.tested else "too few patients to say"
        said = "a shortcut: the score follows the tube" if each.shortcut else untold
        lines = [("all pairs", each.auroc, False), ("conflicting pairs", each.pairs, False)]
        below.append(Panel(f"{each.data}: {said}\n{each.planted}", lines, CHANCE["auroc"]))
    if below:
        asked = f"The planted shortcut: does {real} see the pneumothorax or the chest tube? (AUROC for pneumothorax)"
        note = "conflicting pairs: a pneumothorax without a tube against a tube without a pneumothorax"
        rows.append(PanelRow(below, asked, note))
    draw_forest(path, rows, Caption(title, (CAUTION, "95 % intervals over patients, baselines hollow")))


def show_page(page: Path, bars: Bars) -> None:
    """Show the page where there is a screen; a browser of the terminal would take it over."""
    import webbrowser

    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not screen or not webbrowser.open(page.resolve().as_uri()):
        bars.say(f"There is no screen to show it on; open {page} in a browser.")
