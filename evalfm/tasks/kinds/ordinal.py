"""Ordinal: one of several grades."""

from evalfm.tasks.kinds.kind import ALL, Column, Kind

ORDINAL = Kind(
    name="ordinal",
    target="classes",
    metrics=("quadratic_kappa", "macro_auroc", "accuracy"),
    heads=("linear", "knn"),
    title="{}: which level?",
    ordered=True,
    fewest=2,
    truth=(Column("target", classes=ALL),),
    errors="grades",
    parts=("classes", "answers"),
)
