"""Learned context in every kind of text tower, on tiny checkpoints in the authors' layouts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evalfm.encoders import load_encoder
from evalfm.encoders import text as text_module
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.text import TextTower
from evalfm.errors import EvalfmError

from .families import test_open_clip as open_clips
from .families import test_transformers_duals as duals
from .families.ports import test_biovilt as biovilt
from .families.ports import test_medimageinsight as medimageinsight

PHRASE = "a photo of a"
TEXTS = [f"{PHRASE} {name}." for name in ("heart", "no pneumothorax", "heart a a a")]


def biomedclip(folder: Path) -> Encoder:
    card, *_ = open_clips.biomedclip(folder)
    return load_encoder(card, weights=folder)


def chexzero(folder: Path) -> Encoder:
    torch.save(dict(open_clips.openai().state_dict()), folder / "best.pt")
    return load_encoder(open_clips.chexzero_card(), weights=folder / "best.pt")


def clip(folder: Path) -> Encoder:
    return load_encoder(duals.clip_card(), weights=duals.folder_of(duals.clip_model(), folder))


def siglip(folder: Path) -> Encoder:
    return load_encoder(duals.siglip_card(), weights=duals.folder_of(duals.siglip_model(), folder))


def biovil_t(folder: Path) -> Encoder:
    return load_encoder(biovilt.tiny_card(folder), weights=biovilt.save(biovilt.published(), folder))


def insight(folder: Path) -> Encoder:
    tensors = medimageinsight.published()
    return load_encoder(medimageinsight.tiny_card(folder), weights=medimageinsight.save(tensors, folder))


KINDS: list[Callable[[Path], Encoder]] = [biomedclip, chexzero, clip, siglip, biovil_t, insight]


def sentences(tower: TextTower) -> tuple[list[str], str]:
    """Sentences that the tiny vocabulary knows, and their phrase."""
    if "biovil" in tower.name:
        return [f"no evidence of {name}." for name in ("pneumothorax", "findings", "no no pneumothorax")], (
            "no evidence of"
        )
    return TEXTS, PHRASE


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextTower:
    encoder: Encoder = request.param(tmp_path_factory.mktemp("tower"))
    return encoder.text_tower()


@pytest.fixture
def tower(shared: TextTower) -> TextTower:
    """A tower that a test may change."""
    return copy.deepcopy(shared)


def close(one: Tensor, other: Tensor, share: float = 1e-5) -> bool:
    return one.shape == other.shape and float((one - other).abs().max()) <= share * float(other.abs().max())


def test_the_phrases_own_context_gives_the_sentences_as_they_are_written(tower: TextTower) -> None:
    texts, phrase = sentences(tower)
    plain = tower.encode(texts)
    prompted = tower.prompted(texts, phrase)
    assert len(prompted) == len(texts)
    assert prompted.initial.shape == (len(phrase.split()), prompted.initial.shape[1])
    assert close(prompted.encode(prompted.initial), plain)
    apart = prompted.initial.expand(len(texts), *prompted.initial.shape)
    assert close(prompted.encode(apart), plain)
    # Nothing of it stays behind in the tower.
    assert torch.equal(tower.encode(texts), plain)


def test_the_context_is_what_stands_in_the_phrases_place(tower: TextTower) -> None:
    """Another sentence's phrase as context gives the other sentence: the right rows are replaced, and only these."""
    texts, phrase = sentences(tower)
    first = phrase.split()[0]
    other = " ".join([phrase.split()[-1], *phrase.split()[1:-1], first])
    assert other != phrase or first == phrase.split()[-1]
    swapped = [text.replace(phrase, other, 1) for text in texts]
    context = tower.prompted(swapped, other).initial
    assert close(tower.prompted(texts, phrase).encode(context), tower.encode(swapped))


def test_only_the_first_tokens_of_the_phrase_may_be_learnt(tower: TextTower) -> None:
    texts, phrase = sentences(tower)
    whole, part = tower.prompted(texts, phrase), tower.prompted(texts, phrase, 2)
    assert torch.equal(part.initial, whole.initial[:2])
    changed = part.initial + 0.5
    assert close(part.encode(changed), whole.encode(torch.cat([changed, whole.initial[2:]])))


def test_gradients_reach_the_context_alone_and_are_those_of_differences(tower: TextTower) -> None:
    texts, phrase = sentences(tower)
    prompted = tower.prompted(texts, phrase)
    context = prompted.initial.clone().requires_grad_()
    weights = torch.randn(len(texts), tower.facts.dim, generator=torch.Generator().manual_seed(0))
    (prompted.encode(context) * weights).sum().backward()
    assert context.grad is not None
    assert all(parameter.grad is None for parameter in tower.parameters())
    tower.double()
    exact = prompted.initial.double()
    for row, column in ((0, 0), (len(exact) - 1, 3)):
        step = torch.zeros_like(exact)
        step[row, column] = 1e-4
        with torch.no_grad():
            ahead, behind = ((prompted.encode(exact + sign * step).double() * weights).sum().item() for sign in (1, -1))
        assert (ahead - behind) / 2e-4 == pytest.approx(context.grad[row, column].item(), rel=2e-2, abs=2e-3)


