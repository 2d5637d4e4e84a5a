"""The studies behind a subgroup report: decodability of an attribute, and the shortcut curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evalfm.data.dataset_info import DATASET_FILE, read_dataset_info
from evalfm.data.manifest import Manifest
from evalfm.data.phantom import BUILT_IN
from evalfm.data.registered import registered
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.probing.labelled import rows_digest
from evalfm.probing.splits.association import CURVE
from evalfm.record import IMPORTED
from evalfm.run import Run
from evalfm.study.cohorts import Manifests
from evalfm.study.config import Study
from evalfm.tasks.kinds import kind_of

FOLDS = 5
"""Where the training images lack the attribute: folds inside the labelled ones."""


def decode_studies(runs: Sequence[Run], attribute: str, manifests: Manifests) -> list[Study]:
    """Per data set and finding of ``runs``: a linear probe for ``attribute`` among images without the finding.

    The encoders are those of ``runs``, frozen, with random weights of each beside it.

    Raises:
        EvalfmError: no run can be repeated.
    """
    studies: dict[str, Study] = {}
    for group in _grouped(runs).values():
        first = group[0]
        config = first.record.config
        finding = first.record.task.target[0]
        name, manifest = _data_of(first, manifests)
        _check_column(manifest, attribute)
        content = _content(group, name, f"decode-{attribute}", f"Can the features tell {attribute} without {finding}?")
        inside = f"{finding} == 0"
        content["where"] = f"({config.where}) and {inside}" if config.where else inside
        content["tasks"] = [{"name": attribute, "heads": ["linear"]}]
        content["baselines"] = "all"
        if not _known_in_train(manifest, attribute):
            content |= {"folds": FOLDS, "test_where": None}
        study = Study.model_validate(content)
        studies[study.model_dump_json()] = study
    return list(studies.values())


def curve_studies(runs: Sequence[Run], attribute: str, manifests: Manifests) -> list[Study]:
    """Per data set and task of ``runs``: the same encoders and heads, ``attribute`` tied to the label in train.

    Raises:
        EvalfmError: no run can be repeated.
    """
    studies = []
    for group in _grouped(runs).values():
        first = group[0]
        name, manifest = _data_of(first, manifests)
        _check_column(manifest, attribute)
        content = _content(
            group, name, f"curve-{attribute}", f"{first.task} with {attribute} tied to the label in train"
        )
        content["where"] = first.record.config.where
        content["tasks"] = [{"name": first.task, "heads": sorted({run.head for run in group})}]
        content["associate"] = [f"{attribute}={strength:g}" for strength in CURVE]
        content["baselines"] = "none"
        if not _known_in_train(manifest, attribute):
            content |= {"folds": FOLDS, "test_where": None}
        studies.append(Study.model_validate(content))
    return studies


def _grouped(runs: Sequence[Run]) -> dict[tuple[str, ...], list[Run]]:
    """Runs that can be repeated, by their task and data."""
    grouped: dict[tuple[str, ...], list[Run]] = {}
    reasons = []
    for run in runs:
        config = run.record.config
        kind = _kind_of(run)
        reason = None
        if run.is_baseline or not kind_of(run.record.task.kind).has_finding:
            reason = "is a baseline, or has no yes-or-no label"
        elif run.head == IMPORTED:
            reason = "was imported; there is no model here to probe"
        elif run.adaptation != "frozen":
            reason = f"trained its encoder ({run.adaptation}); frozen features are needed"
        elif kind in (None, "code", "card-file"):
            # A run from anywhere names no code and no file of this machine.
            reason = "names an encoder of code or a card of its own; run it yourself with `evalfm probe`"
        elif config.test_data:
            reason = "was tested on other data"
        elif config.shots or config.label_fraction or config.associate:
            reason = "was trained on some of train"
        elif config.encoder.weights == "file" or kind == "precomputed":
            reason = (
                "used a file that no run names; run it yourself with `evalfm probe --weights FILE --task chest_tube "
                '--where "pneumothorax == 0" --baselines all` and `--associate`, and name the folder of those runs too'
            )
        if reason is not None:
            reasons.append(f"{run.encoder} · {run.head} {reason}")
            continue
        same = (config.data, config.where, config.folds, config.test_where, config.limit)
        # Two data sets of one name differ in their images.
        grouped.setdefault((run.task, *map(str, (run.record.data.test_digest, *same))), []).append(run)
    if not grouped:
        why = "; ".join(dict.fromkeys(reasons)) or "there is no run"
        raise EvalfmError(f"--decode and --curve find no run to repeat: {why}.")
    return grouped


def _called(run: Run) -> str:
    """The encoder by the name that a probe takes."""
    return run.record.config.encoder.name or run.encoder


def _kind_of(run: Run) -> str | None:
    """What the encoder's name stands for; None where it cannot be read as one."""
    try:
        return EncoderRef.parse(_called(run)).kind
    except EvalfmError:
        return None


def _content(group: Sequence[Run], data: str, name: str, title: str) -> dict[str, object]:
    config = group[0].record.config
    encoders = {
        run.encoder: {
            "name": _called(run),
            "input_size": run.record.config.encoder.input_size,
            "resize": run.record.config.encoder.resize,
            "weights": run.record.config.encoder.weights or "hub",
        }
        for run in group
    }
    shared = {"folds": config.folds, "test_where": config.test_where, "limit": config.limit}
    return {"schema": 2, "name": name, "title": title, "data": data, "encoders": list(encoders.values()), **shared}


def _data_of(run: Run, manifests: Manifests) -> tuple[str, Manifest]:
    """The data set that ``run`` was made on, and by which name it is known here.

    Raises:
        EvalfmError: none of that name holds the images that were tested.
    """
    name = run.record.config.data or run.record.data.name
    known = [each for each, folder in registered().items() if each == name or _calls_itself(folder, name)]
    drawn = name if name in BUILT_IN else "phantom" if name.startswith("phantom") else None
    candidates = [*known, *([drawn] if drawn and drawn not in known else [])]
    tested = run.predictions().query("split == 'test'")["id"].tolist()
    for each in candidates:
        manifest = manifests.get(each)
        place = {str(one): row for row, one in enumerate(manifest.table["id"])}
        rows = [place[one] for one in dict.fromkeys(map(str, tested)) if one in place]
        if len(rows) == len(set(tested)) and rows_digest(manifest, np.array(rows)) == run.record.data.test_digest:
            return each, manifest
    raise EvalfmError(
        f"No data set here holds the images that {run.encoder} · {run.head} was tested on (it is named {name!r}); "
        "register it with `evalfm data register DIR --name NAME`, or make the run anew."
    )


def _calls_itself(folder: Path, name: str) -> bool:
    try:
        return read_dataset_info(folder / DATASET_FILE).name == name
    except EvalfmError:
        # Gone or damaged: not the one that is looked for.
        return False


def _check_column(manifest: Manifest, attribute: str) -> None:
    if attribute not in manifest.table.columns:
        raise EvalfmError(
            f"Data set {manifest.info.name} has no column {attribute!r}; --decode and --curve take columns with two "
            "levels, without bins or crossings."
        )


def _known_in_train(manifest: Manifest, attribute: str) -> bool:
    table = manifest.table
    return "split" not in table or bool(table.loc[table["split"] == "train", attribute].notna().any())
