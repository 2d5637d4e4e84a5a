"""The linear probe's path of 24 C against a warm-started scikit-learn path: one ratio, and how right it is.

    python benchmarks/linear_path.py [--n 20000] [--d 768] [--skip-reference]

Both sides get the same standardised features. scikit-learn: LogisticRegression(solver="lbfgs",
warm_start=True) at its default tolerance, C rising, on float32 and on float64; the ratio is against the
faster of the two.
Each side is timed three times in turn and the fastest counts. The reference of the table is newton-cholesky
at tol 1e-10.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from evalfm.heads._logistic import Binomial, Path, solve_path
from evalfm.heads.linear import STRENGTHS

Array = NDArray[np.float64]


def draw(n: int, d: int, signal: float, decay: float, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Features with a falling spectrum as embeddings have, standardised; labels of a logistic model."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(d, d)))[0]
    features = (generator.normal(size=(n + n // 4, d)) * np.arange(1, d + 1) ** (-decay / 2)) @ basis
    features = (features - features[:n].mean(0)) / features[:n].std(0)
    margin = features @ generator.normal(size=d)
    margin *= signal / margin.std()
    label = (generator.random(len(margin)) < 1 / (1 + np.exp(1.5 - margin))).astype(float)
    return features[:n], label[:n], features[n:], label[n:]


def ours(features: Array, label: Array) -> Path:
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64)
    return solve_path(torch.from_numpy(features), Binomial(torch.from_numpy(label)), strengths)


def scikit_learn(features: NDArray[np.floating], label: Array, **settings: object) -> Array:
    model = LogisticRegression(warm_start=True, **settings)
    coefficients = []
    for strength in STRENGTHS:
        model.C = strength
        coefficients.append(model.fit(features, label).coef_[0].copy())
    return np.array(coefficients)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--signal", type=float, default=2.0, help="standard deviation of the true log odds")
    parser.add_argument(
        "--decay", type=float, default=1.0, help="the variances of the features fall as 1/i^decay; 0 is white noise"
    )
    parser.add_argument("--skip-reference", action="store_true")
    arguments = parser.parse_args()
    features, label, val_features, val_label = draw(arguments.n, arguments.d, arguments.signal, arguments.decay)
    single = features.astype(np.float32)
    sides: dict[str, Callable[[], object]] = {
        "evalfm": lambda: ours(features, label),
        "scikit-learn float32": lambda: scikit_learn(single, label, solver="lbfgs"),
        "scikit-learn float64": lambda: scikit_learn(features, label, solver="lbfgs"),
    }
    with warnings.catch_warnings():
        # scikit-learn stops at 100 iterations by default: that is part of what is compared.
        warnings.simplefilter("ignore", ConvergenceWarning)
        rounds = [{name: seconds(work) for name, work in sides.items()} for _ in range(3)]
    best = {name: min(each[name] for each in rounds) for name in sides}
    ratio = min(best["scikit-learn float32"], best["scikit-learn float64"]) / best["evalfm"]
    print(f"n = {arguments.n}, d = {arguments.d}, {len(STRENGTHS)} C, {torch.get_num_threads()} threads")
    print("; ".join(f"{name} {duration:.2f} s" for name, duration in best.items()))
    print(f"ratio {ratio:.1f}")
    if arguments.skip_reference:
        return
    path = ours(features, label)
    reference = scikit_learn(features, label, solver="newton-cholesky", tol=1e-10, max_iter=500)
    print("         C  |Δcoef|/|coef|   |ΔAUROC| on val   Newton's AUROC")
    for strength, weight, exact in zip(STRENGTHS, path.weight[:, 0].numpy(), reference, strict=True):
        gap = np.linalg.norm(weight - exact) / np.linalg.norm(exact)
        auroc, exact_auroc = (roc_auc_score(val_label, val_features @ each) for each in (weight, exact))
        print(f"{strength:10.3g}  {gap:14.1e}  {abs(auroc - exact_auroc):16.1e}  {exact_auroc:15.4f}")


if __name__ == "__main__":
    main()
