"""Refits through a whole probe: the draws, what is stored of them, and what makes another run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

from evalfm.analysis.pairing import pair
from evalfm.analysis.table import task_tables
from evalfm.config import ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.head import Context, HeldExamples
from evalfm.heads.linear import STRENGTHS, LinearHead
from evalfm.metrics.labels import choose_threshold
from evalfm.probing.cohort import load_cohort
from evalfm.probing.labelled import LabelledFeatures
from evalfm.probing.probe import probe
from evalfm.probing.refitting import MOST_COST, multiplicities, wants_refits
from evalfm.probing.session import open_session
from evalfm.probing.splits import make_splits
from evalfm.progress import SILENT, Silent
from evalfm.run import Run

PATIENTS = np.array([f"p{row}" for row in range(4000)], dtype=object)


def test_a_draw_is_of_patients_and_depends_on_their_ids_alone() -> None:
    whole = multiplicities(PATIENTS, range(6))
    some = np.random.default_rng(0).permutation(4000)[:500]
    assert (multiplicities(PATIENTS[some], range(6)) == whole[:, some]).all()
    assert (multiplicities(PATIENTS, [5, 2]) == whole[[5, 2]]).all()
    twice = multiplicities(np.repeat(PATIENTS[:50], 3), [0])
    assert (twice.reshape(-1, 3) == twice.reshape(-1, 3)[:, :1]).all()


def test_multiplicities_are_poisson_and_draws_are_independent() -> None:
    found = multiplicities(PATIENTS, range(8))
    expected = stats.poisson.pmf(np.arange(5), 1)
    for draw in found:
        counts = np.bincount(np.minimum(draw, 5), minlength=6)
        assert stats.chisquare(counts, [*(4000 * expected), 4000 * (1 - expected.sum())]).pvalue > 1e-3
    assert np.abs(np.corrcoef(found) - np.eye(8)).max() < 0.06


@pytest.fixture(scope="module")
def runs(squares: Manifest, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    out = tmp_path_factory.mktemp("refits")
    return [
        run
        for encoder in ("pixels", "hog")
        for run in probe(encoder, "square", data=squares, heads="linear", folds=3, refits=6, out=out)
    ]


def test_every_run_of_a_cheap_head_holds_the_same_draws(runs: list[Run]) -> None:
    assert {run.encoder for run in runs} == {"pixels", "hog", "constant", "metadata"}
    for run in runs:
        assert run.record.refits is not None
        assert run.record.refits.numbers == runs[0].record.refits.numbers
        assert len(run.refits()) == 6
        for table in run.refits().values():
            assert table["id"].tolist() == run.test_predictions()["id"].tolist()
            assert table["fold"].tolist() == run.test_predictions()["fold"].tolist()


def test_refits_vary_about_the_head_and_not_around_another(runs: list[Run]) -> None:
    run = next(each for each in runs if each.encoder == "hog")
    own = run.test_predictions()
    again = [table["score_square"] for table in run.refits().values()]
    assert np.mean([np.corrcoef(own["score_square"], each)[0, 1] for each in again]) > 0.5
    assert min(np.abs(own["score_square"] - each).max() for each in again) > 1e-3
    assert np.std([roc_auc_score(own["target"], each) for each in again]) > 0


def test_a_refit_has_the_threshold_of_its_own_fold(runs: list[Run]) -> None:
    run = next(each for each in runs if each.encoder == "hog")
    for table in run.refits().values():
        assert (table.groupby("fold")["threshold"].nunique() == 1).all()
    own = run.test_predictions().groupby("fold")["threshold"].first()
    assert any((table.groupby("fold")["threshold"].first() != own).any() for table in run.refits().values())


def test_comparisons_of_probes_count_training_variance(runs: list[Run]) -> None:
    (table,) = task_tables(runs)
    lines = [line for line in table.lines if not line.baseline]
    (found,) = pair(lines).differences([(0, 1)])
    assert found.speaks_of == "encoders"
    assert found.training_error is not None
    assert found.training_error > 0
    assert found.method.endswith("with training variance over 6 refits, t")


def test_a_refit_is_what_the_head_learns_from_its_draw(squares: Manifest, tmp_path: Path) -> None:
    """Of one split: the stored scores are of a head fitted to the drawn rows, at the C that the drawn val chooses."""
    (run,) = probe("hog", "square", data=squares, heads="linear", baselines="none", refits=5, out=tmp_path)
    config = ProbeConfig.checked(encoder="hog", task="square")
    cohort = load_cohort("square", config, squares, SILENT)
    (split,) = make_splits(cohort, config)
    session = open_session("hog", config, squares, None, SILENT)
    labelled = LabelledFeatures(cohort, session.source)
    train, val, test = (HeldExamples.of(labelled.examples(each)) for each in (split.train, split.val, split.test))
    context = Context("binary", ("square",))
    whole = {each: LinearHead((each,)) for each in STRENGTHS}
    for each in whole.values():
        each.fit(train, val, context)
    chosen = set()
    for number, table in run.refits().items():
        again = val.repeated(multiplicities(val.patients, [number])[0])
        losses = {each: log_loss(again.target, head.predict(again)[:, 0]) for each, head in whole.items()}
        strength = min(losses, key=lambda each: losses[each])
        chosen.add(strength)
        head = LinearHead((strength,))
        head.fit(train.repeated(multiplicities(train.patients, [number])[0]), val, context)
        assert table["score_square"].to_numpy() == pytest.approx(head.predict(test)[:, 0], abs=1e-4)
        threshold = choose_threshold(again.target, head.predict(again)[:, 0])
        assert table["threshold"].to_numpy() == pytest.approx(np.full(len(test), threshold), abs=1e-4)
    assert len(chosen) > 1


def test_other_refits_make_another_run_of_a_cheap_head_alone(squares: Manifest, tmp_path: Path) -> None:
    def made(**options: object) -> list[Run]:
        return probe("hog", "square", data=squares, heads=["linear", "knn"], baselines="none", out=tmp_path, **options)

    usual = {run.head: run for run in made(refits=5)}
    none = {run.head: run for run in made(refits=0)}
    again = {run.head: run for run in made(refits=5, refit_choice=True)}
    keys = [{run.record.key for run in each.values()} for each in (usual, none, again)]
    assert len(set.union(*keys)) == 6
    for head in ("linear", "knn"):
        assert none[head].record.refits is None
        assert not (none[head].folder / "refits.parquet").exists()
        assert again[head].record.refits is not None
        assert again[head].record.refits.chosen_again
        # The run itself is the same.
        own = [each[head].test_predictions()["score_square"].tolist() for each in (usual, none, again)]
        assert own[0] == own[1] == own[2]
    first, second = (each["linear"].refits()[0]["score_square"] for each in (usual, again))
    assert not np.allclose(first, second)


@pytest.mark.parametrize("options", [{"shots": 4}, {"refits": 0}, {"adaptation": "full"}])
def test_there_are_none_where_they_say_nothing(options: dict[str, object]) -> None:
    head = load_head("linear", "binary")
    usual = ProbeConfig.checked(encoder="hog", task="square")
    assert wants_refits(usual, head)
    assert not wants_refits(usual.model_copy(update=options), head)
    assert not wants_refits(usual, load_head("mlp", "binary"))


def test_there_are_none_of_what_takes_long_and_that_is_said(
    squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = {name: load_head(name, "binary").refit_cost(20_000, 8_000, 768) for name in ("linear", "knn")}  # type: ignore[attr-defined]
    assert cost["linear"] < MOST_COST < cost["knn"]
    monkeypatch.setattr("evalfm.probing.refitting.MOST_COST", 1)
    said: list[str] = []
    progress = Silent()
    progress.say = said.append  # type: ignore[method-assign]
    (run,) = probe("hog", "square", data=squares, heads="linear", baselines="none", out=tmp_path, progress=progress)
    assert run.record.refits is None
    assert any("No refits of linear on so many images" in each for each in said)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"refits": 4}, "take 5 or more, or 0"), ({"refits": 0, "refit_choice": True}, "refit_choice")],
)
def test_options_that_do_nothing_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(EvalfmError, match=words):
        ProbeConfig.checked(encoder="hog", task="square", **options)


def test_few_shots_say_from_how_many_they_were_drawn(squares: Manifest, tmp_path: Path) -> None:
    runs = probe("hog", "square", data=squares, heads="linear", baselines="none", shots=4, seeds=2, out=tmp_path)
    whole = probe("hog", "square", data=squares, heads="linear", baselines="none", refits=0, out=tmp_path)[0]
    train = whole.record.data.splits.train
    assert {run.record.data.pool for run in runs} == {min(train.positive_images, train.images - train.positive_images)}
    assert whole.record.data.pool is None
    assert all(run.record.refits is None for run in runs)
