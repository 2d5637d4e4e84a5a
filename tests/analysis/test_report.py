from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix
from typer.testing import CliRunner

from evalfm.analysis.bias_of_values import bias_of_values
from evalfm.analysis.report.methods import methods_paragraph, untrained_words
from evalfm.analysis.report.page import report_page
from evalfm.analysis.report.svg import Chart, ChartAxis, spanning
from evalfm.analysis.report.tables import Signed, table
from evalfm.analysis.report.task import sections
from evalfm.cautions import RANDOM_WEIGHTS
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.features.cost import Cost
from evalfm.run import Run
from evalfm.statistics.calibration_curve import calibration_curve
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.net_benefit import net_benefit

from .browser import needs_browser, shown
from .made import GRADES, LABELS, binary_table, class_scores, class_table, label_table, make_run, signal

TARGET = np.random.default_rng(0).random(300) < 0.4
SUBGROUPS = {"subgroups": ["view", "age", "chest_tube"]}


def runs(out: Path, **data: object) -> list[Run]:
    made = []
    for seed, (name, strength) in enumerate({"strong": 2.0, "weak": 0.5}.items()):
        frame = binary_table(signal(TARGET, strength, seed), TARGET)
        frame["view"] = np.where(np.arange(300) % 3 == 0, "AP", "PA")
        frame["age"] = np.random.default_rng(5).integers(20, 90, 300).astype(float)
        made.append(make_run(out, frame, encoder=name, task_card=SUBGROUPS, **data))
    made.append(make_run(out, binary_table(np.full(300, 0.5), TARGET), encoder="constant", baseline=True, **data))
    return made


def masks(out: Path, *, shown: bool, dice: float = 0.8) -> Run:
    rows = 40
    frame = pd.DataFrame(
        {
            "id": [f"i{row}" for row in range(rows)],
            "patient": [f"p{row}" for row in range(rows)],
            "dice_ptx": np.clip(np.random.default_rng(0).normal(dice, 0.05, rows), 0, 1),
            "area_true_ptx": np.where(np.arange(rows) < 30, 50.0, 0.0),
            "area_predicted_ptx": 40.0,
        }
    )
    run = make_run(out, frame, encoder=f"masks{dice}", kind="segmentation", redistributable_images=shown)
    if shown:
        (run.folder / "figures").mkdir()
        Image.new("RGB", (8, 8), "white").save(run.folder / "figures" / "overlays_ptx.png")
    return run


