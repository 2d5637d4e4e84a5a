"""Regression: a measurement, of a column or of masks."""

from evalfm.tasks.kinds.kind import Column, Kind

REGRESSION = Kind(
    name="regression",
    target="values",
    metrics=("mae", "r2", "spearman"),
    heads=("ridge",),
    title="{}: what value?",
    fewest=0,
    score=Column("prediction"),
    errors="values",
    picture="agreement",
    parts=("errors",),
)
