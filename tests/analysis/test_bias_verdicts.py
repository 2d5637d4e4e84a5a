"""The words of the verdict over many studies: at their nominal rate where there is nothing, found where there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn_studies import SimulationDesign, draw_study
from scipy.stats import binom

from evalfm.analysis.bias import bias
from evalfm.analysis.contrasts import LevelContrast
from evalfm.analysis.scores import LabelScores
from evalfm.metrics import registry
from evalfm.statistics import fixed_label, subgroups
from evalfm.statistics.intervals import estimates
from evalfm.statistics.permutation import attribute_permutation

STUDIES = 40


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict hangs on resamples or permutations."""

    def few(*columns: Any, resamples: int = 0, **rest: Any) -> Any:
        return estimates(*columns, resamples=100, **rest)

    monkeypatch.setattr(subgroups, "estimates", few)
    monkeypatch.setattr(registry, "estimates", few)
    monkeypatch.setattr(
        fixed_label,
        "attribute_permutation",
        lambda *columns, permutations, **rest: attribute_permutation(*columns, permutations=49, **rest),
    )


def contrasts(design: SimulationDesign, studies: int = STUDIES) -> list[LevelContrast]:
    """What the report says of the tube in studies 0, 1, 2, …"""
    found = []
    for seed in range(studies):
        study = draw_study(design, np.random.default_rng(seed))
        table = pd.DataFrame({"tube": study.attribute.astype(float)})
        patient = study.patient.astype(str).astype(object)
        truth = study.label.astype(float)
        scores = LabelScores("model", table, truth, study.score, None, patient, None, "patients", ())
        found.append(bias(scores, ["tube"]).parts[0].contrasts[0])
    return found


def test_severity_alone_moves_the_descriptive_gap_and_not_the_verdict() -> None:
    # Tubes go with large lesions, the score follows size and never sees a tube.
    found = contrasts(SimulationDesign("severity", patients=600))
    words = [each.verdict for each in found]
    associated = sum(verdict.startswith("Among negatives the score is") for verdict in words)
    silent = [verdict for verdict in words if verdict.startswith("No association with tube = 1 was detected among")]
    assert associated + len(silent) == STUDIES
    assert all("could have been detected with 80 % power." in verdict for verdict in silent)
    assert associated <= binom.isf(1e-4, STUDIES, 0.05)
    # What a null could show of the gap at most, and what it shows.
    shown = sum(each.cross["gap"].low is not None and each.cross["gap"].low > 0 for each in found)
    assert shown > binom.isf(1e-4, STUDIES, 0.05)
    assert np.mean([each.cross["gap"].value for each in found]) > 0.03
    # Asked among positives instead, the same rule would call nearly every study associated.
    among_positives = sum(each.fixed[1].excludes_chance and (each.fixed[1].effect.p or 0) < 0.05 for each in found)
    assert among_positives > STUDIES * 0.8


@pytest.mark.parametrize(("effect", "way"), [(0.7, "higher"), (-0.7, "lower")])
@pytest.mark.parametrize("tie", ["label", "severity"])
def test_a_planted_effect_among_negatives_is_found(tie: str, effect: float, way: str) -> None:
    found = contrasts(SimulationDesign(tie, patients=600, effect=effect), 10)
    told = sum(each.verdict.startswith(f"Among negatives the score is {way} with tube = 1") for each in found)
    # At a power of .99, as so large an effect has in 600 patients, fewer than 7 of 10 have probability below 1e-4.
    assert told >= binom.ppf(1e-4, 10, 0.99)
