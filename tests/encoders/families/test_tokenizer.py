"""Tokenizers from the files that authors publish."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import transformers
from tokenizers import Tokenizer, models
from transformers.convert_slow_tokenizer import import_protobuf
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from evalfm.encoders import find_card
from evalfm.encoders.families._tokenizer import from_sentencepiece, tokenizer_of
from evalfm.encoders.families.transformers import PUNCTUATION
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


LETTERS = string.ascii_letters + string.digits + string.punctuation + "éÜñ \t\n"


def sentences(count: int, words: list[str]) -> list[str]:
    """Words of ours, and rows of letters and marks that are no words."""
    dice = random.Random(0)
    spoken = [" ".join(dice.choices(words, k=dice.randint(1, 12))) for _ in range(count)]
    return spoken + ["".join(dice.choices(LETTERS, k=dice.randint(0, 30))) for _ in range(count)]


def test_many_sentences_are_read_as_the_package_and_transformers_read_them(tmp_path: Path) -> None:
    """With a trained model and its own normalisation, and with SigLIP's taking off of punctuation and capitals."""
    package = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    words = (Path(__file__).parents[3] / "docs" / "methodology.md").read_text(encoding="utf-8")
    (tmp_path / "words.txt").write_text(words.lower())
    package.SentencePieceTrainer.train(
        input=str(tmp_path / "words.txt"),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=1000,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    )
    reader = package.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    own = from_sentencepiece(tmp_path / "spiece.model")
    texts = sentences(300, words.split())
    assert [own.encode(text).ids for text in texts] == [[*reader.encode(text), 1] for text in texts]
    siglip = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"))
    canonical = [" ".join(text.translate(PUNCTUATION).split()).lower() for text in texts]
    assert [own.encode(text).ids for text in canonical] == siglip(texts)["input_ids"]


@pytest.mark.parametrize("lower", [None, True, False])
def test_vocab_txt_is_read_as_its_settings_say(tmp_path: Path, lower: bool | None) -> None:
    """Against transformers' older tokenizer, written in Python."""
    pieces = [*string.ascii_letters, *string.digits, *string.punctuation, "é", "no", "No", "pneumo", "Heart"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(pieces), *(f"##{each}" for each in pieces)]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if lower is not None:
        (tmp_path / "tokenizer_config.json").write_text(f'{{"do_lower_case": {str(lower).lower()}}}')
    other = BertTokenizerLegacy(str(tmp_path / "vocab.txt"), do_lower_case=lower is not False)
    own = tokenizer_of(find_card("unimed-clip-b16"), tmp_path / "w.pt")
    texts = sentences(300, ["No", "Pneumothorax.", "Heart", "heartbeat", "X-ray", "é", "naïve", "RLL"])
    assert [own.encode(text).ids for text in texts] == [other(text)["input_ids"] for text in texts]
    assert (own.encode("Heart").ids == own.encode("heart").ids) == (lower is not False)


def test_of_several_tokenizers_the_cards_own_is_read_and_any_other_where_it_is_not_there(tmp_path: Path) -> None:
    card, weights = find_card("unimed-clip-b16"), tmp_path / "w.pt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart"]
    whole = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    whole.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_of(card, weights).encode("heart").ids == [2, 5, 3]
    biomedclip = find_card("biomedclip")
    assert tokenizer_of(biomedclip, weights).encode("heart").ids == [5]
    (tmp_path / "vocab.txt").unlink()
    assert tokenizer_of(card, weights).encode("heart").ids == [5]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    assert tokenizer_of(biomedclip, weights).encode("heart").ids == [2, 5, 3]
    sentencepiece(tmp_path / "spiece.model")
    assert tokenizer_of(find_card("medsiglip"), weights).encode("heart").ids == [2, 5, 3]
    (tmp_path / "vocab.txt").unlink()
    assert tokenizer_of(find_card("medsiglip"), weights).encode("pneumothorax").ids == [6, 7, 1]


def test_without_a_tokenizer_the_sentence_says_which_file_to_place_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name, wanted in (
        ("chexagent", "spiece.model"),
        ("unimed-clip-b16", "vocab.txt"),
        ("clip-l14", "tokenizer.json"),
    ):
        with pytest.raises(EvalfmError, match=rf"^{wanted} of {name} .*a place beside w\.pt in {tmp_path}\.$") as said:
            tokenizer_of(find_card(name), tmp_path / "w.pt")
        assert "\n" not in str(said.value)


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
