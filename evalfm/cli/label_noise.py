"""Comparisons and verdicts on flipped labels, as verbs ask for them and print them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from evalfm.cli.console import print_rows

if TYPE_CHECKING:
    from evalfm.analysis.bias import ReportOptions
    from evalfm.analysis.label_noise import FlipRates, LabelNoise
    from evalfm.analysis.scores import LabelScores
    from evalfm.analysis.verdict_noise import VerdictUnderNoise
    from evalfm.run import Run


def noise_rates(text: str | None) -> list[FlipRates]:
    """The rates of ``--label-noise``, with commas between; none where it was not given.

    Raises:
        EvalfmError: one is no rate.
    """
    from evalfm.analysis.label_noise import FlipRates

    return [] if text is None else [FlipRates.parse(each) for each in text.split(",")]


def noise_of(
    runs: Sequence[Run], rates: Sequence[FlipRates], *, task: str | None, cohort: str | None, metric: str | None
) -> list[LabelNoise]:
    """The comparisons of ``runs`` at ``rates``; none without rates."""
    from evalfm.analysis.label_noise import noise_of_runs

    return noise_of_runs(runs, rates, task=task, cohort=cohort, metric=metric) if rates else []


def print_noise(found: Sequence[LabelNoise]) -> None:
    """A table of lines by rate, and what it says in words."""
    for each in found:
        names = list(each.under[0].best_set)
        header = ["model", *(f"best set at {under.rates}" for under in each.under)]
        rows = [[name, *(f"{under.best_set[name]:.0%}" for under in each.under)] for name in names]
        title = f"{each.metric} of {each.task} on flipped labels: share of {each.draws} draws"
        print_rows(title, header, rows)
        for sentence in each.sentences:
            typer.echo(f"  {sentence}")


def verdicts_of(
    scores: LabelScores, by: Sequence[str], options: ReportOptions, rates: Sequence[FlipRates]
) -> list[VerdictUnderNoise]:
    """How often the verdicts on ``scores`` are the same at ``rates``; none without rates."""
    from evalfm.analysis.bias import bias
    from evalfm.analysis.verdict_noise import verdicts_under_noise

    return verdicts_under_noise(scores, lambda each: bias(each, by, options=options), rates) if rates else []


def print_verdicts(found: Sequence[VerdictUnderNoise]) -> None:
    """How often each verdict is the same."""
    if found:
        typer.echo("Verdicts on flipped labels, every model by itself:")
    for each in found:
        typer.echo(f"  {each.sentence}")
