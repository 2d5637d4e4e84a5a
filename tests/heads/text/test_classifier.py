"""Zero-shot against plain arithmetic, and the identities of a two-prompt classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.head import Context, Text
from evalfm.heads.text.classifier import ZeroShotHead
from evalfm.tasks.prompts import PromptRow, PromptSet

from ...readers import SCALE, Reader, reader_card
from ..conftest import ArraySource, examples_of

GENERATOR = torch.Generator().manual_seed(3)
POOLED = torch.rand(40, 3, generator=GENERATOR)
EMBEDDED = {"bright": [1.0, 0, 0], "dark": [0, 1.0, 0], "grey": [0.6, 0.6, 0]}


def row(label: str, *prompts: tuple[str, ...], present: bool = True) -> PromptRow:
    return PromptRow(label, present, prompts[0][0], prompts)


def context(kind: str, rows: tuple[PromptRow, ...], names: tuple[str, ...]) -> Context:
    prompts = PromptSet(kind, tuple(f"t{number}" for number in range(len(rows[0].prompts))), rows, "test")
    return Context(kind, names, text=Text(prompts, Reader(reader_card())))


def fitted(kind: str, rows: tuple[PromptRow, ...], names: tuple[str, ...]) -> tuple[ZeroShotHead, np.ndarray]:
    head = ZeroShotHead()
    examples = examples_of(ArraySource(POOLED), range(40), np.zeros(40))
    head.fit(examples, examples, context(kind, rows, names))
    return head, head.predict(examples)


def cosines(word: str) -> np.ndarray:
    v = POOLED.double().numpy()
    t = np.array(EMBEDDED[word])
    return v @ t / np.linalg.norm(v, axis=1) / np.linalg.norm(t)


def test_two_prompts_are_a_sigmoid_of_the_scaled_difference_of_cosines():
    rows = (row("finding", ("dark",), present=False), row("finding", ("bright",)))
    _, scores = fitted("binary", rows, ("finding",))
    assert scores[:, 0] == pytest.approx(expit(SCALE * (cosines("bright") - cosines("dark"))), abs=1e-8)
    # Cut at one half it is the nearer of the two sentences.
    assert ((scores[:, 0] >= 0.5) == (cosines("bright") >= cosines("dark"))).all()


def test_exclusive_classes_share_one_softmax():
    rows = tuple(row(word, (word,)) for word in ("bright", "dark", "grey"))
    _, scores = fitted("multiclass", rows, ("bright", "dark", "grey"))
    expected = softmax(SCALE * np.stack([cosines(word) for word in EMBEDDED], axis=1), axis=1)
    assert scores == pytest.approx(expected, abs=1e-8)


def test_every_label_is_asked_by_itself():
    rows = (
        *(row("one", ("dark",), present=False), row("one", ("bright",))),
        *(row("two", ("bright",), present=False), row("two", ("grey",))),
    )
    _, scores = fitted("multilabel", rows, ("one", "two"))
    assert scores[:, 0] == pytest.approx(expit(SCALE * (cosines("bright") - cosines("dark"))), abs=1e-8)
    assert scores[:, 1] == pytest.approx(expit(SCALE * (cosines("grey") - cosines("bright"))), abs=1e-8)


def test_sentences_are_averaged_as_directions_whatever_their_length():
    quiet, loud = (
        fitted("multiclass", (row("a", ("bright", said)), row("b", ("dark", "dark"))), ("a", "b"))[1]
        for said in ("grey", "grey!")
    )
    assert quiet == pytest.approx(loud, abs=1e-8)
    mean = np.array([1.0, 0]) + np.array([1.0, 1.0]) / np.sqrt(2)
    v = POOLED.double().numpy()
    near = v[:, :2] @ mean / np.linalg.norm(mean) / np.linalg.norm(v, axis=1)
    expected = softmax(SCALE * np.stack([near, cosines("dark")], axis=1), axis=1)
    assert quiet == pytest.approx(expected, abs=1e-8)


def test_every_template_weighs_the_same_however_far_its_names_lie_apart():
    spread = row("a", ("bright", "dark"), ("bright", "bright!"))
    _, scores = fitted("multiclass", (spread, row("b", ("dark", "dark"), ("dark", "dark"))), ("a", "b"))
    mean = np.array([1.0, 1.0]) / np.sqrt(2) + np.array([1.0, 0])
    v = POOLED.double().numpy()
    near = v[:, :2] @ mean / np.linalg.norm(mean) / np.linalg.norm(v, axis=1)
    expected = softmax(SCALE * np.stack([near, cosines("dark")], axis=1), axis=1)
    assert scores == pytest.approx(expected, abs=1e-8)


def test_the_length_of_an_images_features_does_not_matter():
    rows = (row("finding", ("dark",), present=False), row("finding", ("bright",)))
    head, scores = fitted("binary", rows, ("finding",))
    longer = examples_of(ArraySource(POOLED * 8), range(40), np.zeros(40))
    assert head.predict(longer) == pytest.approx(scores, abs=1e-8)


def test_templates_stand_alone_and_together():
    rows = (row("a", ("bright",), ("grey",)), row("b", ("dark",), ("dark",)))
    head, together = fitted("multiclass", rows, ("a", "b"))
    alone = head.by_template(examples_of(ArraySource(POOLED), range(40), np.zeros(40)))
    assert list(alone) == ["t0", "t1"]
    first = fitted("multiclass", (row("a", ("bright",)), row("b", ("dark",))), ("a", "b"))[1]
    assert alone["t0"] == pytest.approx(first, abs=1e-8)
    assert not np.allclose(alone["t1"], together)


def test_each_sentence_is_read_once():
    given = context("multiclass", (row("a", ("bright",), ("grey",)), row("b", ("dark",), ("dark",))), ("a", "b"))
    examples = examples_of(ArraySource(POOLED), range(40), np.zeros(40))
    head = ZeroShotHead()
    head.fit(examples, examples, given)
    assert given.text is not None
    assert sorted(given.text.tower.asked) == ["bright", "dark", "grey"]  # type: ignore[attr-defined]


def test_a_run_s_tensors_predict_without_reading():
    rows = (row("finding", ("dark",), present=False), row("finding", ("bright",)))
    head, scores = fitted("binary", rows, ("finding",))
    other = load_head("zeroshot", "binary")
    other.load_tensors(head.tensors())
    assert other.predict(examples_of(ArraySource(POOLED), range(40), np.zeros(40))).tolist() == scores.tolist()  # type: ignore[attr-defined]


def test_what_cannot_be_compared_is_refused():
    examples = examples_of(ArraySource(POOLED), range(40), np.zeros(40))
    with pytest.raises(EvalfmError, match="no text tower"):
        ZeroShotHead().fit(examples, examples, Context("binary", ("finding",)))
    with pytest.raises(EvalfmError, match="not regression"):
        ZeroShotHead().fit(examples, examples, Context("regression", ("ctr",)))
    with pytest.raises(EvalfmError, match="has not been fitted"):
        ZeroShotHead().predict(examples)
    head, _ = fitted("multiclass", (row("a", ("bright",)), row("b", ("dark",))), ("a", "b"))
    with pytest.raises(EvalfmError, match="texts of 3 dimensions"):
        head.predict(examples_of(ArraySource(torch.rand(4, 5)), range(4), np.zeros(4)))
