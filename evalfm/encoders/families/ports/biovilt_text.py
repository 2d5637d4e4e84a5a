"""BioViL-T's text tower: CXR-BERT from transformers' own BERT, with the authors' head on its CLS token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, BertTokenizer
from transformers.utils import logging as library_logging

from evalfm.encoders.card import EncoderCard, WeightsFacts
from evalfm.encoders.encoder import EncoderState
from evalfm.encoders.hub import fetch_beside
from evalfm.encoders.text import TextTower
from evalfm.encoders.weights import check_fit, load_into, read_checkpoint

BERT, HEAD = "bert.", "cls_projection_head."

FACTS = WeightsFacts(source="path", unexpected_keys=("cls.*", "bert.pooler.*", "bert.embeddings.position_ids"))
"""Of the text file: the head for masked words and BERT's own pooler are not used."""


class BioVilTTextTower(TextTower):
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
        super().__init__(card)
        config: Any = BertConfig(**self.facts.arguments.get("bert", {}))
        vocabulary = fetch_beside(card, state.origin, self.facts.tokenizer[0])
        self.tokenizer = BertTokenizer(vocab=str(vocabulary))
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
        self.bert, report = _bert(config, parts[BERT])
        check_fit(
            missing=[BERT + name for name in report["missing_keys"]],
            unexpected=[*(BERT + name for name in report["unexpected_keys"]), *parts[""]],
            mismatched=[
                f"{BERT}{name} {list(theirs)} instead of {list(own)}" for name, theirs, own in report["mismatched_keys"]
            ],
            facts=FACTS,
            origin=checkpoint.path,
        )
        load_into(self.head, parts[HEAD], FACTS, checkpoint.path)

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        rows = self.tokenizer(texts)["input_ids"]
        lengths = [len(row) for row in rows]
        longest = min(max(lengths), self.facts.context_length)
        filling = self.tokenizer.pad_token_id
        padded = [(row + [filling] * (longest - len(row)))[:longest] for row in rows]
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        return {"input_ids": torch.tensor(padded), "attention_mask": mask.long()}, lengths

    def _words(self) -> nn.Module:
        words: nn.Module = self.bert.get_input_embeddings()
        return words

    def _vocabulary(self) -> str:
        written: str = self.tokenizer.backend_tokenizer.to_str()
        return written

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        embedded: Tensor = self.head(self.bert(**tokens).last_hidden_state[:, 0])
        return embedded


def _bert(config: Any, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Any]]:
    """transformers' BERT with ``tensors``, and what fitted; ``from_pretrained`` knows the names of older releases."""
    logging: Any = library_logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    # Its table and its bar tell what is checked here and said in one sentence.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kind: Any = BertModel
    try:
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            add_pooling_layer=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype="float32",
        )
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
    return model, report


class _Projection(nn.Module):
    """The authors' projection head, under their names."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.dense_to_hidden = nn.Linear(width, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.dense_to_output = nn.Linear(dim, dim)

    def forward(self, cls: Tensor) -> Tensor:
        """From the CLS token [N, width] to the joint space [N, dim]."""
        projected: Tensor = self.dense_to_output(self.LayerNorm(functional.gelu(self.dense_to_hidden(cls))))
        return projected
