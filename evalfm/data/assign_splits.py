"""Give a manifest its split, and say in dataset.yaml how; what belongs together stays together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data import splits
from evalfm.data.dataset_info import SplitRule
from evalfm.data.digests import digests_of_twins
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress


def split_units(
    manifest: Manifest, rows: NDArray[np.intp] | None = None, *, progress: Progress = SILENT
) -> NDArray[np.object_]:
    """What goes into one split as a whole, a name for each of ``rows`` (all by default), [N] str.

    It is the patient, and with them whoever has an image of the same bytes, and so on; such a unit has the name of
    the first of its patients, and any other the patient's own.

    >>> from evalfm.data.phantom import make_phantom
    >>> split_units(make_phantom("units", n=4, size=64)).tolist()
    ['phantom-0-000000', 'phantom-0-000001', 'phantom-0-000002', 'phantom-0-000003']
    """
    positions = np.arange(len(manifest)) if rows is None else rows
    keys = manifest.split_keys[positions]
    images = manifest.table["image"].iloc[positions]
    digests = images.map(digests_of_twins([name for name in images if name], manifest.root, progress=progress))
    if not digests.duplicated(keep=False)[digests.notna()].any():
        return keys
    codes, names = pd.factorize(keys.astype(object), sort=True)
    patient, alike = pd.Series(codes), digests.reset_index(drop=True)
    unit = patient
    while True:
        joined = unit.groupby(alike).transform("min").fillna(unit).groupby(patient).transform("min").astype(np.intp)
        if joined.equals(unit):
            return np.asarray(names, dtype=object)[unit]
        unit = joined


def with_val_from_train(manifest: Manifest, *, seed: int = 0, progress: Progress = SILENT) -> Manifest:
    """The manifest with an eighth of its training patients moved to val, by hash; nothing else moves.

    Raises:
        EvalfmError: there is no split, or it has val already.
    """
    split = manifest.splits
    if np.any(split == "val"):
        raise EvalfmError(
            f"The split of {manifest.info.name!r} has val already; leave --val-from-train out, or split all anew."
        )
    drawn = splits.val_from_train(split, split_units(manifest, progress=progress), seed=seed)
    rule = manifest.info.split or SplitRule(rule="other")
    note = "; ".join([*([rule.note] if rule.note else []), "val is drawn by patient from train"])
    rule = rule.model_copy(update={"seed": seed, "note": note})
    return manifest.with_split(drawn, manifest.info.model_copy(update={"split": rule}))


def assign_splits(
    manifest: Manifest,
    *,
    seed: int = 0,
    fractions: splits.Fractions = splits.DEFAULT_FRACTIONS,
    stratify: str | None = None,
    official: Sequence[Path] = (),
    where: str | None = None,
    units: NDArray[np.object_] | None = None,
    progress: Progress = SILENT,
) -> Manifest:
    """The manifest with a new split by patient: by hash of patient and seed, or as one of the options says.

    Images of the same bytes come into one split, whoever they are of, but for official lists, which stand.

    Args:
        manifest: with or without a split, which is replaced.
        seed: of the hash.
        fractions: of train, val and test, where those are used.
        stratify: a label whose share is kept equal in all splits.
        official: lists of ids named ``train…``, ``val…``, ``test…``; without a list of val it is drawn from
            train.
        where: an expression; its patients are test, all others train and val.
        units: what goes together [N], where that is known; else ``split_units``.
        progress: where the reading of images is shown.

    Raises:
        EvalfmError: more than one option is given, or the option does not fit the data.

    >>> from evalfm.data.phantom import make_phantom
    >>> manifest = assign_splits(make_phantom("split", n=12, size=64), where="age >= 60")
    >>> manifest.info.split.rule, bool((manifest.splits[manifest.where("age >= 60")] == "test").all())
    ('test-where', True)
    """
    chosen = [word for word, value in (("stratify", stratify), ("official", official), ("where", where)) if value]
    if len(chosen) > 1:
        raise EvalfmError(f"A split follows one rule, not {' and '.join(chosen)}; choose one of them.")
    if official:
        split = splits.import_ids(manifest.table["id"].to_numpy(dtype=object), official)
        listed = manifest.with_split(split, manifest.info.model_copy(update={"split": SplitRule(rule="official")}))
        return listed if np.any(split == "val") else with_val_from_train(listed, seed=seed, progress=progress)
    patients = split_units(manifest, progress=progress) if units is None else units
    if where:
        split = splits.test_where(patients, manifest.where(where), seed=seed)
        rule = SplitRule(rule="test-where", seed=seed, where=where)
    elif stratify:
        labels = manifest.label(stratify)
        split = splits.stratified(patients, labels, seed=seed, fractions=fractions)
        rule = SplitRule(rule="stratified", seed=seed, fractions=fractions, stratify=stratify)
    else:
        split = splits.assign(patients, seed=seed, fractions=fractions)
        rule = SplitRule(rule="hash", seed=seed, fractions=fractions)
    return manifest.with_split(split, manifest.info.model_copy(update={"split": rule}))
