"""Segmentation: a mask of each finding."""

from evalfm.tasks.kinds.kind import Column, Kind

SEGMENTATION = Kind(
    name="segmentation",
    target="masks",
    metrics=("dice_positive", "dice_all", "fraction_missed"),
    heads=("linear", "multiscale"),
    several_targets=True,
    finding="with the finding",
    # Areas are shares of the image, and other programs may count pixels.
    truth=(Column("area_true_{}", low=0),),
    score=Column("area_predicted_{}", low=0),
    beside=(Column("dice_{}", low=0, high=1),),
    errors="masks",
    picture="overlays",
    parts=("dice", "lesions"),
    baselines=("constant",),
    baseline_heads=("all-empty", "mean-mask"),
)
