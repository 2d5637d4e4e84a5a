"""Tables that leave evalfm for a spreadsheet: CSV in which no cell is run as a formula.

Tables that evalfm reads again, such as manifest.csv, are written as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_FORMULA = re.compile(r"[\s\"'\0\ufeff\u200b-\u200f\u2060]*[=+\-@\uff0b\uff0d\uff1d\uff20].|[\t\r\n]", re.DOTALL)
"""What a spreadsheet runs, also in wide letters and behind spaces, quotes and letters of no width; one sign is none."""


def csv_text(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """``header`` and ``rows`` as CSV with every digit; None and NaN are empty, words that would be run have a ``'``."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(map(_cell, header))
    for row in rows:
        writer.writerow(map(_cell, row))
    return stream.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str):
        # A lone CR would end the row, as the writer does not quote it.
        return str(harmless(value)).replace("\r\n", "\n").replace("\r", "\n")
    # NaN alone differs from itself.
    return None if value != value else value


def harmless(value: object) -> object:
    """``value``; text that a spreadsheet would run as a formula gets an apostrophe, a number as text does not."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value) or not _FORMULA.match(value):
        return value
    return f"'{value}"
