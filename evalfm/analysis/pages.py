"""Pages that open offline and print well: one HTML file each, pictures inside, everything from outside escaped."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

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
    return environment.get_template(template).render(**content)


def picture_uri(path: Path) -> str:
    """A PNG file as text that a page can hold."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
