"""What every verb prints with: bars on long work, tables of runs, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from evalfm.progress import Item

if TYPE_CHECKING:
    from evalfm.analysis.table import TaskTable
    from evalfm.runs import Run


class Bars:
    """Progress on standard error, so that standard output stays a table or JSON."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    def track(self, items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
        """Yield ``items`` while a bar advances; without a terminal, one line at the start."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if not self._console.is_terminal:
            self.say(label if total is None else f"{label} ({total})")
            yield from items
            return
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield from progress.track(items, total=total, description=label)

    def say(self, message: str) -> None:
        """Print one line above the bars."""
        self._console.print(message, style="dim", highlight=False, markup=False)


def emit_json(content: Any) -> None:
    """Print ``content`` as JSON on standard output."""
    sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")


def print_rows(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print one table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


def print_runs(runs: Iterable[Run]) -> None:
    """Print the tables of ``runs``, with their cautions under them."""
    from evalfm.analysis.table import task_tables

    for table in task_tables(runs):
        print_task(table)


def print_task(table: TaskTable) -> None:
    """Print one task's table: estimates with 95 % intervals, floors marked, cautions below."""
    from evalfm.analysis.figures import describe

    with_seeds = any(line.seed_sd is not None for line in table.lines)
    header = ["encoder", "head", *table.metric_names, *(["seed sd"] if with_seeds else [])]
    rows, reasons = [], []
    for line in table.lines:
        cells = []
        for name in table.metric_names:
            estimate = line.metrics[name]
            cells.append(describe(estimate) if estimate.value is not None else "–")
            if estimate.reason:
                reasons.append(f"{name} of {line.encoder}/{line.head}: {estimate.reason}")
            elif estimate.note:
                reasons.append(f"{name} of {line.encoder}/{line.head}: {estimate.note}")
        seeds = [] if not with_seeds else ["–" if line.seed_sd is None else f"{line.seed_sd:.3f}"]
        rows.append([line.encoder + (" (floor)" if line.floor else ""), line.head, *cells, *seeds])
    print_rows(f"{table.task} on {table.data}: {table.title}", header, rows)
    for text in (table.unit_counts, *table.cautions, *dict.fromkeys(reasons)):
        sys.stdout.write(f"  {text}\n")
    sys.stdout.write("\n")
