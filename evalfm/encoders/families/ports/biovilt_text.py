"""BioViL-T's text tower: CXR-BERT from transformers' own BERT, with the authors' head on its CLS token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from evalfm.encoders.card import EncoderCard, WeightsFacts
from evalfm.encoders.encoder import EncoderState
from evalfm.encoders.families._tokenizer import PublishedTower, filled
from evalfm.encoders.families._transformers_loading import pretrained
from evalfm.encoders.hub import fetch_beside
from evalfm.encoders.weights import load_into, read_checkpoint

BERT, HEAD = "bert.", "cls_projection_head."

FACTS = WeightsFacts(source="path", unexpected_keys=("cls.*", "bert.pooler.*", "bert.embeddings.position_ids"))
"""Of the text file: the head for masked words and BERT's own pooler are not used."""


class BioVilTTextTower(PublishedTower):
    """BERT's CLS token through two linear layers; the tensors lie in a file of their own beside the image encoder's.

    Args:
        card: its ``text_tower.arguments`` give ``weights``, the file's name, and ``bert``, settings of the BERT that
            differ from transformers' defaults.
        state: whose ``origin`` is the image encoder's file; with random weights the text tower is random too.

    Raises:
        EvalfmError: the vocabulary or the text weights are missing, or do not fit.
    """

    filling_unseen = True

    def __init__(self, card: EncoderCard, state: EncoderState) -> None:
        super().__init__(card, state.origin)
        config: Any = BertConfig(**self.facts.arguments.get("bert", {}))
        self.head = _Projection(config.hidden_size, self.facts.dim)
        self.bert: Any
        if state.random_weights:
            self.bert = BertModel(config, add_pooling_layer=False)
            return
        checkpoint = read_checkpoint(fetch_beside(card, state.origin, self.facts.arguments["weights"]), FACTS)
        parts: dict[str, dict[str, Tensor]] = {BERT: {}, HEAD: {}, "": {}}
        for name, tensor in checkpoint.tensors.items():
            prefix = next(each for each in parts if name.startswith(each))
            parts[prefix][name.removeprefix(prefix)] = tensor
        self.bert = pretrained(BertModel, config, parts[BERT], FACTS, checkpoint.path, BERT, parts[""])
        load_into(self.head, parts[HEAD], FACTS, checkpoint.path)

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        rows = [self.tokenizer.encode(text).ids for text in texts]
        lengths = [len(row) for row in rows]
        longest = min(max(lengths), self.facts.context_length)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        ids = filled(rows, longest, self.tokenizer.token_to_id("[PAD]") or 0)
        return {"input_ids": ids, "attention_mask": mask.long()}, lengths

    def _words(self) -> nn.Module:
        return self.bert.get_input_embeddings()

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        return self.head(self.bert(**tokens).last_hidden_state[:, 0])


class _Projection(nn.Module):
    """The authors' projection head, under their names."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.dense_to_hidden = nn.Linear(width, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.dense_to_output = nn.Linear(dim, dim)

    def forward(self, cls: Tensor) -> Tensor:
        """From the CLS token [N, width] to the joint space [N, dim]."""
        return self.dense_to_output(self.LayerNorm(functional.gelu(self.dense_to_hidden(cls))))
