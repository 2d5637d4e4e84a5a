"""What every verb prints with: bars on long work, tables of runs, JSON."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from evalfm.progress import Item, Progress

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from evalfm.analysis.baselines import AgainstBaselines
    from evalfm.analysis.best_heads import HeadByVal
    from evalfm.analysis.table import Line, TaskTable
    from evalfm.data.manifest import Manifest
    from evalfm.run import Run
    from evalfm.statistics.estimate import Estimate

INTERRUPTED = 130
"""Exit status of what Ctrl-C has stopped."""


class Bars:
    """Progress on standard error, so that standard output stays a table or JSON."""

    def __init__(self, *, alone: bool = True) -> None:
        """``alone``: the bars show themselves, and are not part of something that is shown."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._alone, self._console = alone, Console(stderr=True)
        # A description may name what a user or a file called so; brackets in it are no style.
        said = TextColumn("{task.description}", markup=False)
        columns = [said, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self._bars = Progress(*columns, console=self._console, transient=True)

    def track(self, items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
        """Yield ``items`` while a bar advances, below others; without a terminal, one line at the start."""
        if not self._console.is_terminal:
            self.say(label if total is None else f"{label} ({total})")
            yield from items
            return
        if self._alone and not self._bars.tasks:
            self._bars.start()
        bar = self._bars.add_task(label, total=total)
        try:
            for item in items:
                yield item
                self._bars.advance(bar)
        finally:
            self._bars.remove_task(bar)
            if self._alone and not self._bars.tasks:
                self._bars.stop()

    def say(self, message: str) -> None:
        """Print one line above the bars."""
        self._console.print(in_letters(message), style="dim", highlight=False, markup=False, soft_wrap=True)


def refuse_folder(out: Path | None) -> None:
    """Ask before any work whether a file can be written to ``out``.

    Raises:
        EvalfmError: it is a folder, its folder is not there, or it cannot be written.
    """
    from evalfm.data.atomic import check_writable_file

    if out is not None:
        check_writable_file(out)


def tell_interrupt() -> None:
    """Say what Ctrl-C leaves."""
    # What the terminal shows of the key, or of a bar, ends here.
    sys.stderr.write("\n" if sys.stderr.isatty() else "")
    sys.stderr.write("Interrupted; what is finished is kept, the same command goes on.\n")
    sys.stderr.flush()


def in_letters(text: str) -> str:
    """``text`` with what would move a cursor or clear a terminal written out; names come from files of others."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def emit_json(content: Any) -> None:
    """Print ``content`` as JSON on standard output."""
    sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")


def print_rows(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, on_stderr: bool = False) -> None:
    """Print one table on standard output, or on standard error beside one that is to come."""
    from rich.console import Console

    console = Console(stderr=on_stderr)
    if not console.is_terminal:
        console = Console(stderr=on_stderr, width=160)
    cells = [[in_letters(cell) for cell in row] for row in rows]
    print_fitting(console, in_letters(title), [in_letters(name) for name in header], cells)


def table_json(table: TaskTable) -> dict[str, Any]:
    """What ``print_runs`` shows of one table, as plain values."""
    from evalfm.analysis import operating_points
    from evalfm.analysis.baselines import against_baselines
    from evalfm.analysis.best_heads import best_heads
    from evalfm.analysis.table import as_json

    return as_json(table) | {
        "operating_points": operating_points.as_json(table),
        "against_baselines": [each.to_json() for each in against_baselines(table)],
        "best_heads_by_val": [each.to_json() for each in best_heads(table)],
    }


def print_runs(runs: Iterable[Run]) -> None:
    """Print the tables of ``runs``, with their cautions under them."""
    from evalfm.analysis.baselines import against_baselines
    from evalfm.analysis.best_heads import best_heads
    from evalfm.analysis.table import task_tables

    for table in task_tables(runs):
        print_task(table, best_heads(table))
        print_against(against_baselines(table))
        print_operating_points(table)


def print_against(found: Sequence[AgainstBaselines]) -> None:
    """Print which lines of a task beat its baselines."""
    for speaks_of in ("encoders", "these trained heads"):
        lines = [each.sentence for each in found if each.speaks_of == speaks_of]
        if lines:
            counted = "training variance counted" if speaks_of == "encoders" else "training variance not counted"
            _print_lines(
                [f"Against all baselines at once (intersection–union); speaks of {speaks_of}, {counted}:", *lines]
            )


def print_task(table: TaskTable, heads: Sequence[HeadByVal] = ()) -> None:
    """Print one task's table: estimates with 95 % intervals, baselines and best ``heads`` marked, cautions below."""
    chosen = {each.chosen for each in heads}
    with_seeds = any(len(line.runs) > 1 for line in table.lines)
    with_episodes = any(line.episode_sd is not None for line in table.lines)
    more = ["sd over episodes"] * with_episodes + ["seeds"] * with_seeds
    header = ["encoder", "head", "adaptation", *table.metric_names, *more]
    footnotes = Footnotes()
    rows = []
    for line in table.lines:
        cells = [
            footnotes.cell(line.metrics[name], f"{line.encoder}/{line.head} {name}", line.sd(name))
            for name in table.metric_names
        ]
        spread = ["–" if line.episode_sd is None else f"{line.episode_sd:.3f}"] if with_episodes else []
        seeds = [str(len(line.runs))] if with_seeds else []
        head = head_cell(line.head, (line.encoder, line.head, line.adaptation) in chosen)
        rows.append([_name(line), head, line.adaptation, *cells, *spread, *seeds])
    print_rows(f"{table.task} on {table.cohort}: {table.title}", header, rows)
    of_seeds = ["Of several seeds: mean ± standard deviation over them."] if with_seeds else []
    of_heads = [each.sentence for each in heads]
    _print_lines([table.unit_counts, *of_seeds, *of_heads, *table.cautions, *footnotes.lines()])


def head_cell(head: str, best_by_val: bool | None) -> str:
    """A head as it stands in a table, marked where it is the best of its encoder by val."""
    return f"{head} (best by val)" if best_by_val else head


def print_metrics(table: TaskTable) -> None:
    """Print one task's metrics below each other: a row per metric and line, with unit and direction."""
    from evalfm.analysis.table import facts_of

    footnotes = Footnotes()
    rows, runs = [], [run for line in table.lines for run in line.runs]
    for name in table.metric_names:
        facts = facts_of(name, runs)
        for line in table.lines:
            cell = footnotes.cell(line.metrics[name], f"{line.encoder}/{line.head} {name}")
            rows.append([name, facts.unit or "–", facts.direction, _name(line), _head(line), cell])
    header = ["metric", "unit", "better", "encoder", "head", "estimate [95 % interval]"]
    print_rows(f"{table.task} on {table.cohort}: {table.title}", header, rows)
    _print_lines([table.unit_counts, *table.cautions, *footnotes.lines()])


def print_operating_points(table: TaskTable) -> None:
    """Print default and chosen thresholds, where a head reads text or the rule was chosen."""
    from evalfm.analysis.figures import describe
    from evalfm.analysis.operating_points import HEADER, shown_points

    points = shown_points(table)
    if not points:
        return

    def cell(estimate: Estimate | None) -> str:
        return "–" if estimate is None or estimate.value is None else describe(estimate)

    rows = [[each.encoder, each.head, each.threshold, *map(cell, each.estimates)] for each in points]
    print_rows(f"{table.task} on {table.cohort}: default and calibrated", HEADER, rows)
    _print_lines(
        ["Brier score and ECE are before temperature scaling above and after it below; AUROC is moved by neither."]
    )
    for line in table.lines:
        prompts = line.runs[0].record.prompts
        if prompts is not None and prompts.spread is not None:
            spread = f"{prompts.spread.least:.3f} to {prompts.spread.most:.3f}, sd {prompts.spread.sd:.3f}"
            _print_lines([f"{line.encoder}, {line.head}: {prompts.metric} by each template alone {spread}"])


def print_overview(title: str, tables: Sequence[TaskTable]) -> None:
    """Print several tasks as one table: the primary metric of every line with its 95 % interval."""
    footnotes = Footnotes()
    rows = []
    alone = [table.task for table in tables]
    names = {
        (table.task, table.cohort): table.task if alone.count(table.task) == 1 else f"{table.task} on {table.cohort}"
        for table in tables
    }
    for table in tables:
        metric = table.metric_names[0]
        for line in table.lines:
            cell = footnotes.cell(line.metrics[metric], f"{line.encoder}/{line.head} {metric}", line.seed_sd)
            cell += f" ({len(line.runs)} seeds)" if len(line.runs) > 1 else ""
            rows.append([names[table.task, table.cohort], metric, _name(line), _head(line), cell])
    print_rows(title, ["task", "metric", "encoder", "head", "estimate [95 % interval]"], rows)
    counts = [f"{names[table.task, table.cohort]}: {table.unit_counts}" for table in tables]
    _print_lines([*counts, *dict.fromkeys(note for table in tables for note in table.cautions), *footnotes.lines()])


class Footnotes:
    """What stands below a table: each reason once, with the cells that it speaks of."""

    def __init__(self) -> None:
        self._cells: dict[str, list[str]] = {}

    def cell(self, estimate: Estimate, place: str, sd: float | None = None) -> str:
        """An estimate as it stands at ``place``, with its ``sd`` over seeds.

        ``~`` marks an approximate interval, ``–`` an absent number.
        """
        from evalfm.analysis.figures import describe
        from evalfm.metrics.certainty import EXPECTATION

        if estimate.reason and estimate.method != EXPECTATION:
            self._cells.setdefault(estimate.reason, []).append(place)
        if estimate.note:
            self._cells.setdefault(f"~ {estimate.note}", [])
        text = "–" if estimate.value is None else describe(estimate, sd)
        return f"{text} ~" if estimate.note else text

    def lines(self) -> list[str]:
        """The footnotes, one a reason."""
        return [reason + (f": {', '.join(cells)}" if cells else "") for reason, cells in self._cells.items()]


def _name(line: Line) -> str:
    return line.encoder + (" (baseline)" if line.baseline else "")


def _head(line: Line) -> str:
    return line.head if line.adaptation == "frozen" else f"{line.head}, {line.adaptation}"


def _print_lines(lines: Sequence[str]) -> None:
    for text in lines:
        sys.stdout.write(f"  {in_letters(text)}\n")
    sys.stdout.write("\n")


def split_sizes(manifest: Manifest) -> str:
    """How many images each split has."""
    counts = manifest.table["split"].value_counts()
    return ", ".join(f"{name} {int(counts.get(name, 0))}" for name in ("train", "val", "test"))


def summarise(manifest: Manifest) -> None:
    """Say in a line how many images and patients there are in each split."""
    patients = f"{len(set(manifest.patients.tolist()))} patients" if manifest.patients_known else "patients unknown"
    splits = ""
    if "split" in manifest.table:
        splits = f"; {split_sizes(manifest)}"
    sys.stdout.write(f"{manifest.info.name}: {len(manifest)} images, {patients}{splits}\n")


TALLEST = 5
"""Lines that a row of a table may have on average before blocks read better."""


def print_fitting(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, or where ``console`` is a terminal too narrow for its words, a block for each row.

    Titles and cells are printed as they are: whatever they hold is neither style nor command.
    """
    from rich.text import Text

    console.print(Text(title, style="table.title"), soft_wrap=True)
    table = _table(console, header, rows)
    if table is not None:
        console.print(table)
        return
    for row in rows:
        console.print(Text(row[0], style="bold"), soft_wrap=True)
        for line in _block(header[1:], row[1:], console.width):
            console.print(Text(line), soft_wrap=True)


def _table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table | None:
    """The table as wide as it is, else without padding; None where words would break or rows grow tall."""
    from rich.cells import cell_len
    from rich.table import Column, Table
    from rich.text import Text

    if not console.is_terminal:
        # In a file, one endless word is folded.
        table = Table(*(Column(Text(name), overflow="fold") for name in header), header_style="bold")
        for row in rows:
            table.add_row(*map(Text, row))
        return table
    columns = list(zip(header, *rows, strict=True))
    longest = [max((cell_len(word) for cell in column for word in cell.split()), default=1) for column in columns]
    natural = [max(1, *(cell_len(line) for cell in column for line in cell.split("\n"))) for column in columns]
    for padding in (1, 0):
        room = console.width - (2 * padding + 1) * len(header) - 1 - sum(longest)
        if room < 0:
            continue
        # Widths of our own: rich shrinks a column below its least width, and then crops the table.
        wanted = [most - least for least, most in zip(longest, natural, strict=True)]
        share = min(1, room / max(1, sum(wanted)))
        widths = [least + int(more * share) for least, more in zip(longest, wanted, strict=True)]
        named = zip(header, widths, strict=True)
        columns_of = [Column(Text(name), overflow="fold", width=width) for name, width in named]
        table = Table(*columns_of, header_style="bold", padding=(0, padding))
        for row in rows:
            table.add_row(*map(Text, row))
        return table if len(console.render_lines(table, pad=False)) <= TALLEST * (len(rows) + 1) else None
    return None


def _block(names: Sequence[str], cells: Sequence[str], width: int) -> list[str]:
    """The named cells of a row as indented lines; a line ends between cells where it can."""
    lines: list[str] = []
    for name, cell in zip(names, cells, strict=True):
        field = f"{name}: {' '.join(cell.split())}"
        if not cell:
            continue
        if lines and len(lines[-1]) + 3 + len(field) <= width:
            lines[-1] += f" · {field}"
        else:
            lines += textwrap.wrap(field, width, initial_indent="  ", subsequent_indent="    ")
    return lines


NOTICE = (
    "Phantom data: no --data was given, so these are synthetic radiographs; the figures say nothing about patients."
)


def print_notice(data: str | None, progress: Progress) -> None:
    """Print the notice where ``data`` is the phantom that stands in for none."""
    if data in (None, "phantom"):
        progress.say(NOTICE)
