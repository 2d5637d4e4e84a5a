"""The subgroup report: does a score depend on the chest tube, the sex, the view, and what can be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.attributes import Attribute, attributes, covariates
from evalfm.data.columns import read_table
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.runs import Run
from evalfm.statistics.auroc import auroc
from evalfm.statistics.comparison import benjamini_hochberg
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.stratum_gap import StratumGap, stratum_gap
from evalfm.statistics.subgroups import FixedLabel, at_fixed_label, balanced_auroc, cross_aurocs
from evalfm.tasks.metrics.binary import binary_metrics

ALPHA = 0.05
SHOWN = ("auroc", "auprc", "sensitivity", "specificity")
OWN = ("id", "patient", "split", "fold", "target", "threshold")
"""Columns of a run's predictions that are no attributes, beside its scores."""
UNKNOWN = ("NA", "N/A", "<NA>", "NaN", "nan", "null", "NULL")
"""What other programs write into a cell that they mean to be empty."""


@dataclass(frozen=True)
class Scores:
    """Scores of one model on test images, with the attributes that may be asked about.

    Attributes:
        name: of the model.
        table: attributes by column, a row per image.
        target, score: [N]; ``threshold`` [N] or None where none was chosen.
        folds: [N], or None where one head gave all scores.
        patient: [N]; ``unit`` says whether these are patients or images.
        cautions: to print with every figure.
    """

    name: str
    table: pd.DataFrame
    target: NDArray[np.float64]
    score: NDArray[np.float64]
    threshold: NDArray[np.float64] | None
    patient: NDArray[np.object_]
    folds: NDArray[np.intp] | None
    unit: str
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class Stratum:
    """One level: its size and metrics, and how far its mean score is from its prevalence."""

    level: str
    images: int
    patients: int
    events: int
    prevalence: float
    metrics: dict[str, Estimate]
    calibration_in_the_large: float | None


@dataclass(frozen=True)
class Contrast:
    """One level against all others that are known.

    Attributes:
        cross: AUROCs within and across (descriptive).
        balanced: AUROC with label and attribute made independent, and ``drop`` to it from the plain one (descriptive).
        fixed: the tests, at label 0 and 1.
        gap: AUROC at the level minus AUROC elsewhere, with its p (uncorrected; severity alone moves it too).
        corrected: p of the adjusted effect among negatives after Benjamini and Hochberg over all levels asked about.
        verdict: in words.
    """

    level: str
    cross: dict[str, Estimate]
    balanced: float | None
    drop: float | None
    fixed: dict[int, FixedLabel]
    gap: StratumGap
    corrected: float | None
    verdict: str


@dataclass(frozen=True)
class Part:
    """All that is said of one attribute."""

    attribute: str
    unknown: int
    strata: tuple[Stratum, ...]
    contrasts: tuple[Contrast, ...]


@dataclass(frozen=True)
class Bias:
    """The subgroup report of one model."""

    model: str
    images: int
    patients: int
    unit: str
    adjusted_for: tuple[str, ...]
    parts: tuple[Part, ...]
    cautions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def scores_of_run(run: Run) -> Scores:
    """The test predictions of a run of one yes-or-no question.

    Raises:
        EvalfmError: the run is of another kind.
    """
    kind = run.record.task["kind"]
    if kind != "binary":
        raise EvalfmError(f"{run.folder} answers a {kind} task, which has no score of one yes-or-no question.")
    table = run.predictions()
    table = table[table["split"] == "test"].reset_index(drop=True)
    known = bool(run.record.data["patients_known"])
    own = [name for name in table if name in OWN or str(name).startswith("score_")]
    return Scores(
        f"{run.encoder} · {run.head} · {run.adaptation}",
        table.drop(columns=own),
        table["target"].to_numpy(np.float64),
        table[f"score_{run.record.data['class_names'][0]}"].to_numpy(np.float64),
        table["threshold"].to_numpy(np.float64),
        table["patient"].to_numpy(dtype=object),
        table["fold"].to_numpy(np.intp) if "fold" in table else None,
        "patients" if known else "images",
        tuple(note for note in run.record.notes if note.startswith(("Synthetic", "Random", "Patients unknown"))),
    )


