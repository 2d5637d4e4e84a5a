"""Sentences whose first words are vectors to be learnt: the text tower, differentiable in these alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from evalfm.encoders.text import TextTower


class Prompted:
    """Sentences, read once, in which the vectors of some first tokens can be replaced (Zhou et al., CoOp, 2022).

    Made by :meth:`evalfm.encoders.text.TextTower.prompted`. Everything else of the tower, the positions included,
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

        hook = self._tower._words().register_forward_hook(replace)
        try:
            yield
        finally:
            hook.remove()
