"""What a run writes down: the predictions of every split as one table, and run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from evalfm.cautions import RANDOM_WEIGHTS, SYNTHETIC, Caution
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_table
from evalfm.features.encoded import EncodedSource
from evalfm.heads.head import Fit, Head, Text
from evalfm.metrics.metric import Metric
from evalfm.metrics.registry import compute_metrics, metric_of, plugins_of
from evalfm.metrics.rows import Scored
from evalfm.plugins import PlugIn
from evalfm.probing.labelled import SplitAssignment, images_digest
from evalfm.probing.provenance import git_commit, peak_memory_bytes, versions
from evalfm.probing.scoring import Scores
from evalfm.probing.session import EncoderSession
from evalfm.probing.splits import Split, unlearnable
from evalfm.record import Chosen, EpisodeSection, PluggedMetric, Provenance, Record, RefitSection
from evalfm.refits import REFIT
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.temperature import at_edge
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.kinds import BASE_TO_NOVEL
from evalfm.tasks.task import TaskCard

FROM_RANDOM = Caution(
    "trained-from-random",
    "Trained from random weights on this task's own images: a supervised baseline, not pre-trained features.",
)


@dataclass(frozen=True)
class TestResult:
    """What a head came to on test.

    Attributes:
        grid: what decided it beside the examples.
        chosen: what val decided.
        cautions: of splits and fits.
        by_template: of a zero-shot head, what each template gives alone.
        episodes: how they were drawn and how far they lie apart, where there are some.
    """

    grid: dict[str, object]
    metrics: dict[str, Estimate]
    chosen: Chosen
    cautions: list[Caution]
    by_template: dict[str, Any] = field(default_factory=dict)
    episodes: EpisodeSection | None = None


@dataclass(frozen=True)
class HeadResult:
    """One head fitted and scored on one split.

    Attributes:
        encoder: what of the encoder was trained with it.
        refits: test scores of refits on resampled training patients, refit after refit; None where there are none.
    """

    split: Split
    fit: Fit
    scores: Scores
    tensors: dict[str, Tensor]
    encoder: dict[str, Tensor] = field(default_factory=dict)
    refits: pd.DataFrame | None = None


def predictions_table(
    cohort: Cohort, test: Cohort | None, results: Sequence[HeadResult]
) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """One row per val and test example of every split: who it is, which split, and the kind's columns.

    Beside it, the row of the manifest that each line came from; it stays in memory.
    """
    pieces, rows = [], []
    for result in results:
        tested = (cohort, result.split.test) if test is None else (test, np.arange(len(test)))
        for name, (of_split, positions), scored in (
            ("val", (cohort, result.split.val), result.scores.val),
            ("test", tested, result.scores.test),
        ):
            who = public_table(of_split.manifest, of_split.rows[positions]).reset_index(drop=True)
            who["split"] = name
            if result.split.fold is not None:
                who["fold"] = result.split.fold
            pieces.append(pd.concat([who, scored.reset_index(drop=True)], axis=1))
            rows.append(of_split.rows[positions])
    return pd.concat(pieces, ignore_index=True), np.concatenate(rows)


def refits_table(cohort: Cohort, test: Cohort | None, results: Sequence[HeadResult]) -> pd.DataFrame | None:
    """The scores of every refit of every split beside the test images' ids; None where there are none."""
    pieces = []
    for result in results:
        if result.refits is None:
            return None
        of_split, positions = (cohort, result.split.test) if test is None else (test, np.arange(len(test)))
        ids = public_table(of_split.manifest, of_split.rows[positions])["id"].astype(str).to_numpy(dtype=object)
        table = result.refits.copy(deep=False)
        table.insert(1, "id", np.tile(ids, len(table) // len(ids)))
        pieces.append(table)
    return pd.concat(pieces, ignore_index=True).sort_values(REFIT, kind="stable", ignore_index=True)


def fold_tensors(results: Sequence[HeadResult]) -> dict[str, Tensor]:
    """What the heads learnt, named ``fold0.weight`` where there are folds."""
    return _by_fold(results, [result.tensors for result in results])


def fold_encoders(results: Sequence[HeadResult]) -> dict[str, Tensor]:
    """What of the encoder was trained, named likewise; empty for a frozen one."""
    return _by_fold(results, [result.encoder for result in results])


def _by_fold(results: Sequence[HeadResult], each: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    if results[0].split.fold is None:
        return each[0]
    return {
        f"fold{result.split.fold}.{name}": value
        for result, tensors in zip(results, each, strict=True)
        for name, value in tensors.items()
    }


def measured_by(
    assignment: SplitAssignment, head: Head, results: Sequence[HeadResult], table: pd.DataFrame, *, halves: bool
) -> TestResult:
    """What ``results`` came to; metrics are computed from the test rows of ``table`` alone."""
    cohort, tested = assignment.cohort, assignment.test or assignment.cohort
    scored = Scored(
        table[table["split"] == "test"].reset_index(drop=True), cohort.class_names, tested.manifest.patients_known
    )
    kind = (BASE_TO_NOVEL if halves else cohort.kind).name
    metrics = compute_metrics(kind, scored, named=cohort.task.metrics)
    by_template = _by_template(cohort.task, scored, results)
    return TestResult(head.grid, metrics, _chosen(results), _fit_cautions(cohort, results), by_template)


def make_record(
    session: EncoderSession,
    assignment: SplitAssignment,
    head: Head,
    measured: TestResult,
    config: dict[str, Any],
    key: str,
    seconds: float,
    text: Text | None = None,
    refits: RefitSection | None = None,
) -> Record:
    """The content of run.json."""
    cohort, tested = assignment.cohort, assignment.test or assignment.cohort
    session = as_trained(session, config["adaptation"])
    info = cohort.manifest.info
    return Record(
        schema=2,
        key=key,
        config={**config, "data": info.name, "test_data": tested.manifest.info.name if assignment.test else None},
        encoder=session.card,
        task=cohort.task.model_dump(mode="json", by_alias=True),
        head={
            "name": head.name,
            "grid": measured.grid,
            "needs": sorted(head.needs),
            "deterministic": head.deterministic,
        },
        data=_data(assignment),
        metrics={name: _finite_estimate(estimate) for name, estimate in measured.metrics.items()},
        plugged_metrics={
            name: _facts(name, plugin) for name in measured.metrics for plugin in plugins_of([name]).values()
        },
        chosen=measured.chosen,
        exclusions=list(cohort.exclusions),
        prompts=None if text is None else {**text.prompts.plain(), **measured.by_template},
        episodes=measured.episodes,
        refits=refits,
        cautions=_cautions(session, assignment, measured),
        provenance=provenance(
            session, assignment.key, seconds, synthetic=bool(info.synthetic or tested.manifest.info.synthetic)
        ),
    )


def _facts(name: str, plugin: PlugIn[Metric]) -> PluggedMetric:
    facts = metric_of(name)
    return PluggedMetric(package=plugin.version, unit=facts.unit, better=facts.better, beside=facts.beside)


def _by_template(task: TaskCard, scored: Scored, results: Sequence[HeadResult]) -> dict[str, Any]:
    """The primary metric on test by each template alone, and how far the templates lie apart; empty without any."""
    columns = [f"score_{name}" for name in scored.class_names]
    estimates = {}
    for template in results[0].scores.by_template:
        scores = np.concatenate([result.scores.by_template[template] for result in results])
        alone = replace(scored, table=scored.table.assign(**dict(zip(columns, scores.T, strict=True))))
        estimates[template] = compute_metrics(task.kind, alone, only=(task.primary,)).get(task.primary)
    known = {template: estimate for template, estimate in estimates.items() if estimate is not None}
    values = [estimate.value for estimate in known.values() if estimate.value is not None]
    if not known:
        return {}
    spread = {"least": min(values), "most": max(values), "sd": float(np.std(values, ddof=1))} if values[1:] else None
    return {
        "metric": task.primary,
        "by_template": [{"template": each, "estimate": _finite_estimate(estimate)} for each, estimate in known.items()],
        "spread": spread,
    }


def provenance(session: EncoderSession, split_hash: str, seconds: float, *, synthetic: bool) -> Provenance:
    """With what, on which images and in what time a result of ``session`` was made."""
    encoded = session.source if isinstance(session.source, EncodedSource) else None
    return Provenance(
        versions=versions(),
        git_commit=git_commit(),
        device=session.device,
        precision=session.precision,
        seconds=round(seconds, 3),
        peak_memory_bytes=peak_memory_bytes(),
        weights_digest=session.weights_digest,
        feature_key=session.source.key,
        split_hash=split_hash,
        synthetic=synthetic,
        random_weights=session.random_weights,
        cost=None if encoded is None else encoded.cost,
        map_costs=None if encoded is None else encoded.map_costs,
        feature_path=None if encoded is None else encoded.feature_path,
        batch_size=None if encoded is None else encoded.batch_size,
    )


def as_trained(session: EncoderSession, adaptation: str) -> EncoderSession:
    """What a run says of an encoder after its adaptation.

    One that was trained whole from random weights has learnt something, and nothing before; LoRA leaves the random
    weights what they are.
    """
    if adaptation not in ("full", "scratch") or not session.random_weights:
        return session
    return replace(
        session,
        card={**session.card, "pretraining_data": []},
        random_weights=False,
        weights_digest=None,
        cautions=(*(each for each in session.cautions if each.code != "random-weights"), FROM_RANDOM),
    )


def _data(assignment: SplitAssignment) -> dict[str, Any]:
    cohort, tested = assignment.cohort, assignment.test or assignment.cohort
    info = cohort.manifest.info

    def count(counted: Cohort, groups: Sequence[NDArray[np.intp]]) -> dict[str, int]:
        positions = np.unique(np.concatenate(list(groups)))
        patients = counted.manifest.patients[counted.rows[positions]]
        return {
            "images": len(positions),
            "patients": len(set(patients.tolist())),
            "positive_images": int(counted.positive[positions].sum()),
        }

    counts = {name: count(cohort, [getattr(split, name) for split in assignment.splits]) for name in ("train", "val")}
    in_test = [split.test for split in assignment.splits] if assignment.test is None else [np.arange(len(tested))]
    return {
        "name": info.name,
        "licence": info.licence,
        "citation": info.citation,
        "test_name": tested.manifest.info.name,
        "test_digest": images_digest(tested, np.unique(np.concatenate(in_test))),
        "derived_from": list(info.derived_from),
        "label_source": cohort.label_source,
        "class_names": list(cohort.class_names),
        "patients_known": bool(cohort.manifest.patients_known and tested.manifest.patients_known),
        "folds": len(assignment.splits) if assignment.splits[0].fold is not None else None,
        "splits": {**counts, "test": count(tested, in_test)},
        "redistributable_images": bool(info.redistributable_images),
        "pool": min((each.pool for each in assignment.splits if each.pool is not None), default=None),
    }


def _chosen(results: Sequence[HeadResult]) -> Chosen:
    """What val decided; a list with one entry per fold where there are folds."""
    each = [
        {
            "head": dict(result.fit.chosen),
            "thresholds": result.scores.operating.thresholds,
            "temperatures": result.scores.operating.temperatures,
            "path": list(result.fit.path),
        }
        | ({"curve": list(result.fit.curve)} if result.fit.curve else {})
        for result in results
    ]
    return Chosen(**finite(each[0] if results[0].split.fold is None else {"folds": each}))


def _cautions(session: EncoderSession, assignment: SplitAssignment, measured: TestResult) -> list[Caution]:
    """Every caution that belongs beside the figures, each once."""
    cohort, tested = assignment.cohort, assignment.test or assignment.cohort
    unknown = "Patients unknown: images of one patient may be in train and in test, intervals are over images."
    if measured.episodes is not None:
        unknown = "Patients unknown: images of one patient may be in support and in queries."
    cautions = of_result(session, [cohort.manifest, tested.manifest], unknown, cohort.cautions)
    return list(dict.fromkeys([*cautions, *measured.cautions]))


def _fit_cautions(cohort: Cohort, results: Sequence[HeadResult]) -> list[Caution]:
    cautions: list[Caution] = []
    for result in results:
        fold = result.split.fold
        cautions += [replace(each, fold=fold) for each in (*result.split.cautions, *result.fit.cautions)]
        for name, value in result.scores.operating.temperatures.items():
            if at_edge(value):
                words = f"The temperature of {name} lies at the edge of what is tried, {value:.3g}."
                cautions.append(Caution("grid-edge", words, fold))
        lost = ", ".join(unlearnable(cohort, result.split))
        if lost:
            words = f"One class only in train or in val, so no score is given: {lost}."
            cautions.append(Caution("single-class", words, fold))
    return cautions


def of_result(
    session: EncoderSession, manifests: Sequence[Manifest], unknown: str, of_cohort: Sequence[Caution]
) -> list[Caution]:
    """Cautions of data, cohort and encoder; ``unknown`` is what follows where patients are unknown."""
    cautions: list[Caution] = []
    if any(manifest.info.synthetic for manifest in manifests):
        cautions.append(SYNTHETIC)
    if session.random_weights:
        cautions.append(RANDOM_WEIGHTS)
    if not all(manifest.patients_known for manifest in manifests):
        cautions.append(Caution("patients-unknown", unknown))
    cautions += [*contamination(session.card, manifests), *of_cohort]
    # What the encoder says of its random weights is said already.
    own = [each for each in session.cautions if each.code != "random-weights"]
    return [*cautions, *own, *session.feature_cautions]


def contamination(card: dict[str, Any], manifests: Sequence[Manifest]) -> list[Caution]:
    """Pre-training data that hold the evaluation data, through ``derived_from`` too."""
    held = {name: manifest.info.name for manifest in manifests for name in lineage(manifest)}
    return [
        Caution(
            "contamination",
            f"Contamination: {card['name']} was pre-trained on {entry['what']} of {name} ({held[name]}).",
        )
        for entry in card.get("pretraining_data", [])
        for name in sorted(held)
        if same_name(str(entry["name"]), name)
    ]


def lineage(manifest: Manifest) -> list[str]:
    """The data set's name and those it is made of."""
    return [manifest.info.name, *manifest.info.derived_from]


def same_name(one: str, other: str) -> bool:
    """Whether two names mean one data set, whatever their hyphens and capitals."""
    plain = ["".join(letter for letter in name.lower() if letter.isalnum()) for name in (one, other)]
    return plain[0] == plain[1]


def _finite_estimate(estimate: Estimate) -> Estimate:
    return Estimate.from_json(finite(estimate.to_json()))


def finite(content: Any) -> Any:
    """``content`` with numbers that JSON cannot hold (NaN, infinite) as None and numpy scalars as plain ones."""
    if isinstance(content, dict):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    return None if isinstance(content, float) and not np.isfinite(content) else content
