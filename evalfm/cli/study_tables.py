"""What `evalfm study` prints: the plan, a table that grows as cells finish, the results and what failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evalfm.cli.console import Bars, in_letters, print_fitting, print_operating_points, print_overview, table_json

if TYPE_CHECKING:
    from types import TracebackType

    from rich.table import Table

    from evalfm.config import ProbeConfig
    from evalfm.probing.executor import Outcome
    from evalfm.run import Run
    from evalfm.split_options import SubsetOptions
    from evalfm.study.plan import Plan
    from evalfm.study.running import StudyRuns

SHOWN_LINES = 15
"""Of the live table; all is printed at the end."""


def print_plan(plan: Plan, *, on_stderr: bool) -> None:
    """Print the cells with their cost, what is left out, warnings, assumptions and totals."""
    from rich.console import Console

    console = Console(stderr=on_stderr)
    if not console.is_terminal:
        console = Console(stderr=on_stderr, width=200)
    header = ("encoder", "task", "heads", "adaptation", "train on", "images", "passes", "time", "disk", "memory")
    rows = []
    several = len({each.cell.data for each in plan.cells}) > 1
    for each in plan.cells:
        cell, cost = each.cell, each.estimate
        text = ("", "unknown", "", "", "")
        if cost is not None:
            disk = sum(cost.disk_bytes.values())
            text = (f"{cost.images:,}", cost.passes, duration(cost.seconds), size(disk), size(cost.memory_bytes))
        task = f"{cell.task} on {cell.data}" if several else cell.task
        row = (cell.encoder, task, ", ".join(cell.heads or ()), cell.adaptation, cell.subset.label, *text)
        rows.append([in_letters(text) for text in row])
    print_fitting(console, in_letters(f"Plan of {plan.study.name}: {plan.study.title}"), header, rows)
    lines = [totals(plan)]
    lines += [f"left out: {each.what}: {each.reason}" for each in plan.left_out]
    lines += [f"warning: {sentence}" for sentence in plan.warnings]
    lines += [f"assumed: {sentence}" for sentence in plan.assumptions]
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def totals(plan: Plan) -> str:
    """The sums of a plan in one line."""
    disk = ", ".join(f"{name} {size(count)}" for name, count in plan.disk_bytes.items()) or "nothing"
    cells = f"{len(plan.cells)} cells"
    if plan.shard is not None:
        cells = f"shard {plan.shard}: {len(plan.cells)} of {plan.every} cells"
    return (
        f"{cells}, {plan.study.seeds} seed(s) each: at most about {duration(plan.seconds)}; "
        f"disk: {disk}, and {size(plan.work_bytes)} of checkpoints while training; "
        f"memory of model and batch up to about {size(plan.memory_bytes)}"
    )


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def size(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


class LiveTable(Bars):
    """A table on standard error that grows as cells finish, with a bar for what runs; lines where no terminal is.

    It is progress and watch at once; a context manager.
    """

    def __init__(self, title: str) -> None:
        from rich.live import Live

        super().__init__(alone=False)
        self._title = title
        self._lines: list[tuple[str, ...]] = []
        self._running: dict[str, str] = {}
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def started(self, cell: ProbeConfig, number: int, of: int) -> None:
        """Show what runs."""
        self._running[cell.key] = f"cell {number} of {of}: {cell.description}"

    def finished(self, outcome: Outcome, number: int, of: int) -> None:
        """Add the cell's lines to the table, or print them."""
        lines = lines_of(outcome)
        self._lines += lines
        self._running.pop(outcome.cell.key, None)
        if not self._console.is_terminal:
            for line in lines:
                text = " · ".join(part for part in line if part)
                self._console.print(f"{number}/{of} {text}", highlight=False, markup=False, soft_wrap=True)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(self._table(), Text("\n".join(self._running.values()), style="dim"), self._bars)

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        hidden = max(0, len(self._lines) - SHOWN_LINES)
        title = self._title + (f" ({hidden} lines above)" if hidden else "")
        table = Table(title=Text(title, style="table.title"), title_justify="left", header_style="bold")
        for name in ("encoder", "task", "head", "adaptation", "train on", "primary metric", "time"):
            table.add_column(name, overflow="fold")
        for line in self._lines[hidden:]:
            table.add_row(*(Text(text) for text in line))
        return table


def lines_of(outcome: Outcome) -> list[tuple[str, ...]]:
    """A finished cell as lines: one a head with the primary metric over its seeds; one where it failed."""
    from evalfm.analysis.figures import describe
    from evalfm.analysis.series import averaged, seed_sd, series

    cell = outcome.cell
    names = (cell.encoder, cell.task)
    lines: list[tuple[str, ...]] = []
    shown: set[str] = set()
    for runs in series(run for run in outcome.runs if not run.is_baseline):
        run = runs[0]
        if run.head in shown:
            continue
        shown.add(run.head)
        metric = next((name for name in run.metrics if name.startswith(run.primary)), run.primary)
        estimate = averaged(runs, metric)
        text = f"{metric} " + ("–" if estimate.value is None else describe(estimate, seed_sd(runs, metric)))
        lines.append((*names, run.head, cell.adaptation, cell.subset.label, text, duration(outcome.seconds)))
    if outcome.failure is not None:
        text = f"failed: {outcome.failure.sentence}"
        heads = ", ".join(head for head in cell.heads or () if head not in shown)
        lines.append((*names, heads, cell.adaptation, cell.subset.label, text, duration(outcome.seconds)))
    return lines


def print_results(title: str, done: StudyRuns) -> None:
    """Print the tables of results, subset by subset, then where they lie and what failed."""
    from evalfm.analysis.table import task_tables

    grouped = _by_subset(done)
    for subset, runs in grouped.items():
        text = title if len(grouped) == 1 else f"{title}: trained on {subset.label}"
        tables = task_tables(runs)
        print_overview(text, tables)
        for table in tables:
            print_operating_points(table)
    if done.failed:
        sys.stdout.write(f"{len(done.failed)} cell(s) failed, see {done.failures}:\n")
        for outcome in done.failed:
            assert outcome.failure is not None
            sys.stdout.write(f"  {outcome.cell.description}: {outcome.failure.sentence}\n")
    sys.stdout.write(f"{len(done)} runs; table: {done.results}\n")


def results_json(done: StudyRuns) -> dict[str, Any]:
    """Tables, failures and where the results lie, as plain values."""
    from evalfm.analysis.table import task_tables

    return {
        "subsets": [
            {**subset.model_dump(), "tables": [table_json(table) for table in task_tables(runs)]}
            for subset, runs in _by_subset(done).items()
        ],
        "failures": [
            {"cell": outcome.cell.description, "error": outcome.failure.error, "sentence": outcome.failure.sentence}
            for outcome in done.failed
            if outcome.failure is not None
        ],
        "results": str(done.results),
    }


def _by_subset(runs: Sequence[Run]) -> dict[SubsetOptions, list[Run]]:

    grouped: dict[SubsetOptions, list[Run]] = {}
    for run in runs:
        config = run.record.config
        subset = config.subset
        grouped.setdefault(subset, []).append(run)
    return grouped
