"""Writes the defaults of every head and adaptation into methodology.md, and heads that have no section, from the code.

python docs/write_defaults.py
"""

from __future__ import annotations

import inspect
from pathlib import Path

from evalfm.config import THRESHOLD_RULE
from evalfm.heads import load_head
from evalfm.heads.registry import built_in_heads
from evalfm.training.recipe import RECIPES

PAGE = Path(__file__).with_name("methodology.md")
BEGIN, END = "<!-- defaults -->", "<!-- end of defaults -->"


def defaults(prose: str) -> str:
    """Three Markdown tables: heads, recipes, thresholds; first the docstrings of heads that ``prose`` does not name."""
    lines: list[str] = []
    for entry in built_in_heads():
        if f"`{entry.name}`" not in prose:
            kind = type(load_head(entry.name, entry.kinds[0]))
            lines += [f"### `{entry.name}` ({', '.join(entry.kinds)})", inspect.getdoc(kind) or entry.summary, ""]
    lines += ["| head | kinds | settings |", "|---|---|---|"]
    for entry in built_in_heads():
        settings = flat(load_head(entry.name, entry.kinds[0]).grid)
        cells = "; ".join(f"{name} {shown(value)}" for name, value in settings)
        lines.append(f"| `{entry.name}` | {', '.join(entry.kinds)} | {cells} |")
    names = list(RECIPES)
    lines += ["", "| recipe | " + " | ".join(f"`{name}`" for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for setting in type(RECIPES["full"]).model_fields:
        cells = " | ".join(shown(getattr(RECIPES[name], setting)) for name in names)
        lines.append(f"| {setting} | {cells} |")
    lines += ["", f"Operating threshold of yes-or-no labels: `{THRESHOLD_RULE}`, on the validation set."]
    return "\n".join(lines)


def flat(grid: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Settings with those inside of others named ``schedule.epochs``."""
    settings: list[tuple[str, object]] = []
    for name, value in grid.items():
        settings += flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return settings


def shown(value: object) -> str:
    """A value as the table shows it; a long list by its ends."""
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} values from {value[0]:.3g} to {value[-1]:.3g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def written(page: str) -> str:
    """``page`` with the tables of the code as it is."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{defaults(before)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
