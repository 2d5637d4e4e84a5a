"""The sentences and the text tower that a text head is given for a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.heads.head import Head, Text
from evalfm.heads.text.classifier import ZeroShotHead
from evalfm.probing.session import EncoderSession
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.prompts import Own, prompt_set

TEXT = "text"


def reads_text(head: Head) -> bool:
    """Whether ``head`` needs sentences."""
    return TEXT in head.needs


def text_for(heads: Sequence[Head], session: EncoderSession, cohort: Cohort, file: str | None) -> Text | None:
    """What the text heads among ``heads`` are given; None where there are none.

    Args:
        heads: of one group.
        session: the encoder.
        cohort: whose classes are named.
        file: prompts in place of the task's own.

    Raises:
        EvalfmError: prompts were given of which no head reads anything, the encoder reads no text or pools its images
            in another space, or the sentences do not fit the classes.
    """
    readers = [head for head in heads if reads_text(head)]
    if not readers:
        if file is not None:
            raise EvalfmError("--prompts is read by text heads alone, such as --head zeroshot; leave it out.")
        return None
    source = session.source
    facts = source.encoder.card.text_tower if isinstance(source, EncodedSource) else None
    if not isinstance(source, EncodedSource) or facts is None:
        raise EvalfmError(
            f"The head {readers[0].name!r} reads sentences, and {session.name} has no text tower; "
            "`evalfm ls encoders --text` lists the encoders that do."
        )
    card = source.encoder.card
    if card.pooling != facts.pooling:
        raise EvalfmError(
            f"Sentences and images of {card.name} meet in its pooling {facts.pooling!r}, not in {card.pooling!r}; "
            f"take --encoder {card.base_name}@{facts.pooling}."
        )
    own = Own(facts.present, facts.absent)
    prompts = prompt_set(cohort.task.name, cohort.task.kind, cohort.class_names, own, file)
    if prompts.only_sentences and all(isinstance(head, ZeroShotHead) for head in readers):
        raise EvalfmError(
            f"{file} maps classes to whole sentences, which are for prompt learners; zeroshot reads names and "
            "templates: write them as a prompt card (docs/prompts.md)."
        )
    return Text(prompts, source.encoder.text_tower())


def text_key(text: Text, data: str) -> dict[str, Any]:
    """What of the text decides a run, as plain values; learners have weights by the data set's name."""
    return {"prompts": text.prompts.plain(), "tower": text.tower.key, "data": data}