def scores_of_table(
    path: Path,
    *,
    target: str = "target",
    score: str = "score",
    patient: str | None = "patient",
    threshold: float | None = None,
) -> Scores:
    """A table of any model's predictions, CSV or Parquet; rows without a label are left out, which is said.

    Cells that say NA, NaN or null are unknown, as R and others write them. Label, score and patient are no attributes.

    Raises:
        EvalfmError: a column is missing, labels are not 0 and 1, a score is no number, some rows have no patient, or
            the threshold is none.
    """
    native = read_table(path)
    # A patient column that was named must be there; the usual one need not.
    named = [] if patient in (None, "patient") else [str(patient)]
    for name in [target, score, *named]:
        if name not in native:
            raise UnknownNameError(f"column of {path.name}", name, [str(each) for each in native.columns])
    cautions = _unknown_words(native)
    labels = pd.to_numeric(native[target], errors="coerce")
    if (labels.isna() & native[target].notna()).any() or not labels.dropna().isin([0, 1]).all():
        raise EvalfmError(
            f"The column {target!r} of {path.name} must hold 0, 1 or nothing; name another with --target."
        )
    kept = labels.notna().to_numpy()
    if not kept.any():
        raise EvalfmError(f"No row of {path.name} has a label in {target!r}; name another column with --target.")
    native, labels = native[kept].reset_index(drop=True), labels[kept]
    numbers = pd.to_numeric(native[score], errors="coerce").to_numpy(np.float64)
    if not np.isfinite(numbers).all():
        wrong = int((~np.isfinite(numbers)).sum())
        raise EvalfmError(f"The column {score!r} of {path.name} has {wrong} cells that are no number; mend them.")
    _check_threshold(threshold, numbers)
    if not kept.all():
        cautions.append(f"{int((~kept).sum())} rows without a label were left out.")
    known = patient is not None and patient in native and bool(native[patient].notna().any())
    if known and native[patient].isna().any():
        raise EvalfmError(
            f"The column {patient!r} of {path.name} is empty in {int(native[patient].isna().sum())} rows; "
            "fill it, or leave those rows out."
        )
    if not known:
        cautions.append("Patients unknown: every row counts as a patient of its own.")
    names = (
        native[patient].astype(str).to_numpy(dtype=object)
        if known
        else np.arange(len(native)).astype(str).astype(object)
    )
    native = native.drop(columns=[target, score, *([patient] if known else [])])
    for name in native.columns:
        told = pd.to_numeric(native[name], errors="coerce")
        if native[name].notna().any() and (told.notna() == native[name].notna()).all():
            native[name] = told
    thresholds = None if threshold is None else np.full(len(native), threshold)
    unit = "patients" if known else "images"
    truth = labels.to_numpy(np.float64)
    return Scores(path.name, native, truth, numbers, thresholds, names, None, unit, tuple(cautions))


def _unknown_words(table: pd.DataFrame) -> list[str]:
    """Empty, in place, the cells that say in words that they are empty; the caution that says where."""
    found = []
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name].dtype):
            says = np.array([isinstance(cell, str) and cell in UNKNOWN for cell in table[name]], dtype=bool)
            if says.any():
                table[name] = table[name].mask(says)
                found.append(f"{int(says.sum())} in {name}")
    return [f"Cells that say NA or the like count as unknown: {', '.join(found)}."] if found else []


def _check_threshold(threshold: float | None, scores: NDArray[np.float64]) -> None:
    """Refuse what can be no threshold of these scores."""
    if threshold is None:
        return
    probabilities = bool(scores.min() >= 0 and scores.max() <= 1)
    if not np.isfinite(threshold) or (probabilities and not 0 <= threshold <= 1):
        raise EvalfmError(
            f"{threshold:g} is no threshold of these scores, which lie between {scores.min():.3g} and "
            f"{scores.max():.3g}; give one on their scale with --threshold."
        )


def bias(scores: Scores, by: Sequence[str], *, adjust: Sequence[str] = (), seed: int = 0) -> Bias:
    """The report of ``scores`` by each attribute, adjusted for ``adjust`` (never for the attribute itself).

    Raises:
        EvalfmError: there is nothing to ask about, or an attribute cannot be used.
    """
    if not by:
        raise EvalfmError("Say what to look at, such as --by chest_tube,sex,age:65,view.")
    parts = [_part(scores, each, adjust, seed) for each in attributes(scores.table, dict.fromkeys(by))]
    parts = _corrected(parts)
    n = len(set(scores.patient.tolist()))
    return Bias(scores.name, len(scores.target), n, scores.unit, tuple(adjust), tuple(parts), scores.cautions)