class Reader(HTMLParser):
    """Every element, its attributes, and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_page_says_what_the_runs_say(tmp_path: Path) -> None:
    made = runs(tmp_path)
    page = Reader(report_page(made, "Site A"))
    assert "For ptx-cls, strong (linear, frozen) is better than every other encoder" in page.text
    area = made[0].metrics["auroc"]
    assert f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]" in page.text
    assert "Train, val and test share no patient" in page.text
    assert "ptx: radiologist" in page.text
    # Every figure has an interval or says why not; every chart has a name for those who cannot see it.
    charts = [given["aria-label"] for tag, given in page.elements if tag == "svg"]
    assert charts == ["auroc with 95 % intervals", "ROC curves", "Calibration", "Net benefit"]


def test_nothing_is_fetched_from_anywhere(tmp_path: Path) -> None:
    page = report_page([*runs(tmp_path / "one"), masks(tmp_path / "two", shown=True)])
    for tag, given in Reader(page).elements:
        for name in ("src", "href", "data", "action"):
            value = given.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,", "data:text/csv;")), (tag, value[:60])
    assert "@import" not in page
    assert "url(" not in page


def test_words_of_runs_never_become_elements(tmp_path: Path) -> None:
    run = make_run(tmp_path, binary_table(signal(TARGET, 1, 0), TARGET), encoder="<script>alert(1)</script>")
    page = report_page([run], title="<b>bold</b>")
    scripts = [tag for tag, _ in Reader(page).elements if tag == "script"]
    assert len(scripts) == 1
    assert "<b>bold" not in page
    assert "&lt;script&gt;alert" in page


def test_radiographs_are_shown_where_the_run_drew_them_and_else_the_reason(tmp_path: Path) -> None:
    (open_set,) = sections([masks(tmp_path / "open", shown=True)])
    assert len(open_set.pictures) == 1
    (closed,) = sections([masks(tmp_path / "closed", shown=False)])
    assert not closed.pictures
    assert "Images with outlines: the licence of the data does not let pixels be shown." in closed.absent


def test_the_spread_of_dice_is_of_radiographs_with_the_finding(tmp_path: Path) -> None:
    run = masks(tmp_path, shown=False)
    drawing = next(str(drawing) for heading, drawing in sections([run])[0].drawings if heading.startswith("Dice"))
    frame = run.predictions()
    values = frame.loc[frame["area_true_ptx"] > 0, "dice_ptx"]
    low, first, middle, third, high = np.percentile(values, [5, 25, 50, 75, 95])
    told = f"median {middle:.3f}, quartiles {first:.3f} to {third:.3f}, 5–95 % {low:.3f} to {high:.3f}, 30 images"
    assert told in drawing


def test_the_calibration_chart_is_the_smooth_curve_over_a_histogram(tmp_path: Path) -> None:
    run = runs(tmp_path)[0]
    drawing = next(str(drawing) for heading, drawing in sections([run])[0].drawings if heading.startswith("Calib"))
    frame = run.predictions()
    score, target = frame["score_ptx"].to_numpy(), frame["target"].to_numpy()
    curve = calibration_curve(target, score, np.unique(frame["patient"], return_inverse=True)[1])
    assert curve is not None
    end = min(1.0, 1.1 * float(max(curve.probability.max(), curve.share.max())))
    count, edges = np.histogram(score, bins=40, range=(0, end))
    for images, left, right in zip(count, edges[:-1], edges[1:], strict=True):
        told = f"{images} images of probability {left:.3f} to {right:.3f}"
        assert (told in drawing) == (images > 0)
    axis = Chart(ChartAxis("", 0, end), ChartAxis("", 0, end), "", width=470, height=430)
    axis.line(list(zip(curve.probability.tolist(), curve.share.tolist(), strict=True)), "#0072B2", "strong · linear")
    axis.band(curve.probability.tolist(), curve.low.tolist(), curve.high.tolist(), "#0072B2", "")
    shapes = re.findall(r'points="([^"]+)"', str(axis.drawn()))
    assert len(shapes) == 2
    assert all(shape in drawing for shape in shapes)


def test_net_benefit_is_drawn_and_told_with_intervals(tmp_path: Path) -> None:
    run = runs(tmp_path)[0]
    (section,) = sections([run])
    frame = run.predictions()
    score, target = frame["score_ptx"].to_numpy(), frame["target"].to_numpy()
    called = score >= 0.2
    by_hand = np.mean(called & (target == 1)) - np.mean(called & (target == 0)) * 0.2 / 0.8
    found = next(table for heading, table in section.tables if heading == "Net benefit")
    place = found.header.index("from 0.2")
    estimate = found.rows[0][place]
    assert isinstance(estimate, Estimate)
    assert estimate.value == pytest.approx(by_hand)
    assert estimate.low is not None
    assert estimate.low < by_hand
    everybody = target.mean() - (1 - target.mean()) * 0.2 / 0.8
    assert found.texts[-1][0] == "call everybody"
    assert found.texts[-1][place] == f"{everybody:.4f}"
    drawing = next(str(drawing) for heading, drawing in section.drawings if heading.startswith("Net benefit"))
    assert all(words in drawing for words in ("call everybody", "call nobody", "95 % interval at each threshold"))
    curve = net_benefit(target, score, np.unique(frame["patient"], return_inverse=True)[1])
    end = min(0.99, max(0.3, 3 * target.mean()))
    shown = curve.thresholds <= end + 1e-9
    top = 1.15 * float(curve.high[shown].max())
    axis = Chart(ChartAxis("", 0, end), ChartAxis("", -0.25 * top, top), "", width=470, height=430)
    model = curve.model[shown].clip(-0.25 * top)
    axis.line(list(zip(curve.thresholds[shown].tolist(), model.tolist(), strict=True)), "#0072B2", "")
    (shape,) = re.findall(r'points="([^"]+)"', str(axis.drawn()))
    assert shape in drawing


def test_runs_on_few_labels_stand_in_the_curve_and_not_in_the_table(tmp_path: Path) -> None:
    made = runs(tmp_path)
    few = {"images": 20, "patients": 20, "positive_images": 8}
    every = {"images": 300, "patients": 300, "positive_images": int(TARGET.sum())}
    poor = make_run(
        tmp_path,
        binary_table(signal(TARGET, 0.2, 9), TARGET),
        encoder="strong",
        seed=1,
        settings={"shots": 10},
        splits={"train": few, "val": few, "test": every},
    )
    (found,) = sections([*made, poor])
    tables = dict(found.tables)
    assert [row[0] for row in tables["Encoders"].rows] == ["strong", "weak", "constant"]
    assert tables["Encoders"].rows[0][3].value == pytest.approx(made[0].metrics["auroc"].value)
    labels = [(row[1], row[2].value) for row in tables["Few labels"].rows]
    assert labels == [(20, poor.metrics["auroc"].value), (300, made[0].metrics["auroc"].value)]


def test_several_seeds_of_few_labels_have_one_interval_of_their_mean(tmp_path: Path) -> None:
    every = {"images": 300, "patients": 300, "positive_images": int(TARGET.sum())}
    few = {"images": 20, "patients": 20, "positive_images": 8}
    seeds = [
        make_run(
            tmp_path,
            binary_table(signal(TARGET, 0.5, seed), TARGET),
            seed=seed,
            settings={"shots": 10},
            splits={"train": few, "val": few, "test": every},
        )
        for seed in range(1, 4)
    ]
    whole = make_run(tmp_path, binary_table(signal(TARGET, 1, 9), TARGET))
    (found,) = sections([whole, *seeds])
    (mean,) = [row[2] for row in dict(found.tables)["Few labels"].rows if row[1] == 20]
    each = [run.metrics["auroc"] for run in seeds]
    assert mean.value == pytest.approx(np.mean([one.value for one in each]))
    assert mean.low < mean.value < mean.high
    # The mean of three heads on the same patients is known better than one of them alone.
    assert mean.high - mean.low < max(one.high - one.low for one in each)


def test_masks_have_strata_and_differences_as_tables(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    area = np.where(np.arange(120) % 2, rng.uniform(0.01, 0.05, 120), 0.0)
    table = pd.DataFrame(
        {
            "id": [f"{row:03}" for row in range(120)],
            "patient": [f"{row:03}" for row in range(120)],
            "dice_ptx": np.where(area > 0, rng.uniform(0.3, 0.8, 120), 0.0),
            "area_true_ptx": area,
            "area_predicted_ptx": rng.uniform(0, 0.004, 120),
            "sex": np.where(rng.random(120) < 0.5, "F", "M"),
        }
    )
    run = make_run(tmp_path, table, kind="segmentation", task_card={"subgroups": ["sex"]})
    (found,) = sections([run])
    tables = dict(found.tables)
    outcomes = bias_of_values(run, ["sex"]).outcomes
    strata = tables["Subgroups of one · linear"].rows
    assert [(row[0], row[2], row[5].value) for row in strata] == [
        (each.name, level.level, level.mean.value) for each in outcomes for level in each.levels
    ]
    gaps = tables["Whose masks or measurements differ"]
    assert [row[3].value for row in gaps.rows] == [each.gaps[0].difference.value for each in outcomes]
    # A small area keeps its digits.
    assert f"{outcomes[1].gaps[0].difference.value:+.4f} [" in gaps.cells[1][3].text


def test_subgroups_are_those_of_the_card_and_what_cannot_be_asked_is_said(tmp_path: Path) -> None:
    (found,) = sections(runs(tmp_path))
    strata = next(each for heading, each in found.tables if heading == "Subgroups of strong · linear")
    assert [row[:2] for row in strata.rows] == [("view", "AP"), ("view", "PA"), ("age:65", "<65"), ("age:65", "≥65")]
    assert sum(row[2] for row in strata.rows[:2]) == 300
    gaps = dict(found.tables)["Gaps of strong · linear at the operating point"]
    figures = ["sensitivity", "specificity", "PPV", "NPV", "mean score − prevalence", "calibration intercept"]
    assert [(row[0], row[2]) for row in gaps.rows] == [(by, name) for by in ("view", "age:65") for name in figures]
    by_level = {row[1]: row for row in strata.rows if row[0] == "view"}
    sensitivity = gaps.rows[0]
    place = strata.header.index("sensitivity")
    assert sensitivity[3].value == pytest.approx(by_level["PA"][place].value)
    assert sensitivity[4].value == pytest.approx(by_level["AP"][place].value)
    assert sensitivity[5].value == pytest.approx(sensitivity[3].value - sensitivity[4].value)
    (words,) = [each for each in found.sections if each.title == "Subgroups and shortcuts in words"]
    # Two models by two attributes, all in one family.
    assert "4 adjusted effects, 4 AUROCs for the attribute, 24 gaps at the operating point" in words.words
    assert any(point.startswith("No gap with view = PA was detected in") for point in words.sections[0].points)
    assert found.absent == [
        "Subgroups by chest_tube: There is no attribute in the predictions 'chest_tube'. Known: age, view."
    ]


def test_runs_that_cannot_be_paired_are_shown_with_the_reason(tmp_path: Path) -> None:
    one = make_run(tmp_path, binary_table(signal(TARGET, 1, 0), TARGET), encoder="one", test_digest="d")
    named = np.array([f"q{row:05}" for row in range(300)])
    other = make_run(tmp_path, binary_table(signal(TARGET, 1, 1), TARGET, named), encoder="other", test_digest="d")
    (found,) = sections([one, other])
    assert "not compared in pairs" in found.words
    assert "'patient' of their predictions differs" in found.words
    assert found.tables[0][0] == "Metrics that the task names first"


def test_the_methods_say_what_was_random_and_synthetic(tmp_path: Path) -> None:
    made = runs(tmp_path, patients_known=False)
    text = methods_paragraph(made)
    assert "strong and weak" in text
    assert "synthetic" not in text
    assert "Patients were not known everywhere" in text
    assert "Set beside the encoders as baselines: constant." in text


def test_a_banner_says_which_encoder_has_random_weights(tmp_path: Path) -> None:
    table = binary_table(signal(TARGET, 2.0, 0), TARGET)
    drawn: dict[str, Any] = {"made": {"random_weights": True}, "cautions": [RANDOM_WEIGHTS]}
    trained = make_run(tmp_path, table, encoder="net")
    beside = make_run(tmp_path, binary_table(signal(TARGET, 0.1, 1), TARGET), encoder="net", baseline=True, **drawn)
    alone = make_run(tmp_path, binary_table(signal(TARGET, 0.2, 2), TARGET), encoder="random:net", **drawn)
    for found, named in (
        ([trained, beside], "net (a baseline)"),
        ([trained, alone], "random:net"),
        ([trained, beside, alone], "random:net and net (a baseline)"),
    ):
        said = f"Random weights: {named}; such figures say nothing about the published encoder."
        assert untrained_words(found) == said
        page = report_page(found)
        assert page.count(said) == 2, "once as a banner, once under methods"
        assert RANDOM_WEIGHTS.sentence not in page
    assert untrained_words([trained]) == ""
    assert "Random weights:" not in report_page([trained])


def tied(seed: int, *, tube: float, finding: float) -> pd.DataFrame:
    """Tubes go with the finding; the score sees either as strongly as it is told."""
    generator = np.random.default_rng(seed)
    tubes = generator.random(300) < np.where(TARGET, 0.7, 0.15)
    raw = tube * tubes + finding * TARGET + generator.normal(size=300)
    return binary_table(1 / (1 + np.exp(-raw)), TARGET).assign(chest_tube=tubes.astype(float))


def test_a_shortcut_is_named_in_the_summary_where_the_score_follows_it_and_only_there(tmp_path: Path) -> None:
    follows = make_run(tmp_path, tied(10, tube=3.0, finding=0.0), encoder="follows", task_card=SUBGROUPS)
    (found,) = sections([follows])
    assert "follows · linear: A shortcut: where chest_tube and the finding disagree the score follows" in found.words
    sees = make_run(tmp_path, tied(11, tube=0.0, finding=3.0), encoder="sees", task_card=SUBGROUPS)
    (found,) = sections([sees])
    assert "shortcut" not in found.words


def test_a_table_as_csv_has_every_digit_and_no_formula() -> None:
    rows = [["=cmd()", Estimate(0.123456789, 0.1, 0.2), Signed(-0.25, -0.5, None)], ["b", None, None]]
    made = table("t", ["name", "auroc", "gap"], rows)
    lines = list(csv.reader(io.StringIO(made.csv)))
    assert lines[0] == ["name", "auroc", "auroc_low", "auroc_high", "gap", "gap_low", "gap_high"]
    assert lines[1] == ["'=cmd()", "0.123456789", "0.1", "0.2", "-0.25", "-0.5", ""]
    assert lines[2] == ["b", "", "", "", "", "", ""]
    assert [cell.text for cell in made.cells[0]] == ["=cmd()", "0.123 [0.100, 0.200]", "-0.250"]


def test_a_chart_puts_values_where_its_axes_say() -> None:
    chart = Chart(ChartAxis("x", 0, 10), ChartAxis("y", 0, 1), "t", width=400, height=320)
    chart.dot(0, 0, "red", "start")
    chart.dot(10, 1, "red", "end")
    places = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', str(chart.drawn()))
    assert places == [("52.0", "278.0"), ("386.0", "12.0")]
    assert ChartAxis("n", 10, 1000, logarithmic=True).share(100) == pytest.approx(0.5)
    assert ChartAxis("n", 10, 1000, logarithmic=True).ticks() == [10, 20, 50, 100, 200, 500, 1000]
    assert spanning("x", [3.0, 3.0]).low < 3 < spanning("x", [3.0, 3.0]).high


def test_the_verb_writes_the_page_and_its_tables(tmp_path: Path) -> None:
    runs(tmp_path / "runs")
    out, tables = tmp_path / "report.html", tmp_path / "tables"
    told = CliRunner().invoke(app, ["report", str(tmp_path / "runs"), "--out", str(out), "--csv", str(tables)])
    assert told.exit_code == 0, told.output
    assert out.read_text().startswith("<!doctype html>")
    found = pd.read_csv(tables / "task-0-encoders.csv")
    assert found["encoder"].tolist() == ["strong", "weak", "constant"]
    assert {"auroc", "auroc_low", "auroc_high"} <= set(found.columns)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "There is no folder nowhere"),
        (["runs", "--task", "ptx-csl"], "Did you mean 'ptx-cls'"),
        (["runs", "--out", "runs"], "is no file that can be written"),
        (["runs", "--csv", "taken"], "taken is a file"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    runs(tmp_path / "runs")
    (tmp_path / "taken").write_text("x")
    told = CliRunner().invoke(app, ["report", *arguments])
    assert isinstance(told.exception, EvalfmError), told.output
    assert sentence in str(told.exception)


def test_no_run_is_no_report() -> None:
    with pytest.raises(EvalfmError, match="no run to report on"):
        report_page([])


SORT = """
const table = document.getElementById("task-0-encoders");
const column = () => Array.from(table.tBodies[0].rows).map((row) => row.cells[3].dataset.order);
const heads = Array.from(table.tHead.rows[0].cells);
const asked = heads[3].firstElementChild;
asked.click(); const rising = column();
asked.click(); const falling = column();
const end = () => table.tBodies[0].rows[table.tBodies[0].rows.length - 1].cells[6].dataset.order;
heads[6].firstElementChild.click(); const last = [end()];
heads[6].firstElementChild.click(); last.push(end());
const broken = Array.from(document.images).filter((each) => !each.naturalWidth).length;
const drawings = Array.from(document.querySelectorAll("svg"));
const flat = drawings.filter((each) => each.getBoundingClientRect().height < 20).length;
const links = Array.from(document.querySelectorAll("a[download]")).length;
const wide = document.documentElement.scrollWidth > window.innerWidth;
const result = document.createElement("pre");
result.id = "result";
result.textContent = JSON.stringify({rising, falling, last, broken, flat, links, wide, sorted: heads[3].ariaSort});
document.body.append(result);
"""


@needs_browser
def test_a_browser_without_network_draws_all_and_sorts(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report_page([*runs(tmp_path / "one"), masks(tmp_path / "two", shown=True)]))
    elements, console = shown(page, SORT)
    assert console == []
    found = re.search(r'<pre id="result">(.*?)</pre>', elements)
    assert found is not None
    told = json.loads(found[1])
    values = [float(each) for each in told["rising"]]
    assert len(values) == 3
    assert values == sorted(values)
    assert [float(each) for each in told["falling"]] == values[::-1]
    # What is absent stands last, whichever way.
    assert told["last"] == ["", ""]
    assert told["broken"] == 0
    assert told["flat"] == 0
    assert told["links"] >= 10
    assert told["wide"] is False


@needs_browser
def test_the_browser_would_have_told_of_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><html><body><script>nothing.at.all</script></body></html>")
    assert "nothing is not defined" in " ".join(shown(page)[1])


def several(out: Path, kind: str) -> list[Run]:
    """Two lines and a baseline of a task of several labels or classes, the labels' scores leaning on the view."""
    generator = np.random.default_rng(0)
    target = generator.integers(0, 4, 300)
    labels = (generator.random((300, 3)) < [0.4, 0.3, 0.02]).astype(float)
    view = np.where(generator.random(300) < 0.5, "AP", "PA")
    made = []
    for seed, (name, strength) in enumerate({"strong": 1.5, "weak": 0.5, "constant": 0.0}.items()):
        if kind == "multilabel":
            raw = strength * labels + np.random.default_rng(seed).normal(size=labels.shape) * (strength > 0)
            raw[:, 1] += (strength > 0) * 1.5 * (view == "AP")
            frame = label_table(labels, 1 / (1 + np.exp(-raw)))
        else:
            scores = class_scores(target, strength, seed) if strength else np.full((300, 4), 0.25)
            frame = class_table(target, scores)
        classes = LABELS if kind == "multilabel" else GRADES
        frame, card = frame.assign(view=view), {"subgroups": ["view"]}
        made.append(
            make_run(out, frame, encoder=name, kind=kind, classes=classes, baseline=strength == 0, task_card=card)
        )
    return made


