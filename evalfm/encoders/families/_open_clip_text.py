"""Text towers of open_clip: CLIP's own transformer, and BERT with a projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.families._tokenizer import spelled, tokenizer_of
from evalfm.encoders.families.open_clip import bert_of, load, whole_of
from evalfm.encoders.text import TextTower
from evalfm.encoders.weights import read_checkpoint

START, END = 49406, 49407
"""Tokens before and after a text in OpenAI's vocabulary; what follows is 0."""


class ClipText(TextTower):
    """The end-of-text token of a causal transformer, projected; the tokenizer comes with open_clip."""

    def __init__(self, card: EncoderCard, origin: Path | None) -> None:
        super().__init__(card)
        self.model: Any = whole_of(card) if origin is None else load(card, read_checkpoint(origin, card.weights))
        self.model.visual = nn.Identity()
        self.tokenizer = SimpleTokenizer(context_length=self.facts.context_length)
        self.logit_scale = float(self.model.logit_scale.detach().exp())

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        rows = [[START, *self.tokenizer.encode(text), END] for text in texts]
        return {"text": _filled(rows, self.facts.context_length)}, [len(row) for row in rows]

    def _words(self) -> nn.Module:
        words: nn.Module = self.model.token_embedding
        return words

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        embedded: Tensor = self.model.encode_text(**tokens)
        return embedded

    def _vocabulary(self) -> str:
        return spelled(self.tokenizer)


class BertText(TextTower):
    """BERT's CLS token, projected; its tokenizer is one tokenizer.json. Its attention is masked where ids are 0."""

    filling_unseen = True

    def __init__(self, card: EncoderCard, origin: Path | None) -> None:
        super().__init__(card)
        self.tokenizer = tokenizer_of(card, origin)
        whole: Any = None if origin is None else load(card, read_checkpoint(origin, card.weights))
        self.model: Any = bert_of(card) if whole is None else whole.text
        if whole is not None:
            self.logit_scale = float(whole.logit_scale.detach().exp())

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        rows = [self.tokenizer.encode(text).ids for text in texts]
        return {"x": _filled(rows, self.facts.context_length)}, [len(row) for row in rows]

    def _words(self) -> nn.Module:
        words: nn.Module = self.model.transformer.get_input_embeddings()
        return words

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        embedded: Tensor = self.model(**tokens)
        return embedded

    def _vocabulary(self) -> str:
        written: str = self.tokenizer.to_str()
        return written


def _filled(rows: list[list[int]], length: int) -> Tensor:
    """Token ids [N, length]; what is short is filled with 0, what is long is cut, for the caller to refuse."""
    return torch.tensor([(row + [0] * length)[:length] for row in rows])
