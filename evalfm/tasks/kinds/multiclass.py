"""Multiclass: one of several classes."""

from evalfm.tasks.kinds.kind import ALL, Column, Kind

MULTICLASS = Kind(
    name="multiclass",
    target="classes",
    metrics=("macro_auroc", "accuracy", "macro_f1"),
    heads=("linear", "knn"),
    title="{}: which class?",
    fewest=2,
    truth=(Column("target", classes=ALL),),
    unsaid="does not say whether its classes are grades; the run's own Parquet file does.",
    parts=("classes", "answers"),
)