@pytest.mark.parametrize("kind", ["multilabel", "multiclass", "ordinal"])
def test_tasks_of_several_classes_are_compared_and_told_by_class(tmp_path: Path, kind: str) -> None:
    made = several(tmp_path, kind)
    (section,) = sections(made)
    assert "strong (linear, frozen) is better than every other encoder" in section.words
    tables = dict(section.tables)
    assert [row[0] for row in tables["Encoders"].rows] == ["strong", "weak", "constant"]
    of_class = next(each for heading, each in section.tables if heading.startswith("AUROC of each"))
    classes = LABELS if kind == "multilabel" else GRADES
    assert [row[0] for row in of_class.rows] == list(classes)
    assert of_class.rows[0][1] == made[0].metrics[f"auroc[{classes[0]}]"]
    assert any(heading.startswith("AUROC of each") for heading, _ in section.drawings)
    assert ("with the finding" in section.counts) is False
    if kind == "multilabel":
        ((told,),) = (each.sections for each in section.sections)
        model, verdicts = told.title, told.points
        assert model == "strong · linear"
        assert [each.split(":")[0] for each in verdicts[:-1]] == ["effusion"]
        assert verdicts[-1].startswith("Of 3 questions, a class by a level each, 3 could be tested and 1 found")
        assert {row[0] for row in tables["Subgroups of strong · linear"].rows} == set(LABELS)
        assert "~ over 2 of 3 labels, without mass" in tables["Metrics that the task names first"].notes
        return
    answers = tables["What strong · linear answers"]
    test = made[0].predictions()
    called = test[[f"score_{name}" for name in GRADES]].to_numpy().argmax(axis=1)
    expected = confusion_matrix(test["target"], called)
    assert [list(row[2:6]) for row in answers.rows] == expected.tolist()
    assert [row[1] for row in answers.rows] == expected.sum(axis=1).tolist()
    assert [row[6] for row in answers.rows] == pytest.approx(np.diag(expected) / expected.sum(axis=1))
    assert len(section.sections[0].sections) == (1 if kind == "multiclass" else 2)


