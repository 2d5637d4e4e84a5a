"""The whole path on radiographs where the right answer is known, and the ways in which it could be silently wrong."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.features.memory import MEMORY
from evalfm.features.profile import StageTimes
from evalfm.probing.predict import predict
from evalfm.probing.probe import probe
from evalfm.probing.session import open_session
from evalfm.run import Run, find_runs

from ..squares import make_squares

pytestmark = pytest.mark.usefixtures("in_full")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def labelled(squares: Manifest, out: Path) -> list[Run]:
    return probe("pixels", "square", data=squares, out=out)


@pytest.fixture(scope="module")
def masked(squares: Manifest, square_seg: str, out: Path) -> list[Run]:
    return probe("pixels", square_seg, data=squares, input_size=128, out=out)


def by_name(runs: list[Run]) -> dict[tuple[str, str], Run]:
    return {(run.encoder, run.head): run for run in runs}


def test_linear_and_stronger_head_come_first_and_every_baseline_follows(labelled: list[Run]):
    assert [(run.encoder, run.head) for run in labelled] == [
        ("pixels", "linear"),
        ("pixels", "knn"),
        ("constant", "linear"),
        ("metadata", "linear"),
    ]
    assert [run.is_baseline for run in labelled] == [False, False, True, True]


def test_what_is_plain_to_see_is_found_and_baselines_do_not_find_it(labelled: list[Run]):
    runs = by_name(labelled)
    found, constant = (runs[name, "linear"].metrics["auroc"] for name in ("pixels", "constant"))
    assert found.value is not None
    assert found.value > 0.7
    assert constant.value == 0.5


def test_metrics_are_those_of_the_test_rows(labelled: list[Run]):
    run = labelled[0]
    table = run.predictions()
    test = table[table["split"] == "test"]
    expected = roc_auc_score(test["target"], test["score_square"])
    assert run.metrics["auroc"].value == pytest.approx(expected)
    calls = test["score_square"] >= test["threshold"]
    assert run.metrics["sensitivity"].value == pytest.approx(calls[test["target"] == 1].mean())


def test_the_threshold_comes_from_val_alone(labelled: list[Run]):
    table = labelled[0].predictions()
    val = table[table["split"] == "val"]
    candidates = np.concatenate([[0.0], np.sort(val["score_square"]), [1.0]])
    youden = [
        ((val["score_square"] >= value) & (val["target"] == 1)).sum() / (val["target"] == 1).sum()
        - ((val["score_square"] >= value) & (val["target"] == 0)).sum() / (val["target"] == 0).sum()
        for value in candidates
    ]
    threshold = labelled[0].record.chosen.thresholds["square"]
    calls = val["score_square"] >= threshold
    reached = calls[val["target"] == 1].mean() - calls[val["target"] == 0].mean()
    assert reached == pytest.approx(max(youden))
    assert set(table["threshold"]) == {threshold}


def test_predictions_hold_val_and_test_with_declared_attributes_only(labelled: list[Run]):
    table = labelled[0].predictions()
    kept = ["id", "patient", "split", "sex", "age"]
    assert list(table.columns) == [*kept, "target", "score_square", "threshold", "calibrated_square"]
    assert set(table["split"]) == {"val", "test"}
    assert table["age"].max() <= 90


def test_masks_are_scored_on_the_stored_grid(masked: list[Run], squares: Manifest):
    from evalfm.data import masks

    run = by_name(masked)["pixels", "multiscale"]
    test = run.predictions().query("split == 'test'")
    line = test[test["area_true_square"] > 0].iloc[0]
    row = squares.table.index[squares.table["id"] == line["id"]][0]
    truth = squares.mask(int(row), "square")
    assert truth is not None
    predicted = masks.decode("relative", line["prediction_rle_square"], (int(line["height"]), int(line["width"])))
    assert predicted.shape == truth.shape == (64, 64)
    dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    assert line["dice_square"] == pytest.approx(dice)
    assert line["visible_lesion_fraction_square"] == 1.0
    assert 0.5 < line["oracle_dice_square"] <= 1.0


def test_mask_heads_find_the_squares_and_baselines_do_not(masked: list[Run]):
    runs = by_name(masked)
    dice = {name: run.metrics["dice_positive"].value for name, run in runs.items()}
    assert dice["constant", "all-empty"] == 0.0
    baseline = dice["constant", "mean-mask"]
    found = dice["pixels", "multiscale"]
    assert baseline is not None
    assert found is not None
    assert found > baseline + 0.2


def test_the_same_command_twice_computes_once_and_forced_gives_the_same(
    squares: Manifest, labelled: list[Run], out: Path
):
    before = (labelled[0].folder / "run.json").stat().st_mtime_ns
    again = probe("pixels", "square", data=squares, out=out)
    assert [run.folder for run in again] == [run.folder for run in labelled]
    assert (labelled[0].folder / "run.json").stat().st_mtime_ns == before
    old = labelled[0].predictions()
    (forced, *_) = probe("pixels", "square", data=squares, heads=["linear"], baselines="none", out=out, force=True)
    assert (forced.folder / "run.json").stat().st_mtime_ns > before
    pd.testing.assert_frame_equal(forced.predictions(), old, check_exact=True)


def test_an_edited_label_or_mask_is_another_run(tmp_path: Path, square_seg: str):
    first = make_squares(tmp_path / "a", patients=40)
    second = make_squares(tmp_path / "b", patients=40)
    (one,) = probe("pixels", "square", data=first, heads=["linear"], baselines="none", out=tmp_path / "runs")
    (same,) = probe("pixels", "square", data=second, heads=["linear"], baselines="none", out=tmp_path / "runs")
    assert one.folder == same.folder, "the same content elsewhere is the same question"
    second.table.loc[0, "square"] = 1 - second.table.loc[0, "square"]
    (other,) = probe("pixels", "square", data=second, heads=["linear"], baselines="none", out=tmp_path / "runs")
    assert other.folder != one.folder


def test_folds_give_every_image_one_test_score_and_a_head_per_fold(squares: Manifest, tmp_path: Path):
    (run,) = probe("hog", "square", data=squares, folds=4, heads=["linear"], baselines="none", out=tmp_path)
    test = run.predictions().query("split == 'test'")
    assert sorted(test["id"]) == sorted(squares.table["id"])
    assert {name.split(".")[0] for name in run.head_tensors()} == {"fold0", "fold1", "fold2", "fold3"}
    assert len(run.record.chosen.folds) == 4
    assert "training variance" in run.metrics["auroc"].method
    within = [roc_auc_score(fold["target"], fold["score_square"]) for _, fold in test.groupby("fold")]
    assert run.metrics["auroc"].value == pytest.approx(np.mean(within))


def test_a_deterministic_head_runs_once_over_seeds_unless_they_draw_subsets(squares: Manifest, tmp_path: Path):
    once = probe("hog", "square", data=squares, heads=["linear"], baselines="none", seeds=3, out=tmp_path)
    drawn = probe("hog", "square", data=squares, heads=["linear"], baselines="none", seeds=3, shots=4, out=tmp_path)
    assert (len(once), len(drawn)) == (1, 3)
    assert len({run.folder for run in drawn}) == 3


def test_a_run_applied_to_its_own_radiographs_gives_its_own_scores(
    labelled: list[Run], squares: Manifest, tmp_path: Path
):
    predicted = predict(labelled[0], squares, out=tmp_path / "predicted")
    table = labelled[0].predictions().merge(predicted.table, on="id", suffixes=("", "_again"))
    np.testing.assert_allclose(table["score_square"], table["score_square_again"], atol=1e-9)
    assert len(predicted.table) == len(squares)
    assert "target" not in predicted.table
    decided = predicted.table["score_square"] >= predicted.table["threshold"]
    assert (predicted.table["decision_square"] == decided).all()
    # The same command, after it was killed in its last step, say.
    written = (tmp_path / "predicted/predictions.parquet").stat().st_mtime_ns
    again = predict(labelled[0], squares, out=tmp_path / "predicted")
    pd.testing.assert_frame_equal(again.table, predicted.table, check_dtype=False)
    assert again.cautions[:-1] == predicted.cautions
    assert again.cautions[-1].sentence.endswith("holds these predictions already; they are returned as they are.")
    assert (tmp_path / "predicted/predictions.parquet").stat().st_mtime_ns == written
    fewer = squares.select(list(range(10)))
    older = dataclasses.replace(squares, table=squares.table.assign(age=squares.table["age"] + 1))
    for other in (fewer, older):
        with pytest.raises(EvalfmError, match="is there already and holds something else"):
            predict(labelled[0], other, out=tmp_path / "predicted")
    (tmp_path / "notes").mkdir()
    with pytest.raises(EvalfmError, match="is there already and holds something else"):
        predict(labelled[0], squares, out=tmp_path / "notes")


@pytest.mark.parametrize(
    ("file", "content"),
    [("predictions.parquet", b"PAR1 cut short"), ("predict.json", b"[" * 5000), ("predict.json", b"\xff")],
)
def test_damaged_predictions_in_the_way_are_told_and_kept(
    labelled: list[Run], squares: Manifest, tmp_path: Path, file: str, content: bytes
):
    predict(labelled[0], squares, out=tmp_path / "predicted")
    (tmp_path / "predicted" / file).write_bytes(content)
    with pytest.raises(EvalfmError, match="is there already and holds something else"):
        predict(labelled[0], squares, out=tmp_path / "predicted")
    assert (tmp_path / "predicted" / file).read_bytes() == content


@pytest.mark.parametrize("cautions", [None, 3, {"a": 1}, [{"code": "other"}]])
def test_predictions_with_strange_cautions_are_not_taken_for_ones_own(
    labelled: list[Run], squares: Manifest, tmp_path: Path, cautions: object
):
    predict(labelled[0], squares, out=tmp_path / "predicted")
    summary = json.loads((tmp_path / "predicted/predict.json").read_text())
    (tmp_path / "predicted/predict.json").write_text(json.dumps(summary | {"cautions": cautions}))
    with pytest.raises(EvalfmError, match="is there already and holds something else"):
        predict(labelled[0], squares, out=tmp_path / "predicted")


def test_masks_are_predicted_where_no_truth_is_known(masked: list[Run], squares: Manifest, tmp_path: Path):
    run = by_name(masked)["pixels", "linear"]
    predicted = predict(run, squares, out=tmp_path / "predicted")
    known = run.predictions().merge(predicted.table, on="id", suffixes=("", "_again"))
    assert (known["prediction_rle_square"] == known["prediction_rle_square_again"]).all()
    assert not any(name.startswith("dice") for name in predicted.table)


def test_separate_test_data_are_tested_whole_and_must_not_share_radiographs(squares: Manifest, tmp_path: Path):
    other = make_squares(tmp_path / "other", patients=24, seed=7)
    (run,) = probe(
        "hog", "square", data=squares, test_data=other, heads=["linear"], baselines="none", out=tmp_path / "runs"
    )
    test = run.predictions().query("split == 'test'")
    assert sorted(test["id"]) == sorted(other.table["id"])
    assert run.metrics["auroc"].value == pytest.approx(roc_auc_score(test["target"], test["score_square"]))
    with pytest.raises(EvalfmError, match="also in"):
        probe("hog", "square", data=squares, test_data=squares, out=tmp_path / "runs")


def test_the_metadata_baseline_never_sees_the_question(squares: Manifest, tmp_path: Path):
    runs = probe("pixels", "sex", data=squares, heads=["linear"], out=tmp_path)
    metadata = by_name(runs)["metadata", "linear"]
    value = metadata.metrics["auroc"].value
    assert value is not None
    assert value < 0.9, "age alone says little of sex; a baseline that saw sex would be perfect"


def test_pixels_are_a_baseline_of_every_other_encoder(squares: Manifest, tmp_path: Path):
    runs = probe("hog", "square", data=squares, heads=["linear"], out=tmp_path)
    assert [(run.encoder, run.is_baseline) for run in runs[::3]] == [("hog", False), ("pixels", True)]


def test_a_source_without_maps_is_refused_for_masks(squares: Manifest, square_seg: str, tmp_path: Path):
    with pytest.raises(EvalfmError, match="maps"):
        probe("metadata", square_seg, data=squares, out=tmp_path)
    assert find_runs(tmp_path) == []


def test_unknown_names_are_answered_before_anything_is_computed(squares: Manifest, tmp_path: Path):
    with pytest.raises(UnknownNameError, match="square"):
        probe("hog", "squar", data=squares, out=tmp_path)
    with pytest.raises(EvalfmError, match="Did you mean"):
        probe("hogg", "square", data=squares, out=tmp_path)
    with pytest.raises(UnknownNameError, match="linear"):
        probe("hog", "square", data=squares, heads=["liner"], out=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_one_class_only_in_test_or_val_is_refused_or_null_with_the_reason(tmp_path: Path):
    manifest = make_squares(tmp_path / "data")
    in_test = manifest.table["split"] == "test"
    manifest.table.loc[in_test, "square"] = 0
    (run,) = probe("pixels", "square", data=manifest, heads=["linear"], baselines="none", out=tmp_path / "runs")
    assert run.metrics["auroc"].value is None
    assert run.metrics["auroc"].reason
    manifest.table.loc[manifest.table["split"] == "val", "square"] = 0
    with pytest.raises(EvalfmError, match="val"):
        probe("pixels", "square", data=manifest, heads=["linear"], baselines="none", out=tmp_path / "runs")


def test_contamination_follows_where_the_radiographs_come_from(tmp_path: Path):
    manifest = make_squares(tmp_path / "data", patients=40, derived_from=["nih-cxr14"])
    from evalfm.probing.recording import contamination

    card = {"name": "seen-it", "pretraining_data": [{"name": "NIH-CXR14", "what": "images"}]}
    (caution,) = contamination(card, [manifest])
    assert caution.code == "contamination"
    assert "images of nih-cxr14" in caution.sentence
    assert contamination({"name": "new", "pretraining_data": []}, [manifest]) == []


def test_nothing_private_is_in_any_byte_of_a_run(tmp_path: Path):
    manifest = make_squares(tmp_path / "secret-folder", patients=40, public_ids=False, salt="00ff" * 8)
    manifest.table["patient"] = "Jane-Doe-" + manifest.table["patient"]
    manifest.table["report"] = "seen by Dr. Who on 1999-12-31"
    runs = probe("pixels", "square", data=manifest, out=tmp_path / "runs")
    predict(runs[0], manifest, out=tmp_path / "predicted")
    written = [path for folder in ("runs", "predicted") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert len(written) > 5
    for path in written:
        content = path.read_bytes()
        for word in (b"Jane-Doe", b"Dr. Who", b"1999-12-31", b"secret-folder", b"00ff00ff", str(tmp_path).encode()):
            assert word not in content, f"{word!r} in {path.name}"
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
            assert not table.astype(str).apply(lambda column: column.str.contains("Jane|Who|s1-0")).any().any()


def test_run_json_tells_what_a_reader_needs(labelled: list[Run]):
    record = json.loads((labelled[0].folder / "run.json").read_text())
    assert record["data"]["splits"]["test"]["patients"] == 21
    assert record["data"]["label_source"] == {"square": "mask"}
    assert record["head"]["grid"]["C"]
    assert record["provenance"]["versions"]["torch"]
    assert record["metrics"]["auroc"]["n"] == 21
    assert record["metrics"]["auroc"]["unit"] == "patients"
    assert (labelled[0].folder / "figures" / "roc.png").stat().st_size > 1000
    costs = {run.encoder: run.record.provenance.cost for run in labelled}
    first = costs[labelled[0].encoder]
    assert first is not None
    assert first.milliseconds > 0
    assert first.device
    # A table of features has no forward pass.
    assert costs["constant"] is None
    facts = {run.encoder: run.record.provenance for run in labelled}
    assert facts[labelled[0].encoder].feature_path == "float32-cpu"
    assert facts["constant"].feature_path is None


def test_metadata_of_other_data_are_read_with_the_levels_that_were_learnt(squares: Manifest, tmp_path: Path):
    from evalfm.config import EncoderConfig
    from evalfm.progress import SILENT

    men = squares.select((squares.table["sex"] == "M").to_numpy())
    session = open_session("metadata", EncoderConfig(), squares, men, SILENT)
    assert session.test is not None
    assert session.test.pooled_dim == session.source.pooled_dim
    rows = np.flatnonzero((squares.table["sex"] == "M").to_numpy())
    expected = session.source.features(rows.tolist()).pooled
    assert session.test.features(list(range(len(rows)))).pooled.tolist() == expected.tolist()


def test_a_profile_says_the_seconds_of_each_stage_and_changes_nothing(
    squares: Manifest, square_seg: str, tmp_path: Path
):
    class Listening:
        def __init__(self) -> None:
            self.said: list[str] = []

        def track(self, items, label, total=None):
            yield from items

        def say(self, message: str) -> None:
            self.said.append(message)

    options = {"data": squares, "heads": ["linear"], "baselines": "none", "input_size": 128}
    listening = Listening()
    (run,) = probe("hog", square_seg, out=tmp_path / "one", profile=True, progress=listening, **options)
    table = listening.said[-1].splitlines()
    stages = [line[:18].strip() for line in table[1:]]
    for stage in ("decode", "encode", "write", "read maps", "head training", "prediction"):
        assert stage in stages
    times = StageTimes()
    (again,) = probe("hog", square_seg, out=tmp_path / "two", times=times, **options)
    assert again.folder.name == run.folder.name
    assert {"head training", "prediction"} <= set(times.to_json())
    listening.said.clear()
    probe("hog", square_seg, out=tmp_path / "three", progress=listening, **options)
    assert not any("head training" in message for message in listening.said)


def test_a_probe_leaves_no_readers_and_no_memory_taken(
    squares: Manifest, square_seg: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Held, so that nothing is given back merely because nobody needs it any more.
    sessions = []

    def held(*arguments, **options):
        sessions.append(open_session(*arguments, **options))
        return sessions[-1]

    monkeypatch.setattr("evalfm.probing.measure.open_session", held)
    before = {thread.name for thread in threading.enumerate()}
    probe("hog", square_seg, data=squares, heads=["linear"], input_size=128, out=tmp_path)
    probe("hog", "square", data=squares, out=tmp_path)
    left = {thread.name for thread in threading.enumerate()} - before
    assert not any("evalfm" in name for name in left)
    assert (MEMORY.taken("host"), MEMORY.taken("pinned")) == (0, 0)
    assert len(sessions) >= 2


def test_the_cost_is_said_before_anything_is_encoded_and_only_then(tmp_path: Path, home: Path):
    class Listening:
        said: list[str] = []  # noqa: RUF012

        def track(self, items, label, total=None):
            self.said.append(label)
            yield from items

        def say(self, message: str) -> None:
            self.said.append(message)

    manifest = make_squares(tmp_path / "data", patients=40)
    listening = Listening()
    probe(
        "pixels", "square", data=manifest, heads=["linear"], baselines="none", out=tmp_path / "runs", progress=listening
    )
    told = [message for message in listening.said if "images to encode" in message]
    assert len(told) == 1
    assert f"{len(manifest)} images" in told[0]
    assert "GB of disk" in told[0]
    listening.said.clear()
    probe("pixels", "size", data=manifest, heads=["ridge"], baselines="none", out=tmp_path / "runs", progress=listening)
    assert not any("to encode" in message for message in listening.said)
