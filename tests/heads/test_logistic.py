from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from evalfm.heads import _logistic
from evalfm.heads._logistic import Binomial, Multinomial, solve_path
from evalfm.heads.linear import STRENGTHS


def solved(features, likelihood, strengths=STRENGTHS):
    return solve_path(torch.from_numpy(features), likelihood, torch.tensor(strengths, dtype=torch.float64))


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
    path = solved(features, Binomial(torch.from_numpy(label)))
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
    path = solved(features, Multinomial(one_hot), strengths)
    assert bool(path.converged.all())
    for index, strength in enumerate(strengths):
        reference = LogisticRegression(C=strength, solver="newton-cg", tol=1e-10, max_iter=5000).fit(features, label)
        gap = np.linalg.norm(path.weight[index].numpy() - reference.coef_) / np.linalg.norm(reference.coef_)
        assert gap <= 1e-3, (strength, gap)


def test_gradient_vanishes_in_float64():
    features, label, _, _ = draw(500, 30, signal=2.0)
    strengths = [1e-3, 1.0, 100.0]
    path = solved(features, Binomial(torch.from_numpy(label)), strengths)
    for strength, weight, bias in zip(strengths, path.weight[:, 0].numpy(), path.bias[:, 0].numpy(), strict=True):
        residual = 1 / (1 + np.exp(-(features @ weight + bias))) - label
        gradient = strength * features.T @ residual + weight
        assert np.linalg.norm(gradient) < 1e-2 * (np.linalg.norm(weight) + strength)
        assert abs(strength * residual.sum()) < 1e-2 * (1 + strength)


@pytest.mark.parametrize("classes", [1, 3])
def test_curvature_is_the_derivative_of_the_residual(classes):
    generator = torch.Generator().manual_seed(0)
    margins, direction = torch.randn(2, 4, classes, 9, generator=generator, dtype=torch.float64)
    label = torch.arange(9) % max(2, classes)
    one_hot = torch.nn.functional.one_hot(label).double().T
    likelihood = Binomial(one_hot[1]) if classes == 1 else Multinomial(one_hot)
    probability = likelihood.probability(margins)
    ours = likelihood.curvature(probability, likelihood.weight(probability), direction)
    small = 1e-6
    ahead, behind = margins + small * direction, margins - small * direction
    theirs = (likelihood.probability(ahead) - likelihood.probability(behind)) / (2 * small)
    assert torch.allclose(ours, theirs, atol=1e-8)
    slope = (likelihood.loss(ahead) - likelihood.loss(behind)) / (2 * small)
    assert torch.allclose((likelihood.residual(probability) * direction).sum((1, 2)), slope, atol=1e-7)


def test_loss_is_finite_at_extreme_margins():
    likelihood = Binomial(torch.tensor([1.0, 0.0], dtype=torch.float64))
    margins = torch.tensor([[[800.0, 800.0]], [[-800.0, -800.0]]], dtype=torch.float64)
    assert likelihood.loss(margins).tolist() == pytest.approx([800.0, 800.0])
    assert likelihood.probability(margins)[:, 0, 0].tolist() == pytest.approx([1.0, 0.0])


def test_two_examples_and_no_features():
    features = np.array([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
    path = solved(features, Binomial(torch.tensor([1.0, 0.0], dtype=torch.float64)))
    assert bool(path.converged.all())
    assert (path.weight.numpy() @ features[0] > 0).all()
    bare = solved(np.zeros((10, 0)), Binomial(torch.eye(10, dtype=torch.float64)[0]), [1.0, 2.0])
    assert torch.sigmoid(bare.bias).flatten().tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("part", [1, 700, 1999])
def test_examples_weighted_in_parts_give_the_same_preconditioner(monkeypatch, part):
    features, label, _, _ = draw(2000, 30, signal=100.0)
    products = []
    decompose = torch.linalg.eigh

    def seen(matrix):
        products.append(matrix.clone())
        return decompose(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", seen)
    whole = solved(features, Binomial(torch.from_numpy(label)))
    expected = products.copy()
    products.clear()
    monkeypatch.setattr(_logistic, "EXAMPLES_AT_ONCE", part)
    parts = solved(features, Binomial(torch.from_numpy(label)))
    # A flat one, and one with weights.
    assert len(expected) == 2
    for one, other in zip(products, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3 * float(other.abs().max()))
    torch.testing.assert_close(parts.weight, whole.weight, rtol=0, atol=1e-4 * float(whole.weight.abs().max()))
