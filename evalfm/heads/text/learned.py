"""Heads that learn the first words of a sentence: CoOp, BiomedCoOp and Biomed-DPT."""

from __future__ import annotations

import copy
import json
import math
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.encoders.text import Prompted, TextTower
from evalfm.errors import EvalfmError
from evalfm.heads._pooled import check_two_classes, finite_pooled, known_rows
from evalfm.heads.head import Context, Examples, Fit, Text
from evalfm.heads.text.classifier import TextHead, normalised, text_of
from evalfm.heads.text.published import TrainingEnvironment, Weights, table_digest, template_of, weights_of
from evalfm.heads.text.training import (
    ContextLoss,
    ContextSchedule,
    Labelled,
    Penalty,
    absolute_difference,
    best_logits,
    centre,
    distillation,
    learn_context,
    selected,
    squared_difference,
)
from evalfm.tasks.kinds import kind_of
from evalfm.tasks.prompts import SLOT, PromptRow, PromptSet

EPOCHS: dict[TrainingEnvironment, int] = {"few-shot": 100, "base-to-novel": 50}


@dataclass(frozen=True)
class Wording:
    """What is stored with a learnt context so that it can be used for other classes.

    Attributes:
        template: with ``{}`` where a class's name goes.
        names: of the rows that it was learnt on, in order.
    """

    template: str
    names: tuple[str, ...]

    @property
    def phrase(self) -> str:
        """The words before the class."""
        return self.template.partition(SLOT)[0].rstrip()

    @property
    def learnt(self) -> int:
        """How many tokens are learnt: the first ones of the phrase, one for each of its words (as in CoOp's code)."""
        return len(self.phrase.split())

    def prompted(self, tower: TextTower, names: Sequence[str]) -> Prompted:
        """The template for each of ``names``, read by ``tower``, the context open.

        Raises:
            EvalfmError: a sentence is longer than the tower reads.
        """
        return tower.prompted([self.template.replace(SLOT, name) for name in names], self.phrase, self.learnt)

    def as_tensor(self) -> Tensor:
        """As bytes, uint8 [L], for head.safetensors."""
        return torch.tensor(list(json.dumps(asdict(self), sort_keys=True).encode()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> Wording:
        """What ``as_tensor`` gave, back."""
        content = json.loads(bytes(tensor.tolist()))
        return cls(content["template"], tuple(content["names"]))


def names_of(rows: Sequence[PromptRow]) -> tuple[str, ...]:
    """What each row is called."""
    return tuple(row.name for row in rows)


class LearnedContextHead(TextHead):
    """A context of a few token vectors, one for all classes, learnt on stored image features; nothing else trains.

    It starts from the words of a template, so that the seed changes the order of batches (and the shots) alone.

    Args:
        setting: ``few-shot`` or ``base-to-novel``, whose weights and number of epochs are taken.
        schedule: in place of the authors'.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"binary", "multiclass", "ordinal"})
    deterministic: ClassVar[bool] = False
    rate: ClassVar[float] = 2.5e-3
    batch: ClassVar[int] = 4
    reads_sentences: ClassVar[bool] = True

    def __init__(self, setting: TrainingEnvironment = "few-shot", schedule: ContextSchedule | None = None) -> None:
        super().__init__()
        self._setting: TrainingEnvironment = setting
        self.schedule = schedule or ContextSchedule(EPOCHS[setting], self.rate, self.batch)
        self._context = torch.empty(0)
        self._wording: Wording | None = None

    @abstractmethod
    def penalty(self, images: Tensor, sentences: Tensor, scale: float, weights: Weights) -> Penalty:
        """What is added to the cross-entropy.

        Args:
            images: of train, [N, D], of length 1.
            sentences: embeddings [n, C, D] of length 1, empty where the head reads none.
            scale: the tower's logit scale.
            weights: of the terms.
        """

    @property
    def grid(self) -> dict[str, object]:
        """Setting, schedule, and a digest of the authors' weights and templates."""
        return {
            "setting": self._setting,
            "optimiser": "SGD",
            "schedule": asdict(self.schedule),
            "epoch": "last",
            "context": "first tokens of the template, one for each word before the class, shared by all classes",
            "published": table_digest(self.name, self._setting)[:16],
        }

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Learn the context on train; nothing is chosen on val.

        Raises:
            EvalfmError: the kind is not served; the encoder reads no text, or pools images in another space; a class
                has no sentence where the head learns towards sentences; train has one class only.
        """
        text = text_of(self, context)
        rows = text.prompts.rows
        names = (context.data, context.task)
        tower, scale = text.tower, text.tower.logit_scale
        wording = Wording(text.prompts.context or template_of(self.name, names), names_of(rows))
        sentences = self._sentences(text)
        label = " / ".join(context.class_names)
        known = _labelled(train, "train", label, tower), _labelled(val, "val", label, tower)
        check_two_classes(known[0].target.double().numpy(), "train", label)
        prompted = wording.prompted(tower, wording.names)
        place = prompted.initial.device
        learnt, shown = (each.to(place) for each in known)
        whose, weights = weights_of(self.name, self._setting, names)
        penalty = self.penalty(learnt.images, sentences.to(place), scale, weights)
        vectors, curve = learn_context(
            ContextLoss(prompted, scale, penalty),
            learnt,
            shown,
            self.schedule,
            torch.Generator().manual_seed(context.seed * 2**20 + zlib.crc32(self.name.encode()) % 2**20),
            context.progress,
            f"learning a context, {self.name}",
        )
        self._context, self._wording = vectors.cpu(), wording
        with torch.no_grad():
            self.keep(prompted.encode(vectors).cpu(), scale, text.prompts.kind)
        chosen: dict[str, float | int | str] = {
            "epoch": self.schedule.epochs,
            "template": wording.template,
            "context_tokens": wording.learnt,
            "parameters": vectors.numel(),
            "logit_scale": scale,
        }
        if self.reads_sentences:
            chosen |= {**_plain(weights), "weights_of": whose, "sentences": len(sentences)}
        return Fit(chosen, curve=curve, cautions=tuple(self._cautions(text.prompts, sentences, learnt)))

    def tensors(self) -> dict[str, Tensor]:
        """Those of a text head, ``context`` [n, W] and its ``wording``."""
        if self._wording is None:
            return {}
        return super().tensors() | {"context": self._context, "wording": self._wording.as_tensor()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``tensors`` gave."""
        super().load_tensors(tensors)
        self._context, self._wording = tensors["context"], Wording.from_tensor(tensors["wording"])

    def for_base(self) -> LearnedContextHead:
        """With the authors' weights and epochs for base-to-novel."""
        return type(self)("base-to-novel")

    def for_classes(self, text: Text) -> LearnedContextHead:
        """A head with the learnt context and other classes, those of ``text``: base-to-novel.

        Raises:
            EvalfmError: the head has not been fitted, a class is among those that the context was learnt on, classes
                are no rows of their own (a yes-or-no label), or the tower does not take the context.
        """
        if self._wording is None:
            raise EvalfmError(f"The head {self.name!r} has not been fitted; fit it or load a run's tensors first.")
        if kind_of(text.prompts.kind).yes_or_no or self._paired:
            raise EvalfmError("A yes-or-no label has no novel classes; take a task of several classes.")
        names = names_of(text.prompts.rows)
        seen = {name.casefold() for name in self._wording.names}
        both = [name for name in names if name.casefold() in seen]
        if both:
            raise EvalfmError(
                f"The context was learnt on {', '.join(map(repr, both))}, so that this is no novel class; give classes "
                "that it has not seen."
            )
        other = copy.copy(self)
        with torch.no_grad():
            prompted = self._wording.prompted(text.tower, names)
            rows = prompted.encode(self._context.to(prompted.initial.device)).cpu()
        other.keep(rows, self._scale, text.prompts.kind)
        return other

    def _sentences(self, text: Text) -> Tensor:
        """Embeddings [n, C, D] of length 1, float32, of the first n sentences of each row; n is what all have."""
        if not self.reads_sentences:
            return torch.empty(0)
        rows = text.prompts.rows
        silent = [row.name for row in rows if not row.sentences]
        if silent:
            raise EvalfmError(
                f"The head {self.name!r} learns towards sentences and there is none for {', '.join(silent)}; give some "
                "with --prompts FILE, a YAML or JSON mapping of each class to its sentences."
            )
        count = min(len(row.sentences) for row in rows)
        place = dict.fromkeys(row.sentences[number] for number in range(count) for row in rows)
        embedded = dict(zip(place, normalised(text.tower.encode(list(place)).cpu()).float(), strict=True))
        return torch.stack([torch.stack([embedded[row.sentences[number]] for row in rows]) for number in range(count)])

    def _cautions(self, prompts: PromptSet, sentences: Tensor, train: Labelled) -> list[Caution]:
        cautions = []
        most = max(len(row.sentences) for row in prompts.rows)
        if self.reads_sentences and most > len(sentences):
            words = (
                f"Every class needs as many sentences as the others: of up to {most} the first {len(sentences)} count."
            )
            cautions.append(Caution("fewer-sentences", words))
        present = set(train.target.tolist())
        absent = [row.name for number, row in enumerate(prompts.rows) if number not in present]
        if absent:
            words = f"No train image shows {', '.join(absent)}; the context was learnt on the others."
            cautions.append(Caution("unseen-class", words))
        return cautions


class CoOpHead(LearnedContextHead):
    """CoOp (Zhou et al., IJCV 2022): the cross-entropy alone."""

    name: ClassVar[str] = "coop"
    summary: ClassVar[str] = "a learnt context before the class's name, cross-entropy alone (CoOp)"
    rate: ClassVar[float] = 2e-3
    batch: ClassVar[int] = 32
    reads_sentences: ClassVar[bool] = False

    def penalty(self, images: Tensor, sentences: Tensor, scale: float, weights: Weights) -> Penalty:
        """Nothing."""
        nothing = images.new_zeros(())
        return lambda texts, logits, positions: nothing


class BiomedCoOpHead(LearnedContextHead):
    """BiomedCoOp (Koleilat et al., CVPR 2025): closeness to the mean sentence, distillation from chosen ones."""

    name: ClassVar[str] = "biomedcoop"
    summary: ClassVar[str] = (
        "a learnt context held to an ensemble of sentences, of which each batch chooses (BiomedCoOp)"
    )

    def penalty(self, images: Tensor, sentences: Tensor, scale: float, weights: Weights) -> Penalty:
        """λ1 · SCCM + λ2 · KDSP; the sentences of a batch are chosen by its images."""
        middle, best = centre(sentences), best_logits(images, sentences, scale)

        def added(texts: Tensor, logits: Tensor, positions: Tensor) -> Tensor:
            kept = selected(best[positions].mean(0), weights.tau)
            teacher = scale * images[positions] @ centre(sentences[kept]).T
            return weights.consistency * squared_difference(texts, middle) + weights.distillation * distillation(
                teacher, logits
            )

        return added


class BiomedDPTHead(LearnedContextHead):
    """Biomed-DPT (Peng et al., arXiv 2505.05189): closeness to the mean sentence, distillation from it.

    Its vision prompt is the encoder's: ``--encoder biomedclip@zero-prompt``.
    """

    name: ClassVar[str] = "biomed-dpt"
    summary: ClassVar[str] = (
        "a learnt context in a clinical template, held to sentences; for biomedclip@zero-prompt (Biomed-DPT)"
    )

    def penalty(self, images: Tensor, sentences: Tensor, scale: float, weights: Weights) -> Penalty:
        """λ1 · mean |t − e| + λ2 · KL."""
        middle = centre(sentences)
        teacher = scale * images @ middle.T

        def added(texts: Tensor, logits: Tensor, positions: Tensor) -> Tensor:
            return weights.consistency * absolute_difference(texts, middle) + weights.distillation * distillation(
                teacher[positions], logits
            )

        return added


def _labelled(examples: Examples, split: str, label: str, tower: TextTower) -> Labelled:
    """Known images of ``split`` with the row of texts that each belongs to: the class, or absent 0 and present 1."""
    rows: NDArray[np.intp] = known_rows(examples.target, split, label)
    features = finite_pooled(examples, split)
    if features.shape[1] != tower.facts.dim:
        raise EvalfmError(
            f"The images of {examples.source.name} have {features.shape[1]} features and sentences {tower.facts.dim}; "
            f"take the pooling in which they meet: @{tower.facts.pooling}."
        )
    images = normalised(torch.from_numpy(features[rows])).float()
    return Labelled(images, torch.from_numpy(examples.target[rows].astype(np.int64)))


def _plain(weights: Weights) -> dict[str, float | int | str]:
    plain: dict[str, float | int | str] = {"consistency": weights.consistency, "distillation": weights.distillation}
    return plain | ({"tau": weights.tau} if math.isfinite(weights.tau) else {})
