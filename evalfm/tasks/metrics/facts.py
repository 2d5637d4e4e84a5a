"""Facts of every metric: its kinds of task, unit, direction, and what must be shown beside it.

One table for tables, comparisons, choices and reports. A metric that is not in it is refused where it is computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from evalfm.errors import UnknownNameError

Better = Literal["higher", "lower"] | float | None
"""Which values are good: high or low ones, those nearest to a number, or None where neither can be said."""

SHARE, OF_TARGET, IMAGES = "", "unit of the target", "images"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: in full, such as ``fraction_missed_heart``; ``base`` is the entry of the table, ``fraction_missed``.
        kinds: of tasks that have it as it is.
        of_class: kinds that have it of each class or label, which the full name ends in.
        unit: empty for shares, areas under curves, correlations and losses.
        better: ``higher``, ``lower``, the number that it should be nearest to, or None where neither can be said.
        beside: full names of what must be shown with it, where a baseline is good at it alone.
    """

    name: str
    base: str
    kinds: frozenset[str]
    of_class: frozenset[str] = frozenset()
    unit: str = SHARE
    better: Better = "higher"
    beside: tuple[str, ...] = ()

    @property
    def lower_is_better(self) -> bool:
        """Whether small values are good ones."""
        return self.better == "lower"

    @property
    def direction(self) -> str:
        """In a word or two: ``higher``, ``lower``, ``near 1``, or ``–``."""
        return "–" if self.better is None else self.better if isinstance(self.better, str) else f"near {self.better:g}"

    def badness(self, value: float | None) -> float:
        """A number by which to sort: the smaller the better, infinite where there is no value.

        Raises:
            ValueError: the metric has no better and worse.

        >>> metric_of("auroc").badness(0.9), metric_of("calibration_slope").badness(0.75)
        (-0.9, 0.25)
        """
        if value is None:
            return float("inf")
        if isinstance(self.better, str):
            return value if self.better == "lower" else -value
        if self.better is None:
            raise ValueError(f"{self.name} has no better and worse")
        return abs(value - self.better)


def _of(
    kinds: str,
    names: str,
    unit: str = SHARE,
    better: Better = "higher",
    beside: str = "",
    *,
    of_class: str = "",
) -> dict[str, Metric]:
    where, each = frozenset(kinds.split()), frozenset(of_class.split())
    return {name: Metric(name, name, where, each, unit, better, tuple(beside.split())) for name in names.split()}


def _at_threshold(name: str, beside: str = "") -> dict[str, Metric]:
    """A rate of yes-or-no labels: at the chosen threshold, at .5, of each label, and the mean over labels."""
    return {
        **_of("binary", name, beside=beside, of_class="multilabel"),
        **_of("binary", f"{name}_default", beside=f"{beside}_default" if beside else ""),
        **_of("multilabel", f"macro_{name}", beside=f"macro_{beside}" if beside else ""),
    }


def _masks(names: str, unit: str = SHARE, better: Better = "higher", beside: str = "") -> dict[str, Metric]:
    """Of masks: plain where a run has one class, else of each."""
    return _of("segmentation", names, unit, better, beside, of_class="segmentation")


