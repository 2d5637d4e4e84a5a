"""Pages and texts that leave evalfm: they ask nobody for anything, and what others called so shows as it is."""

from __future__ import annotations

import base64
import csv
import html
import io
import re
from pathlib import Path

import numpy as np
from markupsafe import Markup

from evalfm.analysis.bias import bias
from evalfm.analysis.bias_page import BiasReport
from evalfm.analysis.data_page import data_page
from evalfm.analysis.pages import Section
from evalfm.analysis.pages import page as built
from evalfm.analysis.report.page import report_page
from evalfm.analysis.report.tables import Signed, Worded, table
from evalfm.analysis.scores import scores_of_run
from evalfm.data.manifest import Manifest
from evalfm.data.report import check
from evalfm.run import Run

from .browser import asked_for, needs_browser
from .made import binary_table, make_run, signal

HOSTILE = 'a|b`c`<script src="http://evil">*x*\n# d [e](http://evil) ![f](http://evil) _g_ h_i &lt; \\'
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">')


def leaning(folder: Path) -> Run:
    """A run of a hostile name, whose images say of which sex they are."""
    target = np.arange(200) % 2
    table = binary_table(signal(target, 1.0, 0), target)
    return make_run(folder, table.assign(sex=np.where(np.arange(200) % 3, "F", "M")), encoder=HOSTILE)


def pages(folder: Path, squares: Manifest) -> dict[str, str]:
    run = leaning(folder)
    report = bias(scores_of_run(run), ["sex"])
    images = data_page(squares, check(squares), with_images=True)
    return {"report": report_page([run], HOSTILE), "bias": BiasReport([report]).html, "data": images}


def test_every_page_allows_itself_nothing_but_its_own_script(tmp_path: Path, squares: Manifest) -> None:
    for name, page in pages(tmp_path, squares).items():
        (policy,) = POLICY.findall(page)
        rules = dict(rule.strip().split(" ", 1) for rule in html.unescape(policy).split(";"))
        assert rules.pop("script-src").startswith("'sha256-"), name
        assert rules == {
            "default-src": "'none'",
            "img-src": "data:",
            "style-src": "'unsafe-inline'",
            "base-uri": "'none'",
            "form-action": "'none'",
        }, name
        assert page.index("Content-Security-Policy") < page.index("<title>"), name
        assert "<script src" not in page, name
        outward = re.findall(r'\b(?:src|href|srcset|action|data|poster|background)\s*=\s*"(?!#|data:)[^"]*', page)
        assert outward == [], name
        assert not re.search(r"url\(|@import|javascript:|\son\w+=\"", page), name


def everything(address: str) -> str:
    """Whatever a page can ask with, had an escape been forgotten."""
    return f"""
<img src="{address}/image"><link rel="stylesheet" href="{address}/style"><script src="{address}/code"></script>
<script>fetch("{address}/fetch"); new Image().src = "{address}/made"; document.forms[0].submit()</script>
<iframe src="{address}/frame"></iframe><object data="{address}/object"></object><style>@import "{address}/import";
body {{ background: url({address}/background) }}</style><svg><image href="{address}/drawn"/></svg>
<form action="{address}/form" method="get"></form><video src="{address}/film" autoplay></video>
<link rel="prefetch" href="{address}/before"><img src="x" onerror="fetch('{address}/error')">
"""


@needs_browser
def test_no_page_asks_anybody_for_anything_even_were_an_escape_forgotten(tmp_path: Path, squares: Manifest) -> None:
    place = tmp_path / "page.html"
    for name, page in pages(tmp_path / "runs", squares).items():
        place.write_text(page)
        assert asked_for(place, everything) == [], name
    # Without the policy the same elements ask, so that the test would see it.
    place.write_text(POLICY.sub("", page))
    assert {"/image", "/style", "/code", "/fetch"} <= set(asked_for(place, everything))


def test_a_summary_in_markdown_keeps_its_rows_whatever_a_model_is_called(tmp_path: Path) -> None:
    run = leaning(tmp_path)
    text = BiasReport([bias(scores_of_run(run), ["sex"])]).markdown
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {3}
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert [line.split()[0] for line in headings] == ["#", "##"]
    assert "<script" not in text.replace(r"\<script", "")
    assert not re.search(r"(?<!\\)\]\(", text)


