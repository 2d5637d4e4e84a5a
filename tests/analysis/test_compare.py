from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evalfm.analysis.choose import choose
from evalfm.analysis.compare import compare
from evalfm.analysis.pairing import Paired
from evalfm.analysis.report.page import report_page
from evalfm.analysis.table import task_tables
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.statistics.auroc import auroc
from evalfm.statistics.comparison import Difference, compare_means, holm, minimal_detectable_difference
from evalfm.statistics.ranks import negated, rank_sets

from ..statistics.paired import compare_auroc
from .made import binary_table, make_run, signal

TARGET = np.random.default_rng(0).random(300) < 0.4
STRENGTHS = {"good": 2.0, "same": 1.95, "poor": 0.6}


def scores() -> dict[str, np.ndarray]:
    return {name: signal(TARGET, strength, seed) for seed, (name, strength) in enumerate(STRENGTHS.items())}


def runs(out: Path) -> list[Run]:
    made = [make_run(out, binary_table(score, TARGET), encoder=name) for name, score in scores().items()]
    return [*made, make_run(out, binary_table(np.full(300, 0.4), TARGET), encoder="constant", baseline=True)]


def test_differences_ps_and_sets_are_those_of_the_statistics(tmp_path: Path) -> None:
    (table,) = compare(runs(tmp_path))
    assert [entry.encoder for entry in table.entries][-1] == "constant"
    by_name = {entry.encoder: entry for entry in table.entries}
    found = scores()
    patient = binary_table(found["good"], TARGET)["patient"].to_numpy()
    values = {name: auroc(TARGET, score) for name, score in found.items()}
    best = max(values, key=lambda name: values[name])
    names = sorted(values)
    every = list(combinations(names, 2))
    adjusted = dict(
        zip(every, holm([compare_auroc(TARGET, found[a], found[b], patient).p for a, b in every]), strict=True)
    )
    for name in names:
        entry = by_name[name]
        assert entry.estimate.value == pytest.approx(values[name])
        if name == best:
            assert entry.difference is None
            assert entry.in_best_set
            continue
        expected = compare_auroc(TARGET, found[name], found[best], patient)
        assert entry.difference is not None
        assert entry.difference.value == pytest.approx(expected.value)
        assert entry.difference.p == pytest.approx(expected.p)
        key = (name, best) if (name, best) in adjusted else (best, name)
        assert entry.p == pytest.approx(adjusted[key], rel=1e-9, abs=0)
        assert entry.in_best_set == (adjusted[key] >= 0.05)
        assert entry.detectable == pytest.approx(minimal_detectable_difference(expected.standard_error, comparisons=3))
    assert not by_name["poor"].in_best_set
    assert by_name["same"].in_best_set or by_name["good"].in_best_set
    assert table.pairs == 3


def test_baselines_are_shown_and_never_in_the_family(tmp_path: Path) -> None:
    (table,) = compare(runs(tmp_path))
    baseline = table.entries[-1]
    assert (baseline.p, baseline.rank, baseline.in_best_set, baseline.non_inferior) == (None, None, None, None)
    assert baseline.difference is not None
    assert baseline.difference.value < 0
    (without,) = compare([run for run in runs(tmp_path / "again") if not run.is_baseline])
    assert [entry.p for entry in without.entries] == [entry.p for entry in table.entries[:-1]]


def test_one_that_is_significantly_better_than_the_best_estimate_stays_in_the_best_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = runs(tmp_path)
    plain = Paired.differences
    # A contrast of another opinion than the estimates: every difference has the other sign.
    monkeypatch.setattr(Paired, "differences", lambda self, pairs: [negated(each) for each in plain(self, pairs)])
    (table,) = compare(made)
    poor = next(each for each in table.entries if each.encoder == "poor")
    assert poor.difference is not None
    assert poor.difference.value > 0.1
    assert poor.p is not None
    assert poor.p < 0.001
    assert poor.in_best_set


