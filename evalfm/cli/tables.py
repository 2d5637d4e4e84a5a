"""Tables as wide as the terminal: no word is broken, and where columns would be slivers each row is a block."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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
