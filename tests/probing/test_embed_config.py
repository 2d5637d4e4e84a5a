"""Options of embedding: valid or one sentence, and a file of its own for each encoder and shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.probing.embed_config import EmbedConfig, plan_files


def test_json_there_and_back() -> None:
    config = EmbedConfig(encoder="hog", data="x", out="x/y.safetensors", maps=True, shard="2/8", batch_size=3)
    assert EmbedConfig.model_validate_json(config.model_dump_json()) == config
    assert config.encoder_config.batch_size == 3


@pytest.mark.parametrize(
    ("encoder", "out", "shard", "name"),
    [
        ("hog", "a.parquet", None, "a.parquet"),
        ("hog", "a.v2.parquet", "1/2", "a.v2-1-of-2.parquet"),
        ("random:resnet18", "f-{encoder}.safetensors", None, "f-random-resnet18.safetensors"),
        ("hog@mean", "{encoder}.parquet", "3/3", "hog@mean-3-of-3.parquet"),
        ("models/mine.py:build", "{encoder}.parquet", None, "mine-build.parquet"),
        ("models/My Card.yaml@mean", "{encoder}.parquet", None, "My-Card-mean.parquet"),
    ],
)
def test_the_file_is_named_after_encoder_and_shard(
    encoder: str, out: str, shard: str | None, name: str, tmp_path: Path
) -> None:
    from evalfm.encoders.reference import EncoderRef

    config = EmbedConfig.checked(encoder=encoder, out=tmp_path / out, shard=shard)
    assert config.file(EncoderRef.parse(encoder)) == tmp_path / name


@pytest.mark.parametrize(
    ("encoders", "options", "sentence"),
    [
        ([], {"out": "a.parquet"}, "at least one encoder"),
        (["hog"], {}, "which file to write with --out"),
        (["hog"], {"out": "a.csv"}, r"ends in \.parquet or \.safetensors"),
        (["hog"], {"out": "a"}, r"ends in \.parquet or \.safetensors"),
        (["hog"], {"out": "a.parquet", "maps": True}, r"Parquet holds no maps; write --out a\.safetensors"),
        (["pixels", "hog"], {"out": "a.parquet"}, r"of several write --out '.*a-\{encoder\}\.parquet'"),
        (["hog", "hog"], {"out": "{encoder}.parquet"}, "Two encoders would be written to one file"),
        (["hog", "pixels"], {"out": "{encoder}.parquet", "weights": "w.pt"}, "of one encoder"),
        (["constant"], {"out": "a.parquet"}, "constant is a table of features already"),
        (["metadata"], {"out": "a.parquet"}, "is a table of features already"),
        (["precomputed:x.parquet"], {"out": "a.parquet"}, "is a table of features already"),
        (["hgo"], {"out": "a.parquet"}, "Did you mean 'hog'"),
        (["hog"], {"out": "a.parquet", "shard": "3/2"}, "There is no shard 3 of 2"),
        (["hog"], {"out": "a.parquet", "limit": 0}, "limit"),
        (["hog"], {"out": "a.parquet", "folds": 3}, "There is no option 'folds'"),
        (["hog"], {"out": "nowhere/a.parquet"}, "give a file in a folder that is there"),
        (["hog"], {"out": "folder.parquet"}, "a folder; name a file"),
        (["hog"], {"out": "other.parquet"}, "holds no embeddings of evalfm"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_sentence_before_anything_is_read(
    encoders: list[str], options: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.parquet").mkdir()
    Path("other.parquet").write_text("what somebody needs")
    with pytest.raises(EvalfmError, match=sentence):
        plan_files(encoders, "phantom", options)
    assert Path("other.parquet").read_text() == "what somebody needs"


def test_an_encoder_without_maps_is_refused_by_its_card(squares: Manifest, tmp_path: Path) -> None:
    card = tmp_path / "flat.yaml"
    text = (Path(__file__).parents[2] / "evalfm/encoders/cards/hog.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("map_")]
    card.write_text("\n".join(lines))
    with pytest.raises(EvalfmError, match="has no feature maps"):
        plan_files([str(card)], squares, {"out": tmp_path / "a.safetensors", "maps": True})


def test_force_writes_over_what_is_there(squares: Manifest, tmp_path: Path) -> None:
    (tmp_path / "other.parquet").write_text("old")
    (plan,) = plan_files(["hog"], squares, {"out": tmp_path / "other.parquet", "force": True})
    assert plan.file == tmp_path / "other.parquet"
