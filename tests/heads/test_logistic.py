from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from evalfm.heads._logistic import Binomial, Multinomial, solve_path
from evalfm.heads.linear import STRENGTHS


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(n, d, *, signal, decay=1.0, offset=0.0, seed=0):
    """Standardised features with the falling spectrum of embeddings, logistic labels; train and val."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(d, d)))[0]
    features = (generator.normal(size=(2 * n, d)) * np.arange(1, d + 1) ** (-decay / 2)) @ basis
    features = (features - features[:n].mean(0)) / features[:n].std(0)
    margin = features @ generator.normal(size=d)
    margin *= signal / margin.std()
    label = (generator.random(2 * n) < 1 / (1 + np.exp(offset - margin))).astype(float)
    return features[:n], label[:n], features[n:], label[n:]


CASES = {
    "many examples": {"n": 1500, "d": 40, "signal": 2.0},
    "separable at large C": {"n": 120, "d": 60, "signal": 30.0},
    "ill-conditioned": {"n": 400, "d": 50, "signal": 3.0, "decay": 4.0},
    "more features than examples": {"n": 60, "d": 200, "signal": 3.0},
    "rare": {"n": 1500, "d": 20, "signal": 1.0, "offset": 4.5},
}


@pytest.mark.parametrize("case", CASES)
def test_every_c_matches_newton_cholesky(case):
    features, label, val_features, val_label = draw(**CASES[case])
    path = solve_path(
        torch.from_numpy(features),
        Binomial(torch.from_numpy(label)),
        torch.tensor(STRENGTHS, dtype=torch.float64),
    )
    assert bool(path.converged.all())
    for index, strength in enumerate(STRENGTHS):
        reference = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10, max_iter=500)
        reference.fit(features, label)
        ours = path.weight[index, 0].numpy()
        gap = np.linalg.norm(ours - reference.coef_[0]) / np.linalg.norm(reference.coef_)
        assert gap <= 5e-4, (strength, gap)
        assert float(path.bias[index, 0]) == pytest.approx(reference.intercept_[0], abs=5e-3)
        ours_auroc = roc_auc_score(val_label, val_features @ ours)
        assert ours_auroc == pytest.approx(roc_auc_score(val_label, val_features @ reference.coef_[0]), abs=1e-3)


@pytest.mark.parametrize(("n", "d"), [(600, 15), (40, 90)])
def test_softmax_matches_scikit_learn(n, d):
    generator = np.random.default_rng(1)
    features = generator.normal(size=(n, d))
    features = (features - features.mean(0)) / features.std(0)
    label = (features @ generator.normal(size=(d, 3)) + generator.gumbel(size=(n, 3))).argmax(1)
    strengths = [1e-4, 1e-2, 1.0, 100.0]
    one_hot = torch.from_numpy((label == np.arange(3)[:, None]).astype(float))
    path = solve_path(torch.from_numpy(features), Multinomial(one_hot), torch.tensor(strengths).double())
    assert bool(path.converged.all())
    for index, strength in enumerate(strengths):
        reference = LogisticRegression(C=strength, solver="newton-cg", tol=1e-10, max_iter=5000).fit(features, label)
        gap = np.linalg.norm(path.weight[index].numpy() - reference.coef_) / np.linalg.norm(reference.coef_)
        assert gap <= 1e-3, (strength, gap)


def test_gradient_vanishes_in_float64():
    features, label, _, _ = draw(500, 30, signal=2.0)
    strengths = torch.tensor([1e-3, 1.0, 100.0], dtype=torch.float64)
    path = solve_path(torch.from_numpy(features), Binomial(torch.from_numpy(label)), strengths)
    weight = path.weight.detach().requires_grad_()
    bias = path.bias.detach().requires_grad_()
    margins = weight @ torch.from_numpy(features).T + bias[..., None]
    loss = (strengths * Binomial(torch.from_numpy(label)).loss(margins)).sum() + weight.square().sum() / 2
    loss.backward()
    size = weight.detach().flatten(1).norm(dim=1) + strengths
    assert bool((weight.grad.flatten(1).norm(dim=1) < 1e-2 * size).all())
    assert bool((bias.grad[:, 0].abs() < 1e-2 * size).all())


def test_two_examples_and_no_features():
    features = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]], dtype=torch.float64)
    label = torch.tensor([1.0, 0.0], dtype=torch.float64)
    path = solve_path(features, Binomial(label), torch.tensor(STRENGTHS, dtype=torch.float64))
    assert bool(path.converged.all())
    assert bool((path.weight @ features[0] > 0).all())
    bare = solve_path(
        torch.zeros(10, 0, dtype=torch.float64), Binomial(torch.eye(10)[0].double()), torch.ones(2).double()
    )
    assert torch.sigmoid(bare.bias).flatten().tolist() == pytest.approx([0.1, 0.1])
