"""MedImageInsight's text tower: a transformer over CLIP's tokens, without a causal mask."""

from __future__ import annotations

from collections import OrderedDict

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import EncoderState
from evalfm.encoders.families._tokenizer import END, OpenAiTower, filled
from evalfm.encoders.weights import load_into, read_checkpoint
from evalfm.errors import EvalfmError

VOCABULARY = 49408


class MedImageInsightTextTower(OpenAiTower):
    """The last layer at the first END, projected; tensors come from the file that holds the image encoder.

    Args:
        card: its ``text_tower.arguments`` give ``width``, ``heads`` and ``layers``.
        state: whose ``origin`` is the file; None draws random weights.

    Raises:
        EvalfmError: the file has changed since the image encoder was read, or does not fit.
    """

    filling_unseen = True

    def __init__(self, card: EncoderCard, state: EncoderState) -> None:
        super().__init__(card)
        shape = self.facts.arguments
        self.model = _Sentences(
            shape["width"], shape["heads"], shape["layers"], self.facts.context_length, self.facts.dim
        )
        if state.origin is not None:
            checkpoint = read_checkpoint(state.origin, card.weights)
            if checkpoint.sha256 != state.weights_file:
                raise EvalfmError(f"{state.origin} has changed since the image encoder was read; load both again.")
            tensors = {
                name: each for name, each in checkpoint.tensors.items() if name in _OWN or name.startswith(_LANG)
            }
            load_into(self.model, tensors, card.weights.model_copy(update={"unexpected_keys": ()}), state.origin)
        self.logit_scale = float(self.model.logit_scale.detach().exp())

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        rows = self._rows(texts)
        lengths = [len(row) for row in rows]
        # The authors fill up with END, which their mask hides.
        tokens = filled(rows, self.facts.context_length, END)
        return {"tokens": tokens, "lengths": torch.tensor(lengths)}, lengths

    def _words(self) -> nn.Module:
        return self.model.lang_encoder.token_embedding

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        return self.model(tokens["tokens"], tokens["lengths"])


_LANG = "lang_encoder."
_OWN = ("lang_projection", "logit_scale")


class _Sentences(nn.Module):
    """The authors' transformer and projection, under their names."""

    def __init__(self, width: int, heads: int, layers: int, context: int, dim: int) -> None:
        super().__init__()
        self.lang_encoder = _Transformer(width, heads, layers, context)
        self.lang_projection = nn.Parameter(torch.empty(width, dim))
        self.logit_scale = nn.Parameter(torch.ones([]))
        nn.init.trunc_normal_(self.lang_projection, std=0.02)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings [N, dim] of token rows [N, context] of which ``lengths`` are text."""
        hidden = self.lang_encoder(tokens, lengths)
        ends: Tensor = hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
        return ends @ self.lang_projection


class _Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, context: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.resblocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width, eps=1e-12)
        for each in (self.token_embedding.weight, self.positional_embedding):
            nn.init.trunc_normal_(each, std=0.02)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        hidden: Tensor = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        filling = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
        for block in self.resblocks:
            hidden = block(hidden, filling)
        return self.ln_final(hidden)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-12)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-12)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, hidden: Tensor, filling: Tensor) -> Tensor:
        given = self.ln_1(hidden)
        attended, _ = self.attn(given, given, given, key_padding_mask=filling, need_weights=False)
        hidden = hidden + attended
        return hidden + self.mlp(self.ln_2(hidden))
