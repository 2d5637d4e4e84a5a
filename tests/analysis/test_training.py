"""Training variance in comparisons of runs: by refits, draws of shots and folds, and where it cannot be counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evalfm.analysis.pairing import Paired, pair
from evalfm.analysis.report.methods import methods_paragraph
from evalfm.analysis.table import task_tables
from evalfm.analysis.training import sentence
from evalfm.metrics.registry import compute_metrics, metrics_of
from evalfm.metrics.rows import Scored
from evalfm.refits import REFITS
from evalfm.run import Run
from evalfm.statistics.comparison import Difference, contrast_aurocs

from .made import (
    GRADES,
    LABELS,
    binary_table,
    class_scores,
    class_table,
    label_table,
    make_run,
    signal,
    without_digests,
)

N = 200
TARGET = (np.random.default_rng(0).random(N) < 0.4).astype(float)
COUNT = 8
OWN = {name: signal(TARGET, strength, seed) for seed, (name, strength) in enumerate({"a": 1.2, "b": 0.8}.items())}
AGAIN = {
    name: [signal(TARGET, 1.0, 100 * (seed + 1) + number) for number in range(COUNT)] for seed, name in enumerate(OWN)
}


def paired(runs: list[Run], metric: str | None = None) -> tuple[Paired, list[str]]:
    (table,) = task_tables(runs)
    lines = sorted(table.lines, key=lambda line: line.encoder)
    return pair(lines, metric), [line.encoder for line in lines]


def first_minus_second(runs: list[Run], metric: str | None = None) -> Difference:
    return paired(runs, metric)[0].differences([(0, 1)])[0]


def two(out: Path, refits: dict[str, Any] | None = None, **changes: Any) -> list[Run]:
    again = AGAIN if refits is None else refits
    return [
        make_run(out, binary_table(scores, TARGET), encoder=name, refits=again.get(name), **changes)
        for name, scores in OWN.items()
    ]


def test_the_error_is_of_test_patients_and_refits_together(tmp_path: Path) -> None:
    found = first_minus_second(two(tmp_path))
    (plain,) = contrast_aurocs(
        TARGET, np.stack([*OWN.values()], axis=1), [[1, -1]], binary_table(OWN["a"], TARGET)["patient"]
    )
    areas = {name: np.array([roc_auc_score(TARGET, each) for each in scores]) for name, scores in AGAIN.items()}
    training = (areas["a"] - areas["b"]).std(ddof=1)
    assert found.value == pytest.approx(plain.value)
    assert found.test_error == pytest.approx(plain.standard_error)
    assert found.training_error == pytest.approx(training)
    assert found.standard_error == pytest.approx(np.hypot(plain.standard_error, training))
    assert found.degrees_of_freedom == pytest.approx(found.standard_error**4 / (training**4 / (COUNT - 1)))
    assert found.speaks_of == "encoders"
    assert found.method == f"paired clustered DeLong (Obuchowski), with training variance over {COUNT} refits, t"
    assert found.p is not None
    assert plain.p is not None
    assert found.p > plain.p


def test_refits_are_paired_by_the_number_of_their_draw_and_by_image(tmp_path: Path) -> None:
    runs = [without_digests(run) for run in two(tmp_path)]
    expected = first_minus_second(runs)
    path = runs[1].folder / REFITS
    pd.read_parquet(path).sample(frac=1, random_state=0).to_parquet(path, index=False)
    again = first_minus_second([Run.read(run.folder) for run in runs])
    assert again == expected


def test_draws_that_move_both_alike_add_little(tmp_path: Path) -> None:
    """What is shared by two encoders cancels in their difference: refits are paired, not added up."""
    shared = {name: [OWN[name] * 0.5 + each * 0.5 for each in AGAIN["a"]] for name in OWN}
    found = first_minus_second(two(tmp_path, shared))
    areas = [np.array([roc_auc_score(TARGET, each) for each in shared[name]]) for name in OWN]
    assert found.training_error == pytest.approx((areas[0] - areas[1]).std(ddof=1))
    assert found.training_error < 0.8 * np.hypot(areas[0].std(ddof=1), areas[1].std(ddof=1))


@pytest.mark.parametrize("without", [{"a": AGAIN["a"]}, {}, {name: scores[:4] for name, scores in AGAIN.items()}])
def test_where_a_run_has_no_refits_or_few_it_speaks_of_trained_heads(tmp_path: Path, without: dict[str, Any]) -> None:
    found = first_minus_second(two(tmp_path, without))
    assert found.training_error is None
    assert found.standard_error == found.test_error
    assert found.speaks_of == "these trained heads"
    assert found.method.endswith("z")


def test_a_head_that_learns_nothing_has_no_training_variance(tmp_path: Path) -> None:
    one, none = first_minus_second(two(tmp_path / "one", {"a": AGAIN["a"], "b": []})), {"a": [], "b": []}
    areas = np.array([roc_auc_score(TARGET, each) for each in AGAIN["a"]])
    assert one.training_error == pytest.approx(areas.std(ddof=1))
    neither = first_minus_second(two(tmp_path / "none", none))
    assert neither.training_error == 0
    assert neither.standard_error == neither.test_error
    assert neither.speaks_of == "encoders"


def test_seeds_do_not_stand_for_training_samples(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, binary_table(signal(TARGET, 1.0, 10 * place + seed), TARGET), encoder=name, seed=seed)
        for place, name in enumerate("ab")
        for seed in range(3)
    ]
    assert first_minus_second(runs).training_error is None


def test_a_constant_baseline_adds_nothing_of_its_own(tmp_path: Path) -> None:
    blind = [np.full(N, 0.3 + number / 100) for number in range(COUNT)]
    runs = [
        make_run(tmp_path, binary_table(OWN["a"], TARGET), encoder="a", refits=AGAIN["a"]),
        make_run(tmp_path, binary_table(np.full(N, 0.4), TARGET), encoder="constant", baseline=True, refits=blind),
    ]
    areas = np.array([roc_auc_score(TARGET, each) for each in AGAIN["a"]])
    assert first_minus_second(runs).training_error == pytest.approx(areas.std(ddof=1))


def several(out: Path, kind: str) -> list[Run]:
    generator = np.random.default_rng(5)
    grades, labels = generator.integers(0, 4, N), (generator.random((N, 3)) < 0.4).astype(float)
    labels[generator.random((N, 3)) < 0.2] = np.nan
    runs = []
    for place, name in enumerate("ab"):
        made: list[np.ndarray] = []
        for number in range(COUNT + 1):
            seed = 100 * place + number
            if kind == "regression":
                made.append(TARGET + np.random.default_rng(seed).normal(size=N))
            elif kind == "multilabel":
                noise = np.random.default_rng(seed).normal(size=labels.shape)
                made.append(1 / (1 + np.exp(-(noise + np.nan_to_num(labels)))))
            elif kind == "binary":
                made.append(signal(TARGET, 1.0, seed))
            else:
                made.append(class_scores(grades, 1.0, seed))
        if kind == "regression":
            table = binary_table(made[0], TARGET)[["id", "patient", "target"]].assign(prediction=made[0])
        elif kind == "multilabel":
            table = label_table(labels, made[0]).assign(**{f"threshold_{each}": 0.5 for each in LABELS})
        elif kind == "binary":
            table = binary_table(made[0], TARGET)
        else:
            table = class_table(grades, made[0])
        classes = {"binary": ("ptx",), "multilabel": LABELS, "regression": ()}.get(kind, GRADES)
        runs.append(make_run(out, table, encoder=name, kind=kind, classes=classes, refits=made[1:]))
    return runs


@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass", "ordinal", "regression"])
def test_every_metric_that_is_paired_counts_its_own_refits(tmp_path: Path, kind: str) -> None:
    runs = several(tmp_path, kind)
    names = tuple(runs[0].record.data.class_names)
    tested = 0
    for metric in metrics_of(kind):
        if not metric.contrast or kind not in metric.kinds or metric.name not in runs[0].metrics:
            continue
        by_run = []
        for run in runs:
            scored = [Scored(table, names, True) for table in run.refits().values()]
            by_run.append([compute_metrics(kind, each, only=(metric.name,))[metric.name].value for each in scored])
        if any(value is None for values in by_run for value in values):
            continue
        found = first_minus_second(runs, metric.name)
        expected = np.std(np.subtract(*by_run), ddof=1)
        assert found.training_error == pytest.approx(expected, rel=1e-6), metric.name
        assert found.speaks_of == "encoders", metric.name
        tested += 1
    assert tested >= {"binary": 6, "multilabel": 4, "multiclass": 4, "ordinal": 4, "regression": 3}[kind]


def of_shots(out: Path, seeds: dict[str, int], pool: int | None = 90, shots: int = 16) -> list[Run]:
    return [
        make_run(
            out,
            binary_table(signal(TARGET, 1.0, 50 * place + seed), TARGET),
            encoder=name,
            seed=seed,
            settings={"shots": shots},
            pool=pool,
        )
        for place, (name, count) in enumerate(seeds.items())
        for seed in range(count)
    ]


def test_draws_of_shots_by_the_rule_for_few(tmp_path: Path) -> None:
    runs = of_shots(tmp_path, {"a": 4, "b": 4})
    found = first_minus_second(runs)
    scores = np.stack(
        [run.test_predictions()["score_ptx"] for run in sorted(runs, key=lambda run: (run.encoder, run.seed))], axis=1
    )
    alone = np.concatenate([np.eye(4), -np.eye(4)], axis=1)
    patient = binary_table(OWN["a"], TARGET)["patient"]
    whole, *each = contrast_aurocs(TARGET, scores, [alone.mean(axis=0), *alone], patient)
    average, mean = whole.standard_error**2, np.mean([one.standard_error**2 for one in each])
    spread = np.var([one.value for one in each], ddof=1)
    training = (1 / 4 + 16 / (90 - 16)) * max(0.0, spread - (mean - average) * 4 / 3)
    assert found.value == pytest.approx(whole.value)
    assert found.standard_error == pytest.approx((average + training) ** 0.5)
    assert found.method.endswith("with training variance over 4 draws of 16 shots, t")
    assert found.speaks_of == "encoders"


@pytest.mark.parametrize(
    ("seeds", "pool", "words"),
    [
        ({"a": 1, "b": 1}, 90, "one draw of 16 shots"),
        ({"a": 3, "b": 2}, 90, "3 draws of 16 shots"),
        ({"a": 3, "b": 3}, None, "3 draws of 16 shots"),
        ({"a": 3, "b": 3}, 16, "3 draws of 16 shots"),
    ],
)
def test_draws_that_tell_nothing_of_other_images_are_said_as_what_they_are(
    tmp_path: Path, seeds: dict[str, int], pool: int | None, words: str
) -> None:
    found = first_minus_second(of_shots(tmp_path, seeds, pool))
    assert found.training_error is None
    assert found.method.endswith(words)


def in_folds(out: Path, **changes: Any) -> list[Run]:
    fold = np.arange(N) % 4
    val = pd.DataFrame({"id": [f"v{row}" for row in range(40)]})
    runs = []
    for name, scores in OWN.items():
        table = binary_table(scores, TARGET).assign(fold=fold)
        runs.append(make_run(out, table, encoder=name, head="mlp", **changes))
        # A fifth of each fold's other images are its val.
        predictions = pd.read_parquet(runs[-1].folder / "predictions.parquet")
        held = [
            predictions.iloc[:40].assign(id=val["id"], patient=val["id"], split="val", fold=each) for each in range(4)
        ]
        pd.concat([predictions, *held]).to_parquet(runs[-1].folder / "predictions.parquet", index=False)
    return [Run.read(run.folder) for run in runs]


def test_heads_without_refits_in_folds_by_nadeau_and_bengio(tmp_path: Path) -> None:
    size = {"images": N, "patients": N, "positive_images": int(TARGET.sum())}
    runs = in_folds(tmp_path, splits={"train": size, "val": size, "test": size})
    found = first_minus_second(runs)
    fold = np.arange(N) % 4
    gaps = [
        roc_auc_score(TARGET[fold == each], OWN["a"][fold == each])
        - roc_auc_score(TARGET[fold == each], OWN["b"][fold == each])
        for each in range(4)
    ]
    expected = np.var(gaps, ddof=1) * (1 / 4 + 50 / (200 - 50 - 40))
    assert found.value == pytest.approx(np.mean(gaps))
    assert found.standard_error**2 == pytest.approx(expected)
    assert found.degrees_of_freedom == 3
    assert found.method.endswith("with training variance over 4 folds (conservative), t")
    assert found.speaks_of == "encoders"


def test_the_sentence_says_how_many_count_it(tmp_path: Path) -> None:
    counted, plain = first_minus_second(two(tmp_path / "a")), first_minus_second(two(tmp_path / "b", {}))
    assert sentence([counted, counted]).startswith("Differences are of encoders")
    assert sentence([plain]).startswith("Differences are of these trained heads")
    assert "in 1 of 2; the others are of these trained heads" in sentence([counted, plain])
    assert sentence([]) == ""


def test_the_methods_say_what_is_counted(tmp_path: Path) -> None:
    counted = methods_paragraph(two(tmp_path / "a"))
    assert f"count training variance by {COUNT} refits on resampled patients of train and val" in counted
    assert "among those fitted for the run" in counted
    plain = methods_paragraph(two(tmp_path / "b", {}))
    assert "Comparisons are of these trained heads: what another training sample" in plain
    mixed = methods_paragraph(two(tmp_path / "c", {"a": AGAIN["a"]}))
    assert "where both of a pair tell it; the others are of these trained heads" in mixed
    assert "draws of 16 shots" in methods_paragraph(of_shots(tmp_path / "d", {"a": 2, "b": 2}))
    assert "training variance" not in methods_paragraph(two(tmp_path / "e"), compared=False).replace(
        "variance of training", ""
    )
