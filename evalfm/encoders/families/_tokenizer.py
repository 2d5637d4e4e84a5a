"""Tokenizers of text towers: from the one file that authors publish, or open_clip's own; neither pads nor cuts."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from evalfm.cards import read_json
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.hub import fetch_beside
from evalfm.encoders.text import TextTower
from evalfm.errors import EvalfmError

KINDS = ("tokenizer.json", "vocab.txt", "spiece.model")
"""Files that hold a whole tokenizer."""

UNIGRAM, CONTROL, USER_DEFINED = 1, 3, 4
"""SentencePiece's numbers of a kind of model and of kinds of pieces."""


START, END = 49406, 49407
"""Tokens before and after a text in OpenAI's vocabulary."""


def filled(rows: list[list[int]], length: int, filling: int = 0) -> Tensor:
    """Token ids [N, length]; what is short is filled, what is long is cut, for the caller to refuse."""
    return torch.tensor([(row + [filling] * length)[:length] for row in rows])


class PublishedTower(TextTower):
    """A tower that reads through the tokenizer that its authors publish; ``model`` is a library's, with its words."""

    model: Any

    def __init__(self, card: EncoderCard, origin: Path | None) -> None:
        super().__init__(card)
        self.tokenizer = tokenizer_of(card, origin)

    def _words(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def _vocabulary(self) -> str:
        return self.tokenizer.to_str()


class OpenAiTower(TextTower):
    """A tower that reads OpenAI's vocabulary, which comes with open_clip."""

    def __init__(self, card: EncoderCard) -> None:
        super().__init__(card)
        self.tokenizer = SimpleTokenizer(context_length=self.facts.context_length)

    def _rows(self, texts: list[str]) -> list[list[int]]:
        return [[START, *self.tokenizer.encode(text), END] for text in texts]

    def _vocabulary(self) -> str:
        merges = [list(pair) for pair in self.tokenizer.bpe_ranks]
        words = {"words": self.tokenizer.encoder, "merges": merges, "pattern": self.tokenizer.pat.pattern}
        return json.dumps(words)


def tokenizer_of(card: EncoderCard, origin: Path | None) -> Tokenizer:
    """The tokenizer of the card's text tower, from beside the weights at ``origin`` or from the hub.

    Its file is a ``tokenizer.json``, BERT's ``vocab.txt``, or SentencePiece's ``spiece.model``. Of several beside the
    weights the one that the card names is read; where that one is not there, the first of ``KINDS``.

    Raises:
        EvalfmError: none of them is there nor the card's on the hub, or the file is no tokenizer.
    """
    assert card.text_tower is not None
    named = card.text_tower.tokenizer[0]
    beside = () if origin is None else [name for name in (named, *KINDS) if (origin.parent / name).is_file()]
    path = fetch_beside(card, origin, next(iter(beside), named))
    read = {".txt": from_vocabulary, ".model": from_sentencepiece}.get(path.suffix)
    try:
        tokenizer = Tokenizer.from_file(str(path)) if read is None else read(path)
    except Exception as error:
        # The libraries raise plain exceptions for whatever they cannot read.
        raise EvalfmError(f"{path} is no tokenizer ({error}); fetch it again.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def from_vocabulary(path: Path) -> Tokenizer:
    """BERT's tokenizer over the words of a ``vocab.txt``, one a line, with [CLS] and [SEP].

    It brings words to lower case unless a ``tokenizer_config.json`` beside the file says that it does not.
    """
    from transformers import BertTokenizer

    words = path.read_text(encoding="utf-8").splitlines()
    if not {"[CLS]", "[SEP]", "[UNK]"} <= set(words):
        raise ValueError("it lists no [CLS], [SEP] and [UNK]")
    beside = path.with_name("tokenizer_config.json")
    settings = read_json(beside) if beside.is_file() else {}
    own = {name: settings[name] for name in ("do_lower_case", "strip_accents") if isinstance(settings.get(name), bool)}
    return BertTokenizer(vocab=str(path), **own).backend_tokenizer


def from_sentencepiece(path: Path) -> Tokenizer:
    """SentencePiece's unigram model with its own normalisation, the end of a text added, as T5 and SigLIP read it.

    Without the package sentencepiece; the tokens are its own but where combining marks stand behind a ligature.
    """
    # ``from transformers import …`` gives the function of that name where the module is not loaded yet.
    library: Any = importlib.import_module("transformers.convert_slow_tokenizer")
    proto = library.import_protobuf().ModelProto()
    proto.ParseFromString(path.read_bytes())
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type != UNIGRAM:
        raise ValueError("it is no unigram model of SentencePiece")
    pieces = [(each.piece, each.score) for each in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback))
    own = [each for each in proto.pieces if each.type in (CONTROL, USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(each.piece, normalized=False, special=each.type == CONTROL) for each in own])
    steps: list[Any] = [normalizers.Precompiled(rules.precompiled_charsmap)] if rules.precompiled_charsmap else []
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme: Any = "always" if rules.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    if 0 <= trainer.eos_id < len(pieces):
        end = pieces[trainer.eos_id][0]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, trainer.eos_id)]
        )
    return tokenizer
