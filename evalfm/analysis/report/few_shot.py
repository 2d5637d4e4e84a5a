"""Few-shot episodes as a section: the mean over episodes against the number of shots."""

from __future__ import annotations

from collections.abc import Sequence

from evalfm.analysis.few_shot import by_cohort, encoder_names
from evalfm.analysis.report import charts
from evalfm.analysis.report.section import ReportSection
from evalfm.analysis.report.tables import Value, table
from evalfm.cautions import ON_TOP, sentences
from evalfm.episodes import CHANCE, EpisodeRun

METRIC = "macro AUROC"


def few_shot_sections(runs: Sequence[EpisodeRun]) -> list[ReportSection]:
    """A section for each task and cohort among ``runs``, in their order."""
    return [_section(number, *found) for number, found in enumerate(by_cohort(runs))]


def _section(number: int, name: str, runs: Sequence[EpisodeRun]) -> ReportSection:
    encoders = encoder_names(runs)
    notes = list(dict.fromkeys(f"{run.encoder}: {note}" for run in runs for note in run.record.cautions))
    flags = list(dict.fromkeys(each for run in runs for each in sentences(run.record.cautions, ON_TOP)))
    rows: list[list[Value]] = [
        [encoder, run.method, each.shots, each.mean.n, each.mean, each.sd]
        for run, encoder in zip(runs, encoders, strict=True)
        for each in run.record.results
    ]
    header = ["encoder", "method", "shots of each class", "episodes", METRIC, "sd over episodes"]
    words = (
        f"{METRIC}, the mean over episodes; {CHANCE:g} is chance. Each episode draws so many images of each class to "
        f"learn from and {runs[0].record.config.queries} of each to ask. The interval is that of the mean over "
        "episodes; episodes share images, so it says nothing about other patients."
    )
    curves = [
        (f"{encoder} · {run.method}", [(each.shots, each.mean) for each in run.record.results])
        for run, encoder in zip(runs, encoders, strict=True)
        if len(run.record.results) > 1
    ]
    drawing = charts.more_shots(METRIC, curves) if curves else None
    rest: list[list[Value]] = [[note] for note in notes if note.partition(": ")[2] not in flags]
    tables = [("Mean over episodes", table(f"episodes-{number}", header, rows))]
    if rest:
        tables.append(("Notes of the episodes", table(f"episodes-{number}-notes", ["note"], rest)))
    drawings = [] if drawing is None else [(f"{METRIC} against the shots of each class", drawing)]
    return ReportSection(f"Few-shot episodes: {name}", flags, words, tables, drawings)
