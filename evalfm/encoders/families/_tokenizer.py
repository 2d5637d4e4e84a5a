"""A tokenizer from the one file that authors publish, which neither pads nor cuts; open_clip's own spelled out."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.hub import fetch_beside
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

WHOLE = "tokenizer.json"

UNIGRAM, CONTROL, USER_DEFINED = 1, 3, 4
"""SentencePiece's numbers of a kind of model and of kinds of pieces."""


def tokenizer_of(card: EncoderCard, origin: Path | None) -> Tokenizer:
    """The tokenizer of the card's text tower, from beside the weights at ``origin`` or from the hub.

    Its file is a ``tokenizer.json``, BERT's ``vocab.txt``, or SentencePiece's ``spiece.model``; beside the weights a
    ``tokenizer.json`` serves whatever the card names.

    Raises:
        EvalfmError: the file is in neither place, or is no tokenizer.
    """
    assert card.text_tower is not None
    published = card.text_tower.tokenizer[0]
    own = origin is not None and not (origin.parent / published).is_file() and (origin.parent / WHOLE).is_file()
    path = fetch_beside(card, origin, WHOLE if own else published)
    readers = {".txt": from_vocabulary, ".model": from_sentencepiece}
    try:
        tokenizer = readers.get(path.suffix, from_json)(path)
    except Exception as error:
        # The libraries raise plain exceptions for whatever they cannot read.
        raise EvalfmError(f"{path} is no tokenizer ({error}); fetch it again.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def from_json(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``."""
    return Tokenizer.from_file(str(path))


def from_vocabulary(path: Path) -> Tokenizer:
    """BERT's lower-casing tokenizer over the words of a ``vocab.txt``, one a line, with [CLS] and [SEP]."""
    from transformers import BertTokenizer

    words = path.read_text(encoding="utf-8").splitlines()
    if not {"[CLS]", "[SEP]", "[UNK]"} <= set(words):
        raise ValueError("it lists no [CLS], [SEP] and [UNK]")
    made: Tokenizer = BertTokenizer(vocab=str(path)).backend_tokenizer
    return made


def from_sentencepiece(path: Path) -> Tokenizer:
    """SentencePiece's unigram model with its own normalisation, the end of a text added, as T5 and SigLIP read it."""
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


def spelled(tokenizer: SimpleTokenizer) -> str:
    """Words and merges of the tokenizer that comes with open_clip, as text."""
    merges = [list(pair) for pair in tokenizer.bpe_ranks]
    return json.dumps({"words": tokenizer.encoder, "merges": merges, "pattern": tokenizer.pat.pattern})
