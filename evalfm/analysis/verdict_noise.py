"""Do the verdicts of a subgroup report stand if labels are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evalfm.analysis.contrasts import Bias
from evalfm.analysis.label_noise import FlipRates
from evalfm.analysis.scores import LabelScores
from evalfm.errors import EvalfmError
from evalfm.statistics.label_noise import flip_labels

BIAS_DRAWS = 40
"""A subgroup report takes longer than a comparison."""


@dataclass(frozen=True)
class VerdictUnderNoise:
    """A verdict of a subgroup report: whether the score is ``associated`` with a level, and in how many draws so."""

    model: str
    attribute: str
    level: str
    associated: bool
    same: float
    rates: str

    @property
    def sentence(self) -> str:
        """What is found, in words."""
        what = "associated" if self.associated else "not detected"
        return f"{self.model}, {self.attribute} = {self.level}: {what}; so in {self.same:.0%} of draws at {self.rates}."


def verdicts_under_noise(
    scores: LabelScores,
    report: Callable[[LabelScores], Bias],
    rates: Sequence[FlipRates],
    *,
    draws: int = BIAS_DRAWS,
    seed: int = 0,
) -> list[VerdictUnderNoise]:
    """How often the verdicts of ``report`` on ``scores`` are the same on flipped labels.

    A missed positive among the negatives brings the attribute with it where the finding does: associations may appear
    that are of the labels alone. What cannot be tested in a draw counts as not detected.

    Raises:
        EvalfmError: there is nothing to report on.
    """
    whole = _associations(report(scores))
    found = []
    for rate in rates:
        generator, same = np.random.default_rng(seed), dict.fromkeys(whole, 0)
        for _ in range(draws):
            target = flip_labels(scores.target, rate.missed, rate.false, generator.random(len(scores.target)))
            try:
                now = _associations(report(replace(scores, target=target)))
            except EvalfmError:
                now = {}
            for each, associated in whole.items():
                same[each] += now.get(each, False) == associated
        found += [
            VerdictUnderNoise(scores.name, *each, associated, same[each] / draws, str(rate))
            for each, associated in whole.items()
        ]
    return found


def _associations(report: Bias) -> dict[tuple[str, str], bool]:
    return {
        (part.attribute, contrast.level): contrast.associated for part in report.parts for contrast in part.contrasts
    }
