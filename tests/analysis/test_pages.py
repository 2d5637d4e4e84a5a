"""Pages and texts that leave evalfm: they ask nobody for anything, and what others called so shows as it is."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np

from evalfm.analysis.bias import bias
from evalfm.analysis.bias_page import BiasReport
from evalfm.analysis.data_page import data_page
from evalfm.analysis.report.page import report_page
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
