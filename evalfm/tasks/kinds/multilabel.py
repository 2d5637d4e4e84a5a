"""Multilabel: several labels of an image, each there, not there, or unknown."""

from evalfm.tasks.kinds.kind import Column, Kind

MULTILABEL = Kind(
    name="multilabel",
    target="labels",
    metrics=("macro_auroc",),
    heads=("linear",),
    several_targets=True,
    finding="with at least one of the findings",
    truth=(Column("target_{}", classes=2, partly=True),),
    score=Column("score_{}", partly=True),
    parts=("labels",),
)
