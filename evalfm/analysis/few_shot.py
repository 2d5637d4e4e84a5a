"""Few-shot results as tables: encoders and methods down, numbers of shots across."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evalfm.analysis.cohort import distinct_names
from evalfm.analysis.series import input_words
from evalfm.cautions import Code
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


OF_COHORT = ("where", "queries")
"""Options that decide which images are used."""
OF_IMAGES = ("images_of_cohort", "label_source", "class_names", "support_from", "query_from")
"""What a record says of them."""
OF_ENCODER: frozenset[Code] = frozenset({"random-weights", "input-changed", "trained-from-random"})
"""Codes of cautions that speak of the encoder without its name."""


def few_shot_tables(runs: Sequence[EpisodeRun]) -> list[FewShotTable]:
    """A table for each task and cohort among ``runs``, in their order."""
    return [_table(name, mine) for name, mine in by_cohort(runs)]


def by_cohort(runs: Sequence[EpisodeRun]) -> list[tuple[str, list[EpisodeRun]]]:
    """``runs`` by their cohort, with its name; in their order, the same result twice counts once."""
    grouped: dict[str, dict[str, EpisodeRun]] = {}
    for run in runs:
        grouped.setdefault(json.dumps(_cohort(run), sort_keys=True), {}).setdefault(run.record.key, run)
    firsts = [next(iter(mine.values())) for mine in grouped.values()]
    facets: list[Callable[[EpisodeRun], str]] = [_setting(name) for name in OF_COHORT]
    facets += [_of_data(name) for name in OF_IMAGES] + [lambda run: json.dumps(_cohort(run))]
    names = distinct_names([f"{run.task} on {run.data}" for run in firsts], firsts, facets, ", {}")
    return [(name, list(mine.values())) for name, mine in zip(names, grouped.values(), strict=True)]


def encoder_names(runs: Sequence[EpisodeRun]) -> list[str]:
    """The encoder of each result; where encoder and method are alike, with what tells them apart."""
    facets: list[Callable[[EpisodeRun], str]] = [
        input_words,
        lambda run: run.record.provenance.precision,
        *(_setting(name) for name in ("seed", "episodes", "strength", "recipe", "prompts")),
        lambda run: f"weights {str(run.record.provenance.weights_digest)[:8]}",
        lambda run: f"{'file' if run.encoder == 'precomputed' else 'features'} {run.record.provenance.feature_key[:8]}",
        lambda run: f"run {run.record.key[:8]}",
        lambda run: f"run {run.record.key}",
    ]
    names = distinct_names([f"{run.method}\n{run.encoder}" for run in runs], runs, facets, " ({})")
    return [name.partition("\n")[2] for name in names]


def _cohort(run: EpisodeRun) -> list[object]:
    config, data = run.record.config, run.record.data
    options = [getattr(config, name) or None for name in OF_COHORT]
    return [run.task, run.record.task.kind, run.data, *options, *(getattr(data, name) for name in OF_IMAGES)]


def _setting(name: str) -> Callable[[EpisodeRun], str]:
    def words(run: EpisodeRun) -> str:
        value = getattr(run.record.config, name)
        return f"{name} {'–' if value in (None, '', {}) else value}"

    return words


def _of_data(name: str) -> Callable[[EpisodeRun], str]:
    return lambda run: f"{name.replace('_', ' ')} {getattr(run.record.data, name) or '–'}"


def _table(name: str, runs: Sequence[EpisodeRun]) -> FewShotTable:
    shots = sorted({each.shots for run in runs for each in run.record.results})
    names = ["no shots" if each == 0 else f"{each} shot" + ("s" if each > 1 else "") for each in shots]
    rows = []
    for run, encoder in zip(runs, encoder_names(runs), strict=True):
        at = {each.shots: each for each in run.record.results}
        rows.append([encoder, run.method, *(_cell(at[each]) if each in at else "–" for each in shots)])
    counts = sorted({each.mean.n for run in runs for each in run.record.results}, reverse=True)
    episodes = " or ".join(str(each) for each in counts)
    classes = runs[0].record.data.class_names
    cautions = [
        f"Macro AUROC, mean ± sd over {episodes} episodes and the 95 % interval of the mean; {CHANCE:g} is chance. "
        f"{len(classes)} classes, {runs[0].record.config.queries} queries of each."
    ]
    several = len({run.encoder for run in runs}) > 1
    for run in runs:
        for note in run.record.cautions:
            speaks = several and note.code in OF_ENCODER
            cautions.append(f"{run.encoder}: {note}" if speaks else str(note))
    return FewShotTable(
        f"{name}: few-shot episodes", ["encoder", "method", *names], rows, list(dict.fromkeys(cautions))
    )


def _cell(result: ShotsResult) -> str:
    """``0.712 ± 0.083`` and below it the interval of the mean."""
    estimate = result.mean
    value = "–" if estimate.value is None else f"{estimate.value:.3f}"
    spread = "" if result.sd is None else f" ± {result.sd:.3f}"
    if estimate.low is None or estimate.high is None:
        return f"{value}{spread}"
    return f"{value}{spread}\n[{estimate.low:.3f}, {estimate.high:.3f}]"