def test_a_section_shows_all_that_it_holds_in_its_order() -> None:
    def held(name: str) -> tuple[str, object]:
        return f"{name}-heading", table(
            name, [f"{name}-column"], [[f"{name}-cell"]], f"{name}-caption", [f"{name}-remark"]
        )

    section = Section(
        "title",
        "anchor",
        "counts",
        ["caution"],
        "words",
        "bad",
        ["point"],
        [held("first"), held("second")],  # type: ignore[list-item]
        1,
        [("drawing-heading", Markup("<svg>drawn</svg>"))],
        [("picture-heading", "data:image/png;base64,")],
        [Section("below", words="below-words", sections=[Section("deep", points=["deep-point"])])],
        [held("folded")],  # type: ignore[list-item]
        ["reason"],
    )
    shown = built("page-title", [section, Section(words="no <title>")], ["page-caution"])
    body = shown[shown.index("<body>") :]

    def of(name: str) -> list[str]:
        return [f"{name}-{each}" for each in ("heading", "caption", "column", "cell", "remark")] + [f"{name}.csv"]

    order = ["page-title", "page-caution", '<a href="#anchor">title', '<h2 id="anchor">title', "counts", "caution<"]
    order += ['"bad">words', "<li>point", *of("first"), "drawing-heading", "<svg>drawn", "picture-heading"]
    order += ["<h3>below", "below-words", "<b>deep", "<li>deep-point", *of("second"), *of("folded"), "<li>reason"]
    place = 0
    for each in [*order, "no &lt;title&gt;"]:
        assert each in body[place:], each
        place = body.index(each, place)
    assert [each.name for each in section.every_table] == ["first", "second", "folded"]
    assert "<nav>" not in built("plain", [Section("no anchor")])


def test_every_table_of_every_page_sorts_and_is_saved_under_a_name_of_its_own(
    tmp_path: Path, squares: Manifest
) -> None:
    for name, shown in pages(tmp_path, squares).items():
        tables = re.findall(r'<table class="sortable" id="([^"]+)">', shown)
        assert len(tables) == shown.count("<table") > 2, name
        assert sorted(set(tables)) == sorted(tables), name
        saved = re.findall(r'<a download="([^"]+)[.]csv" href="data:text/csv', shown)
        assert saved == tables, name
        assert shown.count("<script>") == 1, name


def saved_as(shown: str, name: str) -> dict[str, str]:
    """The first row of a table's CSV on a page; of two columns of one name the last."""
    (found,) = re.findall(rf'download="{name}.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', shown)
    return next(csv.DictReader(io.StringIO(base64.b64decode(found).decode())))


def test_the_tables_of_the_subgroup_report_are_saved_with_every_digit_and_sorted_by_value(tmp_path: Path) -> None:
    report = BiasReport([bias(scores_of_run(leaning(tmp_path)), ["sex"])])
    (contrast,) = report.scores[0].parts[0].contrasts
    effect = contrast.fixed[0].effect
    fixed, across = (saved_as(report.html, f"scores-0-0-{each}") for each in ("fixed", "across"))
    assert float(fixed["AUROC without the finding_low"]) == contrast.fixed[0].auroc.low
    assert float(fixed["difference in standard deviations"]) == effect.standardised
    assert float(fixed["p, corrected"]) == contrast.corrected
    assert float(across["AUROC minus elsewhere_high"]) == contrast.gap.high
    (row,) = report.leaning.cells
    assert (row[1].text, float(row[1].order)) == (report.leaning.texts[0][1], effect.standardised)
    assert f"| {row[1].text} |" in report.markdown
    assert list(saved_as(report.html, "leaning").values())[1] == f"'{row[1].text}"


def test_a_number_keeps_its_own_digits_and_is_saved_whole() -> None:
    made = table(
        "t",
        ["gap", "p", "share", "words"],
        [
            [
                Signed(0.01234, -0.5, 0.25, ".3g"),
                Worded.p(0.0001),
                Worded.number(0.5678, ".1f"),
                Worded("3 of 9", 3, whole=True),
            ],
            ["– (none)", Worded.p(None), Worded.number(None, ".1f"), Worded("12 of 9", 12, whole=True)],
        ],
    )
    assert made.texts == [["+0.0123 [-0.5, +0.25]", "< .001", "0.6", "3 of 9"], ["– (none)", "–", "–", "12 of 9"]]
    assert [cell.order for cell in made.cells[0]] == ["0.01234", "0.0001", "0.5678", "3"]
    assert made.csv.splitlines()[:2] == ["gap,gap_low,gap_high,p,share,words", "0.01234,-0.5,0.25,0.0001,0.5678,3 of 9"]
    assert made.markdown[:2] == ["| gap | p | share | words |", "|---|---|---|---|"]


def test_the_counts_of_table_1_sort_as_numbers(squares: Manifest) -> None:
    shown = data_page(squares, check(squares))
    counts = re.findall(r'data-order="([^"]*)">(\d+) \(', shown)
    assert counts
    assert all(float(order) == float(text) for order, text in counts)
