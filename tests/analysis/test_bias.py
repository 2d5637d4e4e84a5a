from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evalfm.analysis.bias import ReportOptions, bias, bias_of_questions, one_family
from evalfm.analysis.bias_page import BiasReport
from evalfm.analysis.scores import questions_of_run, scores_of_run, scores_of_table
from evalfm.analysis.table import model_names
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.statistics.auroc import auroc
from evalfm.statistics.comparison import benjamini_hochberg
from evalfm.statistics.fixed_label import at_fixed_label
from evalfm.statistics.gaps import operating_gaps
from evalfm.statistics.subgroups import SubgroupScores, cross_aurocs

from .made import GRADES, LABELS, class_scores, class_table, label_table, make_run


def predictions(n: int = 600, *, effect: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Tubes go with the label; the score sees the label, and the tube by ``effect``."""
    generator = np.random.default_rng(seed)
    y = generator.random(n) < 0.4
    tube = generator.random(n) < np.where(y, 0.7, 0.2)
    score = 1 / (1 + np.exp(-(1.5 * y + effect * tube + generator.normal(size=n) - 1)))
    return pd.DataFrame(
        {
            "id": [f"i{row:05}" for row in range(n)],
            "patient": [f"p{row // 2:05}" for row in range(n)],
            "target": y.astype(float),
            "score_ptx": score,
            "threshold": 0.4,
            "chest_tube": tube.astype(float),
            "sex": np.where(generator.random(n) < 0.5, "F", "M"),
            "age": generator.integers(18, 90, n).astype(float),
        }
    )


def test_a_planted_shortcut_is_found_and_a_tie_alone_is_not(tmp_path: Path) -> None:
    table = predictions(effect=1.0)
    report = bias(scores_of_run(make_run(tmp_path, table)), ["chest_tube", "sex"])
    tube, sex = report.parts
    assert tube.contrasts[0].verdict.startswith(
        "Among negatives the score is higher with chest_tube = 1: an association"
    )
    assert sex.contrasts[0].verdict.startswith(
        "No association with sex = M was detected among negatives; an effect of 0."
    )
    innocent = bias(scores_of_run(make_run(tmp_path, predictions(seed=4), encoder="two")), ["chest_tube"])
    contrast = innocent.parts[0].contrasts[0]
    assert contrast.verdict.startswith("No association")
    # Label and tube go together, so that the descriptive pairs differ all the same? They need not: the score is blind.
    assert contrast.drop is not None


def test_every_figure_is_that_of_the_statistics(tmp_path: Path) -> None:
    table = predictions(effect=0.5)
    report = bias(scores_of_run(make_run(tmp_path, table)), ["chest_tube", "sex"], adjust=["age"])
    part = report.parts[0]
    y, s, a = table["target"].to_numpy(), table["score_ptx"].to_numpy(), table["chest_tube"].to_numpy() == 1
    patient = table["patient"].to_numpy(dtype=object)
    level = SubgroupScores.of(y, s, a, patient)
    cross, fixed = cross_aurocs(level), at_fixed_label(level, {"age": table["age"].to_numpy()})
    assert part.contrasts[0].cross == cross
    assert part.contrasts[0].fixed == fixed
    with_tube = next(each for each in part.strata if each.level == "1")
    assert (with_tube.images, with_tube.events) == (int(a.sum()), int(y[a].sum()))
    assert with_tube.metrics["auroc"].value == pytest.approx(auroc(y[a], s[a]))
    assert with_tube.metrics["sensitivity"].value == pytest.approx((s[a & (y == 1)] >= 0.4).mean())
    assert with_tube.calibration_in_the_large == pytest.approx(s[a].mean() - y[a].mean())
    raw = [contrast.fixed[0].effect.p for each in report.parts for contrast in each.contrasts]
    assert [contrast.corrected for each in report.parts for contrast in each.contrasts] == pytest.approx(
        benjamini_hochberg(raw).tolist()
    )


def test_an_outside_table_gives_the_same_and_has_no_threshold_of_its_own(tmp_path: Path) -> None:
    table = predictions()
    run = bias(scores_of_run(make_run(tmp_path, table)), ["chest_tube"])
    outside = table.rename(columns={"target": "truth", "score_ptx": "prob", "patient": "who"}).drop(columns="threshold")
    outside.to_csv(tmp_path / "theirs.csv", index=False)
    scores = scores_of_table(tmp_path / "theirs.csv", target="truth", score="prob", patient="who")
    theirs = bias(scores, ["chest_tube"])
    ours, other = run.parts[0].contrasts[0].fixed[0], theirs.parts[0].contrasts[0].fixed[0]
    assert other.auroc.value == pytest.approx(ours.auroc.value)
    assert other.effect.p == pytest.approx(ours.effect.p)
    metrics = theirs.parts[0].strata[0].metrics
    assert metrics["sensitivity"].value is None
    assert metrics["sensitivity"].reason == "no threshold was given"
    held = scores_of_table(tmp_path / "theirs.csv", target="truth", score="prob", patient="who", threshold=0.4)
    assert bias(held, ["chest_tube"]).parts[0].strata[0].metrics["sensitivity"].value is not None


def test_tables_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    def written(text: str) -> Path:
        path.write_text(text)
        return path

    with pytest.raises(EvalfmError, match="must hold 0, 1 or nothing"):
        scores_of_table(written("target,score\n2,.5\n"))
    with pytest.raises(EvalfmError, match="1 cells that are no number"):
        scores_of_table(written("target,score\n1,.5\n0,high\n"))
    with pytest.raises(EvalfmError, match="'score'"):
        scores_of_table(written("target,scor\n1,.5\n"))
    kept = scores_of_table(written("target,score,sex\n1,.5,F\n,.4,M\n0,.1,M\n"))
    assert len(kept.target) == 2
    assert kept.cautions[0].startswith("1 rows without a label")
    assert "Patients unknown" in kept.cautions[1]


def test_few_patients_constant_scores_and_missing_attributes_are_told(tmp_path: Path) -> None:
    small = predictions(40)
    report = bias(scores_of_run(make_run(tmp_path, small)), ["chest_tube"])
    assert report.parts[0].contrasts[0].verdict.startswith("Cannot be said for chest_tube = 1: needs 10 patients")
    constant = predictions().assign(score_ptx=0.3)
    verdict = bias(scores_of_run(make_run(tmp_path, constant, encoder="c")), ["sex"]).parts[0].contrasts[0].verdict
    assert verdict == "Cannot be said for sex = M: the score is constant at label 0."
    gaps = predictions()
    gaps.loc[:99, "sex"] = None
    part = bias(scores_of_run(make_run(tmp_path, gaps, encoder="g")), ["sex"]).parts[0]
    assert part.unknown == 100
    assert sum(stratum.images for stratum in part.strata) == 500
    logits = predictions().assign(score_ptx=lambda table: np.log(table["score_ptx"] / (1 - table["score_ptx"])))
    stratum = bias(scores_of_run(make_run(tmp_path, logits, encoder="l")), ["sex"]).parts[0].strata[0]
    assert stratum.calibration_in_the_large is None


def test_scores_of_different_heads_are_never_ranked_together(tmp_path: Path) -> None:
    table = predictions(effect=0.6)
    fold = np.arange(len(table)) // 2 % 3
    # Another head for each fold: the same order within, another scale.
    shifted = table.assign(fold=fold, score_ptx=(table["score_ptx"] + fold) / 3)
    found = bias(scores_of_run(make_run(tmp_path, shifted)), ["chest_tube"]).parts[0].contrasts[0]
    parts = [bias(scores_of_run(make_run(tmp_path, table[fold == each], encoder=f"f{each}")), ["chest_tube"])
             for each in range(3)]  # fmt: skip
    means = np.mean([part.parts[0].contrasts[0].fixed[0].auroc.value for part in parts])
    assert found.fixed[0].auroc.value == pytest.approx(means)
    assert found.cross["subgroup"].value == pytest.approx(
        np.mean([part.parts[0].contrasts[0].cross["subgroup"].value for part in parts])
    )


def test_pages_tell_the_same_and_escape(tmp_path: Path) -> None:
    table = predictions(effect=1.0).assign(ward=lambda each: np.where(each["sex"] == "F", "<b>1</b>", "2"))
    reports = [bias(scores_of_run(make_run(tmp_path, table)), ["chest_tube", "ward", "sex*age:65"])]
    page, text = BiasReport(reports).html, BiasReport(reports).markdown
    assert "&lt;b&gt;1&lt;/b&gt;" in page
    assert "<b>1" not in page
    effect = reports[0].parts[0].contrasts[0].fixed[0].effect
    assert effect.standardised is not None
    assert f"{effect.standardised:+.2f}, p &lt; .001" in page
    assert f"| chest_tube = 1 | {effect.standardised:+.2f}, p < .001 |" in text
    assert "F, ≥65" in page


def test_what_the_strata_differ_by_is_told_with_what_could_have_been_found(tmp_path: Path) -> None:
    table = predictions(effect=1.0)
    noise = np.random.default_rng(5).random(len(table))
    report = bias(scores_of_run(make_run(tmp_path, table.assign(score_ptx=noise))), ["sex"], adjust=["age"])
    (part,) = report.parts
    gap = part.contrasts[0].gap
    areas = {each.level: each.metrics["auroc"].value for each in part.strata}
    assert part.worst == min(areas, key=lambda level: areas[level])
    assert gap.value == pytest.approx(areas["M"] - areas["F"])
    assert f"not detected; one of {gap.detectable:.3f} could have been detected" in BiasReport([report]).markdown
    assert f">{part.worst} (lowest AUROC)</td>" in BiasReport([report]).html
    crossed = bias(scores_of_run(make_run(tmp_path, table, encoder="x")), ["sex*age:50"])
    assert rf"The lowest AUROC by sex\*age:50 is that of {crossed.parts[0].worst}." in BiasReport([crossed]).markdown
    assert "standard deviations, adjusted for age;" in BiasReport([report]).markdown
    # Constant scores: every stratum lies at .5, and nothing has a width of zero.
    flat = bias(scores_of_run(make_run(tmp_path, table.assign(score_ptx=0.3), encoder="c")), ["sex"])
    assert (flat.parts[0].contrasts[0].gap.low, flat.parts[0].contrasts[0].gap.high) == (None, None)
    assert "+0.000 [no interval]" in BiasReport([flat]).html
    assert "[0.500, 0.500]" not in BiasReport([flat]).html
    few = predictions(120)
    assert "] ~</td>" in BiasReport([bias(scores_of_run(make_run(tmp_path, few, encoder="few")), ["sex"])]).html


def test_the_verb(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", predictions(effect=1.0))
    make_run(tmp_path / "runs", predictions(), encoder="two")
    make_run(tmp_path / "runs", predictions().assign(score_ptx=0.5), encoder="constant", baseline=True)

    def asked(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["bias", *map(str, arguments)], env={"COLUMNS": "200"})
        return done.exit_code, done.output + (str(done.exception) if done.exception else "")

    code, said = asked(
        tmp_path / "runs", "--by", "chest_tube, sex", "--html", tmp_path / "b.html", "--markdown", tmp_path / "b.md"
    )
    assert code == 0, said
    assert "two · linear · frozen" in said
    assert "constant" not in said
    assert (tmp_path / "b.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "b.md").read_text().startswith("# Subgroups")
    code, said = asked(run.folder, "--by", "chest_tube", "--json")
    assert code == 0
    assert json.loads(said)["models"][0]["parts"][0]["attribute"] == "chest_tube"
    assert "no run or table" in asked(tmp_path / "none", "--by", "sex")[1]
    assert "'chest_tube'" in asked(run.folder, "--by", "chest_tub")[1]
    assert "--by was given without a name" in asked(run.folder, "--by", " ")[1]
    assert "a run brings its own" in asked(run.folder, "--by", "sex", "--threshold", "0.5")[1]
    with pytest.raises(EvalfmError, match="no score of one yes-or-no question"):
        scores_of_run(make_run(tmp_path / "ctr", predictions().assign(prediction=0.1), kind="regression"))


def test_an_attribute_is_never_adjusted_for_itself(tmp_path: Path) -> None:
    scores = scores_of_run(make_run(tmp_path, predictions(effect=0.4)))
    both = bias(scores, ["sex", "age:65"], adjust=["sex", "age"])
    sex, age = (part.contrasts[0].fixed[0].effect for part in both.parts)
    assert sex == bias(scores, ["sex"], adjust=["age"]).parts[0].contrasts[0].fixed[0].effect
    assert age == bias(scores, ["age:65"], adjust=["sex"]).parts[0].contrasts[0].fixed[0].effect


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", predictions())
    other = make_run(tmp_path / "b", predictions(effect=1.0), name="site-b", test_name="site-b")
    assert model_names([one, other]) == ["one · linear · frozen · toy", "one · linear · frozen · site-b"]
    same = make_run(tmp_path / "c", predictions(effect=1.0), seed=1)
    assert len(set(model_names([one, same]))) == 2
    # What they have in common is not said.
    assert not any("toy" in name for name in model_names([one, same]))
    third = make_run(tmp_path / "d", predictions(), task="tube-cls")
    assert model_names([one, third, other])[:2] == [
        "one · linear · frozen · ptx-cls · toy",
        "one · linear · frozen · tube-cls",
    ]
    assert model_names([one]) == ["one · linear · frozen"]
    told = CliRunner().invoke(app, ["bias", str(one.folder), str(other.folder), "--by", "chest_tube", "--json"])
    assert [each["model"] for each in json.loads(told.stdout)["models"]] == model_names([one, other])


def labelled(n: int = 900, images: int = 1) -> pd.DataFrame:
    """Three labels, a fifth unknown; the score of ``mass`` leans on the tube."""
    generator = np.random.default_rng(7)
    truth = (generator.random((n, 3)) < 0.4).astype(float)
    tube = generator.random(n) < 0.4
    raw = 1.5 * truth + generator.normal(size=(n, 3)) - 1
    raw[:, 2] += 1.0 * tube
    targets = np.where(generator.random((n, 3)) < 0.2, np.nan, truth)
    return label_table(targets, 1 / (1 + np.exp(-raw)), images).assign(chest_tube=tube.astype(float))


def test_every_label_is_a_question_over_the_images_where_it_is_known(tmp_path: Path) -> None:
    table = labelled()
    run = make_run(tmp_path, table, kind="multilabel", classes=LABELS)
    reports = bias_of_questions(questions_of_run(run), ["chest_tube"])
    assert [report.model for report in reports] == [f"one · linear · frozen · {name}" for name in LABELS]
    for report, name in zip(reports, LABELS, strict=True):
        known = table[table[f"target_{name}"].notna()]
        assert report.images == len(known)
        contrast = report.parts[0].contrasts[0]
        member = known["chest_tube"].to_numpy() == 1
        expected = at_fixed_label(
            SubgroupScores.of(known[f"target_{name}"], known[f"score_{name}"], member, known["patient"])
        )
        assert contrast.fixed[0].effect.p == pytest.approx(expected[0].effect.p, rel=1e-9)
        assert ("the score is higher with chest_tube = 1" in contrast.verdict) == (name == "mass")
    # p is corrected over the levels of all labels, not label by label.
    contrasts = [report.parts[0].contrasts[0] for report in reports]
    raw = [each.fixed[0].effect.p for each in contrasts]
    assert [report.parts[0].contrasts[0].corrected for report in reports] == pytest.approx(
        benjamini_hochberg(raw).tolist()
    )
    (alone,) = bias_of_questions(questions_of_run(run, "mass"), ["chest_tube"])
    assert alone.model.endswith("mass")
    assert alone.parts[0].contrasts[0].corrected == pytest.approx(raw[2])
    with pytest.raises(EvalfmError, match="Did you mean 'mass'"):
        questions_of_run(run, "mas")
    assert scores_of_run(run, "mass").threshold is None
    cuts = {name: number / 10 for number, name in enumerate(LABELS, 3)}
    cut = make_run(
        tmp_path / "cut",
        table.assign(**{f"threshold_{name}": cuts[name] for name in LABELS}),
        kind="multilabel",
        classes=LABELS,
    )
    for name in LABELS:
        own = scores_of_run(cut, name)
        assert own.threshold is not None
        assert set(own.threshold) == {cuts[name]}
        assert list(own.table.columns) == ["chest_tube"]
    with pytest.raises(EvalfmError, match="answers a multilabel task, which has no score of one yes-or-no question"):
        scores_of_run(run)


def test_a_label_without_scores_is_said_and_the_others_are_told(tmp_path: Path) -> None:
    table = labelled().assign(score_edema=np.nan)
    run = make_run(tmp_path, table, kind="multilabel", classes=LABELS)
    found = questions_of_run(run)
    assert [each.name.split(" · ")[-1] for each in found] == ["effusion", "mass"]
    assert any("'edema' has no score" in caution for caution in found[0].cautions)
    with pytest.raises(EvalfmError, match="'edema' has no score"):
        questions_of_run(run, "edema")


def test_a_class_is_asked_against_the_rest(tmp_path: Path) -> None:
    target = np.random.default_rng(0).integers(0, 4, 400)
    scores = class_scores(target, 1.0, 1)
    table = class_table(target, scores).assign(view=np.where(np.arange(400) % 2, "CC", "MLO"))
    for kind in ("multiclass", "ordinal"):
        run = make_run(tmp_path / kind, table, kind=kind, classes=GRADES)
        (found,) = questions_of_run(run, "C")
        np.testing.assert_array_equal(found.target, target == 2)
        np.testing.assert_array_equal(found.score, scores[:, 2])
        assert found.threshold is None
        assert [each.name[-1] for each in questions_of_run(run)] == list(GRADES)
        (report,) = bias_of_questions([found], ["view"])
        stratum = report.parts[0].strata[0]
        assert stratum.events == int((target[1::2] == 2).sum())
        assert stratum.metrics["sensitivity"].value is None


def test_the_verb_asks_one_label_or_all(tmp_path: Path) -> None:
    make_run(tmp_path / "a", labelled(400), kind="multilabel", classes=LABELS)
    make_run(tmp_path / "b", predictions(400))
    (tmp_path / "table.csv").write_text(predictions(100).to_csv())

    def asked(*arguments: object) -> str:
        done = CliRunner().invoke(app, ["bias", *map(str, arguments)], env={"COLUMNS": "220"})
        return done.output + (str(done.exception) if done.exception else "")

    every = json.loads(asked(tmp_path / "a", "--by", "chest_tube", "--json"))["models"]
    assert [each["model"].split(" · ")[-1] for each in every] == list(LABELS)
    (one,) = json.loads(asked(tmp_path, "--by", "chest_tube", "--label", "mass", "--json"))["models"]
    assert one["model"].endswith("mass")
    assert "Did you mean 'mass'" in asked(tmp_path, "--by", "chest_tube", "--label", "mas")
    assert "--label is of runs" in asked(tmp_path / "a", tmp_path / "table.csv", "--by", "sex", "--label", "mass")
    page = tmp_path / "bias.html"
    assert "Wrote" in asked(tmp_path, "--by", "chest_tube", "--html", page)
    assert "one · linear · frozen · chexpert5 · effusion" in page.read_text()


def test_many_models_stand_below_one_another(tmp_path: Path) -> None:
    run = make_run(tmp_path, labelled(400), kind="multilabel", classes=LABELS)
    reports = bias_of_questions(questions_of_run(run), ["chest_tube"])
    shown = BiasReport(reports).leaning
    header, rows = shown.header, shown.texts
    assert list(header) == ["attribute", *(report.model for report in reports)]
    other = BiasReport([*reports, *reports]).leaning
    turned_header, turned = other.header, other.texts
    assert list(turned_header) == ["model", "chest_tube = 1"]
    assert [row[1] for row in turned[:3]] == rows[0][1:]
    assert [row[0] for row in turned[:3]] == list(header[1:])


def test_all_models_of_a_page_are_one_family_and_its_size_is_said(tmp_path: Path) -> None:
    table = predictions(effect=0.35, seed=1)
    one, two = (
        bias(scores_of_run(make_run(tmp_path / name, each, encoder=name)), ["chest_tube", "sex"])
        for name, each in (("one", table), ("two", predictions(seed=2)))
    )
    joined = one_family([one, two])
    every = [each for report in joined for _, each in report.contrasts]
    for raw, corrected in (
        ([each.fixed[0].effect.p for each in every], [each.corrected for each in every]),
        ([each.fixed[0].p for each in every], [each.corrected_auroc for each in every]),
        (
            [gap.difference.p for each in every for gap in each.gaps.values()],
            [each.corrected_gaps[name] for each in every for name in each.gaps],
        ),
    ):
        adjusted = benjamini_hochberg([np.nan if p is None else p for p in raw])
        assert corrected == [None if np.isnan(p) else pytest.approx(p) for p in adjusted]
    alone = [each for report in (one, two) for _, each in report.contrasts]
    assert [each.corrected for each in alone] != [each.corrected for each in every]
    sizes = {"adjusted effects": 4, "AUROCs for the attribute": 4, "gaps at the operating point": 24}
    assert joined[0].families == joined[1].families == {**sizes, "tests within lesion sizes": 0}
    # The verb joins them itself, and writes the sizes.
    said = CliRunner().invoke(app, ["bias", str(tmp_path), "--by", "chest_tube,sex", "--json"])
    told = json.loads(said.stdout)
    assert told["families"]["sizes"]["adjusted effects"] == 4
    assert [each["corrected"] for model in told["models"] for part in model["parts"] for each in part["contrasts"]] == [
        pytest.approx(each.corrected) for each in every
    ]
    assert "4 adjusted effects, 4 AUROCs" in CliRunner().invoke(app, ["bias", str(tmp_path), "--by", "chest_tube,sex"],
                                                                env={"COLUMNS": "300"}).output  # fmt: skip


def test_gaps_at_the_operating_point_are_those_of_the_statistics(tmp_path: Path) -> None:
    table = predictions(effect=1.0).assign(fold=np.arange(600) // 2 % 2)
    threshold = np.where(table["fold"] == 0, 0.3, 0.6)
    scores = scores_of_run(make_run(tmp_path, table.assign(threshold=threshold)))
    report = bias(scores, ["chest_tube"])
    contrast = report.parts[0].contrasts[0]
    member = table["chest_tube"].to_numpy() == 1
    expected = operating_gaps(
        table["target"],
        table["score_ptx"],
        member,
        table["patient"],
        called=table["score_ptx"] >= threshold,
        prevalence=table["target"].mean(),
    )
    assert contrast.gaps == expected
    assert report.prevalence == pytest.approx(table["target"].mean())
    assert contrast.gaps["specificity"].here < contrast.gaps["specificity"].elsewhere
    text = BiasReport([report]).markdown
    assert "Specificity with chest_tube = 1 minus elsewhere: -0." in text
    assert f"at a prevalence of {report.prevalence:.3g} (that of the test set)" in BiasReport([report]).html
    rare = bias(scores, ["chest_tube"], options=ReportOptions(prevalence=0.01))
    assert rare.parts[0].contrasts[0].gaps["ppv"].here < contrast.gaps["ppv"].here
    assert rare.parts[0].contrasts[0].gaps["sensitivity"] == contrast.gaps["sensitivity"]
    assert "at a prevalence of 0.01 (given)" in BiasReport([rare]).html
    with pytest.raises(EvalfmError, match="5 is no prevalence"):
        ReportOptions(prevalence=5)


def test_the_verb_takes_a_prevalence(tmp_path: Path) -> None:
    run = make_run(tmp_path, predictions(effect=1.0))
    asked = ["bias", str(run.folder), "--by", "chest_tube", "--json"]
    own, rare = (
        json.loads(CliRunner().invoke(app, [*asked, *more]).stdout)["models"][0]
        for more in ([], ["--prevalence", "0.01"])
    )
    assert (own["prevalence_given"], rare["prevalence_given"], rare["prevalence"]) == (False, True, 0.01)
    one, other = (each["parts"][0]["contrasts"][0]["gaps"]["ppv"] for each in (own, rare))
    assert other["here"] < one["here"]
    assert other["difference"]["p"] == pytest.approx(one["difference"]["p"])
    assert CliRunner().invoke(app, [*asked, "--prevalence", "5"]).exit_code != 0


def test_rows_without_a_covariate_are_counted_on_the_page(tmp_path: Path) -> None:
    table = predictions(effect=1.0)
    table.loc[::10, "age"] = np.nan
    report = bias(scores_of_run(make_run(tmp_path, table)), ["chest_tube"], adjust=["age", "sex"])
    lost = int((table["age"].isna() & (table["target"] == 0)).sum())
    contrast = report.parts[0].contrasts[0]
    assert contrast.fixed[0].effect.left_out == lost
    assert f"leaves out {lost} images without a known age or sex (taken as missing completely at" in contrast.verdict
    assert f">{lost}</td>" in BiasReport([report]).html
    plain = bias(scores_of_run(make_run(tmp_path / "p", table)), ["chest_tube"])
    assert "leaves out" not in plain.parts[0].contrasts[0].verdict
