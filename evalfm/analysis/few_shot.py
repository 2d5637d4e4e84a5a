"""Few-shot results as tables: encoders and methods down, numbers of shots across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalfm.episodes import CHANCE, EpisodeRun, ShotsResult


@dataclass(frozen=True)
class FewShotTable:
    """One task on one data set.

    Attributes:
        rows: encoder, method, then a cell for each number of shots.
        cautions: what must be read with it.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    cautions: list[str]


def few_shot_tables(runs: Sequence[EpisodeRun]) -> list[FewShotTable]:
    """A table for each task and data set among ``runs``, in their order."""
    return [_table(task, data, mine) for (task, data), mine in by_task(runs).items()]


def by_task(runs: Sequence[EpisodeRun]) -> dict[tuple[str, str], list[EpisodeRun]]:
    """``runs`` by task and data set, in their order."""
    grouped: dict[tuple[str, str], list[EpisodeRun]] = {}
    for run in runs:
        grouped.setdefault((run.task, run.data), []).append(run)
    return grouped


def _table(task: str, data: str, runs: Sequence[EpisodeRun]) -> FewShotTable:
    shots = sorted({each.shots for run in runs for each in run.record.results})
    names = ["no shots" if each == 0 else f"{each} shot" + ("s" if each > 1 else "") for each in shots]
    rows = []
    for run in runs:
        at = {each.shots: each for each in run.record.results}
        rows.append([run.encoder, run.method, *(_cell(at[each]) if each in at else "–" for each in shots)])
    counts = sorted({each.estimate.n for run in runs for each in run.record.results}, reverse=True)
    told = " or ".join(str(each) for each in counts)
    classes = runs[0].record.data["class_names"]
    cautions = [
        f"Macro AUROC, mean ± sd over {told} episodes and the 95 % interval of the mean; {CHANCE:g} is chance. "
        f"{len(classes)} classes, {runs[0].record.config['queries']} queries of each."
    ]
    several = len({run.encoder for run in runs}) > 1
    for run in runs:
        for note in run.record.notes:
            speaks = several and note.startswith(("Random weights", "The input", "Trained from"))
            cautions.append(f"{run.encoder}: {note}" if speaks else note)
    return FewShotTable(
        f"{task} on {data}: few-shot episodes", ["encoder", "method", *names], rows, list(dict.fromkeys(cautions))
    )


def _cell(result: ShotsResult) -> str:
    """``0.712 ± 0.083`` and below it the interval of the mean."""
    estimate = result.estimate
    value = "–" if estimate.value is None else f"{estimate.value:.3f}"
    spread = "" if result.sd is None else f" ± {result.sd:.3f}"
    if estimate.low is None or estimate.high is None:
        return f"{value}{spread}"
    return f"{value}{spread}\n[{estimate.low:.3f}, {estimate.high:.3f}]"
