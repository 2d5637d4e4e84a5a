"""Text and tables as LaTeX."""

from __future__ import annotations

import pytest

from evalfm.analysis.latex import latex_table, latex_text
from evalfm.analysis.report.tables import table


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a_b & 5 % #1 {x} $", r"a\_b \& 5 \% \#1 \{x\} \$"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("x^2 ~ |y| < z", r"x\textasciicircum{}2 \textasciitilde{} $|$y$|$ $<$ z"),
        ("two\nlines", "two lines"),
        ("Σ w μ Ω λ", r"$\Sigma$ w $\mu$ $\Omega$ $\lambda$"),
        ("–¹⁰ é", "--$^{1}$$^{0}$ é"),
    ],
)
def test_nothing_of_a_name_is_run(text: str, wanted: str) -> None:
    assert latex_text(text) == wanted


def test_a_table_has_a_row_for_each_and_its_label_is_plain() -> None:
    found = latex_table(table("t", ["model", "auroc"], [["a", 0.5], ["b", None]], "Two of them"), "tab:1-a b_c")
    assert found.splitlines() == [
        r"\begin{table}",
        r"\caption{Two of them}",
        r"\label{tab:1-a-b-c}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"model & auroc \\",
        r"\midrule",
        r"a & 0.500 \\",
        r"b & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
