"""Tokenizers from the files that authors publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.convert_slow_tokenizer import import_protobuf

from evalfm.encoders import find_card
from evalfm.encoders.families._tokenizer import tokenizer_of
from evalfm.errors import EvalfmError

PIECES = [
    *(("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("▁no", -2.5, 1), ("▁", -3.0, 1), ("pneumo", -4.0, 1)),
    *(("▁pneumo", -3.5, 1), ("thorax", -3.8, 1), ("pneumothorax", -9.0, 1), ("▁of", -3.1, 1), ("s", -4.5, 1)),
    *((letter, -8.0 - number / 10, 1) for number, letter in enumerate("noefailur")),
]


def sentencepiece(path: Path, kind: int = 1) -> Path:
    proto: Any = import_protobuf().ModelProto()
    for piece, score, type_ in PIECES:
        proto.pieces.add(piece=piece, score=score, type=type_)
    for name, value in {"model_type": kind, "unk_id": 2, "eos_id": 1, "bos_id": -1, "pad_id": 0}.items():
        setattr(proto.trainer_spec, name, value)
    proto.normalizer_spec.name = "identity"
    path.write_bytes(proto.SerializeToString())
    return path


# What sentencepiece 0.2.3 gives for the same file, and the end of the text.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("no pneumothorax", [3, 6, 7, 1]),
        ("  signs of   failure ", [4, 10, 16, 2, 11, 10, 9, 4, 14, 15, 16, 17, 18, 19, 13, 1]),
        ("pneumothorax", [6, 7, 1]),
        ("no finding", [3, 4, 14, 16, 11, 2, 16, 11, 2, 1]),
        ("nos\u3000o", [3, 10, 2, 12, 1]),
        ("", [1]),
    ],
)
def test_spiece_model_is_read_as_sentencepiece_reads_it(tmp_path: Path, text: str, ids: list[int]) -> None:
    sentencepiece(tmp_path / "spiece.model")
    assert tokenizer_of(find_card("chexagent"), tmp_path / "model.safetensors").encode(text).ids == ids


def test_vocab_txt_is_berts_lower_casing_tokenizer(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "pneumo", "##thorax", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = tokenizer_of(find_card("unimed-clip-b16"), tmp_path / "w.pt")
    assert tokenizer.encode("No Pneumothorax. Heart").ids == [2, 5, 6, 7, 8, 1, 3]


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff", b"<html>", b"\x0a\x05hello"])
@pytest.mark.parametrize("name", ["chexagent", "unimed-clip-b16", "biomedclip"])
def test_what_is_no_tokenizer_is_said(tmp_path: Path, name: str, content: bytes) -> None:
    card = find_card(name)
    assert card.text_tower is not None
    (tmp_path / card.text_tower.tokenizer[0]).write_bytes(content)
    with pytest.raises(EvalfmError, match="is no tokenizer"):
        tokenizer_of(card, tmp_path / "w.pt")


def test_another_kind_of_sentencepiece_is_refused(tmp_path: Path) -> None:
    sentencepiece(tmp_path / "spiece.model", kind=2)
    with pytest.raises(EvalfmError, match="no unigram model"):
        tokenizer_of(find_card("chexagent"), tmp_path / "w.pt")
