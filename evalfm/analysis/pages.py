"""Pages that open offline and print well: one HTML file each, pictures inside, everything from outside escaped."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **content: Any) -> str:
    """The page that ``template`` makes of ``content``; text is escaped, a missing name is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(script=Markup(script), policy=Markup(_policy(script)), **content)


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
