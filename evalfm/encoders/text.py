"""The text tower of an image-text encoder: sentences to vectors in the space of the image projection."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from evalfm.encoders.card import EncoderCard, TextFacts
from evalfm.encoders.weights import foreign_code, tensor_digest
from evalfm.errors import EvalfmError

BATCH = 64
"""Sentences per forward pass."""

CONTRACT = 1
"""Raised whenever evalfm's own reading of sentences changes."""

LIBRARIES = ("torch", "transformers", "tokenizers", "open_clip_torch")


class TextTower(nn.Module, ABC):
    """Turns sentences into vectors. A subclass implements ``_tokenize`` and ``_forward``.

    ``_words`` lets a context be learnt, and ``_vocabulary`` names the tokenizer's words.

    Attributes:
        facts: the card's ``text_tower``.
        logit_scale: what cosine similarities are multiplied by before softmax or sigmoid (already exponentiated).
        logit_bias: added after it; 0 where the model has none.
        filling_unseen: whether the model looks at nothing after the last token of a sentence, by a causal or an
            attention mask; then sentences are cut to the longest of their batch.
    """

    logit_scale: float = 1.0
    logit_bias: float = 0.0
    filling_unseen: ClassVar[bool] = False

    def __init__(self, card: EncoderCard) -> None:
        super().__init__()
        if card.text_tower is None:
            raise EvalfmError(f"{card.name} has no text tower; choose an image-text encoder.")
        self.name = card.name
        self.facts: TextFacts = card.text_tower
        self._key: str | None = None

    @abstractmethod
    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        """The model's input by name, token ids [N, context] first, and each sentence's count of tokens before a cut.

        An empty sentence must give the tokens that every sentence has.
        """

    @abstractmethod
    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """The model's own text embeddings [N, D]."""

    def _words(self) -> nn.Module:
        """The module that turns token ids [N, L] into vectors [N, L, W], positions not yet added."""
        raise EvalfmError(
            f"The text tower of {self.name} takes no learnt words; take a head that only reads, such as zeroshot."
        )

    def _vocabulary(self) -> str:
        """Everything beside code that decides how the tokenizer reads, as text."""
        return ""

    @property
    def key(self) -> str:
        """SHA-256 of everything that decides text embeddings, as it was when first needed.

        Made of the tensors, the tokenizer, the card's ``text_tower``, scale and bias, the user's code, the libraries.
        """
        if self._key is None:
            content = {
                "contract": CONTRACT,
                "tower": type(self).__qualname__,
                "weights": tensor_digest(self.state_dict()),
                "code": foreign_code(type(self)),
                "vocabulary": hashlib.sha256(self._vocabulary().encode()).hexdigest(),
                "facts": self.facts.model_dump(mode="json", exclude={"present", "absent"}),
                "logits": [self.logit_scale, self.logit_bias],
                "libraries": {name: version(name) for name in LIBRARIES},
            }
            self._key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return self._key

    @final
    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, D] of sentences, float32, as the model gives them: not brought to length 1.

        Raises:
            EvalfmError: no sentence, one that is empty or longer than the tower reads, or another dimension than the
                card says.
        """
        tokens, lengths = self._read(texts)
        embeddings = torch.cat([self._embed(part) for part in self._batches(tokens, lengths)])
        if not bool(torch.isfinite(embeddings).all()):
            raise EvalfmError(f"The text tower of {self.name} gives NaN or infinite values; check the weights.")
        return embeddings

    @final
    @torch.no_grad()
    def prompted(self, texts: Sequence[str], phrase: str, count: int | None = None) -> Prompted:
        """Sentences that all begin with ``phrase``, its first ``count`` tokens (None: all) open to be learnt.

        Raises:
            EvalfmError: as :meth:`encode`; or a sentence does not begin with the phrase, the tokenizer joins the
                phrase to what follows it, or the phrase has fewer than ``count`` tokens.
        """
        tokens, lengths = self._read(texts)
        alone, (phrase_length, empty_length) = self._tokenize([phrase, ""])
        ids, (phrase_ids, empty_ids) = next(iter(tokens.values())), next(iter(alone.values()))
        before = 0
        while before < empty_length and bool((ids[:, before] == empty_ids[before]).all()):
            before += 1
        learnable = phrase_length - empty_length
        wanted = learnable if count is None else count
        if not 1 <= wanted <= learnable:
            raise EvalfmError(
                f"The phrase {phrase!r} has {learnable} tokens for {self.name} and {wanted} are to be learnt; "
                "write a longer phrase, or learn from 1 token up to all of them."
            )
        whole = before + learnable
        for text, row in zip([texts] if isinstance(texts, str) else texts, ids, strict=True):
            if not torch.equal(row[:whole], phrase_ids[:whole]):
                raise EvalfmError(
                    f"For {self.name} the tokens of {text!r} do not begin with those of the phrase {phrase!r}; "
                    "begin each sentence with the phrase, a space after it."
                )
        return Prompted(self, list(self._batches(tokens, lengths)), before, wanted)

    def _read(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], list[int]]:
        """Tokens of checked sentences."""
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
        return tokens, lengths

    def _batches(self, tokens: dict[str, Tensor], lengths: list[int]) -> list[dict[str, Tensor]]:
        """The model's inputs in parts of ``BATCH``, without filling that no sentence of the part can see."""
        parts = []
        place = next(self.parameters()).device
        for first in range(0, len(lengths), BATCH):
            part = {name: each[first : first + BATCH] for name, each in tokens.items()}
            if self.filling_unseen:
                longest = max(lengths[first : first + BATCH])
                part = {name: each[:, :longest] if each.ndim == 2 else each for name, each in part.items()}
            parts.append({name: each.to(place) for name, each in part.items()})
        return parts

    def _embed(self, tokens: dict[str, Tensor]) -> Tensor:
        """Embeddings [N, D] of one part, float32, in evaluation mode."""
        self.eval()
        embeddings = self._forward(tokens).float()
        count = len(next(iter(tokens.values())))
        if tuple(embeddings.shape) != (count, self.facts.dim):
            raise EvalfmError(
                f"The text tower of {self.name} gives {list(embeddings.shape)}, its card promises "
                f"[{count}, {self.facts.dim}]; fix the card, or install the library version it was written for."
            )
        return embeddings


