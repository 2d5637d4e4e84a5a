from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.attentive import AttentiveHead, AttentiveModule
from evalfm.heads.head import Context
from evalfm.heads.linear import LinearHead
from evalfm.heads.module import Layout
from evalfm.heads.trained import Schedule
from evalfm.heads.training import _Bank, read_statistics

QUICK = Schedule(epochs=6, least_steps=150, batch_size=32)


def planted(array_source, make_examples, count=300, channels=8, grid=9, seed=0):
    """A film is positive where one cell anywhere shows a pattern; the mean over cells hardly moves."""
    draw = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, channels, grid, grid, generator=draw)
    pattern = 6 * torch.nn.functional.normalize(torch.randn(channels, generator=draw), dim=0)
    positive = np.arange(count) % 2
    for film in np.flatnonzero(positive):
        y, x = torch.randint(grid, (2,), generator=draw).tolist()
        maps[film, :, y, x] += pattern
    maps = maps * 10.0 ** torch.linspace(-2, 2, channels)[:, None, None] + 3
    source = array_source(maps.mean((2, 3)), (maps,), (16,), (144, 144))
    half = count // 2
    target = positive.astype(float)
    return source, *(make_examples(source, rows, target[rows]) for rows in (np.arange(half), np.arange(half, count)))


def test_finds_a_small_lesion_that_the_mean_embedding_does_not_show(array_source, make_examples):
    _, train, val = planted(array_source, make_examples)
    context = Context("binary", ("finding",))
    linear, attentive = LinearHead(), AttentiveHead(QUICK)
    linear.fit(train, val, context)
    attentive.fit(train, val, context)
    found = [roc_auc_score(val.target, head.predict(val)[:, 0]) for head in (linear, attentive)]
    assert found[1] > 0.9 > found[0] + 0.1


def test_attentive_regression_is_in_the_targets_unit(array_source, make_examples):
    source, train, val = planted(array_source, make_examples)
    rebuilt = [type(part)(source, part.rows, 50 + 0.1 * part.target, part.patients) for part in (train, val)]
    head = AttentiveHead(QUICK)
    head.fit(*rebuilt, Context("regression", ("value",)))
    answer = head.predict(rebuilt[1])[:, 0]
    assert abs(answer.mean() - 50.05) < 0.02
    assert np.corrcoef(answer, val.target)[0, 1] > 0.6


def test_the_first_answer_is_that_of_train(array_source, make_examples):
    source, _, _ = planted(array_source, make_examples, count=4)
    layout = Layout.of(source, 2)
    module = AttentiveModule(layout, torch.Generator().manual_seed(0))
    module.init_bias(torch.tensor([0.5, -1.0]))
    features = source.features([0, 1], maps=True)
    assert module(features.maps, features.pooled).tolist() == [[0.5, -1.0]] * 2


def test_attention_is_that_of_the_library(array_source, make_examples):
    """Against torch's scaled dot-product attention: keys and values projected first, as it is usually written."""
    source, _, _ = planted(array_source, make_examples, count=6)
    module = AttentiveModule(Layout.of(source, 3), torch.Generator().manual_seed(0))
    module.standardise(read_statistics(make_examples(source, range(6)), QUICK, torch.Generator(), maps=True))
    torch.nn.init.normal_(module.answer, generator=torch.Generator().manual_seed(1))
    maps = source.features(range(6), maps=True).maps
    cells = maps[-1].flatten(2).transpose(1, 2)
    flat = cells.flatten(0, 1)
    tokens = (cells - flat.mean(0)) / flat.std(0, correction=0)
    queries = module.query[None, :, None].expand(6, -1, -1, -1)
    keys = tokens[:, None].expand(-1, 8, -1, -1)
    values = torch.einsum("bnc,qwc->bqnw", tokens, module.value)
    seen = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    expected = seen.reshape(6, 256) @ module.answer.T + module.bias
    assert torch.allclose(module(maps, torch.zeros(6, 1)), expected, atol=1e-3)


def test_many_rates_together_are_each_alone(array_source, make_examples):
    source, train, _ = planted(array_source, make_examples, count=40)
    head = AttentiveHead(QUICK, (1e-4, 1e-3))
    context = Context("binary", ("finding",))
    layout, objective = head.layout(source, context), head.objective(train, context)
    module = head.new_module(layout, torch.Generator().manual_seed(0))
    bank = _Bank(head, layout, objective, module, context)
    drawn = torch.Generator().manual_seed(1)
    for candidate in bank.candidates:
        torch.nn.init.normal_(candidate.module.query, generator=drawn)
        torch.nn.init.normal_(candidate.module.answer, generator=drawn)
    features = source.features(range(5), maps=True)
    together = bank.logits((features.maps, features.pooled))
    alone = torch.stack([each.module(features.maps, features.pooled) for each in bank.candidates])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)


def test_tensors_come_back_and_a_source_without_maps_is_refused(array_source, make_examples):
    _, train, val = planted(array_source, make_examples, count=60)
    head = AttentiveHead(QUICK)
    head.fit(train, val, Context("binary", ("finding",), seed=1))
    restored = load_head("attentive", "binary")
    restored.load_tensors(copy.deepcopy(head.tensors()))
    assert np.array_equal(restored.predict(val), head.predict(val))
    bare = array_source(torch.zeros(4, 3))
    with pytest.raises(EvalfmError, match="has no feature maps, which this head reads"):
        AttentiveHead(QUICK).fit(make_examples(bare, range(4), [0, 1, 0, 1]), val, Context("binary", ("finding",)))
