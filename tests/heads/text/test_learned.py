"""Learners of a context against a plain loop, and all that they must leave alone."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.head import Context
from evalfm.heads.text.learned import BiomedCoOpHead, BiomedDPTHead, CoOpHead, LearnedContextHead
from evalfm.heads.text.published import Weights
from evalfm.heads.text.training import ContextSchedule

from ..conftest import ArraySource, examples_of
from .speller import DIM, PETS, SCALE, WIDTH, Speller, context, images, row

KINDS: list[type[LearnedContextHead]] = [CoOpHead, BiomedCoOpHead, BiomedDPTHead]
SHORT = ContextSchedule(epochs=3, rate=0.05)
YES_NO = (row("no cat", "no cat.", present=False), row("cat", "it is furry."))


def ids(sentence: str) -> list[int]:
    return [1, *(Speller.number(word) for word in sentence.split()), 2]


def embedded(tower: Speller, sentence: str, learnt: Tensor | None = None) -> Tensor:
    """A sentence of the small tower, its four tokens after the first replaced."""
    vectors = [tower.words.weight[number] for number in ids(sentence)]
    if learnt is not None:
        vectors[1:5] = list(learnt)
    summed = sum(torch.tanh(vector + place) for vector, place in zip(vectors, tower.positions, strict=False))
    return torch.tanh(summed) @ tower.projection  # type: ignore[arg-type]


def unit(vector: Tensor) -> Tensor:
    return vector / vector.pow(2).sum().sqrt()


def plain_penalty(
    kind: type[LearnedContextHead], v: Tensor, t: list[Tensor], weights: Weights, dropped: list[int]
) -> Tensor:
    """By the formulas, sentence by sentence and class by class; tells how many sentences were ``dropped``."""
    if kind is CoOpHead:
        return torch.zeros(())
    tower = Speller()
    e = [[unit(embedded(tower, each.sentences[i])) for each in PETS] for i in range(3)]
    middle = [unit(sum(e[i][c] for i in range(3)) / 3) for c in range(3)]  # type: ignore[arg-type]
    teachers = middle
    if kind is BiomedCoOpHead:
        scores = np.array([np.mean([max(float(SCALE * (x @ e[i][c])) for c in range(3)) for x in v]) for i in range(3)])
        kept = [i for i in range(3) if abs(scores[i] - scores.mean()) / scores.std(ddof=1) <= weights.tau]
        dropped.append(3 - len(kept))
        teachers = [unit(sum(e[i][c] for i in kept) / len(kept)) for c in range(3)]  # type: ignore[arg-type]
        difference = sum(((t[c] - middle[c]) ** 2).sum() for c in range(3)) / (3 * DIM)
    else:
        difference = sum((t[c] - middle[c]).abs().sum() for c in range(3)) / (3 * DIM)
    divergence = torch.zeros(())
    for x in v:
        p = torch.stack([SCALE * (x @ each) for each in teachers]).softmax(0)
        q = torch.stack([SCALE * (x @ each) for each in t]).softmax(0)
        divergence = divergence + (p * (p / q).log()).sum()
    return weights.consistency * difference + weights.distillation * divergence / (len(v) * 3)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_context_is_that_of_a_plain_loop(kind: type[LearnedContextHead], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine images in batches of four: two steps an epoch; SGD by hand, the first epoch at the warm-up's rate."""
    train, tower = images(9), Speller()
    # Of three sentences the farthest is dropped by this bound, which a wider one never does.
    weights = Weights(consistency=5, distillation=20, tau=1.0)
    dropped: list[int] = []
    monkeypatch.setattr("evalfm.heads.text.learned.weights_of", lambda *_: ("test", weights))
    head = kind(schedule=SHORT)
    fit = head.fit(train, images(6, seed=1), context(seed=3, data="dermamnist"))
    v = torch.nn.functional.normalize(torch.from_numpy(train.pooled()), dim=-1)
    template = {"biomed-dpt": "a dermoscopy image of {}."}.get(kind.name, "a photo of a {}.")
    count = len(template.partition("{}")[0].split())
    learnt = torch.stack([tower.words.weight[number] for number in ids(template)[1 : 1 + count]]).requires_grad_()
    generator = torch.Generator().manual_seed(3 * 2**20 + zlib.crc32(kind.name.encode()) % 2**20)
    speed, losses = torch.zeros_like(learnt), []
    for epoch in range(3):
        rate = 1e-5 if epoch == 0 else 0.05 * (1 + np.cos(np.pi * (epoch - 1) / 3)) / 2
        order = torch.randperm(9, generator=generator)
        for batch in (order[:4], order[4:8]):
            t = []
            for each in PETS:
                vectors = [tower.words.weight[number] for number in ids(template.replace("{}", each.name))]
                vectors[1 : 1 + count] = list(learnt)
                summed = sum(torch.tanh(one + place) for one, place in zip(vectors, tower.positions, strict=False))
                t.append(unit(torch.tanh(summed) @ tower.projection))  # type: ignore[arg-type]
            q = torch.stack([torch.stack([SCALE * (x @ each) for each in t]).softmax(0) for x in v[batch]])
            truth = torch.from_numpy(train.target)[batch].long()
            loss = -q[torch.arange(4), truth].log().mean() + plain_penalty(kind, v[batch], t, weights, dropped)
            (gradient,) = torch.autograd.grad(loss, learnt)
            losses.append(loss.item())
            with torch.no_grad():
                speed = 0.9 * speed + gradient + 5e-4 * learnt
                learnt -= rate * speed
    assert kind is not BiomedCoOpHead or set(dropped) == {0, 1} or set(dropped) == {1}
    found = head.tensors()["context"]
    assert found.shape == (count, WIDTH)
    assert float((found - learnt.detach()).abs().max()) < 1e-5
    assert float((found - Speller().words.weight[ids(template)[1 : 1 + count]]).abs().max()) > 1e-2
    assert fit.curve[-1]["train_loss"] == pytest.approx(np.mean(losses[4:]), rel=1e-4)


