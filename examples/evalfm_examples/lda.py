"""A head by the adapter: scikit-learn's linear discriminant analysis, its shrinkage chosen on val."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalfm.heads import HeadEntry

if TYPE_CHECKING:
    from evalfm.heads.sklearn_head import SklearnHead

ENTRY = HeadEntry(
    name="lda",
    kinds=("binary", "multilabel", "multiclass"),
    needs=("pooled",),
    summary="linear discriminant analysis on standardised pooled features, shrinkage chosen by val log-loss",
    location="evalfm_examples.lda:build",
)


def build() -> SklearnHead:
    """A fresh head; torch and scikit-learn are imported here, so that listing heads stays quick."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    from evalfm.heads.sklearn_head import SklearnHead

    return SklearnHead(ENTRY, LinearDiscriminantAnalysis(solver="lsqr"), {"shrinkage": [0.01, 0.03, 0.1, 0.3, 0.9]})
