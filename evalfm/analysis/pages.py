"""Pages that open offline and print well: a list of sections as one HTML file, everything from outside escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evalfm.analysis.report.tables import Table

TEMPLATES = Path(__file__).parent / "templates"


@dataclass
class Section:
    """What stands under one heading, from top to bottom; what is empty is not shown.

    Attributes:
        title: none for a piece of the section around it.
        anchor: unique on the page, for the list of contents.
        counts: on whom, in small.
        words: a paragraph; ``look`` is ``quiet`` or ``bad`` where it is no plain one.
        points: sentences as a list.
        tables, drawings: each with its heading, which may be none; ``leading`` tables stand before the drawings, the
            others after ``sections``, which are one level below. ``folded`` ones unfold by a click.
        pictures: PNG as URIs, with what they show.
        absent: what could not be shown, and why.
    """

    title: str = ""
    anchor: str = ""
    counts: str = ""
    cautions: list[str] = field(default_factory=list)
    words: str = ""
    look: str = ""
    points: Sequence[str] = ()
    tables: list[tuple[str, Table]] = field(default_factory=list)
    leading: int = 0
    drawings: list[tuple[str, Markup]] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    folded: list[tuple[str, Table]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def every_table(self) -> list[Table]:
        """All tables, those of the sections below too."""
        below = [each for section in self.sections for each in section.every_table]
        return [each for _, each in [*self.tables, *self.folded]] + below


def page(title: str, sections: Sequence[Section], cautions: Sequence[str] = ()) -> str:
    """One HTML file of ``sections``, with contents where they have anchors; text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        title=title, sections=sections, cautions=cautions, script=Markup(script), policy=Markup(_policy(script))
    )


def _policy(script: str) -> str:
    """What a browser lets a page do: draw itself and run ``script``; it requests nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def picture_uri(path: Path) -> str:
    """A PNG file as text that a page can hold."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
