"""The text tower of an image-text encoder: sentences to vectors in the space of the image projection."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from evalfm.encoders.card import TextFacts
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from evalfm.encoders.card import EncoderCard

BATCH = 64
"""Sentences per forward pass."""


class TextTower(nn.Module, ABC):
    """Turns sentences into vectors. A subclass implements ``_tokenize`` and ``_forward``.

    Attributes:
        facts: the card's ``text_tower``.
        logit_scale: what cosine similarities are multiplied by before softmax or sigmoid (already exponentiated).
        logit_bias: added after it; 0 where the model has none.
    """

    logit_scale: float = 1.0
    logit_bias: float = 0.0

    def __init__(self, card: EncoderCard) -> None:
        super().__init__()
        if card.text_tower is None:
            raise EvalfmError(f"{card.name} has no text tower; choose an image-text encoder.")
        self.name = card.name
        self.facts: TextFacts = card.text_tower

    @property
    def key(self) -> str:
        """SHA-256 of all that decides the embeddings: tensors, tokenizer, scale and facts."""
        from evalfm.encoders.encoder import tensor_digest  # which names this module

        tokenizer: Any = getattr(self, "tokenizer", None)
        words = tokenizer.to_str() if hasattr(tokenizer, "to_str") else type(tokenizer).__name__
        said = [tensor_digest(self.state_dict()), words, self.logit_scale, self.logit_bias, self.facts.model_dump()]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @abstractmethod
    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        """The model's input [N, context] by name, and how many tokens each sentence has before any cut."""

    @abstractmethod
    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """The model's own text embeddings [N, D]."""

    @final
    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, D] of sentences, float32, as the model gives them: not brought to length 1.

        Raises:
            EvalfmError: no sentence, one that is empty or longer than the tower reads, or another dimension than the
                card says.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        if not given or any(not text.strip() for text in given):
            raise EvalfmError(f"{self.name} needs at least one sentence, and none that is empty.")
        tokens, lengths = self._tokenize(given)
        for text, length in zip(given, lengths, strict=True):
            if length > self.facts.context_length:
                raise EvalfmError(
                    f"{self.name} reads {self.facts.context_length} tokens and the text that begins with "
                    f"{text[:40]!r} has {length}; shorten it."
                )
        place = next(self.parameters()).device
        self.eval()
        parts = []
        for first in range(0, len(given), BATCH):
            part = {name: each[first : first + BATCH].to(place) for name, each in tokens.items()}
            parts.append(self._forward(part).float())
        embeddings = torch.cat(parts)
        if tuple(embeddings.shape) != (len(given), self.facts.dim):
            raise EvalfmError(
                f"The text tower of {self.name} gives {list(embeddings.shape)}, its card promises "
                f"[{len(given)}, {self.facts.dim}]; mend the card, or install the library version it was written for."
            )
        if not bool(torch.isfinite(embeddings).all()):
            raise EvalfmError(f"The text tower of {self.name} gives NaN or infinite values; check the weights.")
        return embeddings
