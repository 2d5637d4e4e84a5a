"""A table or paragraph as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable

from evalfm.analysis.report.tables import Table

_GREEK = (
    *("α alpha", "β beta", "γ gamma", "δ delta", "ε epsilon", "η eta", "θ theta", "κ kappa", "λ lambda", "μ mu"),
    *("π pi", "ρ rho", "σ sigma", "τ tau", "φ phi", "χ chi", "ω omega", "Δ Delta", "Σ Sigma", "Φ Phi", "Ω Omega"),
)
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "–": "--",
    "−": "$-$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    **{each[0]: f"$\\{each[2:]}$" for each in _GREEK},
    "…": r"\ldots{}",
    "\N{NO-BREAK SPACE}": "~",
    **{mark: f"$^{{{digit}}}$" for digit, mark in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}
_ANY = re.compile("|".join(map(re.escape, _SPECIAL)))


def latex_text(text: str) -> str:
    r"""``text`` as LaTeX prints it, with or without ``inputenc``; letters with accents stay.

    >>> latex_text("50 % of chest_tube ≥ 3²")
    '50 \\% of chest\\_tube $\\geq$ 3$^{2}$'
    """
    return _ANY.sub(lambda found: _SPECIAL[found[0]], " ".join(text.split()))


def latex_paragraph(text: str) -> str:
    """``text`` under the heading Methods."""
    return "\n".join([r"\paragraph{Methods.}", latex_text(text)])


def latex_table(found: Table, label: str) -> str:
    """A floating table by booktabs: caption above, notes below, first column at the left and numbers at the right."""
    columns = "l" + "r" * (len(found.header) - 1)
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{latex_text(found.caption)}}}",
            rf"\label{{{re.sub(r'[^A-Za-z0-9:.-]', '-', label)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _row(found.header),
            r"\midrule",
            *map(_row, found.texts),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {latex_text(note)}" for note in found.notes),
            r"\end{table}",
        ]
    )


def _row(cells: Iterable[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"
