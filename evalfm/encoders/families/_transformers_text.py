"""Text towers of CLIP and SigLIP in the transformers library, with their tokenizer from one tokenizer.json."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.families._tokenizer import tokenizer_of
from evalfm.encoders.families.transformers import config_of, load, named_for
from evalfm.encoders.text import TextTower
from evalfm.encoders.weights import read_checkpoint

PUNCTUATION = str.maketrans("", "", string.punctuation)


class _DualText(TextTower):
    """Reads the whole model again and keeps its text part; without ``origin`` the weights are drawn."""

    text_class: ClassVar[Any]
    model: Any

    def __init__(self, card: EncoderCard, origin: Path | None) -> None:
        super().__init__(card)
        self.tokenizer = tokenizer_of(card, origin)
        config = config_of(card)
        if origin is None:
            self._take(self.text_class(config.text_config), config, None)
        else:
            model = load(card, config, named_for(card, config, read_checkpoint(origin, card.weights)))
            self._take(model.text_model, config, model)

    def _take(self, text: Any, config: Any, whole: Any) -> None:
        """Keep the text model and what follows it."""
        raise NotImplementedError

    def _written(self, text: str) -> str:
        """A sentence as the model was trained to read it."""
        facts = self.facts.arguments
        if facts.get("canonical"):
            text = " ".join(text.translate(PUNCTUATION).split())
        return text.lower() if facts.get("canonical") or facts.get("lower") else re.sub(r"\s+", " ", text).strip()

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        found = [self.tokenizer.encode(self._written(text)).ids for text in texts]
        pad, length = int(self.facts.arguments["pad_id"]), self.facts.context_length
        ids = torch.tensor([(each + [pad] * length)[:length] for each in found])
        return {"input_ids": ids}, [len(each) for each in found]

    def _words(self) -> nn.Module:
        words: nn.Module = self.model.get_input_embeddings()
        return words

    def _vocabulary(self) -> str:
        written: str = self.tokenizer.to_str()
        return written


class ClipText(_DualText):
    """CLIP: the end-of-text token of a causal transformer, projected. What pads comes after it and is not seen."""

    text_class = transformers.CLIPTextModel
    filling_unseen = True

    def _take(self, text: Any, config: Any, whole: Any) -> None:
        self.model = text
        drawn = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.projection = drawn if whole is None else whole.text_projection
        scale = config.logit_scale_init_value if whole is None else float(whole.logit_scale.detach())
        self.logit_scale = float(torch.tensor(scale).exp())

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        projected: Tensor = self.projection(self.model(**tokens).pooler_output)
        return projected


class SiglipText(_DualText):
    """SigLIP: the last of always ``context_length`` tokens, padding seen, through the text head."""

    text_class = transformers.SiglipTextModel

    def _take(self, text: Any, config: Any, whole: Any) -> None:
        self.model = text
        if whole is not None:
            self.logit_scale = float(whole.logit_scale.detach().exp())
            self.logit_bias = float(whole.logit_bias.detach())

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        pooled: Tensor = self.model(**tokens).pooler_output
        return pooled