class Prompted:
    """Sentences, read once, in which the vectors of some first tokens can be replaced (Zhou et al., CoOp, 2022).

    Made by :meth:`TextTower.prompted`. Everything else of the tower, the positions included,
    stays as it is, so that the initial context gives the embeddings of the sentences as they are written.

    Args:
        tower: which reads the sentences.
        parts: its inputs, batch by batch; the token ids [N, L] come first in each.
        start: position of the first token to be replaced. count: how many are.
    """

    def __init__(self, tower: TextTower, parts: list[dict[str, Tensor]], start: int, count: int) -> None:
        self._tower, self._parts, self._start = tower, parts, start
        ids = next(iter(parts[0].values()))[:1, start : start + count]
        words: Tensor = tower._words()(ids)
        self.initial = words[0].detach().float().clone()
        """Context [n, W] that the phrase itself gives."""

    def __len__(self) -> int:
        """Number of sentences C."""
        return sum(len(next(iter(part.values()))) for part in self._parts)

    def encode(self, context: Tensor) -> Tensor:
        """Embeddings [C, D] with ``context`` [n, W], or one for each sentence [C, n, W], in the phrase's place.

        Differentiable in ``context``; float32, not brought to length 1.

        Raises:
            EvalfmError: ``context`` has another shape, or the tower another dimension than its card says.
        """
        shape = tuple(self.initial.shape)
        if tuple(context.shape) not in (shape, (len(self), *shape)):
            raise EvalfmError(
                f"A context of {list(context.shape)} does not fit {self._tower.name}, which takes {list(shape)}; "
                "take the encoder and the phrase that it was learnt with."
            )
        each = context.expand(len(self), *shape)
        embeddings = []
        first = 0
        for part in self._parts:
            count = len(next(iter(part.values())))
            with self._replaced(each[first : first + count]):
                embeddings.append(self._tower._embed(part))
            first += count
        return torch.cat(embeddings)

    @contextmanager
    def _replaced(self, context: Tensor) -> Iterator[None]:
        """Put ``context`` [N, n, W] among the vectors of the tokens, for the forward pass inside."""
        end = self._start + context.shape[1]

        def replace(_module: object, _given: object, words: Tensor) -> Tensor:
            return torch.cat([words[:, : self._start], context.to(words.dtype), words[:, end:]], dim=1)

        with self._tower._words().register_forward_hook(replace):
            yield