def test_filling_that_is_cut_is_filling_that_is_not_seen(tower: TextTower, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, phrase = sentences(tower)
    lengths: list[int] = []
    words = next(each for each in tower.modules() if isinstance(each, torch.nn.Embedding))
    hook = words.register_forward_hook(lambda _module, _given, vectors: lengths.append(vectors.shape[1]))
    short = tower.encode(texts)
    context = tower.prompted(texts, phrase)
    cut = context.encode(context.initial * 2)
    monkeypatch.setattr(type(tower), "filling_unseen", False)
    long = tower.encode(texts)
    whole = tower.prompted(texts, phrase)
    uncut = whole.encode(whole.initial * 2)
    hook.remove()
    assert close(short, long, 2e-6)
    assert close(cut, uncut, 2e-6)
    assert min(lengths) < max(lengths) or tower.name in ("chexzero", "medsiglip", "tiny-biovil-t")


def test_many_sentences_go_in_several_passes(tower: TextTower, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, phrase = sentences(tower)
    together = tower.prompted(texts, phrase)
    context = torch.stack([together.initial + number for number in range(len(texts))])
    expected = together.encode(context)
    monkeypatch.setattr(text_module, "BATCH", 2)
    assert close(tower.prompted(texts, phrase).encode(context), expected)


def test_what_cannot_be_prompted_is_refused(tower: TextTower) -> None:
    texts, phrase = sentences(tower)
    with pytest.raises(EvalfmError, match="do not begin with those of the phrase"):
        tower.prompted([*texts, "heart"], phrase)
    with pytest.raises(EvalfmError, match="do not begin with those of the phrase"):
        tower.prompted(texts, phrase + " heart heart")
    words = len(phrase.split())
    for count in (0, words + 1):
        with pytest.raises(EvalfmError, match=rf"has {words} tokens for .* and {count} are to be learnt"):
            tower.prompted(texts, phrase, count)
    with pytest.raises(EvalfmError, match="has 0 tokens"):
        tower.prompted(texts, "")
    with pytest.raises(EvalfmError, match="tokens and the text that begins with"):
        tower.prompted([f"{phrase} {'no ' * 90}"], phrase)
    with pytest.raises(EvalfmError, match="none that is empty"):
        tower.prompted([], phrase)
    prompted = tower.prompted(texts, phrase)
    for wrong in (prompted.initial[:-1], prompted.initial[:, :-1], prompted.initial[None]):
        with pytest.raises(EvalfmError, match=r"A context of .* does not fit"):
            prompted.encode(wrong)


def test_a_phrase_that_the_tokenizer_joins_to_the_name_is_refused(tmp_path: Path) -> None:
    tower = chexzero(tmp_path).text_tower()
    with pytest.raises(EvalfmError, match="do not begin with those of the phrase 'a pho'"):
        tower.prompted(["a photo"], "a pho")


def test_the_key_tells_towers_apart(tower: TextTower) -> None:
    texts, _ = sentences(tower)
    fresh = copy.deepcopy(tower)  # Of which no key was made, so that none is remembered.
    key = tower.key
    tower.encode(texts)
    assert tower.key == key

    def changed(*changes: Callable[[TextTower], None]) -> str:
        other = copy.deepcopy(fresh)
        for change in changes:
            change(other)
        return other.key

    def scaled(tower: TextTower) -> None:
        tower.logit_scale += 1

    def biased(tower: TextTower) -> None:
        tower.logit_bias += 1

    def trained(tower: TextTower) -> None:
        with torch.no_grad():
            next(iter(tower.parameters())).view(-1)[0] += 1e-3

    def shorter(tower: TextTower) -> None:
        tower.facts = tower.facts.model_copy(update={"context_length": tower.facts.context_length - 1})

    def reworded(tower: TextTower) -> None:
        tower.facts = tower.facts.model_copy(update={"present": "here is {}"})

    keys = [changed(), *(changed(each) for each in (scaled, biased, trained, shorter))]
    assert keys[0] == key
    assert len(set(keys)) == 5
    assert changed(reworded) == key


def test_the_key_holds_what_the_tokenizer_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (clip, biomedclip):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        key = kind(folder).text_tower().key
        assert kind(folder).text_tower().key == key
        module: Any = duals if kind is clip else open_clips
        words = [*module.WORDS[:-2], module.WORDS[-1], module.WORDS[-2]]
        with monkeypatch.context() as patch:
            patch.setattr(module, "WORDS", words)
            assert kind(folder).text_tower().key != key
