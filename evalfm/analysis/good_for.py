"""What an encoder is good for: on every task its line against the baselines that it beats least surely."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from evalfm.analysis.compare import Comparison
from evalfm.analysis.figures import describe
from evalfm.analysis.robustness import PerturbationEffect, Robustness
from evalfm.metrics.registry import metric_of
from evalfm.statistics.comparison import Difference
from evalfm.statistics.estimate import Estimate


@dataclass(frozen=True)
class Standing:
    """One encoder on one task.

    Attributes:
        task, cohort: the question, and which images were tested.
        encoder, head, adaptation: the line that val chose of the encoder's; each of them where none could be chosen.
        metric: by which; ``lower_is_better`` for errors.
        estimate: its value with its interval.
        baseline: the baseline that it beats least surely; None where there is none to compare with.
        baseline_estimate: its value.
        gain: the line minus that baseline, above 0 where the line is better.
        p: that it beats every baseline at once (intersection–union).
        beats: whether it does, at the 5 % level.
    """

    task: str
    cohort: str
    encoder: str
    head: str
    adaptation: str
    metric: str
    lower_is_better: bool
    estimate: Estimate
    baseline: str | None
    baseline_estimate: Estimate | None
    gain: Difference | None
    p: float | None
    beats: bool | None

    @property
    def verdict(self) -> str:
        """In a few words, with the baseline's name."""
        if self.baseline is None or self.gain is None or self.p is None:
            return "not compared"
        if self.beats:
            return "beats all baselines"
        worse = self.gain.high is not None and self.gain.high < 0
        return f"worse than {self.baseline}" if worse else f"not shown to beat {self.baseline}"

    @property
    def cells(self) -> list[str]:
        """As a row of a table: task, line, metric with interval, baseline, gain with interval, verdict."""
        gain = "–"
        if self.gain is not None:
            digits = 3 if abs(self.gain.value) >= 0.01 else 4
            reach = "" if self.gain.low is None else f" [{self.gain.low:+.{digits}f}, {self.gain.high:+.{digits}f}]"
            gain = f"{self.gain.value:+.{digits}f}{reach}"
        beside, baseline = self.baseline_estimate, self.baseline or "–"
        if beside is not None and beside.value is not None:
            baseline += f" {beside.value:.3f}"
        line = f"{self.encoder} · {self.head}"
        return [self.task, line, f"{self.metric} {describe(self.estimate)}", baseline, gain, self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"verdict": self.verdict}


HEADER = ("task", "encoder · head", "metric", "nearest baseline", "gain", "verdict")
"""Of the ``cells`` of a standing."""


def standings(comparisons: Iterable[Comparison]) -> list[Standing]:
    """Every line that is no baseline of ``comparisons``, which have one line of each encoder where val could choose."""
    found = []
    for of in comparisons:
        against = {(each.encoder, each.head, each.adaptation): each for each in of.against}
        baselines = {(each.encoder, each.head, each.adaptation): each.estimate for each in of.entries if each.baseline}
        called = [encoder for encoder, _, _ in baselines]
        for entry in (each for each in of.entries if not each.baseline):
            nearest = against.get((entry.encoder, entry.head, entry.adaptation))
            name, beside = None, None
            if nearest is not None:
                name = nearest.baseline
                beside = baselines.get((name, nearest.baseline_head, nearest.baseline_adaptation))
                # Masks have two constants, and random weights as many heads as the encoder.
                name += f" · {nearest.baseline_head}" if called.count(name) > 1 else ""
            found.append(
                Standing(
                    of.task,
                    of.cohort,
                    entry.encoder,
                    entry.head,
                    entry.adaptation,
                    of.metric,
                    of.lower_is_better,
                    entry.estimate,
                    name,
                    beside,
                    None if nearest is None else nearest.gain,
                    None if nearest is None else nearest.p,
                    None if nearest is None else nearest.beats_all,
                )
            )
    return found


def worn_by(robustness: Robustness) -> list[str]:
    """What perturbations take from each run, a sentence each: the greatest loss whose interval excludes 0, and where
    neighbours go by site rather than by class."""
    found = []
    for run in robustness.runs:
        name = f"{robustness.names[run.run]} on {run.task}"
        lost = [(loss, each) for each in run.effects if (loss := _loss(run.metric, each)) is not None]
        if lost:
            _, worst = max(lost, key=lambda pair: pair[0])
            families = list(dict.fromkeys(each.perturbation for _, each in lost))
            assert worst.metric is not None
            change = worst.metric
            found.append(
                f"{name}: {run.metric} changes by {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}] under "
                f"{worst.label}, the most of {len(families)} kinds of perturbation that cost it something "
                f"({', '.join(families)})."
            )
        index = run.index
        if index is None or index.chance is None or index.index.high is None:
            continue
        if index.index.high < index.chance:
            found.append(
                f"{name}: neighbours go by {index.by} more than by class (robustness index {describe(index.index)}, "
                f"chance {index.chance:.3f})."
            )
    return found


def _loss(metric: str, effect: PerturbationEffect) -> float | None:
    """By how much the metric is worse, where the whole interval says so."""
    change = effect.metric
    if change is None or change.low is None or change.high is None:
        return None
    lower = metric_of(metric).lower_is_better
    if (change.low <= 0) if lower else (change.high >= 0):
        return None
    return abs(change.value)
