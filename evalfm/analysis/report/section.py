"""A section of the report that is of no runs: features without labels, few-shot episodes."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup

from evalfm.analysis.report.tables import Table


@dataclass(frozen=True)
class ReportSection:
    """Title, cautions, a paragraph, and drawings and tables with their headings."""

    title: str
    cautions: list[str]
    words: str
    tables: list[tuple[str, Table]]
    drawings: list[tuple[str, Markup]] = field(default_factory=list)