def test_the_methods_name_the_tests_that_were_made(tmp_path: Path) -> None:
    told = methods_paragraph(several(tmp_path, "ordinal"))
    assert "(influence values of patients for quadratic kappa)" in told
    assert "DeLong" not in told
    told = methods_paragraph([*several(tmp_path / "b", "multilabel"), *runs(tmp_path / "c")])
    assert (
        "(DeLong with the covariance of Obuchowski for AUROC; the same joint over the classes for macro AUROC)" in told
    )


def test_the_cost_of_an_encoder_stands_with_its_device(tmp_path: Path) -> None:
    cost = Cost(milliseconds=30.0, gigaflops=3.6, batch=1, input_size=(224, 224), device="a GPU", precision="bfloat16")
    frame = binary_table(signal(TARGET, 2.0, 0), TARGET)
    made = [make_run(tmp_path, frame, encoder="one", cost=cost), make_run(tmp_path, frame, encoder="two")]
    (section,) = sections(made)
    table = dict(section.tables)["What an image costs the encoders"]
    by_name = {row[0]: row for row in table.rows}
    assert by_name["one"][2:5] == (3.6, 30.0, "a GPU, batch of 1, 224 × 224, bfloat16")
    assert by_name["two"][2:4] == (None, None)


def test_why_an_estimate_is_absent_stands_once_below_its_table() -> None:
    few, none = Estimate(None, reason="too few patients"), Estimate(None, reason="no image is positive")
    made = table("t", ["encoder", "auroc", "ppv"], [["a", few, none], ["b", few, Estimate(0.5)]])
    assert [[cell.text for cell in row] for row in made.cells] == [
        ["a", "–¹", "–²"],
        ["b", "–¹", "0.500 [no interval]"],
    ]
    assert made.notes == ["–¹ too few patients", "–² no image is positive"]
    assert made.csv.splitlines()[1] == "a,,,,,,"
