"""Heads that compare an image with a text embedding per row, and the one that learns nothing."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evalfm.encoders.text import TextTower
from evalfm.errors import EvalfmError
from evalfm.heads._pooled import check_kind, finite_pooled, tied
from evalfm.heads.head import Context, Examples, Fit, Head, PooledHead, Text
from evalfm.tasks.kinds import kind_of
from evalfm.tasks.prompts import PromptSet


class TextHead(PooledHead):
    """Scores an image by cosines to text embeddings, times the tower's scale; a subclass makes the embeddings.

    Of exclusive classes softmax over the rows; of a yes-or-no label softmax over its two rows, which is
    sigmoid(scale · (cos present − cos absent)).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"pooled", "text"})

    def __init__(self) -> None:
        self._rows = torch.empty(0)
        self._scale = 1.0
        self._paired = False

    @abstractmethod
    def for_base(self) -> TextHead:
        """A fresh head with the settings of base-to-novel."""

    @abstractmethod
    def for_classes(self, text: Text) -> TextHead:
        """The fitted head with other classes, those of ``text``.

        Raises:
            EvalfmError: the head has not been fitted, or the classes do not fit.
        """

    def keep(self, rows: Tensor, scale: float, kind: str) -> None:
        """Take text embeddings [R, D] (brought to length 1) and the scale of their cosines."""
        self._rows = normalised(rows)
        self._scale, self._paired = float(scale), kind_of(kind).yes_or_no

    def tensors(self) -> dict[str, Tensor]:
        """``rows`` [R, D] of length 1, ``scale`` of the cosines, and whether two rows are one label (``paired``)."""
        if not len(self._rows):
            return {}
        return {
            "rows": self._rows,
            "scale": torch.tensor(self._scale, dtype=torch.float64),
            "paired": torch.tensor(self._paired),
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``tensors`` gave; sentences are not read again."""
        self._rows = tensors["rows"]
        self._scale, self._paired = float(tensors["scale"]), bool(tensors["paired"])

    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """Probabilities [N, K]: of each class, or of each label being there."""
        return self.scores(examples, self._rows)

    def scores(self, examples: Examples, rows: Tensor) -> NDArray[np.float64]:
        """The same for other text embeddings ``rows`` [R, D] of length 1.

        Raises:
            EvalfmError: there are none, or the images' features have another dimension.
        """
        if not len(rows):
            raise EvalfmError(f"The head {self.name!r} has not been fitted; fit it or load a run's tensors first.")
        pooled = torch.from_numpy(finite_pooled(examples, "given"))
        if pooled.shape[1] != rows.shape[1]:
            raise EvalfmError(
                f"The head {self.name!r} compares images with texts of {rows.shape[1]} dimensions and "
                f"{examples.source.name} gives {pooled.shape[1]}; take the encoder of the run."
            )
        logits = torch.from_numpy(tied((self._scale * (normalised(pooled) @ rows.T)).numpy()))
        if self._paired:
            return torch.softmax(logits.reshape(len(logits), -1, 2), dim=-1)[..., 1].numpy()
        return torch.softmax(logits, dim=-1).numpy()


def normalised(vectors: Tensor) -> Tensor:
    """``vectors`` [N, D] of length 1, float64.

    >>> normalised(torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """
    return functional.normalize(vectors.double(), dim=-1)


def text_of(head: Head, context: Context) -> Text:
    """The text that ``head`` needs.

    Raises:
        EvalfmError: the task's kind is not served, or there is no text.
    """
    check_kind(head, context)
    if context.text is None:
        raise EvalfmError(
            f"The head {head.name!r} reads sentences, and its encoder has no text tower; `evalfm ls encoders --text` "
            "lists the encoders that do."
        )
    return context.text


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
    learns: ClassVar[bool] = False

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
