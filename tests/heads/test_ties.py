"""Radiographs with equal features have equal scores, wherever they stand in the batch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evalfm.heads import load_head
from evalfm.heads.head import Context, Examples


def examples(features: np.ndarray, target: np.ndarray) -> Examples:
    pooled = torch.from_numpy(features.astype(np.float32))
    source = SimpleNamespace(name="made", features=lambda rows, maps=False: SimpleNamespace(pooled=pooled[list(rows)]))
    rows = np.arange(len(features))
    return Examples(source, rows, target, np.array([f"p{row}" for row in rows], dtype=object))


@pytest.mark.parametrize("name", ["linear", "knn", "prototypes"])
@pytest.mark.parametrize("distinct", [1, 3])
@pytest.mark.parametrize("length", [63, 125, 126, 127])
def test_equal_features_tie(name: str, distinct: int, length: int):
    # Without rounding a constant scored .834101… and its neighbour in the last bit: an AUROC of .494 instead of .5.
    generator = np.random.default_rng(length)
    kinds = generator.normal(size=(distinct, 5)) * 100
    which = generator.integers(0, distinct, length)
    target = (generator.random(length) < 0.83).astype(np.float64)
    given = examples(kinds[which], target)
    head = load_head(name, "binary")
    head.fit(given, given, Context("binary", ("finding",)))
    scores = head.predict(given)[:, 0]
    assert len(np.unique(scores)) == len(np.unique(which))


def test_a_head_that_knows_nothing_ties_every_radiograph_at_any_prevalence():
    given = examples(np.zeros((125, 5)), np.zeros(125))
    head = load_head("linear", "binary")
    for bias in np.linspace(-4, 4, 400):
        head.load_tensors({"weight": torch.zeros(1, 5).double(), "bias": torch.tensor([bias]).double()})
        assert len(np.unique(head.predict(given))) == 1
