"""Fine-tuning in episodes: a fresh copy for each, the encoder left as it is, finished ones kept after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import evalfm
from evalfm.data.manifest import Manifest
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.weights import tensor_digest
from evalfm.episodes import EpisodeRun, find_episodes
from evalfm.probing.few_shot import tuning

QUICK = {"epochs": 1, "least_steps": 3}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random:test_resnet", input_size=32)


def run(squares: Manifest, out: Path, encoder: Encoder, **asked: Any) -> EpisodeRun:
    options = {"shots": (2,), "queries": 3, "episodes": 9, "fine_tune_episodes": 2, "recipe": QUICK, **asked}
    (made,) = evalfm.run_episodes(encoder, "square", data=squares, methods=["fine-tune"], out=out, **options)
    return made


def test_the_first_episodes_are_trained_each_from_the_encoder_as_it_is(
    squares: Manifest, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
):
    before = tensor_digest(encoder.state_dict())
    seen: list[Any] = []
    real = tuning.fit_trained

    def watched(*arguments: Any) -> Any:
        fitted = real(*arguments)
        assert tensor_digest(arguments[0].source.encoder.state_dict()) == before
        seen.append((arguments[3], fitted.scores.test))
        return fitted

    monkeypatch.setattr(tuning, "fit_trained", watched)
    made = run(squares, tmp_path, encoder)
    assert len(seen) == 2 == len(made.table())
    ids = squares.table["id"].sort_values().to_numpy()
    for line, (split, scores) in zip(made.table().itertuples(), seen, strict=True):
        assert list(ids[split.train]) == list(line.support) == list(ids[split.val])
        assert list(ids[split.test]) == list(line.query)
        assert scores["target"].tolist() == [0.0] * 3 + [1.0] * 3
        assert line.macro_auroc == pytest.approx(roc_auc_score(scores["target"], scores["score_square"]))
    assert made.record.method.as_written()["recipe"]["epochs"] == 1
    assert made.record.method.as_written()["chosen_on"] == "support"
    assert list((tmp_path / ".work").iterdir()) == []
    # More episodes are drawn for other methods, and the first ones stay what they are.
    assert run(squares, tmp_path, encoder, episodes=20).folder == made.folder
    assert len(seen) == 2


def test_after_a_kill_only_the_rest_is_trained_and_the_result_is_the_same(
    squares: Manifest, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
):
    whole = run(squares, tmp_path / "whole", encoder, shots=(1, 2))
    real, trained = tuning.fit_trained, []

    def interrupted(*arguments: Any) -> Any:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(tuning, "fit_trained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(squares, tmp_path / "out", encoder, shots=(1, 2))
    assert find_episodes(tmp_path / "out") == []
    trained.clear()
    made = run(squares, tmp_path / "out", encoder, shots=(1, 2))
    assert len(trained) == 1
    assert made.record.key == whole.record.key
    assert np.allclose(made.table()["macro_auroc"], whole.table()["macro_auroc"])


def test_three_ordered_classes_are_classes_like_any_other(squares: Manifest, tmp_path: Path, encoder: Encoder):
    size = squares.table["size"].to_numpy()
    grade = np.where(size == 0, 0.0, np.where(size < np.median(size[size > 0]), 1.0, 2.0))
    facts = {"label_source": {"grade": "mask"}, "label_kinds": {"grade": "class"}}
    graded = Manifest(squares.info.model_copy(update=facts), squares.table.assign(grade=grade), squares.folder)
    card = tmp_path / "grade.yaml"
    card.write_text("schema: 1\nname: grade\nkind: ordinal\ntitle: How wide?\ntarget: [grade]\n")
    options = {"shots": (1,), "queries": 2, "episodes": 1, "recipe": QUICK, "methods": ["fine-tune", "linear"]}
    made = evalfm.run_episodes(encoder, str(card), data=graded, out=tmp_path / "out", **options)
    assert [len(each.table()["query"].iloc[0]) for each in made] == [6, 6]
    assert made[0].record.data.class_names == ["0", "1", "2"]


def test_no_step_is_chance_exactly(squares: Manifest, tmp_path: Path, encoder: Encoder):
    """A head that starts at zero, and a learning rate at which nothing moves."""
    still = {**QUICK, "learning_rate": 1e-30, "head_learning_rate": 1e-30}
    made = run(squares, tmp_path, encoder, recipe=still)
    assert made.table()["macro_auroc"].tolist() == [0.5, 0.5]
