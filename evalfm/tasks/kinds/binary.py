"""Binary: one label that is there or not."""

from evalfm.tasks.kinds.kind import Column, Kind

BINARY = Kind(
    name="binary",
    target="labels",
    metrics=("auroc", "auprc", "sensitivity", "specificity"),
    heads=("linear", "knn"),
    title="{}: yes or no?",
    most=1,
    finding="with the finding",
    truth=(Column("target", classes=2),),
    picture="roc",
    parts=("roc", "calibration", "decisions"),
)
