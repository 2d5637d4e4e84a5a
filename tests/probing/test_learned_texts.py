"""Learners of a context through the whole path, on a small image tower and BERT that have learnt nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from evalfm.data.manifest import Manifest
from evalfm.data.phantom import make_phantom
from evalfm.encoders.encoder import Encoder, Features
from evalfm.errors import EvalfmError
from evalfm.probing.predict import predict
from evalfm.probing.probe import probe
from evalfm.run import Run

from ..encoders.families import test_open_clip as open_clips

HEADS = ["coop", "biomedcoop", "biomed-dpt"]
SAID = {
    "pneumothorax": ["a photo of pneumothorax", "pneumothorax of a heart"],
    "no pneumothorax": ["no pneumothorax", "a photo of a heart"],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A card in UniMed-CLIP's layout with a variant, a tokenizer, and sentences in the words that it knows."""
    folder = tmp_path_factory.mktemp("small")
    content = open_clips.small_content()
    content["variants"] = {"zero-prompt": {"summary": "Zeros.", "zero_tokens": 4}}
    open_clips.tokenizer(folder)
    (folder / "small.yaml").write_text(yaml.safe_dump(content))
    (folder / "said.json").write_text(json.dumps(SAID))
    return str(folder / "small.yaml"), folder


@pytest.fixture(autouse=True)
def tokenizer(small: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = small[1] / "tokenizer.json"
    monkeypatch.setattr("evalfm.encoders.families._tokenizer.fetch_beside", lambda *_: path)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_phantom(tmp_path_factory.mktemp("phantom") / "films", n=240, size=64, seed=11)


@pytest.fixture(scope="module")
def runs(small: tuple[str, Path], phantom: Manifest, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    seen: Counter[bytes] = Counter()
    plain = Encoder.forward

    def counted(encoder: Encoder, batch: Tensor) -> Features:
        seen.update(radiograph.numpy().tobytes() for radiograph in batch)
        return plain(encoder, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evalfm.encoders.families._tokenizer.fetch_beside", lambda *_: small[1] / "tokenizer.json")
        patch.setattr(Encoder, "forward", counted)
        patch.setenv("EVALFM_HOME", str(tmp_path_factory.mktemp("home")))
        made = probe(
            small[0],
            "ptx-cls",
            data=phantom,
            heads=HEADS,
            weights="random",
            prompts=small[1] / "said.json",
            shots=8,
            baselines="none",
            out=tmp_path_factory.mktemp("runs"),
        )
    # 100 epochs of three heads, and each image went through the tower once; noise on which its time is taken, often.
    assert len([radiograph for radiograph, times in seen.items() if times > 1]) <= 1
    asked = 2 * 8 + len(made[0].predictions())
    assert asked <= len(seen) <= asked + 1
    return made


def test_a_random_tower_is_no_better_than_chance_and_says_so(runs: list[Run]) -> None:
    assert [run.head for run in runs] == HEADS
    for run in runs:
        auroc = run.metrics["auroc"]
        assert auroc.low is not None
        assert auroc.high is not None
        assert auroc.low <= 0.5 <= auroc.high, f"{run.head}: {auroc.value} [{auroc.low}, {auroc.high}]"
        assert "random-weights" in {each.code for each in run.record.cautions}


def test_the_record_holds_what_was_learnt_and_how(runs: list[Run]) -> None:
    for run in runs:
        chosen = run.record.chosen.head
        assert chosen["epoch"] == len(run.record.chosen.curve) == 100
        words = 5 if run.head == "biomed-dpt" else 4
        assert chosen["context_tokens"] == words
        assert chosen["parameters"] == words * 32
        tensors = load_file(run.folder / "head.safetensors")
        assert tensors["context"].shape == (words, 32)
        assert tensors["rows"].shape == (2, 20)
        if run.head == "coop":
            assert "consistency" not in chosen
        else:
            assert (chosen["consistency"], chosen["distillation"], chosen["weights_of"]) == (1, 1, "default")
            assert chosen["sentences"] == 2
    assert [run.record.chosen.head["template"] for run in runs] == [
        "a photo of a {}.",
        "a photo of a {}.",
        "a chest X-ray image with {}.",
    ]


def test_a_finished_run_predicts_without_reading(
    runs: list[Run], phantom: Manifest, small: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalfm.encoders.text.TextTower.encode", None)
    monkeypatch.setattr("evalfm.encoders.text.TextTower.prompted", None)
    found = predict(runs[1], phantom, out=tmp_path / "predicted").table.set_index("id")
    test = runs[1].predictions().query("split == 'test'").set_index("id")
    assert found.loc[test.index, "score_pneumothorax"].tolist() == test["score_pneumothorax"].tolist()


def test_seeds_sentences_and_the_zero_prompt_are_other_runs(
    small: tuple[str, Path], phantom: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalfm.heads.text.learned.EPOCHS", {"few-shot": 2, "base-to-novel": 1})
    short = {key: said[:1] for key, said in SAID.items()}
    (tmp_path / "short.json").write_text(json.dumps(short))

    def made(encoder: str = small[0], prompts: Path = small[1] / "said.json", seeds: int = 1) -> list[Run]:
        return probe(
            *(encoder, "ptx-cls"),
            data=phantom,
            heads=["biomedcoop"],
            weights="random",
            prompts=prompts,
            shots=2,
            seeds=seeds,
            baselines="none",
            out=tmp_path / "runs",
        )

    found = [
        *made(seeds=2),
        *made(prompts=tmp_path / "short.json"),
        *made(f"{small[0]}@zero-prompt"),
    ]
    assert len({run.record.key for run in found}) == 4
    assert found[-1].encoder == "small-clip@zero-prompt"
    contexts = [load_file(run.folder / "head.safetensors")["context"] for run in found]
    assert not torch.equal(contexts[0], contexts[1])


def test_what_cannot_be_learnt_is_refused_before_anything_is_written(
    small: tuple[str, Path], phantom: Manifest, tmp_path: Path
) -> None:
    asked = {"data": phantom, "weights": "random", "out": tmp_path / "runs", "baselines": "none"}
    with pytest.raises(EvalfmError, match="has no text tower"):
        probe("hog", "ptx-cls", data=phantom, heads=["coop"], baselines="none", out=tmp_path / "runs")
    with pytest.raises(EvalfmError, match="coop"):
        probe(small[0], "ptx-seg", heads=["coop"], **asked)  # type: ignore[arg-type]
    with pytest.raises(EvalfmError, match="coop"):
        probe(small[0], "ptx-cls", heads=["coop"], adaptation="full", **asked)  # type: ignore[arg-type]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump({"classes": {"pneumothorax": {}}}))
    with pytest.raises(EvalfmError, match="learns towards sentences and there is none for no pneumothorax, pneumo"):
        probe(small[0], "ptx-cls", heads=["biomedcoop"], prompts=tmp_path / "bare.yaml", **asked)  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("run.json"))