def _part(scores: Scores, attribute: Attribute, adjust: Sequence[str], seed: int) -> Part:
    columns = {part.split(":")[0].strip() for part in attribute.name.split("*")}
    known = attribute.codes >= 0
    extra = covariates(scores.table, [name for name in adjust if name not in columns])
    strata = tuple(
        _stratum(scores, attribute.codes == number, level, seed) for number, level in enumerate(attribute.levels)
    )
    # Of two levels one contrast says all.
    asked = range(len(attribute.levels)) if len(attribute.levels) > 2 else [len(attribute.levels) - 1]
    contrasts = []
    for number in asked:
        target, score = scores.target[known], scores.score[known]
        folds = None if scores.folds is None else scores.folds[known]
        member, patient = attribute.codes[known] == number, scores.patient[known]
        balanced = balanced_auroc(target, score, member, folds)
        plain = auroc(target, score, folds)
        held = {name: column[known] for name, column in extra.items()}
        fixed = at_fixed_label(target, score, member, patient, held, folds=folds, seed=seed)
        contrasts.append(
            Contrast(
                attribute.levels[number],
                cross_aurocs(target, score, member, patient, folds=folds, seed=seed, unit=scores.unit),
                None if np.isnan(balanced) else balanced,
                None if np.isnan(balanced) else plain - balanced,
                fixed,
                stratum_gap(target, score, member, patient, folds=folds),
                None,
                "",
            )
        )
    return Part(attribute.name, int((~known).sum()), strata, tuple(contrasts))


def _stratum(scores: Scores, rows: NDArray[np.bool_], level: str, seed: int) -> Stratum:
    target, score, patient = scores.target[rows], scores.score[rows], scores.patient[rows]
    probabilities = bool(score.min() >= 0 and score.max() <= 1)
    missing = Estimate.absent("no threshold was given", unit=scores.unit)
    threshold = None if scores.threshold is None else scores.threshold[rows]
    folds = None if scores.folds is None else scores.folds[rows]
    found = binary_metrics(
        target, score, patient, threshold=threshold, seed=seed, folds=folds, unit=scores.unit, only=SHOWN
    )
    metrics = {
        name: missing if scores.threshold is None and name in ("sensitivity", "specificity") else found[name]
        for name in SHOWN
    }
    return Stratum(
        level,
        len(target),
        len(set(patient.tolist())),
        int(target.sum()),
        float(target.mean()),
        metrics,
        float(score.mean() - target.mean()) if probabilities else None,
    )


def _corrected(parts: Sequence[Part]) -> list[Part]:
    """Put the corrected p and the verdict into every contrast."""
    every = list(chain.from_iterable(part.contrasts for part in parts))
    raw = [np.nan if each.fixed[0].effect.p is None else each.fixed[0].effect.p for each in every]
    adjusted = iter(benjamini_hochberg(raw).tolist())
    made = []
    for part in parts:
        contrasts = []
        for contrast in part.contrasts:
            p = next(adjusted)
            corrected = None if np.isnan(p) else float(p)
            contrasts.append(
                Contrast(
                    **{
                        **vars(contrast),
                        "corrected": corrected,
                        "verdict": _verdict(part.attribute, contrast, corrected),
                    }
                )
            )
        made.append(Part(part.attribute, part.unknown, part.strata, tuple(contrasts)))
    return made


def _verdict(attribute: str, contrast: Contrast, p: float | None) -> str:
    """Associational words by the stated rule; nothing is ever called free of bias."""
    what = f"{attribute} = {contrast.level}"
    negatives = contrast.fixed[0]
    if negatives.separated and negatives.auroc.value is not None:
        way = "higher" if negatives.auroc.value > 0.5 else "lower"
        return (
            f"Among negatives every score with {what} is {way} than every other: an association that missed findings "
            "or other disease may also produce."
        )
    if p is None or negatives.auroc.low is None:
        reason = negatives.effect.reason or negatives.auroc.reason or "the score has no spread"
        return f"Cannot be said for {what}: {reason}."
    if p < ALPHA and negatives.excludes_chance:
        way = "higher" if (negatives.effect.value or 0.0) > 0 else "lower"
        return (
            f"Among negatives the score is {way} with {what}: an association that missed findings or other disease "
            "may also produce."
        )
    detectable = negatives.effect.detectable
    could = (
        f"an effect of {detectable:.2f} standard deviations" if detectable is not None else "no effect of known size"
    )
    return f"No association with {what} was detected among negatives; {could} could have been detected with 80 % power."
