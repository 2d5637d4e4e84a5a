"""The text tower beside a Swin: transformers' BERT, the last token of a sentence through a linear layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.families._tokenizer import PublishedTower, filled
from evalfm.encoders.families._transformers_loading import pretrained
from evalfm.encoders.weights import load_into, read_checkpoint

BERT, PROJECTION = "text_encoder.text_encoder.", "text_projection.projection."

ASIDE = ("*pooler.dense.*", "*position_ids")
"""Of the file's BERT: its pooler is not used, and positions are counted."""


class SwinText(PublishedTower):
    """BERT's last token, which ends every sentence, projected with bias; read from the file of the image tower.

    The card's ``text_tower.arguments`` give ``bert``, settings that differ from transformers' defaults.

    Source: You et al., CXR-CLIP, MICCAI 2023; the authors' ``CXRClip.encode_text``.

    Raises:
        EvalfmError: the vocabulary is missing, or the tensors do not fit.
    """

    filling_unseen = True

    def __init__(self, card: EncoderCard, origin: Path | None) -> None:
        super().__init__(card, origin)
        config: Any = BertConfig(**self.facts.arguments.get("bert", {}))
        self.projection = nn.Linear(config.hidden_size, self.facts.dim)
        self.model: Any
        if origin is None:
            self.model = BertModel(config, add_pooling_layer=False)
            return
        facts = card.weights.model_copy(update={"unexpected_keys": ASIDE})
        checkpoint = read_checkpoint(origin, card.weights)
        parts: dict[str, dict[str, Tensor]] = {BERT: {}, PROJECTION: {}}
        for name, tensor in checkpoint.tensors.items():
            for prefix, part in parts.items():
                if name.startswith(prefix):
                    part[name.removeprefix(prefix)] = tensor
        self.model = pretrained(BertModel, config, parts[BERT], facts, checkpoint.path, BERT)
        load_into(self.projection, parts[PROJECTION], facts, checkpoint.path)
        self.logit_scale = (
            float(checkpoint.tensors["logit_scale"].exp()) if "logit_scale" in checkpoint.tensors else 1.0
        )

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        rows = [self.tokenizer.encode(text).ids for text in texts]
        lengths = [len(row) for row in rows]
        longest = min(max(lengths), self.facts.context_length)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        return {"input_ids": filled(rows, longest), "attention_mask": mask.long()}, lengths

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        last = tokens["attention_mask"].sum(1) - 1
        hidden = self.model(**tokens).last_hidden_state
        return self.projection(hidden[torch.arange(len(hidden), device=hidden.device), last])