def test_a_plain_sentence_is_what_the_small_tower_gives() -> None:
    tower = Speller()
    sentence = "a photo of a cat."
    assert torch.allclose(tower.encode([sentence])[0], embedded(tower, sentence), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_nothing_but_the_context_trains(kind: type[LearnedContextHead]) -> None:
    given_text = context()
    assert given_text.text is not None
    before = {name: each.clone() for name, each in given_text.text.tower.state_dict().items()}
    fit = kind(schedule=SHORT).fit(images(), images(seed=1), given_text)
    assert fit.chosen["parameters"] == 4 * WIDTH
    assert fit.chosen["context_tokens"] == 4
    assert fit.chosen["epoch"] == 3
    after = given_text.text.tower.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())
    assert all(parameter.grad is None for parameter in given_text.text.tower.parameters())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_learns_and_val_decides_nothing(kind: type[LearnedContextHead]) -> None:
    train, val = images(), images(seed=1)
    head = kind(schedule=ContextSchedule(epochs=40, rate=0.02))
    fit = head.fit(train, val, context())
    assert len(fit.curve) == 40
    assert fit.curve[-1]["train_loss"] < 0.9 * float(fit.curve[0]["train_loss"])
    scores = head.predict(val)
    assert scores.sum(1) == pytest.approx(np.ones(len(val)))
    # The last line of the curve is val's log-loss of the context that is kept.
    chosen = scores[np.arange(len(val)), val.target.astype(int)]
    assert fit.curve[-1]["val_log_loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
    other = kind(schedule=ContextSchedule(epochs=40, rate=0.02))
    other.fit(train, examples_of(val.source, range(30), 2 - val.target), context())
    assert torch.equal(other.tensors()["context"], head.tensors()["context"])


def test_a_yes_or_no_label_is_two_sentences_and_the_second_says_yes() -> None:
    train = images(40, classes=2, sharp=2.0)
    head = CoOpHead(schedule=ContextSchedule(epochs=60, rate=0.05))
    head.fit(train, images(20, classes=2, seed=1, sharp=2.0), context(YES_NO, "binary"))
    test = images(40, classes=2, seed=2, sharp=2.0)
    scores = head.predict(test)
    assert scores.shape == (40, 1)
    assert np.mean((scores[:, 0] > 0.5) == test.target) > 0.8


def test_the_seed_changes_the_order_of_batches_alone() -> None:
    def learnt(seed: int, epochs: int = 3) -> Tensor:
        head = CoOpHead(schedule=ContextSchedule(epochs, rate=0.05))
        head.fit(images(), images(seed=1), context(seed=seed))
        return head.tensors()["context"]

    assert torch.equal(learnt(0), learnt(0))
    assert not torch.equal(learnt(0), learnt(1))
    # It starts from the phrase whatever the seed: one slow epoch moves it next to nothing.
    assert float((learnt(0, epochs=1) - learnt(1, epochs=1)).abs().max()) < 1e-3
    assert CoOpHead.deterministic is False


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_sentences_are_read_once_and_the_phrase_only_where_it_is_learnt(kind: type[LearnedContextHead]) -> None:
    given_text = context()
    assert given_text.text is not None
    head = kind(schedule=SHORT)
    head.fit(images(), images(seed=1), given_text)
    read = given_text.text.tower.read  # type: ignore[attr-defined]
    sentences = [said for each in PETS for said in each.sentences]
    expected = [] if kind is CoOpHead else sentences
    assert sorted(each for each in read if each in sentences) == sorted(expected)
    assert sum("photo" in each for each in read) == 3 + 1


def test_as_many_sentences_count_as_every_class_has() -> None:
    rows = (row("cat", "it is furry.", "a small cat.", "cat."), row("dog", "it barks."), row("bird", "it sings.", "x"))
    head = BiomedCoOpHead(schedule=SHORT)
    fit = head.fit(images(), images(seed=1), context(rows))
    assert fit.chosen["sentences"] == 1
    assert any("of up to 3 the first 1 count" in str(each) for each in fit.cautions)
    shorter = tuple(row(each.name, each.sentences[0]) for each in rows)
    other = BiomedCoOpHead(schedule=SHORT)
    assert not other.fit(images(), images(seed=1), context(shorter)).cautions
    assert torch.equal(other.tensors()["context"], head.tensors()["context"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_run_s_tensors_predict_and_speak_of_other_classes(kind: type[LearnedContextHead]) -> None:
    head = kind(schedule=SHORT)
    head.fit(images(), images(seed=1), context(data="busi"))
    other = load_head(kind.name, "multiclass")
    assert isinstance(other, LearnedContextHead)
    other.load_tensors({name: each.clone() for name, each in head.tensors().items()})
    assert other.predict(images(seed=2)).tolist() == head.predict(images(seed=2)).tolist()
    novel = context((row("fish"), row("no dog"))).text
    assert novel is not None
    one, two = (each.for_classes(novel).predict(images(8, seed=2)) for each in (head, other))
    assert one.tolist() == two.tolist()
    template = "an ultrasound image of a breast with {}." if kind is BiomedDPTHead else "a photo of a {}."
    learnt, count = head.tensors()["context"], len(template.partition("{}")[0].split())
    tower = Speller()
    rows = []
    for name in ("fish", "no dog"):
        vectors = [tower.words.weight[number] for number in ids(template.replace("{}", name))]
        vectors[1 : 1 + count] = list(learnt)
        summed = sum(torch.tanh(one + place) for one, place in zip(vectors, tower.positions, strict=False))
        rows.append(unit(torch.tanh(summed) @ tower.projection))  # type: ignore[arg-type]
    v = torch.nn.functional.normalize(torch.from_numpy(images(8, seed=2).pooled()), dim=-1)
    expected = torch.softmax(SCALE * v @ torch.stack(rows).T, dim=-1)
    assert np.abs(one - expected.numpy()).max() < 1e-5
    # The head itself goes on with its own classes.
    assert head.predict(images(seed=2)).shape == (30, 3)


def test_base_and_novel_classes_share_none() -> None:
    head = CoOpHead(schedule=SHORT)
    with pytest.raises(EvalfmError, match="has not been fitted"):
        head.for_classes(context((row("fish"), row("no dog"))).text)  # type: ignore[arg-type]
    head.fit(images(), images(seed=1), context())
    for rows in ((row("fish"), row("Dog")), PETS):
        given_text = context(rows).text
        assert given_text is not None
        with pytest.raises(EvalfmError, match="no novel class"):
            head.for_classes(given_text)
    given_text = context(YES_NO, "binary").text
    assert given_text is not None
    with pytest.raises(EvalfmError, match="no novel classes"):
        head.for_classes(given_text)


@pytest.mark.parametrize("kind", [BiomedCoOpHead, BiomedDPTHead], ids=lambda kind: kind.name)
def test_a_class_without_a_sentence_is_refused_where_sentences_are_needed(kind: type[LearnedContextHead]) -> None:
    rows = (*PETS[:2], row("bird"))
    with pytest.raises(EvalfmError, match="there is none for bird; give some with --prompts"):
        kind(schedule=SHORT).fit(images(), images(seed=1), context(rows))
    CoOpHead(schedule=SHORT).fit(images(), images(seed=1), context(rows))


def test_what_cannot_be_learnt_is_refused() -> None:
    head, val = CoOpHead(schedule=SHORT), images(seed=1)
    with pytest.raises(EvalfmError, match="no text tower"):
        head.fit(images(), val, Context("multiclass", ("a", "b")))
    with pytest.raises(EvalfmError, match="not multilabel"):
        head.fit(images(), val, context(kind="multilabel"))
    with pytest.raises(EvalfmError, match=r"have 7 features and sentences 5; take .* @shared"):
        head.fit(examples_of(ArraySource(torch.rand(30, 7)), range(30), np.arange(30) % 3), val, context())
    with pytest.raises(EvalfmError, match="one class only"):
        head.fit(examples_of(images().source, range(30), np.zeros(30)), val, context())
    with pytest.raises(EvalfmError, match="reads 16 tokens"):
        head.fit(images(), val, context((*PETS[:2], row("big " * 12))))
    with pytest.raises(EvalfmError, match="not finite"):
        CoOpHead(schedule=ContextSchedule(epochs=3, rate=float("inf"))).fit(images(), val, context())
    assert head.tensors() == {}


def test_a_class_that_train_does_not_show_is_told() -> None:
    two = examples_of(images().source, range(30), np.arange(30) % 2)
    fit = CoOpHead(schedule=SHORT).fit(two, images(seed=1), context())
    assert any("No train image shows bird" in str(each) for each in fit.cautions)


def test_unknown_labels_are_left_out() -> None:
    train = images()
    target = train.target.copy()
    target[24:] = np.nan
    some, fewer = CoOpHead(schedule=SHORT), CoOpHead(schedule=SHORT)
    some.fit(examples_of(train.source, range(30), target), images(seed=1), context())
    fewer.fit(examples_of(train.source, range(24), target[:24]), images(seed=1), context())
    assert torch.equal(some.tensors()["context"], fewer.tensors()["context"])


def test_defaults_are_the_authors_and_in_the_grid() -> None:
    heads = {kind.name: kind().grid for kind in KINDS}
    for name, grid in heads.items():
        assert grid["schedule"] == {
            "epochs": 100,
            "rate": 2e-3 if name == "coop" else 2.5e-3,
            "batch_size": 32 if name == "coop" else 4,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "warm_up_epochs": 1,
            "warm_up_rate": 1e-5,
        }
    novel = BiomedCoOpHead("base-to-novel").grid
    assert novel["schedule"]["epochs"] == 50  # type: ignore[index]
    assert novel["published"] != heads["biomedcoop"]["published"]


def test_a_prompt_cards_context_goes_before_the_authors_template() -> None:
    of_data = context(data="dermamnist")
    assert of_data.text is not None
    own = replace(of_data, text=replace(of_data.text, prompts=replace(of_data.text.prompts, context="a cat {}.")))
    for given, template in ((of_data, "a dermoscopy image of {}."), (own, "a cat {}.")):
        fit = BiomedDPTHead(schedule=SHORT).fit(images(), images(6, seed=1), given)
        assert fit.chosen["template"] == template
    assert own.text is not None
    assert own.text.prompts.plain()["context"] == "a cat {}."
