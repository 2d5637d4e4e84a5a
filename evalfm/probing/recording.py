"""What a run writes down: the predictions of every part as one table, and run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_table
from evalfm.features.encoded import EncodedSource
from evalfm.heads.head import Fit, Head, Text
from evalfm.probing.opened import Opened
from evalfm.probing.parts import Part, unlearnable
from evalfm.probing.provenance import git_commit, peak_memory_bytes, versions
from evalfm.probing.scoring import Scores
from evalfm.probing.sides import Deal, images_digest
from evalfm.runs import Provenance, Record
from evalfm.tasks.card import TaskCard
from evalfm.tasks.kinds import BASE_TO_NOVEL, Scored, measure
from evalfm.tasks.question import Question

FROM_RANDOM = "Trained from random weights on this task's own images: a supervised baseline, not pre-trained features."


@dataclass(frozen=True)
class Fitted:
    """One head fitted and scored on one part; ``encoder`` holds what of the encoder was trained with it."""

    part: Part
    fit: Fit
    scores: Scores
    tensors: dict[str, Tensor]
    encoder: dict[str, Tensor] = field(default_factory=dict)


def predictions_table(
    question: Question, test: Question | None, results: Sequence[Fitted]
) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """One row per val and test example of every part: who it is, which part, and the kind's columns.

    Beside it, the row of the manifest that each line came from; it stays in memory.
    """
    pieces, rows = [], []
    for result in results:
        tested = (question, result.part.test) if test is None else (test, np.arange(len(test)))
        for name, (asked, positions), scored in (
            ("val", (question, result.part.val), result.scores.val),
            ("test", tested, result.scores.test),
        ):
            who = public_table(asked.manifest, asked.rows[positions]).reset_index(drop=True)
            who["split"] = name
            if result.part.fold is not None:
                who["fold"] = result.part.fold
            pieces.append(pd.concat([who, scored.reset_index(drop=True)], axis=1))
            rows.append(asked.rows[positions])
    return pd.concat(pieces, ignore_index=True), np.concatenate(rows)


def fold_tensors(results: Sequence[Fitted]) -> dict[str, Tensor]:
    """What the heads learnt, named ``fold0.weight`` where there are folds."""
    return _by_fold(results, [result.tensors for result in results])


def fold_encoders(results: Sequence[Fitted]) -> dict[str, Tensor]:
    """What of the encoder was trained, named likewise; empty for a frozen one."""
    return _by_fold(results, [result.encoder for result in results])


def _by_fold(results: Sequence[Fitted], each: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    if results[0].part.fold is None:
        return each[0]
    return {
        f"fold{result.part.fold}.{name}": value
        for result, tensors in zip(results, each, strict=True)
        for name, value in tensors.items()
    }


def make_record(
    opened: Opened,
    deal: Deal,
    head: Head,
    results: Sequence[Fitted],
    table: pd.DataFrame,
    config: dict[str, Any],
    key: str,
    seconds: float,
    text: Text | None = None,
) -> Record:
    """The content of run.json; metrics are computed from the test rows of ``table`` alone."""
    question, tested = deal.question, deal.test or deal.question
    opened = as_trained(opened, config["adaptation"])
    scored = Scored(
        table[table["split"] == "test"].reset_index(drop=True), question.class_names, tested.manifest.patients_known
    )
    metrics = measure(BASE_TO_NOVEL if config.get("base_to_novel") else question.task.kind, scored)
    info = question.manifest.info
    return Record(
        schema=1,
        key=key,
        config={**config, "data": info.name, "test_data": tested.manifest.info.name if deal.test else None},
        encoder=opened.card,
        task=question.task.model_dump(mode="json", by_alias=True),
        head={"name": head.name, "grid": head.grid, "needs": sorted(head.needs), "deterministic": head.deterministic},
        data=_data(deal),
        metrics={name: finite(estimate.to_json()) for name, estimate in metrics.items()},
        chosen=_chosen(results),
        exclusions=[asdict(item) for item in question.exclusions],
        prompts=None if text is None else {**text.prompts.plain(), **_by_template(question.task, scored, results)},
        notes=_notes(opened, deal, results),
        provenance=provenance(
            opened, deal.key, seconds, synthetic=bool(info.synthetic or tested.manifest.info.synthetic)
        ),
    )


def _by_template(task: TaskCard, scored: Scored, results: Sequence[Fitted]) -> dict[str, Any]:
    """The primary metric on test by each template alone, and how far the templates lie apart; empty without any."""
    columns = [f"score_{name}" for name in scored.class_names]
    found = {}
    for template in results[0].scores.by_template:
        scores = np.concatenate([result.scores.by_template[template] for result in results])
        alone = replace(scored, table=scored.table.assign(**dict(zip(columns, scores.T, strict=True))))
        found[template] = measure(task.kind, alone, only=(task.primary,)).get(task.primary)
    told = {template: estimate for template, estimate in found.items() if estimate is not None}
    values = [estimate.value for estimate in told.values() if estimate.value is not None]
    if not told:
        return {}
    spread = {"least": min(values), "most": max(values), "sd": float(np.std(values, ddof=1))} if values[1:] else None
    return {
        "metric": task.primary,
        "by_template": [{"template": each, **finite(estimate.to_json())} for each, estimate in told.items()],
        "spread": spread,
    }


def provenance(opened: Opened, split_hash: str, seconds: float, *, synthetic: bool) -> Provenance:
    """With what, on which images and in what time a result of ``opened`` was made."""
    return Provenance(
        versions=versions(),
        git_commit=git_commit(),
        device=opened.device,
        precision=opened.precision,
        seconds=round(seconds, 3),
        peak_memory_bytes=peak_memory_bytes(),
        weights_digest=opened.weights_digest,
        feature_key=opened.source.key,
        split_hash=split_hash,
        synthetic=synthetic,
        random_weights=opened.random_weights,
        cost=opened.source.cost if isinstance(opened.source, EncodedSource) else None,
    )


def as_trained(opened: Opened, adaptation: str) -> Opened:
    """What a run says of an encoder after its adaptation.

    One that was trained whole from random weights has learnt something, and nothing before; LoRA leaves the random
    weights what they are.
    """
    if adaptation not in ("full", "scratch") or not opened.random_weights:
        return opened
    return replace(
        opened,
        card={**opened.card, "pretraining_data": []},
        random_weights=False,
        weights_digest=None,
        notes=(*(note for note in opened.notes if "random weights" not in note), FROM_RANDOM),
    )


def _data(deal: Deal) -> dict[str, Any]:
    question, tested = deal.question, deal.test or deal.question
    info = question.manifest.info

    def count(asked: Question, groups: Sequence[NDArray[np.intp]]) -> dict[str, int]:
        positions = np.unique(np.concatenate(list(groups)))
        patients = asked.manifest.patients[asked.rows[positions]]
        return {
            "images": len(positions),
            "patients": len(set(patients.tolist())),
            "positive_images": int(asked.positive[positions].sum()),
        }

    counts = {name: count(question, [getattr(part, name) for part in deal.parts]) for name in ("train", "val")}
    in_test = [part.test for part in deal.parts] if deal.test is None else [np.arange(len(tested))]
    return {
        "name": info.name,
        "licence": info.licence,
        "citation": info.citation,
        "test_name": tested.manifest.info.name,
        "test_digest": images_digest(tested, np.unique(np.concatenate(in_test))),
        "derived_from": list(info.derived_from),
        "label_source": question.label_source,
        "class_names": list(question.class_names),
        "patients_known": bool(question.manifest.patients_known and tested.manifest.patients_known),
        "folds": len(deal.parts) if deal.parts[0].fold is not None else None,
        "parts": {**counts, "test": count(tested, in_test)},
        "redistributable_images": bool(info.redistributable_images),
    }


def _chosen(results: Sequence[Fitted]) -> dict[str, Any]:
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
    chosen: dict[str, Any] = finite(each[0] if results[0].part.fold is None else {"folds": each})
    return chosen


def _notes(opened: Opened, deal: Deal, results: Sequence[Fitted]) -> list[str]:
    """Every caution that belongs beside the figures, each once."""
    question, tested = deal.question, deal.test or deal.question
    notes: list[str] = []
    if question.manifest.info.synthetic or tested.manifest.info.synthetic:
        notes.append("Synthetic data: these figures say nothing about patients.")
    if opened.random_weights:
        notes.append("Random weights: the encoder has learnt nothing.")
    if not (question.manifest.patients_known and tested.manifest.patients_known):
        notes.append("Patients unknown: images of one patient may stand on both sides, intervals are over images.")
    notes += contamination(opened.card, [question.manifest, tested.manifest])
    notes += [*question.notes, *opened.notes]
    for result in results:
        where = "" if result.part.fold is None else f"Fold {result.part.fold + 1}: "
        notes += [where + note for note in (*result.part.notes, *result.fit.notes)]
        lost = ", ".join(unlearnable(question, result.part))
        if lost:
            notes.append(f"{where}One class only in train or in val, so no score is given: {lost}.")
    return list(dict.fromkeys(notes))


def contamination(card: dict[str, Any], manifests: Sequence[Manifest]) -> list[str]:
    """Sentences that name pre-training data which hold the evaluation data, through ``derived_from`` too."""
    held = {name: manifest.info.name for manifest in manifests for name in lineage(manifest)}
    found = []
    for entry in card.get("pretraining_data", []):
        for name in sorted(held):
            if same_name(str(entry["name"]), name):
                found.append(
                    f"Contamination: {card['name']} was pre-trained on {entry['what']} of {name} ({held[name]})."
                )
    return found


def lineage(manifest: Manifest) -> list[str]:
    """The data set's name and those it is made of."""
    return [manifest.info.name, *manifest.info.derived_from]


def same_name(one: str, other: str) -> bool:
    """Whether two names mean one data set, whatever their hyphens and capitals."""
    plain = ["".join(letter for letter in name.lower() if letter.isalnum()) for name in (one, other)]
    return plain[0] == plain[1]


def finite(content: Any) -> Any:
    """``content`` with numbers that JSON cannot hold (NaN, infinite) as None and numpy scalars as plain ones."""
    if isinstance(content, dict):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    return None if isinstance(content, float) and not np.isfinite(content) else content