_CLASSES = "multiclass ordinal"
FACTS: dict[str, Metric] = {
    **_of("binary", "auroc", of_class=f"multilabel {_CLASSES}"),
    **_of("binary", "auprc", of_class="multilabel"),
    **_of(f"multilabel {_CLASSES}", "macro_auroc"),
    **_of("multilabel", "macro_auprc"),
    **_at_threshold("sensitivity", "specificity"),
    **_at_threshold("specificity", "sensitivity"),
    **_at_threshold("ppv", "npv"),
    **_at_threshold("npv", "ppv"),
    **_at_threshold("f1"),
    **_at_threshold("accuracy"),
    **_at_threshold("balanced_accuracy"),
    # Where most images are positive, F1 is high for calling all of them so.
    **_of("binary", "f1", beside="f1_all_positive", of_class="multilabel"),
    **_of("binary", "f1_default", beside="f1_all_positive"),
    **_of("binary", "f1_all_positive"),
    **_of(f"multilabel {_CLASSES}", "macro_f1"),
    **_of(_CLASSES, "weighted_f1"),
    **_of(f"binary {_CLASSES}", "accuracy balanced_accuracy", of_class="multilabel"),
    **_of("ordinal", "quadratic_kappa"),
    **_of("binary", "brier brier_calibrated", better="lower"),
    **_of(f"binary {_CLASSES}", "ece ece_calibrated", better="lower"),
    **_of(_CLASSES, "log_loss log_loss_calibrated", better="lower"),
    **_of("binary", "calibration_slope", better=1.0, beside="calibration_intercept"),
    **_of("binary", "calibration_intercept", better=0.0, beside="calibration_slope"),
    **_of("regression", "mae rmse", OF_TARGET, "lower"),
    **_of("regression", "r2 pearson spearman ccc"),
    **_of("regression", "bias", OF_TARGET, 0.0, "limits_low limits_high"),
    **_of("regression", "limits_low", OF_TARGET, 0.0, "bias limits_high"),
    **_of("regression", "limits_high", OF_TARGET, 0.0, "bias limits_low"),
    **_masks("dice_positive iou_positive image_auroc nsd nsd_mm nsd_pixels"),
    # An empty mask is right on every image without the finding, a full one misses no lesion.
    **_masks("dice_all", beside="dice_positive"),
    **_masks("fraction_missed", better="lower", beside="false_positive_area"),
    **_masks("false_positive_area", unit="share of the image", better="lower", beside="fraction_missed"),
    **_masks("hd95_mm", unit="mm", better="lower"),
    **_masks("hd95_pixels", unit="pixels", better="lower"),
    **_masks("empty_predictions", unit=IMAGES, better="lower", beside="empty_truths both_empty"),
    **_masks("empty_truths", unit=IMAGES, better="lower", beside="empty_predictions both_empty"),
    **_masks("both_empty", unit=IMAGES, better=None, beside="empty_predictions empty_truths"),
    **_of("base-to-novel", "harmonic_mean harmonic_mean_constant"),
    **_of("base-to-novel", "accuracy_base", beside="accuracy_novel"),
    **_of("base-to-novel", "accuracy_novel", beside="accuracy_base"),
    **_of("base-to-novel", "accuracy_base_constant", beside="accuracy_novel_constant"),
    **_of("base-to-novel", "accuracy_novel_constant", beside="accuracy_base_constant"),
}
"""Every metric by its plain name; that of a class or label ends in its name, ``auroc[edema]`` or ``dice_all_heart``."""


@lru_cache(maxsize=4096)
def metric_of(name: str, classes: tuple[str, ...] | None = None) -> Metric:
    """The facts of ``name``, as it stands in a run.

    Args:
        name: of the metric, of one class where the run has several.
        classes: where they are known an ending must be one of them; None lets every ending pass.

    Raises:
        UnknownNameError: there is no metric of that name.

    >>> metric_of("brier").direction, metric_of("sensitivity").beside, metric_of("dice_all_heart").base
    ('lower', ('specificity',), 'dice_all')
    """
    base = _base_of(name, classes)
    if base is None:
        raise UnknownNameError("metric", name, FACTS)
    facts, ending = FACTS[base], name[len(base) :]
    beside = (each for each in facts.beside if not ending or FACTS[each].of_class)
    return replace(facts, name=name, beside=tuple(each + ending for each in beside))


def check_metrics(names: Iterable[str], kind: str, classes: tuple[str, ...] | None = None) -> None:
    """Refuse names that no task of ``kind`` has.

    Raises:
        UnknownNameError: there is such a name.

    >>> check_metrics(["auroc", "brier"], "binary")
    """
    for name in names:
        base = _base_of(name, classes)
        if base is None or kind not in (FACTS[base].kinds if name == base else FACTS[base].of_class):
            raise UnknownNameError(f"metric of {kind} tasks", name, names_of(kind))


def names_of(kind: str) -> list[str]:
    """The metrics of ``kind``; of those that each class has the plain name.

    >>> names_of("regression")
    ['mae', 'rmse', 'r2', 'pearson', 'spearman', 'ccc', 'bias', 'limits_low', 'limits_high']
    """
    return [name for name, facts in FACTS.items() if kind in facts.kinds | facts.of_class]


def _base_of(name: str, classes: Collection[str] | None) -> str | None:
    """The plain name that ``name`` begins with, the longest one: nsd_mm is no nsd of a class called mm."""
    fitting = (base for base in FACTS if name.startswith(base) and _is_ending(name[len(base) :], classes))
    return max(fitting, key=len, default=None)


def _is_ending(after: str, classes: Collection[str] | None) -> bool:
    if not after:
        return True
    if classes is not None:
        return after in {form for each in classes for form in (f"[{each}]", f"_{each}")}
    return after[0] == "_" or (after[0], after[-1]) == ("[", "]")
