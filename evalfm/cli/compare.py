"""`evalfm compare`: encoders compared on the same patients, with corrected paired tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalfm.cli.console import Footnotes, emit_json, print_against, print_rows
from evalfm.cli.label_noise import noise_of, noise_rates, print_noise
from evalfm.errors import EvalfmError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalfm.analysis.compare import Comparison, Entry
    from evalfm.run import Run


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    task: Annotated[str | None, typer.Option(help="This task only.")] = None,
    cohort: Annotated[
        str | None, typer.Option(help="Test cohorts whose words hold this only, such as \"view == 'PA'\" or 5 folds.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="Runs of this head only; baselines stay.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Compare by this one, such as accuracy or auroc[effusion]; else the task's first."),
    ] = None,
    margin: Annotated[float | None, typer.Option(help="Non-inferiority margin, on the metric's scale.")] = None,
    reference: Annotated[str | None, typer.Option(help="The encoder that --margin refers to.")] = None,
    label_noise: Annotated[
        str | None,
        typer.Option(
            help="Compare again on labels that are wrong at this rate, such as .05, or .1/.02 for missed positives and "
            "false positives; several with commas between."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which encoders are really better: paired differences to the best, corrected for every pair.

    Runs are compared with those that stand on the same test patients and labels: each test cohort of a task has a
    table of its own.

    Examples:

        evalfm compare runs

        evalfm compare runs --task ptx-cls --margin 0.02 --reference rad-dino

        evalfm compare runs --task density --metric accuracy

        evalfm compare runs --task ptx-cls --label-noise .05,.1/.02
    """
    from evalfm.analysis.compare import compare as comparisons

    chosen = runs_in(runs)
    if head is not None:
        heads = sorted({run.head for run in chosen})
        if head not in heads:
            raise UnknownNameError("head among these runs", head, heads)
        chosen = [run for run in chosen if run.head == head or run.is_baseline]
    rates = noise_rates(label_noise)
    tables = comparisons(chosen, task=task, cohort=cohort, metric=metric, margin=margin, reference=reference)
    noise = noise_of(chosen, rates, task=task, cohort=cohort, metric=metric)
    if json:
        emit_json([*(table.to_json() for table in tables), *({"label_noise": each.to_json()} for each in noise)])
        return
    for table in tables:
        _show(table)
    print_noise(noise)


def runs_in(folders: Sequence[Path], *, with_predictions: bool = True, episodes: bool = False) -> list[Run]:
    """Every run below ``folders``, each once; one that is damaged is left out, which is said on standard error.

    Those of few-shot ``episodes``, which have no predictions, are left out likewise unless they are wanted.

    Raises:
        EvalfmError: a folder is not there, there is no run that can be read, or a folder is a damaged run itself.
    """
    from evalfm.run import find_runs

    for folder in folders:
        if not folder.is_dir():
            raise EvalfmError(f"There is no folder {folder}; name runs or folders that hold them.")
    left_out: dict[str, None] = {}

    def say(sentence: str) -> None:
        if sentence not in left_out:
            typer.echo(sentence, err=True)
        left_out[sentence] = None

    by_folder = {
        run.folder.resolve(): run
        for folder in folders
        for run in find_runs(folder, with_predictions=with_predictions, say=say)
    }
    if not by_folder:
        named = ", ".join(map(str, folders))
        if left_out:
            raise EvalfmError(f"No run in {named} can be read, {len(left_out)} left out; copy them again, whole.")
        raise EvalfmError(f"There is no run in {named}; make some with `evalfm probe`.")
    found = [run for run in by_folder.values() if episodes or run.record.episodes is None]
    if len(found) < len(by_folder):
        count = len(by_folder) - len(found)
        sentence = (
            f"{count} {'run' if count == 1 else 'runs'} of few-shot episodes: they share images, so that nothing is "
            "tested between them; `evalfm report` and `evalfm ls runs` show them"
        )
        if not found:
            raise EvalfmError(f"There is but {sentence}.")
        typer.echo(f"Left out: {sentence}.", err=True)
    return found


def _show(table: Comparison) -> None:
    from evalfm.analysis.figures import p_words

    header = [
        "encoder",
        "head",
        "adaptation",
        table.metric,
        "seed sd",
        "minus the best",
        "p",
        "rank",
        "detectable",
        "set",
    ]
    if table.margin is not None:
        header.append("non-inferior")
    rows, footnotes = [], Footnotes()
    for entry in table.entries:
        estimate = footnotes.cell(entry.estimate, f"{entry.encoder}/{entry.head}")
        row = [entry.encoder, entry.head, entry.adaptation, estimate]
        row += ["–" if entry.seed_sd is None else f"{entry.seed_sd:.3f}", _difference(entry), p_words(entry.p)]
        row += ["–" if entry.rank is None else f"{entry.rank[0]:g}–{entry.rank[1]:g}"]
        row += ["–" if entry.detectable is None else f"{entry.detectable:.3f}"]
        row += ["baseline" if entry.baseline else "best" if entry.in_best_set else ""]
        if table.margin is not None:
            row.append({True: "yes", False: "no", None: "–"}[entry.non_inferior])
        rows.append(row)
    print_rows(f"{table.task} on {table.cohort}", header, rows)
    typer.echo(f"  {table.counts}")
    if table.pairs:
        pairs = f"{table.pairs} {'pair' if table.pairs == 1 else 'pairs'}"
        typer.echo(f"  p: {table.method}, Holm over {pairs}. best: not significantly worse than the best estimate.")
        typer.echo(
            "  detectable: the true difference that would have been found with 80 % power; no difference found is"
        )
        typer.echo("  no proof of equality. rank: 95 % interval over resampled patients.")
    else:
        typer.echo("  One line that is no baseline: there is no pair to compare.")
    if table.margin is not None:
        chosen = " (the best one observed: chosen after the fact)" if table.post_hoc else ""
        typer.echo(
            f"  non-inferior: worse than {table.reference}{chosen} by less than {table.margin:g}, Holm-corrected."
        )
    for caution in (*table.cautions, *footnotes.lines()):
        typer.echo(f"  {caution}")
    print_against(table.against)


def _difference(entry: Entry) -> str:
    if entry.difference is None:
        return "–"
    if entry.difference.low is None:
        return f"{entry.difference.value:+.3f}"
    return f"{entry.difference.value:+.3f} [{entry.difference.low:+.3f}, {entry.difference.high:+.3f}]"
