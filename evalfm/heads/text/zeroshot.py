"""The zero-shot head: an image belongs to the class whose sentences lie nearest; nothing is learnt."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.encoders.text import TextTower
from evalfm.heads.head import Context, Examples, Fit, Text
from evalfm.heads.text.classifier import TextHead, normalised, text_of
from evalfm.tasks.prompts import PromptSet


class ZeroShotHead(TextHead):
    """Sentences of each row, embedded, brought to length 1, averaged over names and templates, and to length 1 again.

    Radford et al., ICML 2021, section 3.1.4. Train is not used; only the operating threshold is chosen on val.
    """

    name: ClassVar[str] = "zeroshot"
    summary: ClassVar[str] = (
        "nearest sentence of an image-text encoder, averaged over names and templates; nothing is learnt"
    )
    kinds: ClassVar[frozenset[str]] = frozenset({"binary", "multilabel", "multiclass", "ordinal"})
    deterministic: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._by_template = torch.empty(0)
        self._templates: tuple[str, ...] = ()

    @property
    def grid(self) -> dict[str, object]:
        """How sentences are put together; the sentences themselves are part of the run's key beside it."""
        return {"ensemble": "mean of normalised embeddings over names, then templates"}

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Embed the sentences.

        Raises:
            EvalfmError: the kind is not served, or the encoder reads no text.
        """
        text = text_of(self, context)
        self._by_template = template_embeddings(text.prompts, text.tower)
        self._templates = text.prompts.templates
        self.keep(self._by_template.mean(0), text.tower.logit_scale, text.prompts.kind)
        return Fit({"templates": len(self._templates), "logit_scale": self._scale})

    def for_base(self) -> ZeroShotHead:
        """As it is: nothing is learnt."""
        return ZeroShotHead()

    def for_classes(self, text: Text) -> ZeroShotHead:
        """A head for the sentences of ``text``."""
        other = ZeroShotHead()
        rows = template_embeddings(text.prompts, text.tower).mean(0)
        other.keep(rows, text.tower.logit_scale, text.prompts.kind)
        return other

    def by_template(self, examples: Examples) -> dict[str, NDArray[np.float64]]:
        """Probabilities [N, K] by each template alone, right after ``fit``."""
        return {
            template: self.scores(examples, normalised(rows))
            for template, rows in zip(self._templates, self._by_template, strict=True)
        }


def template_embeddings(prompts: PromptSet, tower: TextTower) -> Tensor:
    """Text embeddings [T, R, D] of length 1, float64: per template and row the mean over the row's names."""
    sentences = dict.fromkeys(text for row in prompts.rows for each in row.prompts for text in each)
    place = {sentence: number for number, sentence in enumerate(sentences)}
    embedded = normalised(tower.encode(list(sentences)).cpu())
    rows = [
        torch.stack([embedded[[place[text] for text in each]].mean(0) for each in row.prompts]) for row in prompts.rows
    ]
    return normalised(torch.stack(rows, dim=1))
