from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.head import Context
from evalfm.heads.linear import LinearHead
from evalfm.heads.module import Layout
from evalfm.heads.nonlinear import AttentiveHead, AttentiveModule, PerceptronHead
from evalfm.heads.trained import Schedule
from evalfm.heads.training import HeadCandidates, read_statistics

QUICK = Schedule(epochs=6, least_steps=120, batch_size=64)


def planted(array_source, make_examples, kind, count=400, seed=0, offset=0.0, unit=1.0):
    """Two features whose product tells: no plane separates it. A third has a wild scale."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 3)) * [1, 1, 1e4] + [0, 5, 1e5]
    product = features[:, 0] * (features[:, 1] - 5)
    target = {
        "binary": (product > 0).astype(float),
        "regression": offset + unit * product,
        "multiclass": np.digitize(product, [-0.3, 0.3]).astype(float),
        "multilabel": np.stack([product > 0, features[:, 0] > 0], axis=1).astype(float),
    }[kind]
    source = array_source(torch.from_numpy(features).float())
    half = count // 2
    return source, *(make_examples(source, rows, target[rows]) for rows in (np.arange(half), np.arange(half, count)))


def names(kind):
    return {"multiclass": ("low", "mid", "high"), "multilabel": ("product", "sign")}.get(kind, ("finding",))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_learns_what_no_plane_separates(array_source, make_examples, kind):
    _, train, val = planted(array_source, make_examples, kind)
    head = PerceptronHead(QUICK)
    fit = head.fit(train, val, Context(kind, names(kind)))
    answer = head.predict(val)
    assert answer.shape == (len(val), {"binary": 1, "regression": 1, "multiclass": 3, "multilabel": 2}[kind])
    if kind == "regression":
        assert np.corrcoef(answer[:, 0], val.target)[0, 1] > 0.9
        return
    if kind == "multiclass":
        np.testing.assert_allclose(answer.sum(1), 1, atol=1e-6)
        assert (answer.argmax(1) == val.target).mean() > 0.75
        expected = log_loss(val.target, answer, labels=[0, 1, 2])
    else:
        columns = val.target if val.target.ndim == 2 else val.target[:, None]
        assert all(roc_auc_score(truth, score) > 0.93 for truth, score in zip(columns.T, answer.T, strict=True))
        expected = np.mean([log_loss(truth, score) for truth, score in zip(columns.T, answer.T, strict=True)])
    best = min(line["val_log_loss"] for line in fit.path)
    assert best == pytest.approx(expected, rel=1e-4)


def test_regression_is_in_the_targets_own_unit(array_source, make_examples):
    _, train, val = planted(array_source, make_examples, "regression", offset=1e3, unit=1e-3)
    head = PerceptronHead(QUICK)
    fit = head.fit(train, val, Context("regression", ("value",)))
    error = np.square(head.predict(val)[:, 0] - val.target).mean()
    assert error < 0.3 * np.var(val.target)
    assert min(line["val_mse"] for line in fit.path) == pytest.approx(error, rel=1e-2)


def test_unknown_labels_count_for_nothing(array_source, make_examples):
    """A label unknown for some images gives what the other label gives without those images being known."""
    source, train, val = planted(array_source, make_examples, "multilabel")
    blank = train.target.copy()
    blank[::2, 0] = np.nan
    filled = np.where(np.isnan(blank), 1.0 - train.target, blank)
    found = []
    for target in (blank, filled):
        head = PerceptronHead(QUICK, (1e-3,))
        rebuilt = type(train)(source, train.rows, target, train.patients)
        head.fit(rebuilt, val, Context("multilabel", names("multilabel")))
        found.append(roc_auc_score(val.target[:, 0], head.predict(val)[:, 0]))
    assert found[0] > 0.8 > found[1] + 0.1


def test_the_seed_repeats_and_tensors_come_back(array_source, make_examples):
    for kind in ("binary", "multiclass", "regression"):
        _, train, val = planted(array_source, make_examples, kind)
        heads = [PerceptronHead(QUICK) for _ in range(2)]
        fits = [head.fit(train, val, Context(kind, names(kind), seed=3)) for head in heads]
        assert fits[0] == fits[1]
        restored = load_head("mlp", kind)
        restored.load_tensors(heads[0].tensors())
        assert np.array_equal(restored.predict(val), heads[1].predict(val))


def test_equal_features_have_equal_scores(array_source, make_examples):
    source, train, val = planted(array_source, make_examples, "binary")
    head = PerceptronHead(QUICK)
    head.fit(train, val, Context("binary", ("finding",)))
    same = array_source(source.pooled[:1].expand(70, -1).clone())
    assert len(np.unique(head.predict(make_examples(same, range(70))))) == 1


QUICK_MAPS = Schedule(epochs=6, least_steps=150, batch_size=32)


def planted_cell(array_source, make_examples, count=300, channels=8, grid=9, seed=0):
    """An image is positive where one cell anywhere shows a pattern; the mean over cells hardly moves."""
    draw = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, channels, grid, grid, generator=draw)
    pattern = 6 * torch.nn.functional.normalize(torch.randn(channels, generator=draw), dim=0)
    positive = np.arange(count) % 2
    for row in np.flatnonzero(positive):
        y, x = torch.randint(grid, (2,), generator=draw).tolist()
        maps[row, :, y, x] += pattern
    maps = maps * 10.0 ** torch.linspace(-2, 2, channels)[:, None, None] + 3
    source = array_source(maps.mean((2, 3)), (maps,), (16,), (144, 144))
    half = count // 2
    target = positive.astype(float)
    return source, *(make_examples(source, rows, target[rows]) for rows in (np.arange(half), np.arange(half, count)))


def test_finds_a_small_lesion_that_the_mean_embedding_does_not_show(array_source, make_examples):
    _, train, val = planted_cell(array_source, make_examples)
    context = Context("binary", ("finding",))
    linear, attentive = LinearHead(), AttentiveHead(QUICK_MAPS)
    linear.fit(train, val, context)
    attentive.fit(train, val, context)
    found = [roc_auc_score(val.target, head.predict(val)[:, 0]) for head in (linear, attentive)]
    assert found[1] > 0.9 > found[0] + 0.1


def test_attentive_regression_is_in_the_targets_unit(array_source, make_examples):
    source, train, val = planted_cell(array_source, make_examples)
    rebuilt = [type(part)(source, part.rows, 50 + 0.1 * part.target, part.patients) for part in (train, val)]
    head = AttentiveHead(QUICK_MAPS)
    head.fit(*rebuilt, Context("regression", ("value",)))
    answer = head.predict(rebuilt[1])[:, 0]
    assert abs(answer.mean() - 50.05) < 0.02
    assert np.corrcoef(answer, val.target)[0, 1] > 0.6


def test_the_first_answer_is_that_of_train(array_source, make_examples):
    source, _, _ = planted_cell(array_source, make_examples, count=4)
    layout = Layout.of(source, 2)
    module = AttentiveModule(layout, torch.Generator().manual_seed(0))
    module.init_bias(torch.tensor([0.5, -1.0]))
    features = source.features([0, 1], maps=True)
    assert module(features.maps, features.pooled).tolist() == [[0.5, -1.0]] * 2


def test_attention_is_that_of_the_library(array_source, make_examples):
    """Against torch's scaled dot-product attention: keys and values projected first, as it is usually written."""
    source, _, _ = planted_cell(array_source, make_examples, count=6)
    module = AttentiveModule(Layout.of(source, 3), torch.Generator().manual_seed(0))
    module.standardise(read_statistics(make_examples(source, range(6)), QUICK_MAPS, torch.Generator(), maps=True))
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
    source, train, _ = planted_cell(array_source, make_examples, count=40)
    head = AttentiveHead(QUICK_MAPS, (1e-4, 1e-3))
    context = Context("binary", ("finding",))
    layout, objective = head.layout(source, context), head.objective(train, context)
    module = head.new_module(layout, torch.Generator().manual_seed(0))
    candidates = HeadCandidates(head, layout, objective, module, context)
    drawn = torch.Generator().manual_seed(1)
    for candidate in candidates.candidates:
        torch.nn.init.normal_(candidate.module.query, generator=drawn)
        torch.nn.init.normal_(candidate.module.answer, generator=drawn)
    features = source.features(range(5), maps=True)
    together = candidates.logits((features.maps, features.pooled))
    alone = torch.stack([each.module(features.maps, features.pooled) for each in candidates.candidates])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)


def test_tensors_come_back_and_a_source_without_maps_is_refused(array_source, make_examples):
    _, train, val = planted_cell(array_source, make_examples, count=60)
    head = AttentiveHead(QUICK_MAPS)
    head.fit(train, val, Context("binary", ("finding",), seed=1))
    restored = load_head("attentive", "binary")
    restored.load_tensors(copy.deepcopy(head.tensors()))
    assert np.array_equal(restored.predict(val), head.predict(val))
    bare = array_source(torch.zeros(4, 3))
    with pytest.raises(EvalfmError, match="has no feature maps, which this head reads"):
        AttentiveHead(QUICK_MAPS).fit(make_examples(bare, range(4), [0, 1, 0, 1]), val, Context("binary", ("finding",)))