def test_of_what_the_ps_speak_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = runs(tmp_path)
    assert compare(made)[0].speaks_of.startswith("Differences are of these trained heads")
    plain = Paired.differences

    def counted(self: Paired, pairs: Sequence[tuple[int, int]]) -> list[Difference]:
        return [
            replace(each, training_error=0.01) if pair[0] in trained else each
            for pair, each in zip(pairs, plain(self, pairs), strict=True)
        ]

    monkeypatch.setattr(Paired, "differences", counted)
    trained = {0, 1, 2}
    (table,) = compare(made)
    of_encoders = (
        "Differences are of encoders: errors, p and intervals count what another training sample would have changed"
    )
    assert table.speaks_of == f"{of_encoders}."
    assert not table.mixed
    assert {each.speaks_of for each in table.against} == {"encoders"}
    said = CliRunner().invoke(app, ["compare", str(tmp_path)], env={"COLUMNS": "200"}).output
    assert f"Holm over 3 pairs.\n  {of_encoders}." in said
    assert "speaks of encoders, training variance counted:" in said
    assert of_encoders in choose(made, "ptx-cls").paragraph
    assert of_encoders in report_page(made)
    written = table.to_json()
    assert written["entries"][1]["difference"]["speaks_of"] == "encoders"
    trained = {0}
    (table,) = compare(made)
    assert table.speaks_of.endswith("would have changed in 2 of 3; the others are of these trained heads.")
    said = CliRunner().invoke(app, ["compare", str(tmp_path)], env={"COLUMNS": "200"}).output
    assert "† marks these" in said
    assert "< .001†" in said


