"""The studies that a subgroup report asks for: decodability of an attribute, and the shortcut curve."""

from __future__ import annotations

from collections.abc import Sequence

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.probing.associating import CURVE, KINDS
from evalfm.runs import Run
from evalfm.study.config import Study
from evalfm.study.questions import Manifests

FOLDS = 5
"""Where the training images lack the attribute: folds inside the labelled ones."""


def decode_studies(runs: Sequence[Run], attribute: str, manifests: Manifests) -> list[Study]:
    """Per data set and finding of ``runs``: a linear probe for ``attribute`` among images without the finding.

    The encoders are those of ``runs``, frozen, with random weights of each beside it.

    Raises:
        EvalfmError: no run can be asked again.
    """
    studies: dict[str, Study] = {}
    for group in _grouped(runs).values():
        first = group[0]
        config = first.record.config
        finding = str(first.record.task["target"][0])
        manifest = manifests.get(str(config["data"]))
        _check_column(manifest, attribute)
        content = _content(group, f"decode-{attribute}", f"Can the features tell {attribute} without {finding}?")
        inside = f"{finding} == 0"
        content["where"] = f"({config['where']}) and {inside}" if config["where"] else inside
        content["tasks"] = [{"name": attribute, "heads": ["linear"]}]
        content["floors"] = "all"
        if not _known_in_train(manifest, attribute):
            content |= {"folds": FOLDS, "test_where": None}
        study = Study.model_validate(content)
        studies[study.model_dump_json()] = study
    return list(studies.values())


def curve_studies(runs: Sequence[Run], attribute: str, manifests: Manifests) -> list[Study]:
    """Per data set and task of ``runs``: the same encoders and heads, ``attribute`` tied to the label in train.

    Raises:
        EvalfmError: no run can be asked again.
    """
    studies = []
    for group in _grouped(runs).values():
        first = group[0]
        manifest = manifests.get(str(first.record.config["data"]))
        _check_column(manifest, attribute)
        content = _content(group, f"curve-{attribute}", f"{first.task} with {attribute} tied to the label in train")
        content["where"] = first.record.config["where"]
        content["tasks"] = [{"name": first.task, "heads": sorted({run.head for run in group})}]
        content["associate"] = [f"{attribute}={strength:g}" for strength in CURVE]
        content["floors"] = "none"
        if not _known_in_train(manifest, attribute):
            content |= {"folds": FOLDS, "test_where": None}
        studies.append(Study.model_validate(content))
    return studies


def _grouped(runs: Sequence[Run]) -> dict[tuple[str, ...], list[Run]]:
    """Runs that can be asked again, by what they were asked of."""
    grouped: dict[tuple[str, ...], list[Run]] = {}
    reasons = []
    for run in runs:
        config = run.record.config
        reason = None
        if run.is_floor or run.record.task["kind"] not in KINDS:
            reason = "is a floor, or has no yes-or-no label"
        elif run.adaptation != "frozen":
            reason = f"trained its encoder ({run.adaptation}); frozen features are asked"
        elif config.get("test_data"):
            reason = "was tested on other data"
        elif config.get("shots") or config.get("label_fraction") or config.get("associate"):
            reason = "was trained on a part of train"
        elif config["encoder"].get("weights") == "file" or run.encoder.startswith("precomputed"):
            reason = (
                "used a file that no run names; ask it yourself with `evalfm probe --weights FILE --task chest_tube "
                '--where "pneumothorax == 0" --floors all` and `--associate`, and name the folder of those runs too'
            )
        if reason is not None:
            reasons.append(f"{run.encoder} · {run.head} {reason}")
            continue
        asked = tuple(str(config.get(name)) for name in ("data", "where", "folds", "test_where", "limit"))
        grouped.setdefault((run.task, *asked), []).append(run)
    if not grouped:
        told = "; ".join(dict.fromkeys(reasons)) or "there is no run"
        raise EvalfmError(f"--decode and --curve find no run to ask again: {told}.")
    return grouped


def _content(group: Sequence[Run], name: str, title: str) -> dict[str, object]:
    config = group[0].record.config
    encoders = {
        run.encoder: {"name": run.record.config["encoder"]["name"]}
        | {key: run.record.config["encoder"].get(key) for key in ("input_size", "resize")}
        | {"weights": run.record.config["encoder"].get("weights") or "hub"}
        for run in group
    }
    shared = {key: config.get(key) for key in ("data", "folds", "test_where", "limit")}
    return {"schema": 1, "name": name, "title": title, "encoders": list(encoders.values()), **shared}


def _check_column(manifest: Manifest, attribute: str) -> None:
    if attribute not in manifest.table.columns:
        raise EvalfmError(
            f"Data set {manifest.info.name} has no column {attribute!r}; --decode and --curve take columns with two "
            "levels, neither cut nor crossed."
        )


def _known_in_train(manifest: Manifest, attribute: str) -> bool:
    table = manifest.table
    return "split" not in table or bool(table.loc[table["split"] == "train", attribute].notna().any())