def test_what_counts_in_a_mean_changes_estimate_test_rank_and_best_set_together(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    # Twenty patients of twenty images, on which "many" is better; eighty of one, on which "few" is.
    patient = np.array([*np.repeat(np.arange(20), 20), *np.arange(20, 100)])
    crowded = patient < 20
    tables = {}
    for name, shift in (("many", 0.1), ("few", -0.1)):
        dice = 0.6 + np.where(crowded, shift, -shift) + 0.05 * generator.normal(size=len(patient))
        table = pd.DataFrame({"id": [f"{row:04}" for row in range(len(patient))], "dice_ptx": np.clip(dice, 0, 1)})
        tables[name] = table.assign(
            patient=[f"p{each:03}" for each in patient], area_true_ptx=5.0, area_predicted_ptx=5.0
        )
    made = [make_run(tmp_path, table, encoder=name, kind="segmentation") for name, table in tables.items()]
    (images,), (patients,) = compare(made), compare(made, average_over="patient")
    assert [each.encoder for each in images.entries] == ["many", "few"]
    assert [each.encoder for each in patients.entries] == ["few", "many"]
    means = {name: table.groupby("patient")["dice_ptx"].mean() for name, table in tables.items()}
    for entry in patients.entries:
        assert entry.estimate.value == pytest.approx(means[entry.encoder].mean())
        assert entry.estimate.low < means[entry.encoder].mean() < entry.estimate.high
    expected = compare_means(
        tables["many"]["dice_ptx"], tables["few"]["dice_ptx"], tables["few"]["patient"].to_numpy(dtype=str)
    )
    worse = patients.entries[1]
    assert worse.difference is not None
    assert (worse.difference.value, worse.p) == (pytest.approx(expected.value), pytest.approx(expected.p))
    assert (patients.entries[0].rank, worse.rank, worse.in_best_set) == ((1, 1), (2, 2), False)
    assert (images.entries[0].rank, images.entries[1].in_best_set) == ((1, 1), False)
    assert "mean over images: every image counts once" in images.estimand
    assert "mean over patients of the mean of their images" in patients.estimand
    assert choose(made, "ptx-seg", average_over="patient").comparison.entries[0].encoder == "few"
    done = CliRunner().invoke(app, ["compare", str(tmp_path), "--average-over", "patient"], env={"COLUMNS": "200"})
    assert "every patient counts once" in done.output


def test_what_is_no_mean_over_images_is_not_averaged_over_patients(tmp_path: Path) -> None:
    made = runs(tmp_path)
    with pytest.raises(EvalfmError, match=r"auroc is no mean over images, .* compare by .*accuracy.*brier") as error:
        compare(made, average_over="patient")
    assert not {"ppv", "f1", "auprc", "balanced_accuracy"} & set(
        str(error.value).replace(".", "").replace(",", "").split()
    )
    for metric in ("accuracy", "sensitivity", "specificity", "brier"):
        assert compare(made, metric=metric, average_over="patient")[0].entries
    unknown = [
        make_run(tmp_path / "unknown", binary_table(score, TARGET), encoder=name, patients_known=False)
        for name, score in scores().items()
    ]
    with pytest.raises(EvalfmError, match="patients are unknown"):
        compare(unknown, metric="brier", average_over="patient")
    code = CliRunner().invoke(app, ["compare", str(tmp_path), "--average-over", "study"])
    assert code.exit_code != 0
    assert "patient" in code.output + str(code.exception)


def test_the_detectable_difference_follows_the_law_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, plain = runs(tmp_path), Paired.differences
    (by_z,) = compare(made)
    monkeypatch.setattr(
        Paired,
        "differences",
        lambda self, pairs: [replace(each, degrees_of_freedom=6.5) for each in plain(self, pairs)],
    )
    (by_t,) = compare(made)
    for one, other in zip(by_z.entries[1:3], by_t.entries[1:3], strict=True):
        assert other.difference is not None
        expected = minimal_detectable_difference(other.difference.standard_error, degrees_of_freedom=6.5, comparisons=3)
        assert one.detectable is not None
        assert other.detectable == pytest.approx(expected)
        assert expected > 1.2 * one.detectable


def test_ranks_tell_the_poor_one_apart(tmp_path: Path) -> None:
    (table,) = compare(runs(tmp_path))
    ranks = {entry.encoder: entry.rank for entry in table.entries}
    assert ranks["poor"] == (3, 3)
    contenders = [entry.name for entry in table.entries if not entry.baseline]
    known = {(each.first, each.second): each.difference for each in table.every_pair}
    found = [known[pair] if pair in known else negated(known[pair[::-1]]) for pair in combinations(contenders, 2)]
    assert [entry.rank for entry in table.entries if not entry.baseline] == rank_sets(found)
    assert ranks["good"] is not None
    assert ranks["good"][1] <= 2


def test_seeds_are_averaged_as_metrics_not_as_scores(tmp_path: Path) -> None:
    first, second = signal(TARGET, 1.0, 5), signal(TARGET, 1.0, 6)
    made = [make_run(tmp_path, binary_table(score, TARGET), seed=seed) for seed, score in enumerate((first, second))]
    made.append(make_run(tmp_path, binary_table(signal(TARGET, 0.5, 7), TARGET), encoder="two"))
    (table,) = compare(made)
    entry = next(each for each in table.entries if each.encoder == "one")
    assert entry.seeds == 2
    assert entry.seed_sd is not None
    assert entry.estimate.value == pytest.approx((auroc(TARGET, first) + auroc(TARGET, second)) / 2)
    assert entry.estimate.value != pytest.approx(auroc(TARGET, (first + second) / 2), abs=1e-3)


def test_means_go_by_the_paired_t_test_and_errors_are_better_small(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    target = generator.normal(size=60)
    tables = {}
    for name, spread in (("near", 0.1), ("far", 1.0)):
        tables[name] = pd.DataFrame(
            {
                "id": [f"i{row:03}" for row in range(60)],
                "patient": [f"p{row // 2:03}" for row in range(60)],
                "target": target,
                "prediction": target + spread * np.random.default_rng(len(name)).normal(size=60),
            }
        )
    made = [make_run(tmp_path, table, encoder=name, kind="regression") for name, table in tables.items()]
    (table,) = compare(made, margin=0.05)
    best, other = table.entries
    assert best.encoder == "near"
    errors = {name: np.abs(each["prediction"] - each["target"]).to_numpy() for name, each in tables.items()}
    expected = compare_means(errors["far"], errors["near"], tables["near"]["patient"].to_numpy())
    assert other.difference is not None
    assert other.difference.value == pytest.approx(expected.value)
    assert other.p == pytest.approx(expected.p)
    assert other.non_inferior is False


def test_dice_is_compared_on_radiographs_with_a_lesion(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    made = []
    for name, shift in (("one", 0.0), ("two", 0.1)):
        area = np.array([10.0, 0.0] * 20)
        dice = np.clip(generator.random(40) * 0.5 + shift, 0, 1)
        table = pd.DataFrame(
            {"id": [f"{row:03}" for row in range(40)], "patient": [f"{row:03}" for row in range(40)], "dice_ptx": dice}
        ).assign(area_true_ptx=area, area_predicted_ptx=area)
        made.append((make_run(tmp_path, table, encoder=name, kind="segmentation"), dice[area > 0]))
    (table,) = compare([run for run, _ in made])
    values = {entry.encoder: entry.estimate.value for entry in table.entries}
    assert values == {run.encoder: pytest.approx(dice.mean()) for run, dice in made}
    assert table.entries[0].estimate.n == 20


def test_runs_that_cannot_be_paired_say_what_differs(tmp_path: Path) -> None:
    score = signal(TARGET, 1.0, 0)
    one = make_run(tmp_path, binary_table(score, TARGET))
    fewer = make_run(tmp_path, binary_table(score[:200], TARGET[:200]), encoder="fewer")
    with pytest.raises(EvalfmError, match="tested on 300 and 200 images, 200 of them the same"):
        compare([one, fewer])
    mined = make_run(tmp_path, binary_table(score, TARGET), encoder="mined", label_source={"ptx": "text-mined"})
    with pytest.raises(
        EvalfmError, match=r"labels come from ptx (radiologist and ptx text-mined|text-mined and ptx radiologist)"
    ):
        compare([one, mined])
    flipped = make_run(tmp_path, binary_table(score, ~TARGET), encoder="flipped")
    with pytest.raises(EvalfmError, match="'target' of their predictions differs"):
        compare([one, flipped])
    swapped = binary_table(score, TARGET, patient=np.array([f"q{row:05}" for row in range(300)]))
    with pytest.raises(EvalfmError, match="'patient' of their predictions differs"):
        compare([one, make_run(tmp_path, swapped, encoder="swapped")])


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    made = runs(tmp_path / "a")
    shuffled = [make_run(tmp_path / "b", binary_table(score, TARGET).sample(frac=1, random_state=3), encoder=name)
                for name, score in scores().items()]  # fmt: skip
    (one,) = compare([run for run in made if not run.is_baseline])
    (other,) = compare(shuffled)
    assert [(e.encoder, e.estimate.value, e.p) for e in one.entries] == [
        (e.encoder, e.estimate.value, e.p) for e in other.entries
    ]


def test_non_inferiority_refers_to_what_is_named(tmp_path: Path) -> None:
    made = runs(tmp_path)
    (wide,) = compare(made, margin=0.5, reference="good")
    assert wide.reference == "good"
    assert not wide.post_hoc
    assert {entry.encoder: entry.non_inferior for entry in wide.entries} == {
        "good": None, "same": True, "poor": True, "constant": None,
    }  # fmt: skip
    (narrow,) = compare(made, margin=0.001)
    assert narrow.post_hoc
    assert not any(entry.non_inferior for entry in narrow.entries)
    with pytest.raises(EvalfmError, match="good"):
        compare(made, margin=0.1, reference="goood")
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(EvalfmError, match="must be positive and finite"):
            compare(made, margin=wrong)
    with pytest.raises(EvalfmError, match="give both"):
        compare(made, reference="good")


def test_the_verb(tmp_path: Path) -> None:
    runs(tmp_path)

    def asked(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "200"})
        return done.exit_code, done.output + (str(done.exception) if done.exception else "")

    code, said = asked(tmp_path, "--margin", "0.02")
    assert code == 0, said
    assert "Holm over 3 pairs" in said
    assert "baseline" in said
    assert "chosen after the fact" in said
    code, said = asked(tmp_path, "--json", "--task", "ptx-cls")
    assert code == 0
    assert json.loads(said)[0]["entries"][0]["in_best_set"] is True
    assert "no folder" in asked(tmp_path / "none")[1]
    assert "ptx-cls" in asked(tmp_path, "--task", "ptx-clz")[1]
    assert "'linear'" in asked(tmp_path, "--head", "liner")[1]
    (tmp_path / "empty").mkdir()
    assert "no run in" in asked(tmp_path / "empty")[1]


def test_an_auroc_of_too_few_patients_is_not_compared(tmp_path: Path) -> None:
    target = np.arange(60) < 9
    runs = [make_run(tmp_path, binary_table(signal(target, 1, seed), target), encoder=f"e{seed}") for seed in (0, 1)]
    with pytest.raises(EvalfmError, match=r"needs at least 10 patients .* there are 9 and 51\. Test on more data"):
        compare(runs)


def test_other_images_of_the_same_ids_are_neither_paired_nor_seeds(tmp_path: Path) -> None:
    target = np.arange(60) < 30
    runs = [
        make_run(tmp_path, binary_table(signal(target, 1, seed), target), encoder="one", seed=seed, test_digest=digest)
        for seed, digest in ((0, "a"), (1, "b"))
    ]
    tables = task_tables(runs)
    assert [[len(line.runs) for line in table.lines] for table in tables] == [[1], [1]]
    assert [table.cohort for table in tables] == ["toy, images a", "toy, images b"]
    with pytest.raises(EvalfmError, match="two data sets named 'toy'"):
        compare(
            [runs[0], make_run(tmp_path, binary_table(signal(target, 1, 3), target), encoder="two", test_digest="b")]
        )
    # One encoder alone: each cohort has its table.
    assert [table.cohort for table in compare(runs)] == ["toy, images a", "toy, images b"]


def test_inputs_of_another_size_are_another_line_and_no_seed(tmp_path: Path) -> None:
    made = [
        make_run(
            tmp_path / str(size),
            binary_table(signal(TARGET, 1.0, number), TARGET),
            settings={"encoder": {"input_size": size, "resize": None}},
        )
        for number, size in enumerate((None, 112))
    ]
    (table,) = compare(made)
    assert sorted(entry.encoder for entry in table.entries) == ["one", "one (112 px)"]
    assert [entry.seeds for entry in table.entries] == [1, 1]


def test_lines_on_fewer_labels_are_told_apart(tmp_path: Path) -> None:
    made = []
    for number, shots in enumerate((None, 10)):
        images = {"images": 300 if shots is None else 20, "patients": 20, "positive_images": 10}
        test = {"images": 300, "patients": 300, "positive_images": int(TARGET.sum())}
        splits = {"train": images, "val": images, "test": test}
        table = binary_table(signal(TARGET, 1.0, number), TARGET)
        made.append(make_run(tmp_path / str(shots), table, settings={"shots": shots}, splits=splits))
    (table,) = compare(made)
    assert sorted(entry.encoder for entry in table.entries) == ["one (20 train images)", "one (300 train images)"]


def test_a_small_class_marks_the_interval_and_unknown_patients_the_unit(tmp_path: Path) -> None:
    target = np.arange(200) < 15
    made = [make_run(tmp_path, binary_table(signal(target, 1, 0), target), patients_known=False)]
    (table,) = compare(made)
    assert table.entries[0].estimate.note == "interval approximate"
    assert table.entries[0].estimate.unit == "images"
